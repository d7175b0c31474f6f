"""Directions of the residual stream: principal components, readings on the vocabulary, and steering."""

from nanogpt_lens.directions.find import direction_similarity, principal_components, project_direction

__all__ = ["direction_similarity", "principal_components", "project_direction"]
