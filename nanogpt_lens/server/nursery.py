"""The process beside a server in which workers are born, and which cleans up behind both.

It imports everything once and then computes nothing: it forks a worker when it is told to, kills it when it is told
to, and when the server is gone, in whatever way, it kills the worker, deletes the server's temporary folder, and ends.
As it computes nothing it has one thread, so that a fork is safe, and always hears. A worker whose nursery is killed is
killed by the system (Linux).

    python -m nanogpt_lens.server.nursery CONFIGURATION TASKS MESSAGES
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

_OFTEN = 50  # milliseconds between two looks at the worker
_TRIES = 50  # to delete a folder
_SELDOM = 1000  # and at the server, where there is no worker
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Nursery:
    """The one worker of a server, if there is one.

    Args:
        plain: what the server wrote down: models, folders, limits.
        tasks: the file descriptor from which workers read.
        messages: the one to which they write, and this process what happens to them.
    """

    def __init__(self, plain: dict[str, Any], tasks: int, messages: int) -> None:
        self.plain, self.tasks, self.messages = plain, tasks, messages
        self.worker: int | None = None

    def mind(self, commands: int) -> None:
        """Do what the server says, until it is gone; then clean up."""
        poll, parent = select.poll(), self.plain["server"]
        poll.register(commands, select.POLLIN | select.POLLHUP)
        told = b""
        try:
            while True:
                if os.getppid() != parent:  # somebody else has the pipe's other end
                    return
                if poll.poll(_OFTEN if self.worker else _SELDOM):
                    read = os.read(commands, 4096)
                    if not read:
                        return
                    *lines, told = (told + read).split(b"\n")
                    for line in lines:
                        self._obey(line)
                self._look()
        finally:
            self._kill()
            self._clean()

    def _obey(self, command: bytes) -> None:
        if command == b"start" and self.worker is None:
            self._start()
        elif command == b"kill":
            self._kill()
            self._tell({"killed": True})

    def _start(self) -> None:
        pid = os.fork()
        if pid:
            self.worker = pid
            return
        status = 1
        try:
            os.setsid()
            self._become_worker()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            os._exit(status)

    def _become_worker(self) -> None:
        parent = os.getppid()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            return
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)  # the server's commands are not the worker's
        os.dup2(2, 1)
        folder = os.path.join(self.plain["folder"], "tmp")
        os.environ["TMPDIR"], tempfile.tempdir = folder, folder
        from nanogpt_lens.server.work import work

        work(self.plain, self.tasks, self.messages, threads=self.plain["threads"])

    def _look(self) -> None:
        """Tell the server where the worker has died by itself."""
        if self.worker is None:
            return
        pid, status = os.waitpid(self.worker, os.WNOHANG)
        if pid:
            self.worker = None
            self._tell({"died": os.waitstatus_to_exitcode(status)})

    def _kill(self) -> None:
        if self.worker is None:
            return
        started = _descendants(self.worker)  # a browser that draws is in a group of its own
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.worker, signal.SIGKILL)
        for pid in (self.worker, *started):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(self.worker, 0)
        self.worker = None
        self._sweep()

    def _sweep(self) -> None:
        """Delete what a killed worker was writing."""
        for place in (os.path.join(self.plain["folder"], "tmp"), self.plain["stage"]):
            for path in Path(place).glob("*"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def _clean(self) -> None:
        for folder in (self.plain["stage"], self.plain["folder"]):
            for _ in range(_TRIES):  # what is being killed may still write
                shutil.rmtree(folder, ignore_errors=True)
                if not os.path.exists(folder):
                    break
                time.sleep(0.1)
        for file in self.plain["delete"]:
            Path(file).unlink(missing_ok=True)

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            os.write(self.messages, (json.dumps(message) + "\n").encode())


def _descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have; none where the system does not say."""
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, file.read_text().split())
    return children + [one for child in children for one in _descendants(child)]


def main(configuration: str, tasks: str, messages: str) -> None:
    """Import everything, say so, and mind the worker."""
    plain = json.loads(Path(configuration).read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    from nanogpt_lens import server
    from nanogpt_lens.catalogue import ANALYSES

    import_module(f"{server.__name__}.work")
    for analysis in ANALYSES.values():
        if analysis.custom is None:
            with suppress(ImportError):
                import_module(f"nanogpt_lens.{analysis.module}")
    with suppress(ImportError):
        import_module("transformer_lens")
    nursery = Nursery(plain, int(tasks), int(messages))
    nursery._tell({"born": os.getpid()})
    nursery.mind(0)
    os._exit(0)  # there is nothing to take apart


if __name__ == "__main__":
    main(*sys.argv[1:])
