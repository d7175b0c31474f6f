"""The ablation of suspected induction heads, beside that of as many others: do they cause the induction?

The induction gain is how much lower the loss on the second copy of a random sequence is than on the same
tokens after another sequence. It disappears without the heads that cause it, and stays without random others.
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
from nanogpt_lens.core.intervals import bootstrap
from nanogpt_lens.heads.induction import prefix_matching, repeated_and_unrepeated
from nanogpt_lens.interventions.applying import SourceValues, edits_of
from nanogpt_lens.interventions.controls import control_sets
from nanogpt_lens.interventions.grammar import layer_and_index
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.interventions.sources import mean_activations
from nanogpt_lens.model.access import Hooked, check_model, evaluating, loss_per_token, provenance, record
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, name_of

Head: TypeAlias = tuple[int, int]
"""A layer and the number of a head in it."""

Z = KINDS["z"]

THRESHOLD = 0.4
"""The prefix matching above which a head is suspected, as in ARENA's exercises."""

_SCORES = ("repeated_loss", "unrepeated_loss", "gain", "gain_lost", "controls_as_strong")
_REPLACEMENTS = {
    "zero": "zero",
    "mean": "its mean over all positions of all these sequences",
    "resample": "that on another, unrepeated sequence",
}
_MEANING: dict[str, Any] = {
    "quantity": "loss, nats per token (controls_as_strong: a fraction)",
    "title": "loss",
    "unit": "nats per token",
    "units": {"controls_as_strong": "fraction"},
}


def ablate_induction_heads(
    model: Hooked,
    heads: Sequence[Head | str] | None = None,
    *,
    corpus: Corpus | None = None,
    source: Ablation = "zero",
    controls: int | None = None,
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
        heads: (layer, head) pairs, or "0.1" or "L0H1", all of them taken out together; None for those with
            `prefix_matching` above 0.4 on sequences of this length and kind.
        corpus: the sequences are windows of it, held-out text, see `Corpus`; None for random tokens.
        source: what takes the place of z, see above.
        controls: the number of sets of as many other heads, drawn without repetition; all such sets where
            there are no more. 0 for none; None for 20, or none where too few heads are left.
        seq_len: the tokens of one copy; None for as many as context and vocabulary allow, at most 50.
        n: the number of sequences (of a corpus, the largest number): at least 2, for "resample" 4.
        seed: the seed of the tokens and of the control sets.
        progress: show a bar.

    Returns:
        Values [ablated, score]. `ablated` is "nothing", the heads ("1.0+1.2"), then each control
        set ("control 0.3+1.1"). `score` is "repeated_loss", "unrepeated_loss", "gain" (unrepeated minus
        repeated, in nats per token), "gain_lost" (gain with all heads minus gain without these), and
        "controls_as_strong": the fraction of control sets that lose at least as much gain as the heads
        do, nan in other rows. Intervals are over the sequences; `chance` is the mean over the control sets.

    Raises:
        AnalysisError: the model has no such heads, none above the threshold, or too few others; or `source`
            is unknown.
    """
    check_choice(Ablation, source=source)
    check_model(model)
    check_whole(seed=seed, **({} if controls is None else {"controls": controls}))
    options = {"seq_len": seq_len, "n": n, "seed": seed}
    chosen = _suspects(prefix_matching(model, corpus, **options)) if heads is None else _pairs(model, heads)
    others = control_sets(chosen, range(model.cfg.n_layers), model.cfg.n_heads, n=controls, seed=seed)
    sets: list[Sequence[Head]] = [(), chosen, *others]
    both = repeated_and_unrepeated(model, corpus, **options)
    if source == "resample" and len(both[0]) < 4:
        raise AnalysisError(
            f"there are {len(both[0])} sequences; expected at least 4, so that one can be resampled from other "
            "tokens: give n of 4 or more, or a longer corpus"
        )
    with evaluating(model):
        repeated, unrepeated = _second_half_losses(model, both, sets, source, progress)
    gain = unrepeated - repeated
    scores = torch.stack([repeated, unrepeated, gain, gain[:1] - gain], 1)  # [ablated, score, example]
    values = _with_column(scores.mean(-1), torch.nan)
    if others:
        values[1, -1] = (values[2:, 3] >= values[1, 3]).double().mean()
    interval = bootstrap(scores, seed=seed)
    low, high = (_with_column(end, torch.nan) for end in interval) if interval else (None, None)
    length = both[0].shape[1] // 2
    origin = "random ids" if corpus is None else name_of(corpus, model)
    return Scores(
        values=values,
        axes=("ablated", "score"),
        labels={
            "ablated": ("nothing", _name(chosen), *(f"control {_name(control)}" for control in others)),
            "score": _SCORES,
        },
        **_MEANING,
        definition=f"{length} tokens of {origin} after themselves or after others, but for their first; z replaced by "
        f"{_REPLACEMENTS[source]}; chance: mean over the control sets",
        chance=values[2:].mean(0).expand_as(values).clone() if others else None,
        low=low,
        high=high,
        sample=Sample(corpus=None if corpus is None else origin, n=len(both[0]), seq_len=length, seed=seed),
        provenance=provenance(
            model,
            heads=chosen,
            corpus=origin,
            source=source,
            controls=len(others),
            seq_len=length,
            n=len(both[0]),
            seed=seed,
        ),
    )


def _suspects(matching: Scores) -> list[Head]:
    """The heads with prefix matching above the threshold; AnalysisError if there are none."""
    scores = matching.values
    suspects = [(layer, head) for layer, head in (scores > THRESHOLD).nonzero().tolist()]
    if not suspects:
        best = divmod(int(scores.argmax()), scores.shape[1])
        raise AnalysisError(
            f"no head has prefix matching above {THRESHOLD}; the highest is {scores.max():.3f}, of head "
            f"{_name([best])}: there is no induction head to ablate, or name some with heads=[{best}]"
        )
    return suspects


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
                    edits = edits_of(interventions, values, model.cfg.n_layers)
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
