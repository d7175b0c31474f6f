"""Texts as widgets: tokens coloured by a value, by several, or by the probability that the model gave them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import LensResult
from nanogpt_lens.viz.choosing import finite, one_example, own_numbers, place
from nanogpt_lens.viz.colours import Kind, css_colours
from nanogpt_lens.viz.style import ACCENT, AMBER, MONOSPACE, RUST, TEAL
from nanogpt_lens.viz.tokens import harmless, rounded, visible
from nanogpt_lens.viz.widget import Widget

_LEAST = 1e-7
_ABOVE = {"signed": TEAL, "cost": AMBER, "share": ACCENT}
_WORDS = {"signed": "teal", "cost": "amber", "share": "blue"}


def colored_tokens(
    tokens: Sequence[str],
    values: Sequence[float] | Tensor,
    *,
    low: float | None = None,
    high: float | None = None,
    caption: str = "",
    kind: Kind = "signed",
) -> Widget:
    """A text, each token coloured by its value: white at zero, rust below; above, teal, or by what the values are.

    Args:
        tokens: the text.
        values: one for each token, nan for none (white, without a number).
        low, high: the values with the full colours; None for plus and minus the largest magnitude.
        caption: what the values are.
        kind: "signed"; "cost" for a loss (amber), "share" for what goes from 0 to 1 (blue).

    Raises:
        ResultError: there are not as many values as tokens, or one is infinite.
    """
    numbers = _numbers(tokens, values)
    low, high = _bounds(numbers, low, high)
    props = {
        "tokens": _labels(tokens),
        "values": [rounded(v) for v in numbers],
        "minValue": rounded(low),
        "maxValue": rounded(high),
        "positiveColor": _ABOVE[kind],
        "negativeColor": RUST,
    }
    known = [v for v in numbers if v == v]
    below, above = any(v < 0 for v in known), any(v > 0 for v in known)
    ends = [f"rust {low:.4g}"] * below + ["white 0"] + [f"{_WORDS[kind]} {high:.4g}"] * above
    ends += ["no number: no value"] * (len(known) < len(numbers))
    words = f"{caption or 'tokens coloured by value'}; {', '.join(ends)}"
    return Widget(
        component="ColoredTokens",
        props=props,
        static=static_text(tokens, numbers, low=low, high=high, kind=kind),
        caption=words,
        height=_height(tokens),
    )


def colored_tokens_multi(
    tokens: Sequence[str], values: Float[Tensor, "token label"], labels: Sequence[str], *, caption: str = ""
) -> Widget:
    """A text with several values for each token, one of which colours it.

    Args:
        tokens: the text.
        values: of each token, one for each label.
        labels: what each is.
        caption: what the values are.

    Raises:
        ResultError: the shape of `values` does not fit, or one is nan or infinite.
    """
    if tuple(values.shape) != (len(tokens), len(labels)) or not values.numel():
        raise ResultError(
            f"values of shape {list(values.shape)} for {len(tokens)} tokens and {len(labels)} labels; expected "
            f"[{len(tokens)}, {len(labels)}]"
        )
    first = finite(values, "the text").double()[:, 0].tolist()
    bounds = values.double().abs().amax(0).clamp(min=_LEAST).tolist()  # zero stays in the middle
    props = {
        "tokens": _labels(tokens),
        "values": [[rounded(v) for v in row] for row in values.double().tolist()],
        "labels": [harmless(label, spaces=False) for label in labels],
        "positiveBounds": [rounded(bound) for bound in bounds],
        "negativeBounds": [rounded(-bound) for bound in bounds],
    }
    return Widget(
        component="ColoredTokensMulti",
        props=props,
        static=f"<p>{html.escape(labels[0])}:</p>{static_text(tokens, first, low=-bounds[0], high=bounds[0])}",
        caption=f"{caption or 'tokens coloured by one of several values'}: {len(labels)} values, chosen above the text",
        height=_height(tokens) + 120 + 20 * len(labels),
    )


def token_log_probs(
    lens: LensResult, *, layer: int | None = None, point: str | None = None, example: int = 0
) -> Widget:
    """A text coloured by the probability that the model gave each token; hovering one shows what it expected.

    Args:
        lens: what `logit_lens` returned.
        layer: where it is read, the layer's own number; None for the last.
        point: "resid_pre", "resid_mid" or "resid_post"; None for the last. The last point of the last layer is the
            model's own output.
        example: which text.

    Raises:
        ResultError: no such layer, point or example, or a text of one token.
    """
    i, j, name = _point(lens, layer, point)
    logprobs, rank, top_tokens, top_logprobs = (
        one_example(lens, tensor, example)[i, j]
        for tensor in (lens.values, lens.rank, lens.top_tokens, lens.top_logprobs)
    )
    strings = _strings(lens, example)
    finite(torch.cat([logprobs[:-1].flatten(), top_logprobs[:-1].flatten()]), "the log-probability")
    props = {
        "prompt": _labels(strings),
        "topKLogProbs": [[rounded(v) for v in row] for row in top_logprobs[:-1].double().tolist()],
        "topKTokens": [_labels([lens.string(token) for token in row]) for row in top_tokens[:-1].tolist()],
        "correctTokenRank": rank[:-1].tolist(),
        "correctTokenLogProb": [rounded(v) for v in logprobs[:-1].double().tolist()],
    }
    source = "the model's output" if _is_output(lens, i, j) else f"the lens at {name}"
    loss = -float(logprobs[:-1].double().mean())
    return Widget(
        component="TokenLogProbs",
        props=props,
        static=static_text(strings[1:], logprobs[:-1].exp().tolist(), low=-1.0, high=1.0, kind="share"),
        caption=(
            f"Log-probability, in nats, of each of {len(strings) - 1} tokens at {source}; mean loss {loss:.3f} nats. "
            "The darker, the likelier the token was. Hover a token for the most likely ones in its place"
        ),
        height=_height(strings) + 350,
    )


def colored_loss(lens: LensResult, *, layer: int | None = None, point: str | None = None, example: int = 0) -> Widget:
    """A text, each token coloured by its loss in nats.

    Args:
        lens, layer, point, example: see `token_log_probs`.

    Raises:
        ResultError: see `token_log_probs`.
    """
    i, j, name = _point(lens, layer, point)
    losses = finite(-one_example(lens, lens.values, example)[i, j, :-1].double(), "the loss")
    source = "the model's output" if _is_output(lens, i, j) else f"the lens at {name}"
    caption = f"Loss of each token, in nats, at {source}; mean {float(losses.mean()):.3f}"
    return colored_tokens(_strings(lens, example)[1:], losses, caption=caption, kind="cost")


def _strings(lens: LensResult, example: int) -> list[str]:
    """The tokens of a text of two or more."""
    tokens = (lens.tokens[example] if "example" in lens.axes else lens.tokens).tolist()
    if len(tokens) < 2:
        raise ResultError("the text has one token, and nothing follows it; expected two or more")
    return [lens.string(token) for token in tokens]


def loss_by_point(lens: LensResult, *, example: int = 0) -> Widget:
    """A text coloured by the loss of each token, as a lens reads it at every point of the model.

    Args:
        lens: what `logit_lens` returned.
        example: which text.

    Raises:
        ResultError: no such example, or a text of one token.
    """
    values = one_example(lens, lens.values, example)
    strings = _strings(lens, example)[1:]
    places = lens.in_depth_order()[::-1]
    losses = torch.stack([-values[i, j, :-1].double() for i, j, _ in places], -1)
    caption = "Loss of each token, in nats, as the lens reads it at each point; the first is the highest point"
    return colored_tokens_multi(strings, losses, [name for _, _, name in places], caption=caption)


def _point(lens: LensResult, layer: int | None, point: str | None) -> tuple[int, int, str]:
    """The indices of a layer and a point, and the name of both."""
    layers = own_numbers(lens, "layer")
    points = list(lens.labels["point"])
    i = len(layers) - 1 if layer is None else place(layer, layers, "layer")
    if point is not None and point not in points:
        raise ResultError(f"there is no point {point!r}; expected one of {', '.join(points)}")
    j = len(points) - 1 if point is None else points.index(point)
    return i, j, f"{layers[i]}.{points[j]}"


def _is_output(lens: LensResult, i: int, j: int) -> bool:
    """Whether the point is the model's own output, where KL(final || lens) is zero."""
    return bool(lens.kl[i, j].abs().max() < 1e-6)


def static_text(
    tokens: Sequence[str], values: Sequence[float], *, low: float, high: float, kind: Kind = "signed"
) -> str:
    """HTML of a coloured text that needs no script; values are in the tooltips."""
    spans = []
    for token, value, (back, ink) in zip(tokens, values, css_colours(list(values), low, high, kind=kind), strict=True):
        text = html.escape(visible(token, breaks=True))
        spans.append(f'<span style="background:{back};color:{ink}" title="{value:.4g}">{text}</span>')
    style = f"font:14px/1.7 {MONOSPACE};white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate"
    return f'<div style="{style}">{"".join(spans)}</div>'


def _labels(tokens: Sequence[str]) -> list[str]:
    """The tokens as CircuitsVis may have them."""
    return [harmless(token, spaces=False, breaks=True) for token in tokens]


def _numbers(tokens: Sequence[str], values: Sequence[float] | Tensor) -> list[float]:
    """The values as numbers, or ResultError unless there is one for each token."""
    numbers: list[Any] = values.double().tolist() if isinstance(values, Tensor) else list(values)
    if len(numbers) != len(tokens) or not tokens:
        raise ResultError(f"{len(numbers)} values for {len(tokens)} tokens; expected one for each, at least one")
    return [float(value) for value in numbers]


def _bounds(values: Sequence[float], low: float | None, high: float | None) -> tuple[float, float]:
    """Full colours, below and above zero: CircuitsVis writes white on white where either is zero."""
    infinite = [i for i, v in enumerate(values) if abs(v) == float("inf")]
    if infinite:
        raise ResultError(f"value {infinite[0]} is {values[infinite[0]]}; expected finite numbers, or nan for none")
    bound = max([_LEAST, *(abs(v) for v in values if v == v)])
    low, high = -bound if low is None else low, bound if high is None else high
    if not low < 0 < high:
        raise ResultError(
            f"low is {low:g} and high {high:g}; expected low below zero and high above, where it is white"
        )
    return low, high


def _height(tokens: Sequence[str]) -> int:
    """Pixels that a text needs."""
    characters = sum(max(len(token), 1) for token in tokens)
    lines = sum(token.count("\n") for token in tokens) + characters // 80 + 1
    return 30 * lines + 30
