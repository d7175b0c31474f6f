"""A reader of checkpoints with the habits of nanoGPT's `sample.py` and `train.py --init_from=resume`, written afresh.

It knows nothing of this package. It unpickles with PyTorch's defaults, makes `GPTConfig(**model_args)` (an argument too
many is a TypeError), loads strictly, and takes the optimizer, the iteration and the best loss by their keys.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from tests.fork_model import GPT, GPTConfig

FORCED = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size")


def model_of(model_args: dict[str, Any], state: dict[str, torch.Tensor]) -> GPT:
    """The model, loaded strictly; with fused attention it keeps no masks."""
    model = GPT(GPTConfig(**model_args))
    for block in model.transformer.h:
        block.attn._non_persistent_buffers_set.add("bias")
    prefix = "_orig_mod."
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return model


def sample(folder: Path, data: Path, start: str, length: int) -> str:
    """Greedy text, with the characters of `data/<dataset>/meta.pkl`."""
    checkpoint = torch.load(folder / "ckpt.pt", map_location="cpu")
    model = model_of(checkpoint["model_args"], checkpoint["model"])
    meta = pickle.loads((data / checkpoint["config"]["dataset"] / "meta.pkl").read_bytes())
    ids = torch.tensor([[meta["stoi"][char] for char in start]])
    with torch.no_grad():
        for _ in range(length):
            logits, _ = model(ids[:, -model.transformer.wpe.num_embeddings :])
            ids = torch.cat([ids, logits[:, [-1]].argmax(-1)], dim=1)
    return "".join(meta["itos"][i] for i in ids[0].tolist())


def resume(folder: Path, settings: dict[str, Any]) -> tuple[GPT, torch.optim.AdamW, int, float]:
    """The model, its optimizer in nanoGPT's two groups, the iteration and the best loss."""
    checkpoint = torch.load(folder / "ckpt.pt", map_location="cpu")
    model_args = {"dropout": 0.0} | {name: checkpoint["model_args"][name] for name in FORCED}
    model = model_of(model_args, checkpoint["model"])
    named = dict(model.named_parameters())
    optimizer = optimizer_of(list(named.values()), settings)
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer, checkpoint["iter_num"], float(checkpoint["best_val_loss"])


def optimizer_of(parameters: list[torch.nn.Parameter], settings: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW: what has two axes decays, the rest does not."""
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings["weight_decay"]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=(settings["beta1"], settings["beta2"]))


def steps(model: GPT, optimizer: torch.optim.AdamW, batches: list[torch.Tensor]) -> list[float]:
    """The loss of each batch [example, pos + 1], with a step after it."""
    losses = []
    model.train()
    for batch in batches:
        _, loss = model(batch[:, :-1], batch[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return losses
