"""Models, pages and random requests for the tests of the lab."""

from __future__ import annotations

import random
import time
from typing import Any

import torch

import nanogpt_lens as ngl
from nanogpt_lens.interventions.sites import KINDS
from tests.making import write

SIZES: dict[str, dict[str, Any]] = {
    "biased": {"n_layer": 3, "n_head": 4, "n_embd": 32, "block_size": 20},
    "odd": {"n_layer": 2, "n_head": 3, "n_embd": 21, "block_size": 13},
    "one": {"n_layer": 1, "n_head": 1, "n_embd": 10, "block_size": 8, "bias": False},
}
"""Widths that are no multiple of four, one layer with one head, with biases and without; the parameters are random."""


def folder_of(name: str, tmp_path):
    """The checkpoint of a name: one of the sizes, or a shipped one."""
    if name not in SIZES:
        return name
    return (
        write(tmp_path / name, seed=3, **SIZES[name]) if not (tmp_path / name).exists() else tmp_path / name / "ckpt.pt"
    )


def exact(path):
    """The model in float64, as PyTorch computes it."""
    return ngl.load(path, dtype=torch.float64)


class Requests:
    """Draws requests for a model; the axes, the number of places and the sources are those that interventions allow."""

    def __init__(self, model, seed: int = 0) -> None:
        self.cfg = model.cfg
        self.random = random.Random(seed)

    def ids(self, n: int) -> list[int]:
        return [self.random.randrange(self.cfg.d_vocab) for _ in range(n)]

    def request(self, n_interventions: int | None = None) -> dict[str, Any]:
        n = self.random.randint(1, self.cfg.n_ctx)
        several = self.random.randint(1, 3) if n_interventions is None else n_interventions
        return {
            "tokens": self.ids(n),
            "other": self.ids(n),
            "interventions": [self.intervention(n) for _ in range(several)],
        }

    def intervention(self, n: int, activation: str | None = None, source: str | None = None) -> dict[str, Any]:
        activation = activation or self.random.choice([*KINDS, "edge"])
        one: dict[str, Any] = {"activation": activation}
        if activation == "edge":
            one["edge"], axes = self.edge(), ("pos",)
        else:
            axes = ("layer", *KINDS[activation].axes)
        sizes = {"layer": self.cfg.n_layers, "head": self.cfg.n_heads, "neuron": self.cfg.d_mlp}
        for axis in axes:
            if (places := self.places(sizes.get(axis, n), signed=axis.endswith("pos"))) is not None:
                one[axis] = places
        return one | {"source": self.source(one, source)}

    def places(self, size: int, *, signed: bool) -> int | list[int] | None:
        kind = self.random.random()
        if kind < 0.3:
            return None
        if kind < 0.7:
            place = self.random.randrange(size)
            return place - size if signed and self.random.random() < 0.5 else place
        return self.random.sample(range(size), self.random.randint(1, min(size, 3)))

    def edge(self) -> str:
        layer = self.random.randrange(self.cfg.n_layers)
        later = self.random.randint(layer, self.cfg.n_layers - 1)
        head, other = self.random.randrange(self.cfg.n_heads), self.random.randrange(self.cfg.n_heads)
        senders = {"embed": "embed", "head": f"{layer}.{head}", "mlp": f"mlp{layer}"}
        sender = self.random.choice(list(senders))
        ends = ["logits"]
        if sender != "mlp" or later > layer:
            ends.append(f"mlp{later}")
        if sender == "embed" or later > layer:
            ends += [f"{later}.{other}{part}" for part in ("", ".q", ".k", ".v")]
        return f"{senders[sender]}->{self.random.choice(ends)}"

    def source(self, one: dict[str, Any], source: str | None) -> Any:
        source = source or self.random.choice(["zero", "mean", "other", "scale", "add"])
        if source == "scale":
            return {"scale": self.random.uniform(-2, 3)}
        if source != "add":
            return source
        return {"add": [self.random.gauss(0, 0.5) for _ in range(self.width(one))], "scale": self.random.uniform(-2, 2)}

    def width(self, one: dict[str, Any]) -> int:
        axes = () if one["activation"] == "edge" else KINDS[one["activation"]].axes
        if "neuron" in axes:
            places = one.get("neuron")
            return self.cfg.d_mlp if places is None else 1 if isinstance(places, int) else len(places)
        return 1 if "dest_pos" in axes else self.cfg.d_head if "head" in axes else self.cfg.d_model


def error_of(got, expected) -> float:
    """The largest error of logits over the largest of the expected ones."""
    got, expected = torch.tensor(got, dtype=torch.float64), expected.double()
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def until(page, condition, seconds=20):
    """Wait until an expression of the page is true; Playwright's own waiting needs eval, which the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)
