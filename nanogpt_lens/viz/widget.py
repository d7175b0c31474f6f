"""A widget: a component of CircuitsVis or one of ours, its data, and the static picture that stands in for it."""

from __future__ import annotations

import hashlib
import html
import itertools
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conversion.atomic import write_text
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.viz.libraries import Library, library_block, runtime
from nanogpt_lens.viz.page import STYLE, block, document
from nanogpt_lens.viz.style import DARK, FONT, MUTED
from nanogpt_lens.viz.tokens import safe_json

_NUMBERS = itertools.count(1)
_OURS = ("attention", "circuit")
_DARK = (
    f"@media (prefers-color-scheme:dark){{body{{background:{DARK['page']};color:{DARK['ink']}}}"
    f"figcaption{{color:{DARK['muted']} !important}}}}"
)
"""A page for what has dark colours, too."""
_prepared: list[bool] = []


@dataclass(frozen=True, kw_only=True, repr=False)
class Widget:
    """An interactive picture for a notebook or a page.

    In a notebook it shows itself as the last value of a cell. It carries its own script (0.5 MB) unless
    `ngl.setup_notebook()` put that into the notebook before. Where scripts do not run, its static picture is shown.

    Attributes:
        component: CircuitsVis' name of it; "attention" for our canvas, "circuit" for our drawing.
        props: the component's data, tokens made harmless already.
        static: HTML of the static picture.
        caption: what it shows, as text.
        height: about how many pixels it takes.
    """

    component: str
    props: Mapping[str, Any]
    static: str
    caption: str
    height: int = 0

    @property
    def needs(self) -> Library | None:
        """The library that it needs; none for what our own script draws."""
        return None if self.component in _OURS else "circuitsvis"

    def block(self, identity: str, *, lazy: bool = True) -> str:
        """HTML for a page that has the runtime and the library, see `page.document`."""
        return block(
            identity,
            self.needs or self.component,
            self.props,
            static=self.static,
            needs=self.needs,
            component="" if self.needs is None else self.component,
            height=self.height,
            lazy=lazy,
        )

    def with_caption(self, identity: str, *, lazy: bool = True) -> str:
        """The block and its caption, as a figure."""
        words = f'<figcaption style="font:13px/1.45 {FONT};color:{MUTED};margin:6px 0">{html.escape(self.caption)}'
        return f'<figure style="margin:0">{self.block(identity, lazy=lazy)}{words}</figcaption></figure>'

    def save(self, path: str | Path) -> Path:
        """Write one self-contained HTML file that opens offline; a killed run leaves the old file or the new one.

        Raises:
            AnalysisError: the file cannot be written, or its name ends in something else than .html.
        """
        file = Path(path).expanduser()
        if file.suffix not in ("", ".html", ".htm"):
            raise AnalysisError(f"{file} ends in {file.suffix!r}; a widget is a page: expected .html")
        page = document(
            title=f"{self.component} - nanogpt-lens",
            body=f'<main style="max-width:900px;margin:16px auto;padding:0 16px">{self.with_caption("w1")}</main>',
            style=_DARK if self.component == "circuit" else "",
            libraries=(self.needs,) if self.needs else (),
        )
        try:
            write_text(file, page)
        except OSError as error:
            raise AnalysisError(f"{file} cannot be written ({error.strerror}); choose another path") from None
        return file

    def to_png(self, path: str | Path, *, width: int = 900, height: int | None = None, scale: float = 2.0) -> Path:
        """Write a picture of the widget as it is at first, with its caption; needs Chromium or Google Chrome.

        Args:
            path: of the file; it ends in .png.
            width, height: of the window in pixels; None for about what the widget needs.
            scale: pixels of the file for each pixel of the window.

        Raises:
            AnalysisError: another path, there is no browser, or it fails.
        """
        from nanogpt_lens.viz.export import page_to_png

        with tempfile.TemporaryDirectory() as folder:
            page = self.save(Path(folder) / "widget.html")
            return page_to_png(page, path, width=width, height=height or self.height + 150, scale=scale)

    def _repr_html_(self) -> str:
        digest = hashlib.sha256(safe_json(self.props).encode()).hexdigest()[:10]
        identity = f"ngl-{digest}-{next(_NUMBERS)}"
        carried = library_block(self.needs) if self.needs and not (_prepared and not _isolated()) else ""
        block = self.with_caption(identity, lazy=False)
        return f"<div><style>{STYLE}</style>{block}{carried}<script>{runtime()}</script></div>"

    def __repr__(self) -> str:
        return f"Widget {self.component}: {self.caption}"


class NotebookScript:
    """What `setup_notebook` shows: CircuitsVis' script, once for the whole notebook."""

    def _repr_html_(self) -> str:
        words = "nanogpt-lens: CircuitsVis is in this notebook now; widgets need no script of their own."
        note = f'<p style="font:13px {FONT};color:{MUTED};margin:0">{words}</p>'
        return f"<div>{note}{library_block('circuitsvis')}<script>{runtime()}</script></div>"

    def __repr__(self) -> str:
        return "nanogpt-lens widgets, set up for this notebook"


def setup_notebook() -> NotebookScript:
    """Put CircuitsVis' script into a notebook once, so that each widget after it is small.

    Call it in a cell of its own, as the last line, and keep that cell's output. Widgets made without it work too:
    each then carries its own copy (0.5 MB). In Colab, where every output is a page of its own, they always do.
    """
    if not _prepared:
        _prepared.append(True)
    return NotebookScript()


def _isolated() -> bool:
    """Whether each output is a page of its own."""
    return "google.colab" in sys.modules
