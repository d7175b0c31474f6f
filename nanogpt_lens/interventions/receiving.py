"""What a node makes of the residual stream that it reads, and what it writes, from the model's own weights.

Nothing here calls a module of the model, so that no hook point fires a second time.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.interventions.nodes import Node
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.identity import affine


def normalised(model: Hooked, norm: Any, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
    """A stream after a LayerNorm of the model."""
    return F.layer_norm(x, x.shape[-1:], *affine(norm, model), model.cfg.eps)


def received(
    model: Hooked, receiver: Node, stream: Float[Tensor, "example pos d_model"]
) -> Float[Tensor, "example pos width"]:
    """What a receiver computes from the stream, at its `entry_hook`: the stream itself for the logits."""
    if receiver.kind == "logits":
        return stream
    block = model.blocks[receiver.layer]
    if receiver.kind == "mlp":
        return normalised(model, block.ln2, stream) @ block.mlp.W_in + block.mlp.b_in
    weight, bias = (getattr(block.attn, f"{letter}_{receiver.part.upper()}") for letter in "Wb")
    return normalised(model, block.ln1, stream) @ weight[receiver.head] + bias[receiver.head]


def written_by(
    model: Hooked, sender: Node, activation: Float[Tensor, "example pos ..."]
) -> Float[Tensor, "example pos d_model"]:
    """What a sender writes into the stream, from the activation at its `exit_hook`; biases belong to no sender."""
    if sender.kind == "embed":
        return activation
    block = model.blocks[sender.layer]
    if sender.kind == "mlp":
        return activation - block.mlp.b_out
    return activation[:, :, sender.head] @ block.attn.W_O[sender.head]
