"""What a causal scrubbing found: the tree of claims, the change of every prompt, or several hypotheses as a ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.scrubbing import FREE, NOTHING, Scrubbing
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.captions import interval_of
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.numbers import digits
from nanogpt_lens.viz.figures.scrubbing_tree import (
    CONTROL,
    RECOVERED,
    add_ends,
    ends,
    measured,
    percent,
    permuted_dot,
    quoted,
    recovered_row,
    seen,
    tree,
)
from nanogpt_lens.viz.figures.stacked import StackedGroup, StackedRow, StackedRows

_WORSE, _BETTER = style.RUST, style.TEAL
_BINS = 40
_UNCHANGED = 1e-5  # of the largest change


def scrubbing(
    result: Scrubbing,
    *,
    kind: Literal["tree", "prompts", "ladder"] | None = None,
    beside: Mapping[str, Scrubbing] | None = None,
    k: int | None = None,
) -> Drawing:
    """The claims with what each costs, the change of every prompt, or what several hypotheses recover.

    Args:
        result: of `ngl.scrub`.
        kind: "tree", "prompts", or "ladder"; None for "ladder" where others stand beside it, else "tree".
        beside: other hypotheses by name, the next rungs of the ladder.
        k: how many claims the tree shows at most; None for 48.

    Raises:
        ResultError: another kind, an option of another kind, or something else than scrubbings of one metric.
    """
    kind = kind if kind is not None else "ladder" if beside is not None else "tree"
    one_of("kind", kind, ("tree", "prompts", "ladder"))
    if beside is not None and kind != "ladder":
        raise ResultError(f"beside was given, but the {kind} is of one hypothesis; leave it out, or give kind='ladder'")
    if k is not None and kind != "tree":
        raise ResultError(f"k is {k!r}, the claims of the tree, but kind is {kind!r}; leave one of them out")
    if kind == "tree":
        return tree(result, k)
    return _prompts(result) if kind == "prompts" else _ladder(_rungs(result, beside))


def _rungs(result: Scrubbing, beside: Mapping[str, Scrubbing] | None) -> dict[str, Scrubbing]:
    """All hypotheses by name, in order; the first has its own name.

    Raises:
        ResultError: something else than scrubbings by name, or of another metric.
    """
    beside = {} if beside is None else beside
    good = isinstance(beside, Mapping) and all(
        isinstance(name, str) and isinstance(one, Scrubbing) for name, one in beside.items()
    )
    if not good:
        raise ResultError(f"beside is {str(beside)[:60]!r}; expected scrubbings by name, such as {{'K alone': other}}")
    for name, one in beside.items():
        if one.quantity != result.quantity:
            raise ResultError(
                f"{name!r} is the {one.quantity}, this one the {result.quantity}; expected the same metric, so that "
                "they can be compared"
            )
    return {result.name if result.name not in beside else f"{result.name}, this one": result, **beside}


def _ladder(rungs: Mapping[str, Scrubbing]) -> Drawing:
    """A rung for each hypothesis: what it recovers, and what it recovers with its features permuted."""
    rows = []
    for name, one in rungs.items():
        row = recovered_row(one, name)
        said = f"{row.text}, permuted {percent(permuted_dot(one).value)}"
        rows.append(StackedRow(name=name, text=said, dots=[*row.dots, permuted_dot(one, name)]))
    keys = [("the hypothesis", RECOVERED), ("the same with its features permuted", CONTROL)]
    first = next(iter(rungs.values()))
    group = StackedGroup(heading="What each hypothesis recovers", rows=rows, keys=keys)
    stack = StackedRows([group], *seen([dot for row in rows for dot in row.dots]))
    figure = stack.draw()
    add_ends(figure, first)
    figure.update_xaxes(title_text=f"share of the {measured(first)}", tickformat=".0%")
    models = {one.checkpoint_sha256 or one.checkpoint for one in rungs.values()}
    notes = [ends(first), *(["Each on its own model and prompts"] if len(models) > 1 else [])]
    return Drawing(
        figure=figure,
        title=_ladder_title(rungs),
        notes=(*notes, *filter(None, [stack.note, interval_of(first, "Lines")])),
        intervals_told=True,
        plot=stack.height,
        left=stack.left,
        above=30,
    )


def _ladder_title(rungs: Mapping[str, Scrubbing]) -> str:
    """The hypotheses that recover most and least."""
    order = sorted(rungs, key=lambda name: rungs[name].recovered)
    least, most = order[0], order[-1]
    said = f"{quoted(most)} recovers {percent(rungs[most].recovered)}"
    said = said if least == most else f"{said}, {quoted(least)} {percent(rungs[least].recovered)}"
    return said[:1].upper() + said[1:]


def _prompts(result: Scrubbing) -> Drawing:
    """The histogram of what the hypothesis changes of every prompt's metric, in two colours."""
    change = result.change.double().numpy()
    sign = _towards_worse(result)
    least = _UNCHANGED * float(np.abs(change).max(initial=0.0))
    worse, better = change * sign > least, change * sign < -least
    mean = float(change.mean())
    kinds = [("the same", ~worse & ~better, CONTROL), ("worse", worse, _WORSE), ("better", better, _BETTER)]
    figure = _histogram(change, kinds)
    figure.add_vline(x=0, line={"color": style.MUTED, "width": 1}, name="no change")
    figure.add_vline(
        x=mean,
        line={"color": style.INK, "width": 1.5, "dash": "dash"},
        name="mean",
        annotation={
            "text": f"mean {mean:.3g}".replace("-", "−"),
            "font": {"size": style.SMALL},
            "yanchor": "bottom",
            "y": 1,
        },
    )
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_xaxes(title_text=f"change of the {measured(result)}")
    figure.update_yaxes(title_text="prompts")
    n_draws = result.over_draws.shape[-1]
    size = f"The mean change is {mean:.3g}, the mean size of a change {np.abs(change).mean():.3g}".replace("-", "−")
    each = f"Each prompt is the mean of {n_draws} draws" if n_draws > 1 else "Each prompt is drawn once"
    return Drawing(
        figure=figure,
        title=_prompts_title(worse, better),
        notes=(size, each),
        intervals_told=True,
        plot=260,
        above=26,
        legend=True,
    )


def _histogram(change: np.ndarray, kinds: Sequence[tuple[str, np.ndarray, str]]) -> go.Figure:
    """Bars of how many prompts change by how much, each kind of prompts in its colour."""
    figure, (edges, centres) = go.Figure(), _bins(change)
    for name, places, colour in kinds:
        if not places.any():
            continue
        counts = np.histogram(change[places], edges)[0]
        some = counts > 0
        figure.add_trace(
            go.Bar(
                x=digits(centres[some]),
                y=counts[some],
                width=float(edges[1] - edges[0]),
                marker={"color": colour, "line": {"width": 0.5, "color": style.PAPER}},
                name=name,
                hovertemplate=f"about %{{x:.3g}}: %{{y}} prompts, {name}.<extra></extra>",
            )
        )
    return figure


def _towards_worse(result: Scrubbing) -> float:
    """1 if random logits have more of the metric than the model, as a loss; -1 if they have less."""
    names = result.labels["condition"]
    means = result.metric.double().mean(-1)
    return 1.0 if float(means[names.index(FREE)]) >= float(means[names.index(NOTHING)]) else -1.0


def _bins(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The edges of bins, one of which has 0 in its middle, and their centres."""
    low, high = min(0.0, float(change.min(initial=0.0))), max(0.0, float(change.max(initial=0.0)))
    step = (high - low) / _BINS or 1.0
    edges = step * (np.arange(np.floor(low / step) - 1, np.ceil(high / step) + 3) - 0.5)
    return edges, (edges[1:] + edges[:-1]) / 2


def _prompts_title(worse: np.ndarray, better: np.ndarray) -> str:
    """How many prompts change, and which way."""
    n = len(worse)
    if not worse.any() and not better.any():
        return "No prompt changes"
    if worse.all() or better.all():
        return f"{'Both' if n == 2 else f'All {n:,}'} prompts get {'worse' if worse.all() else 'better'}"
    same = 1.0 - worse.mean() - better.mean()
    rest = f", {percent(same)} stay the same" if (~worse & ~better).any() else ""
    return f"Of {n:,} prompts {percent(worse.mean())} get worse, {percent(better.mean())} better{rest}"
