"""Text from the model as the lab samples it, with interventions or without: the same tokens as in the page.

Positions of interventions are those of the prompt: "all" of one that takes the other prompt's activations are the
prompt's, of any other one also those that come. Past the context the oldest token goes, as in nanoGPT.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import edits_of
from nanogpt_lens.interventions.fitting import as_tuple, positions_from_start
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import n_tokens, run
from nanogpt_lens.server.lab_calls import check_stopped

if TYPE_CHECKING:
    from nanogpt_lens.server.lab_engine import LabEngine, Setting

MOST_SAMPLED = 1024

_LARGEST = 10**9
_WORD = 0xFFFFFFFF
_PATTERNS = {KINDS["pattern"].hook.rpartition(".")[2]}


def sample(engine: LabEngine, request: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens that are drawn: {ids}."""
    n, temperature, seed = (request.get(name, usual) for name, usual in (("n", 0), ("temperature", 1), ("seed", 0)))
    top_k = request.get("top_k")
    if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST_SAMPLED:
        raise AnalysisError(f"n is {n!r:.40}; expected 0 to {MOST_SAMPLED} tokens")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= _LARGEST:
        raise AnalysisError(f"the temperature is {temperature!r:.40}; expected 0 to {_LARGEST}")
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int | float) or not 1 <= top_k < 2**53):
        raise AnalysisError(f"top_k is {top_k!r:.40}; expected 1 or more, or null for all")
    if isinstance(seed, bool) or not isinstance(seed, int | float) or not abs(seed) < 2**53:
        raise AnalysisError(f"the seed is {seed!r:.40}; expected a number that a page holds exactly, below 2^53")
    setting, random = engine.setting(request), numbers(math.floor(seed))
    model, known = engine.model, n_tokens(engine.model)
    places = [_of_the_prompt(one, setting.n) for one in setting.some]
    tokens, drawn = setting.tokens[0].tolist(), []
    for _ in range(n):
        check_stopped()
        offset = max(0, len(tokens) - int(model.cfg.n_ctx))
        window = torch.tensor([tokens[offset:]], device=setting.tokens.device)
        some = [moved for one in places if (moved := _moved(one, offset)) is not None]
        values = _values(setting, window.shape[1], offset)
        logits = run(model, window, edits_of(model, some, values))[0, -1, :known]
        tokens.append(_chosen(logits, temperature, top_k, random))
        drawn.append(tokens[-1])
    return {"ids": np.array(drawn, dtype=np.int32)}


def numbers(seed: int) -> Callable[[], float]:
    """Numbers from 0 to 1 that depend on the seed alone: the page's, a counter through a hash of 32 bits."""
    counter = (seed ^ 0x9E3779B9) & _WORD

    def draw() -> float:
        nonlocal counter
        counter = x = (counter + 0x9E3779B9) & _WORD
        x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _WORD
        x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _WORD
        return (x ^ (x >> 16)) / 4294967296

    return draw


def _of_the_prompt(one: Intervention, n: int) -> Intervention:
    """An intervention whose positions are counted from the start, those of the prompt where only it has values."""
    is_pattern = one.activation == "pattern"
    kind = one.source if isinstance(one.source, str) else "add" if "add" in one.source else "scale"
    fixed = kind == "other" or (is_pattern and kind in ("mean", "add"))
    changed: dict[str, Any] = {}
    for axis in ("dest_pos", "src_pos") if is_pattern else ("pos",):
        places = as_tuple(getattr(one, axis))
        if places or fixed:
            changed[axis] = positions_from_start(places, n, axis) if places else tuple(range(n))
    return replace(one, **changed)


def _moved(one: Intervention, offset: int) -> Intervention | None:
    """The same where the first tokens have gone; None where all its positions have."""
    changed: dict[str, Any] = {}
    for axis in ("pos", "dest_pos", "src_pos"):
        places = as_tuple(getattr(one, axis))
        if places and offset:
            changed[axis] = tuple(place - offset for place in places if place >= offset)
            if not changed[axis]:
                return None
    return replace(one, **changed)


def _values(setting: Setting, n: int, offset: int) -> SourceValues:
    """What sources put in place in a window of `n` tokens, the first `offset` gone; zeros where nothing reads them."""
    other = {name: _window(value, n, offset, _is_pattern(name)) for name, value in setting.values.other.items()}
    mean = {
        name: _window(value, n, offset, True) if _is_pattern(name) else value
        for name, value in setting.values.mean.items()
    }
    return replace(setting.values, other=other, mean=mean)


def _is_pattern(name: str) -> bool:
    return name.rpartition(".")[2] in _PATTERNS


def _window(value: Float[Tensor, " ..."], n: int, offset: int, is_pattern: bool) -> Float[Tensor, " ..."]:
    """The part of an activation that a window sees: positions are its last two dimensions, or that behind the first."""
    axes = [value.dim() - 2, value.dim() - 1] if is_pattern else [1]
    for axis in axes:
        begin = min(offset, value.shape[axis])
        kept = value.narrow(axis, begin, min(n, value.shape[axis] - begin))
        missing = n - kept.shape[axis]
        shape = [*kept.shape[:axis], missing, *kept.shape[axis + 1 :]]
        value = torch.cat([kept, kept.new_zeros(shape)], axis)
    return value


def _chosen(
    logits: Float[Tensor, " token"], temperature: float, top_k: float | None, random: Callable[[], float]
) -> int:
    """The likeliest token at temperature 0, else one drawn; among the k likeliest where top_k is given."""
    order = logits.double().sort(descending=True, stable=True)
    if temperature == 0:
        return int(order.indices[0])
    values = order.values[: None if top_k is None else int(top_k)]
    weights = ((values - values[0]) / temperature).exp().tolist()
    total = 0.0
    for weight in weights:
        total += weight
    left = random() * total
    for i, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return int(order.indices[i])
    return int(order.indices[len(weights) - 1])
