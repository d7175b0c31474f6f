"""Two models that share a start: nanoGPT's own weights, and the same with some of them changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from tests.conftest import convert
from tests.making import random_state

SIZES: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 11}


def start(*, dtype: torch.dtype = torch.float64, seed: int = 0, **sizes: Any) -> dict[str, Tensor]:
    """nanoGPT's weights with every parameter random; the head is a tensor of its own, with the embedding's values."""
    state = random_state(**{**SIZES, **sizes}, dtype=torch.float64, seed=seed)
    state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    return {name: (1.3 * value).to(dtype) for name, value in state.items()}


def later(state: Mapping[str, Tensor], *, seed: int = 1, size: float = 0.3, only: str = "") -> dict[str, Tensor]:
    """The weights after a change of every parameter whose name contains `only`."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        changed[name] = value + size * value.std() * noise if only in name else value.clone()
    return changed


def model_of(state: Mapping[str, Tensor], **sizes: Any) -> Any:
    """The model of nanoGPT's weights, whose head need not be its embedding."""
    weights = {name: value.clone() for name, value in state.items()}
    config = NanoGPTConfig(**{**SIZES, **sizes, "tied": False})
    return convert(Checkpoint(config=config, state_dict=weights), dtype=next(iter(weights.values())).dtype)


def native_places(name: str, n_head: int = 2, n_embd: int = 16) -> list[tuple[str, Any]]:
    """Where a component is in nanoGPT's weights, written down once more: names, and rows or columns."""
    if name in ("embed", "pos_embed", "unembed"):
        module = {"embed": "transformer.wte", "pos_embed": "transformer.wpe", "unembed": "lm_head"}[name]
        return [(f"{module}.weight", ...)]
    if name == "ln_final":
        return [(f"transformer.ln_f.{part}", ...) for part in ("weight", "bias")]
    if name.startswith("mlp"):
        ends = [f"{linear}.{part}" for linear in ("c_fc", "c_proj") for part in ("weight", "bias")]
        return [(f"transformer.h.{name[3:]}.mlp.{end}", ...) for end in ends]
    layer, part = name.split(".")
    block = f"transformer.h.{layer}"
    if part in ("ln1", "ln2"):
        return [(f"{block}.ln_{part[2]}.{end}", ...) for end in ("weight", "bias")]
    if part == "b_O":
        return [(f"{block}.attn.c_proj.bias", ...)]
    size, head = n_embd // n_head, int(part)
    rows = [slice(third * n_embd + head * size, third * n_embd + (head + 1) * size) for third in range(3)]
    fused = [(f"{block}.attn.c_attn.{end}", row) for end in ("weight", "bias") for row in rows]
    return [*fused, (f"{block}.attn.c_proj.weight", (slice(None), slice(head * size, (head + 1) * size)))]


def hybrid_state(a: Mapping[str, Tensor], b: Mapping[str, Tensor], from_a: list[str]) -> dict[str, Tensor]:
    """nanoGPT's weights with some components of `a` and the others of `b`."""
    weights = {name: value.clone() for name, value in b.items()}
    for component in from_a:
        for name, place in native_places(component):
            weights[name][place] = a[name][place]
    return weights


def drawn_from(model: Any, n: int, seq_len: int, seed: int = 3) -> Tensor:
    """Ids that a model writes, so that its loss on them is surely lower than another model's."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.cfg.d_vocab, (n, 1), generator=generator)
    with torch.no_grad():
        while ids.shape[1] < seq_len:
            p = model(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(p, 1, generator=generator)], 1)
    return ids
