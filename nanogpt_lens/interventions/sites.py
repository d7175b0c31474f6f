"""The places that can be patched: activations, their axes, and the sites of a sweep.

An axis that is asked for is swept; along the others an activation is patched whole. So
activation="z" with axes=("layer", "head") patches each head at all positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.core.choices import Activation, did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked


@dataclass(frozen=True)
class Kind:
    """An activation: its hook point below `blocks.{layer}.`, and the names of its dimensions after the batch's.

    A dimension without a name (the features) is always patched whole.
    """

    name: Activation
    hook: str
    axes: tuple[str, ...]

    def hook_name(self, layer: int) -> str:
        """TransformerLens' name of the hook point."""
        return f"blocks.{layer}.{self.hook}"

    @property
    def dest(self) -> str:
        """The axis of the position whose output changes first."""
        return "dest_pos" if "dest_pos" in self.axes else "pos"

    @property
    def mean_dims(self) -> tuple[int, ...]:
        """The dimensions of [example, ...] over which a mean is taken: of a pattern not its positions."""
        return (0,) if self.name == "pattern" else (0, 1)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("resid_pre", "hook_resid_pre", ("pos",)),
        Kind("resid_mid", "hook_resid_mid", ("pos",)),
        Kind("resid_post", "hook_resid_post", ("pos",)),
        Kind("attn_out", "hook_attn_out", ("pos",)),
        Kind("mlp_out", "hook_mlp_out", ("pos",)),
        Kind("z", "attn.hook_z", ("pos", "head")),
        Kind("q", "attn.hook_q", ("pos", "head")),
        Kind("k", "attn.hook_k", ("pos", "head")),
        Kind("v", "attn.hook_v", ("pos", "head")),
        Kind("pattern", "attn.hook_pattern", ("head", "dest_pos", "src_pos")),
        Kind("mlp_post", "mlp.hook_post", ("pos", "neuron")),
        Kind("mlp_pre", "mlp.hook_pre", ("pos", "neuron")),
    )
}
_ALIASES = {
    "mlp post": "mlp_post",
    "mlp.hook_post": "mlp_post",
    "post": "mlp_post",
    "neurons": "mlp_post",
    "mlp.hook_pre": "mlp_pre",
    "attn": "pattern",
}


def kind_of(activation: str, *, also: Sequence[str] = ()) -> Kind:
    """The activation of that name, with or without `hook_` in front.

    Args:
        activation: the name.
        also: what could have been given instead, for the error.

    Raises:
        AnalysisError: there is no activation of that name.
    """
    kind = KINDS.get(plain_name(activation))
    if kind is None:
        known = ", ".join([*KINDS, *also])
        raise AnalysisError(f"the activation {activation!r} cannot be patched; expected one of {known}")
    return kind


def plain_name(activation: str) -> str:
    """The short name of an activation, such as "z" for "attn.hook_z" or "mlp_post" for "mlp.hook_post"."""
    name = _ALIASES.get(str(activation), str(activation)).removeprefix("attn.").removeprefix("hook_")
    return _ALIASES.get(name, name)


@dataclass(frozen=True, eq=False)
class Sites:
    """Places to patch, one after the other.

    Attributes:
        layer: the layer of each; None where each site is patched in all layers at once.
        coords: for each swept axis of the activation, the index of each site.
        n: the number of sites.
    """

    layer: Int[Tensor, " site"] | None
    coords: Mapping[str, Int[Tensor, " site"]]
    n: int

    def take(self, index: Int[Tensor, " index"]) -> Sites:
        """Some of the sites."""
        layer = None if self.layer is None else self.layer[index]
        return Sites(layer, {axis: places[index] for axis, places in self.coords.items()}, len(index))

    def by_layer(self, n_layers: int) -> Iterator[tuple[int | None, Int[Tensor, " index"]]]:
        """Yield each layer with the indices of its sites; one group for sites of all layers."""
        if self.layer is None:
            yield None, torch.arange(self.n)
            return
        for layer in range(n_layers):
            index = (self.layer == layer).nonzero().squeeze(1)
            if len(index):
                yield layer, index


def sweep_axes(kind: Kind, axes: Sequence[str]) -> tuple[str, ...]:
    """The axes of a sweep, in the order asked for.

    Raises:
        AnalysisError: there is no axis, one twice, or one that the activation does not have.
    """
    swept = (axes,) if isinstance(axes, str) else tuple(axes) if isinstance(axes, Sequence) else ()
    known = ("layer", *kind.axes)
    wrong = [axis for axis in swept if axis not in known]
    if wrong or not swept or len(set(swept)) != len(swept):
        problem = f"has no axis {wrong[0]!r}" if wrong else f"cannot be swept over {axes!r}"
        near = did_you_mean(wrong[0], known) if wrong and isinstance(wrong[0], str) else ""
        raise AnalysisError(f"{kind.name} {problem}; expected some of {', '.join(known)}, each once{near}")
    return swept


def sizes(model: Hooked, kind: Kind, n_pos: int) -> dict[str, int]:
    """The size of every axis of an activation, for a text of `n_pos` tokens."""
    cfg = model.cfg
    known = {"layer": cfg.n_layers, "head": cfg.n_heads, "neuron": cfg.d_mlp}
    return {axis: known.get(axis, n_pos) for axis in ("layer", *kind.axes)}


def all_sites(model: Hooked, kind: Kind, axes: Sequence[str], n_pos: int) -> tuple[Sites, tuple[int, ...]]:
    """Every site of a sweep, in row-major order of `axes`, and the shape of that grid."""
    known = sizes(model, kind, n_pos)
    shape = tuple(known[axis] for axis in axes)
    grid = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    places = {axis: indices.flatten() for axis, indices in zip(axes, grid, strict=True)}
    layer = places.pop("layer", None)
    return Sites(layer, places, len(grid[0].flatten())), shape


def site_index(kind: Kind, coords: Mapping[str, Int[Tensor, " site"]], n: int) -> tuple[Any, ...]:
    """The index of a tensor [site, example, *axes of the activation, ...] at the place of each site."""
    return (torch.arange(n), slice(None), *(coords.get(axis, slice(None)) for axis in kind.axes))
