"""Directions that the lab adds by name: a token's, a neuron's, the difference of two prompts, a stored one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import as_tokens, record

if TYPE_CHECKING:
    from nanogpt_lens.server.lab_engine import LabEngine

_STREAMS = ("resid_pre", "resid_mid", "resid_post")


def with_numbers(engine: LabEngine, request: Mapping[str, Any], one: Any) -> Any:
    """An intervention's JSON, a named direction of it as numbers.

    Raises:
        AnalysisError: there is no such direction, or it cannot be added there.
    """
    source = one.get("source") if isinstance(one, Mapping) else None
    if not isinstance(source, Mapping) or not isinstance(source.get("add"), Mapping):
        return one
    kind = KINDS.get(str(one.get("activation", "")).removeprefix("hook_"))
    if kind is not None and kind.axes != ("pos",):
        width = int(engine.model.cfg.d_model)
        raise AnalysisError(
            f"the direction has {width} numbers, as the stream has; it cannot be added to {one['activation']}"
        )
    return {**one, "source": {**source, "add": _numbers(engine, request, source["add"]).tolist()}}


def _numbers(engine: LabEngine, request: Mapping[str, Any], add: Mapping[str, Any]) -> Float[Tensor, " d_model"]:
    cfg, model = engine.model.cfg, engine.model
    token, neuron, stored = add.get("token"), add.get("neuron"), add.get("stored")
    if _whole(token, cfg.d_vocab):
        return _unit(model.W_U[:, token])
    pair = neuron if isinstance(neuron, list) and len(neuron) == 2 else (None, None)
    if neuron is not None and _whole(pair[0], cfg.n_layers) and _whole(pair[1], cfg.d_mlp):
        return _unit(model.W_out[pair[0], pair[1]])
    if isinstance(stored, str) and stored in engine.directions:
        return Tensor(engine.directions[stored]).double()
    if isinstance(add.get("difference"), Mapping):
        return _difference(engine, request, add["difference"])
    raise AnalysisError(
        f"there is no direction {dict(add)!r:.80}; expected numbers, a token, a neuron, a difference or a stored name"
    )


def _difference(engine: LabEngine, request: Mapping[str, Any], asked: Mapping[str, Any]) -> Float[Tensor, " d_model"]:
    """The other prompt's stream minus this one's at a position, both without interventions."""
    activation, layer, pos = asked.get("activation"), asked.get("layer", -1), asked.get("pos", -1)
    if activation not in _STREAMS or not _whole(layer, engine.model.cfg.n_layers):
        raise AnalysisError(
            f"a difference is of {', '.join(_STREAMS)} at a layer; it is of {activation!r:.40} at {layer!r:.40}"
        )
    if not request.get("other"):
        raise AnalysisError("a difference of two prompts needs the other prompt; give one")
    name, rows = KINDS[activation].hook_name(layer), []
    for what in ("tokens", "other"):
        tokens = as_tokens(engine.model, request[what], name=what)
        n = tokens.shape[1]
        if isinstance(pos, bool) or not isinstance(pos, int) or not -n <= pos < n:
            raise AnalysisError(f"there is no position {pos!r:.40} in {n} tokens")
        rows.append(record(engine.model, tokens, [name])[name][0, pos].double())
    return rows[1] - rows[0]


def _whole(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _unit(numbers: Tensor) -> Float[Tensor, " d_model"]:
    wide = numbers.detach().double()
    return wide / wide.norm()
