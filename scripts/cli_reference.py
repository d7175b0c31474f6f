"""Write docs/reference/command-line.md: every command and option, as typer tells them.

    python -m scripts.cli_reference [--check]

With `--check` nothing is written; the exit code is 1 where the page is not that of the commands.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from conversion.atomic import replacing
from nanogpt_lens.cli.app import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "command-line.md"
TOP = """# The command line

Exit code 0: proven, or done. 1: not equal, or a circuit that does not hold. 2: bad input, in one sentence. `--json`
prints for programs.

<!-- made by `python -m scripts.cli_reference` -->
"""


def sentences(group: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """Every command below a group, in order, with the first sentence of its help; typer's list cuts it."""
    for name, command in group.commands.items():
        said = re.split(r"(?<=[^l])[.;] |\.$|\n\n", " ".join((command.help or "").split("\n\n")[0].split()))[0]
        yield f"{before}{name}", said
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from sentences(command, f"{before}{name} ")


def page() -> str:
    """The page: typer's own Markdown below our heading; `<path>` and its like are no tags."""
    command = typer.main.get_command(app)
    told = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="nanogpt-lens"), name="nanogpt-lens")
    _, _, behind = told.partition("\n")
    commands = re.sub(r"^(#+) `nanogpt-lens (.*)`$", r"\1 `\2`", behind, flags=re.MULTILINE)
    for name, said in sentences(command):
        words = name.split()
        anchor = f"[`{words[-1]}`](#{'-'.join(words)})"
        commands = re.sub(rf"^\* `{words[-1]}`: .*$", f"* {anchor}: {said}", commands, count=1, flags=re.MULTILINE)
    return TOP + re.sub(r"\n{3,}", "\n\n", commands).rstrip() + "\n"


def main() -> int:
    """Write the page, or compare it."""
    told = page()
    if "--check" in sys.argv[1:]:
        return int(told != PAGE.read_text())
    with replacing(PAGE) as temporary:
        temporary.write_text(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
