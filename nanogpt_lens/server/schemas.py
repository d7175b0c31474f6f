"""What clients send, as pydantic models: sizes are bounded, what is not known is refused, a string is never a path."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, WrapValidator
from pydantic_core import PydanticCustomError

MOST_IDS = 1_000_000
"""Ids, or texts, that one field may hold."""


def _of_one_look(*, texts: bool = True, rows: bool = True) -> WrapValidator:
    """Texts or ids as they are, after one look that stops at the first that is wrong: a union tries all in every way.

    Args:
        texts, rows: whether several texts, and rows of ids, may be given.
    """

    def checked(value: Any, handler: Any) -> Any:
        if not isinstance(value, list):
            return handler(value)
        if not value:
            raise _wrong("it is an empty list; expected at least one token id, or text")
        if texts and isinstance(value[0], str):
            if len(value) > _MOST_ROWS:
                raise _wrong(f"it has {len(value)} texts; expected at most {_MOST_ROWS}")
            return [handler(one) if isinstance(one, str) else _not_alike(one) for one in value]
        several = value if rows and isinstance(value[0], list) else [value]
        if len(several) > _MOST_ROWS or sum(len(row) if isinstance(row, list) else 1 for row in several) > MOST_IDS:
            raise _wrong(f"it is too long; expected at most {MOST_IDS} ids, in at most {_MOST_ROWS} rows")
        for row in several:
            if not isinstance(row, list) or not row:
                raise _wrong(f"one of the rows is {row!r:.40}; expected each to be a list of token ids, at least one")
            for one in row:
                if type(one) is not int or not 0 <= one < 2**31:
                    _not_alike(one)
        return value

    return WrapValidator(checked)


def _not_alike(one: Any) -> None:
    raise _wrong(f"one of its parts is {one!r:.40}; expected token ids, whole numbers of 0 or more, or texts alone")


def _wrong(sentence: str) -> PydanticCustomError:
    return PydanticCustomError("wrong_texts", "{sentence}", {"sentence": sentence})


_MOST_ROWS = 4096

TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Words: TypeAlias = Annotated[str, Field(min_length=1, max_length=4_000_000)]
Ids: TypeAlias = Annotated[list[TokenId], Field(min_length=1, max_length=MOST_IDS)]
Rows: TypeAlias = Annotated[list[Ids], Field(min_length=1, max_length=4096)]
Texts: TypeAlias = Annotated[list[Words], Field(min_length=1, max_length=4096)]

TextJson: TypeAlias = Annotated[Words | Texts | Ids | Rows, _of_one_look()]
"""A prompt, several of one length, or token ids [pos] or [example, pos]. A string is text, whatever it looks like."""

MaybeTextJson: TypeAlias = TextJson | None

CorpusJson: TypeAlias = Annotated[Words | Ids | Rows, _of_one_look(texts=False)]
"""A text to measure on, or its ids; rows of ids are texts of their own."""

Answers: TypeAlias = Annotated[TokenId | Words | Ids | Texts, _of_one_look(rows=False)]
Places: TypeAlias = Annotated[int, Field(ge=-65536, le=65536, strict=True)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MetricBody(_Body):
    """What is measured on the logits: `ngl.metrics` by name."""

    name: Literal["logit_diff", "answer_logprob", "loss"] = "logit_diff"
    answer: Answers | None = Field(default=None, description="one token for all prompts or one for each; not for loss")
    wrong: Answers | None = Field(default=None, description="likewise, for logit_diff alone")
    pos: Places | Annotated[list[Places], Field(min_length=1, max_length=4096)] | None = Field(
        None, description="the position that is read, several, or null: the last, and for loss all"
    )


class AskedBody(_Body):
    """Prompts of one length, others that differ in what they call for, and a metric."""

    clean: TextJson
    corrupted: TextJson | None = None
    metric: MetricBody


class PromptsBody(_Body):
    """Prompts written out, or made for a task: `clean` (and `corrupted`), or `task`."""

    clean: TextJson | None = Field(default=None, description="prompts that call for the answer")
    corrupted: TextJson | None = Field(default=None, description="as many of the same length that do not")
    task: Literal["induction", "repeated_random", "trigger_bigrams"] | None = Field(
        None, description="made: [A][B] ... [A] of random tokens, or prompts of the model's own task"
    )
    n: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(default=16, description="prompts of the task")
    seq_len: Annotated[int, Field(ge=2, le=65536, strict=True)] | None = Field(
        default=None, description="tokens of each"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = Field(default=0, description="of what is drawn")
    solved: bool = Field(default=False, description="only prompts that this model answers; results say so")


class TaskBody(_Body):
    """What sequences a task makes: the model's own run's, or one made from inline text."""

    name: Literal["own", "trigger_bigrams", "repeated_random"] = Field(
        "own", description="own: the task.json beside the checkpoint"
    )
    text: Words | None = Field(default=None, description="the text whose characters, or bigrams, the task has")
    n_triggers: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    shortest: Annotated[int, Field(ge=2, le=65536, strict=True)] | None = None


class AnalysisBody(_Body):
    """What an analysis is made of. `GET /v1/analyses` says which of the fields each one takes."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"options": {"n": 8}, "wait": 30},
                {
                    "prompts": {"clean": "ROMEO:", "corrupted": "JULIE:"},
                    "metric": {"name": "logit_diff", "answer": "\n", "wrong": " "},
                    "options": {"activation": "z", "axes": ["layer", "head"]},
                },
            ]
        },
    )
    options: dict[str, Any] = Field(default_factory=dict, description="the analysis' own options by name")
    corpus: CorpusJson | None = Field(default=None, description="a text to measure on, or its ids; never a path")
    text: TextJson | None = Field(default=None, description="one prompt, several of one length, or ids")
    prompts: PromptsBody | None = None
    task: TaskBody | None = None
    metric: MetricBody | None = None
    wait: Annotated[float, Field(ge=0, le=60)] = Field(
        10.0, description="seconds to wait for the result before a job is answered instead"
    )


ComparedPart: TypeAlias = Literal[
    "outputs", "weights", "representations", "difference_lens", "heads", "transplants", "edges"
]
"""`nanogpt_lens.compare.comparing.Part`, which would import everything."""


class CompareBody(_Body):
    """Two of the server's models side by side, b minus a: `ngl.compare`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"a": "before", "b": "after", "text": "ROMEO: hear me", "parts": ["outputs"]}]},
    )
    a: Annotated[str, Field(max_length=200)] = Field(description="the model before, a name of GET /v1/models")
    b: Annotated[str, Field(max_length=200)] = Field(description="the model after, another one")
    text: CorpusJson | None = Field(
        default=None, description="what they are compared on, or its ids; null for text that the two write"
    )
    parts: Annotated[list[ComparedPart], Field(min_length=1, max_length=7)] | None = Field(
        default=None, description="which parts are made; null for all that apply"
    )
    search: bool = Field(default=True, description="look for the fewest parts that carry the difference; takes long")
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    wait: Annotated[float, Field(ge=0, le=60)] = Field(
        10.0, description="seconds to wait for the result before a job is answered instead"
    )


class ReturnBody(_Body):
    """What of a run is sent back."""

    top: Annotated[int, Field(ge=0, le=100, strict=True)] = Field(
        default=5, description="likeliest next tokens at each place"
    )
    positions: Annotated[list[Places], Field(min_length=1, max_length=4096)] | Literal["all"] = Field(
        default_factory=lambda: [-1], description="of which positions"
    )
    logits: bool = Field(default=False, description="also all logits at these positions")
    activations: Annotated[list[str], Field(max_length=64)] = Field(
        default_factory=list, description='hook points such as "blocks.0.attn.hook_z", or names such as "z"'
    )


class RunBody(_Body):
    """One run of a text, with interventions and without: `ngl.intervene`."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "examples": [
                {
                    "text": "ROMEO:",
                    "interventions": [{"place": "1.0", "source": "zero"}],
                    "metric": {"name": "loss"},
                    "return": {"top": 3},
                }
            ]
        },
    )
    text: TextJson
    interventions: Annotated[list[dict[str, Any]], Field(max_length=256)] = Field(
        default_factory=list, description="what takes an activation's place, in their order; none for a plain run"
    )
    other: TextJson | None = Field(default=None, description='the text from which the source "other" takes activations')
    reference: TextJson | None = Field(default=None, description='the texts of the sources "mean" and "resample"')
    metric: MetricBody | None = None
    wanted: ReturnBody = Field(default_factory=lambda: ReturnBody(), alias="return")
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
