"""What a model reads: data sets, a corpus, prompts, pairs of prompts, tasks."""
