"""From sections to one page: the template, its style, its script, and the figures that it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from nanogpt_lens.lab.page import data_blocks, lab_script
from nanogpt_lens.reporting.blocks import LEVELS, Block, LabBlock, NeuronTable, Picture
from nanogpt_lens.reporting.report import SUMMARY
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.viz.house import house_style
from nanogpt_lens.viz.libraries import Library
from nanogpt_lens.viz.page import document, figure_block
from nanogpt_lens.viz.style import DARK_OF
from nanogpt_lens.viz.tokens import safe_json
from nanogpt_lens.viz.widget import Widget

_STATIC = (
    '<p class="static">An interactive figure, which needs scripts; the tables of this section have its main '
    "numbers.</p>"
)


def page(
    *,
    name: str,
    title: str,
    status: str,
    tone: str,
    sections: Sequence[Section],
    size: str = "",
    proof: Sequence[Block] = (),
) -> str:
    """The page as HTML.

    Args:
        name: of the checkpoint, shown in the heading.
        title: of the document.
        status: the verdict, in a line at the top.
        tone: "good", "bad" or "plain": how the verdict looks.
        sections: in their order; the one of the key "summary" is the first screen.
        size: of the model, in one phrase.
        proof: what the line with the verdict unfolds.

    Returns:
        one self-contained document; the same arguments give the same bytes.
    """
    pictures = _Pictures()
    body = _template().render(
        name=name,
        size=size,
        status=status,
        tone=tone,
        proof=proof,
        sections=sections,
        leads={section.key: section.title for section in sections if section.key != SUMMARY},
        lab_is_here=any(isinstance(block, LabBlock) for section in sections for block in section.body),
        glance=_glance,
        picture=pictures.placed,
        lab=pictures.lab,
        neurons=pictures.neurons,
        levels=LEVELS,
    )
    return document(
        title=title,
        body=body,
        style=_style(),
        scripts=(_script(), *pictures.scripts),
        libraries=tuple(sorted(pictures.needed)),
        computes=pictures.computes,
    )


def _glance(section: Section) -> str:
    """What the card that leads to a section says: its own few words, its first finding, or that it is not there."""
    if section.status != "done":
        return section.status
    return section.glance or section.opening


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
    return environment.from_string(_read("face.html") + _read("page.html"))


@cache
def _style() -> str:
    """The house's style sheet, the report's own, and the shades of tokens."""
    return "\n".join([house_style(":root", follows=True), _read("report.css"), _read("neurons.css"), *_shades()])


def _shades() -> Iterator[str]:
    """The rules of a token's shade: by what it costs, or by a change with a sign; words on them can be read."""
    for level in range(1, LEVELS + 1):
        share = level / LEVELS
        for selector, colour, most in ((".p", "pos", 62), (".n", "neg", 62), (".cost .p", "heat", 100)):
            mixed = f"color-mix(in oklab,var(--{colour}) calc({most * share:g}%*var(--most)),transparent)"
            yield f"{selector}{level}{{background:{mixed}}}"


@cache
def _script() -> str:
    """The report's own script: the dark colours of figures, the theme, then its controls."""
    return "\n".join([f"window.NGL_DARK = {json.dumps(DARK_OF)};", _read("theme.js"), _read("report.js")])


@cache
def _read(name: str) -> str:
    return (files("nanogpt_lens.reporting") / name).read_text("utf-8").replace("\r\n", "\n")
