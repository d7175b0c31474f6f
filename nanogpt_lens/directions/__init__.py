"""Directions of the residual stream: principal components, readings on the vocabulary, and steering."""
