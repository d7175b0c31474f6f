"""What the page must compute to be trusted: logits of the model in float64, under interventions of every kind.

On opening, the page runs these cases and compares. Prompts are random ids, so that nothing depends on a vocabulary;
each site is edited from each source once, at random layers, heads, neurons and positions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.interventions.intervene import intervene
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.model.access import Hooked

SOURCES = ("zero", "mean", "other", "scale", "add")
_LONGEST = 24
_COLUMNS = 64
_REFERENCE = (2, 16)


@dataclass(frozen=True)
class Proof:
    """Cases for the page's engine, and what they must give.

    Attributes:
        cases: requests with the rows and columns of the logits that are compared, and in words what is done.
        expected: for each case the logits at these rows and columns, in float64.
    """

    cases: tuple[dict[str, Any], ...]
    expected: tuple[Float[Tensor, "_ _"], ...]


def proof_of(model: Hooked, *, seed: int = 0) -> Proof:
    """The cases of a model, drawn by the seed."""
    exact = in_float64(model)
    drawing = _Drawing(exact, np.random.default_rng(seed))
    cases = [drawing.case([], length) for length in sorted({1, max(1, exact.cfg.n_ctx // 2), exact.cfg.n_ctx})]
    for activation in KINDS:
        cases += [drawing.case([(activation, source)]) for source in SOURCES]
    cases += [drawing.case([("edge", source)]) for source in SOURCES]
    cases += [drawing.case([("z", "zero"), ("edge", "other"), ("resid_mid", "add")])]
    return Proof(tuple(cases), tuple(_expected(exact, case) for case in cases))


def in_float64(model: Hooked) -> Hooked:
    """A copy of a model in float64."""
    exact = copy.deepcopy(model)
    exact.cfg.dtype = torch.float64
    return exact.double()


def _expected(exact: Hooked, case: dict[str, Any]) -> Float[Tensor, "row column"]:
    result = intervene(
        exact,
        torch.tensor(case["tokens"]),
        case["interventions"],
        other=torch.tensor(case["other"]),
        reference=torch.tensor(case["reference"]),
    )
    return result.logits[0][case["rows"]][:, case["columns"]].double()


class _Drawing:
    """Draws prompts, places and directions.

    Args:
        model: the model that they must fit.
        random: the source of randomness.
    """

    def __init__(self, model: Hooked, random: np.random.Generator) -> None:
        self.cfg = model.cfg
        self.random = random

    def case(self, kinds: Sequence[tuple[str, str]], length: int | None = None) -> dict[str, Any]:
        """One request for interventions of some activations from some sources."""
        cfg = self.cfg
        longest = min(_LONGEST, cfg.n_ctx)
        n = int(self.random.integers(min(2, longest), longest + 1)) if length is None else length
        rows = sorted({n - 1, *self.random.integers(n, size=2).tolist()})
        columns = np.unique(np.linspace(0, cfg.d_vocab - 1, min(_COLUMNS, cfg.d_vocab)).astype(int)).tolist()
        sequences, seq_len = _REFERENCE[0], min(max(n, _REFERENCE[1]), cfg.n_ctx)
        return {
            "tokens": self.ids(n),
            "other": self.ids(n),
            "reference": [self.ids(seq_len) for _ in range(sequences)],
            "interventions": [self.intervention(activation, source, n) for activation, source in kinds],
            "rows": rows,
            "columns": columns,
            "words": " and ".join(f"{activation} from {source}" for activation, source in kinds) or f"{n} tokens",
        }

    def ids(self, n: int) -> list[int]:
        return self.random.integers(self.cfg.d_vocab, size=n).tolist()

    def intervention(self, activation: str, source: str, n: int) -> dict[str, Any]:
        """One intervention, as JSON values."""
        places = {"edge": self.edge()} if activation == "edge" else self.places(activation)
        axes = KINDS[activation].axes if activation in KINDS else ("pos",)
        positions = {axis: int(self.random.integers(-n, n)) for axis in axes if axis.endswith("pos")}
        kept = {axis: place for axis, place in positions.items() if self.random.random() < 0.5}
        return {"activation": activation, **places, **kept, "source": self.source(activation, source)}

    def places(self, activation: str) -> dict[str, Any]:
        """A layer, and a head or neuron, or all of them."""
        sizes = {"layer": self.cfg.n_layers, "head": self.cfg.n_heads, "neuron": self.cfg.d_mlp}
        axes = [axis for axis in ("layer", *KINDS[activation].axes) if axis in sizes]
        drawn = {axis: int(self.random.integers(sizes[axis])) for axis in axes}
        if "neuron" not in drawn and self.random.random() < 0.3:
            drawn.popitem()
        return drawn

    def edge(self) -> str:
        """The name of an edge of the model."""
        layer = int(self.random.integers(self.cfg.n_layers))
        head, reader = (int(i) for i in self.random.integers(self.cfg.n_heads, size=2))
        senders = [f"{layer}.{head}", "embed"]
        receivers = [f"mlp{layer}", "logits"]
        if layer + 1 < self.cfg.n_layers:
            senders.append(f"mlp{layer}")
            receivers = [
                "logits",
                f"mlp{layer + 1}",
                *(f"{layer + 1}.{reader}{part}" for part in (".q", ".k", ".v", "")),
            ]
        return f"{self.random.choice(senders)}->{self.random.choice(receivers)}"

    def source(self, activation: str, source: str) -> Any:
        if source == "scale":
            return {"scale": round(float(self.random.uniform(-1.0, 2.0)), 3)}
        if source != "add":
            return source
        kind = KINDS.get(activation)
        axes = kind.axes if kind is not None else ()
        width = 1 if "dest_pos" in axes or "neuron" in axes else self.cfg.d_head if "head" in axes else self.cfg.d_model
        direction = self.random.normal(size=width).round(4).tolist()
        return {"add": direction, "scale": 0.5}
