"""Sections made in two processes: the same bytes as in one, and none is lost whatever happens to the other process."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time

import pytest
import torch

from nanogpt_lens.reporting import beside
from nanogpt_lens.reporting.beside import made_by_two
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.section import Section
from tests.nanogpt_lens.reporting.report_helpers import small, text

KEYS = ("certificate", "loss", "heads", "attention", "induction", "lens", "patching", "neurons")
HERE = os.getpid()

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sections are shared on Linux alone")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Two threads, as if there were a core for each; afterwards no process is left and the threads are as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(beside, "_shares", lambda *about: True)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert not multiprocessing.active_children()


def section(key, **about):
    return Section(key=key, title=key, reading="", status="done", commands=(str(os.getpid()),), **about)


def there(made):
    """The keys of sections that the other process made."""
    return {key for key, value in made.items() if value.commands != (str(HERE),)}


def test_a_report_has_the_same_bytes(tmp_path, monkeypatch):
    folder = small(tmp_path / "run", vocab_size=65)
    sent, section_there = [], beside._Other.section

    def spied(self, key):
        sent.append(key)
        return section_there(self, key)

    monkeypatch.setattr(beside._Other, "section", spied)
    shared = report(folder, corpus=text(4000), progress=False)
    assert {"certificate", "neurons"} <= set(sent)
    assert not shared.failed
    monkeypatch.setattr(beside, "_shares", lambda *about: False)
    torch.set_num_threads(1)
    alone = report(folder, corpus=text(4000), progress=False)
    torch.set_num_threads(2)
    assert [s.key for s in shared.sections] == [s.key for s in alone.sections]
    assert shared.html == alone.html


def test_both_make_some_with_one_thread_each():
    def make(key):
        time.sleep(0.05)
        return section(key, error=str(torch.get_num_threads()))

    seen, done = [], []
    made = made_by_two(KEYS, make, n_params=1, before_each=seen.append, after_each=lambda: done.append(1))
    assert set(made) == set(KEYS) == set(seen)
    assert len(done) == len(KEYS)
    assert 0 < len(there(made)) < len(KEYS)
    assert "certificate" in there(made)
    assert {value.error for value in made.values()} == {"1"}


def test_tensors_arrive_as_they_are():
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = made_by_two(KEYS, lambda key: section(key, results={"values": values.T}), n_params=1)
    assert all(torch.equal(value.results["values"], values.T) for value in made.values())


@pytest.mark.parametrize("what", ["ends", "hangs", "fails", "cannot be sent"])
def test_what_the_other_process_does_not_make_is_made_here(monkeypatch, what):
    monkeypatch.setattr(beside, "PATIENCE", 0.5)

    def make(key):
        if os.getpid() == HERE:
            time.sleep(0.02)
            return section(key)
        if what == "ends":
            os._exit(1)
        if what == "hangs":
            time.sleep(60)
        return (
            section(key, results={"function": lambda: None} if what == "cannot be sent" else {})
            if what != ("fails")
            else Section(key=key, title=key, reading="", status="failed", error="no memory", commands=())
        )

    made = made_by_two(KEYS, make, n_params=1)
    assert set(made) == set(KEYS)
    assert not there(made)
    assert all(value.status == "done" for value in made.values())


def test_an_interrupt_ends_both():
    def make(key):
        if os.getpid() == HERE:
            raise KeyboardInterrupt
        time.sleep(60)

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        made_by_two(KEYS, make, n_params=1)
    assert time.perf_counter() - began < 20


def test_where_no_process_can_be_made_all_is_made_here(monkeypatch):
    def refused(make):
        raise OSError("no process to be had")

    monkeypatch.setattr(beside, "_Other", refused)
    made = made_by_two(KEYS, section, n_params=1)
    assert list(made) == list(KEYS)
    assert not there(made)


@pytest.mark.parametrize(
    ("sections", "params", "threads", "cores", "expected"),
    [
        (11, 8e5, 2, 2, True),
        (11, 8e5, 16, 16, True),
        (11, 8e5, 1, 16, False),
        (11, 8e5, 2, 1, False),
        (2, 8e5, 2, 2, False),
        (11, 1e7, 2, 2, True),
        (11, 1e7, 16, 16, False),
        (11, 1.2e8, 2, 2, False),
    ],
)
def test_it_is_shared_where_that_is_sooner(monkeypatch, sections, params, threads, cores, expected):
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert beside._shares(sections, params, threads) is expected
