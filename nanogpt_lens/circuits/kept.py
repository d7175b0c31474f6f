"""Circuits that were kept in a file, run again: do their edges still do the work, on another checkpoint?

A file may come from anywhere: it is JSON and tensors, nothing of it is run, and every field is looked at before it is
used. A circuit carries its prompts as ids, and its metric as plain data, so that nothing else is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.core.choices import Source, check_choice
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import Hooked, n_tokens, token_labels
from nanogpt_lens.results import Circuit, CircuitRuns
from nanogpt_lens.results.files import NAME
from nanogpt_lens.running.metrics import BoundMetric, Metric, metric_from_json

MOST_BYTES = 2**27
"""How large a file may be."""

_MOST_EDGES, _MOST_LETTERS = 100_000, 40
_DAMAGED = "expected a folder that `circuit.save` wrote, or the output of `circuit find --json`"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a circuit is run on.

    Attributes:
        clean, corrupted, reference, metric, source, seed: as for `run_circuit`.
    """

    clean: Any
    corrupted: Any
    metric: Metric
    source: Source = "other"
    reference: Any = None
    seed: int = 0

    @property
    def asked(self) -> tuple[Any, Any, Metric]:
        """The clean prompts, the corrupted ones, and the metric, as the functions take them."""
        return self.clean, self.corrupted, self.metric


@dataclass(frozen=True, kw_only=True)
class KeptCircuit:
    """A circuit as a file has it.

    Attributes:
        path: of the file or the folder.
        edges: their names.
        tolerance: how far from 1 its faithfulness may be.
        faithfulness: what it was where the circuit was found.
        gap: the metric's mean with all edges minus that with none, there.
        arguments: the prompts as ids, the source, the seed.
        asks: the metric and the vocabulary.
    """

    path: Path
    edges: tuple[str, ...]
    tolerance: float
    faithfulness: float
    gap: float
    arguments: Mapping[str, Any]
    asks: Mapping[str, Any]

    @property
    def source(self) -> Source:
        """What the other edges carry.

        Raises:
            AnalysisError: a word that is no source.
        """
        source = self.arguments.get("source", "other")
        check_choice(Source, source=source)
        return source

    @property
    def seed(self) -> int:
        """The seed of the source "resample"."""
        seed = self.arguments.get("seed", 0)
        return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31 else 0

    @property
    def found_on(self) -> list[list[int]] | None:
        """The clean prompts that it was found on, as ids; None where the file does not have them.

        Raises:
            ResultError: they are no rows of ids.
        """
        return _ids(self.arguments.get("clean"), "clean", self.path)

    def prompts(self, model: Hooked) -> Prompts:
        """The prompts that the circuit was found on, for a model.

        Raises:
            AnalysisError: the file does not have them, or they do not fit this model.
        """
        if not self.asks:
            raise AnalysisError(
                f"{self.path} does not say what the metric was, which was a function of its own; give the prompts and "
                "the answer anew"
            )
        metric = metric_from_json(self.asks.get("metric"))
        ids = {name: _ids(self.arguments.get(name), name, self.path) for name in ("clean", "corrupted", "reference")}
        if ids["clean"] is None:
            raise ResultError(f"{self.path} has no clean prompts; {_DAMAGED}")
        self._check_fits(model, len(ids["clean"][0]))
        return Prompts(metric=metric, source=self.source, seed=self.seed, **ids)

    def _check_fits(self, model: Hooked, length: int) -> None:
        """Raise AnalysisError unless ids mean the same here, and prompts of that length fit."""
        vocabulary, mine = self.asks.get("vocabulary"), vocabulary_digest(model)
        if vocabulary is not None and mine is not None and vocabulary != mine:
            raise AnalysisError(
                f"this model has another vocabulary than the one on which the circuit of {self.path} was found; give "
                "prompts and an answer of its own"
            )
        if length > model.cfg.n_ctx:
            raise AnalysisError(
                f"the circuit of {self.path} was found on prompts of {length} tokens, and this model's context is "
                f"{model.cfg.n_ctx}; give shorter prompts of its own"
            )

    def check(self, model: Hooked, prompts: Prompts | None = None, *, progress: bool = True) -> CircuitCheck:
        """Run the circuit on a model.

        Args:
            model: a HookedTransformer or a TransformerBridge, without processed weights.
            prompts: what it is run on; None for the prompts that it was found on.
            progress: show a bar.

        Raises:
            AnalysisError: an edge that this model does not have, prompts that do not fit it, and whatever
                `run_circuit` raises.
        """
        asked = self.prompts(model) if prompts is None else prompts
        runs = run_circuit(
            model,
            [[*self.edges]],
            *asked.asked,
            source=asked.source,
            reference=asked.reference,
            seed=asked.seed,
            progress=progress,
        )
        return CircuitCheck(kept=self, runs=runs)


@dataclass(frozen=True, kw_only=True)
class CircuitCheck:
    """A kept circuit on a model.

    Attributes:
        kept: the circuit.
        runs: its run.
    """

    kept: KeptCircuit
    runs: CircuitRuns

    @property
    def faithfulness(self) -> float:
        """(circuit - no edge) / (all edges - no edge), of the means over the prompts, here."""
        return float(self.runs.faithfulness[0])

    @property
    def holds(self) -> bool:
        """Whether that is within the circuit's tolerance of 1, on a model that does the task."""
        return not self.warning and abs(self.faithfulness - 1) <= self.kept.tolerance  # nan is not

    @property
    def gap(self) -> float:
        """The metric's mean with all edges minus that with none, here."""
        return float(self.runs.full.mean() - self.runs.empty.mean())

    @property
    def warning(self) -> str:
        """That this model hardly does the task, or the reverse of it, in words; "" where it does."""
        if self.gap * self.kept.gap > 0 and abs(self.gap) >= 0.1 * abs(self.kept.gap):
            return ""
        return (
            f"from no edge to all edges the metric rises by {self.gap:.3g} here, and by {self.kept.gap:.3g} where the "
            "circuit was found: faithfulness is a share of that and says little, so it counts as not holding"
        )

    def sentence(self) -> str:
        """Whether the circuit holds, with both numbers."""
        n, allowed = len(self.kept.edges), (1 - self.kept.tolerance, 1 + self.kept.tolerance)
        verdict = "holds" if self.holds else "does not hold"
        return (
            f"the circuit of {n} edge{'s' if n != 1 else ''} {verdict} here: faithfulness {self.faithfulness:.3f}, "
            f"expected {allowed[0]:.2f} to {allowed[1]:.2f}; it was {self.kept.faithfulness:.3f} where it was found"
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "holds": self.holds,
            "faithfulness": self.faithfulness if math.isfinite(self.faithfulness) else None,
            "tolerance": self.kept.tolerance,
            "faithfulness_where_found": self.kept.faithfulness,
            "gap": self.gap,
            "gap_where_found": self.kept.gap,
            "edges": list(self.kept.edges),
            "warning": self.warning,
            "run": self.runs.to_json(),
        }


def asks_of(model: Hooked, metric: BoundMetric) -> dict[str, Any]:
    """What a circuit keeps of its question: the metric as plain data, and what the ids are of; {} for a function."""
    plain = metric.function.to_json() if isinstance(metric.function, Metric) else None
    return {} if plain is None else {"metric": plain, "vocabulary": vocabulary_digest(model)}


def vocabulary_digest(model: Hooked) -> str | None:
    """The beginning of the SHA-256 of all tokens as text; None for a model without a vocabulary."""
    ids = torch.arange(n_tokens(model))
    labels = token_labels(model, ids)
    if labels == tuple(map(str, ids.tolist())):
        return None
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16]


def circuit_to_json(circuit: Circuit) -> dict[str, Any]:
    """`Circuit.to_json` with what `read_circuit` needs: the edges by name, and the numbers of the whole circuit."""
    return {
        **circuit.to_json(),
        "edges": list(circuit.edges),
        "faithfulness": circuit.faithfulness,
        "full": float(circuit.full.double().mean()),
        "empty": float(circuit.empty.double().mean()),
        "holds": circuit.holds,
        "is_minimal": circuit.is_minimal,
        "removable": list(circuit.removable),
        "different": [list(edges) for edges in circuit.different],
    }


def read_circuit(path: Path) -> KeptCircuit:
    """The circuit in a folder that `circuit.save` wrote, or in a file that `circuit find --json` wrote.

    Raises:
        ResultError: there is none, or a damaged one.
    """
    file = path / NAME if path.is_dir() else path
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise ResultError(f"{file} has {size:,} bytes; expected at most {MOST_BYTES:,}: {_DAMAGED}")
        plain = circuit_to_json(Circuit.load(path)) if path.is_dir() else json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{file} cannot be read ({error.strerror}); {_DAMAGED}") from None
    except ResultError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError, RecursionError):
        raise ResultError(f"{file} is damaged; {_DAMAGED}") from None
    if isinstance(plain, dict) and isinstance(plain.get("circuit"), dict):
        plain = plain["circuit"]
    if not isinstance(plain, dict) or plain.get("kind") != "Circuit":
        raise ResultError(f"{file} holds no circuit; {_DAMAGED}")
    return _checked(path, plain)


def _checked(path: Path, plain: Mapping[str, Any]) -> KeptCircuit:
    """The circuit in plain values; ResultError unless each is what it should be."""
    edges, provenance, asks = plain.get("edges"), plain.get("provenance"), plain.get("asks", {})
    arguments = provenance.get("arguments") if isinstance(provenance, dict) else None
    if not isinstance(edges, list) or len(edges) > _MOST_EDGES or not all(map(_is_name, edges)):
        raise ResultError(f"{path} has no list of edges by name; {_DAMAGED}")
    if not isinstance(arguments, dict) or not isinstance(asks, dict):
        raise ResultError(f"{path} does not say on what the circuit was found; {_DAMAGED}")
    numbers = {}
    for name in ("tolerance", "faithfulness", "full", "empty"):
        value = plain.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
            raise ResultError(f"{path} has the {name} {str(value)[:40]!r}; expected a number: {_DAMAGED}")
        numbers[name] = float(value)
    if not 0 <= numbers["tolerance"] < 1:
        raise ResultError(f"{path} has the tolerance {numbers['tolerance']:g}; expected 0 or more, and less than 1")
    return KeptCircuit(
        path=path,
        edges=tuple(edges),
        tolerance=numbers["tolerance"],
        faithfulness=numbers["faithfulness"],
        gap=numbers["full"] - numbers["empty"],
        arguments=arguments,
        asks=asks,
    )


def _is_name(edge: Any) -> bool:
    return isinstance(edge, str) and len(edge) <= _MOST_LETTERS


def _ids(rows: Any, name: str, path: Path) -> list[list[int]] | None:
    """Rows of ids of one length; None for none; ResultError for anything else."""
    if rows is None:
        return None
    good = isinstance(rows, list) and bool(rows) and all(isinstance(row, list) and row for row in rows)
    if not good or len({len(row) for row in rows}) != 1 or not all(_is_id(i) for row in rows for i in row):
        raise ResultError(f"{path} has {name} prompts that are no rows of token ids of one length; {_DAMAGED}")
    return rows


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
