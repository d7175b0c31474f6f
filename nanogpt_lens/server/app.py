"""The application: models, runs, analyses and jobs over HTTP.

`create_app` is all that tests and whoever mounts it need; `nanogpt_lens.server.serving` puts it on a port.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from nanogpt_lens.server.answers import ErrorAnswer
from nanogpt_lens.server.guard import Guard, Keys
from nanogpt_lens.server.jobs import Jobs
from nanogpt_lens.server.lab_calls import LabCalls
from nanogpt_lens.server.lab_routes import router as lab_router
from nanogpt_lens.server.refusals import Refusal, refusal_of, refusal_response
from nanogpt_lens.server.routes import Runs, routes
from nanogpt_lens.server.served import ServedModels
from nanogpt_lens.server.workshop import Workshop

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The names of this machine for itself."""

_ABOUT = """Every analysis of nanogpt-lens, asked from outside. All requests carry `Authorization: Bearer TOKEN`,
with the token that the server printed when it started. Texts and prompts are sent inline, as text or token ids; a
string is never taken for a path. What goes wrong is `{"error": {"code": ..., "message": one sentence}}`."""


def create_app(
    models: ServedModels,
    *,
    token: str,
    hosts: Iterable[str] = LOOPBACK,
    cache: str | Path | None = None,
    waiting: int = 16,
    kept: int = 64,
    seconds: float = 600.0,
    memory: int | None = 4 * 2**30,
    body: int = 4 * 2**20,
    delete: Iterable[Path] = (),
    port: int | None = None,
) -> FastAPI:
    """The application of some models; `app.state` has its `jobs`, `runs`, `workshop` and `keys`.

    Args:
        models: what can be asked for.
        token: what clients must send.
        hosts: the names, without port, by which clients may call the server.
        cache: the folder of results (`ngl.results.ResultCache`); None for a temporary one.
        waiting: how many jobs may wait.
        kept: how many finished jobs are kept.
        seconds: that a job may take.
        memory: bytes that the worker may take beside what it starts with; None for any.
        body: the largest body of a request, in bytes.
        delete: files that go with the server, however it ends.
        port: where it is served, if that is known: the cookie of a browser is named after it.

    Close it with `close_app`; it can be served, or called in the process, as often as one likes until then.
    """
    workshop = Workshop(models, cache=None if cache is None else Path(cache), memory=memory, delete=list(delete))
    jobs, runs = Jobs(workshop, waiting=waiting, kept=kept, seconds=seconds), Runs()

    app = FastAPI(
        title="nanogpt-lens",
        version="1",
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        responses={"4XX": {"model": ErrorAnswer, "description": "refused, with a code and one sentence"}},
    )
    facts = app.state.facts = Runs(threads=1, waiting=512)
    app.state.jobs, app.state.runs, app.state.workshop, app.state.models = jobs, runs, workshop, models
    app.include_router(routes(models, jobs, runs, facts))
    app.state.lab = LabCalls(models)
    app.include_router(lab_router(models, app.state.lab))
    _add_documents(app, models)
    _add_refusals(app)
    app.state.keys = Keys(token, port=port)
    app.add_middleware(Guard, keys=app.state.keys, hosts=list(hosts), body=body)
    return app


def close_app(app: FastAPI) -> None:
    """End the jobs, the worker and the threads of an application, and delete what it wrote for itself."""
    app.state.jobs.close()
    app.state.runs.close()
    app.state.facts.close()
    app.state.lab.close()


def _add_documents(app: FastAPI, models: ServedModels) -> None:
    @app.get("/", include_in_schema=False)
    async def start() -> HTMLResponse:
        from nanogpt_lens.server.documents import start_page

        return HTMLResponse(start_page({one.name: one.python for one in models}))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        from nanogpt_lens.server.documents import page

        return HTMLResponse(page(app.openapi()))


def _add_refusals(app: FastAPI) -> None:
    """Make one sentence with a code of everything that goes wrong."""

    async def refused(request: Request, error: Exception) -> Response:
        return refusal_response(_refusal(request, error))

    for kind in (Refusal, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, refused)


def _refusal(request: Request, error: Exception) -> Refusal:
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        path = request.url.path
        if error.status_code == 404:
            return Refusal("not_found", f"there is nothing at {path!r:.100}; /docs says what there is")
        if error.status_code == 405:
            refusal = Refusal("wrong_method", f"{path!r:.100} takes {_allowed(error)}, not {request.method}")
            refusal.allow = _allowed(error)  # type: ignore[attr-defined]
            return refusal
        if error.status_code == 400:
            return Refusal("not_asked_rightly", "the body is no JSON that can be read; expected one object in UTF-8")
    return refusal_of(error)


def _allowed(error: HTTPException) -> str:
    return (error.headers or {}).get("Allow", "another method")


def _of_validation(error: RequestValidationError) -> Refusal:
    """The first of what is wrong in a request, as a sentence."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, int) or str(part).isidentifier())
    kind, what = str(first["type"]), str(first["msg"])
    if kind == "json_invalid":
        return Refusal("not_asked_rightly", "the body is no JSON; expected one object")
    if kind == "missing":
        return Refusal("wrong_option", f"{place or 'the body'} is missing; see /docs for what is expected")
    if kind == "extra_forbidden":
        return Refusal("wrong_option", f"there is no field {place!r:.80}; see /docs for those that there are")
    where = "the query" if first["loc"][0] == "query" else "the body"
    return Refusal("wrong_option", f"{place or where} cannot be what it is: {what[:1].lower()}{what[1:]}")
