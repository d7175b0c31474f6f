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
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.units import checked_layers
from nanogpt_lens.model.access import Hooked, check_model, record
from nanogpt_lens.results.lens import POINTS, TunedLens, depth_of

Point: TypeAlias = Literal["resid_pre", "resid_mid", "resid_post"]


@dataclass(frozen=True)
class LensPoints:
    """Some points of some layers.

    Attributes:
        layers, points: in the order of the computation.
        n_layers: of the model.
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
        """For a result: the points, and the layers where they are not all."""
        chosen = {} if len(self.layers) == self.n_layers else {"layer": tuple(map(str, self.layers))}
        return {**chosen, "point": self.points}

    def placed(self, values: Tensor) -> Tensor:
        """Values [depth, ...] of `depths` as [layer, point, ...]; equal points get equal values."""
        index = [[self.depths.index(depth_of(layer, point)) for point in self.points] for layer in self.layers]
        return values[torch.tensor(index)]


def grid(model: Hooked, points: Sequence[str] | str, layers: Sequence[int] | int | None) -> LensPoints:
    """The points asked for, checked.

    Raises:
        AnalysisError: no such point or layer, none, or no model.
    """
    check_model(model)
    wanted = [points] if isinstance(points, str) else list(points)
    if not wanted or any(point not in POINTS for point in wanted):
        raise AnalysisError(f"points is {points!r}; expected some of {', '.join(POINTS)}")
    chosen = tuple(point for point in POINTS if point in wanted)
    return LensPoints(layers=checked_layers(model, layers), points=chosen, n_layers=int(model.cfg.n_layers))


def hook_of(depth: int, n_layers: int) -> str:
    """The hook point of a depth."""
    if depth == 2 * n_layers:
        return f"blocks.{n_layers - 1}.hook_resid_post"
    return f"blocks.{depth // 2}.hook_resid_{'mid' if depth % 2 else 'pre'}"


def residuals(model: Hooked, tokens: Tensor, depths: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
    """The residual stream [example, pos, d_model] at each depth, and the logits, of one run."""
    names = {depth: hook_of(depth, int(model.cfg.n_layers)) for depth in depths}
    kept = record(model, tokens, names.values())
    return {depth: kept[name] for depth, name in names.items()}, kept["logits"]


def readout(model: Hooked, resid: Tensor) -> Tensor:
    """Logits [..., d_vocab] of a residual stream [..., d_model], by the model's own modules."""
    return model.unembed(model.ln_final(resid))


def refuse_lens(model: Hooked, lens: TunedLens | None, depths: Sequence[int]) -> None:
    """Refuse a lens of another model, or one without translators for these depths.

    Raises:
        AnalysisError: it is one, or no lens at all.
    """
    if lens is None:
        return
    if not isinstance(lens, TunedLens):
        raise AnalysisError(f"lens is a {type(lens).__name__}; expected a TunedLens, or None for the logit lens")
    lens.refuse_other(model)
    nothing = torch.zeros(0, int(model.cfg.d_model))
    for depth in depths:
        lens.at_depth(depth, nothing)
