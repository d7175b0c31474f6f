"""Activations of a plain run, as fast as nanoGPT itself computes them.

Reading activations needs no edit, so the run may go through the reference architecture
(`conversion.native`, fused attention and LayerNorm) with the model's present weights, and stop
after the last activation asked for. A `Reader` first compares that with the model's own hook
points on random tokens. If the two differ, or if the model is none of nanoGPT's (processed
weights, the user's hooks, half precision), the run goes through the hook points themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.errors import ConversionError
from conversion.native import GPT, hook_names
from conversion.transformerlens_to_nanogpt import to_nanogpt
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Edit, Hooked, device_of, has_hooks, run
from nanogpt_lens.text.prompts import random_tokens

Engine: TypeAlias = Literal["auto", "native", "hooks"]
"""How activations are computed: by the reference architecture, through hook points, or whichever fits."""

See: TypeAlias = Callable[[int, Tensor], None]
"""A function that receives the number of a hook point, and its activation."""

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
"""The largest difference from the hook points that is allowed, relative to the largest activation there."""

_LONGEST = 128  # tokens on which two engines are compared


class _EnoughSeenError(Exception):
    """Ends a forward pass after the last activation asked for."""


class Reader:
    """Shows the activations at some hook points, run after run.

    Args:
        model: the model.
        names: the hook points, in the order of the computation.
        engine: see `Engine`.

    Attributes:
        engine: the engine that is used, "native" or "hooks".

    Raises:
        AnalysisError: the model has no such hook point, or "native" was asked for and does not fit.
    """

    def __init__(self, model: Hooked, names: Sequence[str], *, engine: Engine = "auto") -> None:
        check_choice(Engine, engine=engine)
        for name in names:
            if name not in model.hook_dict:
                raise AnalysisError(
                    f"the model has no hook point {name!r}; expected one such as blocks.0.mlp.hook_post"
                )
        self.model, self.names = model, tuple(names)
        self._native = self._fitting() if engine != "hooks" else None
        if engine == "native" and self._native is None:
            raise AnalysisError(
                "engine='native' does not fit this model (processed weights, hooks, half precision, or no nanoGPT); "
                "use engine='auto'"
            )
        self.engine = "hooks" if self._native is None else "native"

    def __call__(self, tokens: Int[Tensor, "example pos"], see: See) -> None:
        """Run on tokens and show `see` each activation [example, pos, ...] once, in order; `see` must not keep it."""
        if self._native is None:
            self._hooked(tokens, see)
        else:
            self._plain(self._native, tokens, see)

    def _hooked(self, tokens: Int[Tensor, "example pos"], see: See) -> None:
        run(self.model, tokens, {name: _edit_that_shows(i, see) for i, name in enumerate(self.names)})

    def _plain(self, native: GPT, tokens: Int[Tensor, "example pos"], see: See) -> None:
        last = len(self.names) - 1

        def ending(value: Tensor) -> None:
            see(last, value)
            raise _EnoughSeenError

        edits: dict[str, Edit] = {name: _edit_that_shows(i, see) for i, name in enumerate(self.names)}
        edits[self.names[-1]] = ending
        try:
            native(tokens, edits=edits)
        except _EnoughSeenError:
            return

    def _fitting(self) -> GPT | None:
        """The reference architecture with the model's weights; None unless it gives what the hook points give."""
        model = self.model
        known = set(hook_names(model.cfg.n_layers))
        if model.cfg.dtype not in TOLERANCE or has_hooks(model) or not known.issuperset(self.names):
            return None
        try:
            native = GPT.from_checkpoint(to_nanogpt(model), copy=False).to(device_of(model))
        except (ConversionError, AttributeError):
            return None
        length = min(int(model.cfg.n_ctx), _LONGEST)
        tokens = random_tokens(model, 2, length, repeats="allow", generator=torch.Generator().manual_seed(0))
        with torch.inference_mode(False), torch.no_grad():
            at_hooks = self._activations(self._hooked, tokens)
            at_native = self._activations(lambda t, see: self._plain(native, t, see), tokens)
        tolerance = TOLERANCE[model.cfg.dtype]
        close = all(
            a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())
            for a, b in zip(at_native, at_hooks, strict=True)
        )
        return native if close else None

    @staticmethod
    def _activations(
        run_once: Callable[[Int[Tensor, "example pos"], See], None], tokens: Int[Tensor, "example pos"]
    ) -> list[Float[Tensor, "example ..."]]:
        """Copies of the activations that one run shows."""
        activations: list[Float[Tensor, "example ..."]] = []
        run_once(tokens, lambda i, value: activations.append(value.clone()))
        return activations


def _edit_that_shows(i: int, see: See) -> Edit:
    def show(value: Tensor) -> Any:
        see(i, value)

    return show
