"""What comes out of two models: one pass over a text, both run on the same batches, nothing held but sums.

Source: diffing by KL per token and by the probability that tokens gain: Minder et al. 2025; Jensen-Shannon: Lin 1991,
"Divergence measures based on the Shannon entropy".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from scipy.special import stdtrit
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.compare.distributions import apart
from nanogpt_lens.compare.grouped import GroupedMeans
from nanogpt_lens.compare.sampled import called, text_of_both
from nanogpt_lens.compare.vocabularies import KINDS, SharedVocabulary, shared_vocabulary
from nanogpt_lens.core.checks import check_whole, default_of
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.model.access import Hooked, evaluating, provenance
from nanogpt_lens.neurons.peaks import TopWindows
from nanogpt_lens.results.output_difference import MEASURES, OutputDifference
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.text.corpus import Corpus
from nanogpt_lens.text.sequences import Batch, Sequences

_LOGITS = 2**25
"""Logits of a batch, of each model."""

SCORES = {
    "kl_ab": "KL(a || b)",
    "kl_ba": "KL(b || a)",
    "js": "Jensen-Shannon divergence, at most ln 2",
    "loss_a": "cross-entropy of the next token in a",
    "loss_b": "the same in b",
    "loss_difference": "loss_b less loss_a, token by token",
    "agreement": "share of places where both have the same likeliest token",
}


def compare_outputs(
    a: Hooked,
    b: Hooked,
    corpus: Corpus,
    *,
    seq_len: int | None = None,
    batch_size: int | None = None,
    k: int = 20,
    window: int | None = None,
    names: tuple[str, str] = ("a", "b"),
    seed: int = 0,
    progress: bool = True,
) -> OutputDifference:
    """How far the predictions of two models are apart on a text of any size, and where most.

    The models may have different layers, heads and widths, but must have the same tokens under the same ids. Both see
    the same sequences, as long as the smaller context has room for. Distributions are over the real vocabulary: what
    nanoGPT's padding rows get is left out and the rest renormalised, so that both have the same support; of a model
    that has such rows the loss is therefore lower than its own, by -log of what is left.

    Args:
        a, b: two models, before and after; differences are b less a.
        corpus: see `Corpus`; read once, in constant memory.
        seq_len: the tokens of a sequence; None for the smaller context.
        batch_size: the sequences of a batch; None for some 4,096 tokens, fewer for a large vocabulary.
        k: how many excerpts are kept where they differ most, each way.
        window: the tokens of an excerpt; None for 32, or as many as a sequence has.
        names: what the two are called in sentences and pictures.
        seed: kept with the result; nothing here is drawn at random.
        progress: show a bar.

    Returns:
        The means [measure] in nats per token, with intervals over the sequences, and by token, kind of token and
        excerpt, see `OutputDifference`.

    Raises:
        AnalysisError: the vocabularies differ (see `loss_per_character`), the text has no next token or ids outside
            the vocabulary, a sequence is longer than the smaller context, or an option cannot be.
    """
    check_whole(1, k=k, **({} if window is None else {"window": window}))
    check_whole(seed=seed)
    two = called(names)
    vocabulary = shared_vocabulary(a, b)
    sequences = _sequences(a, b, corpus, seq_len, batch_size)
    size = default_of(window, 32, min(sequences.seq_len, sequences.n_tokens))
    if size > sequences.seq_len:
        raise AnalysisError(f"window is {size}; expected at most {sequences.seq_len}, the length of a sequence")
    seen = _Seen(vocabulary, k=k, window=size)
    with evaluating(a), evaluating(b):
        for i in tqdm(range(sequences.n_batches), desc="outputs", delay=1, disable=not progress, unit="batch"):
            seen.add(a, b, sequences.batch(i))
    return OutputDifference(
        **seen.fields(sequences),
        axes=("measure",),
        labels={"measure": MEASURES},
        quantity="difference of two models' predictions, nats per token",
        definition=f"means over the next tokens of {sequences.name}, read in sequences of {sequences.seq_len} tokens; "
        f"distributions over {vocabulary.size} tokens, without padding of the vocabulary; a is {two[0]}, b is "
        f"{two[1]}, and differences are b less a",
        title="outputs, compared",
        unit="nats per token",
        units={"agreement": ""},
        scores=SCORES,
        names=two,
        sample=Sample(corpus=sequences.name, n=seen.n_sequences, n_tokens=sequences.n_tokens, seed=seed),
        provenance=provenance(
            b,
            corpus=sequences.name,
            seq_len=sequences.seq_len,
            batch_size=sequences.batch_size,
            k=k,
            window=size,
            names=two,
            models=[provenance(a), provenance(b)],
        ),
    )


class _Seen:
    """What has been seen so far, in sums whose size does not depend on the text."""

    def __init__(self, vocabulary: SharedVocabulary, *, k: int, window: int) -> None:
        n = vocabulary.size
        self.vocabulary = vocabulary
        self.kind_of = torch.tensor(vocabulary.kinds, dtype=torch.long)
        self.overall = GroupedMeans(1, len(MEASURES))
        self.answers, self.contexts = GroupedMeans(n, len(MEASURES)), GroupedMeans(n, len(MEASURES))
        self.kinds = GroupedMeans(len(KINDS), len(MEASURES))
        self.probability = GroupedMeans(1, 2 * n)
        self.peaks = {
            "differing": TopWindows(sites=1, k=k, window=window),
            "worse": TopWindows(sites=1, k=k, window=window),
            "better": TopWindows(sites=1, k=k, window=window, lowest=True),
        }

    def add(self, a: Hooked, b: Hooked, batch: Batch) -> None:
        """Take in a batch; sequences of one token have nothing to predict."""
        tokens = batch.tokens
        n, length = tokens.shape
        if length < 2:
            return
        here = apart(a, b, tokens, self.vocabulary.size)
        zeros = torch.zeros(n, dtype=torch.long)
        places = torch.full((n,), length - 1)
        self.overall.add_sums(zeros, here.measures.sum(1), places)
        self.answers.add(tokens[:, 1:], here.measures)
        self.contexts.add(tokens[:, :-1], here.measures)
        self.probability.add_sums(zeros, here.probability.flatten(1), places)
        if len(self.kind_of):
            self.kinds.add(self.kind_of.to(tokens.device)[tokens[:, 1:]], here.measures)
        for name, peaks in self.peaks.items():
            of = MEASURES.index("kl_ab" if name == "differing" else "loss_difference")
            none = torch.inf if peaks.lowest else -torch.inf  # the first token is not predicted
            values = torch.cat([here.measures.new_full((n, 1), none), here.measures[..., of]], 1)
            peaks.add(0, values[..., None], batch)

    @property
    def n_sequences(self) -> int:
        """How many sequences had something to predict."""
        return int(self.overall.sequences)

    def fields(self, sequences: Sequences) -> dict[str, Any]:
        """The fields of the result."""
        mean, error = self.overall.mean[0], self.overall.error[0]
        n, size = self.n_sequences, self.vocabulary.size
        half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * error if n > 1 else None
        kinds = self.kinds.count > 0 if len(self.kind_of) else torch.zeros(len(KINDS), dtype=torch.bool)
        return {
            "values": mean,
            "low": None if half is None else mean - half,
            "high": None if half is None else mean + half,
            "interval": "" if half is None else "t",
            "n_places": int(self.overall.count),
            "answers": _groups(self.answers),
            "contexts": _groups(self.contexts),
            "kinds": {name: values[kinds] for name, values in _groups(self.kinds).items()},
            "kind_names": tuple(kind for kind, there in zip(KINDS, kinds.tolist(), strict=True) if there),
            "probability": {
                "mean_a": self.probability.mean[0, :size],
                "difference": self.probability.mean[0, size:],
                "error": self.probability.error[0, size:],
            },
            **{name: _excerpts(peaks, sequences) for name, peaks in self.peaks.items()},
            "vocabulary": self.vocabulary.tokens,
        }


def _groups(means: GroupedMeans) -> Mapping[str, Shaped[Tensor, "group ..."]]:
    return {"count": means.count, "sequences": means.sequences, "mean": means.mean, "error": means.error}


def _excerpts(peaks: TopWindows, sequences: Sequences) -> dict[str, Shaped[Tensor, "excerpt ..."]]:
    """The excerpts as fields; one whose peak is no difference, or one of the other sign, is none."""
    value, start, position, each = (
        tensor[0, 0].cpu() for tensor in (peaks.value, peaks.start, peaks.position, peaks.activations)
    )
    none = ~(value < 0 if peaks.lowest else value > 0)
    start: Int[Tensor, " excerpt"] = start.masked_fill(none, -1)
    each: Float[Tensor, "excerpt window"] = each.masked_fill(~each.isfinite() | none[:, None], torch.nan)
    return {
        "value": value.masked_fill(none, torch.nan),
        "start": start,
        "position": position.masked_fill(none, -1),
        "tokens": sequences.excerpts(start, peaks.window),
        "each": each,
    }


def _sequences(a: Hooked, b: Hooked, corpus: Corpus, seq_len: int | None, batch_size: int | None) -> Sequences:
    """The text as both models can read it.

    Raises:
        AnalysisError: it has no next token, or is longer than the smaller context.
    """
    sequences = text_of_both((a, b), corpus).sequences(seq_len=seq_len, batch_size=batch_size, least=2)
    if min(sequences.seq_len, sequences.text_length) < 2:
        raise AnalysisError(
            "each sequence has 1 token, after which none is known; expected 2 or more: give longer ones"
        )
    if batch_size is None:
        most = max(1, _LOGITS // (sequences.seq_len * max(int(model.cfg.d_vocab) for model in (a, b))))
        sequences = replace(sequences, batch_size=min(sequences.batch_size, most))
    return sequences
