"""Interventions at edges: one receiver reads something else of what one sender wrote, and nobody else sees it.

A receiver computes from the stream. With an edge changed it computes, at its positions, from the stream plus the
difference between what it is to read of the sender and what the sender wrote in this very run, other interventions
included. Differences of several senders add up; several interventions at one edge are made in their order. A head
writes its z times W_O, an MLP what it gives without its bias, and the embedding the stream before layer 0; all biases
belong to no sender and stay. LayerNorms are computed anew, nothing is linearised, as in `nanogpt_lens.circuits`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.fitting import as_tuple, positions_from_start, recorded_points
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.nodes import Node, edges_named, entry_hook, exit_hook, stream_hook
from nanogpt_lens.interventions.receiving import received, written_by
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import Edit, Hooked


def edge_edits(
    model: Hooked, interventions: Sequence[Intervention], values: SourceValues
) -> tuple[dict[str, Edit], dict[str, Edit]]:
    """By hook point what gives receivers what they read along edges, and what records the run for them."""
    changed = _ChangedEdges(model, interventions, values)
    return changed.entering(), changed.recording()


class _ChangedEdges:
    """The interventions at edges, and what they need of the run that goes on."""

    def __init__(self, model: Hooked, interventions: Sequence[Intervention], values: SourceValues) -> None:
        self.model, self.values, self.n_layers = model, values, model.cfg.n_layers
        self._names = {name for one in interventions for name in recorded_points(model, one)}
        self._run: dict[str, Float[Tensor, "example ..."]] = {}
        self._has_begun = False
        self._edges: dict[Node, list[tuple[Node, Intervention]]] = {}
        for one in interventions:
            for edge in edges_named(model, str(one.edge)):
                self._edges.setdefault(edge.receiver, []).append((edge.sender, one))
        self._receivers: dict[str, list[Node]] = {}
        for receiver in self._edges:
            self._receivers.setdefault(entry_hook(receiver, self.n_layers), []).append(receiver)
        self._still: set[str] = set(self._receivers)

    def recording(self) -> dict[str, Edit]:
        """Edits that note what senders write and the streams that receivers read, in runs that begin at the embedding.

        A bridge that starts at a later layer runs the layers before it on something else.
        """

        def begin(value: Float[Tensor, "example pos d_model"]) -> None:
            self._run.clear()
            self._has_begun = True

        def recording_at(name: str) -> Edit:
            def edit(value: Float[Tensor, "example ..."]) -> None:
                self._run[name] = value

            return edit

        return {"hook_embed": begin, **{name: recording_at(name) for name in self._names}} if self._names else {}

    def entering(self) -> dict[str, Edit]:
        """Edits that give receivers what they compute from what they read."""
        return {name: self._entering_at(name, receivers) for name, receivers in self._receivers.items()}

    def _entering_at(self, name: str, receivers: Sequence[Node]) -> Edit:
        def edit(value: Float[Tensor, "example pos ..."]) -> Float[Tensor, "example pos ..."]:
            changed = value.clone()
            for receiver in receivers:
                stream = value if receiver.kind == "logits" else self._noted(stream_hook(receiver, self.n_layers))
                inside, difference = self._difference(receiver, stream)
                new = received(self.model, receiver, stream + difference)[:, inside].to(value)
                index = (slice(None), inside, receiver.head) if receiver.kind == "head" else (slice(None), inside)
                changed[index] = new
            self._forget(name)
            return changed

        return edit

    def _difference(
        self, receiver: Node, stream: Float[Tensor, "example pos d_model"]
    ) -> tuple[Bool[Tensor, " pos"], Float[Tensor, "example pos d_model"]]:
        """At which positions a receiver reads something else, and what it reads more than the stream."""
        n_pos = stream.shape[1]
        anywhere = torch.zeros(n_pos, dtype=torch.bool, device=stream.device)
        wrote: dict[Node, Float[Tensor, "example pos d_model"]] = {}
        reads: dict[Node, Float[Tensor, "example pos d_model"]] = {}
        for sender, one in self._edges[receiver]:
            if sender not in wrote:
                wrote[sender] = reads[sender] = written_by(self.model, sender, self._noted(exit_hook(sender)[0]))
            inside = torch.zeros_like(anywhere)
            inside[list(positions_from_start(as_tuple(one.pos), n_pos)) or slice(None)] = True
            reads[sender] = torch.where(inside[:, None], self._replaced(one, sender, reads[sender]), reads[sender])
            anywhere |= inside
        difference = torch.stack([reads[sender] - written for sender, written in wrote.items()]).sum(0)
        return anywhere, difference

    def _replaced(
        self, one: Intervention, sender: Node, reads: Float[Tensor, "example pos d_model"]
    ) -> Float[Tensor, "example pos d_model"]:
        """What an intervention puts in the place of what is read of a sender."""
        if one.source == "zero":
            return torch.zeros_like(reads)
        if isinstance(one.source, str):
            name, kind = exit_hook(sender)
            value = self._noted(name)
            new = self.values.put(one.source, kind, name, value).to(value).expand_as(value)
            return written_by(self.model, sender, new)
        if "add" in one.source:
            direction = one.source["scale"] * torch.tensor(one.source["add"], dtype=torch.float64)
            return reads + direction.to(reads)
        return one.source["scale"] * reads

    def _noted(self, name: str) -> Float[Tensor, "example pos ..."]:
        """An activation of the run that goes on.

        Raises:
            AnalysisError: the run did not begin at the embedding.
        """
        if not self._has_begun or name not in self._run:
            raise AnalysisError(
                "an edge is changed, and what its sender writes is not known; expected a run that begins at the "
                "embedding, and not at a later layer"
            )
        return self._run[name]

    def _forget(self, name: str) -> None:
        """Forget the run as soon as its last receiver has read."""
        self._still.discard(name)
        if not self._still:
            self._run.clear()
            self._has_begun = False
            self._still.update(self._receivers)
