"""Where a page may be written."""

from __future__ import annotations

from pathlib import Path

from nanogpt_lens.core.errors import AnalysisError


def check_output(path: str | Path, *, example: str = "report.html") -> Path:
    """The file that a page can be written to.

    Raises:
        AnalysisError: a folder, a name that does not end in .html or .htm, or below something that is no folder.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        raise AnalysisError(f"{file} is a folder; expected the name of a file, such as {file / example}")
    if file.suffix.lower() not in (".html", ".htm"):
        raise AnalysisError(f"{file} does not end in .html or .htm; expected a name such as {example}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnalysisError(f"{file} cannot be written ({error.strerror}); choose another path") from None
    return file
