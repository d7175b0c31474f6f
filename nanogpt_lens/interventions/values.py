"""The values that sources put in an activation's place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import Kind
from nanogpt_lens.interventions.sources import check_mean, mean_of, replacing_examples


@dataclass(frozen=True)
class SourceValues:
    """What the sources of interventions put in place.

    Attributes:
        other: another run's activations by hook point.
        mean: means by hook point, of the activation's shape but for the dimensions they are taken over; where there
            is none, the mean of what arrives at the hook point.
        reference: activations by hook point that "resample" draws from; where there are none, those
            that arrive at the hook point.
        same_run: whether the reference's examples are those of the run itself, so that none may be drawn for itself.
        seed: the seed of the draw.
    """

    other: Mapping[str, Float[Tensor, "example ..."]] = field(default_factory=dict)
    mean: Mapping[str, Float[Tensor, " ..."]] = field(default_factory=dict)
    reference: Mapping[str, Float[Tensor, "reference ..."]] = field(default_factory=dict)
    same_run: bool = False
    seed: int = 0

    def put(self, source: str, kind: Kind, name: str, value: Float[Tensor, "example ..."]) -> Float[Tensor, " ..."]:
        """What takes the place of `value` at a hook point; it broadcasts to its shape.

        Raises:
            AnalysisError: there is nothing to take its place, or something of another shape.
        """
        if source == "other":
            if name not in self.other:
                raise AnalysisError("the source is 'other' and there is no other run; give other=, a text")
            return _of_shape(self.other[name], value, f"the other run's activation at {name}")
        if source == "mean":
            if name not in self.mean:
                check_mean(kind, len(value), same_run=True)
            mean = _as_long(kind, self.mean[name], value) if name in self.mean else mean_of(kind, value)
            return _of_shape(mean, value, f"the mean at {name}")
        rows = self.reference.get(name, value)
        same_run = self.same_run or name not in self.reference
        examples = replacing_examples(len(value), len(rows), same_run=same_run, seed=self.seed)
        return _of_shape(rows[examples], value, f"the reference's activation at {name}")


def _as_long(kind: Kind, mean: Float[Tensor, " ..."], value: Float[Tensor, "example ..."]) -> Float[Tensor, " ..."]:
    """The mean; that of the pattern of longer sequences cut to the run's length.

    A query sees no key behind it, so that the first rows and columns of a longer sequence's pattern are the pattern
    of its beginning.
    """
    n_queries, n_keys = value.shape[-2:]
    whole = kind.name == "pattern" and n_queries == n_keys <= mean.shape[-1]
    return mean[..., :n_queries, :n_keys] if whole else mean


def _of_shape(new: Float[Tensor, " ..."], value: Float[Tensor, "example ..."], what: str) -> Float[Tensor, " ..."]:
    """`new`; AnalysisError unless it broadcasts to the shape of `value`."""
    expected = value.shape[value.dim() - new.dim() :]
    if any(a not in (1, b) for a, b in zip(new.shape, expected, strict=True)):
        raise AnalysisError(
            f"{what} has shape {list(new.shape)}; expected {list(expected)}, as in this run: give as many tokens, and "
            "one example or as many"
        )
    return new
