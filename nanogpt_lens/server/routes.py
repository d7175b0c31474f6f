"""What can be asked, and what answers it: the routes under `/v1`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Body, Path, Query, Request, Security
from fastapi.responses import Response
from fastapi.security import HTTPBearer

from nanogpt_lens.catalogue import ANALYSES, Analysis, find
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.answers import (
    AnalysesAnswer,
    AnalysisAnswer,
    ErrorAnswer,
    JobAnswer,
    JobFacts,
    JobsAnswer,
    ModelAnswer,
    ModelLine,
    ModelsAnswer,
    RunAnswer,
)
from nanogpt_lens.server.arguments import check_request
from nanogpt_lens.server.jobs import Job, Jobs
from nanogpt_lens.server.listing import catalogue_facts, model_facts
from nanogpt_lens.server.pictures import MEDIA, Format, asked_format
from nanogpt_lens.server.refusals import SCHEMA_VERSION, Refusal
from nanogpt_lens.server.running import run_of
from nanogpt_lens.server.schemas import AnalysisBody, CompareBody, RunBody
from nanogpt_lens.server.served import ServedModel, ServedModels

_T = TypeVar("_T")

ModelName = Annotated[str, Path(description="a model of GET /v1/models; never a path", max_length=200)]
AnalysisName = Annotated[str, Path(description="an analysis of GET /v1/analyses", max_length=100)]
JobName = Annotated[str, Path(description="the id of a job", max_length=100)]
AskedFormat = Annotated[
    Format | None, Query(alias="format", description="of the answer; else what Accept says, else json")
]
_PICTURES: dict[str, Any] = {
    media: {"schema": {"type": "string", "format": "binary"} if kind == "png" else {"type": "string"}}
    for kind, media in MEDIA.items()
    if kind != "json"
}
_PAGE_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


class Runs:
    """Short calls of models, outside of the event loop, a few at a time.

    Args:
        threads: that call at once; the calls of one model wait for one another all the same.
        waiting: how many calls may wait.
    """

    def __init__(self, *, threads: int = 2, waiting: int = 128) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="nanogpt-lens run")
        self.waiting, self.now = waiting + threads, 0

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """What a function returns.

        Raises:
            Refusal: too many calls wait.
        """
        if self.now >= self.waiting:
            raise Refusal("queue_full", f"{self.now} runs are waiting; ask again in a second", retry_after=1)
        self.now += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, partial(function, *arguments))
        finally:
            self.now -= 1

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def routes(models: ServedModels, jobs: Jobs, runs: Runs, facts: Runs) -> APIRouter:
    """The routes of some models.

    Args:
        models: what can be asked for.
        jobs: for analyses.
        runs, facts: for runs, and for what is read once and does not wait behind them.
    """
    router = APIRouter(prefix="/v1", dependencies=[Security(HTTPBearer(auto_error=False))])
    _add_models(router, models, runs, facts)
    _add_analyses(router, models, jobs, facts)
    _add_comparison(router, models, jobs)
    _add_jobs(router, jobs)
    return router


def _add_models(router: APIRouter, models: ServedModels, runs: Runs, facts: Runs) -> None:
    read = cache(model_facts)

    @router.get("/models", tags=["models"])
    async def list_models() -> ModelsAnswer:
        """List the models that the server was started with."""
        lines = [ModelLine(name=one.name, python=one.python, link=f"/v1/models/{quote(one.name)}") for one in models]
        return ModelsAnswer(models=lines)

    @router.get("/models/{model}", tags=["models"])
    async def describe_model(model: ModelName) -> ModelAnswer:
        """Say what a model is: shape, vocabulary, hash, parameters."""
        served = _model(models, model)
        return ModelAnswer(**await facts.call(read, served))

    @router.post("/models/{model}/run", tags=["models"], response_model=RunAnswer)
    async def run_model(model: ModelName, body: Annotated[RunBody, Body()]) -> Response:
        """Run a text, with interventions and without."""
        served = _model(models, model)
        return _json(await runs.call(lambda: json.dumps(run_of(served, body), allow_nan=False)))


def _add_analyses(router: APIRouter, models: ServedModels, jobs: Jobs, facts: Runs) -> None:
    catalogue: list[AnalysesAnswer] = []

    @router.get("/analyses", tags=["analyses"])
    async def list_analyses() -> AnalysesAnswer:
        """List the catalogue: what each analysis says, takes and returns."""
        if not catalogue:  # every module of the catalogue is imported for it
            catalogue.append(AnalysesAnswer.model_validate({"analyses": await facts.call(catalogue_facts)}))
        return catalogue[0]

    @router.post(
        "/models/{model}/analyses/{analysis}",
        tags=["analyses"],
        response_model=AnalysisAnswer,
        responses={
            200: {"content": _PICTURES, "description": "the result, or a picture of it"},
            202: {"model": JobAnswer, "description": "not done within `wait` seconds: ask for the job"},
            "5XX": {"model": ErrorAnswer, "description": "the worker died, or something that should not have happened"},
        },
    )
    async def make_analysis(
        request: Request,
        model: ModelName,
        analysis: AnalysisName,
        body: Annotated[AnalysisBody, Body()],
        kind: AskedFormat = None,
    ) -> Response:
        """Make an analysis: its result where it is done within `wait` seconds, else a job."""
        found, served = _analysis(analysis), _model(models, model)
        check_request(found, body)
        asked = asked_format(kind, request.headers.get("accept", ""))
        plain = body.model_dump(mode="json", exclude_unset=True, exclude={"wait"})
        task = {"model": served.name, "analysis": found.name, "body": plain, "format": asked, "sha256": served.sha256}
        job = jobs.submit(task, model=served.name, analysis=found.name)
        return await _answered(jobs, job, asked, body.wait)


def _add_comparison(router: APIRouter, models: ServedModels, jobs: Jobs) -> None:
    @router.post(
        "/compare",
        tags=["analyses"],
        response_model=AnalysisAnswer,
        responses={
            202: {"model": JobAnswer, "description": "not done within `wait` seconds: ask for the job"},
            "5XX": {"model": ErrorAnswer, "description": "the worker died, or something that should not have happened"},
        },
    )
    async def compare_models(body: Annotated[CompareBody, Body()]) -> Response:
        """Compare two of the models: what differs, where it sits, and what carries it."""
        a, b = _model(models, body.a), _model(models, body.b)
        if a is b:
            raise Refusal("wrong_option", f"a and b are both {a.name!r:.100}; expected two of GET /v1/models")
        plain = body.model_dump(mode="json", exclude={"wait"})
        task = {"compare": plain, "format": "json", "sha256": [a.sha256, b.sha256]}
        job = jobs.submit(task, model=a.name, analysis="compare")
        return await _answered(jobs, job, "json", body.wait)


def _add_jobs(router: APIRouter, jobs: Jobs) -> None:
    @router.get("/jobs", tags=["jobs"])
    async def list_jobs() -> JobsAnswer:
        """List the jobs that the server remembers."""
        return JobsAnswer(jobs=[_facts(jobs, job) for job in jobs.all()])

    @router.get("/jobs/{job}", tags=["jobs"])
    async def describe_job(job: JobName) -> JobAnswer:
        """Say where a job is."""
        return JobAnswer(job=_facts(jobs, jobs.named(job)))

    @router.delete("/jobs/{job}", tags=["jobs"])
    async def cancel_job(job: JobName) -> JobAnswer:
        """Cancel a job that waits or runs; it will not go on. A finished one stays as it is."""
        found = jobs.named(job)
        jobs.cancel(found)
        await asyncio.wait([asyncio.wrap_future(found.ended)], timeout=10)
        return JobAnswer(job=_facts(jobs, found))

    @router.get(
        "/jobs/{job}/result",
        tags=["jobs"],
        response_model=AnalysisAnswer,
        responses={
            200: {"content": _PICTURES, "description": "the result, or a picture of it"},
            202: {"model": JobAnswer, "description": "the picture is not drawn yet: ask for its job"},
            "5XX": {"model": ErrorAnswer, "description": "the worker died, or something that should not have happened"},
        },
    )
    async def result_of_job(request: Request, job: JobName, kind: AskedFormat = None) -> Response:
        """The result of a finished job, or a picture of it."""
        found = jobs.named(job)
        asked = found.format if kind is None else kind
        asked = asked_format(kind, request.headers.get("accept", "")) if kind is None and asked == "json" else asked
        if found.state in ("queued", "running"):
            raise Refusal("not_done", f"the job {found.id} is {found.state}; ask again when it is done", retry_after=1)
        if found.state == "done" and found.facts.get("drawn") and asked == "json":
            raise Refusal(
                "not_found",
                f"the job {found.id} drew a picture of an earlier job's result, which has the numbers; ask that job, "
                "or this one for html, svg or png",
            )
        if found.state == "done" and asked != "json" and found.facts.get("result_id") is None:
            raise Refusal(
                "no_picture", f"the job {found.id} compared models, which is answered as JSON; draw it in Python"
            )
        if found.state == "done" and not jobs.answer_file(found, asked).is_file():
            task = {"result_id": found.facts["result_id"], "format": asked}
            found = jobs.submit(task, model=found.model, analysis=found.analysis)
            await asyncio.wait([asyncio.wrap_future(found.ended)], timeout=10)
        return _answer(jobs, found, asked, again=True)


def _model(models: ServedModels, name: str) -> ServedModel:
    try:
        return models.named(name)
    except AnalysisError as error:
        raise Refusal("no_such_model", str(error)) from None


def _analysis(name: str) -> Analysis:
    try:
        return find(name)
    except AnalysisError as error:
        near = str(error).rpartition(": ")[2] if "did you mean" in str(error) else ""
        more = f": {near}" if near else ""
        sentence = f"there is no analysis {name!r:.60}; expected one of the {len(ANALYSES)} of GET /v1/analyses{more}"
        raise Refusal("no_such_analysis", sentence) from None


def _facts(jobs: Jobs, job: Job) -> JobFacts:
    result = f"/v1/jobs/{job.id}/result" if job.state == "done" else None
    return JobFacts(
        id=job.id,
        state=job.state,
        model=job.model,
        analysis=job.analysis,
        created=job.created,
        started=job.started,
        finished=job.finished,
        position=jobs.position(job),
        progress=job.progress,  # type: ignore[arg-type]
        error=job.refusal.to_json()["error"] if job.state == "failed" and job.refusal is not None else None,  # type: ignore[arg-type]
        link=f"/v1/jobs/{job.id}",
        result=result,
    )


async def _answered(jobs: Jobs, job: Job, asked: str, wait: float) -> Response:
    """What a job has to say when it is done, or after `wait` seconds."""
    again = job.ended.done()
    if not again:
        await asyncio.wait([asyncio.wrap_future(job.ended)], timeout=wait)
    return _answer(jobs, job, asked, again=again)


def _answer(jobs: Jobs, job: Job, asked: str, *, again: bool) -> Response:
    """What a job has to say by now."""
    if job.state == "failed" and job.refusal is not None:
        raise job.refusal
    if job.state == "cancelled":
        raise Refusal("cancelled", f"the job {job.id} was cancelled; ask for the analysis again")
    if job.state != "done":
        answer = JobAnswer(job=_facts(jobs, job)).model_dump_json()
        headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": "1"}
        return Response(answer, 202, headers=headers, media_type="application/json")
    try:
        content = jobs.answer_file(job, asked).read_bytes()
        python = "" if asked != "json" else jobs.answer_file(job, "py").read_text(encoding="utf-8")
    except OSError:
        raise Refusal("no_such_job", f"the result of the job {job.id} is not kept any more; make it again") from None
    if asked != "json":
        headers = {"X-Job": job.id} | ({"Content-Security-Policy": _PAGE_POLICY} if asked == "html" else {})
        return Response(content, headers=headers, media_type=MEDIA[asked])
    facts = {
        "schema_version": SCHEMA_VERSION,
        "job": job.id,
        "model": job.model,
        "analysis": job.analysis,
        "python": python,
        "cached": again or job.facts["cached"],
        "seconds": job.facts["seconds"],
        "result_id": job.facts["result_id"],
    }
    return _json(json.dumps(facts)[:-1].encode() + b', "result": ' + content + b"}")


def _json(content: str | bytes) -> Response:
    return Response(content, media_type="application/json")
