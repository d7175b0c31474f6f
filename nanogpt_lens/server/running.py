"""One run of a text, with interventions and without, from JSON to JSON."""

from __future__ import annotations

import time
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.interventions.intervene import hook_points, intervene
from nanogpt_lens.interventions.intervention import as_interventions
from nanogpt_lens.model.access import as_tokens, log_probs, token_labels
from nanogpt_lens.results import InterventionResult
from nanogpt_lens.results.files import as_json
from nanogpt_lens.server.arguments import metric_of, text_of
from nanogpt_lens.server.refusals import SCHEMA_VERSION, Refusal
from nanogpt_lens.server.schemas import RunBody
from nanogpt_lens.server.served import ServedModel
from nanogpt_lens.server.sizes import numbers_of, widest

MOST_LOGITS = 20_000_000
"""Logits, weights of attention or neurons that a layer of a run may have, of all examples and positions: 80 MB each."""

MOST_HELD = 100_000_000
"""Numbers that the sources of interventions may keep: 400 MB."""

MOST_NUMBERS = 500_000
"""Numbers that an answer may hold."""


def run_of(served: ServedModel, body: RunBody) -> dict[str, Any]:
    """The answer to a request for a run; the model is this request's alone while it runs.

    Raises:
        Refusal: it is too large, or speaks of a position that is not there.
        NanoGPTLensError: what does not fit the model.
    """
    began = time.perf_counter()
    arguments, words = _arguments(body)
    with served.open() as model:
        tokens = as_tokens(model, arguments["text"])
        also = [as_tokens(model, arguments[n], name=n) for n in ("other", "reference") if n in arguments]
        positions = _positions(body, tokens.shape[1])
        _check_size(model, body, arguments, [tokens, *also], len(positions))
        result = intervene(model, **arguments)
        top = _top(model, result, positions, min(body.wanted.top, model.cfg.d_vocab))
    call = ", ".join(f"{name}={word}" for name, word in words.items() if name != "text")
    python = (
        f"import nanogpt_lens as ngl\nmodel = {served.python}\nresult = ngl.intervene(model, {words['text']}, {call})"
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "model": served.name,
        "python": python,
        "tokens": tokens.tolist(),
        "positions": positions,
        "next_tokens": top,
        **_numbers(result, positions, body),
        "seconds": time.perf_counter() - began,
    }


def _check_size(model: Any, body: RunBody, arguments: dict[str, Any], texts: list[Tensor], n_positions: int) -> None:
    """Raise Refusal where a run would compute, keep or send too much; AnalysisError where an activation is unknown."""
    tokens, longest = sum(text.numel() for text in texts), max(text.shape[1] for text in texts)
    most = MOST_LOGITS // widest(model, longest)
    if tokens > most:
        raise Refusal(
            "too_large",
            f"{tokens} tokens were given; expected at most {most} of this model, at this length, in one run: send "
            "fewer at a time",
        )
    n_examples, n_pos = texts[0].shape
    names = hook_points(model, body.wanted.activations)
    sent = numbers_of(model, names, n_examples=n_examples, n_pos=n_pos)
    sent += n_examples * n_positions * int(model.cfg.d_vocab) if body.wanted.logits else 0
    if 2 * sent > MOST_NUMBERS:
        raise Refusal(
            "too_large",
            f"{2 * sent} numbers were asked for; expected at most {MOST_NUMBERS}: ask for fewer positions, examples or "
            "activations",
        )
    taken = {one.activation for one in arguments["interventions"] if one.source in ("other", "mean", "resample")}
    sources = hook_points(model, sorted(taken - {"edge"}))
    held = sum(numbers_of(model, sources, n_examples=len(text), n_pos=text.shape[1]) for text in texts)
    if held > MOST_HELD:
        raise Refusal(
            "too_large",
            f"what the sources take has {held} numbers; expected at most {MOST_HELD}: send fewer or shorter texts, or "
            "change fewer activations at once",
        )


def _arguments(body: RunBody) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of `intervene`, and how each is written."""
    some = as_interventions(body.interventions)
    given: dict[str, tuple[Any, str]] = {"text": text_of(body.text)}
    given["interventions"] = some, repr([one.to_json() for one in some])
    for name in ("other", "reference"):
        if (text := getattr(body, name)) is not None:
            given[name] = text_of(text)
    if body.metric is not None:
        given["metric"] = metric_of(body.metric)
    if body.wanted.activations:
        given["activations"] = body.wanted.activations, repr(body.wanted.activations)
    if body.seed:
        given["seed"] = body.seed, repr(body.seed)
    return {name: value for name, (value, _) in given.items()}, {name: word for name, (_, word) in given.items()}


def _positions(body: RunBody, n: int) -> list[int]:
    """The positions that are asked for, counted from the start."""
    if body.wanted.positions == "all":
        return list(range(n))
    for p in body.wanted.positions:
        if not -n <= p < n:
            raise Refusal("wrong_option", f"the position {p} is not there; expected {-n} to {n - 1}, or 'all'")
    return [p % n for p in body.wanted.positions]


def _top(model: Any, result: InterventionResult, positions: list[int], k: int) -> list[Any]:
    """The likeliest tokens [example][position], with the interventions, and what each was without."""
    if not k:
        return [[[] for _ in positions] for _ in result.values]
    logits, base = (values[:, positions].double() for values in (result.values, result.base))
    chosen: Int[Tensor, "example pos k"] = logits.topk(k).indices
    columns: list[Float[Tensor, "example pos k"]] = [
        values.gather(-1, chosen) for values in (logits, log_probs(logits).exp(), base, log_probs(base).exp())
    ]
    names = ("logit", "probability", "base_logit", "base_probability")
    ids = sorted(set(chosen.flatten().tolist()))
    labels = dict(zip(ids, token_labels(model, torch.tensor(ids)), strict=True))
    every = zip(chosen.tolist(), *(as_json(column.tolist()) for column in columns), strict=True)
    return [
        [
            [
                {"id": token, "token": labels[token], **dict(zip(names, numbers, strict=True))}
                for token, *numbers in zip(*place, strict=True)
            ]
            for place in zip(*example, strict=True)
        ]
        for example in every
    ]


def _numbers(result: InterventionResult, positions: list[int], body: RunBody) -> dict[str, Any]:
    """What is numbers alone."""
    metric = None
    if result.metric is not None and result.base_metric is not None:
        metric = {
            "definition": result.metric_name,
            "values": as_json(result.metric),
            "base": as_json(result.base_metric),
            "change": as_json(result.change),
        }
    wanted = body.wanted.logits
    return {
        "interventions": [as_json(one) for one in result.interventions],
        "kl": as_json(result.kl[:, positions]),
        "logits": as_json(result.values[:, positions]) if wanted else None,
        "base_logits": as_json(result.base[:, positions]) if wanted else None,
        "activations": {name: as_json(value) for name, value in result.activations.items()},
        "base_activations": {name: as_json(value) for name, value in result.base_activations.items()},
        "metric": metric,
    }
