"""A control for patching: at the same place a change of the same size, in a random direction.

Patching a head moves its output by the difference between two runs. Any push of that size does something. What the
difference itself says is what it does beyond a push of its length in a direction that means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import Direction
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, Text, evaluating, provenance, run
from nanogpt_lens.patching.runs import SweepSetup, set_up
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.metrics import Metric

_RUN = 8192  # tokens of a run, about


def same_size_changes(
    model: Hooked,
    clean: Text,
    corrupted: Text,
    metric: Metric | Callable[[Tensor], Any],
    *,
    activation: str = "z",
    direction: Direction = "noise",
    draws: int = 20,
    seed: int = 0,
) -> Scores:
    """What random changes of an activation do that are as large as those of patching it.

    At each position, a place is moved by a vector in a random direction, as long as the difference that
    `activation_patching` would put there.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        clean, corrupted, metric, direction: as for `nanogpt_lens.activation_patching`.
        activation: "z", for each head, or "mlp_out", for each MLP.
        draws: how many random directions each place gets.
        seed: of the directions.

    Returns:
        Scores [draw, layer, head], or [draw, layer] of MLPs: the metric with the change minus that without, a mean
        over the examples; beside `PatchingResult.effect`.

    Raises:
        AnalysisError: another activation, an option that is no whole number, and whatever `activation_patching` raises.
    """
    check_whole(1, draws=draws)
    check_whole(seed=seed)
    if activation not in ("z", "mlp_out"):
        raise AnalysisError(f"activation is {activation!r}; expected 'z' or 'mlp_out'")
    axes = ("layer", "head") if activation == "z" else ("layer",)
    with evaluating(model):
        setup = set_up(
            model,
            clean,
            corrupted,
            metric,
            activation,
            axes,
            direction=direction,
            source="other",
            reference=None,
            seed=seed,
        )
        changes = _Changes(model, setup, draws, torch.Generator().manual_seed(seed))
        layers = [
            torch.stack([changes.effects(layer, head) for head in range(model.cfg.n_heads)], 1)
            if activation == "z"
            else changes.effects(layer, None)
            for layer in range(model.cfg.n_layers)
        ]
    tokens = setup.runs.tokens
    return Scores(
        values=torch.stack(layers, 1),
        axes=("draw", *axes),
        quantity=f"change of {setup.runs.metric.definition}",
        definition=f"{setup.kind.hook} of each {', '.join(axes)} moved at every position by a vector in a random "
        "direction, as long as the difference of the two runs there",
        title="random change of the same size",
        signed=True,
        sample=Sample(n=len(tokens), seq_len=tokens.shape[1], seed=seed),
        provenance=provenance(model, activation=activation, direction=direction, draws=draws, seed=seed),
    )


class _Changes:
    """The two runs, and what random changes of one of them do."""

    def __init__(self, model: Hooked, setup: SweepSetup, draws: int, generator: torch.Generator) -> None:
        self.model, self.setup, self.draws, self.generator = model, setup, draws, generator
        self.base = setup.runs.metric.of_run(setup.runs.base["logits"])

    def effects(self, layer: int, head: int | None) -> Float[Tensor, " draw"]:
        """The effect of each draw at one place."""
        tokens, name = self.setup.runs.tokens, self.setup.kind.hook_name(layer)
        other, own = self.setup.patched_in[layer], self.setup.runs.activations[layer]
        difference = other - own if head is None else other[:, :, head] - own[:, :, head]
        found: list[Float[Tensor, ""]] = []
        for first in range(0, self.draws, step := max(1, _RUN // tokens.numel())):
            n = min(step, self.draws - first)
            noise = torch.randn(n, *difference.shape, generator=self.generator, dtype=torch.float64)
            noise = noise.to(difference)
            pushes = noise * (difference.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
            moved = rearrange(pushes, "draw example pos d -> (draw example) pos d")

            def edit(value: Tensor, moved: Tensor = moved) -> Tensor:
                changed = value.clone()
                if head is None:
                    return changed + moved
                changed[:, :, head] += moved
                return changed

            logits = run(self.model, repeat(tokens, "example pos -> (draw example) pos", draw=n), {name: edit})
            for one in rearrange(logits, "(draw example) pos token -> draw example pos token", draw=n):
                found.append((self.setup.runs.metric.of_run(one) - self.base).double().mean())
        return torch.stack(found)
