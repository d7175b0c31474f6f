"""The components of a model, which together are all its parameters, and the parameters of each.

| written | means |
|---|---|
| "embed", "pos_embed" | the embeddings of tokens and of positions |
| "0.1" | head 1 of layer 0: its matrices and biases of q, k and v, and what it writes with |
| "0.b_O" | the bias of layer 0's attention, which belongs to no head |
| "mlp0" | the MLP of layer 0, with its biases |
| "0.ln1", "0.ln2", "ln_final" | the LayerNorms before attention, before the MLP and before the unembedding |
| "unembed" | the unembedding |

nanoGPT ties the embedding to the unembedding; a converted model has them twice, as two components.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from conversion.layout import HookedState
from conversion.transformerlens_to_nanogpt import hooked_layout_of
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model

_HEAD = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
_SIZES = ("n_layers", "n_heads", "d_head", "d_model", "d_mlp", "d_vocab", "n_ctx")


@dataclass(frozen=True)
class Component:
    """Some of a model's parameters.

    Attributes:
        name: as the module writes it.
        layer: the first layer whose computation hangs on it; -1 for the embeddings, the number of layers for what comes
            behind the last.
        parts: the parameters, by TransformerLens' names, and which head of them; -1 for all.
    """

    name: str
    layer: int
    parts: tuple[tuple[str, int], ...]

    def of(self, weights: HookedState) -> list[Float[Tensor, " ..."]]:
        """The component's tensors, which share memory with `weights`."""
        return [weights[name] if head < 0 else weights[name][head] for name, head in self.parts]


def components_of(model: Hooked) -> tuple[Component, ...]:
    """All components of a model, in the order of the computation; each parameter is in one of them."""
    cfg = model.cfg
    found = [Component("embed", -1, (("embed.W_E", -1),)), Component("pos_embed", -1, (("pos_embed.W_pos", -1),))]
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"

        def norm(which: str, layer: int = layer, block: str = block) -> Component:
            return Component(f"{layer}.{which}", layer, tuple((f"{block}.{which}.{part}", -1) for part in "wb"))

        found.append(norm("ln1"))
        for head in range(cfg.n_heads):
            found.append(Component(f"{layer}.{head}", layer, tuple((f"{block}.attn.{part}", head) for part in _HEAD)))
        found += [Component(f"{layer}.b_O", layer, ((f"{block}.attn.b_O", -1),)), norm("ln2")]
        mlp = tuple((f"{block}.mlp.{part}", -1) for part in ("W_in", "b_in", "W_out", "b_out"))
        found.append(Component(f"mlp{layer}", layer, mlp))
    n_layers = cfg.n_layers
    found.append(Component("ln_final", n_layers, (("ln_final.w", -1), ("ln_final.b", -1))))
    return (*found, Component("unembed", n_layers, (("unembed.W_U", -1), ("unembed.b_U", -1))))


def weights_of(model: Hooked) -> HookedState:
    """The model's parameters by TransformerLens' names, in its shapes; they share memory with the model."""
    return hooked_layout_of(model)


def check_one_shape(a: Hooked, b: Hooked) -> None:
    """Raise AnalysisError unless both are plain nanoGPT models of one shape and precision."""
    for name, model in (("a", a), ("b", b)):
        check_model(model)
        kind = model.cfg.normalization_type
        if kind != "LN" or getattr(model.cfg, "attn_only", False):
            raise AnalysisError(
                f"the model {name} has normalization_type {kind!r}{' and no MLPs' if kind == 'LN' else ''}; expected "
                "a nanoGPT model with its LayerNorms, as ngl.load gives without process_weights"
            )
    if different := different_sizes(a, b):
        raise AnalysisError(
            f"a and b differ in shape: {different}; expected two models whose parameters correspond one by one"
        )
    if a.cfg.dtype != b.cfg.dtype:
        raise AnalysisError(
            f"a is in {str(a.cfg.dtype).removeprefix('torch.')}, b in {str(b.cfg.dtype).removeprefix('torch.')}; "
            "expected one precision: load both with the same dtype"
        )


def different_sizes(a: Hooked, b: Hooked) -> str:
    """The sizes and the activation function in which two models differ, in words; "" where they do not."""
    differing = []
    for name in (*_SIZES, "act_fn"):
        one, two = getattr(a.cfg, name), getattr(b.cfg, name)
        if one != two:
            differing.append(f"{name} is {one} in a and {two} in b")
    return ", ".join(differing)


def differing(a: Hooked, b: Hooked) -> Bool[Tensor, " component"]:
    """Which components differ in any bit of a parameter; 0 and -0 count as one."""
    one, two = weights_of(a), weights_of(b)
    return torch.tensor(
        [
            any(not torch.equal(x, y.to(x.device)) for x, y in zip(c.of(one), c.of(two), strict=True))
            for c in components_of(a)
        ]
    )


def named_components(components: tuple[Component, ...], names: object) -> list[int]:
    """The places of some components, by name, each once.

    Raises:
        AnalysisError: there is no name, or none of such a component.
    """
    known = [component.name for component in components]
    wanted = [names] if isinstance(names, str) else list(names) if isinstance(names, list | tuple | set) else []
    if not wanted:
        raise AnalysisError(f"components is {names!r}; expected some names, such as ['embed', '0.1', 'mlp0'], or None")
    for name in wanted:
        if name not in known:
            raise AnalysisError(
                f"{name!r} is no component of this model; expected embed, pos_embed, heads such as 0.1, 0.b_O, mlp0, "
                f"0.ln1, 0.ln2, ln_final or unembed{did_you_mean(str(name), known)}"
            )
    return sorted({known.index(name) for name in wanted})
