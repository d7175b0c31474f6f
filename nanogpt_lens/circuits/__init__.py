"""Circuits: the edges of a model's graph, what each does, and which of them are enough."""
