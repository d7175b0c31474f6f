"""Analyses as jobs: a bounded queue, one worker process, finished jobs that are kept for a while.

One thread, the dispatcher, takes jobs from the queue in their order, tells the worker, and hears how far it is. A job
that is cancelled, or takes too long, ends with the worker, which is killed and born again.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nanogpt_lens.server.refusals import Refusal
from nanogpt_lens.server.workshop import Workshop

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """One analysis that was asked for.

    Attributes:
        id: its name.
        model, analysis: what it is.
        format: of the answer.
        digest: of the whole request; equal for equal requests.
        state: where it is.
        created, started, finished: seconds since 1970; None where that has not happened.
        progress: the bar of the analysis: `done`, `total` (None where nobody knows), `what`.
        facts: of the answer: `seconds`, `cached`, `result_id`, and the Python that gives it again; of a
            picture of an earlier result `drawn`.
        refusal: why it failed.
        ended: is done when the job is, in whatever way.
    """

    id: str
    model: str
    analysis: str
    format: str
    digest: str
    state: State = "queued"
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    progress: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    refusal: Refusal | None = None
    ended: Future[None] = field(default_factory=Future)


class Jobs:
    """The jobs of a server.

    Args:
        workshop: where the worker is.
        waiting: how many jobs may wait.
        kept: how many finished ones are kept with their answers.
        seconds: that a job may take.
    """

    def __init__(self, workshop: Workshop, *, waiting: int = 16, kept: int = 64, seconds: float = 600.0) -> None:
        self.workshop, self.waiting, self.kept, self.seconds = workshop, waiting, kept, seconds
        self._all: OrderedDict[str, Job] = OrderedDict()
        self._queued: list[Job] = []
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closing = False
        self._count = 0
        self._thread = threading.Thread(target=self._dispatch, name="nanogpt-lens jobs", daemon=True)
        self._thread.start()

    def submit(self, task: dict[str, Any], *, model: str, analysis: str) -> Job:
        """A new job at the end of the queue, or a finished one that answers the same request.

        Raises:
            Refusal: the queue is full.
        """
        digest = hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()
        with self._changed:
            if (done := self._answered(digest)) is not None:
                return done
            if len(self._queued) >= self.waiting:
                raise Refusal(
                    "queue_full",
                    f"{len(self._queued)} jobs are waiting, and no more than {self.waiting} may; ask again later",
                    retry_after=5,
                )
            self._count += 1
            job = Job(f"{self._count}-{digest[:12]}", model, analysis, task["format"], digest)
            self.workshop.place.task_file(job.id).write_text(json.dumps(task), encoding="utf-8")
            self._all[job.id] = job
            self._queued.append(job)
            self._changed.notify_all()
            return job

    def _answered(self, digest: str) -> Job | None:
        for job in reversed(self._all.values()):
            if job.digest == digest and job.state == "done":
                self._all.move_to_end(job.id)
                return job
        return None

    def named(self, identity: str) -> Job:
        """The job of that id.

        Raises:
            Refusal: there is none, or none any more.
        """
        with self._changed:
            if identity not in self._all:
                raise Refusal(
                    "no_such_job", f"there is no job {identity!r:.60}; the last {self.kept} finished ones are kept"
                )
            return self._all[identity]

    def all(self) -> list[Job]:
        """All jobs, the oldest first."""
        with self._changed:
            return list(self._all.values())

    def position(self, job: Job) -> int | None:
        """How many jobs are before one in the queue; None where it does not wait."""
        with self._changed:
            return self._queued.index(job) if job in self._queued else None

    def cancel(self, job: Job) -> None:
        """End a job that waits or runs: it will not go on. A finished one stays as it is."""
        with self._changed:
            if job in self._queued:
                self._queued.remove(job)
                self._end(job, "cancelled")
            elif job is self._running and job.state == "running":
                job.state = "cancelled"
                self.workshop.messages.put({"wake": True})
            self._changed.notify_all()

    def answer_file(self, job: Job, kind: str = "json") -> Path:
        """The file of a finished job's answer."""
        return self.workshop.place.answer_file(job.id, kind)

    def close(self) -> None:
        """End all jobs, the worker and the dispatcher."""
        with self._changed:
            self._closing = True
            for job in list(self._queued):
                self._queued.remove(job)
                self._end(job, "cancelled")
            if self._running is not None:
                self._running.state = "cancelled"
            self._changed.notify_all()
        self.workshop.messages.put({"wake": True})
        self._thread.join(10)
        self.workshop.close()

    def _dispatch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queued or self._closing)
                if self._closing:
                    return
                job = self._running = self._queued.pop(0)
                job.state, job.started = "running", time.time()
            try:
                outcome = self._do(job)
            except Refusal as refusal:
                outcome = refusal
            except Exception as error:
                outcome = Refusal("internal", f"the job could not be given to a worker ({type(error).__name__})")
            with self._changed:
                self._running = None
                cancelled = job.state == "cancelled"
                job.refusal = outcome
                self._end(job, "cancelled" if cancelled else "done" if outcome is None else "failed")

    def _do(self, job: Job) -> Refusal | None:
        """Have the worker do a job; what went wrong, or None."""
        self.workshop.start()
        self.workshop.tell(job.id)
        deadline = time.monotonic() + self.seconds
        while True:
            late = time.monotonic() > deadline
            if late or job.state == "cancelled":
                self.workshop.kill()
                return Refusal("too_long", f"it took more than {self.seconds:g} seconds and was stopped; ask for less")
            try:
                message = self.workshop.messages.get(timeout=max(0.0, min(1.0, deadline - time.monotonic())))
            except queue.Empty:
                continue
            if "died" in message or "gone" in message:
                self.workshop.forget()
                return Refusal("worker_died", "the worker died, perhaps for want of memory; ask for less")
            if message.get("id") != job.id:
                continue
            if "progress" in message:
                job.progress = message["progress"]
            elif "failed" in message:
                return Refusal(message["failed"]["code"], message["failed"]["message"])
            elif "done" in message:
                job.facts = message["done"]
                return None

    def _end(self, job: Job, state: State) -> None:
        job.state, job.finished = state, time.time()
        self.workshop.place.task_file(job.id).unlink(missing_ok=True)
        if job.progress and state == "done" and job.progress["total"] is not None:
            job.progress = {**job.progress, "done": job.progress["total"]}
        self._all.move_to_end(job.id)
        finished = [one for one in self._all.values() if one.finished is not None]
        for old in finished[: -self.kept]:
            del self._all[old.id]
            self._delete(old)
        if state != "done":
            self._delete(job)
        with suppress(InvalidStateError):
            job.ended.set_result(None)

    def _delete(self, job: Job) -> None:
        """Delete the files of a job's answer."""
        for file in self.workshop.place.folder.glob(f"answers/{job.id}.*"):
            with suppress(OSError):
                file.unlink()
