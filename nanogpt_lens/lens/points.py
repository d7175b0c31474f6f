"""Points of the residual stream, and how a lens reads one: through the model's own final norm and unembedding.

The residual stream before layer l is `resid_pre`, after its attention `resid_mid`, after its MLP
`resid_post`, which is the next layer's `resid_pre`: equal points have equal depths (see
`nanogpt_lens.results.lens`) and are computed once. The last `resid_post` is the model's output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import checked_layers
from nanogpt_lens.model.access import Hooked, check_model, record
from nanogpt_lens.results.lens import POINTS, TunedLens, depth_of

Point: TypeAlias = Literal["resid_pre", "resid_mid", "resid_post"]
"""A place in the residual stream of a layer."""


@dataclass(frozen=True)
class LensPoints:
    """Some points of some layers.

    Attributes:
        layers, points: the layers and the points, each in the order of the computation.
        n_layers: the number of the model's layers.
    """

    layers: tuple[int, ...]
    points: tuple[str, ...]
    n_layers: int

    @property
    def depths(self) -> tuple[int, ...]:
        """The distinct depths, ascending."""
        return tuple(sorted({depth_of(layer, point) for layer in self.layers for point in self.points}))

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The labels of a result: the points, and the layers if these are not all."""
        chosen = {} if len(self.layers) == self.n_layers else {"layer": tuple(map(str, self.layers))}
        return {**chosen, "point": self.points}

    def on_grid(self, values: Shaped[Tensor, "depth ..."]) -> Shaped[Tensor, "layer point ..."]:
        """The values of `depths` by layer and point; equal points get equal values."""
        index = [[self.depths.index(depth_of(layer, point)) for point in self.points] for layer in self.layers]
        return values[torch.tensor(index)]


def grid(model: Hooked, points: Sequence[str] | str, layers: Sequence[int] | int | None) -> LensPoints:
    """The points that the user asks for.

    Raises:
        AnalysisError: there is no such point or layer, none is asked for, or `model` is no model.
    """
    check_model(model)
    requested = [points] if isinstance(points, str) else list(points)
    if not requested or any(point not in POINTS for point in requested):
        raise AnalysisError(f"points is {points!r}; expected some of {', '.join(POINTS)}")
    chosen = tuple(point for point in POINTS if point in requested)
    return LensPoints(layers=checked_layers(model, layers), points=chosen, n_layers=int(model.cfg.n_layers))


def hook_of(depth: int, n_layers: int) -> str:
    """The name of the hook point of a depth."""
    if depth == 2 * n_layers:
        return f"blocks.{n_layers - 1}.hook_resid_post"
    return f"blocks.{depth // 2}.hook_resid_{'mid' if depth % 2 else 'pre'}"


def residuals(
    model: Hooked, tokens: Int[Tensor, "example pos"], depths: Sequence[int]
) -> tuple[dict[int, Float[Tensor, "example pos d_model"]], Float[Tensor, "example pos d_vocab"]]:
    """The residual stream at each depth, and the logits, of one run."""
    names = {depth: hook_of(depth, int(model.cfg.n_layers)) for depth in depths}
    kept = record(model, tokens, names.values())
    return {depth: kept[name] for depth, name in names.items()}, kept["logits"]


def readout(model: Hooked, resid: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_vocab"]:
    """The logits that the model's own final norm and unembedding read from a residual stream."""
    return model.unembed(model.ln_final(resid))


def check_lens(model: Hooked, lens: TunedLens | None, depths: Sequence[int]) -> None:
    """Raise AnalysisError unless `lens` is None or a tuned lens of this model with translators for these depths."""
    if lens is None:
        return
    if not isinstance(lens, TunedLens):
        raise AnalysisError(f"lens is a {type(lens).__name__}; expected a TunedLens, or None for the logit lens")
    lens.refuse_other(model)
    nothing = torch.zeros(0, int(model.cfg.d_model))
    for depth in depths:
        lens.at_depth(depth, nothing)
