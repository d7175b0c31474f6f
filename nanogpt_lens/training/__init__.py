"""Training nanoGPT models, whose checkpoints are the original's."""
