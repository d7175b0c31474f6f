"""The lab as something to look at: a file of its own, a cell of a notebook, a part of another page."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conversion.atomic import write_text
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.output import check_output
from nanogpt_lens.lab.bundle import page_source
from nanogpt_lens.viz.page import document
from nanogpt_lens.viz.tokens import safe_json, visible

_HEIGHT = 900
_STATIC = "<noscript>The lab computes in the page; it needs scripts.</noscript>"


@dataclass(frozen=True, eq=False, repr=False)
class Lab:
    """A model in a page.

    In a notebook it shows itself as the last value of a cell: as an anywidget where that is installed
    (`pip install anywidget`), else in a frame.

    Attributes:
        payload: what the page knows, as JSON values.
        weights: the weights and what the proof expects, packed by gzip.
    """

    payload: Mapping[str, Any]
    weights: bytes

    def html(self) -> str:
        """One self-contained document; the same model and options give the same bytes."""
        return document(
            title=f"{self.payload['name']}, the lab",
            body=f'<div id="lab">{_STATIC}</div>{data_blocks(self.payload, self.weights)}',
            style="body{min-height:100vh}",
            scripts=(served_script() if self.payload.get("served") else standalone_script(),),
            runtime_too=False,
            computes=not self.payload.get("served"),
            connects=bool(self.payload.get("served")),
        )

    def save(self, path: str | Path) -> Path:
        """Write the page; a killed run leaves the old file or the new one.

        Raises:
            AnalysisError: the file cannot be written.
        """
        file = check_output(path, example="lab.html")
        try:
            write_text(file, self.html())
        except OSError as error:
            raise AnalysisError(f"{file} cannot be written ({error.strerror}); choose another path") from None
        return file

    def widget(self) -> Any:
        """The lab as an anywidget, for JupyterLab, VS Code, Colab and marimo.

        Raises:
            AnalysisError: anywidget is not installed.
        """
        if find_spec("anywidget") is None:
            raise AnalysisError("anywidget is not installed; run pip install anywidget")
        from nanogpt_lens.lab.widget import LabWidget

        return LabWidget(payload=dict(self.payload), weights=self.weights)

    @cached_property
    def _shown(self) -> Any:
        return self.widget()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        if find_spec("anywidget") is not None:
            return self._shown._repr_mimebundle_(**options)
        return {"text/html": self._frame(), "text/plain": repr(self)}

    def _frame(self) -> str:
        """The page in a frame of its own, for notebooks without anywidget."""
        source = html.escape(self.html(), quote=True)
        title = html.escape(visible(f"{self.payload['name']}, the lab", spaces=False))
        return (
            f'<iframe title="{title}" sandbox="allow-scripts allow-downloads" srcdoc="{source}" '
            f'style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
        )

    def __repr__(self) -> str:
        cases, size = len(self.payload["proof"]["cases"]), len(self.weights) * 4 / 3
        return (
            f"Lab {self.payload['name']}: {cases} checks against PyTorch, about {size / 1e6:.1f} MB; .save('lab.html')"
        )


def data_blocks(payload: Mapping[str, Any], weights: bytes) -> str:
    """HTML of the data that the page reads: JSON, and the weights in base64."""
    packed = base64.b64encode(weights).decode()  # empty where a server computes
    return (
        f'<script type="application/json" data-lab="payload">{safe_json(dict(payload))}</script>'
        '<script type="application/json" data-lab="state">null</script>'
        f'<script type="application/gzip" data-lab="weights">{packed}</script>'
    )


def standalone_script() -> str:
    """The script of a page of its own."""
    return _embeddable(f"(() => {{\n{page_source()}\nmain_js.mountStandalone(document.getElementById('lab'));\n}})();")


def served_script() -> str:
    """The script of a page whose engine is the server that gave it."""
    start = "served_js.mountServed(document.getElementById('lab'));"
    return _embeddable(f"(() => {{\n{page_source('served')}\n{start}\n}})();")


def lab_script() -> str:
    """The script of another page that holds the lab, which starts when it comes into view."""
    start = (
        "const place = document.getElementById('lab-page');\n"
        "const watch = new IntersectionObserver((entries) => {\n"
        "  if (!entries.some((entry) => entry.isIntersecting)) return;\n"
        "  watch.disconnect();\n"
        "  main_js.mountStandalone(place, { address: false });\n"
        "}, { rootMargin: '300px' });\n"
        "watch.observe(place);"
    )
    return _embeddable(f"(() => {{\n{page_source()}\n{start}\n}})();")


def _embeddable(text: str) -> str:
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
