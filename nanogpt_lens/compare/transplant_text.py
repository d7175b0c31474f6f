"""What two models that are compared are run on: windows of a text, or a metric's prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.compare.vocabularies import shared_vocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, as_tokens
from nanogpt_lens.results import Sample
from nanogpt_lens.running.metrics import BoundMetric, Metric, bind, loss
from nanogpt_lens.text.corpus import open_corpus, text_sample


@dataclass(frozen=True, kw_only=True, eq=False)
class TransplantText:
    """Sequences, and a metric that is ready for them.

    Attributes:
        tokens: the ids.
        metric: it keeps examples apart.
        name: what the sequences are, in words.
        corpus: the name of the text; None for prompts.
    """

    tokens: Int[Tensor, "example pos"]
    metric: BoundMetric
    name: str
    corpus: str | None

    def sample(self, seed: int) -> Sample:
        """What a result was measured on."""
        return Sample(corpus=self.corpus, n=len(self.tokens), seq_len=self.tokens.shape[1], seed=seed)


def transplant_text(
    a: Hooked, b: Hooked, corpus: Any, metric: Metric | None, *, seq_len: int | None, n: int, seed: int
) -> TransplantText:
    """Windows of a text with the loss, or prompts with their metric.

    Raises:
        AnalysisError: the models have other vocabularies; the metric is a bare function, which does not keep examples
            apart; a length was asked of prompts; there is no text.
    """
    shared_vocabulary(a, b)
    check_whole(2, n=n)
    if corpus is None:
        raise AnalysisError(
            "there is no text, and what the models write themselves differs between them; give a text, the path of a "
            "text file or data folder, or ids"
        )
    if metric is None:
        tokens, name = text_sample(b, corpus, seq_len=seq_len, n=n, seed=seed)
        return TransplantText(
            tokens=tokens, metric=bind(loss(), b, tokens), name=name, corpus=open_corpus(b, corpus).name
        )
    if not isinstance(metric, Metric):
        raise AnalysisError(
            f"the metric is a {type(metric).__name__}; expected one of ngl.metrics, such as logit_diff(...), which has "
            "a value for each prompt"
        )
    if seq_len is not None:
        raise AnalysisError(f"seq_len is {seq_len}, and with a metric whole prompts are run; leave it out")
    tokens = as_tokens(b, corpus, name="the prompts")
    return TransplantText(tokens=tokens, metric=bind(metric, b, tokens), name="prompts", corpus=None)
