"""The architecture of a nanoGPT model, as its `model_args` describe it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from conversion.errors import CheckpointError

ActFn = Literal["gelu", "gelu_new"]
"""nanoGPT's exact GELU, or the tanh approximation of its first versions and of GPT-2."""

LAYER_NORM_EPS = 1e-5
"""The constant that nanoGPT writes into its LayerNorm; no config holds it."""

_SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_KNOWN = (*_SIZES, "bias", "dropout")


@dataclass(frozen=True, kw_only=True)
class NanoGPTConfig:
    """A validated nanoGPT architecture.

    Attributes:
        n_layer, n_head, n_embd, block_size, vocab_size: as in nanoGPT's `model_args`.
        bias: whether linear layers and LayerNorms have biases.
        dropout: the dropout rate during training; conversion ignores it.
        act_fn: nanoGPT's exact GELU unless the caller says otherwise; no
            checkpoint of nanoGPT records it.
        tied: whether `lm_head.weight` is the token embedding, as nanoGPT makes it.

    Raises:
        CheckpointError: a size is no positive integer, `n_head` does not divide
            `n_embd`, or `act_fn` is unknown.
    """

    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool = True
    dropout: float = 0.0
    act_fn: ActFn = "gelu"
    tied: bool = True

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(f"model_args[{name!r}] is {value!r}; expected a positive integer")
        if self.n_embd % self.n_head:
            raise CheckpointError(
                f"model_args['n_head'] is {self.n_head}, which does not divide n_embd {self.n_embd}; "
                "the file's model_args are wrong or belong to another architecture"
            )
        if not isinstance(self.bias, bool):
            raise CheckpointError(f"model_args['bias'] is {self.bias!r}; expected True or False")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout <= 1:
            raise CheckpointError(f"model_args['dropout'] is {self.dropout!r}; expected a number from 0 to 1")
        if self.act_fn not in get_args(ActFn):
            raise CheckpointError(
                f"act_fn is {self.act_fn!r}; expected 'gelu' (nanoGPT) or "
                "'gelu_new' (the tanh approximation of old nanoGPT and GPT-2)"
            )

    @property
    def d_head(self) -> int:
        """The width of one attention head."""
        return self.n_embd // self.n_head

    @property
    def d_mlp(self) -> int:
        """The number of neurons of one MLP, which in nanoGPT is always four times the width."""
        return 4 * self.n_embd

    @classmethod
    def from_model_args(
        cls,
        model_args: Mapping[str, Any],
        *,
        act_fn: ActFn = "gelu",
        tied: bool = True,
        ignore: Iterable[str] = (),
    ) -> NanoGPTConfig:
        """The architecture that nanoGPT's `model_args` describe.

        Args:
            model_args: the dictionary that nanoGPT stores.
            act_fn, tied: see the class.
            ignore: the names of a fork's further arguments that do not change what is computed.

        Raises:
            CheckpointError: a size is missing or wrong, or a fork's argument is unknown.
        """
        missing = [name for name in _SIZES if name not in model_args]
        if missing:
            raise CheckpointError(
                f"model_args has no {', '.join(missing)}; expected all of {', '.join(_SIZES)} as nanoGPT writes them"
            )
        unknown = sorted((name for name in model_args if name not in _KNOWN and name not in set(ignore)), key=str)
        if unknown:
            arguments = ", ".join(f"{name}={model_args[name]!r:.40}" for name in unknown)
            raise CheckpointError(
                f"model_args has arguments that nanoGPT does not know ({arguments}), so this may be another "
                "architecture; if they do not change what the model computes, pass "
                f"ignore_model_args={unknown!r}"
            )
        known = {name: model_args[name] for name in _KNOWN if name in model_args}
        return cls(**known, act_fn=act_fn, tied=tied)

    def to_model_args(self) -> dict[str, Any]:
        """The dictionary that the original nanoGPT reads: `GPTConfig(**model_args)`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name in _KNOWN}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of nanoGPT's state dict with its shape, in nanoGPT's order."""
        width, hidden = self.n_embd, self.d_mlp
        table: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (self.vocab_size, width),
            "transformer.wpe.weight": (self.block_size, width),
        }

        def layer(name: str, *shape: int) -> None:
            table[f"{name}.weight"] = shape
            if self.bias:
                table[f"{name}.bias"] = shape[:1]

        for i in range(self.n_layer):
            block = f"transformer.h.{i}"
            layer(f"{block}.ln_1", width)
            layer(f"{block}.attn.c_attn", 3 * width, width)
            layer(f"{block}.attn.c_proj", width, width)
            layer(f"{block}.ln_2", width)
            layer(f"{block}.mlp.c_fc", hidden, width)
            layer(f"{block}.mlp.c_proj", width, hidden)
        layer("transformer.ln_f", width)
        table["lm_head.weight"] = (self.vocab_size, width)
        return table
