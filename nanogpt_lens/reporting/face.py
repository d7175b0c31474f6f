"""What the first screen is made of: a picture of the whole model, and a few sentences with a small picture each.

Plain data, as in `blocks`; `looks` chooses the sentences, `worth` measures the parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from nanogpt_lens.reporting.blocks import Picture, Span


@dataclass(frozen=True, kw_only=True)
class PartCell:
    """A head or an MLP of the grid.

    Attributes:
        name: what stands in it: 0.3, MLP 2.
        value: the rise of the loss without it.
        share: of the colour's end, from 0 to 1.
        words: name, value and interval in a sentence.
        badges: what the head does, in a word or two each; none where that is not sure.
        sure: whether the interval leaves out zero; else the cell is pale.
        falls: whether the loss surely falls without it; then the cell has an edge.
        known: whether it was measured; else the cell is hatched.
    """

    name: str
    value: str
    share: float
    words: str
    badges: tuple[str, ...] = ()
    sure: bool = True
    falls: bool = False
    known: bool = True


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """A layer: its heads, and its MLP where it has one."""

    layer: int
    heads: tuple[PartCell, ...]
    mlp: PartCell | None


@dataclass(frozen=True, kw_only=True)
class PartGrid:
    """The whole model as a grid, the last layer on top.

    Attributes:
        title: what the numbers are.
        rows: the layers.
        ticks: numbers below the scale of colours: where each stands, from 0 to 1, and itself.
        how: how it was measured.
    """

    kind: ClassVar[str] = "grid"
    title: str
    rows: tuple[GridRow, ...]
    ticks: tuple[tuple[float, str], ...]
    how: str

    @property
    def n_heads(self) -> int:
        """The most heads of a layer."""
        return max(len(row.heads) for row in self.rows)

    @property
    def dense(self) -> bool:
        """Whether the cells are small: there are many."""
        return self.n_heads > 8 or len(self.rows) > 8


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A labelled bar; `share` is its length from 0 to 1, `new` whether it is the changed one."""

    label: str
    value: str
    share: float
    new: bool = False


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A few bars on one scale, with a line at some level.

    Attributes:
        bars: from top to bottom.
        line: where the line is, from 0 to 1; None for none.
        line_words: what it is.
    """

    kind: ClassVar[str] = "bars"
    bars: tuple[Bar, ...]
    line: float | None = None
    line_words: str = ""


@dataclass(frozen=True, kw_only=True)
class ChanceLine:
    """A score from 0 to 1 as a dot with its interval, beside chance and beside what would count.

    Attributes:
        value, low, high: the score, clipped to 0 and 1.
        chance: the chance level.
        threshold: from where on a head has the name; None for none.
        words: what the marks are.
    """

    kind: ClassVar[str] = "line"
    value: float
    low: float
    high: float
    chance: float
    threshold: float | None
    words: str


@dataclass(frozen=True, kw_only=True)
class ExcerptPair:
    """Excerpts of a text, coloured by an activation."""

    kind: ClassVar[str] = "excerpts"
    lines: tuple[tuple[Span, ...], ...]
    words: str = ""


Sketch: TypeAlias = Bars | ChanceLine | ExcerptPair


@dataclass(frozen=True, kw_only=True)
class Look:
    """One thing to look at first.

    Attributes:
        sentence: what was found.
        section: where more of it is.
        sketch: a small picture; None for none.
    """

    sentence: str
    section: str
    sketch: Sketch | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Face:
    """The first screen.

    Attributes:
        picture: of the whole model; None where none of the chosen sections gives one.
        looks: what to look at first.
        title: over these.
    """

    kind: ClassVar[str] = "face"
    picture: PartGrid | Picture | None
    looks: tuple[Look, ...]
    title: str = "What to look at first"
