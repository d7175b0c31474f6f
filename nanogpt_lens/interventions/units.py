"""The units whose activations are studied: neurons, coordinates of any activation, or features of an SAE.

A unit has an activation at every token, a direction that it writes into the residual stream, and it
can be set to a value. That is all that search, statistics and ablation need, so the features of a
SAELens autoencoder are searched, ablated and shown by the functions that do it for neurons.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import plain_name
from nanogpt_lens.model.access import Edit, Hooked, check_model
from nanogpt_lens.model.fingerprints import tensor_hash

UNIT_HOOKS: dict[str, str] = {
    "mlp_post": "mlp.hook_post",
    "mlp_pre": "mlp.hook_pre",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
}
"""Activations with one value for each unit at each position, and their hook points below `blocks.<layer>.`."""


class Units:
    """The units of one activation in some layers, or the features of one autoencoder.

    Args:
        model: the model.
        activation: one of `UNIT_HOOKS`.
        layers: the layers; None for all.
        sae: a SAELens autoencoder, which says itself at which hook point it reads, and so takes the place of
            `activation` and `layers`.

    Attributes:
        activation, hook: the short name, and the hook point below `blocks.<layer>.`.
        layers: the layers, ascending.
        names: their hook points.
        n_units: in each layer.
        kind: "neuron", "feature", or "unit" (a coordinate of another activation).

    Raises:
        AnalysisError: no such activation or layer, or an autoencoder of another width.
    """

    def __init__(
        self, model: Hooked, *, activation: str = "mlp_post", layers: Sequence[int] | None = None, sae: Any = None
    ) -> None:
        check_model(model)
        self.model, self.sae = model, sae
        if sae is not None:
            activation, layers = self._of_autoencoder(sae, layers)
        name = plain_name(activation)
        if name not in UNIT_HOOKS:
            raise AnalysisError(f"the activation is {activation!r}; expected one of {', '.join(UNIT_HOOKS)}")
        self.activation, self.hook = name, UNIT_HOOKS[name]
        self.layers = checked_layers(model, layers)
        self.names = tuple(f"blocks.{layer}.{self.hook}" for layer in self.layers)
        cfg = model.cfg
        self.width = (
            cfg.d_mlp if self.hook.startswith("mlp.") else cfg.n_heads * cfg.d_head if name == "z" else cfg.d_model
        )
        if sae is not None and int(sae.W_dec.shape[1]) != self.width:
            raise AnalysisError(
                f"the autoencoder has d_in={sae.W_dec.shape[1]}; expected {self.width}, the width of {self.names[0]}"
            )
        self.n_units = self.width if sae is None else int(sae.W_dec.shape[0])
        self.kind = "feature" if sae is not None else "neuron" if self.hook.startswith("mlp.") else "unit"

    @property
    def autoencoder(self) -> str | None:
        """What provenance says of the autoencoder: class, size, hash, and what it was trained on; None without one."""
        if self.sae is None:
            return None
        weights = hashlib.sha256("".join(tensor_hash(t) for t in self.sae.state_dict().values()).encode())
        home = getattr(self.sae.cfg.metadata, "checkpoint_sha256", None) or "a checkpoint that it does not name"
        return f"{type(self.sae).__name__}, {self.n_units} features, {weights.hexdigest()[:16]}, trained on {home}"

    def values(self, i: int, activation: Float[Tensor, "example pos ..."]) -> Float[Tensor, "example pos unit"]:
        """The units' activations, from the activation at the i-th hook point."""
        if self.sae is None:
            return activation.flatten(2)
        whole = activation if getattr(self.sae, "hook_z_reshaping_mode", False) else activation.flatten(2)
        features = self.sae.encode(whole.to(self.sae.W_dec.dtype))
        return features.to_dense() if features.is_sparse else features

    def _decoder(self) -> Float[Tensor, "feature d_in"]:
        """What each feature adds to the reconstruction, per unit of activation.

        Raises:
            AnalysisError: that depends on the token.
        """
        cfg = self.sae.cfg
        if getattr(cfg, "normalize_activations", "none") != "none":
            raise AnalysisError(
                f"the autoencoder has normalize_activations={cfg.normalize_activations!r}, so that a feature's "
                "direction has another length on each token; expected 'none', or one with the factor folded in"
            )
        rows = self.sae.W_dec
        return rows / rows.norm(dim=-1, keepdim=True) if getattr(cfg, "rescale_acts_by_decoder_norm", False) else rows

    def directions(self, i: int) -> Float[Tensor, "unit d_model"]:
        """What each unit writes into the residual stream, per unit of activation, in float64.

        Coordinates of the residual stream and of what is added to it write themselves.
        """
        block = self.model.blocks[self.layers[i]]
        if self.hook.startswith("mlp."):
            out = self.model.W_out[self.layers[i]]
        elif self.activation == "z":
            out = rearrange(self.model.W_O[self.layers[i]], "head d_head d_model -> (head d_head) d_model")
        else:
            out = torch.eye(self.model.cfg.d_model, device=next(block.parameters()).device)
        out = out.detach().double()
        return out if self.sae is None else self._decoder().detach().double().to(out.device) @ out

    def setting(self, i: int, units: Sequence[int], value: Float[Tensor, " unit"] | float) -> Edit:
        """An edit of the i-th hook point that sets units to a value, everywhere.

        Args:
            i: the number of the hook point.
            units: the indices of the units.
            value: one number, or one for each unit.

        A feature of an autoencoder is set by adding the difference to its present activation along its
        decoder direction: what the autoencoder does not explain stays as it is.
        """
        chosen = list(units)

        def edit(activation: Float[Tensor, "example pos ..."]) -> Float[Tensor, "example pos ..."]:
            flat = activation.flatten(2).clone()
            if self.sae is None:
                flat[..., chosen] = torch.as_tensor(value, dtype=flat.dtype, device=flat.device)
            else:
                present = self.values(i, activation)[..., chosen]
                change = torch.as_tensor(value, dtype=present.dtype, device=present.device) - present
                flat += (change @ self._decoder()[chosen]).to(flat.dtype)
            return flat.view_as(activation)

        return edit

    def checked(self, layer: int, unit: int) -> tuple[int, int]:
        """The index of the hook point, and the unit.

        Raises:
            AnalysisError: there is no such layer or unit.
        """
        if isinstance(layer, bool) or layer not in self.layers:
            raise AnalysisError(f"there is no layer {layer!r}; expected one of {', '.join(map(str, self.layers))}")
        if isinstance(unit, bool) or not isinstance(unit, int) or not 0 <= unit < self.n_units:
            raise AnalysisError(f"there is no {self.kind} {unit!r}; expected 0 to {self.n_units - 1}")
        return self.layers.index(layer), unit

    def check_finite(self, means: Float[Tensor, "site unit"]) -> None:
        """Raise AnalysisError where a mean over a corpus is not finite."""
        if not bool(means.isfinite().all()):
            raise AnalysisError(
                f"some activations at {self.names[0]} ... are not finite; the model overflows on this text"
            )

    def _of_autoencoder(self, sae: Any, layers: Sequence[int] | None) -> tuple[str, tuple[int, ...]]:
        """The hook point and layer at which a SAELens autoencoder reads."""
        cfg = getattr(sae, "cfg", None)
        hook = getattr(getattr(cfg, "metadata", None), "hook_name", None) or getattr(cfg, "hook_name", None)
        if not isinstance(hook, str) or not hasattr(sae, "encode") or not hasattr(sae, "W_dec"):
            raise AnalysisError(f"the autoencoder is a {type(sae).__name__}; expected one of SAELens, with a hook_name")
        parts = hook.split(".", 2)
        if len(parts) != 3 or parts[0] != "blocks" or not parts[1].isdecimal():
            raise AnalysisError(f"the autoencoder reads at {hook!r}; expected a hook point of one layer")
        if layers is not None and list(layers) != [int(parts[1])]:
            raise AnalysisError(f"layers is {list(layers)}; expected {[int(parts[1])]}, where the autoencoder reads")
        return parts[2], (int(parts[1]),)


def checked_layers(model: Hooked, layers: Sequence[int] | int | None) -> tuple[int, ...]:
    """Layers in ascending order; all of them for None.

    Raises:
        AnalysisError: there is no layer, or one that the model does not have.
    """
    n = int(model.cfg.n_layers)
    chosen = list(range(n)) if layers is None else [layers] if isinstance(layers, int) else list(layers)
    for layer in chosen:
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < n:
            raise AnalysisError(f"there is no layer {layer!r}; expected 0 to {n - 1}")
    if not chosen:
        raise AnalysisError(f"layers is empty; expected some of 0 to {n - 1}, or None for all")
    return tuple(sorted(set(chosen)))
