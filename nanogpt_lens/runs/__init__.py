"""One training run: its checkpoints, any measure over them, and when it changes."""
