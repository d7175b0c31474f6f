"""A masked run in plain lines, from nanoGPT's own weights: nothing of the package, no TransformerLens, no einsum."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def before(receiver: str, n_layers: int, n_heads: int) -> list[str]:
    """The names of the senders that a receiver reads."""
    kind = receiver.removeprefix("mlp").split(".")[0]
    layer = n_layers if receiver == "logits" else int(kind)
    names = ["embed"]
    for i in range(layer):
        names += [f"{i}.{h}" for h in range(n_heads)] + [f"mlp{i}"]
    if receiver.startswith("mlp"):
        names += [f"{layer}.{h}" for h in range(n_heads)]
    return names


def run(state: State, n_head: int, tokens: Tensor, other: State | None, live: set[str] | dict[str, Tensor]) -> State:
    """What every sender writes and the logits, where only the edges in `live` carry what this run computes.

    `other` is what each sender writes instead; None where all edges are live. A dictionary says by edge at which
    positions it is live.
    """
    weight = lambda name: state.get(f"transformer.{name}")  # noqa: E731
    width, n_pos = state["transformer.wte.weight"].shape[1], tokens.shape[1]
    n_layers = len({name.split(".")[2] for name in state if name.startswith("transformer.h.")})
    wrote = {"embed": weight("wte.weight")[tokens] + weight("wpe.weight")[:n_pos]}

    def entering(receiver: str) -> Tensor:
        total = torch.zeros_like(wrote["embed"])
        for sender in before(receiver, n_layers, n_head):
            edge = f"{sender}->{receiver}"
            if other is None or edge in live:
                places = live[edge] if isinstance(live, dict) else torch.ones(n_pos, dtype=torch.bool)
                total = total + (
                    wrote[sender] if other is None else torch.where(places[:, None], wrote[sender], other[sender])
                )
            else:
                total = total + other[sender]
        layers = n_layers if receiver == "logits" else int(receiver.removeprefix("mlp").split(".")[0])
        for i in range(layers + receiver.startswith("mlp")):
            if weight(f"h.{i}.attn.c_proj.bias") is not None:
                total = total + weight(f"h.{i}.attn.c_proj.bias")
        for i in range(layers):
            if weight(f"h.{i}.mlp.c_proj.bias") is not None:
                total = total + weight(f"h.{i}.mlp.c_proj.bias")
        return total

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), weight(f"{name}.weight"), weight(f"{name}.bias"), 1e-5)

    past = torch.ones(n_pos, n_pos).tril().bool()
    size = width // n_head
    for i in range(n_layers):
        attn, bias = weight(f"h.{i}.attn.c_attn.weight"), weight(f"h.{i}.attn.c_attn.bias")
        for h in range(n_head):
            made = []
            for p, part in enumerate("qkv"):
                rows = slice(p * width + h * size, p * width + (h + 1) * size)
                x = norm(entering(f"{i}.{h}.{part}"), f"h.{i}.ln_1")
                made.append(F.linear(x, attn[rows], None if bias is None else bias[rows]))
            q, k, v = made
            scores = (q @ k.transpose(1, 2) / math.sqrt(size)).masked_fill(~past, -math.inf)
            out = weight(f"h.{i}.attn.c_proj.weight")[:, h * size : (h + 1) * size]
            wrote[f"{i}.{h}"] = scores.softmax(-1) @ v @ out.T
        x = norm(entering(f"mlp{i}"), f"h.{i}.ln_2")
        x = F.gelu(F.linear(x, weight(f"h.{i}.mlp.c_fc.weight"), weight(f"h.{i}.mlp.c_fc.bias")))
        wrote[f"mlp{i}"] = F.linear(x, weight(f"h.{i}.mlp.c_proj.weight"))
    wrote["logits"] = F.linear(norm(entering("logits"), "ln_f"), state["lm_head.weight"])
    return wrote
