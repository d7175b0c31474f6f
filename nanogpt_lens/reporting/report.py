"""A finished report: the page, and what became of its sections."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conversion.atomic import write_text
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.output import check_output
from nanogpt_lens.reporting.section import Section

SUMMARY = "summary"
"""The key of the section that stands first and reads the others."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Report:
    """A report.

    Attributes:
        html: the whole page.
        path: what it is about, as it was given.
        sections: in their order, each with its status, error, findings and seconds.
        passed: whether equality is proven; None where that was not among the sections.
    """

    html: str
    path: str
    sections: tuple[Section, ...]
    passed: bool | None

    @property
    def failed(self) -> tuple[Section, ...]:
        """The sections that failed."""
        return tuple(section for section in self.sections if section.status == "failed")

    @property
    def all_failed(self) -> bool:
        """Whether nothing was made: all sections but the summary failed."""
        others = [section for section in self.sections if section.key != SUMMARY]
        return bool(others) and all(section.status == "failed" for section in others)

    def save(self, path: str | Path) -> Path:
        """Write the page; the file is replaced in one step.

        Raises:
            AnalysisError: it cannot be written.
        """
        file = check_output(path)
        try:
            write_text(file, self.html)
        except OSError as error:
            raise AnalysisError(f"{file} cannot be written ({error.strerror}); choose another path") from None
        return file

    def __repr__(self) -> str:
        equality = {True: "proven equal", False: "NOT proven equal", None: "equality not checked"}[self.passed]
        lines = [f"Report on {self.path}: {equality}; {len(self.html.encode()) / 1e6:.2f} MB"]
        return "\n".join(lines + [f"  {s.key:<12} {s.status:<14} {s.seconds:6.1f} s  {s.error}" for s in self.sections])
