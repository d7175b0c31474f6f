"""Sparse autoencoders of a model, through SAELens."""
