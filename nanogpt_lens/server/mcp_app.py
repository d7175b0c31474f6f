"""The MCP server: eight tools at the level of a step of research, over standard input and output.

    nanogpt-lens mcp out-shakespeare-char --text input.txt --output-folder reports

Only the models that are named at the start can be asked, no path of a client is ever opened, everything is bounded,
and an error is one sentence.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import ValidationError

from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.server.mcp_desk import Desk
from nanogpt_lens.server.served import ServedModels
from nanogpt_lens.server.tools import (
    comparing,
    components,
    describing,
    experiment,
    finding_circuits,
    mattering,
    pictures,
    reports,
)

NAME = "nanogpt-lens"
_TOOLS = (describing, experiment, mattering, finding_circuits, components, comparing, reports, pictures)
_LONGEST = 1000  # letters of an error


@asynccontextmanager
async def _quiet(server: MCPServer) -> AsyncIterator[None]:
    """While it serves, what libraries print goes to standard error: the SDK keeps the real output for itself."""
    with redirect_stdout(sys.stderr):
        yield


INSTRUCTIONS = (
    "Analyses of small GPT-2-like language models (nanoGPT checkpoints), exact and with controls. Begin with "
    "`describe`. Every answer is one document: `finding` in words, `result` in numbers, `control` or chance level, "
    "`interval`, `caveats`, and `python`, the lines that give the same numbers again. One call is computed at a time. "
    "The first call loads libraries and takes some ten seconds more."
)


class ToolServer(MCPServer):
    """A server whose errors are one sentence each."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Context | None = None) -> Any:
        """What a tool answers.

        Raises:
            ToolError: whatever went wrong, in one sentence.
        """
        tools = {tool.name: tool.input_schema for tool in await self.list_tools()}
        if name not in tools:
            raise ToolError(f"there is no tool {name[:100]!r}; expected {', '.join(tools)}{did_you_mean(name, tools)}")
        known = list(tools[name].get("properties", {}))
        if unknown := [given for given in arguments if given not in known]:
            near = did_you_mean(unknown[0], known)
            raise ToolError(f"{name} has no argument {unknown[0][:100]!r}; expected some of {', '.join(known)}{near}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            raise ToolError(_sentence(name, error)) from None


def _sentence(name: str, error: ToolError) -> str:
    """An error in one sentence, without a traceback."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
        said = f"{name} was called with {place or 'arguments'} that cannot be: {first['msg']}"
    elif isinstance(cause, NanoGPTLensError):
        said = str(cause)
    elif isinstance(cause, OSError):
        said = f"a file could not be read or written ({cause.strerror or type(cause).__name__})"
    elif cause is not None:
        reason = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
        said = f"this should not have happened ({reason}); please report it"
    else:
        said = str(error)
    return " ".join(said.split())[:_LONGEST]


def make_server(
    paths: Sequence[str | Path],
    *,
    text: str | Path | None = None,
    output_folder: str | Path | None = None,
    reading: Reading | None = None,
) -> ToolServer:
    """The server, with its tools; `.run("stdio")` serves.

    Args:
        paths: the checkpoints that can be asked, and no others.
        text: a text file or data folder that models are measured on; None for text that each model writes itself.
        output_folder: where reports are written; None for a temporary folder, which the first report makes.
        reading: how the checkpoints are read.

    Raises:
        NanoGPTLensError: no checkpoint, or one that is not there.
    """
    models = ServedModels(paths, reading)
    folder = None if output_folder is None else Path(output_folder).expanduser().resolve()
    desk = Desk(models, None if text is None else Path(text).expanduser().resolve(), folder)
    server = ToolServer(
        NAME, version=version("nanogpt-lens"), instructions=INSTRUCTIONS, log_level="WARNING", lifespan=_quiet
    )
    for tool in _TOOLS:
        tool.register(server, desk)
    return server
