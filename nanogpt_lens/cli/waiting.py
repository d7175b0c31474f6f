"""What a command is doing while it has nothing to print yet: one line on standard error.

On a terminal the line has a spinner and goes away; in a log each is printed once, so that it says how far a long
command is, and none where a program reads (--json, --csv). Only a process of its own says it (`WAITING.speak`), so that
tests and notebooks that call the commands hear nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.live import Live


class Waiting:
    """The line: `doing` shows it or changes it, `done` takes it away; every printed line comes after `done`."""

    def __init__(self) -> None:
        self.speaks = False
        self._said: set[str] = set()
        self._interrupted = False
        self._live: Live | None = None

    def speak(self) -> None:
        """Let the line be seen; of several processes (torchrun) the first alone has one."""
        self.speaks = os.environ.get("RANK", "0") == "0"

    def doing(self, what: str, *, for_programs: bool = False) -> None:
        """Say what is being done, such as "reading out/ckpt.pt".

        Args:
            what: in a few words.
            for_programs: whether a program reads the output, so that a log gets no line.
        """
        if not self.speaks:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
            self._spin(f"{what} ...")
        elif not for_programs and what not in self._said:
            self._said.add(what)
            sys.stderr.write(f"{what} ...\n")
            sys.stderr.flush()

    def follow(self, name: str) -> None:
        """In a log, say what a module says of its progress (`logging`); on a terminal a bar does."""
        if not self.speaks or sys.stderr.isatty():
            return
        waiting = self

        class Line(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                waiting.doing(record.getMessage())

        log = logging.getLogger(name)
        log.addHandler(Line(logging.INFO))
        log.setLevel(logging.INFO)

    def _spin(self, line: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        spinner = Spinner("dots", Text(line, overflow="ellipsis", no_wrap=True))
        if self._live is not None:
            self._live.update(spinner)
            return
        self._live = Live(
            spinner, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start(refresh=True)

    def done(self) -> None:
        """Take the line away, so that something else can be printed."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def interrupted(self) -> None:
        """Say once that Ctrl-C ended the command, which then has the exit code 130."""
        self.done()
        if not self._interrupted:
            self._interrupted = True
            sys.stderr.write("interrupted\n")
        forget_interrupt()


def forget_interrupt() -> None:
    """Let Python forget that Ctrl-C was pressed, so that the exit code stays 130.

    CPython remembers an interrupt that left a script or a string of code, and then ends by the signal, not with the
    exit code that was asked for; running another string of code makes it forget.
    """
    eval("0")


WAITING = Waiting()
"""The line of this process."""


def short(path: str | Path) -> str:
    """A file's name with its folder's, which fits into a line."""
    return Path(*Path(path).parts[-2:]).as_posix()
