"""A section: what it asks of the model, what it says of it, and what it says where it could not be made."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from conversion.errors import NanoGPTLensError, printable
from nanogpt_lens.reporting.blocks import Block, Paragraph
from nanogpt_lens.reporting.words import without_folders

if TYPE_CHECKING:
    from nanogpt_lens.reporting.subject import Subject

log = logging.getLogger(__name__)

Status = Literal["done", "failed", "does not apply"]


class DoesNotApply(Exception):
    """The model has nothing that this section could show; the message is a sentence."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """What is in a section.

    Attributes:
        body: its blocks.
        commands: lines that make it again.
        findings: sentences for the summary, the most important first.
        proven: of the certificate (or of all that are compared): whether equality is proven.
        verdict: in a line.
        warnings: sentences for the terminal.
        glance: a few words for the card that leads here; "" for the first finding.
        results: what was measured, by the name of the analysis, which the first screen chooses from.
        again: blocks for the page's last part, which tells how to make it again.
    """

    body: tuple[Block, ...]
    commands: tuple[str, ...]
    findings: tuple[str, ...] = ()
    proven: bool | None = None
    verdict: str = ""
    warnings: tuple[str, ...] = ()
    glance: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    again: tuple[Block, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a section is made.

    Attributes:
        key: what it is called in options and anchors.
        title: its heading.
        reading: two sentences on how to read it.
        make: the work.
    """

    key: str
    title: str
    reading: str
    make: Callable[[Subject], Content]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of a report.

    Attributes:
        key, title, reading: see `Recipe`.
        status: "done", "failed" or "does not apply".
        error: in a sentence, why it failed or does not apply.
        seconds: how long it took; not in the page.
        body, commands, findings, proven, verdict, warnings, glance, results, again: see `Content`.
    """

    key: str
    title: str
    reading: str
    status: Status
    commands: tuple[str, ...]
    error: str = ""
    seconds: float = 0.0
    body: tuple[Block, ...] = ()
    findings: tuple[str, ...] = ()
    proven: bool | None = None
    verdict: str = ""
    warnings: tuple[str, ...] = ()
    glance: str = ""
    results: Mapping[str, Any] = field(default_factory=dict, repr=False)
    again: tuple[Block, ...] = ()

    @property
    def opening(self) -> str:
        """The sentence that it opens with; "" for none."""
        return self.findings[0] if self.findings and self.status == "done" else ""

    @property
    def shown(self) -> tuple[Block, ...]:
        """The blocks below that sentence, which is not said twice."""
        first = self.body[0] if self.body else None
        repeats = isinstance(first, Paragraph) and bool(self.opening) and self.opening.startswith(first.text)
        return self.body[1:] if repeats else self.body


def section_of(recipe: Recipe, subject: Subject) -> Section:
    """The section that a recipe makes; whatever goes wrong is said in its place."""
    about: dict[str, Any] = {"key": recipe.key, "title": recipe.title, "reading": recipe.reading}
    again = (subject.report_command(recipe.key),)
    began = time.perf_counter()
    try:
        content = recipe.make(subject)
    except DoesNotApply as reason:
        return Section(**about, status="does not apply", error=str(reason), commands=again)
    except Exception as error:
        log.debug("the section %s failed", recipe.key, exc_info=True)
        return Section(
            **about,
            status="failed",
            error=in_a_sentence(error, subject.folders),
            commands=again,
            seconds=time.perf_counter() - began,
        )
    return Section(
        **about,
        status="done",
        seconds=time.perf_counter() - began,
        **{each.name: getattr(content, each.name) for each in fields(content)},
    )


def in_a_sentence(error: Exception, folders: Iterable[Any]) -> str:
    """What went wrong, on one line, without the folders of this machine."""
    if isinstance(error, NanoGPTLensError):
        text = str(error)
    elif isinstance(error, OSError):
        text = f"{error.filename or 'a file'}: {error.strerror or error}"
    else:
        reason = str(error).partition("\n")[0]
        text = f"this should not have happened ({type(error).__name__}: {reason}); please report it"
    return without_folders(printable(text), folders)
