"""Running a model: in batches, over a whole corpus, and the metrics of its logits."""
