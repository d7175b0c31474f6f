"""What clients get, as pydantic models: they are the schema at `/openapi.json`, with a text for every field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nanogpt_lens.server.refusals import SCHEMA_VERSION, STATUSES


class ErrorFacts(BaseModel):
    """What was wrong."""

    code: str = Field(description="for programs: " + ", ".join(STATUSES))
    message: str = Field(description="one sentence: what was wrong, what was expected, what to do")


class ErrorAnswer(BaseModel):
    """What comes instead of an answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"error": {"code": "no_such_model", "message": "there is no model 'x' here; expected induction"}}
            ]
        }
    )
    error: ErrorFacts


class _Answer(BaseModel):
    schema_version: Annotated[int, Field(description="of the form of all answers")] = SCHEMA_VERSION


class ModelLine(BaseModel):
    """A model in the list of all."""

    name: str
    python: str = Field(description="the line of Python that loads it")
    link: str


class ModelsAnswer(_Answer):
    """The models that the server was started with."""

    models: list[ModelLine]


class ModelAnswer(_Answer):
    """What one model is."""

    name: str
    python: str = Field(description="the line of Python that loads it")
    sha256: str = Field(description="of the checkpoint's file")
    parameters: int = Field(description="their number; a tied head counts once")
    shape: dict[str, Any] = Field(
        description="nanoGPT's model_args: n_layer, n_head, n_embd, block_size, vocab_size, bias"
    )
    act_fn: str
    precision: str = Field(description="of the file's weights")
    tied_head: bool
    iteration: int | None = Field(description="of the training run")
    best_val_loss: float | None = Field(description="nats per token, as the run wrote it down")
    vocabulary: dict[str, Any] = Field(description="kind and size, and the characters where there are no other tokens")
    notes: list[str]


class OptionFacts(BaseModel):
    """An option of an analysis."""

    name: str
    kind: str = Field(description="in words")
    json_schema: dict[str, Any] | None = Field(description="null where JSON cannot say it")
    needed: bool
    default: Any = None


class AnalysisFacts(BaseModel):
    """An analysis of the catalogue."""

    name: str
    about: str
    looks_at: str = Field(description="what it needs beside the model")
    takes: list[str] = Field(description="fields of the request that it takes: corpus, text, prompts, task, metric")
    needs: list[str] = Field(description="fields and options that must be there")
    options: list[OptionFacts]
    result: str = Field(description="the `kind` of its result")
    available: bool
    reason: str = Field(description='why it is not available; "" where it is')


class AnalysesAnswer(_Answer):
    """The catalogue."""

    analyses: list[AnalysisFacts]


class Progress(BaseModel):
    """The bar of an analysis that shows one."""

    done: float
    total: float | None
    what: str


class JobFacts(BaseModel):
    """Where a job is."""

    id: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    model: str
    analysis: str
    created: float = Field(description="seconds since 1970")
    started: float | None
    finished: float | None
    position: int | None = Field(description="how many jobs are before it in the queue; null where it does not wait")
    progress: Progress | None
    error: ErrorFacts | None
    link: str
    result: str | None = Field(description="where the result is; null where there is none yet")


class JobAnswer(_Answer):
    """One job."""

    job: JobFacts


class JobsAnswer(_Answer):
    """All jobs that the server remembers, the oldest first."""

    jobs: list[JobFacts]


class AnalysisAnswer(_Answer):
    """The result of an analysis."""

    job: str = Field(description="the id of the job that made it")
    model: str
    analysis: str
    python: str = Field(description="Python that gives the same result")
    cached: bool = Field(description="whether it had been made before")
    seconds: float = Field(description="that the worker took")
    result_id: str | None = Field(
        description="for options that take an earlier result, as a lens or a circuit; null for a comparison"
    )
    result: dict[str, Any] = Field(
        description="`Result.to_json()`: its fields, and in `rows` one entry per value; of a comparison `parts`"
    )


class NextToken(BaseModel):
    """One of the likeliest next tokens."""

    id: int
    token: str
    logit: float | None
    probability: float | None
    base_logit: float | None = Field(description="without the interventions")
    base_probability: float | None = Field(description="without the interventions")


class MetricValues(BaseModel):
    """A metric of each example, with the interventions and without."""

    definition: str
    values: list[float | None]
    base: list[float | None]
    change: list[float | None]


class RunAnswer(_Answer):
    """What a run said."""

    model: str
    python: str = Field(description="Python that makes the same run")
    seconds: float
    interventions: list[dict[str, Any]] = Field(description="as they were understood")
    tokens: list[list[int]] = Field(description="the ids [example][pos]")
    positions: list[int] = Field(description="of which the rest is")
    next_tokens: list[list[list[NextToken]]] = Field(
        description="[example][position]: the likeliest with the interventions"
    )
    kl: list[list[float | None]] = Field(
        description="KL(without || with the interventions) in nats [example][position]"
    )
    logits: list[list[list[float | None]]] | None = Field(description="[example][position][token], if they were wanted")
    base_logits: list[list[list[float | None]]] | None
    activations: dict[str, Any] = Field(description="by hook point, nested lists, after the interventions")
    base_activations: dict[str, Any]
    metric: MetricValues | None
