"""nanoGPT checkpoints to TransformerLens models, with proof."""
