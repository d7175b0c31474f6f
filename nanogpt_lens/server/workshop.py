"""The server's side of the worker: its folders, the nursery beside the server, and the pipes between them."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.refusals import Refusal
from nanogpt_lens.server.served import ServedModels
from nanogpt_lens.server.work import Workplace, models_to_json

_ROOT = str(Path(__file__).resolve().parent.parent.parent)
_BIRTH = 120.0  # seconds that a nursery may take to import everything, and a worker to be born

KEPT_RESULTS = 256
"""How many results a cache of the server's own keeps."""


class Workshop:
    """A folder of the server's own, and in a process beside it the worker.

    Args:
        models: that the worker knows.
        cache: the folder of results; None for one in the server's own, which goes with it.
        memory: bytes that the worker may take beside what it starts with; None for any.
        delete: further files that are deleted when the server is gone, such as that of the token.
    """

    def __init__(
        self,
        models: ServedModels,
        *,
        cache: Path | None = None,
        memory: int | None = 4 * 2**30,
        delete: Sequence[Path] = (),
    ) -> None:
        if not hasattr(os, "fork"):
            raise AnalysisError("serving needs a system that can fork, such as Linux; this one cannot")
        folder = Path(tempfile.mkdtemp(prefix="nanogpt-lens-"))
        own = folder / "cache"
        results = own if cache is None else cache.expanduser().resolve()
        stage = results / f".{folder.name}"
        for place in (folder / "tasks", folder / "answers", folder / "tmp", stage):
            place.mkdir(parents=True, exist_ok=True)
        self.place = Workplace(
            folder=folder, cache=results, stage=stage, kept=KEPT_RESULTS if cache is None else None, memory=memory
        )
        self.models, self.delete = models, [str(Path(file).resolve()) for file in delete]
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._tasks = -1
        self._alive = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Start the nursery, which imports everything; a worker is born when there is work."""
        with self._lock:
            if self._nursery is not None and self._nursery.poll() is None:
                return
            self._close_pipes()
            self.messages, self._alive = queue.Queue(), False
            file = self.place.folder / "workshop.json"
            place = self.place
            plain = {
                **models_to_json(self.models),
                **{name: str(getattr(place, name)) for name in ("folder", "cache", "stage")},
                "kept": place.kept,
                "memory": place.memory,
                "delete": self.delete,
                "threads": torch.get_num_threads(),
                "server": os.getpid(),
            }
            file.write_text(json.dumps(plain), encoding="utf-8")
            tasks, self._tasks = os.pipe()
            messages, theirs = os.pipe()
            self._nursery = subprocess.Popen(
                [sys.executable, "-P", "-m", "nanogpt_lens.server.nursery", str(file), str(tasks), str(theirs)],
                stdin=subprocess.PIPE,
                stdout=2,
                pass_fds=(tasks, theirs),
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])},
            )
            os.close(tasks)
            os.close(theirs)
            hearing = threading.Thread(target=_hear, args=(messages, self.messages), daemon=True)
            hearing.start()

    def start(self) -> None:
        """Have a worker.

        Raises:
            Refusal: none is born.
        """
        self.open()
        with suppress(queue.Empty):
            while True:  # what was said while there was nothing to do
                message = self.messages.get_nowait()
                self._alive = self._alive and "died" not in message and "gone" not in message
        if self._alive:
            return
        self._command(b"start\n")
        self._await("ready")
        self._alive = True

    def tell(self, identity: str) -> None:
        """Give the worker a task whose file is there."""
        os.write(self._tasks, f"{identity}\n".encode())

    def kill(self) -> None:
        """Kill the worker, whatever it does."""
        self._command(b"kill\n")
        with suppress(Refusal):
            self._await("killed")
        self._alive = False

    def forget(self) -> None:
        """The worker is dead; the next job gets a new one."""
        self._alive = False

    def close(self) -> None:
        """End worker and nursery, and delete the folder."""
        with self._lock:
            if self._nursery is not None:
                with suppress(OSError):
                    self._nursery.stdin.close()  # type: ignore[union-attr]
                try:
                    self._nursery.wait(10)
                except subprocess.TimeoutExpired:
                    self._nursery.kill()
                    self._nursery.wait(10)
            self._close_pipes()
            for folder in (self.place.stage, self.place.folder):
                shutil.rmtree(folder, ignore_errors=True)
            for file in self.delete:
                Path(file).unlink(missing_ok=True)

    def _close_pipes(self) -> None:
        if self._tasks >= 0:
            os.close(self._tasks)
            self._tasks = -1

    def _command(self, line: bytes) -> None:
        assert self._nursery is not None
        with suppress(OSError):
            os.write(self._nursery.stdin.fileno(), line)  # type: ignore[union-attr]

    def _await(self, word: str) -> None:
        """Wait until a message has that word.

        Raises:
            Refusal: it does not come.
        """
        while True:
            try:
                message = self.messages.get(timeout=_BIRTH)
            except queue.Empty:
                message = {"gone": True}
            if word in message:
                return
            if "gone" in message or "died" in message:
                self._alive = False
                raise Refusal("worker_died", "the worker could not be started; the server's own output says why")


def _hear(pipe: int, messages: queue.Queue[dict[str, Any]]) -> None:
    """Put every line of the worker and the nursery into a queue, until both are gone."""
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            with suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.put(message)
    messages.put({"gone": True})
