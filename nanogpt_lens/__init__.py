"""Open up nanoGPT checkpoints with TransformerLens."""
