"""What every sender writes into the residual stream in one run, and what is put in its place."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.choices import Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.fitting import check_nothing
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.interventions.sources import mean_of, replacing_examples
from nanogpt_lens.model.access import Hooked, record


def names_written(n_layers: int) -> list[str]:
    """The hook points from which `written` reads."""
    hooks = [f"blocks.{layer}.{hook}" for layer in range(n_layers) for hook in ("attn.hook_z", "hook_mlp_out")]
    return ["hook_embed", "hook_pos_embed", *hooks]


def written(model: Hooked, run: Mapping[str, Float[Tensor, ...]]) -> Float[Tensor, "sender example pos d_model"]:
    """What each sender of the graph wrote in a run; the biases of attention and MLPs belong to no sender."""
    senders = [run["hook_embed"] + run["hook_pos_embed"]]
    for layer in range(model.cfg.n_layers):
        z, w_o = run[f"blocks.{layer}.attn.hook_z"], model.blocks[layer].attn.W_O
        senders += einsum(z, w_o, "example pos head d_head, head d_head d_model -> head example pos d_model")
        senders.append(run[f"blocks.{layer}.hook_mlp_out"] - model.blocks[layer].mlp.b_out.detach())
    return torch.stack(senders)


def written_in(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "sender example pos d_model"]:
    """What each sender of the graph writes in a run of these ids."""
    return written(model, record(model, tokens, names_written(model.cfg.n_layers)))


def put_in_place(
    model: Hooked,
    base: Float[Tensor, "sender example pos d_model"],
    source: Source,
    *,
    other: Float[Tensor, "sender example pos d_model"] | None,
    reference: Int[Tensor, "reference pos"] | None,
    seed: int,
) -> Float[Tensor, "sender example pos d_model"]:
    """What takes the place of what the senders wrote.

    Args:
        model: the model.
        base: what they wrote in the run that is changed.
        source: "other" is `other`; "zero"; "mean" over the reference's examples and positions; "resample",
            another reference example's, the same for all senders.
        other: what they wrote in the other run; None where there is none.
        reference: the ids that are averaged or drawn from; None for those of the changed run itself.
        seed: the seed of the draw.

    Raises:
        AnalysisError: there is no such source, or nothing to take it from; "zero" in a model with processed weights.
    """
    check_choice(Source, source=source)
    if source == "zero":
        check_nothing(model, source)
        return torch.zeros_like(base)
    if source == "other":
        if other is None:
            raise AnalysisError("there is no corrupted run; give one, or source='zero', 'mean', 'resample'")
        return other
    values = base if reference is None else written_in(model, reference)
    if source == "mean":
        means = [mean_of(KINDS["mlp_out"], value).to(base) for value in values]
        return torch.stack(means)[:, None, None].expand_as(base)
    examples = replacing_examples(base.shape[1], values.shape[1], same_run=reference is None, seed=seed)
    return values[:, examples]
