"""The loss on text as a result, with its interval over the sequences."""

from __future__ import annotations

import math

from nanogpt_lens.access import Hooked, check_model, evaluating, provenance
from nanogpt_lens.attention import corpus_name
from nanogpt_lens.batches import losses
from nanogpt_lens.intervals import bootstrap
from nanogpt_lens.prompts import Corpus, n_tokens, text_sequences
from nanogpt_lens.results import Scores
from nanogpt_lens.whole_numbers import check_whole


def text_loss(
    model: Hooked, corpus: Corpus | None = None, *, length: int | None = None, n: int = 128, seed: int = 0
) -> Scores:
    """The mean loss of the next token on windows of a text.

    Args:
        model: the model.
        corpus: held-out text, see `Corpus`; None for text drawn from the model itself, which says how sure
            it is, not whether that is right.
        length: tokens of a window; None for the context.
        n: how many windows, at most.
        seed: of the choice of windows.

    Returns:
        one value in nats per token, of no axes; `chance` is a uniform guess; the interval is over the windows.

    Raises:
        AnalysisError: a corpus that does not fit the model.
    """
    check_model(model)
    check_whole(seed=seed)
    size = model.cfg.n_ctx if length is None else length
    check_whole(2, length=size)
    tokens = text_sequences(model, corpus, length=size, n=n, seed=seed)
    with evaluating(model):
        each = losses(model, tokens).double().mean(1).cpu()
    interval = bootstrap(each, seed=seed)
    source = "the model's own text" if corpus is None else corpus_name(corpus)
    return Scores(
        values=each.mean(),
        axes=(),
        quantity="loss, nats per token",
        definition=f"cross-entropy of the next token, mean over {len(tokens)} windows of {size} tokens of {source}; "
        "chance: a uniform guess",
        chance=each.new_tensor(math.log(n_tokens(model))),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        per_example=each,
        provenance=provenance(model, corpus=source, length=size, n=len(tokens), seed=seed),
    )
