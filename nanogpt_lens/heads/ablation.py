"""The ablation of suspected induction heads, beside that of as many others: do they cause the induction?

The induction gain is how much lower the loss on the second copy of a random sequence is than on the same
tokens after another sequence. It disappears without the heads that cause it, and stays without others.

Heads that are chosen by the sequences that they are then ablated on look more important than they are: they are
chosen on other sequences. Others of the same layer are the fair comparison: what a layer writes, and who can still
read it, differs between layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import Ablation, Source, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.heads.chosen import chosen_on_others, share_chosen_on
from nanogpt_lens.heads.induction import repeated_and_unrepeated
from nanogpt_lens.interventions.applying import edits_of
from nanogpt_lens.interventions.controls import USUAL, control_sets, sets_of_the_same_layers
from nanogpt_lens.interventions.grammar import layer_and_index
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.interventions.sources import mean_activations
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.model.access import Hooked, check_model, evaluating, loss_per_token, provenance, record
from nanogpt_lens.results import InductionHeads, Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, open_corpus

Head: TypeAlias = tuple[int, int]
"""A layer and the number of a head in it."""

Z = KINDS["z"]

_SCORES = ("repeated_loss", "unrepeated_loss", "gain", "gain_lost", "beyond_controls", "controls_as_strong")
_REPLACEMENTS = {
    "zero": "zero",
    "mean": "its mean over all positions of all these sequences",
    "resample": "that on another, unrepeated sequence",
}
_FROM = {True: "as many heads of the same layers", False: "as many heads of any layers"}
_MEANING: dict[str, Any] = {
    "quantity": "loss, nats per token (controls_as_strong: a share)",
    "title": "loss",
    "unit": "nats per token",
    "units": {"controls_as_strong": "share"},
}


def ablate_induction_heads(
    model: Hooked,
    heads: Sequence[Head | str] | None = None,
    *,
    chosen_by: InductionHeads | None = None,
    corpus: Corpus | None = None,
    source: Ablation = "zero",
    controls: int | None = None,
    same_layers: bool = True,
    seq_len: int | None = None,
    n: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The induction gain with all heads, without the suspected ones, and without as many random others.

    Losses are on random sequences, of distinct tokens where the vocabulary allows, or on windows of a
    corpus, after themselves ("repeated") or after another sequence (see `repeated_and_unrepeated`). They are
    means over the second half but for its first token, which nothing announces. A head's z
    (attention-weighted values) is replaced at all positions by

    "zero": nothing, without its value bias too, so that models with and without `process_weights`,
    which moves that bias, may differ;
    "mean": z's mean over all positions of all these sequences, both kinds, in the model as it is;
    "resample": z on another sequence, one that is not repeated, in the model as it is; the same for both
    kinds, because what a head writes on repeated tokens would harm the two losses differently.

    Later layers see the change in their queries, keys and values ("full" ablation in Olsson et al. 2022).

    Args:
        model: the model.
        heads: (layer, head) pairs, or "0.1" or "L0H1", all of them taken out together; None for those of
            `find_induction_heads` on other sequences of this length and kind: as many other random ones, or one half
            of the windows of the corpus, of which the other half is then what is measured on.
        chosen_by: the result of `find_induction_heads` that the heads were taken from. The result then says whether it
            is in sample; without it, of heads that are named, it says that this is not known.
        corpus: the sequences are windows of it, held-out text, see `Corpus`; None for random tokens.
        source: what takes the place of z, see above.
        controls: the number of sets of as many other heads, drawn without repetition; all such sets where
            there are no more. 0 for none; None for 20, or none where too few heads are left.
        same_layers: a control set has as many heads of each layer as are ablated there, where each layer has so many
            others; False, and where it has not, for sets of any other heads. The result's definition says which.
        seq_len: the tokens of one copy; None for as many as context and vocabulary allow, at most 50.
        n: the number of sequences (of a corpus, the largest number): at least 2, for "resample" 4.
        seed: the seed of the tokens and of the control sets.
        progress: show a bar.

    Returns:
        Values [ablated, score]. `ablated` is "nothing", the heads ("1.0+1.2"), then each control
        set ("control 0.3+1.1"). `score` is "repeated_loss", "unrepeated_loss", "gain" (unrepeated minus
        repeated, in nats per token), "gain_lost" (gain with all heads minus gain without these),
        "beyond_controls" (the gain lost without the heads minus the mean over the control sets, each sequence against
        itself), and "controls_as_strong": (b + 1) / (B + 1), b of the B control sets losing at least as much gain as
        the heads do. The last two are nan in other rows. Intervals are over the sequences, for these control sets;
        `chance` is the mean over the control sets; `per_example` has each sequence's values.

    Raises:
        AnalysisError: the model has no such heads, no induction head, or too few others; `source` is unknown, or
            `chosen_by` another kind of result.
    """
    check_choice(Ablation, source=source)
    check_model(model)
    check_whole(seed=seed, **({} if controls is None else {"controls": controls}))
    options = {"seq_len": seq_len, "n": n, "seed": seed}
    text = None if corpus is None else open_corpus(model, corpus)
    rows, chosen_on = text, None
    if heads is None:
        if chosen_by is not None:
            raise AnalysisError("chosen_by was given without heads; expected both: pass heads=chosen_by.heads() too")
        chosen_by, rows, chosen_on = chosen_on_others(model, text, **options)
        heads = sorted(chosen_by.heads())
    chosen = _pairs(model, heads)
    sets_of_controls, alike = _controls(model, chosen, controls, seed, same_layers=same_layers)
    sets: list[Sequence[Head]] = [(), chosen, *sets_of_controls]
    both = repeated_and_unrepeated(model, rows, **options)
    length = both[0].shape[1] // 2
    share = share_chosen_on(model, both[0][:, :length], chosen_by, random=text is None, chosen_on=chosen_on)
    if source == "resample" and len(both[0]) < 4:
        raise AnalysisError(
            f"there are {len(both[0])} sequences; expected at least 4, so that one can be resampled from other "
            "tokens: give n of 4 or more, or a longer corpus"
        )
    with evaluating(model):
        repeated, unrepeated = _second_half_losses(model, both, sets, source, progress)
    columns = _columns(repeated, unrepeated)
    drawn: dict[str, Any] = {"n": len(both[0]), "seq_len": length, "seed": seed}
    origin = "random ids" if text is None else text.name
    return Scores(
        **columns,
        axes=("ablated", "score"),
        labels={
            "ablated": ("nothing", _name(chosen), *(f"control {_name(control)}" for control in sets_of_controls)),
            "score": _SCORES,
        },
        **_MEANING,
        definition=f"{length} tokens of {origin} after themselves or after others, but for their first; z replaced by "
        f"{_REPLACEMENTS[source]}"
        + ("; heads chosen on other sequences" if share == 0 else "")
        + (f"; chance: mean over the control sets, {_FROM[alike]}" if sets_of_controls else ""),
        sample=Sample(
            corpus=None if text is None else origin, seen_share=share, seen_by="the choice of heads", **drawn
        ),
        provenance=provenance(
            model, heads=chosen, corpus=origin, source=source, controls=len(sets) - 2, same_layers=alike, **drawn
        ),
    )


def _controls(
    model: Hooked, chosen: Sequence[Head], n: int | None, seed: int, *, same_layers: bool
) -> tuple[list[tuple[Head, ...]], bool]:
    """The control sets, and whether they are of the same layers as the heads.

    Raises:
        AnalysisError: there are too few others in all layers.
    """
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if same_layers and (sets := sets_of_the_same_layers(chosen, n_heads, n=USUAL if n is None else n, seed=seed)):
        return sets, True
    return control_sets(chosen, range(n_layers), n_heads, n=n, seed=seed), False


def _columns(
    repeated: Float[Tensor, "ablated example"], unrepeated: Float[Tensor, "ablated example"]
) -> dict[str, Any]:
    """The result's values, intervals, chance and sequences, from the losses of each sequence."""
    gain = unrepeated - repeated
    lost = gain[:1] - gain
    beyond, strong = torch.full_like(lost, torch.nan), torch.full_like(lost[:, 0], torch.nan)
    if len(lost) > 2:
        beyond[1] = lost[1] - lost[2:].mean(0)
        means = lost.mean(1)
        strong[1] = (1 + int((means[2:] >= means[1]).sum())) / (1 + len(means) - 2)
    scores = torch.stack([repeated, unrepeated, gain, lost, beyond], 1)
    values = torch.cat([scores.mean(-1), strong[:, None]], 1)
    interval = t_interval(scores)
    low, high = (_with_column(end, torch.nan) for end in interval) if interval else (None, None)
    return {
        "values": values,
        "low": low,
        "high": high,
        "interval": "t" if interval else "",
        "chance": values[2:].mean(0).expand_as(values).clone() if len(values) > 2 else None,
        "per_example": torch.cat([scores, torch.full_like(scores[:, :1], torch.nan)], 1),
    }


def _pairs(model: Hooked, heads: Any) -> list[Head]:
    """The heads that the user names, as (layer, head); AnalysisError unless the model has each, and each once."""
    if isinstance(heads, str) or not isinstance(heads, Iterable):
        raise AnalysisError(f'heads is {heads!r}; expected a list of heads, such as [(1, 0)] or ["1.0"]')
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    pairs: list[Head] = []
    for head in heads:
        match layer_and_index(head, "head"):
            case (int(layer), int(index)) if 0 <= layer < n_layers and 0 <= index < n_heads:
                pairs.append((layer, index))
            case _:
                raise AnalysisError(
                    f"there is no head {head!r}; expected (layer, head) from (0, 0) to {(n_layers - 1, n_heads - 1)}, "
                    f'or "0.0" to "{n_layers - 1}.{n_heads - 1}"'
                )
    if not pairs or len(set(pairs)) < len(pairs):
        raise AnalysisError(f"heads is {pairs}; expected at least one (layer, head), each once")
    return pairs


def _second_half_losses(
    model: Hooked,
    both: tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]],
    sets: Sequence[Sequence[Head]],
    source: Ablation,
    progress: bool,
) -> list[Float[Tensor, "ablated example"]]:
    """The losses for each kind of sequence, means over the second half without its first token."""
    names = dict.fromkeys((Z.hook_name(layer) for layer in sorted({layer for heads in sets for layer, _ in heads})), Z)
    means = mean_activations(model, both, names) if source == "mean" else {}
    replacements = [heads_replaced(heads, "other" if source == "resample" else source) for heads in sets]
    start = both[0].shape[1] // 2
    results = []
    others = both[1].roll(len(both[1]) // 2, dims=0)
    with tqdm(total=len(both) * len(sets) * len(both[0]), unit="sequence", delay=1, disable=not progress) as bar:
        for tokens in both:
            pieces = []
            for rows in batches(model, tokens):
                kept = record(model, others[rows], names) if source == "resample" else {}
                values = SourceValues(mean=means, other=kept)
                part = []
                for interventions in replacements:
                    edits = edits_of(model, interventions, values)
                    part.append(loss_per_token(model, tokens[rows], edits)[:, start:].double().mean(1))
                    bar.update(len(part[-1]))
                pieces.append(torch.stack(part))
            results.append(torch.cat(pieces, 1))
    return results


def heads_replaced(heads: Sequence[Head], source: Source) -> list[Intervention]:
    """The interventions that replace the output z of some heads at all positions."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return [Intervention("z", layer=layer, head=tuple(some), source=source) for layer, some in by_layer.items()]


def _with_column(values: Float[Tensor, "row column"], fill: float) -> Float[Tensor, "row column_and_one"]:
    """The values with one more column, which is `fill` everywhere."""
    return torch.cat([values, torch.full_like(values[:, :1], fill)], 1)


def _name(heads: Sequence[Head]) -> str:
    """The heads as one label, such as "0.1+1.2"."""
    return "+".join(f"{layer}.{head}" for layer, head in heads)
