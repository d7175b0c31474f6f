"""Plotly figures of results: `figure(result)`, by the kind of result, and of plain scores by their axes.

Every figure has a title, axes with units, and a caption that says what the numbers are and on what they were measured:
below the plot, and as plain text in `figure.layout.meta["caption"]`. Nothing here runs a model.
"""

from __future__ import annotations

from nanogpt_lens.viz.figures.dispatch import figure, options_of
from nanogpt_lens.viz.figures.drawing import captioned, retitled, uncaptioned

__all__ = ["captioned", "figure", "options_of", "retitled", "uncaptioned"]
