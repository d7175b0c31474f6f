"""A one-layer nanoGPT model with hand-set weights: each head copies the token of one position into the stream.

Tokens, positions and two blocks of outputs are orthonormal directions, orthogonal to the all-ones vector, so that
LayerNorm only scales, and by the same factor wherever the stream is one of these sums.
"""

from __future__ import annotations

import math

import torch

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from tests.conftest import convert

VOCAB, N_POS, HEADS, D_HEAD = 6, 3, 2, 14
WIDTH = HEADS * D_HEAD


def copying_model(*, attends=(0, 1), writes=((0, 1.0), (1, 1.0)), here=0.0, blocks=(1.0, 0.5)):
    """Head h copies the token at position `attends[h]` into the block of outputs `writes[h][0]`, times `writes[h][1]`.

    The logits are `here` times the last token, and `blocks[b]` times what stands in block b.
    """
    noise = torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise[:, 0] = 1.0
    basis = torch.linalg.qr(noise)[0].T[1:]
    token, position = basis[:VOCAB], basis[VOCAB : VOCAB + N_POS]
    out = basis[VOCAB + N_POS : VOCAB * 3 + N_POS].view(2, VOCAB, WIDTH)
    config = NanoGPTConfig(
        n_layer=1, n_head=HEADS, n_embd=WIDTH, block_size=N_POS, vocab_size=VOCAB, bias=True, tied=False
    )
    state = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in config.shapes().items()}
    for name in ("transformer.h.0.ln_1.weight", "transformer.h.0.ln_2.weight", "transformer.ln_f.weight"):
        state[name].fill_(1.0)
    state["transformer.wte.weight"], state["transformer.wpe.weight"] = token.clone(), position.clone()
    scale = math.sqrt(WIDTH / 2)  # the stream's norm is that of a token and a position
    attn = state["transformer.h.0.attn.c_attn.weight"].view(3, HEADS, D_HEAD, WIDTH)
    bias = state["transformer.h.0.attn.c_attn.bias"].view(3, HEADS, D_HEAD)
    proj = state["transformer.h.0.attn.c_proj.weight"].view(WIDTH, HEADS, D_HEAD)
    for head in range(HEADS):
        bias[0, head, 0] = 40 * math.sqrt(D_HEAD)  # the query asks the same everywhere ...
        attn[1, head, 0] = position[attends[head]] / scale  # ... and this position answers
        attn[2, head, :VOCAB] = token / scale
        block, sign = writes[head]
        proj[:, head, :VOCAB] = sign * out[block].T
    state["lm_head.weight"] = here * token + blocks[0] * out[0] + blocks[1] * out[1]
    return convert(Checkpoint(config=config, state_dict=state), dtype=torch.float64)


def prompts(n=300, seed=0, *, related=False):
    """Random prompts; with `related`, the second token is the first again."""
    tokens = torch.randint(VOCAB, (n, N_POS), generator=torch.Generator().manual_seed(seed))
    if related:
        tokens[:, 1] = tokens[:, 0]
    return tokens
