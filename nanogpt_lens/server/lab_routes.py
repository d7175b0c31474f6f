"""The lab with Python as its engine, over HTTP: for models that are too large for a page.

`GET /lab/{model}` is the page without weights; `POST /lab/{model}/{task}` computes for it. Who may ask is the
application's to decide.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Path, Request, Response
from fastapi.responses import HTMLResponse

from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lab.making import served_lab
from nanogpt_lens.lab.page import Lab
from nanogpt_lens.server.lab_calls import LabCalls
from nanogpt_lens.server.lab_engine import MOST_NUMBERS, LabEngine
from nanogpt_lens.server.refusals import Refusal, refusal_response
from nanogpt_lens.server.served import ServedModel, ServedModels

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the response; the page's own policy narrows it to its scripts by their hashes."""
_HEADERS = {"Content-Security-Policy": _POLICY}
_BYTES = "application/octet-stream"

LabName = Annotated[str, Path(max_length=200, description="a model of the server")]
TaskName = Annotated[str, Path(max_length=40, description="run, sweep, lens, contributions, sample or prove")]


class ServedLabs:
    """The page and the engine of each model, made when they are first asked for."""

    def __init__(self, models: ServedModels) -> None:
        self.models = models
        self._labs: dict[str, Lab] = {}
        self._engines: dict[str, tuple[Any, LabEngine]] = {}
        self._lock = threading.Lock()

    def page(self, name: str) -> str:
        """The page's HTML."""
        served = self.models.named(name)
        with served.open() as model:
            return self._lab(served, model).html()

    def answer(self, name: str, task: str, request: Mapping[str, Any]) -> bytes:
        """The packed answer to a task."""
        served = self.models.named(name)
        with served.open() as model:
            return packed_answer(self._engine(served, model).answer(task, request))

    def _lab(self, served: ServedModel, model: Any) -> Lab:
        with self._lock:
            if served.name not in self._labs:
                self._labs[served.name] = served_lab(model, name=served.name, code=served.python)
            return self._labs[served.name]

    def _engine(self, served: ServedModel, model: Any) -> LabEngine:
        reference = self._lab(served, model).payload["reference"]
        with self._lock:
            known = self._engines.get(served.name)
            if known is None or known[0] is not model:
                self._engines[served.name] = (model, LabEngine(model, reference))
            return self._engines[served.name][1]


def router(models: ServedModels, calls: LabCalls) -> APIRouter:
    """The routes of the lab.

    Args:
        models: that can be asked for.
        calls: what calls functions that need a model.
    """
    labs = ServedLabs(models)
    routes = APIRouter(include_in_schema=False)  # it speaks with its own page, in bytes: docs/LAB.md says how

    @routes.get("/lab/{model}", response_class=HTMLResponse)
    async def lab(model: LabName, client: Request) -> Response:
        """Give the page in which a model can be intervened in; this server computes for it."""
        return await answered(model, client, labs.page, lambda page: HTMLResponse(page, headers=_HEADERS))

    @routes.post("/lab/{model}/{task}")
    async def lab_task(
        model: LabName, task: TaskName, asked: Annotated[dict[str, Any], Body()], client: Request
    ) -> Response:
        """Compute something for the page; the answer is the length of its JSON, the JSON, and the arrays behind it."""
        return await answered(model, client, labs.answer, partial(Response, media_type=_BYTES), task, asked)

    async def answered(
        model: str, client: Request, function: Callable[..., Any], response: Callable[[Any], Response], *arguments: Any
    ) -> Response:
        try:
            models.named(model)
        except NanoGPTLensError as error:
            return refusal_response(Refusal("no_such_model", str(error)))
        try:
            return response(await calls.call(client, model, function, model, *arguments))
        except NanoGPTLensError as error:
            return refusal_response(Refusal("wrong_option", str(error)))
        except Refusal as refusal:
            return refusal_response(refusal)

    return routes


def packed_answer(result: Mapping[str, Any]) -> bytes:
    """A result as bytes: the length of the JSON (4 bytes), the JSON, and the arrays in little-endian order.

    A number of the JSON that is not finite is null; in arrays it stays what it is.

    Raises:
        AnalysisError: it holds too many numbers.
    """
    pieces: list[bytes] = []

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return _placed(value, pieces) | {"flat": True}
        if isinstance(value, Mapping) and set(value) == {"data"}:
            return _placed(value["data"], pieces)
        if isinstance(value, Mapping):
            return {name: plain(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [plain(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    header = json.dumps(plain(result), allow_nan=False).encode()
    return b"".join([struct.pack("<I", len(header)), header, *pieces])


def _placed(values: np.ndarray, pieces: list[bytes]) -> dict[str, Any]:
    at = sum(map(len, pieces))
    if at // 4 + values.size > MOST_NUMBERS:
        raise AnalysisError(f"the answer has more than {MOST_NUMBERS:,} numbers; ask for fewer activations")
    pieces.append(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return {"array": values.dtype.name, "shape": list(values.shape), "at": at}
