"""A second process that makes sections of a report while this one makes others.

What a report asks of a small model is bound by Python, so that a second thread of the same work helps little and a
second core lies idle. The helper (`helper`) is a process of its own, `python -m nanogpt_lens.reporting.helper`: it
opens the same checkpoint and text, is sent the keys of sections one by one, and sends the sections back. Both
processes compute with half of the threads each, so that a section has the same numbers wherever it is made.

There is none where one thread or one core is all there is, for models so large that memory would be short, and for
texts that stand only in this process. Where it fails, its sections are made here.

This module imports nothing that takes time, so that the command line can start the helper before all else.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nanogpt_lens.reporting.section import Section
    from nanogpt_lens.reporting.subject import Subject

log = logging.getLogger(__name__)

LARGE = 4e7
"""Parameters from which on two models in memory are too many."""

FEW = 4
"""Sections, below which a helper would only import."""

_LAST = ("attention", "lens", "loss", "neurons", "certificate")
"""What the helper begins with, from the end; the others share what they know of pairs of prompts."""

_MODULE = "nanogpt_lens.reporting.helper"
_ready: list[Helper] = []


class HelperError(Exception):
    """The helper has ended, or did not understand."""


class Helper:
    """The other process, which imports what it needs as soon as it is made; it must be closed.

    Raises:
        HelperError: it cannot be started.
    """

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except (OSError, TypeError, ValueError) as error:  # no interpreter of its own, no process to be had
            raise HelperError(str(error)) from error

    def open(self, about: Mapping[str, Any], n_threads: int) -> None:
        """Tell it what the report is about.

        Raises:
            HelperError: it has ended, or something cannot be sent.
        """
        self._send((dict(about), n_threads))

    def section(self, key: str) -> Section:
        """The section of that key.

        Raises:
            HelperError: it has ended.
        """
        self._send(key)
        assert self._process.stdout is not None
        try:
            return pickle.load(self._process.stdout)
        except Exception as error:
            raise HelperError(f"no section {key}: {error}") from error

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.communicate()

    def _send(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pickle.dumps(what))
            self._process.stdin.flush()
        except Exception as error:
            raise HelperError(str(error)) from error


def prepare(n_sections: int | None) -> None:
    """Start a helper for the report that this process is about to make, before anything that takes time is imported.

    Args:
        n_sections: how many sections are asked for; None for all.
    """
    enough = n_sections is None or n_sections >= FEW
    if enough and not _ready and _n_cores() > 1 and os.environ.get("OMP_NUM_THREADS") != "1":
        with suppress(HelperError):
            _ready.append(Helper())


def made_by_two(
    keys: Sequence[str],
    make: Callable[[str], Section],
    subject: Subject,
    *,
    can_help: Container[str],
    after_each: Callable[[], Any],
) -> dict[str, Section]:
    """Sections by their keys, some of which a helper makes where there is one.

    Args:
        keys: of the sections.
        make: makes one here.
        subject: what they are about.
        can_help: the keys that a helper knows.
        after_each: is called after each section.
    """
    import torch

    n_threads = torch.get_num_threads()
    helper = _helper_for(subject, n_sections=len(keys), n_threads=n_threads // 2)
    todo = deque(keys)
    made: dict[str, Section] = {}

    def work(section: Callable[[str], Section], take: Callable[[], str], known: Container[str] = keys) -> None:
        with suppress(IndexError):  # none is left
            while True:
                key = take()
                if key not in known:
                    return todo.append(key)
                try:
                    made[key] = section(key)
                except HelperError as reason:
                    log.debug("%s", reason)
                    return todo.append(key)
                after_each()

    if helper is None:
        work(make, todo.popleft)
        return made
    todo = deque(sorted(keys, key=lambda key: (key in can_help, _LAST.index(key) if key in _LAST else -1)))
    beside = threading.Thread(target=work, args=(helper.section, todo.pop, can_help), name="sections beside")
    torch.set_num_threads(n_threads // 2)
    beside.start()
    try:
        work(make, todo.popleft)
        beside.join()
        work(make, todo.popleft)  # what the helper gave back
    finally:
        helper.close()
        beside.join()
        torch.set_num_threads(n_threads)
    return made


def _helper_for(subject: Subject, *, n_sections: int, n_threads: int) -> Helper | None:
    """A helper that knows what the report is about; None where there should be none."""
    from conversion.token_files import TokenFile

    helper = _ready.pop() if _ready else None
    corpus = subject.raw_text
    named = corpus is None or isinstance(corpus, str | Path | TokenFile)
    if named and subject.n_params < LARGE and n_sections >= FEW and n_threads > 0 and _n_cores() > 1:
        try:
            helper = helper or Helper()
            helper.open(subject.asked, n_threads)
        except HelperError as reason:
            log.debug("no helper: %s", reason)
        else:
            return helper
    if helper is not None:
        helper.close()
    return None


def _n_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
