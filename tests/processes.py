"""Two processes as `torchrun` starts them, forked from a server that has imported everything already.

A process that is started anew takes six seconds to import TransformerLens, and `torchrun` imports torch once more
itself. One test (of the search of neurons) is launched by `torchrun` as a user would; the others need not be.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

PRELOADED = ("torch._dynamo", "nanogpt_lens.training.train", "nanogpt_lens.runs.trajectory", "nanogpt_lens.lens.tuned")


def forkserver() -> ForkServerContext:
    """The context whose processes have the package imported; one server for all tests of a pytest process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformer_lens", *PRELOADED])
    return context


@dataclass(frozen=True)
class Finished:
    """Exit codes by rank, and all that was printed."""

    codes: tuple[int | None, ...]
    printed: str


def run_in_two_processes(script: str, folder: Path) -> Finished:
    """Run a script with `folder` as working directory, once for each of two ranks of one group."""
    file = folder / "script.py"
    file.write_text(script)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = forkserver()
    processes = [context.Process(target=_rank, args=(file, rank, port)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()  # does nothing to one that has ended
        process.join()
    printed = "".join((folder / f"printed_{rank}.txt").read_text() for rank in range(2))
    return Finished(tuple(process.exitcode for process in processes), printed)


def _rank(file: Path, rank: int, port: int) -> None:
    os.chdir(file.parent)
    printed = open(f"printed_{rank}.txt", "w", buffering=1)  # noqa: SIM115 - of the whole process
    sys.stdout = sys.stderr = printed
    sys.argv = [str(file), str(file.parent)]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        exec(compile(file.read_text(), str(file), "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        raise
