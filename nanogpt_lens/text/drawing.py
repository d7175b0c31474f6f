"""Some sequences of a corpus, drawn evenly along it, as ids that fit in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nanogpt_lens.text.sequences import Sequences


def drawn_sequences(sequences: Sequences, n: int | None, *, seed: int) -> tuple[Tensor, np.ndarray]:
    """`n` whole sequences, one drawn from each of `n` equal stretches of the corpus; all where there are no more.

    A shorter sequence at the end is left out, unless it is the only one.

    Args:
        sequences: the corpus.
        n: how many at most; None for all.
        seed: of the draw.

    Returns:
        ids [example, pos] on the CPU, in the order of the corpus, and the corpus index [example, pos] of each.
    """
    seq_len = min(sequences.seq_len, sequences.n_tokens)
    whole = sequences.n_tokens // seq_len
    n = whole if n is None else min(n, whole)
    edges = torch.linspace(0, whole, n + 1, dtype=torch.float64).round().long()
    part = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chosen = edges[:-1] + (part * (edges[1:] - edges[:-1])).long()
    tokens = torch.stack([sequences.tokens(i * seq_len, (i + 1) * seq_len) for i in chosen.tolist()])
    return tokens, chosen.numpy()[:, None] * seq_len + np.arange(seq_len)
