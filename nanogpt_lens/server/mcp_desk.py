"""What all tools share: the models, the text and the folder of the start, and how an answer is made and sent."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from mcp.types import CallToolResult, ImageContent, TextContent

from nanogpt_lens.server.mcp_documents import Document
from nanogpt_lens.server.mcp_work import Work, work_in_thread
from nanogpt_lens.server.served import ServedModels

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context

TEMPORARY = "nanogpt-lens-reports-"
"""What the name of a temporary folder begins with."""

Answered: TypeAlias = tuple[Document, bytes | None]
"""A document, and a picture as PNG."""


@dataclass(eq=False)
class Desk:
    """Where questions are answered, one at a time.

    Attributes:
        models: the only ones that can be asked.
        text: the corpus that was named at the start; None for the models' own text.
        folder: where reports are written; chosen at the start, never by a client. None for a temporary one.
    """

    models: ServedModels
    text: Path | None
    folder: Path | None
    _temporary: Path | None = None
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def corpus(self) -> str | None:
        """The text of the start, as analyses take it."""
        return None if self.text is None else str(self.text)

    @property
    def about_text(self) -> str:
        """Which text was measured on, as a caveat."""
        if self.text is None:
            return "measured on text that the model writes itself, on which it is surer than on text of others"
        return f"measured on {self.text.name}; if the model was trained on it, the numbers are in sample"

    @contextmanager
    def report_folder(self) -> Iterator[Path]:
        """The folder for a report, which is there; a temporary one goes again where nothing came into it."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield self.folder
            return
        if self._temporary is None or not self._temporary.is_dir():
            self._temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY)).resolve()
        try:
            yield self._temporary
        finally:
            if not any(self._temporary.iterdir()):
                self._temporary.rmdir()

    async def answer(self, context: Context, function: Callable[[Work], Answered], *, limit: float) -> CallToolResult:
        """What a function answers, with progress on the way.

        Args:
            context: of the request.
            function: makes the answer, in a thread.
            limit: the seconds that it may take.

        Raises:
            AnalysisError: it takes longer; and whatever the function raises.
        """
        document, png = await work_in_thread(
            self.models, function, report=context.report_progress, limit=limit, lock=self._lock
        )
        return as_result(document, png)


def as_result(document: Document, png: bytes | None) -> CallToolResult:
    """A document as the protocol has it: structured, as text for hosts that read only that, and the image."""
    content: list[Any] = [TextContent(type="text", text=document.model_dump_json())]
    if png is not None:
        content.append(ImageContent(type="image", data=base64.b64encode(png).decode(), mime_type="image/png"))
    return CallToolResult(content=content, structured_content=document.model_dump(mode="json"))
