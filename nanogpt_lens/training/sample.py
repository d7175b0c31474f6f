"""Text sampled from a run's checkpoint by the native model, without conversion or TransformerLens."""

from __future__ import annotations

import torch

from conversion.checkpoint import Checkpoint
from conversion.errors import VocabularyError
from conversion.native import GPT
from nanogpt_lens.model.sampling import choose_token

_TEMPERATURE, _TOP_K = 0.8, 200  # nanoGPT's sample.py


@torch.no_grad()
def sample_text(checkpoint: Checkpoint, *, characters: int = 300, seed: int = 1337) -> str | None:
    """The text that nanoGPT's `sample.py` draws after a line break, about `characters` long; None without a vocabulary.

    PyTorch's random state does not change.
    """
    vocabulary = checkpoint.vocabulary
    if vocabulary is None:
        return None
    single = vocabulary.kind == "characters"
    try:
        start = vocabulary.encode("\n").tolist() or [0]
    except VocabularyError:  # there is no line break
        start = [0]
    model, generator = GPT.from_checkpoint(checkpoint), torch.Generator().manual_seed(seed)
    tokens = torch.tensor([start])  # [1, pos]
    for _ in range(characters if single else characters // 3):
        logits = model(tokens[:, -model.config.block_size :])[:, -1, : vocabulary.size].float()
        tokens = torch.cat([tokens, choose_token(logits, _TEMPERATURE, _TOP_K, generator)], dim=1)
    return vocabulary.decode(tokens[0, len(start) :].tolist())
