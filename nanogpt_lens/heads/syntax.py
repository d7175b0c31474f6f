"""Which heads attend to what syntax sets apart: starts of words, lines and sentences, speakers' names, brackets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import interval_fields, t_interval
from nanogpt_lens.core.shifts import shifted_p
from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.heads.alignment import Aligned, Classes, aligned, by_distance
from nanogpt_lens.heads.attention import pattern_hook
from nanogpt_lens.heads.induction_rule import MARGIN
from nanogpt_lens.heads.odds import Contrasts
from nanogpt_lens.model.access import Edit, Hooked, check_model, device_of, evaluating, provenance, run
from nanogpt_lens.results import ClassAttention, Sample
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import ModelText, OpenedCorpus
from nanogpt_lens.text.syntax import PLACES, places_of_classes

_HELD = 2**26
"""The numbers of attention that are held at once, unless one layer has more."""


def syntax_attention(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    classes: Sequence[str] | None = None,
    seq_len: int | None = None,
    n: int = 256,
    seed: int = 0,
) -> ClassAttention:
    """How much of each head's attention goes to places of a class, above distance, and above distance and characters.

    The score is the mean attention, over the queries that see an earlier place of the class, to all such places. Its
    chance level is what the head's own attention at every distance would give, if the class were as often at that
    distance as it is on average. `p` comes from shifting the classes along the text, by every number of tokens from
    one sequence on, corrected for all classes and heads. `beyond` compares a place of the class with other places
    that have the same character, seen from the same character at the same distance. A head attends to a class if
    p is below 0.05 and both differences are surely, for all classes and heads together, above 0.1. `preference` then
    says whether it knows more than the character and that nearer ones come first, see `nanogpt_lens.heads.odds`.

    Args:
        model: the model, with a vocabulary.
        corpus: a text, a path or token ids; None for text drawn from the model itself.
        classes: of `nanogpt_lens.text.syntax.PLACES`; None for all that the text has.
        seq_len: the tokens of a sequence; None for the context, at most 128, or the length of rows.
        n: the largest number of sequences, one drawn from each of `n` equal stretches of the text.
        seed: the seed of the draw.

    Returns:
        Attention [score, layer, head], with 95% intervals over the sequences; ask `.heads("line_start")`.

    Raises:
        AnalysisError: no such class, or none in the text; a model without a vocabulary; fewer than two sequences of
            four tokens.
    """
    check_model(model)
    check_whole(2, n=n)
    check_whole(seed=seed)
    opened = open_corpus(model, corpus)
    if isinstance(opened, ModelText):
        length = default_of(seq_len, 128, opened.room())
        opened = open_corpus(model, opened.windows(seq_len=length, n=n, seed=seed))
    else:
        assert isinstance(opened, OpenedCorpus)
        length = opened.row_length or default_of(seq_len, 128, opened.room(2))
    sequences = opened.sequences(seq_len=length, least=2 * length)
    tokens, at = sequences.drawn(n, seed=seed)
    if len(tokens) < 2 or length < 4:
        raise AnalysisError(f"there are {len(tokens)} sequences of {length} tokens; expected at least 2 of 4")
    places = places_of_classes(model, sequences, at, classes)
    known = Classes.of(tokens, places.to)
    fields = attention_to_classes(model, tokens, known, Contrasts.of(tokens, known))
    origin = "text drawn from the model itself" if corpus is None else opened.name
    missing = f"; not in it: {', '.join(places.absent)}" if places.absent else ""
    return ClassAttention(
        **fields,
        axes=("score", "layer", "head"),
        labels={"score": places.names},
        quantity="attention to classes of places",
        definition=f"mean over the queries of {len(tokens)} sequences of {origin} that see a place of the class"
        f"{missing}; chance: by distance alone",
        title="attention to classes",
        unit="attention",
        scores={name: f"attention to {PLACES[name]}" for name in places.names},
        sample=Sample(
            corpus=None if corpus is None else opened.name,
            own_text=corpus is None,
            n=len(tokens),
            seq_len=length,
            seed=seed,
        ),
        provenance=provenance(
            model, corpus=opened.origin, classes=list(places.names), seq_len=length, n=len(tokens), seed=seed
        ),
        absent=places.absent,
        margin=MARGIN,
    )


def attention_by_distance(
    model: Hooked, tokens: Int[Tensor, "example pos"], layers: Sequence[int]
) -> Float[Tensor, "head example pos back"]:
    """The attention of all heads of some layers to the place 1, 2, ... tokens back, on the CPU."""
    pieces: dict[int, list[Float[Tensor, "head _ pos back"]]] = {layer: [] for layer in layers}

    def keep(layer: int) -> Edit:
        def edit(pattern: Float[Tensor, "example head pos pos"]) -> None:
            wide = pattern if pattern.dtype == torch.float64 else pattern.float()
            pieces[layer].append(by_distance(wide.cpu()))

        return edit

    with evaluating(model):
        for rows in batches(model, tokens):
            run(model, tokens[rows].to(device_of(model)), {pattern_hook(layer): keep(layer) for layer in layers})
    return torch.cat([torch.cat(some, 1) for some in pieces.values()])


def attention_to_classes(
    model: Hooked, tokens: Int[Tensor, "example pos"], classes: Classes, contrasts: Contrasts
) -> dict[str, Any]:
    """The fields of `ClassAttention` that are measured, of some tokens and classes."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    at_once = max(1, _HELD // (n_heads * classes.to[0].numel()))
    parts, preferences = [], []
    for first in range(0, n_layers, at_once):
        layers = range(first, min(first + at_once, n_layers))
        attention = attention_by_distance(model, tokens, layers)
        parts.append(aligned(attention, classes))
        preferences.append(contrasts.preference(attention[:, :, classes.seen].flatten(1)))
    return fields_of(parts, torch.cat(preferences, 1), classes, n_heads)


def fields_of(
    parts: Sequence[Aligned], preference: Float[Tensor, "score head example"], classes: Classes, n_heads: int
) -> dict[str, Any]:
    """The fields of `ClassAttention` that are measured, from the attention of the heads of all layers, in order."""
    by_layer = "score (layer head) last -> score layer head last"
    each, chance, beyond, shifted = (
        rearrange(torch.cat([getattr(part, name) for part in parts], 1), by_layer, head=n_heads)
        for name in Aligned._fields
    )
    looked_at = each[..., 0].numel()
    p, _ = shifted_p(shifted, classes.to.shape[2])
    prefers = rearrange(preference, by_layer, head=n_heads)
    ends, ends_of_preference = t_interval(beyond), t_interval(prefers)
    assert ends is not None  # there are two sequences and more
    assert ends_of_preference is not None
    return {
        "values": each.mean(-1),
        **interval_fields(each),
        "per_example": each,
        "chance": chance.mean(-1),
        "chance_per_example": chance,
        "p_shifted": p,
        "sure_above": sure_low(each - chance, looked_at=looked_at),
        "beyond": beyond.mean(-1),
        "beyond_low": ends[0],
        "beyond_high": ends[1],
        "beyond_sure": sure_low(beyond, looked_at=looked_at),
        "preference": prefers.mean(-1),
        "preference_low": ends_of_preference[0],
        "preference_high": ends_of_preference[1],
        "told_apart": classes.tellable.sum(1) / classes.n_members,
        "queries": classes.queries.sum(1),
    }
