"""CircuitsVis' widgets and two of our own, fed from our results: data made harmless, small, a static picture behind it.

Source: CircuitsVis, https://github.com/TransformerLensOrg/CircuitsVis, whose script draws all but the large
attention patterns: those, above `CANVAS_ABOVE` cells, a canvas of our own draws with the same looks and controls.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Literal

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import (
    AttentionPatterns,
    AttributionResult,
    Circuit,
    LensResult,
    MixedAttention,
    NeuronSearch,
    OutputDifference,
    PatchingResult,
    Result,
)
from nanogpt_lens.viz.attention_widgets import attention_heads, attention_pattern
from nanogpt_lens.viz.circuit_widgets import circuit_graph, edge_graph, of_edges
from nanogpt_lens.viz.difference_widgets import differing_excerpts
from nanogpt_lens.viz.neuron_widgets import text_neuron_activations, topk_samples, topk_tokens
from nanogpt_lens.viz.token_widgets import (
    colored_loss,
    colored_tokens,
    colored_tokens_multi,
    loss_by_point,
    token_log_probs,
)
from nanogpt_lens.viz.widget import NotebookScript, Widget, setup_notebook

__all__ = [
    "NotebookScript",
    "Widget",
    "attention_heads",
    "attention_pattern",
    "circuit_graph",
    "colored_loss",
    "colored_tokens",
    "colored_tokens_multi",
    "differing_excerpts",
    "edge_graph",
    "loss_by_point",
    "setup_notebook",
    "text_neuron_activations",
    "token_log_probs",
    "topk_samples",
    "topk_tokens",
    "widget",
]

Kind = Literal[
    "attention_heads",
    "attention_pattern",
    "token_log_probs",
    "loss_by_point",
    "topk_samples",
    "topk_tokens",
    "text_neuron_activations",
]


def widget(result: Result, *, kind: str | None = None, **options: Any) -> Widget:
    """The widget of a result.

    Args:
        result: what an analysis returned.
        kind: which, where there are several: "attention_heads" (the default) or "attention_pattern" for attention;
            "token_log_probs" or "loss_by_point" for a lens; "text_neuron_activations" or "topk_tokens" for activations.
        options: those of the function of that name.

    Raises:
        ResultError: no widget for this kind of result, another `kind`, an unknown option, or a place that is not there.
    """
    functions = _functions(result)
    name = type(result).__name__
    if not functions:
        axes = ", ".join(result.axes)
        raise ResultError(f"there is no widget for a {name} with the axes {axes}; draw it with .plot()")
    kind = kind or next(iter(functions))
    if kind not in functions:
        raise ResultError(f"kind is {kind!r}; expected {' or '.join(functions)} for this {name}")
    known = list(signature(functions[kind]).parameters)[1:]
    if unknown := sorted(options.keys() - set(known)):
        raise ResultError(
            f"the widget {kind} has no option {', '.join(unknown)}; expected {', '.join(known) or 'none'}"
        )
    return functions[kind](result, **options)


def _functions(result: Result) -> dict[str, Callable[..., Widget]]:
    """The functions that take this result, the default first."""
    square = result.axes[-2:] == ("dest_pos", "src_pos")
    if isinstance(result, AttentionPatterns) or (isinstance(result, MixedAttention) and square):
        return {"attention_heads": attention_heads, "attention_pattern": attention_pattern}
    if isinstance(result, LensResult):
        return {"token_log_probs": token_log_probs, "loss_by_point": loss_by_point}
    if isinstance(result, Circuit):
        return {"circuit_graph": circuit_graph}
    if isinstance(result, PatchingResult | AttributionResult) and of_edges(result):
        return {"edge_graph": edge_graph}
    if isinstance(result, NeuronSearch):
        return {"topk_samples": topk_samples}
    if isinstance(result, OutputDifference):
        return {"differing_excerpts": differing_excerpts}
    if result.axes[-3:] == ("layer", "neuron", "pos") and "pos" in result.labels:
        return {"text_neuron_activations": text_neuron_activations, "topk_tokens": topk_tokens}
    return {}
