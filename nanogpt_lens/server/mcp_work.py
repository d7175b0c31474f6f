"""One tool's work: in a thread of its own, with progress, a deadline, and an end when the client asks for it.

A client may cancel a call at any time. The thread then gets the exception `Stopped` where it stands, inside a call of
the package, and the models that it had in hand are loaded anew before they are used again: nothing half done is left.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import anyio.to_thread

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.served import ServedModel, ServedModels

Report: TypeAlias = Callable[[float, float, str], Awaitable[None]]
"""Says how many seconds have passed, how many there may be, and what is being done."""

_TICK = 1.0


class Stopped(BaseException):
    """The client does not want the answer any more, or it takes too long; what catches errors does not catch it."""


@dataclass(eq=False)
class Work:
    """What is being done for one call of a tool.

    Attributes:
        models: all that may be asked for.
        step_name: the function that is running.
    """

    models: ServedModels
    step_name: str = "loading"
    _thread: int | None = None
    _stopping: bool = False
    _used: list[ServedModel] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def step(self, name: str) -> None:
        """Say what is done next."""
        if self._stopping:
            raise Stopped
        self.step_name = name

    def model(self, name: str) -> ServedModel:
        """The served model of that name.

        Raises:
            AnalysisError: there is none.
        """
        served = self.models.named(name)
        self._used.append(served)
        return served

    def run(self, function: Callable[[Work], Any]) -> tuple[Any, BaseException | None]:
        """What a function returns, and what it raises; called in the thread."""
        import transformer_lens  # noqa: F401 - an import that is cut short would leave half a module

        with self._guard:
            self._thread = threading.get_ident()
        result, error = None, None
        try:
            try:
                result = function(self)
            finally:
                with self._guard:
                    self._thread = None
        except BaseException as raised:
            error = raised
        if self._stopping:
            for served in self._used:
                served.forget()
        return result, error

    def stop(self) -> None:
        """End the thread's work where it stands."""
        with self._guard:
            self._stopping = True
            if self._thread is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Stopped))


async def work_in_thread(
    models: ServedModels, function: Callable[[Work], Any], *, report: Report, limit: float, lock: anyio.Lock
) -> Any:
    """What a function returns, which is run in a thread.

    Args:
        models: that may be asked for.
        function: takes the `Work`.
        report: is told every second how far it is.
        limit: the seconds that it may take.
        lock: held meanwhile: one call is computed at a time.

    Raises:
        AnalysisError: it takes longer; and whatever the function raises.
    """
    async with lock:
        work, begun = Work(models), time.monotonic()

        async def watch() -> None:
            try:
                while True:
                    with suppress(Exception):  # a client that does not listen is no reason to stop
                        await report(time.monotonic() - begun, limit, work.step_name)
                    await anyio.sleep(_TICK)
            finally:
                if not finished:
                    work.stop()

        finished = False
        result: Any = None
        error: BaseException | None = None
        with anyio.move_on_after(limit) as deadline:
            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                await anyio.sleep(0)
                result, error = await anyio.to_thread.run_sync(work.run, function)
                finished = True
                group.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint()  # where the client has cancelled, this is the end
        if deadline.cancelled_caught or isinstance(error, Stopped):
            raise AnalysisError(
                f"this took longer than {limit:g} seconds and was stopped (at {work.step_name}); ask for less: shorter "
                "texts, fewer pairs or a smaller n"
            )
        if error is not None:
            raise error
        return result
