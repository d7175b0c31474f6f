"""Text that a model writes itself, for analyses that are given none."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, device_of, evaluating, n_tokens
from nanogpt_lens.model.plain import stepper
from nanogpt_lens.model.sampling import choose_token

OWN_TEXT = "text drawn from the model itself at temperature 1"
"""What the model's own text is, in words."""


def own_text(model: Hooked, *, seq_len: int, n: int, seed: int = 0) -> Int[Tensor, "example pos"]:
    """`n` texts drawn from the model itself at temperature 1: natural to it, and no corpus is needed.

    The first token is drawn uniformly; the ones of the first quarter are drawn and thrown away where the
    context has room, so that little is left of that choice.
    """
    if not 1 <= seq_len <= model.cfg.n_ctx:
        raise AnalysisError(f"texts of {seq_len} tokens were asked for; expected 1 to {model.cfg.n_ctx}, the context")
    check_whole(1, n=n)
    size, device = n_tokens(model), device_of(model)
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.randint(size, (n, 1), generator=generator, device=device)
    extra = min(seq_len // 4, model.cfg.n_ctx - seq_len)
    with evaluating(model):
        logits_after = stepper(model, seq_len + extra)
        while tokens.shape[1] < seq_len + extra:
            logits = logits_after(tokens)[:, :size]
            tokens = torch.cat([tokens, choose_token(logits, 1.0, None, generator)], dim=1)
    return tokens[:, extra:]
