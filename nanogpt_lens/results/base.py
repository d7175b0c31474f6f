"""The base of every result: values with named axes, labels, how they were made, and how they are kept.

Every result can be saved and loaded (safetensors for tensors, JSON for the rest, nothing is
ever unpickled), read as a data frame, and asked for its largest entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.core.intervals import few_examples
from nanogpt_lens.results.files import as_json, read_result, write_result
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.results.tested import Tested

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

    from nanogpt_lens.viz.widgets import Widget

_KINDS: dict[str, type[Result]] = {}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Result:
    """Numbers with named axes.

    `quantity`, `definition` and `provenance` are for people. What a picture, a table or a program has to know
    is a field of its own.

    Attributes:
        values: one number per place, with one dimension for each of `axes`.
        axes: the name of each dimension of `values`, such as ("layer", "head").
        labels: what stands at each index of an axis, where that is more than a number
            (tokens for "pos", names for "score").
        quantity: what one value is, with its unit.
        definition: how it is defined, and by whom; what is said of single scores stands in `scores`.
        provenance: what is needed to make it again: checkpoint, versions, arguments, seed.
        title: a short name, such as "prefix matching"; "" where `quantity` is short enough.
        unit: of the values, for an axis, such as "nats per token"; "" for none, or none that all share.
        units: by score, the units that are not `unit`.
        signed: whether values below and above 0 mean opposite things, so that 0 is the middle of a colour scale.
        scores: the sentence that explains each score of the axis "score", where `definition` does not.
        sample: what was measured on; None where nothing was drawn.
        interval: what the 95% intervals are: "t", Student's of a mean over examples; "bootstrap", percentiles; "" where
            there are none, or an earlier version made them.
    """

    values: Shaped[Tensor, "*axes"]
    axes: tuple[str, ...]
    quantity: str
    definition: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    unit: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    signed: bool = False
    scores: Mapping[str, str] = field(default_factory=dict)
    sample: Sample | None = None
    interval: str = ""

    _leading: ClassVar[Mapping[str, str]] = {}
    """The label of an axis that `top()` takes where nothing is said, for results with several kinds of values."""

    _former: ClassVar[Mapping[str, str]] = {}
    """What fields were called in results of earlier versions, and what they are called now."""

    _long: ClassVar[tuple[str, ...]] = ()
    """Fields that `to_json` leaves out."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.__name__] = cls

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                object.__setattr__(self, f.name, value.detach().cpu())
            elif _is_of_tensors(value):
                object.__setattr__(self, f.name, {key: tensor.detach().cpu() for key, tensor in value.items()})
        if self.values.dim() != len(self.axes) or len(set(self.axes)) != len(self.axes):
            raise ResultError(f"values of shape {list(self.values.shape)} do not have the axes {self.axes}")
        for axis, labels in self.labels.items():
            if axis not in self.axes or len(labels) != self.shape[axis]:
                raise ResultError(f"{len(labels)} labels for the axis {axis!r} of {self.shape}")

    @property
    def shape(self) -> dict[str, int]:
        """The size of every axis, by name."""
        return dict(zip(self.axes, self.values.shape, strict=True))

    @property
    def heading(self) -> str:
        """The title; where there is none, the quantity."""
        return self.title or self.quantity

    @property
    def checkpoint(self) -> str | None:
        """The name of the checkpoint that was measured; None where the result does not say."""
        name = self.provenance.get("checkpoint")
        return str(name) if name else None

    @property
    def checkpoint_sha256(self) -> str | None:
        """The SHA-256 of that checkpoint's file; None where the result does not say."""
        digest = self.provenance.get("checkpoint_sha256")
        return digest if isinstance(digest, str) else None

    @property
    def made_here(self) -> bool:
        """Whether an analysis of this package made the result, so that its intervals are 95% intervals."""
        return "nanogpt_lens" in self.provenance

    @property
    def n_examples(self) -> int | None:
        """How many sequences or prompts the values are means over; None where the result does not say."""
        each = getattr(self, "per_example", None)
        return int(each.shape[-1]) if isinstance(each, Tensor) else self.sample.n if self.sample is not None else None

    @property
    def few_examples(self) -> str:
        """The warning that intervals are of few examples, such as "few examples: n = 4"; "" where they are not."""
        return few_examples(self.n_examples, self.interval) if getattr(self, "low", None) is not None else ""

    @property
    def seq_len(self) -> int:
        """How many tokens each sequence of the sample has.

        Raises:
            ResultError: the result does not say.
        """
        if self.sample is None or self.sample.seq_len is None:
            raise ResultError(f"this {type(self).__name__} does not say how long its sequences were; make it again")
        return self.sample.seq_len

    @property
    def in_sample(self) -> bool | None:
        """Whether what is measured was fitted or chosen on this very text, see `Sample`; None where that is unknown."""
        return None if self.sample is None else self.sample.in_sample

    @property
    def seen_share(self) -> float | None:
        """The share of the text, from 0 to 1, that it was fitted or chosen on; None where that is unknown."""
        return None if self.sample is None else self.sample.seen_share

    def _warning(self) -> str:
        """That the result is in sample, or may be, in words; "" where it is not."""
        return "" if self.sample is None else self.sample.in_sample_words

    def unit_of(self, score: str) -> str:
        """The unit of one score."""
        return self.units.get(score, self.unit)

    def explanation(self, score: str | None = None) -> str:
        """The sentences of all scores, or of one, and the definition."""
        sentences = [f"{name}: {sentence}" for name, sentence in self.scores.items() if score in (None, name)]
        return "; ".join([*sentences, self.definition])

    def meaning(self) -> dict[str, Any]:
        """What the result says of its values, for another result of the same kind of values."""
        names = ("quantity", "definition", "title", "unit", "units", "signed", "scores", "sample", "interval")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, Shaped[Tensor, " ..."]]:
        """Every tensor by the name of its attribute; those of a mapping by "attribute/key"."""
        every: dict[str, Shaped[Tensor, " ..."]] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                every[f.name] = value
            elif _is_of_tensors(value):
                every |= {f"{f.name}/{key}": tensor for key, tensor in value.items()}
        return every

    def derived(self) -> dict[str, Shaped[Tensor, " ..."]]:
        """Columns of `to_dataframe` that are no fields, but made of them when they are asked for."""
        return {}

    @property
    def p_definition(self) -> str:
        """How the column "p_corrected" is corrected, in words; "" where there is none."""
        return ""

    def at(self, **places: int | str) -> Shaped[Tensor, " ..."]:
        """The values at indices (or labels) of some axes, the other axes left.

        Raises:
            ResultError: no such axis, index or label.
        """
        index: list[Any] = [slice(None)] * len(self.axes)
        for axis, place in places.items():
            dim = self._axis(axis)
            index[dim] = self._index(axis, place)
        return self.values[tuple(index)]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per value: a column for every axis, its label where it has one, and every tensor of that shape.

        Where intervals are of few examples, their number is the column "few_examples"; where the result is in sample,
        or may be, there is a column "in_sample".
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        grid = torch.meshgrid(*(torch.arange(n) for n in self.values.shape), indexing="ij") if self.axes else ()
        for axis, places in zip(self.axes, grid, strict=True):
            columns[axis] = places.flatten().numpy()
            if axis in self.labels:
                columns[f"{axis}_label"] = [self.labels[axis][i] for i in columns[axis]]
        for name, tensor in (self.tensors() | self.derived()).items():
            if tensor.shape == self.values.shape:
                plain = tensor if tensor.dtype == torch.bool else tensor.double()
                columns["value" if name == "values" else name] = plain.flatten().numpy()
        if self.few_examples:
            columns["few_examples"] = self.n_examples
        columns |= {} if self.sample is None else self.sample.in_sample_column
        return pd.DataFrame(columns)

    def top(self, k: int = 10, *, by: str | None = None, order: Literal["abs", "high", "low"] = "abs") -> pd.DataFrame:
        """The `k` places with the largest values.

        Args:
            k: how many.
            by: a column of `to_dataframe`; None for "effect" where there is one, else "value".
            order: "abs" by magnitude, "high" by value, "low" the lowest first.

        Raises:
            ResultError: there is no such column or order, or `k` is negative.
        """
        frame = self.to_dataframe()
        for axis, label in self._leading.items():  # what is compared must be of one kind
            if by is None and label in self.labels.get(axis, ()):
                frame = frame.loc[frame[f"{axis}_label"] == label]
        by = "p_corrected" if by == "p" and "p_corrected" in frame else by
        by = by or ("effect" if "effect" in frame else "value")
        if k < 0 or order not in ("abs", "high", "low"):
            raise ResultError(f"k={k}, order={order!r}; expected k >= 0, and abs, high or low")
        if by not in frame or by in self.axes:
            known = [c for c in frame if c not in self.axes and not c.endswith("_label")]
            raise ResultError(f"this {type(self).__name__} has no {by!r}; expected one of {', '.join(known)}")
        key = frame[by].abs() if order == "abs" else frame[by]
        rank = (key if order == "low" else -key).rank(method="first")  # nan has no rank
        return frame.assign(rank=rank).dropna(subset="rank").sort_values("rank").head(k).drop(columns="rank")

    def to_json(self) -> dict[str, Any]:
        """The result as plain values that `json.dumps` takes: its class as `kind`, its fields, and a row per value.

        Tensors of the shape of `values` are columns of `rows`; others stay out, and so do lists as long as a
        vocabulary. What is not finite is None.
        """
        left_out = {"values", *self.tensors(), *self._long}
        plain = {f.name: as_json(getattr(self, f.name)) for f in fields(self) if f.name not in left_out}
        said = {name: words for name in ("few_examples", "p_definition") if (words := getattr(self, name))}
        rows = json.loads(self.to_dataframe().to_json(None, orient="records", double_precision=15) or "[]")
        return {"kind": type(self).__name__, **plain, **said, "rows": rows}

    def place_columns(self, frame: pd.DataFrame) -> list[str]:
        """The columns of `to_dataframe` or `top` that name a place: labels where an axis has them, else indices."""
        return [f"{axis}_label" if f"{axis}_label" in frame else axis for axis in self.axes]

    def plot(self, **options: Any) -> Figure:
        """A Plotly figure of this result; options are those of its function in `viz.figures`.

        Raises:
            ResultError: an option that this figure does not have, or a place that is not there.
        """
        from nanogpt_lens.viz.figures import figure

        return figure(self, **options)

    def to_png(self, path: str | Path, **options: Any) -> Path:
        """Write the figure as a PNG file; options are those of `viz.export.to_png` (`width`, `dark`) and of `plot`."""
        from nanogpt_lens.viz.export import to_png

        return to_png(self, path, **options)

    def to_svg(self, path: str | Path, **options: Any) -> Path:
        """Write the figure as an SVG file; see `to_png`."""
        from nanogpt_lens.viz.export import to_svg

        return to_svg(self, path, **options)

    def widget(self, **options: Any) -> Widget:
        """An interactive widget of this result; options are those of its function in `viz.widgets`.

        Raises:
            ResultError: there is no widget for such a result, or no such option or place.
        """
        from nanogpt_lens.viz.widgets import widget

        return widget(self, **options)

    def save(self, folder: str | Path) -> Path:
        """Write `result.json` and the tensors into `folder`, in place of a result that is there.

        A killed run leaves the old result or the new one.

        Raises:
            ResultError: the folder holds something else.
        """
        attributes = {name.split("/")[0] for name in self.tensors()}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in attributes}
        return write_result(Path(folder), type(self).__name__, plain, self.tensors() | self.derived())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote; `Result.load` takes every kind.

        Raises:
            ResultError: nothing there, damaged, or another kind than `cls`.
        """
        kind, plain, arrays = read_result(Path(folder))
        tensors: dict[str, Any] = {name: tensor for name, tensor in arrays.items() if "/" not in name}
        for name in arrays.keys() - tensors.keys():
            attribute, key = name.split("/", 1)
            tensors.setdefault(attribute, {})[key] = arrays[name]
        saved_kind = _KINDS.get(kind)
        if saved_kind is None or not issubclass(saved_kind, cls):
            raise ResultError(f"{folder} holds a {kind}; expected {cls.__name__}: load it with ngl.load_result")
        known = {f.name for f in fields(saved_kind)}
        plain = {saved_kind._former.get(name, name): value for name, value in plain.items()}
        p = tensors.pop("p_corrected", None) if issubclass(saved_kind, Tested) else None
        if unknown := sorted((plain.keys() | tensors.keys()) - known):
            raise ResultError(
                f"{folder} has {', '.join(unknown)}, which a {kind} does not have; written by a newer one?"
            )
        plain["axes"] = tuple(plain.get("axes", ()))
        plain["labels"] = {axis: tuple(labels) for axis, labels in plain.get("labels", {}).items()}
        try:
            if plain.get("sample") is not None:
                plain["sample"] = Sample(**plain["sample"])
            result = saved_kind(**plain, **tensors)
        except TypeError as error:
            raise ResultError(f"{folder} is not a complete {kind} ({error}); make it again") from None
        if p is not None:
            result.__dict__["p"] = p  # as it was; not made again
        return result  # type: ignore[return-value]

    def __repr__(self) -> str:
        shape = ", ".join(f"{axis} {n}" for axis, n in self.shape.items())
        lines = [f"{type(self).__name__} [{shape}]: {self.quantity}", shorten(self.explanation(), 300)]
        said = [words for words in (self._warning().upper(), self.few_examples, self.p_definition) if words]
        return "\n".join([*lines, *self._summary(), *said])

    def _summary(self) -> list[str]:
        """The most important numbers, as lines of text."""
        return self.top(5).round(4).to_string(index=False).splitlines()

    def _axis(self, axis: str) -> int:
        """The dimension of `values` that an axis is."""
        if axis not in self.axes:
            raise ResultError(f"there is no axis {axis!r}; expected one of {', '.join(self.axes)}")
        return self.axes.index(axis)

    def _index(self, axis: str, place: int | str) -> int:
        """The index of a place on an axis, by number or label."""
        labels = self.labels.get(axis, ())
        if axis == "layer" and labels and isinstance(place, int) and place >= 0:
            place = str(place)  # some layers were chosen: their own numbers
        if isinstance(place, str):
            if labels.count(place) != 1:
                reason = "is there more than once" if place in labels else "is not there"
                known = f" or one of {', '.join(labels)}" if len(labels) <= 12 else ""
                raise ResultError(f"the label {place!r} of the axis {axis!r} {reason}; give an index{known}")
            return labels.index(place)
        n = self.shape[axis]
        if isinstance(place, bool) or not isinstance(place, int) or not -n <= place < n:
            raise ResultError(f"there is no {axis} {place!r}; expected 0 to {n - 1}")
        return place


def _is_of_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


_KINDS["Result"] = Result


def load_result(folder: str | Path) -> Result:
    """Read any result that was saved with its `save`.

    Raises:
        ResultError: nothing there, or damaged.
    """
    return Result.load(folder)
