"""What a section is made of: plain data, which the template writes. Nothing here is HTML.

Every text is escaped by the template; tokens have gone through `viz.tokens.visible` before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from nanogpt_lens.viz.tokens import visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nanogpt_lens.reporting.face import Face
    from nanogpt_lens.results import Result
    from nanogpt_lens.viz.widget import Widget

LEVELS = 8
"""Shades of a coloured token, each way."""


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Sentences; `tone` is how they look: plain, a small note, a verdict."""

    kind: ClassVar[str] = "paragraph"
    text: str
    tone: Literal["plain", "note", "good", "bad"] = "plain"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Sentences as a list."""

    kind: ClassVar[str] = "listing"
    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        header, rows: cells.
        caption: what it shows.
        left: columns that hold words and stand left; all others stand right.
        marked: rows that are red.
        strong: (row, column) of cells that stand out.
        folded: the table is behind a line that opens it, because it is long.
    """

    kind: ClassVar[str] = "table"
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    left: tuple[int, ...] = (0,)
    marked: frozenset[int] = frozenset()
    strong: frozenset[tuple[int, int]] = frozenset()
    folded: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A Plotly figure with its caption taken off, or a widget.

    Attributes:
        picture: the figure or widget.
        caption: how it was measured; it is folded away below the picture.
        label: what a screen reader says that it is.
        says: the sentence that says what to see, over the picture; "" for none.
        instead: what stands in place of a picture that a phone is too narrow for; "" where it is not.
    """

    kind: ClassVar[str] = "picture"
    picture: Figure | Widget
    caption: str
    label: str
    says: str = ""
    instead: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabBlock:
    """The lab, with the model inside.

    Attributes:
        payload, weights: see `nanogpt_lens.lab.page.Lab`.
        caption: what it is.
    """

    kind: ClassVar[str] = "lab"
    payload: Mapping[str, Any]
    weights: bytes
    caption: str


@dataclass(frozen=True, kw_only=True)
class Span:
    """Some consecutive tokens of one shade.

    Attributes:
        text: visible already.
        level: from -LEVELS to LEVELS; 0 is white.
        title: what hovering says.
        peak: the token that an excerpt is about.
    """

    text: str
    level: int = 0
    title: str = ""
    peak: bool = False

    @property
    def shade(self) -> str:
        """The class of its colour."""
        return "" if not self.level else f"p{self.level}" if self.level > 0 else f"n{-self.level}"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text whose tokens are coloured by a value: by what they cost, white to amber, or by a change with a sign."""

    kind: ClassVar[str] = "tokens"
    spans: tuple[Span, ...]
    caption: str
    low: str = ""
    high: str = ""
    colours: Literal["cost", "change"] = "change"


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """Text as it is, line breaks and all."""

    kind: ClassVar[str] = "sample"
    text: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class ExcerptLine:
    """An excerpt of a text and the activation at its peak."""

    value: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class NeuronCard:
    """Everything about one neuron, folded.

    Attributes:
        name: layer.neuron.
        why: why it is listed.
        peak: its highest activation.
        glimpse: some tokens around the peak.
        facts: statistics.
        bars: heights of the histogram from 0 to 1.
        ends: least and largest activation of the sample.
        zero: where zero is between them, from 0 to 1; None outside.
        promoted, suppressed: tokens and logits.
        highest, lowest: excerpts.
    """

    name: str
    why: str
    peak: str
    glimpse: tuple[Span, ...]
    facts: tuple[tuple[str, str], ...]
    bars: tuple[float, ...]
    ends: tuple[str, str]
    zero: float | None
    promoted: tuple[tuple[str, str], ...]
    suppressed: tuple[tuple[str, str], ...]
    highest: tuple[ExcerptLine, ...]
    lowest: tuple[ExcerptLine, ...]


@dataclass(frozen=True, kw_only=True)
class NeuronCards:
    """Some neurons; where scripts run, a table of all neurons before them takes their place on the screen."""

    kind: ClassVar[str] = "neurons"
    cards: tuple[NeuronCard, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronTable:
    """All neurons in a table that sorts and searches, drawn by a script; see `reporting.neuron_table`.

    Attributes:
        header: for JSON: what the arrays are called, their types and shapes, the tokens, the classes.
        packed: the arrays, as gzip in base64.
        n: the neurons that are in it.
        total: those that were searched.
        excerpts: how many of the highest each shows at most.
    """

    kind: ClassVar[str] = "neuron_table"
    header: Mapping[str, Any]
    packed: str
    n: int
    total: int
    excerpts: int


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Blocks behind a line that opens them, closed at first; open on paper.

    Attributes:
        summary: the line.
        body: the blocks.
    """

    kind: ClassVar[str] = "folded"
    summary: str
    body: tuple[Block, ...]


_InSections: TypeAlias = (
    Paragraph
    | Heading
    | Listing
    | Facts
    | Table
    | Picture
    | LabBlock
    | Tokens
    | TextSample
    | NeuronCards
    | NeuronTable
    | Folded
)
Block: TypeAlias = "_InSections | Face"


def picture_of(result: Result, label: str, *, says: str = "", before: str = "", **options: object) -> Picture:
    """A result's figure under the sentence `says`, its title; `before` is put in front of its caption."""
    from nanogpt_lens.viz.figures import uncaptioned
    from nanogpt_lens.viz.figures.untitled import untitled

    figure, caption = uncaptioned(result.plot(**options))
    figure = untitled(figure) if says else figure
    return Picture(picture=figure, caption=f"{before} {caption}".strip(), label=label, says=says)


def picture_of_widget(widget: Widget, label: str, *, says: str = "", before: str = "") -> Picture:
    """A widget under the sentence `says`; `before` is put in front of its caption."""
    return Picture(picture=widget, caption=f"{before} {widget.caption}".strip(), label=label, says=says)


def spans_of(
    tokens: Sequence[str],
    values: Sequence[float],
    *,
    largest: float,
    titles: Sequence[str] | None = None,
    peak: int | None = None,
    separator: str = "",
    breaks: bool = True,
) -> tuple[Span, ...]:
    """Tokens in shades of their values, `largest` in magnitude being the darkest; nan is white.

    Neighbours of one shade without a title of their own become one span.
    """
    spans: list[Span] = []
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        share = 0.0 if math.isnan(value) or largest <= 0 else max(-1.0, min(1.0, value / largest))
        text = visible(token, spaces=bool(titles) and token == " ", breaks=breaks) + separator
        span = Span(text=text, level=round(share * LEVELS), title=titles[i] if titles else "", peak=i == peak)
        if spans and not titles and not span.peak and not spans[-1].peak and spans[-1].level == span.level:
            span = Span(text=spans.pop().text + text, level=span.level)
        spans.append(span)
    return tuple(spans)
