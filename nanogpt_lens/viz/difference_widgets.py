"""Excerpts on which two models differ most, as a widget: three kinds, each token coloured by its own value."""

from __future__ import annotations

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.neurons import Excerpt
from nanogpt_lens.results.output_difference import Extreme, OutputDifference
from nanogpt_lens.viz.neuron_widgets import legend, static_excerpts
from nanogpt_lens.viz.tokens import harmless, rounded
from nanogpt_lens.viz.widget import Widget

_KINDS: tuple[Extreme, ...] = ("differing", "worse", "better")


def differing_excerpts(result: OutputDifference, *, k: int = 10) -> Widget:
    """The excerpts where KL(a || b) is largest, and where the loss of b is most above and most below that of a.

    Args:
        result: of `ngl.compare_outputs`.
        k: how many of each kind.

    Raises:
        ResultError: `k` below 1, or models that differ nowhere.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ResultError(f"k is {k!r}; expected a whole number, 1 or more")
    every = {kind: result.excerpts(kind)[:k] for kind in _KINDS}
    some = {kind: excerpts for kind, excerpts in every.items() if excerpts}
    if not some:
        raise ResultError("the two models differ nowhere, so that there is no excerpt to show")
    a, b = (harmless(name, spaces=False) for name in result.names)
    named = {"differing": f"KL({a} || {b}), largest", "worse": f"loss of {b} higher", "better": f"loss of {b} lower"}
    bounds = [_bound(excerpts) for excerpts in some.values()]
    first = next(iter(some))
    return Widget(
        component="TopkSamples",
        props={
            "tokens": [
                [[*([harmless(t, spaces=False, breaks=True) for t in e.tokens] for e in excerpts), legend(bound)]]
                for excerpts, bound in zip(some.values(), bounds, strict=True)
            ],
            "activations": [
                [[*(_numbers(e.activations) for e in excerpts), _numbers((-bound, 0.0, bound))]]
                for excerpts, bound in zip(some.values(), bounds, strict=True)
            ],
            "zerothDimensionName": "Excerpts",
            "zerothDimensionLabels": [named[kind] for kind in some],
            "firstDimensionName": "Models",
            "firstDimensionLabels": [f"{a}, {b}"],
        },
        static=f"<p>{named[first]}:</p>{static_excerpts(some[first][:5])}",
        caption=f"Excerpts on which {result.names[0]} and {result.names[1]} differ most, of {result.n_places:,} "
        "predicted tokens; a token's colour is about its own prediction, in nats; the scale is rust below zero, teal "
        "above",
        height=420,
    )


def _bound(excerpts: tuple[Excerpt, ...]) -> float:
    """The largest magnitude of any token; those without a value do not count."""
    return max([1e-7, *(abs(v) for e in excerpts for v in e.activations if v == v)])


def _numbers(values: tuple[float, ...]) -> list[float]:
    return [rounded(v) or 0.0 for v in values]
