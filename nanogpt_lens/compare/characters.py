"""The loss of two models on one text by character, which is what can be compared where their tokens differ."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields, ratio_per_example
from nanogpt_lens.lens.reading import characters
from nanogpt_lens.model.access import Hooked, check_model, evaluating, provenance
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import Losses
from nanogpt_lens.text.corpus import is_path, name_of, open_corpus
from nanogpt_lens.text.files import read_text


def loss_per_character(
    a: Hooked, b: Hooked, text: str | Path, *, piece: int | None = None, n: int = 64, seed: int = 0
) -> Scores:
    """How well two models predict a text, in nats per character, whatever their tokens are.

    The text is cut into pieces of `piece` characters, which both models read; a piece that is longer than a model's
    context is read in parts. The first token of each part is not predicted, and its characters do not count for that
    model. A model that must read in shorter parts is therefore at a disadvantage, which is its own.

    Args:
        a, b: two models with vocabularies of text, before and after.
        text: a text, or the path of a text file.
        piece: the characters of a piece; None for 256, or half of a short text.
        n: the largest number of pieces; of more they are drawn at random.
        seed: the seed of the draw.

    Returns:
        "a", "b" and "difference", b less a, on the axis score, with intervals over the pieces, paired for the
        difference.

    Raises:
        AnalysisError: the text has fewer than two pieces, or a model predicts nothing of them.
        VocabularyError: a model has no vocabulary, or its vocabulary does not have a character of the text.
    """
    for model in (a, b):
        check_model(model)
    check_whole(2, n=n, **({} if piece is None else {"piece": piece}))
    check_whole(seed=seed)
    if not isinstance(text, str | Path):
        raise AnalysisError(f"the text is a {type(text).__name__}; expected text, or the path of a text file")
    whole = read_text(Path(text).expanduser())[0] if isinstance(text, Path) or is_path(text) else text
    piece = default_of(piece, 256, len(whole) // 2)
    count = len(whole) // piece
    if count < 2:
        raise AnalysisError(
            f"the text has {len(whole):,} characters; expected two pieces of {piece} at least: give a longer text, or "
            "a smaller piece"
        )
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n].sort().values.tolist()
    pieces = [whole[i * piece : (i + 1) * piece] for i in chosen]
    one, other = (_per_piece(model, pieces, name) for model, name in ((a, "a"), (b, "b")))
    name = name_of(text)
    return Scores(
        **mean_fields(torch.stack([one, other, other - one])),
        axes=("score",),
        labels={"score": ("a", "b", "difference")},
        quantity="loss, nats per character",
        definition=f"cross-entropy of a piece's tokens over their characters, {len(pieces)} pieces of {piece} "
        f"characters of {name}; without the first token of each part that a model reads at once; difference: b less a",
        title="loss per character",
        unit="nats per character",
        sample=Sample(corpus=name, n=len(pieces), seed=seed),
        provenance=provenance(
            b, corpus=name, piece=piece, n=len(pieces), seed=seed, models=[provenance(a), provenance(b)]
        ),
    )


def _per_piece(model: Hooked, pieces: list[str], name: str) -> Float[Tensor, " example"]:
    """The loss per character as a mean over pieces.

    Raises:
        AnalysisError: nothing of the pieces is predicted.
    """
    nats, n_characters, losses = [], [], Losses(model)
    with evaluating(model):
        for piece in pieces:
            sequences = open_corpus(model, encode_text(model, piece)).sequences()  # ids: it may look like a path
            loss, length = 0.0, 0.0
            for i in range(sequences.n_batches):
                tokens = sequences.batch(i).tokens
                predicted = characters(model, tokens)
                if predicted is not None:
                    loss += float(losses(tokens).double().sum())
                    length += float(predicted.sum())
            nats.append(loss)
            n_characters.append(length)
    if not sum(n_characters):
        raise AnalysisError(f"{name} predicts no token of the pieces; expected pieces of two tokens: give larger ones")
    return ratio_per_example(torch.tensor(nats, dtype=torch.float64), torch.tensor(n_characters, dtype=torch.float64))
