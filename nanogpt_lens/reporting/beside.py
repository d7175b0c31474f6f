"""A second process that makes sections of a report while this one makes others.

What a report asks of a small model is bound by Python, so that a second thread of the same work helps little and a
second core lies idle. The other process is a fork of this one: it has the model and the text, is sent the keys of
sections one by one, and sends the sections back. Both compute with one thread, so that a section has the same numbers
wherever it is made.

There is none where threads or cores are too few to share, or so many that a larger model has more of them alone; where
memory would be short; and outside Linux, where a fork is not safe beside libraries that run. A section that the other
process does not send, or that fails there, is made here.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from nanogpt_lens.reporting.section import Section

log = logging.getLogger(__name__)

Make = Callable[[str], Section]
"""The function that makes the section of a key."""

FEW = 4
"""Sections, from which on they are shared."""

SMALL, LARGE = 3e6, 4e7
"""Parameters up to which more threads do not help, and from which on a second process needs too much memory."""

MANY = 4
"""Threads, from which on a model that is not small has them all in one process."""

PATIENCE = 120.0
"""Seconds that the other process may need for a section longer than this one has worked for all of its own."""

_LAST = ("attention", "lens", "loss", "neurons", "certificate")
"""What the other process begins with, from the end; the rest shares what it knows of pairs of prompts."""


class _NoSectionError(Exception):
    """The other process has ended, hangs, or could not make a section."""


class _Other:
    """The other process; it must be closed."""

    def __init__(self, make: Make) -> None:
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(make, self._ours, theirs), daemon=True)
        self._began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks beside threads: see the module
            self._process.start()
        theirs.close()

    def section(self, key: str) -> Section:
        """The section of a key; raises _NoSectionError where it does not come."""
        asked = time.perf_counter()
        try:
            self._ours.send(key)
            if not self._ours.poll(PATIENCE + asked - self._began):
                raise TimeoutError
            section: Section = pickle.loads(self._ours.recv_bytes())  # not `recv`, which moves tensors to shared memory
        except Exception as reason:  # it has ended, or the bytes cannot be read: whatever it is, there is no section
            raise _NoSectionError(f"no section {key}: {reason!r}") from reason
        if section.status == "failed":
            raise _NoSectionError(f"the section {key} failed there: {section.error}")
        return section

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def _answer(make: Make, not_ours: Any, asked: Any) -> None:
    """What the other process does: make sections until nobody asks."""
    not_ours.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the one that asks ends the other
    torch.set_num_threads(1)
    gc.freeze()
    with suppress(Exception):  # nobody asks any more, or a section cannot be sent, and the other one makes it
        while True:
            asked.send_bytes(pickle.dumps(make(asked.recv())))


def made_by_two(
    keys: Sequence[str],
    make: Make,
    *,
    n_params: int,
    before_each: Callable[[str], Any] = lambda key: None,
    after_each: Callable[[], Any] = lambda: None,
) -> dict[str, Section]:
    """Sections by their keys, made by two processes where that is sooner.

    Args:
        keys: of the sections.
        make: makes one, in either process.
        n_params: of the model.
        before_each, after_each: are called here before a section, with its key, and after it.
    """
    made: dict[str, Section] = {}
    n_threads = torch.get_num_threads()
    other = _other(make) if _shares(len(keys), n_params, n_threads) else None
    todo = deque(keys if other is None else sorted(keys, key=lambda key: _LAST.index(key) if key in _LAST else -1))

    def work(make: Make, take: Callable[[], str]) -> None:
        with suppress(IndexError):  # all are taken
            while True:
                key = take()
                before_each(key)
                try:
                    made[key] = make(key)
                except _NoSectionError as reason:
                    log.debug("%s", reason)
                    return todo.append(key)
                after_each()

    if other is None:
        work(make, todo.popleft)
        return made
    beside = threading.Thread(target=work, args=(other.section, todo.pop), name="sections beside")
    torch.set_num_threads(1)
    try:
        beside.start()
        work(make, todo.popleft)
        beside.join()
        work(make, todo.popleft)  # what the other process gave back
    finally:
        other.close()
        torch.set_num_threads(n_threads)
    return made


def _shares(n_sections: int, n_params: int, n_threads: int) -> bool:
    """Whether two processes make so many sections of a model of that size sooner than one with so many threads."""
    if sys.platform != "linux" or n_sections < FEW or n_threads < 2 or len(os.sched_getaffinity(0)) < 2:
        return False
    return n_params < SMALL or (n_params < LARGE and n_threads < MANY)


def _other(make: Make) -> _Other | None:
    """The other process; None where there cannot be one."""
    try:
        return _Other(make)
    except (OSError, AssertionError) as reason:  # no process to be had, or none allowed (to a daemon)
        log.debug("no other process: %s", reason)
        return None
