"""Directions of the residual stream: found, read off, and added."""
