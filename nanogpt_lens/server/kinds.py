"""What an option of an analysis may be as JSON, from the hints of its function.

What a hint allows beside that (tensors, functions, paths, models) is left out: nothing from outside becomes a path.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from inspect import Parameter, signature
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from nanogpt_lens.catalogue import Analysis
from nanogpt_lens.results.base import Result
from nanogpt_lens.server.schemas import AskedBody, MaybeTextJson

REASONS: dict[str, str] = {
    "resume": "it is a path on the server",
    "output": "it is a path on the server",
    "meta": "it is a path on the server",
    "sae": "it is a live object of SAELens, which JSON cannot say",
    "progress": "a job says by itself how far it is",
}
"""Why an option cannot be given."""

SOURCES = ("corpus", "text", "clean", "corrupted", "metric", "task", "data")
"""Arguments that have a field of the request of their own, and are no options."""


class ResultOf(BaseModel):
    """A result that this server made before, by the `result_id` of that answer."""

    model_config = ConfigDict(extra="forbid")
    result: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,80}-[0-9a-f]{24}$")


_INSTEAD: dict[str, Any] = {
    "reference": MaybeTextJson,
    "other": MaybeTextJson,
    "held_out": AskedBody | None,
    "tasks": dict[str, AskedBody] | None,
    "hypothesis": dict[str, Any],
    "interventions": dict[str, Any] | list[dict[str, Any]],
    "predicate": str | list[bool] | None,
}
"""Where the hint says too little or too much."""


@cache
def option_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """For each argument behind the model that is an option over HTTP, its type; None where JSON has none."""
    hints = get_type_hints(function)
    names = list(signature(function).parameters)[1:]
    own = [name for name in names if name not in SOURCES and name not in REASONS]
    return {name: _INSTEAD.get(name, json_type(hints.get(name, Any))) for name in own}


def json_type(hint: Any) -> Any:
    """The part of a hint that JSON can say, as a type for pydantic; None for nothing."""
    if hint in (int, float, str, bool, type(None)) or get_origin(hint) is Literal:
        return hint
    if isinstance(hint, type) and issubclass(hint, Result):
        return ResultOf
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [part for part in map(json_type, arguments) if part is not None]
        real = [part for part in parts if part is not type(None)]
        return Union[tuple(parts)] if real else None  # noqa: UP007 - made of what is found
    if origin in (Sequence, Iterable, list):
        inner = json_type(arguments[0])
        return None if inner is None else list[inner]
    if origin is tuple:
        parts = [json_type(part) for part in arguments]
        return None if None in parts else tuple[tuple(parts)]  # type: ignore[misc]
    if origin is Mapping:
        inner = json_type(arguments[1])
        return None if inner is None else dict[str, inner]
    return None


def why_not(analysis: Analysis) -> str:
    """Why an analysis cannot be asked for over HTTP; "" where it can."""
    if analysis.custom is not None:
        return "it was registered in another process than the one that works"
    kinds = option_kinds(analysis.function)
    for name in analysis.needs():
        if name in REASONS:
            return f"it needs {name}: {REASONS[name]}"
        if name not in SOURCES and kinds.get(name) is None:
            return f"it needs {name}, which JSON cannot say"
    return ""


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What checks a value of a kind."""
    return TypeAdapter(kind)


def kind_in_words(kind: Any) -> str:
    """A kind for a sentence, such as "a whole number or null"."""
    plain = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    if kind in plain:
        return plain[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind_in_words(part) for part in arguments))
    if origin is list:
        return f"a list of {kind_in_words(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(kind_in_words, arguments))}"
    if kind is ResultOf:
        return 'an earlier result, as {"result": its result_id}'
    if kind is AskedBody:
        return "an object with clean, corrupted and metric"
    return "an object"


def defaults(analysis: Analysis) -> dict[str, Any]:
    """The defaults of the options, by name; those that must be given are not there."""
    parameters = signature(analysis.function).parameters
    kinds = option_kinds(analysis.function)
    return {name: parameters[name].default for name in kinds if parameters[name].default is not Parameter.empty}
