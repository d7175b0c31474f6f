"""Training of nanoGPT models, whose checkpoints are like the original's."""
