"""A text for several models at once, what they are called, and what points of them are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nanogpt_lens.compare.vocabularies import has_texts
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens
from nanogpt_lens.results.lens import POINTS
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import OpenedCorpus


def text_of_both(models: Sequence[Hooked], corpus: Corpus) -> OpenedCorpus:
    """A text as all models can read it: ids that all have, sequences no longer than the smallest context.

    Raises:
        AnalysisError: there is no text.
    """
    reader = next((model for model in models if has_texts(model)), models[0])  # it makes ids of a text
    opened = open_corpus(reader, corpus)
    if not isinstance(opened, OpenedCorpus):
        raise AnalysisError("there is no text; give a text, the path of a text file or data folder, or ids")
    d_vocab, n_ctx = (min(sizes) for sizes in zip(*((n_tokens(m), int(m.cfg.n_ctx)) for m in models), strict=True))
    return replace(opened, d_vocab=d_vocab, n_ctx=n_ctx)


def called(names: Any) -> tuple[str, str]:
    """The names of two models.

    Raises:
        AnalysisError: they are not two different ones.
    """
    two = tuple(names) if isinstance(names, tuple | list) else ()
    if len(two) != 2 or not all(isinstance(name, str) and name for name in two) or two[0] == two[1]:
        raise AnalysisError(f"names is {names!r}; expected two different ones, such as ('before', 'after')")
    return two[0], two[1]


def depth_labels(depths: Sequence[int]) -> tuple[str, ...]:
    """The names of depths of the residual stream, such as "0.resid_pre", "0.resid_mid", "0.resid_post"."""
    return tuple("0.resid_pre" if depth == 0 else f"{(depth - 1) // 2}.{POINTS[2 - depth % 2]}" for depth in depths)
