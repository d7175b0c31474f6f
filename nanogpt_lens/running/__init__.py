"""A model at work: in batches, on a whole corpus, and what its logits are measured by."""
