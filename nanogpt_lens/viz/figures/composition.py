"""Composition of every pair of heads: senders in rows, receivers in columns."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.findings import said as said_number
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import words
from nanogpt_lens.viz.figures.numbers import bounds, facts, plain


def pairs(result: Result, *, value: Literal["score", "above_chance"] = "score") -> Drawing:
    """A heat map of sender by receiver.

    Args:
        result: values [sender_layer, sender_head, layer, head].
        value: "score", or "above_chance": minus the mean of random heads.

    Raises:
        ResultError: another word, or no chance to compare with.
    """
    one_of("value", value, ("score", "above_chance"))
    order = f"{' '.join(result.axes)} -> (sender_layer sender_head) (layer head)"
    layers, heads = result.shape["layer"], result.shape["head"]
    z = rearrange(result.values, order)
    level = getattr(result, "chance", None)
    chance = None if level is None else rearrange(level, order)
    if value == "above_chance" and chance is None:
        raise ResultError("these scores have no chance level; expected value='score'")
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    senders, receivers = (
        slice(0, (layers - 1) * heads),
        slice(heads, None),
    )  # the last sends, the first receives nothing
    data, said = facts(chance=None if chance is None else chance[senders, receivers])
    cells = z if value == "score" or chance is None else z - chance
    cells = cells[senders, receivers]
    word = words(result.heading)
    flat, title = cells.double(), f"{word} of each pair of heads"
    if bool(flat.isfinite().any()):
        i, j = divmod(int(flat.nan_to_num(-torch.inf).argmax()), flat.shape[1])
        pair = f"from head {names[senders][i]} to head {names[receivers][j]}"
        title = f"{word} is strongest {pair}, {said_number(float(flat[i, j]))}"
    low = bounds(cells)[0]
    note = "" if chance is None else f"Chance: {float(chance[torch.isfinite(chance)].mean()):.3g}"
    return heat_map(
        Map(
            z=cells,
            x=names[receivers],
            y=names[senders],
            data=data,
            number=".2f" if len(names) <= 17 else "",
            hover=f"Sender %{{y}}, receiver %{{x}}: {plain(word)} %{{z:.4g}}{said}.",
        ),
        title=title,
        unit=word if value == "score" else f"{word} minus chance",
        x_title="receiver (layer.head)",
        y_title="sender (layer.head)",
        signed=value != "score" or low < 0,
        scale=None if value != "score" or low < 0 or bounds(cells)[1] > 1 else _scale(chance),
        notes=[note] if note else [],
    )


def _scale(chance: torch.Tensor | None) -> dict[str, Any]:
    """A share's scale, white at the mean of random heads."""
    known = chance is not None and bool(chance.isfinite().any())
    return (
        style.beside_chance(float(chance.nanmean()))
        if chance is not None and known
        else style.colours(0, 1, signed=False)
    )
