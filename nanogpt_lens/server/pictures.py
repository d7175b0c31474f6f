"""Results as pictures: an SVG or PNG file, or a page that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.server.refusals import Refusal

Format: TypeAlias = Literal["json", "html", "svg", "png"]
"""What an analysis can be answered as."""

MEDIA: dict[str, str] = {
    "json": "application/json",
    "html": "text/html",
    "svg": "image/svg+xml",
    "png": "image/png",
}
"""The media type of each format."""


def asked_format(named: Format | None, accept: str) -> Format:
    """The format that a request asks for: the one that it names, else the first that it accepts, else JSON."""
    if named is not None:
        return named
    for part in accept.lower().split(","):
        for kind, media in MEDIA.items():
            if part.partition(";")[0].strip() == media:
                return kind  # type: ignore[return-value]
    return "json"


def write_picture(result: Result, kind: str, path: Path) -> None:
    """Draw a result into a file.

    Raises:
        Refusal: there is no picture of such a result, or nothing here that draws one as SVG or PNG.
    """
    from nanogpt_lens.viz.export import to_png, to_svg

    try:
        if kind == "html":
            page = result.plot().to_html(include_plotlyjs=True, full_html=True, auto_play=False)
            path.write_text(page, encoding="utf-8")
        else:
            (to_svg if kind == "svg" else to_png)(result, path)
    except (AnalysisError, ResultError) as error:
        more = "" if kind == "html" else "; format=html needs neither"
        raise Refusal("no_picture", f"{str(error).rstrip('.')}{more}") from None
