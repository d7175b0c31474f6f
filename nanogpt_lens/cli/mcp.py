"""`nanogpt-lens mcp`: the analyses as tools of an agent, over standard input and output."""

from __future__ import annotations

from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from nanogpt_lens.cli.options import check_text, with_reading
from nanogpt_lens.model.places import find_checkpoint
from nanogpt_lens.model.reading import Reading


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(mcp))


def mcp(
    paths: Annotated[
        list[str], typer.Argument(help="the models that can be asked: out_dirs, ckpt.pt files or shipped names")
    ],
    text: Annotated[
        Path | None,
        typer.Option(help="a text file or data folder, or shakespeare_char; without it, the models' own text"),
    ] = None,
    output_folder: Annotated[
        Path | None, typer.Option(help="where reports are written; without it, a temporary folder, made when needed")
    ] = None,
    *,
    reading: Reading,
) -> None:
    """Serve the analyses to an agent, by the Model Context Protocol (extra `mcp`).

    Speaks the protocol on standard input and output and nothing else; everything else goes to standard error.
    """
    import sys

    check_text(text)
    for path in paths:
        find_checkpoint(path)
    with redirect_stdout(sys.stderr):  # what a library prints while it is imported is no message of the protocol
        server = _server(paths, text, output_folder, reading)
    server.run("stdio")


def _server(paths: list[str], text: Path | None, output_folder: Path | None, reading: Reading):  # noqa: ANN202
    """The server.

    Raises:
        AnalysisError: the extra is not installed; and whatever `make_server` raises.
    """
    from nanogpt_lens.core.errors import AnalysisError

    try:
        import mcp.server.mcpserver  # noqa: F401
    except ImportError:
        raise AnalysisError(
            "the command mcp needs the package mcp, 2 or later, which is not installed; pip install 'mcp>=2,<3'"
        ) from None
    from nanogpt_lens.server.mcp_app import make_server

    return make_server(paths, text=text, output_folder=output_folder, reading=reading)
