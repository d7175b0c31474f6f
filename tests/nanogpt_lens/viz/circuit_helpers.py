"""A circuit of made-up numbers, whose every score, rank and faithfulness is known."""

from __future__ import annotations

from typing import Any

import torch

from nanogpt_lens.results import Circuit

NAMES = tuple(
    f"{sender}->{receiver}"
    for receiver, senders in [
        *((f"0.{head}.{part}", ["embed"]) for part in "qkv" for head in range(2)),
        ("mlp0", ["embed", "0.0", "0.1"]),
        *((f"1.{head}.{part}", ["embed", "0.0", "0.1", "mlp0"]) for part in "qkv" for head in range(2)),
        ("mlp1", ["embed", "0.0", "0.1", "mlp0", "1.0", "1.1"]),
        ("logits", ["embed", "0.0", "0.1", "mlp0", "1.0", "1.1", "mlp1"]),
    ]
    for sender in senders
)
KEPT = ("embed->0.1.v", "0.1->1.0.k", "1.0->logits")
SCORES = {"embed->0.1.v": -4.0, "0.1->1.0.k": -1.0, "1.0->logits": 0.25, "embed->logits": 0.01}


def made(names: tuple[str, ...] = NAMES, kept: tuple[str, ...] = KEPT, **changed: Any) -> Circuit:
    """The circuit of three edges, 0.9 faithful; without any of them it is 0.2."""
    values = torch.tensor([SCORES.get(name, 0.0) for name in names], dtype=torch.float64)
    flags = torch.tensor([name in kept for name in names])
    rank = torch.empty(len(names), dtype=torch.long)
    rank[values.abs().argsort(descending=True, stable=True)] = torch.arange(len(names))
    curve = torch.ones(len(names) + 1, dtype=torch.float64)
    curve[:4] = torch.tensor([0.0, 0.1, -3.0, 0.9])
    fields: dict[str, Any] = {
        "values": values,
        "axes": ("edge",),
        "labels": {"edge": names},
        "quantity": "score of an edge",
        "definition": "made up",
        "kept": flags,
        "rank": rank,
        "curve": curve,
        "method": "exact",
        "tolerance": 0.15,
        "without": torch.where(flags, 0.2, torch.nan).double(),
        "full": torch.tensor([5.0, 7.0]),
        "empty": torch.tensor([-5.0, -3.0]),
        "per_example": torch.tensor([4.5, 5.5]),
        "signed": True,
    }
    return Circuit(**(fields | changed))
