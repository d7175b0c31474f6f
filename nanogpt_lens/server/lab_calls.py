"""The lab's calls of models: one thread for each model, and an end for what takes too long or nobody waits for."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from nanogpt_lens.server.refusals import Refusal
from nanogpt_lens.server.served import ServedModels

_T = TypeVar("_T")


class Stop:
    """Whether a call should go on.

    Args:
        seconds: that it may take once it has begun.
    """

    def __init__(self, seconds: float) -> None:
        self.told, self.seconds, self.end = threading.Event(), seconds, math.inf

    def begin(self) -> None:
        """Count the seconds from now."""
        self.end = time.monotonic() + self.seconds

    def check(self) -> None:
        """Raise Refusal where nobody waits for the answer any more, or the time is over."""
        if self.told.is_set():
            raise Refusal("cancelled", "nobody waits for this answer any more; it was stopped")
        if time.monotonic() > self.end:
            raise Refusal("too_long", f"it took more than {self.seconds:g} seconds and was stopped; ask for less")


_STOP: ContextVar[Stop | None] = ContextVar("stop", default=None)


def check_stopped() -> None:
    """Raise Refusal where the call that runs in this thread should not go on; tasks ask between their steps."""
    if (stop := _STOP.get()) is not None:
        stop.check()


class LabCalls:
    """Calls that need a model, outside of the event loop; those of one model in turn, and none behind another model's.

    Args:
        models: that there are.
        seconds: that a call may take.
        waiting: how many calls of one model may wait.
    """

    def __init__(self, models: ServedModels, *, seconds: float = 60.0, waiting: int = 64) -> None:
        self.seconds, self.waiting = seconds, waiting
        self._pools = {
            name: ThreadPoolExecutor(1, thread_name_prefix=f"nanogpt-lens lab {name}") for name in models.names
        }
        self._now: dict[str, set[Stop]] = {name: set() for name in models.names}

    async def call(self, client: Request, name: str, function: Callable[..., _T], *arguments: Any) -> _T:
        """What a function returns for a model; it is stopped where the client leaves before.

        Raises:
            Refusal: too many calls wait, the call took too long, or the client has left.
        """
        stop, now = Stop(self.seconds), self._now[name]
        if len(now) > self.waiting:
            raise Refusal("queue_full", f"{len(now)} calls are waiting; ask again in a second", retry_after=1)
        now.add(stop)
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(self._pools[name], partial(_begun, stop, function, arguments))
        gone = asyncio.ensure_future(_left(client))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                stop.told.set()
            return await answer
        finally:
            stop.told.set()
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            now.discard(stop)

    def close(self) -> None:
        """Stop what runs, and end the threads."""
        for pool, now in zip(self._pools.values(), self._now.values(), strict=True):
            for stop in list(now):
                stop.told.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _begun(stop: Stop, function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
    token = _STOP.set(stop)
    try:
        stop.begin()
        stop.check()
        return function(*arguments)
    finally:
        _STOP.reset(token)


async def _left(client: Request) -> None:
    """Return when the client has left."""
    while (await client.receive())["type"] != "http.disconnect":
        pass
