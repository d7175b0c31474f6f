"""What each layer believes: the lens' table of top tokens, and curves over depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Shaped
from plotly.subplots import make_subplots
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.lens import ConvergenceResult, LensResult, LensScores
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of, score_of, span
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import index_of, title_of, words
from nanogpt_lens.viz.figures.lines import add_chance, add_line
from nanogpt_lens.viz.figures.numbers import Measured, bounds, digits
from nanogpt_lens.viz.tokens import harmless, numbered

_NEAR = 0.5  # nats
COLOURS = ("probability", "kl", "entropy", "logprob", "rank")
UNITS = {
    "kl": "KL(final ‖ lens), nats",
    "entropy": "entropy, nats",
    "loss": "loss, nats per token",
    "logprob": "log-probability, nats",
    "bits_per_char": "bits per character",
    "agreement": "share with the final top token",
    "converged": "share that has settled",
}

_BARS = {
    "probability": "probability of the top token",
    "kl": "KL(final ‖ lens), nats",
    "entropy": "entropy, nats",
    "logprob": "log-probability of the token that follows, nats",
    "rank": "rank of the token that follows (0: on top)",
}
_COLUMNS = 20
_PANEL = 170


def reading(
    result: LensResult,
    *,
    kind: Literal["table", "curves"] = "table",
    colour: Literal["probability", "kl", "entropy", "logprob", "rank"] = "probability",
    example: int = 0,
    pos: tuple[int, int] | None = None,
    score: str | None = None,
) -> Drawing:
    """The most likely token at every point and position, or curves over depth.

    Args:
        result: of one text or several.
        kind: "table", or "curves": KL, entropy, log-probability, bits per character, means over positions.
        colour: of the table's cells: "probability" of the token in it, "kl", "entropy", or of the token that really
            follows "logprob" or "rank".
        example: which text of the table.
        pos: the positions (start, stop) of the table; None for the first 20, or 10 if tokens are long.
        score: only this curve, also without kind="curves".

    Raises:
        ResultError: another word, or a place that is not there.
    """
    one_of("kind", kind, ("table", "curves"))
    if kind == "curves" or score is not None:
        return _curves(result, score)
    one_of("colour", colour, COLOURS)
    several = "example" in result.axes
    at = index_of(result, "example", example) if several else 0
    grids = {name: _plane(result, name, at if several else None) for name in ("top", *COLOURS)}
    tokens = (result.tokens[at] if several else result.tokens).tolist()
    long = max((len(made) for made in result.strings.values()), default=1) > 2
    columns = span("pos", pos, len(tokens), most=_COLUMNS // 2 if long else _COLUMNS)
    names = numbered([result.string(token) for token in tokens], longest=10)
    places = result.in_depth_order()
    text = [
        [harmless(result.string(token), longest=6) for token in row] for row in grids["top"][:, list(columns)].tolist()
    ]
    facts = _stack([grids[name][:, list(columns)] for name in COLOURS])
    picture = Map(
        z=grids[colour][:, list(columns)],
        x=[names[i] for i in columns],
        y=[name for *_, name in places],
        text=text,
        data=facts,
        hover="%{y}, position %{x}: most likely next %{text}, probability %{customdata[0]:.3g}; "
        "KL to the final output %{customdata[1]:.3g} nats; entropy %{customdata[2]:.3g} nats; the token that follows "
        "has log-probability %{customdata[3]:.3g} nats and rank %{customdata[4]}.",
    )
    notes = ["In the cells the most likely next token"]
    if len(columns) < len(tokens):
        notes.append(f"Positions {columns.start} to {columns.stop - 1} of {len(tokens)}")
    if several:
        notes.append(f"Example {at} of {result.shape['example']}")
    return heat_map(
        picture,
        title=_settles(result, grids["top"]),
        unit=_BARS[colour],
        x_title=title_of("pos"),
        y_title="point",
        signed=False,
        scale=_scale(result, grids[colour], colour),
        notes=notes,
    )


def _settles(result: LensResult, top: Shaped[Tensor, "depth pos"]) -> str:
    """From which point on the top token is the final one at half of the positions or more."""
    name = f"{result.method.capitalize()} lens"
    same = (top == top[-1]).double().mean(1)
    last = max((i for i, share in enumerate(same.tolist()) if share < 0.5), default=-1) + 1
    point = result.in_depth_order()[last][2]
    if last == 0:
        return f"{name}: most final top tokens are there from the start"
    if last == len(same) - 1:
        return f"{name}: most final top tokens come at the last point"
    before = same[:last].max()
    return f"{name}: {same[last]:.0%} of the final top tokens are there at {point}, at most {before:.0%} before"


def _scale(result: LensResult, values: Shaped[Tensor, "depth pos"], colour: str) -> dict[str, Any]:
    """The colour axis: a probability's, or a surprise's, up to a uniform guess."""
    if colour == "probability":
        return style.colours(0.0, 1.0, signed=False)
    high = bounds(values)[1]
    guess = math.log(len(result.strings)) if len(result.strings) > 1 else 0.0
    if colour in ("kl", "entropy"):
        return style.colours(0.0, max(high, guess), signed=False, cost=True)
    return style.colours(*bounds(values), signed=False)


def _plane(result: LensResult, name: str, example: int | None) -> Shaped[Tensor, "depth pos"]:
    """A quantity at each point, in the order of depth, and position."""
    tensor: Shaped[Tensor, "layer point *text"] = {
        "top": result.top_tokens[..., 0],
        "probability": result.top_logprobs[..., 0].double().exp(),
        "kl": result.kl,
        "entropy": result.entropy,
        "logprob": result.values,
        "rank": result.rank.double().where(result.rank >= 0, torch.nan),
    }[name]
    tensor = tensor if example is None else tensor[:, :, example]
    return torch.stack([tensor[i, j] for i, j, _ in result.in_depth_order()])


def _stack(planes: Sequence[Shaped[Tensor, "depth pos"]]) -> Float32[np.ndarray, "depth pos fact"]:
    return digits(torch.stack([plane.double() for plane in planes], -1))


def _curves(result: LensResult, score: str | None) -> Drawing:
    of_all_texts = "layer point ... -> layer point (...)"
    means = {
        "kl": rearrange(result.kl.double(), of_all_texts).mean(-1),
        "entropy": rearrange(result.entropy.double(), of_all_texts).mean(-1),
        "logprob": rearrange(result.values.double(), of_all_texts).nanmean(-1),
        "bits_per_char": result.bits_per_char,
    }
    known = [name for name, values in means.items() if values is not None and bool(values.isfinite().any())]
    chosen = known if score is None else [one_of("score", score, known)]
    panels = [(name, Measured(values)) for name in chosen if (values := means[name]) is not None]
    name = f"{result.method.capitalize()} lens"
    n = result.tokens.numel()
    return _over_depth(result, panels, title=_nearest(result, name), notes=[f"Means over {n} positions"])


def _nearest(result: LensResult, name: str) -> str:
    """From which depth on the lens is within half a nat of the output, on average."""
    depths = [(float(result.kl[i, j].double().mean()), place) for i, j, place in result.in_depth_order()]
    near = next((k for k in range(len(depths)) if all(value < _NEAR for value, _ in depths[k:])), len(depths) - 1)
    return f"{name}: from {depths[near][1]} on within {_NEAR:g} nats of the output, on average"


def convergence(
    result: ConvergenceResult, *, kind: Literal["curves", "depth"] = "curves", score: str | None = None
) -> Drawing:
    """How beliefs approach the output: curves over depth with bands and chance; or at what depth the top token settles.

    Args:
        result: values [score, layer, point].
        kind: "curves", or "depth": mean depth at which the top token settles, by position.
        score: only this curve.

    Raises:
        ResultError: another word, or a score without any value, such as bits per character without a vocabulary.
    """
    one_of("kind", kind, ("curves", "depth"))
    if kind == "depth":
        return _depth(result)
    chosen = range(result.shape["score"]) if score is None else [score_of(result, score)]
    panels = []
    for i in chosen:
        name, numbers = result.labels["score"][i], Measured.of(result).at(i)
        if bool(numbers.values.isfinite().any()):
            panels.append((name, numbers))
        elif score is not None:
            raise ResultError(f"{name} has no value here; expected a score that was measured, such as 'kl'")
    if not panels:
        raise ResultError("none of the scores has a value; expected at least one that was measured")
    settled = f"The top token settles at a mean depth of {result.mean_depth:.2f} of {result.n_layers} layers"
    return _over_depth(result, panels, title=settled, notes=[])


def _depth(result: ConvergenceResult) -> Drawing:
    figure = go.Figure()
    values = result.depth_by_position
    add_line(
        figure,
        list(range(len(values))),
        Measured(values),
        name="mean depth",
        what="position",
        colour=style.ACCENT,
        unit=" layers",
        markers=False,
    )
    figure.add_hline(y=result.mean_depth, line={"color": style.MUTED, "width": 1.5, "dash": "5px,4px"})
    figure.update_xaxes(title_text="position in the sequence")
    figure.update_yaxes(title_text="depth (layers)", range=[0, result.n_layers * 1.05])
    interval = "" if result.depth_low is None else f" (95% interval {result.depth_low:.2f} to {result.depth_high:.2f})"
    note = (
        f"Dashed: the mean over all positions, {result.mean_depth:.2f}{interval}; "
        f"{result.n_layers}: at the output alone"
    )
    return Drawing(
        figure=figure,
        title=f"The top token settles at a mean depth of {result.mean_depth:.2f} of {result.n_layers} layers",
        notes=(note,),
        intervals_told=result.depth_low is not None,
        plot=260,
    )


def depth_axis(result: LensResult | ConvergenceResult | LensScores, figure: go.Figure, **place: Any) -> None:
    """The x axis of depths in layers."""
    depths = depths_of(result)
    figure.update_xaxes(
        title_text="depth (layers)",
        range=[depths[0] - 0.12, depths[-1] + 0.12],
        tickmode="linear" if depths[-1] <= 12 else "auto",
        dtick=1 if depths[-1] <= 6 else None,
        showgrid=True,
        **place,
    )


def depths_of(result: LensResult | ConvergenceResult | LensScores) -> list[float]:
    """The depth in layers of each distinct point, in their order."""
    depths = result.depths()
    return [depths[i][j] / 2 for i, j, _ in result.in_depth_order()]


def along(
    result: LensResult | ConvergenceResult | LensScores, values: Float[Tensor, "layer point"]
) -> Float[Tensor, " depth"]:
    """The values in the order of depth."""
    return torch.stack([values[i, j] for i, j, _ in result.in_depth_order()])


def _over_depth(
    result: LensResult | ConvergenceResult, panels: Sequence[tuple[str, Measured]], *, title: str, notes: Sequence[str]
) -> Drawing:
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    each, gap = (260, 0) if len(panels) == 1 else (_PANEL, 62)
    plot = rows * each + (rows - 1) * gap
    figure = make_subplots(
        rows=rows,
        cols=columns,
        horizontal_spacing=0.16,
        vertical_spacing=gap / plot if rows > 1 else 0,
    )
    x, names = depths_of(result), [name for *_, name in result.in_depth_order()]
    for i, (score, numbers) in enumerate(panels):
        row, col = i // columns + 1, i % columns + 1
        curve = numbers.mapped(lambda tensor: along(result, tensor))
        options: dict[str, Any] = {"texts": names, "legend": False, "colour": style.ACCENT, "row": row, "col": col}
        add_line(figure, x, curve, name=words(score), what="depth", **options)
        if curve.chance is not None:
            add_chance(figure, x, curve.chance, legend=i == 0, row=row, col=col)
        which = str(i + 1) if i else ""
        figure.add_annotation(
            text=UNITS.get(score, words(score)),
            xref=f"x{which} domain",
            yref=f"y{which} domain",
            x=0,
            y=1,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
            font={"size": style.SMALL},
            xshift=-30,
        )
        figure.update_yaxes(rangemode="normal" if score == "logprob" else "tozero", nticks=6, row=row, col=col)
        depth_axis(result, figure, row=row, col=col)
        if row < rows and not (row == rows - 1 and i + columns >= len(panels)):
            figure.update_xaxes(title_text="", row=row, col=col)
    bands = any(numbers.has_interval for _, numbers in panels)
    return Drawing(
        figure=figure,
        title=title,
        notes=(*notes, interval_of(result, "Bands")) if bands else tuple(notes),
        intervals_told=bands,
        plot=plot,
        left=46,
        above=24,
        legend=any(numbers.has_chance for _, numbers in panels),
    )
