"""All neurons of a search in little room: whole numbers and places in one text, which the page's script unpacks.

A number is kept as it is shown: `peak` in hundredths, so that 292 is 2.92. Excerpts are places in a text that is there
once, and their activations are shades. So 2,000 neurons with eight excerpts each take half a megabyte. Where even that
is too much, neurons show fewer excerpts, and then fewer neurons are shown, those whose peaks stand out most.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.reporting.blocks import LEVELS, NeuronTable
from nanogpt_lens.results import NeuronSearch, SeparatingNeurons
from nanogpt_lens.viz.tokens import visible

BUDGET = 1_200_000
"""Characters of the page that the table takes at most."""

HEIGHTS = 31
"""The highest bar of a histogram."""

_DETAILS = ((6, 2, 5), (4, 1, 5), (3, 1, 3), (2, 0, 3), (1, 0, 3))
"""Highest excerpts, lowest excerpts, and tokens each way that a neuron shows: as many as fit."""


def packed_neurons(
    search: NeuronSearch,
    separating: Mapping[str, SeparatingNeurons],
    listed: Sequence[tuple[int, int, str]] = (),
    *,
    kept: Sequence[int] | None = None,
    budget: int = BUDGET,
) -> NeuronTable:
    """The neurons of a search, in at most `budget` characters of base64.

    Args:
        search: of all neurons, on a text that is not much longer than some 100,000 tokens.
        separating: by what a class is called, how well neurons separate it.
        listed: (layer, neuron, why) of those that stand first, at indices of the search.
        kept: the places of some neurons, as `kept_first` gives them; None for all.
        budget: characters; fewer details and then fewer neurons are kept where all do not fit.
    """
    order = kept_first(search, listed) if kept is None else kept
    first = {(layer, neuron) for layer, neuron, _ in listed}
    made = _packed(search, separating, listed, order, _DETAILS[0])
    for details in _DETAILS[1:]:
        if len(made.packed) <= budget:
            return made
        made = _packed(search, separating, listed, order, details)
    n = len(order)
    while n > max(1, len(first)) and len(made.packed) > budget:
        n = max(1, len(first), int(n * 0.95 * budget / len(made.packed)))
        made = _packed(search, separating, listed, order[:n], _DETAILS[-1])
    return made


def kept_first(search: NeuronSearch, listed: Sequence[tuple[int, int, str]] = ()) -> list[int]:
    """The places of all neurons, those first that are kept first: the listed ones, then those whose peaks stand out."""
    width = search.shape["neuron"]
    first = dict.fromkeys(layer * width + neuron for layer, neuron, _ in listed)
    salient = deviations(search).flatten().argsort(descending=True, stable=True).tolist()
    return [*first, *(i for i in salient if i not in first)]


def deviations(search: NeuronSearch) -> Float[Tensor, "layer neuron"]:
    """How many standard deviations each neuron's highest activation is above its mean; 0 where it never changes."""
    spread = search.variance.double().clamp_min(0).sqrt()
    above = (search.values.double() - search.mean.double()) / spread.clamp_min(1e-12)
    return torch.where(spread > 1e-6, above, 0.0)


def _packed(
    search: NeuronSearch,
    separating: Mapping[str, SeparatingNeurons],
    listed: Sequence[tuple[int, int, str]],
    kept: Sequence[int],
    details: tuple[int, int, int],
) -> NeuronTable:
    """Some neurons, at indices of all, with some details."""
    n_top, n_low, n_tokens = details
    rows = torch.tensor(sorted(kept))
    place = {int(row): i for i, row in enumerate(rows)}
    width = search.shape["neuron"]

    def of(tensor: Tensor) -> Tensor:  # [layer, neuron, ...] to [kept, ...]
        return rearrange(tensor, "layer neuron ... -> (layer neuron) ...")[rows]

    arrays, vocabulary = _texts(search, of, n_top, n_low, n_tokens)
    classes, best = _classes(separating, of)
    arrays |= {**_numbers(search, of), **best, "histogram": _heights(of(search.histogram))}
    arrays["site"] = rows.numpy().astype("<i4")
    data, layout = _joined(arrays)
    header = {
        "layers": [int(name) for name in search.labels["layer"]],
        "width": width,
        "kind": search.unit_kind,
        "arrays": layout,
        "tokens": [visible(search.vocabulary[i], spaces=False, breaks=False) for i in vocabulary.tolist()],
        "separator": "" if _has_text(search) else " ",
        "classes": classes,
        "listed": [[place[layer * width + neuron], why] for layer, neuron, why in listed],
        "total": search.values.numel(),
    }
    return NeuronTable(
        header=header,
        packed=base64.b64encode(gzip.compress(data, 6, mtime=0)).decode(),
        n=len(rows),
        total=search.values.numel(),
        excerpts=min(n_top, search.top_values.shape[-1]),
    )


def _has_text(search: NeuronSearch) -> bool:
    """Whether tokens are more than ids."""
    return search.vocabulary != tuple(map(str, range(len(search.vocabulary))))


def _numbers(search: NeuronSearch, of: Any) -> dict[str, np.ndarray]:
    """What the columns and the facts of a neuron show, as whole numbers."""
    quantile = dict(zip(search.probabilities, search.quantiles.unbind(-1), strict=True))
    values = {
        "peak": (search.values, 100),
        "above": (1 - search.sparsity.double(), 1000),
        "deviations": (deviations(search), 10),
        "mean": (search.mean, 1000),
        "sd": (search.variance.double().clamp_min(0).sqrt(), 1000),
        "median": (quantile[0.5], 1000),
        "high": (quantile[0.99], 1000),
        "bounds": (search.bounds, 100),
    }
    return {name: _whole(of(tensor), times) for name, (tensor, times) in values.items()}


def _texts(
    search: NeuronSearch, of: Any, n_top: int, n_low: int, n_tokens: int
) -> tuple[dict[str, np.ndarray], Int[np.ndarray, " kept"]]:
    """Excerpts as places in one text with shades, and promoted tokens; and the ids whose text is needed."""
    n_top, n_low = min(n_top, search.top_values.shape[-1]), min(n_low, search.low_values.shape[-1])

    def both(name: str) -> Tensor:  # [kept, excerpt, ...]
        high, low = (of(getattr(search, f"{which}_{name}")) for which in ("top", "low"))
        return torch.cat([high[:, :n_top], low[:, :n_low]], 1)

    ends = {name: both(name) for name in ("values", "starts", "positions", "tokens", "activations")}
    there, inside = ends["starts"] >= 0, ends["tokens"] >= 0
    length = (inside.sum(-1) * there).numpy()
    text, starts = _one_text(ends["starts"].numpy(), ends["tokens"].numpy(), length)
    largest = torch.maximum(of(search.top_values)[:, 0].abs(), of(search.low_values)[:, 0].abs())[:, None, None]
    shades = (ends["activations"].double() / largest.double().clamp_min(1e-12)).clamp(-1, 1).nan_to_num(0)
    flat = torch.round(shades * LEVELS)[inside & there[..., None]]
    promoted = {name: of(getattr(search, name))[:, :n_tokens].numpy() for name in ("promoted", "suppressed")}
    logits = {f"{name}_logits": _whole(of(getattr(search, f"{name}_logits"))[:, :n_tokens], 100) for name in promoted}
    needed = np.unique(np.concatenate([text, *(ids.ravel() for ids in promoted.values())]))
    ids = {name: np.searchsorted(needed, ids) for name, ids in {"text": text, **promoted}.items()}
    kind = "<u2" if len(needed) < 2**16 else "<i4"
    peaks = np.where(there.numpy(), (ends["positions"] - ends["starts"]).numpy(), 0)
    return {
        **{name: tokens.astype(kind) for name, tokens in ids.items()},
        **logits,
        "starts": starts.astype("<i4"),
        "lengths": length.astype("u1" if length.max(initial=0) < 256 else "<u2"),
        "peaks": peaks.astype("u1" if length.max(initial=0) < 256 else "<u2"),
        "values": _whole(torch.where(there, ends["values"], 0.0), 100),
        "shades": (flat + LEVELS).numpy().astype("u1"),
        "split": np.array([n_top, n_low], "<i4"),
    }, needed


def _one_text(
    starts: Int[np.ndarray, "kept k"], tokens: Int[np.ndarray, "kept k window"], length: Int[np.ndarray, "kept k"]
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, "kept k"]]:
    """The text that excerpts are of, without what none shows, and where each begins in it."""
    size = int((starts + length).max(initial=0))
    text = np.full(size, -1, np.int64)
    for j in range(tokens.shape[-1]):
        here = length > j
        text[starts[here] + j] = tokens[..., j][here]
    used = text >= 0
    place = np.cumsum(used) - 1
    return text[used], np.where(length > 0, place[np.clip(starts, 0, max(0, size - 1))] if size else 0, -1)


def _classes(
    separating: Mapping[str, SeparatingNeurons], of: Any
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """The classes; and of each neuron the one that it separates best, and how well on text that had no part in that.

    Best: furthest above the class's own chance, or the class on which chance does best would be chosen most.
    """
    if not separating:
        return [], {}
    best = torch.stack([of(result.separation) - result.chance for result in separating.values()]).argmax(0)
    held = torch.stack([of(result.held_out) for result in separating.values()]).gather(0, best[None])[0]
    sign = torch.stack([of(result.sign) for result in separating.values()]).gather(0, best[None])[0]
    classes = [{"name": name, "chance": round(float(result.chance), 3)} for name, result in separating.items()]
    return classes, {
        "class": best.numpy().astype("u1"),
        "auroc": _whole(held, 1000),
        "higher": (sign > 0).numpy().astype("u1"),
    }


def _heights(counts: Shaped[Tensor, "kept bin"]) -> np.ndarray:
    """Heights of the bars of histograms, the logarithm of the count."""
    logs = counts.double().log1p()
    return torch.round(HEIGHTS * logs / logs.amax(-1, keepdim=True).clamp_min(1e-12)).numpy().astype("u1")


def _whole(values: Float[Tensor, " ..."], times: int) -> np.ndarray:
    """Numbers as whole ones, `times` as large; nan is the least that there is."""
    scaled = torch.round(values.double() * times).clamp(-(2**31) + 2, 2**31 - 2)
    return torch.where(scaled.isnan(), -(2.0**31) + 1, scaled).numpy().astype("<i4")


def _joined(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, list[list[Any]]]:
    """Arrays one behind the other, the bytes of one weight together; and of each its name, item size, kind, shape."""
    pieces: list[bytes] = []
    layout: list[list[Any]] = []
    for name, array in arrays.items():
        each = array.dtype.itemsize
        planes = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).reshape(-1, each).T
        pieces.append(np.ascontiguousarray(planes).tobytes())
        layout.append([name, each, array.dtype.kind, list(array.shape)])
    return b"".join(pieces), layout
