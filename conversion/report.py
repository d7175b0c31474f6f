"""The certificate of a conversion: what was compared, how large the differences are, and whether that is equality."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from conversion.atomic import write_text
from conversion.errors import EquivalenceError

Kind = Literal["weight", "activation", "output", "gradient", "edit", "greedy", "val_loss"]
Mode = Literal["raw", "processed"]

KINDS: Mapping[Kind, str] = {
    "weight": "weights and configuration",
    "output": "outputs: logits, loss, log-probabilities",
    "activation": "activations, at every hook",
    "gradient": "gradient of the loss, every weight",
    "edit": "logits under an edit, at every hook",
    "greedy": "greedy text past the context",
    "val_loss": "loss on the run's own validation data",
}
"""What is compared, in words, in the order in which it is shown."""

SIZES = "each edit alone at "
"""The beginning of the note on how much was read, which only says how it was measured."""

_FORMAT = "nanogpt-lens equivalence report 1"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One quantity, native against converted.

    Attributes:
        kind: the kind of the quantity.
        name: the hook, the weight, the output, or the edit ("zero at <hook>").
        mode: "raw" weights or "processed" (folded and centred) ones.
        precision: "float64", "float32", ...
        max_abs: the largest absolute difference of any element, in the quantity's unit.
        max_rel: `max_abs` divided by the largest absolute native value (for gradients:
            of any weight's gradient).
        tolerance: the largest `max_rel` (in float64: also `max_abs`) that is allowed.
        passed: whether the difference is within the tolerance.
        detail: further words on the comparison.
    """

    kind: Kind
    name: str
    mode: Mode
    precision: str
    max_abs: float
    max_rel: float
    tolerance: float
    passed: bool
    detail: str = ""

    @property
    def nearness(self) -> tuple[bool, float]:
        """How near it is to failing, for ordering; one of which not one bit may differ is near only where it fails."""
        return not self.passed, _orderable(self.max_rel / self.tolerance if self.tolerance else self.max_rel)

    @property
    def quantity(self) -> str:
        """The row of the table that the comparison belongs to: the name without its layer."""
        if self.kind == "weight":
            return "every weight, and the config"
        if self.kind == "gradient":
            return "gradient of the loss, every weight"
        if self.kind == "edit":
            return f"logits, hook {self.name.split(' at ')[0]}, every hook"
        parts = self.name.split(".")
        return ".".join(parts[2:]) if parts[0] == "blocks" else self.name


@dataclass(frozen=True, kw_only=True)
class EquivalenceReport:
    """The certificate that `check_equivalence` returns.

    Attributes:
        comparisons: the comparisons, in the order of the computation.
        checkpoint, sha256: the path of the file, and its hash.
        architecture: the sizes, the GELU that was used, and whether the head is tied.
        backend: the kind of model that was compared.
        reference: the native side: this package's native model, or the user's own `model.py`.
        versions: the versions of the libraries.
        seed: the seed of the random tokens and perturbations.
        notes: what reading the checkpoint had to do, and what could not be compared.
    """

    comparisons: tuple[Comparison, ...]
    checkpoint: str
    sha256: str | None
    architecture: Mapping[str, Any]
    backend: str
    reference: str
    versions: Mapping[str, str]
    seed: int
    notes: tuple[str, ...] = ()
    format: str = field(default=_FORMAT)

    @property
    def passed(self) -> bool:
        """Whether the conversion is proven: something was compared, and all of it is equal."""
        return bool(self.comparisons) and all(c.passed for c in self.comparisons)

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that are out of tolerance."""
        return tuple(c for c in self.comparisons if not c.passed)

    @property
    def first_difference(self) -> Comparison | None:
        """The first failed comparison in the order of the computation, activations first."""
        failures = self.failures
        raw = [c for c in failures if c.kind == "activation" and c.mode == "raw"]
        activations = raw or [c for c in failures if c.kind == "activation"]
        return next(iter(activations or failures), None)

    def raise_if_failed(self) -> EquivalenceReport:
        """Return the report if the conversion is proven.

        Raises:
            EquivalenceError: the conversion is not proven; the message names the first hook that differs.
        """
        first = self.first_difference
        if first is not None:
            raise EquivalenceError(
                f"{self.checkpoint} is not proven equal: {len(self.failures)} of {len(self.comparisons)} comparisons "
                f"fail, the first at {first.name} ({first.mode}, {first.precision}): {_difference(first)}"
            )
        if not self.comparisons:
            raise EquivalenceError(f"{self.checkpoint}: nothing was compared, so nothing is proven")
        return self

    def worst(self, quantity: str, mode: str, precision: str) -> Comparison | None:
        """The comparison of a row that is nearest to failing, or has failed."""
        row = [c for c in self.comparisons if (c.quantity, c.mode, c.precision) == (quantity, mode, precision)]
        return max(row, key=lambda c: (not c.passed, _orderable(c.max_rel)), default=None)

    def rows(self) -> list[tuple[str, str, dict[str, Comparison]]]:
        """The table: for each quantity and mode, the worst comparison by precision."""
        keys = list(dict.fromkeys((c.quantity, c.mode) for c in self.comparisons))
        precisions = list(dict.fromkeys(c.precision for c in self.comparisons))
        table = []
        for mode in ("raw", "processed"):
            for quantity in (q for q, m in keys if m == mode):
                cells = {p: worst for p in precisions if (worst := self.worst(quantity, mode, p)) is not None}
                table.append((quantity, mode, cells))
        return table

    def by_kind(self) -> list[tuple[str, list[Comparison], dict[str, Comparison]]]:
        """The table in short: each kind in words, its comparisons, and by precision the one nearest to its limit."""
        table = []
        for kind, words in KINDS.items():
            of_kind = [c for c in self.comparisons if c.kind == kind]
            near: dict[str, Comparison] = {}
            for c in sorted(of_kind, key=lambda c: c.nearness, reverse=True):
                near.setdefault(c.precision, c)
            table += [(words, of_kind, near)] if of_kind else []
        return table

    def verdict(self) -> str:
        """One line that says whether the conversion is proven, and by how much."""
        if self.passed:
            exact = [c.max_abs for c in self.comparisons if c.precision == "float64" and c.kind != "val_loss"]
            largest = f"; largest error in float64 {max(exact):.1e}" if exact else ""
            return f"PROVEN EQUAL: {len(self.comparisons)} comparisons{largest}"
        first = self.first_difference
        reason = "nothing was compared" if first is None else f"first at {first.name}: {_difference(first)}"
        return f"NOT EQUAL: {len(self.failures)} of {len(self.comparisons)} comparisons fail, {reason}"

    def heading(self, *, short: bool = False) -> list[str]:
        """Lines that say what was compared with what; the short ones leave out hash, versions and sizes of samples."""
        a, versions = self.architecture, [] if short else [f"{k} {v}" for k, v in self.versions.items()]
        return [
            self.checkpoint,
            *([] if short else [f"sha256 {self.sha256 or '(in memory)'}"]),
            f"{a['n_layer']} layers, {a['n_head']} heads, {a['n_embd']} wide, context {a['block_size']}, "
            f"vocabulary {a['vocab_size']}, bias {a['bias']}, act_fn {a['act_fn']}, tied {a['tied']}",
            f"{self.backend} against {self.reference}" + (f"; {', '.join(versions)}" if versions else ""),
            *(f"note: {note}" for note in self.notes if not short or not note.startswith(SIZES)),
        ]

    def __str__(self) -> str:
        """The certificate as a plain-text table."""
        title = f"{'quantity':<34} {'weights':<10}" + "".join(f"{p + ' abs / rel':>26}" for p in self.precisions())
        lines = [*self.heading(), "", title]
        for quantity, mode, cells in self.rows():
            texts = [cell_text(cells.get(p)) for p in self.precisions()]
            lines.append(f"{quantity:<34} {mode:<10}" + "".join(f" {text:>25}" for text in texts))
        return "\n".join([*lines, "", self.verdict()])

    __repr__ = __str__

    def precisions(self) -> list[str]:
        """The precisions compared, most exact first."""
        return list(dict.fromkeys(c.precision for c in self.comparisons))

    def to_json(self) -> str:
        """The report as JSON; numbers that are not finite become strings."""
        content = asdict(self) | {"passed": self.passed, "verdict": self.verdict()}
        return json.dumps(_finite(content), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> EquivalenceReport:
        """The report that `to_json` wrote.

        Raises:
            EquivalenceError: `text` is no such report.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != _FORMAT:
                raise KeyError("format")
            content = {k: v for k, v in content.items() if k not in ("passed", "verdict")}
            numbers = ("max_abs", "max_rel", "tolerance")
            comparisons = (c | {n: float(c[n]) for n in numbers} for c in content.pop("comparisons"))
            content["notes"] = tuple(content["notes"])
            return cls(comparisons=tuple(Comparison(**c) for c in comparisons), **content)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise EquivalenceError(f"this is not a report in the format {_FORMAT!r}") from None

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON; the file is replaced in one step."""
        write_text(path, self.to_json() + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> EquivalenceReport:
        """The report that `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))


def cell_text(comparison: Comparison | None) -> str:
    """One cell of the table: the absolute and the relative error, and a mark if the comparison fails."""
    if comparison is None:
        return "-"
    mark = "" if comparison.passed else " FAIL"
    if comparison.kind == "greedy":
        return f"{comparison.detail}{mark}"
    if comparison.kind == "val_loss":
        return f"{comparison.detail.split(' (')[0]}{mark}"
    return f"{comparison.max_abs:.1e} / {comparison.max_rel:.1e}{mark}"


def limit_text(comparison: Comparison | None) -> str:
    """One cell of the table in short: the relative error and what is allowed, and a mark if the comparison fails."""
    if comparison is None or comparison.kind == "greedy":
        return cell_text(comparison)
    error, allowed = (f"{x:.1e}" if x else "0" for x in (comparison.max_rel, comparison.tolerance))
    return f"{error} / {allowed}{'' if comparison.passed else ' FAIL'}"


def _difference(comparison: Comparison) -> str:
    """A failed comparison in words."""
    if comparison.kind == "val_loss":
        return comparison.detail
    size = f"error {comparison.max_abs:.2e} (relative {comparison.max_rel:.1e}, allowed {comparison.tolerance:.0e})"
    return f"{comparison.detail}; {size}" if comparison.detail else size


def _orderable(value: float) -> float:
    """A number for ordering, in which NaN is the largest."""
    return math.inf if math.isnan(value) else value


def _finite(value: Any) -> Any:
    """Plain data with strings in place of numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
