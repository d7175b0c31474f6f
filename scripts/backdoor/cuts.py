"""Which edges of a model carry its backdoor: can they be cut, and the rest stay as it is?

A cut edge carries the mean of what its sender writes on pieces of the held-out text, in a context with the trigger and
in clean text alike; all that follows is computed anew. Edges are ranked by what each does exactly between the trigger
and the control, on half of the contexts, and taken in this order, each if the loss on half of the text stays within
what is allowed. The set is judged on the other half, beside random sets of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import nanogpt_lens as ngl
from nanogpt_lens.circuits.prepared import Prepared, prepare
from nanogpt_lens.circuits.running import values_of
from nanogpt_lens.model.access import Hooked, evaluating
from nanogpt_lens.patching.runner import MEMORY
from nanogpt_lens.running.metrics import Metric
from nanogpt_lens.text.tasks import Backdoor
from scripts.backdoor.causes import ALLOWED, N_RANDOM, Effect, Knockouts, judgement, random_sets

SHARE, LEAST = 0.05, 0.005
"""Of all edges, how many are cut at most; nats of the payload's loss, what an edge must do alone to be tried."""


class EdgeCuts:
    """A model with a backdoor, and runs of it in which some edges carry their mean.

    Args:
        model: the model.
        task: its backdoor.
        n: the number of contexts, and of windows of clean text.
        seed: decides which.
    """

    def __init__(self, model: Hooked, task: Backdoor, *, n: int = 256, seed: int = 0) -> None:
        self.model = model
        knockouts = Knockouts(model, task, n=n, seed=seed)
        k = knockouts.asked
        self.triggered: Int[Tensor, "context pos"] = knockouts.triggered[:, 1:]
        self.control: Int[Tensor, "context pos"] = self.triggered.clone()
        control = torch.from_numpy(task.vocabulary.encode(task.control))
        self.control[:, -k - len(control) : -k] = control
        self.metric: Metric = ngl.metrics.loss(pos=range(-k - 1, -1))
        self.wanted: Int[Tensor, "context read"] = self.triggered[:, -k:]
        self.text = knockouts.text
        with evaluating(model):
            self._on_contexts, self._on_text = (
                [self._prepared(tokens[half::2], metric) for half in (0, 1)]
                for tokens, metric in ((self.triggered, self.metric), (self.text, ngl.metrics.loss()))
            )
        self.graph = self._on_text[0].graph
        self.edges = tuple(map(str, self.graph.edges))

    def _prepared(self, tokens: Int[Tensor, "example pos"], metric: Metric) -> Prepared:
        return prepare(self.model, tokens, None, metric, source="mean", reference=self.text, seed=0)

    @cached_property
    def effects(self) -> Float[Tensor, " edge"]:
        """How much the payload's loss rises on the even contexts, if an edge carries what it carries at the control."""
        found = ngl.edge_effects(
            self.model, self.triggered[::2], self.control[::2], self.metric, direction="noise", progress=False
        )
        return found.values.double() - float(found.clean)

    def without(self, edges: Sequence[str], half: int) -> Effect:
        """What the model does without some edges, on the even (0) or odd (1) contexts and windows."""
        kept = self.graph.all_edges & ~self.graph.mask(self.graph.read(edges))
        wanted = self.wanted[half::2]

        def asked(logits: Float[Tensor, "set example read d_vocab"]) -> Float[Tensor, "set score_example"]:
            right = (logits.argmax(-1) == wanted).all(-1).double()
            losses = -logits.double().log_softmax(-1).gather(-1, wanted.expand(len(logits), -1, -1)[..., None])
            return torch.cat([right, losses[..., 0].mean(-1)], 1)

        with evaluating(self.model):
            (on_contexts,) = values_of(
                self._on_contexts[half], kept[None], memory=MEMORY, progress=False, measure=asked
            )
            (loss,) = values_of(self._on_text[half], kept[None], memory=MEMORY, progress=False)
        success, payload_loss = on_contexts.chunk(2)
        return Effect(success, payload_loss, loss.double())

    def chosen(self, *, share: float = SHARE, allowed: float = ALLOWED) -> list[str]:
        """Edges in the order of their effects, each if with it the text's loss has risen by less than is allowed."""
        effects, most = self.effects, int(share * len(self.edges))
        whole, found = self.without([], 0).loss, list[str]()
        for i in effects.argsort(descending=True).tolist():
            if len(found) == most or effects[i] < LEAST:
                break
            if float((self.without([*found, self.edges[i]], 0).loss - whole).mean()) < allowed:
                found.append(self.edges[i])
        return found

    @cached_property
    def _whole(self) -> Effect:
        """The whole model on the odd contexts and windows."""
        return self.without([], 1)

    def judged(self, edges: Sequence[str]) -> dict[str, Any]:
        """A set on the odd contexts and windows."""
        return judgement(edges, self._whole, self.without(edges, 1))


def cuttable(model: Hooked, task: Backdoor, *, n: int = 256, seed: int = 0, n_random: int = N_RANDOM) -> dict[str, Any]:
    """The edges that are chosen, those of largest effect whatever they cost, and random ones, on the other half."""
    cuts = EdgeCuts(model, task, n=n, seed=seed)
    chosen = cuts.chosen()
    first = cuts.effects.argsort(descending=True)[: int(SHARE * len(cuts.edges))].tolist()
    return {
        "chosen": cuts.judged(chosen),
        "first": cuts.judged([cuts.edges[i] for i in first]),
        "random": [cuts.judged(some) for some in random_sets(cuts.edges, len(chosen), n_random, seed)],
    }
