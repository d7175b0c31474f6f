"""Methods that find circuits beside each other: their curves, their grades, and each estimate against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.grades import HIGHER_IS_BETTER, CircuitGrades
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.choices import one_of
from nanogpt_lens.viz.figures.circuit_curve import HIGHEST, LOWEST, add_tolerance, size_axes
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.heatmaps import Map, heat_map
from nanogpt_lens.viz.figures.labels import distinct, words
from nanogpt_lens.viz.figures.numbers import digits, plain

NEARLY = 0.05
"""How much faithfulness a method may lose to the exact order, in the mean over sizes, and find nearly what it finds."""

_NAMES = {
    "exact": "exact effects",
    "greedy": "greedy",
    "acdc": "ACDC",
    "eap": "EAP",
    "eap_ig": "EAP-IG",
    "weights": "weights alone",
    "attention": "attention alone",
}
_ALONE = " alone"
_COLUMNS = {
    "spearman": "rank correlation",
    "sign_agreement": "right signs",
    "top_k_overlap": "top k overlap",
    "average_precision": "average precision",
    "mean_regret": "mean regret",
    "worst_regret": "worst regret",
    "cpr": "CPR",
    "cmd": "CMD",
    "n_edges": "edges it takes",
    "seconds": "seconds",
    "n_runs": "forward passes",
}
_CELL = 10  # pixels of the numbers in the table
_SURE = 1e-6  # of the largest effect: a smaller one has no sign


def grades(
    result: CircuitGrades, *, kind: Literal["curves", "table", "scatter"] = "curves", method: str | None = None
) -> Drawing:
    """The faithfulness of each method's first edges, the table of grades, or one method's estimates against the truth.

    Args:
        result: of `ngl.grade_circuit_methods`.
        kind: "curves", "table", or "scatter".
        method: whose estimates are scattered; None for the first that estimates effects.

    Raises:
        ResultError: another kind, a method that was not graded, or one for a picture of all.
    """
    one_of("kind", kind, ("curves", "table", "scatter"))
    if kind == "scatter":
        return _scatter(result, _estimating(result) if method is None else method)
    if method is not None:
        raise ResultError(f"method is {method!r}, but this picture is of all; leave it out, or give kind='scatter'")
    return _curves(result) if kind == "curves" else _table(result)


def name_of(method: str) -> str:
    """A method's name for people."""
    return _NAMES.get(method, words(method))


def names_of(result: CircuitGrades) -> list[str]:
    """The names of all methods, apart."""
    return distinct([name_of(method) for method in result.methods])


def _curves(result: CircuitGrades) -> Drawing:
    """Faithfulness over the number of edges, a line for each method, exact effects the strongest."""
    figure, sizes = go.Figure(), np.arange(1, result.curves.shape[1])
    if result.tolerance is not None:
        add_tolerance(figure, result.tolerance)
    names = names_of(result)
    colour = 0
    for i in _exact_last(result):
        exact = result.methods[i] == "exact"
        look = {"width": 3.5, "color": style.INK}
        if not exact:
            look = {"width": 1.8, "color": style.colour_of(colour), "dash": style.dash_of(colour)}
            colour += 1
        figure.add_trace(
            go.Scatter(
                x=sizes,
                y=digits(result.curves[i, 1:]),
                mode="lines",
                line=look,
                name=names[i],
                hovertemplate=f"{plain(names[i])}, first %{{x:,}} edges: faithfulness %{{y:.4g}}.<extra></extra>",
            )
        )
    values = result.curves.double()
    seen = values[(values >= LOWEST) & (values <= HIGHEST)].tolist()
    size_axes(figure, len(sizes), min(-0.05, *seen, 0.0), max(1.1, 1.1 + (result.tolerance or 0), *seen))
    return Drawing(
        figure=figure,
        title=_curves_title(result),
        notes=_curves_notes(result),
        definition=result.definition,
        plot=320,
        legend=True,
    )


def _exact_last(result: CircuitGrades) -> list[int]:
    """The places of the methods; the exact order last, so that it lies above the others."""
    return sorted(range(len(result.methods)), key=lambda i: result.methods[i] == "exact")


def _curves_notes(result: CircuitGrades) -> tuple[str, ...]:
    notes = ["Faithfulness of the first edges of each order: without an edge it is 0, with all it is 1"]
    if result.tolerance is not None:
        notes.append(f"The green band is within {result.tolerance:.2g} of 1")
    if "exact" in result.methods and len(result.methods) > 1:
        notes.append(
            f"Nearly: at most {NEARLY:g} less faithful than the exact order, in the mean over sizes, "
            "and within the band with at most half as many edges again"
        )
    beyond = int(((result.curves < LOWEST) | (result.curves > HIGHEST)).sum())
    if beyond:
        points = "1 value is" if beyond == 1 else f"{beyond:,} values are"
        notes.append(f"{points} beyond {LOWEST:g} to {HIGHEST:g} and not seen")
    return tuple(notes)


def _curves_title(result: CircuitGrades) -> str:
    """Which methods nearly match exact effects, and which do not."""
    others = [i for i, method in enumerate(result.methods) if method != "exact"]
    if "exact" not in result.methods or not others:
        best = int(result.at(score="n_edges").argmin())
        return f"Of these, {names_of(result)[best]} takes the fewest edges" if others else "Exact effects"
    regret = dict(zip(result.methods, result.regret.double().mean(1).tolist(), strict=True))
    matching = {m: regret[m] <= NEARLY and not result.needs_many(m) for m in result.methods}
    near, far = ([result.methods[i] for i in others if matching[result.methods[i]] == w] for w in (True, False))
    if not near:
        return f"{_capital(_listed(far, 'or'))} does not match exact effects, nor nearly"
    if len(near) > 2 and far:
        return f"All but {_listed(far)} nearly match exact effects"
    matches = f"{_capital(_listed(near))} nearly {'matches' if len(near) == 1 else 'match'} exact effects"
    return f"{matches}; {_listed(far)} {'does' if len(far) == 1 else 'do'} not" if far else matches


def _table(result: CircuitGrades) -> Drawing:
    """The grades as numbers, dark where a method is among the best of a column."""
    scores = result.labels["score"]
    ranks = torch.stack([_standing(result.values[:, j].double(), score) for j, score in enumerate(scores)], dim=1)
    columns = distinct([_COLUMNS.get(score, words(score)) for score in scores])
    picture = Map(
        z=ranks,
        x=columns,
        y=distinct([name.removesuffix(_ALONE) for name in names_of(result)]),
        text=[[_cell(value) for value in row] for row in result.values.tolist()],
        hover="%{y}, %{x}: %{text}",
        downwards=True,
    )
    drawing = heat_map(
        picture,
        title=_table_title(result),
        unit="place among the methods: 0 the worst, 1 the best",
        x_title="",
        y_title="",
        signed=False,
        top=1.0,
    )
    drawing.figure.update_layout(coloraxis={"showscale": False})
    drawing.figure.layout.annotations = ()
    return Drawing(
        figure=drawing.figure,
        title=drawing.title,
        notes=("The darker, the better among these methods in that column", *drawing.notes),
        definition=drawing.definition,
        plot=drawing.plot,
        left=drawing.left,
        below=drawing.below,
    )


def _standing(column: Float[Tensor, " method"], score: str) -> Float[Tensor, " method"]:
    """From 0, the worst of a column, to 1, the best; equal values alike; nan for none; 0 for a score not known."""
    if score not in HIGHER_IS_BETTER:
        return torch.where(column.isnan(), torch.nan, 0.0).double()
    good = column if HIGHER_IS_BETTER[score] else -column
    there = ~column.isnan()
    below = (good[None] < good[:, None]) & there[None]
    same = (good[None] == good[:, None]) & there[None]
    place = below.sum(1) + (same.sum(1) - 1) / 2
    return torch.where(there, place / max(1, int(there.sum()) - 1), torch.nan).double()


def _cell(value: float) -> str:
    """A grade in at most four letters, so that eleven of them stand beside each other on a phone."""
    if not np.isfinite(value):
        return ""
    text = f"{value:.0f}" if value == round(value) or abs(value) >= 10 else f"{value:.2f}"
    return text.replace("0.", ".", 1).replace("-", "−") if abs(value) < 1 and "." in text else text.replace("-", "−")


def _table_title(result: CircuitGrades) -> str:
    """How much of the top each method finds."""
    k, names = result.k, names_of(result)
    others = [i for i, method in enumerate(result.methods) if method != "exact"]
    if not others:
        return "Grades of the exact order"
    best, *_, worst = sorted([*others, *others], key=lambda i: float(result.missed[i]))
    most = f"{names[best]} finds {k - int(result.missed[best])} of the top {k} edges"
    return _capital(most if best == worst else f"{most}, {names[worst]} {k - int(result.missed[worst])}")


def _estimating(result: CircuitGrades) -> str:
    """The first method that estimates effects; else the first."""
    every = [method for method in result.methods if method != "exact"] or list(result.methods)
    return next((method for method in every if result.knows_sign(method)), every[0])


def _scatter(result: CircuitGrades, method: str) -> Drawing:
    """A point for every edge: its exact effect, and what the method says."""
    estimate, exact = result.estimates[result.row_of(method)].double(), result.exact.double()
    signed, name = result.knows_sign(method), name_of(method)
    if not signed:
        estimate, exact = estimate.abs(), exact.abs()
    wrong = _wrong(exact, estimate) if signed else torch.zeros(len(exact), dtype=torch.bool)
    figure = go.Figure()
    if signed:
        low, high = (float(end(torch.cat([exact, estimate]))) for end in (torch.min, torch.max))
        figure.add_trace(_diagonal(low, high))
    looks = [("other edges" if bool(wrong.any()) else "edges", ~wrong, style.CATEGORIES[0], "circle")]
    looks.append(("the wrong sign", wrong, style.CATEGORIES[1], "x"))
    for called, places, colour, symbol in looks:
        if bool(places.any()):
            figure.add_trace(_points(result, exact, estimate, places, called, colour, symbol))
    figure.update_xaxes(title_text="exact effect" if signed else "size of the exact effect")
    figure.update_yaxes(title_text=f"estimate of {name}" if signed else f"score of {name}")
    notes = ["A point is an edge"]
    notes.append("On the line the estimate is exact" if signed else f"{_capital(name)} has no unit and no sign")
    return Drawing(
        figure=figure,
        title=_scatter_title(result, method, signed),
        notes=tuple(notes),
        definition=result.definition,
        plot=340,
        legend=bool(wrong.any()) or signed,
    )


def _wrong(exact: Float[Tensor, " edge"], estimate: Float[Tensor, " edge"]) -> Tensor:
    """Edges whose estimate has another sign than the effect, where both are more than rounding."""
    least = _SURE * float(exact.abs().max())
    return (exact.sign() * estimate.sign() < 0) & (exact.abs() > least) & (estimate.abs() > least)


def _points(
    result: CircuitGrades,
    exact: Float[Tensor, " edge"],
    estimate: Float[Tensor, " edge"],
    places: Tensor,
    called: str,
    colour: str,
    symbol: str,
) -> go.Scatter:
    return go.Scatter(
        x=digits(exact[places]),
        y=digits(estimate[places]),
        mode="markers",
        marker={"size": 7, "color": colour, "symbol": symbol, "opacity": 0.75},
        text=[words(edge) for edge, flag in zip(result.edges, places.tolist(), strict=True) if flag],
        name=called,
        hovertemplate="%{text}: exact %{x:.4g}, estimate %{y:.4g}.<extra></extra>",
    )


def _diagonal(low: float, high: float) -> go.Scatter:
    return go.Scatter(
        x=digits([low, high]),
        y=digits([low, high]),
        mode="lines",
        line={"width": 1.2, "color": style.MUTED, "dash": "5px,4px"},
        name="as large as the exact effect",
        hoverinfo="skip",
    )


def _scatter_title(result: CircuitGrades, method: str, signed: bool) -> str:
    """How many of the top edges have the wrong sign, how many are missed, and the edge that is farthest off."""
    row, k, name = result.row_of(method), result.k, _capital(name_of(method))
    missed = int(result.missed[row])
    if method == "exact":
        return "Exact effects are what they are measured by"
    found = f"{name} finds {'all' if not missed else k - missed} of the top {k} edges"
    if not signed:
        return found
    wrong = int(result.wrong_signs[row])
    signs = "all signs right" if not wrong else f"{wrong} of them with the wrong sign"
    return f"{found}, {signs}; it is farthest off at {words(str(result.worst(method, 1)['edge'].iloc[0]))}"


def _listed(methods: Sequence[str], last: str = "and") -> str:
    """The names of methods as a list: "EAP, weights and attention alone"."""
    names = [name_of(method) for method in methods]
    if len(names) > 1 and names[-1].endswith(_ALONE):
        names[:-1] = [name.removesuffix(_ALONE) for name in names[:-1]]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
