"""From sections to one page: the template, its style, its script, and the figures that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from nanogpt_lens.lab.page import data_blocks, lab_script
from nanogpt_lens.reporting.blocks import LEVELS, LabBlock, NeuronTable, Picture
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.viz.colours import css_colours
from nanogpt_lens.viz.libraries import Library
from nanogpt_lens.viz.page import document, figure_block
from nanogpt_lens.viz.style import FONT, GRID, INK, MONOSPACE, MUTED
from nanogpt_lens.viz.tokens import safe_json
from nanogpt_lens.viz.widget import Widget

_STATIC = (
    '<p class="static">An interactive figure, which needs scripts; the tables of this section have its main '
    "numbers.</p>"
)


def page(*, name: str, title: str, status: str, tone: str, sections: Sequence[Section]) -> str:
    """The page as HTML.

    Args:
        name: of the checkpoint, shown in the heading.
        title: of the document.
        status: the verdict, in a line at the top.
        tone: "good", "bad" or "plain": how the verdict looks.
        sections: in their order.

    Returns:
        one self-contained document; the same arguments give the same bytes.
    """
    pictures = _Pictures()
    body = _template().render(
        name=name,
        status=status,
        tone=tone,
        sections=sections,
        picture=pictures.placed,
        lab=pictures.lab,
        neurons=pictures.neurons,
        levels=LEVELS,
    )
    return document(
        title=title,
        body=body,
        style=_style(),
        scripts=(_read("report.js"), *pictures.scripts),
        libraries=tuple(sorted(pictures.needed)),
        computes=pictures.computes,
    )


class _Pictures:
    """Gives each figure and widget its name on the page, and notes which libraries and scripts they need."""

    def __init__(self) -> None:
        self.n = 0
        self.needed: set[Library] = set()
        self.scripts: tuple[str, ...] = ()
        self.computes = False

    def placed(self, picture: Picture) -> Markup:
        """The HTML of a block's figure or widget, which `viz` has escaped."""
        self.n += 1
        identity = f"f{self.n}"
        if isinstance(picture.picture, Widget):
            if picture.picture.needs is not None:
                self.needed.add(picture.picture.needs)
            return Markup(picture.picture.block(identity))
        self.needed.add("plotly")
        return Markup(figure_block(picture.picture, identity, static=_STATIC))

    def lab(self, block: LabBlock) -> Markup:
        """The HTML of the lab, whose data are made harmless already; it starts when it comes into view."""
        self.scripts = (*self.scripts, lab_script())
        self.computes = True
        return Markup(f'<div id="lab-page" class="lab"></div>{data_blocks(block.payload, block.weights)}')

    def neurons(self, block: NeuronTable) -> Markup:
        """The data of the table of neurons, which its script draws; tokens in them are text."""
        self.scripts = (*self.scripts, _read("neurons.js"))
        return Markup(
            f'<script type="application/json" data-neurons="header">{safe_json(dict(block.header))}</script>'
            f'<script type="application/gzip" data-neurons="data">{block.packed}</script>'
        )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html"))


@cache
def _style() -> str:
    """The style sheet with the house's colours, and the shades of tokens."""
    steps = range(-LEVELS, LEVELS + 1)
    shades = css_colours([float(step) for step in steps], -LEVELS * 1.25, LEVELS * 1.25)
    names = {step: f"p{step}" if step > 0 else f"n{-step}" for step in steps if step}
    rules = [
        f".{names[step]}{{background:{back};color:{ink}}}"
        for step, (back, ink) in zip(steps, shades, strict=True)
        if step
    ]
    variables = f":root{{--ink:{INK};--muted:{MUTED};--grid:{GRID};--font:{FONT};--mono:{MONOSPACE}}}"
    return "\n".join([variables, _read("report.css"), _read("neurons.css"), *rules])


@cache
def _read(name: str) -> str:
    return (files("nanogpt_lens.reporting") / name).read_text("utf-8").replace("\r\n", "\n")
