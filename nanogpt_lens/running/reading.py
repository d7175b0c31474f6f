"""Activations of a plain run, as fast as nanoGPT itself computes them.

Reading activations needs no edit, so the run may go through the reference architecture
(`conversion.native`, fused attention and LayerNorm) with the model's present weights, and stop
after the last activation asked for. `plain_model` says whether that is the same: if the two differ,
or if the model is none of nanoGPT's (processed weights, the user's hooks or code, half precision),
the run goes through the hook points themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from jaxtyping import Int
from torch import Tensor

from conversion.native import GPT
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Edit, EnoughSeenError, Hooked, run
from nanogpt_lens.model.plain import plain_model

Engine: TypeAlias = Literal["auto", "native", "hooks"]
"""How activations are computed: by the reference architecture, through hook points, or whichever fits."""

See: TypeAlias = Callable[[int, Tensor], None]
"""A function that receives the number of a hook point, and its activation."""


class Reader:
    """Shows the activations at some hook points, run after run.

    Args:
        model: the model.
        names: the hook points, in the order of the computation.
        engine: see `Engine`.
        length: the longest sequence that it will be shown; None for the context.

    Attributes:
        engine: the engine that is used, "native" or "hooks".

    Raises:
        AnalysisError: the model has no such hook point, or "native" was asked for and does not fit.
    """

    def __init__(
        self, model: Hooked, names: Sequence[str], *, engine: Engine = "auto", length: int | None = None
    ) -> None:
        check_choice(Engine, engine=engine)
        for name in names:
            if name not in model.hook_dict:
                raise AnalysisError(
                    f"the model has no hook point {name!r}; expected one such as blocks.0.mlp.hook_post"
                )
        self.model, self.names = model, tuple(names)
        self._native = plain_model(model, self.names, length=length) if engine != "hooks" else None
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
            raise EnoughSeenError

        edits: dict[str, Edit] = {name: _edit_that_shows(i, see) for i, name in enumerate(self.names)}
        edits[self.names[-1]] = ending
        try:
            native(tokens, edits=edits)
        except EnoughSeenError:
            return


def _edit_that_shows(i: int, see: See) -> Edit:
    def show(value: Tensor) -> Any:
        see(i, value)

    return show
