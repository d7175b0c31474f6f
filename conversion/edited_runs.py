"""Many edits of one model in few runs: each edit has rows of its own.

Examples of a batch know nothing of each other, so that a hook may change some rows and leave the others. The converted
model runs whole, from tokens, as those who edit it run it. In the native model what comes before an edited layer is
the same in all rows: it is computed once, without edits, and runs begin with the residual stream that enters that
layer. Each run carries the plain examples along as its first rows. If these do not give what the plain run of the
model itself gave, it cannot begin at a layer, and its other edits are made in whole runs too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.native import Edit
from conversion.reference import Reference

NamedEdit: TypeAlias = tuple[str, Edit]
"""The name of a hook, and what is done to its activation."""

Logits: TypeAlias = Float[Tensor, "example pos d_vocab"]

SAME = {torch.float64: 1e-10, torch.float32: 1e-5}
"""The largest difference of the plain rows from the plain run, relative to the largest logit, at which runs may begin
at a layer."""

_TOKENS = 2048  # of a run, at most, where the vocabulary is small
_NUMBERS = 3 * 2**23  # logits of a run, at most: 192 MiB in float64
_KEPT = 2**23  # logits of edits that are kept for the next question, at most


class EditedSide(Protocol):
    """A model that edits are made in, and whether its runs can begin at a layer."""

    n_layers: int
    can_begin_at_layers: bool

    def whole(self, tokens: Int[Tensor, "row pos"], edits: Mapping[str, Edit]) -> Logits:
        """The logits of a run from the embedding on."""
        ...

    def rest(self, stream: Float[Tensor, "row pos d_model"], layer: int, edits: Mapping[str, Edit]) -> Logits:
        """The logits of a run that begins with the residual stream before a layer; `n_layers` is behind the last."""
        ...


class NativeSide:
    """A native model."""

    def __init__(self, reference: Reference, n_layers: int) -> None:
        self.reference, self.n_layers = reference, n_layers
        self.can_begin_at_layers = reference.can_begin_at_layers

    def whole(self, tokens: Int[Tensor, "row pos"], edits: Mapping[str, Edit]) -> Logits:
        """See `EditedSide`."""
        return self.reference.logits(tokens, edits)

    def rest(self, stream: Float[Tensor, "row pos d_model"], layer: int, edits: Mapping[str, Edit]) -> Logits:
        """See `EditedSide`."""
        return self.reference.rest(stream, layer, edits)


class ConvertedSide:
    """A HookedTransformer or a TransformerBridge, which is judged as it is used: in whole runs, from tokens.

    A run with `start_at_layer=` is another way through the model, and may be right where this one is wrong.
    """

    can_begin_at_layers = False

    def __init__(self, model: Any, n_layers: int) -> None:
        self.model, self.n_layers = model, n_layers

    def whole(self, tokens: Int[Tensor, "row pos"], edits: Mapping[str, Edit]) -> Logits:
        """See `EditedSide`."""
        hooks = [(name, as_hook(edit)) for name, edit in edits.items()]
        return self.model.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")

    def rest(self, stream: Float[Tensor, "row pos d_model"], layer: int, edits: Mapping[str, Edit]) -> Logits:
        """See `EditedSide`; nobody asks for it."""
        raise AssertionError("the converted model is judged in whole runs")


def as_hook(function: Edit) -> Callable[..., Float[Tensor, "example ..."] | None]:
    """A function of an activation as TransformerLens calls hooks."""
    return lambda value, hook: function(value)


def edited_logits(side: EditedSide, tokens: Int[Tensor, "example pos"], edits: Sequence[NamedEdit]) -> Iterator[Logits]:
    """Yield the logits under each of the edits alone, in their order, which should be that of the computation."""
    streams, plain = _plain_run(side, tokens)
    n = len(tokens)
    most = max(1, min(_TOKENS, _NUMBERS // plain.shape[-1]) // tokens.numel() - 1)
    for layer, chunk in _chunks(edits, side.n_layers, most, by_layer=streams is not None):
        if layer < 0:  # a model may have one row for all examples here, and the edit has the run for itself
            yield side.whole(tokens, dict(chunk))
            continue
        copies = len(chunk) + 1
        at_rows = _in_rows(chunk, n)
        logits = None
        if streams is not None:
            logits = side.rest(streams[layer].repeat(copies, 1, 1), layer, at_rows)
            if not _same(logits[:n], plain):
                streams = logits = None
        if logits is None:
            logits = side.whole(tokens.repeat(copies, 1), at_rows)
        yield from logits.split(n)[1:]


class ExactEdits:
    """The logits under each of some edits, computed where they are asked for, together with those of the next edits.

    Args:
        side: gives the model that edits are made in.
        tokens, edits: as for `edited_logits`.
    """

    def __init__(
        self, side: Callable[[], EditedSide], tokens: Int[Tensor, "example pos"], edits: Sequence[NamedEdit]
    ) -> None:
        self._side, self._tokens, self._edits = side, tokens, edits
        self._first, self._kept = 0, list[Logits]()

    def __call__(self, i: int) -> Logits:
        """The logits under the i-th edit, counted from 0."""
        if not self._first <= i < self._first + len(self._kept):
            self._kept.clear()
            for logits in edited_logits(self._side(), self._tokens, self._edits[i : i + 32]):
                self._kept.append(logits.clone())
                if (len(self._kept) + 1) * logits.numel() > _KEPT:
                    break
            self._first = i
        return self._kept[i - self._first]


def _plain_run(side: EditedSide, tokens: Int[Tensor, "example pos"]) -> tuple[list[Tensor] | None, Logits]:
    """The residual stream before each layer and behind the last in a run without edits, and its logits.

    None in place of the streams where runs cannot begin at a layer.
    """
    if not side.can_begin_at_layers:
        return None, side.whole(tokens, {})
    streams: dict[str, Tensor] = {}

    def keeper(name: str) -> Edit:
        return lambda value: streams.__setitem__(name, value.detach().clone())

    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(side.n_layers)]
    names += [f"blocks.{side.n_layers - 1}.hook_resid_post"]
    plain = side.whole(tokens, {name: keeper(name) for name in names})
    return [streams[name] for name in names], plain


def _same(logits: Logits, plain: Logits) -> bool:
    """Whether two runs gave the same but for rounding."""
    if logits.dtype not in SAME or logits.shape != plain.shape:
        return False
    return bool((logits - plain).abs().max() <= SAME[logits.dtype] * plain.abs().max().clamp_min(1.0))


def _chunks(
    edits: Sequence[NamedEdit], n_layers: int, most: int, *, by_layer: bool
) -> Iterator[tuple[int, list[NamedEdit]]]:
    """The edits in parts of at most `most`, each with the layer that its run may begin at: -1 for the embedding.

    Unless `by_layer`, edits of several layers share a run, which begins at none of them.
    """
    chunk: list[NamedEdit] = []
    layer = -1
    for name, edit in edits:
        here = int(name.split(".")[1]) if name.startswith("blocks.") else n_layers if "ln_final" in name else -1
        here = here if by_layer else min(here, 0)
        if chunk and (here != layer or len(chunk) >= (most if layer >= 0 else 1)):
            yield layer, chunk
            chunk = []
        layer = here
        chunk.append((name, edit))
    if chunk:
        yield layer, chunk


def _in_rows(edits: Sequence[NamedEdit], n: int) -> dict[str, Edit]:
    """Edits by hook that make the i-th of some edits, counted from 1, in the i-th `n` rows alone."""
    places: dict[str, list[tuple[slice, Edit]]] = {name: [] for name, _ in edits}
    for i, (name, edit) in enumerate(edits, start=1):
        places[name].append((slice(i * n, (i + 1) * n), edit))
    return {name: _in_slices(slices) for name, slices in places.items()}


def _in_slices(slices: Sequence[tuple[slice, Edit]]) -> Edit:
    """An edit that makes edits in some rows each, and leaves the others."""

    def edit(value: Float[Tensor, "row ..."]) -> Float[Tensor, "row ..."]:
        edited = value.clone()
        for rows, function in slices:
            part = function(value[rows])
            if part is not None:
                edited[rows] = part
        return edited

    return edit
