"""Path patching: the effect of senders on receivers along the direct paths between them.

The definition is that of Wang et al. 2022 ("Interpretability in the Wild", the IOI paper), after
Goldowsky-Dill et al. 2023. For each group of senders and of receivers:

1. run both texts;
2. run the text that is patched once more, the senders' outputs replaced by the other run's and all
   other heads (and, on request, MLPs) frozen at this run's own; note what then enters the receivers;
3. run it a third time, only the receivers' inputs replaced by what was noted, all else computed anew.

LayerNorms are computed anew everywhere, nothing is linearised. In step 3 the input of "logits" is
the stream plus the change that was noted, so that it can stand in a group with other receivers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.choices import Direction
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.nodes import Node, Nodes, entry_hook, is_before, label, receivers_of, senders_of
from nanogpt_lens.model.access import Edit, Hooked, Text, evaluating, has_hooks, provenance, record
from nanogpt_lens.patching.runner import CHUNK_TOKENS, MEMORY
from nanogpt_lens.patching.runs import (
    check_direction,
    fields_of_examples,
    pair_of,
    position_labels,
    run_copies,
    run_value,
)
from nanogpt_lens.results import PatchingResult, Sample
from nanogpt_lens.running.metrics import BoundMetric, Metric, bind


def path_patching(
    model: Hooked,
    clean: Text,
    corrupted: Text,
    metric: Metric | Callable[[Tensor], Any],
    *,
    senders: str | Sequence[Nodes],
    receivers: str | Sequence[Nodes],
    direction: Direction = "denoise",
    positions: Literal["all", "each"] | int | Sequence[int] = "all",
    receiver_positions: int | Sequence[int] | None = None,
    freeze_mlps: bool = False,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = True,
) -> PatchingResult:
    """Patch the direct paths from senders to receivers.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        clean, corrupted, metric, direction: as for `activation_patching`. The IOI paper's direction
            is "noise".
        senders: "heads", "mlps", or a list of nodes ("embed", "0.1", "mlp0"), each measured on its
            own; a list within the list is patched together.
        receivers: "logits", "heads", "mlps", or a list of nodes ("1.0.k", "1.0", "mlp1", "logits"), likewise.
        positions: where the senders are patched: "all", some of them together, or "each" on its own,
            which gives the result an axis `pos`.
        receiver_positions: where the receivers' inputs are patched; None for all.
        freeze_mlps: also freeze the MLPs between senders and receivers, so that only the very
            direct paths remain; the IOI paper does not.
        seed: the seed of the flips that `p` is made of.
        memory: the bytes for the patched runs of a chunk.
        progress: show a bar.

    Returns:
        `values` with the axes sender, receiver, and perhaps pos. A sender behind its receiver has
        no effect.

    Raises:
        AnalysisError: texts of different shapes, an unknown node, position or direction, a metric
            that does not fit.
    """
    check_direction(direction)
    with evaluating(model):
        first, second = pair_of(model, clean, corrupted)
        if second is None:
            raise AnalysisError("path patching needs a corrupted text; give one of the clean text's length")
        base, source = (second, first) if direction == "denoise" else (first, second)
        bound = bind(metric, model, first)
        patcher = _PathPatcher(model, base, source, bound, freeze_mlps, receiver_positions, memory)
        groups, ends = senders_of(model, senders), receivers_of(model, receivers)
        masks = _position_masks(positions, first.shape[1])
        per_example = patcher.values(groups, ends, masks, progress=progress)
        values = [run_value(bound, kept["logits"]) for kept in (patcher.source, patcher.base)]
    axes = ("sender", "receiver", "pos") if positions == "each" else ("sender", "receiver")
    per_example = per_example if positions == "each" else per_example.squeeze(2)
    names = {"sender": tuple(map(label, groups)), "receiver": tuple(map(label, ends))}
    return PatchingResult(
        **fields_of_examples(bound, patcher.base["logits"], per_example),
        axes=axes,
        labels=names | position_labels(model, first, second, axes),
        quantity=f"{bound.definition} after patching paths",
        definition=(
            f"path patching (Wang et al. 2022), {direction}: direct paths from sender to receiver, all other heads "
            f"{'and MLPs ' if freeze_mlps else ''}between them frozen, {'' if freeze_mlps else 'MLPs and '}LayerNorms "
            "computed anew"
        ),
        patched="paths",
        sample=Sample(seed=seed),
        provenance=provenance(
            model,
            direction=direction,
            positions=positions if isinstance(positions, str) else torch.as_tensor(positions).tolist(),
            receiver_positions=None if receiver_positions is None else torch.as_tensor(receiver_positions).tolist(),
            freeze_mlps=freeze_mlps,
            seed=seed,
            clean=first.tolist(),
            corrupted=second.tolist(),
        ),
        clean=values[0] if direction == "denoise" else values[1],
        corrupted=values[1] if direction == "denoise" else values[0],
        direction=direction,
    )


def _position_masks(positions: str | int | Sequence[int], n_pos: int) -> Bool[Tensor, "choice pos"]:
    """Masks of the positions at which the senders are patched.

    Raises:
        AnalysisError: `positions` is neither a known word nor positions of the text.
    """
    if isinstance(positions, str):
        if positions not in ("all", "each"):
            raise AnalysisError(f"positions is {positions!r}; expected 'all', 'each', or a list of positions")
        return torch.ones(1, n_pos, dtype=torch.bool) if positions == "all" else torch.eye(n_pos, dtype=torch.bool)
    return _position_mask(positions, n_pos)[None]


def _position_mask(positions: int | Sequence[int], n_pos: int) -> Bool[Tensor, " pos"]:
    """A mask of some positions.

    Raises:
        AnalysisError: there is no position, or one that the text does not have.
    """
    some = list(positions) if isinstance(positions, Sequence) else [positions]
    for p in some:
        if isinstance(p, bool) or not isinstance(p, int) or not -n_pos <= p < n_pos:
            raise AnalysisError(f"there is no position {p!r}; expected {-n_pos} to {n_pos - 1}")
    if not some:
        raise AnalysisError("no position is given; expected at least one")
    mask = torch.zeros(n_pos, dtype=torch.bool)
    mask[some] = True
    return mask


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some sites: a group of senders, and for each site the positions at which they are patched."""

    senders: tuple[Node, ...]
    mask: Bool[Tensor, "site pos"]

    def rows(self, value: Float[Tensor, "example ..."]) -> Float[Tensor, "row ..."]:
        """The examples of each site, one site after the other; without a copy where there is one site."""
        return value.expand(len(self.mask), *value.shape).flatten(0, 1)

    def mixed(
        self, inside: Float[Tensor, "example pos ..."], outside: Float[Tensor, "row pos ..."]
    ) -> Float[Tensor, "row pos ..."]:
        """`inside` at the positions of each site's mask, and `outside` elsewhere."""
        mask = self.mask.to(outside.device)[:, None]
        kept = outside.unflatten(0, (len(self.mask), -1))
        return torch.where(mask.reshape(*mask.shape, *(1,) * (inside.dim() - 2)), inside, kept).flatten(0, 1)


class _PathPatcher:
    """Both runs, and the two patched ones for every chunk."""

    def __init__(
        self,
        model: Hooked,
        base: Int[Tensor, "example pos"],
        source: Int[Tensor, "example pos"],
        metric: BoundMetric,
        freeze_mlps: bool,
        receiver_positions: int | Sequence[int] | None,
        memory: int,
    ) -> None:
        self.model, self.tokens, self.metric, self.freeze_mlps = model, base, metric, freeze_mlps
        self.n_layers: int = model.cfg.n_layers
        layers = [f"blocks.{i}." for i in range(self.n_layers)]
        written = ["hook_embed", *(name + hook for name in layers for hook in ("attn.hook_z", "hook_mlp_out"))]
        kept = [name + hook for name in layers for hook in ("hook_resid_pre", "hook_resid_post")]
        self.base = record(model, base, [*written, *kept])
        self.source = record(model, source, written)
        self.memory, self.observed = memory, has_hooks(model)
        self.inside = (
            torch.ones(base.shape[1], dtype=torch.bool)
            if receiver_positions is None
            else _position_mask(receiver_positions, base.shape[1])
        ).to(base.device)

    def values(
        self,
        senders: list[tuple[Node, ...]],
        receivers: list[tuple[Node, ...]],
        masks: Bool[Tensor, "choice pos"],
        *,
        progress: bool,
    ) -> Float[Tensor, "sender receiver choice example"]:
        """The metric of every path, for every choice of the positions at which the senders are patched."""
        plain = self.metric.of_run(self.base["logits"])
        out = plain.expand(len(senders), len(receivers), len(masks), -1).clone()
        readers = list(dict.fromkeys(node for group in receivers for node in group))
        total = len(senders) * len(masks)
        with tqdm(total=total, desc="path patching", unit="sender", delay=1, disable=not progress) as bar:
            for i, group in enumerate(senders):
                first = min(node.layer for node in group)
                for places in self._chunks(len(masks)):
                    chunk = _Chunk(group, masks[places])
                    inputs = self._inputs(chunk, readers, first)
                    for j, ends in enumerate(receivers):
                        if any(is_before(sender, end) for sender in group for end in ends):
                            out[i, j, places] = self._patched_metric(chunk, ends, inputs).to(out.dtype)
                    bar.update(len(places))
        return out

    def _chunks(self, n_choices: int) -> Iterator[Int[Tensor, " choice"]]:
        """Yield the numbers of choices that are run together."""
        cfg, (n_examples, n_pos) = self.model.cfg, self.tokens.shape
        n_floats = n_pos * (14 * cfg.d_model + 4 * cfg.d_mlp + 3 * cfg.n_heads * n_pos + 3 * cfg.d_vocab)
        n_bytes = n_examples * n_floats * self.base["logits"].element_size()
        n = 1 if self.observed else max(1, min(CHUNK_TOKENS // (n_examples * n_pos), self.memory // n_bytes))
        yield from torch.arange(n_choices).split(n)

    def _inputs(self, chunk: _Chunk, receivers: Sequence[Node], first: int) -> dict[Node, Float[Tensor, "row pos ..."]]:
        """Step 2: what enters each receiver when the senders are patched and the rest is frozen."""
        edits: dict[str, Edit] = {}
        for layer in range(max(first, 0), self.n_layers):
            heads = [node.head for node in chunk.senders if node.kind == "head" and node.layer == layer]
            edits[f"blocks.{layer}.attn.hook_z"] = self._freeze_heads(chunk, layer, heads)
            patched = Node("mlp", layer) in chunk.senders
            if patched or self.freeze_mlps:
                edits[f"blocks.{layer}.hook_mlp_out"] = self._freeze_mlp(chunk, layer, patched)
        if first < 0:
            source = self.source["hook_embed"]
            edits["hook_embed"] = lambda value: chunk.mixed(source, value)
        noted: dict[str, Float[Tensor, "row pos ..."]] = {}
        for name in {self._hook(node) for node in receivers if node.layer >= max(first, 0)}:
            edits[name] = _edit_that_notes(noted, name)
        self._run(chunk, edits, first)
        inputs = {node: noted[self._hook(node)] for node in receivers if self._hook(node) in noted}
        return {node: value[:, :, node.head] if node.kind == "head" else value for node, value in inputs.items()}

    def _freeze_heads(self, chunk: _Chunk, layer: int, heads: list[int]) -> Edit:
        """An edit that keeps a layer's heads as they are in the base run, but for the senders among them."""
        name = f"blocks.{layer}.attn.hook_z"

        def edit(value: Tensor) -> Tensor:
            frozen = chunk.rows(self.base[name])
            if not heads:
                return frozen
            frozen = frozen.clone()
            frozen[:, :, heads] = chunk.mixed(self.source[name][:, :, heads], frozen[:, :, heads])
            return frozen

        return edit

    def _freeze_mlp(self, chunk: _Chunk, layer: int, patched: bool) -> Edit:
        """An edit of an MLP's output, which is patched where the MLP is a sender, and frozen if all MLPs are."""
        name = f"blocks.{layer}.hook_mlp_out"

        def edit(value: Tensor) -> Tensor:
            rest = chunk.rows(self.base[name]) if self.freeze_mlps else value
            return chunk.mixed(self.source[name], rest) if patched else rest

        return edit

    def _patched_metric(
        self, chunk: _Chunk, receivers: Sequence[Node], inputs: dict[Node, Float[Tensor, "row pos ..."]]
    ) -> Float[Tensor, "site example"]:
        """Step 3: the metric of runs whose receivers read what was noted."""
        present = [node for node in receivers if node in inputs]
        by_hook = {self._hook(node): [n for n in present if self._hook(n) == self._hook(node)] for node in present}
        edits = {name: self._replace_inputs(chunk, nodes, inputs) for name, nodes in by_hook.items()}
        logits = self._run(chunk, edits, min(min(node.layer for node in present), self.n_layers - 1))
        return self.metric(logits[:, :, list(self.metric.reads)])

    def _replace_inputs(
        self, chunk: _Chunk, nodes: Sequence[Node], inputs: dict[Node, Float[Tensor, "row pos ..."]]
    ) -> Edit:
        """An edit of a hook point that gives receivers the inputs that were noted."""

        def edit(value: Tensor) -> Tensor:
            patched = value.clone()
            for node in nodes:
                noted = inputs[node][:, self.inside]
                if node.kind == "logits":
                    patched[:, self.inside] += noted - chunk.rows(self._final())[:, self.inside]
                elif node.kind == "head":
                    patched[:, self.inside, node.head] = noted
                else:
                    patched[:, self.inside] = noted
            return patched

        return edit

    def _final(self) -> Float[Tensor, "example pos d_model"]:
        """The residual stream of the base run after the last layer."""
        return self.base[f"blocks.{self.n_layers - 1}.hook_resid_post"]

    def _hook(self, node: Node) -> str:
        """The hook point at which a receiver's input is noted and replaced."""
        return entry_hook(node, self.n_layers)

    def _run(self, chunk: _Chunk, edits: dict[str, Edit], first: int) -> Float[Tensor, "site example pos d_vocab"]:
        """The logits of a run of all sites of a chunk, which begins at the first layer that is edited."""
        begin = first if first > 0 and not self.observed else None
        return run_copies(self.model, self.tokens, self.base, len(chunk.mask), edits, layer=begin)


def _edit_that_notes(noted: dict[str, Float[Tensor, "row pos ..."]], name: str) -> Edit:
    def edit(value: Tensor) -> None:
        noted[name] = value.clone()

    return edit
