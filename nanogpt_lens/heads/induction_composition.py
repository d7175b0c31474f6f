"""The likeliest induction circuit: the best previous-token and induction heads, and how much one reads the other."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.attention import statistics_of
from nanogpt_lens.heads.composition import composition_scores
from nanogpt_lens.heads.induction import prefix_matching
from nanogpt_lens.model.access import Hooked, check_model, provenance
from nanogpt_lens.results import InductionCircuit, Sample, Scores
from nanogpt_lens.text.corpus import Corpus, text_sample
from nanogpt_lens.text.prompts import repeated_tokens


def induction_composition(
    model: Hooked, corpus: Corpus | None = None, *, n: int = 32, seed: int = 0
) -> InductionCircuit:
    """How much the likeliest induction head makes its keys from what the likeliest previous-token head writes.

    The receiver is the head with the highest `prefix_matching` from layer 1 on; the sender is the head
    of an earlier layer than the receiver's with the highest attention to the previous token. Their score is
    `composition_scores(model, mode="K")`. There is always a highest head: look at "prefix_matching" and
    "previous_token" first, and call a pair a circuit only where all three are far above chance. Both
    heads are chosen on the tokens that their scores are from, so that weak ones look a little better than
    they are. Weights say that the receiver can read the sender, not that it does: confirm by path patching.

    Args:
        model: the model, of two layers or more.
        corpus: held-out text, see `Corpus`: prefix matching is measured on repeated windows of it, attention
            to the previous token on windows as long as the context, at most 128 tokens. None for random
            repeated tokens, for both.
        n: the number of sequences, at least 2; of a corpus, the largest number.
        seed: the seed of the tokens and of the random heads.

    Returns:
        "k_composition", "previous_token" (of the sender) and "prefix_matching" (of the receiver) on the axis
        `score`, from 0 to 1. `chance` is random heads for the first, see `composition_scores`, and uniform
        causal attention on the same tokens for the others. Intervals are over the sequences, nan for
        the first, which is of the weights alone. The heads are `sender` and `receiver`, such as "0.1".

    Raises:
        AnalysisError: the model has one layer or no LayerNorm, there are fewer than two sequences, or the corpus
            does not fit the model.

    Sources: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (induction heads,
    K-composition); Olsson et al. 2022, "In-context Learning and Induction Heads" (both head measures).
    """
    check_model(model)
    check_whole(2, n=n)
    if model.cfg.n_layers < 2:
        raise AnalysisError(
            "the model has 1 layer; expected at least 2, because an induction head reads what a head of an earlier "
            "layer wrote"
        )
    matching = prefix_matching(model, corpus, n=n, seed=seed)
    length, name = matching.seq_len, None if matching.sample is None else matching.sample.corpus
    if corpus is None:
        tokens, origin = repeated_tokens(model, seq_len=length, n=n, seed=seed), "repeated random tokens"
    else:
        tokens, origin = text_sample(model, corpus, seq_len=None, n=n, seed=seed)
    previous = statistics_of(model, tokens, origin=origin, seed=seed)
    k = composition_scores(model, mode="K", seed=seed)
    layer, head = divmod(int(matching.values[1:].argmax()), model.cfg.n_heads)
    receiver = (layer + 1, head)
    row = previous.labels["score"].index("previous_token")
    sender = divmod(int(previous.values[row, : receiver[0]].argmax()), model.cfg.n_heads)
    entries = ((k, (*sender, *receiver)), (previous, (row, *sender)), (matching, receiver))
    names = [f"{layer}.{head}" for layer, head in (sender, receiver)]
    columns: dict[str, Any] = {
        column: torch.stack([_entry(scores, column, place) for scores, place in entries])
        for column in ("values", "chance", "low", "high")
    }
    return InductionCircuit(
        **columns,
        axes=("score",),
        labels={"score": ("k_composition", "previous_token", "prefix_matching")},
        quantity="K-composition and attention, each 0 to 1",
        title="induction circuit",
        definition=f"K-composition of {names[0]}, the head with the highest attention to the previous token in layers "
        f"before {receiver[0]} ({origin}), with {names[1]}, the head with the highest prefix matching "
        f"({matching.definition}); k_composition: {k.definition}",
        sender=names[0],
        receiver=names[1],
        sample=Sample(corpus=name, n=n, seq_len=length, seed=seed),
        provenance=provenance(
            model,
            corpus=name,
            sender=names[0],
            receiver=names[1],
            seq_len=length,
            n=n,
            seed=seed,
        ),
    )


def _entry(scores: Scores, column: str, place: tuple[int, ...]) -> Float[Tensor, ""]:
    """One number of a column, in float64 on the CPU; nan where the column is missing."""
    values = getattr(scores, column)
    return torch.tensor(torch.nan if values is None else float(values[place]), dtype=torch.float64)
