"""Checkpoints as training runs leave them, with every parameter randomised.

Written without the package: names and shapes are nanoGPT's, spelled out once more, so that a
mistake in `NanoGPTConfig.shapes` cannot hide here.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHARS = "".join(sorted(set("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")))
assert len(CHARS) == 65


def random_state(
    *,
    n_layer: int = 2,
    n_head: int = 2,
    n_embd: int = 16,
    block_size: int = 12,
    vocab_size: int = 65,
    bias: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """A nanoGPT state dict with no parameter at its initial value; attention is sharpened."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, mean: float = 0.0, std: float = 0.1) -> Tensor:
        return (mean + std * torch.randn(*shape, generator=generator)).to(dtype)

    state = {
        "transformer.wte.weight": normal(vocab_size, n_embd, std=0.5),
        "transformer.wpe.weight": normal(block_size, n_embd, std=0.3),
    }

    def linear(name: str, out: int, into: int, std: float) -> None:
        state[f"{name}.weight"] = normal(out, into, std=std)
        if bias:
            state[f"{name}.bias"] = normal(out, std=0.2)

    def norm(name: str) -> None:
        state[f"{name}.weight"] = normal(n_embd, mean=1.0, std=0.3)
        if bias:
            state[f"{name}.bias"] = normal(n_embd, std=0.2)

    for i in range(n_layer):
        norm(f"transformer.h.{i}.ln_1")
        linear(f"transformer.h.{i}.attn.c_attn", 3 * n_embd, n_embd, 0.4)
        linear(f"transformer.h.{i}.attn.c_proj", n_embd, n_embd, 0.2)
        norm(f"transformer.h.{i}.ln_2")
        linear(f"transformer.h.{i}.mlp.c_fc", 4 * n_embd, n_embd, 0.3)
        linear(f"transformer.h.{i}.mlp.c_proj", n_embd, 4 * n_embd, 0.1)
    norm("transformer.ln_f")
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def content(state: dict[str, Tensor] | None = None, **sizes: Any) -> dict[str, Any]:
    """nanoGPT's dictionary, as `torch.save` gets it."""
    dtype, seed = sizes.pop("dtype", torch.float32), sizes.pop("seed", 0)
    args = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 65, "bias": True} | sizes
    return {
        "model": random_state(**args, dtype=dtype, seed=seed) if state is None else state,
        "optimizer": {"state": {}, "param_groups": []},
        "model_args": {**args, "dropout": 0.0},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.25),
        "config": {"dataset": "tiny", "batch_size": 12},
    }


def write(folder: Path, what: Any = None, **sizes: Any) -> Path:
    """Save a checkpoint as `folder/ckpt.pt`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ckpt.pt"
    torch.save(content(**sizes) if what is None else what, path)
    return path


def write_meta(folder: Path, chars: str = CHARS) -> Path:
    """Save nanoGPT's `meta.pkl`, as its prepare.py does."""
    folder.mkdir(parents=True, exist_ok=True)
    stoi = {ch: i for i, ch in enumerate(chars)}
    meta = {"vocab_size": len(chars), "itos": {i: ch for ch, i in stoi.items()}, "stoi": stoi}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return folder / "meta.pkl"
