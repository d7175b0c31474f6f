r"""CircuitsVis' widgets of a model and a text, in one line; each runs an analysis and draws its result.

    import nanogpt_lens as ngl

    ngl.widgets.attention_heads(model, "ROMEO:\nWhat")
    ngl.widgets.token_log_probs(model, "ROMEO:\nWhat")

The names are CircuitsVis'. Options of the drawing are those of the function of the same name in
`nanogpt_lens.viz.widgets`. Errors are those of the analysis (AnalysisError) and of the drawing (ResultError).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_lens.heads.attention import attention_patterns
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.model.access import Hooked, Text
from nanogpt_lens.neurons.activations import get_neuron_activations
from nanogpt_lens.neurons.search import search_neurons
from nanogpt_lens.results import LensResult
from nanogpt_lens.text.corpus import Corpus

if TYPE_CHECKING:
    from nanogpt_lens.viz.widgets import Widget


def attention_heads(model: Hooked, text: Text, **options: Any) -> Widget:
    """A small picture of every head's attention; the one chosen is shown large."""
    return attention_patterns(model, text).widget(kind="attention_heads", **options)


def attention_pattern(model: Hooked, text: Text, **options: Any) -> Widget:
    """One head's attention, large; `layer=` and `head=` say whose."""
    return attention_patterns(model, text).widget(kind="attention_pattern", **options)


def colored_tokens(model: Hooked, text: Text, *, example: int = 0) -> Widget:
    """A text, each token coloured by its loss in nats."""
    from nanogpt_lens.viz.widgets import colored_loss

    return colored_loss(_output(model, text, 1), example=example)


def token_log_probs(model: Hooked, text: Text, *, k: int = 10, example: int = 0) -> Widget:
    """A text coloured by the probability of each token; hovering one shows the `k` most likely in its place."""
    return _output(model, text, k).widget(kind="token_log_probs", example=example)


def loss_by_point(model: Hooked, text: Text, *, example: int = 0) -> Widget:
    """A text coloured by the loss of each token, as the logit lens reads it at every point (ColoredTokensMulti)."""
    return logit_lens(model, text, k=1).widget(kind="loss_by_point", example=example)


def text_neuron_activations(
    model: Hooked, text: Text, *, layers: Sequence[int] | int | None = None, neurons: Sequence[int] | int | None = None
) -> Widget:
    """A text coloured by the activation of a neuron, chosen by layer and number."""
    activations = get_neuron_activations(model, text, neurons=neurons, layers=layers)
    return activations.widget(kind="text_neuron_activations")


def topk_tokens(
    model: Hooked,
    text: Text,
    *,
    layers: Sequence[int] | int | None = None,
    neurons: Sequence[int] | int | None = None,
    k: int = 10,
) -> Widget:
    """A table of the tokens of a text on which each neuron is highest and lowest."""
    return get_neuron_activations(model, text, neurons=neurons, layers=layers).widget(kind="topk_tokens", k=k)


def topk_samples(
    model: Hooked, corpus: Corpus, *, neurons: Sequence[tuple[int, int]] | None = None, k: int = 10, **search: Any
) -> Widget:
    """The excerpts of a corpus on which neurons are highest and lowest; `search` are options of `search_neurons`."""
    layers = None if neurons is None else sorted({layer for layer, _ in neurons})
    result = search_neurons(model, corpus, **{"layers": layers, "k": k, **search})
    return result.widget(kind="topk_samples", neurons=neurons, k=k)


def _output(model: Hooked, text: Text, k: int) -> LensResult:
    """The model's own output, as a lens reads it."""
    k = min(k, model.cfg.d_vocab)
    return logit_lens(model, text, points=("resid_post",), layers=[model.cfg.n_layers - 1], k=k)
