"""Work in a thread: it is stopped when nobody wants it any more, and when it takes too long."""

from __future__ import annotations

import time

import anyio
import pytest

pytest.importorskip("mcp")

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.mcp_work import Work, work_in_thread
from nanogpt_lens.server.served import ServedModels
from tests.making import write


@pytest.fixture
def models(tmp_path):
    served = ServedModels([write(tmp_path / "tiny").parent])
    with served.named("tiny").open():  # the libraries are imported
        return served


async def deaf(*_) -> None:
    """A client that does not listen to progress."""


def work(models, function, *, limit=30.0, report=deaf, lock=None):
    return work_in_thread(models, function, report=report, limit=limit, lock=lock or anyio.Lock())


class Endless:
    """A function that never ends by itself, and what happened to it."""

    def __init__(self) -> None:
        self.ended, self.held = "", None

    def __call__(self, work: Work) -> None:
        served = work.model("tiny")
        with served.open() as model:
            self.held = model
            work.step("an endless loop")
            try:
                while True:
                    try:
                        time.sleep(0.001)
                    except Exception:  # what a section of the report does with errors
                        continue
            finally:
                self.ended = "stopped"


def test_what_is_returned_and_what_is_raised_comes_through(models):
    assert anyio.run(lambda: work(models, lambda work: 3)) == 3

    def fail(work):
        raise AnalysisError("no")

    with pytest.raises(AnalysisError, match="^no$"):
        anyio.run(lambda: work(models, fail))


def test_what_takes_too_long_is_stopped_and_said(models):
    endless, begun = Endless(), time.monotonic()
    with pytest.raises(AnalysisError, match=r"longer than 0\.3 seconds and was stopped \(at an endless loop\)"):
        anyio.run(lambda: work(models, endless, limit=0.3))
    assert endless.ended == "stopped"
    assert time.monotonic() - begun < 20


def test_a_cancelled_call_stops_its_thread_and_forgets_its_model(models):
    endless = Endless()

    async def cancelled():
        with anyio.move_on_after(0.3):
            await work(models, endless)
        lock = anyio.Lock()
        return await work(models, lambda work: id(_open(work)), lock=lock)

    def _open(work):
        with work.model("tiny").open() as model:
            return model

    again = anyio.run(cancelled)
    assert endless.ended == "stopped"
    assert endless.held is not None
    assert again != id(endless.held)


def test_one_call_is_computed_at_a_time(models):
    running, most = [], []

    def busy(work):
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    async def several():
        lock = anyio.Lock()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(lambda: work(models, busy, lock=lock))

    anyio.run(several)
    assert most == [1] * 5


def test_progress_is_seconds_of_the_limit_and_the_step(models):
    told = []

    async def report(*what):
        told.append(what)

    def slow(work):
        work.step("a slow one")
        time.sleep(1.2)

    anyio.run(lambda: work(models, slow, report=report, limit=9.0))
    assert [total for _, total, _ in told] == [9.0] * len(told)
    assert told[-1][2] == "a slow one"
    assert sorted(passed for passed, _, _ in told) == [passed for passed, _, _ in told]


def test_a_client_that_cannot_be_told_is_answered(models):
    async def broken(*_):
        raise RuntimeError("the client has gone")

    assert anyio.run(lambda: work(models, lambda work: 5, report=broken)) == 5
