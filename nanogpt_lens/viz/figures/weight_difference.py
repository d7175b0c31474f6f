"""What differs between the weights of two models, and whether they share a start."""

from __future__ import annotations

from typing import Literal

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.weight_difference import TABLES, Origin, WeightDifference
from nanogpt_lens.viz.figures.choices import count, one_of
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.figures.labels import distinct, words
from nanogpt_lens.viz.figures.lines import bar_chart
from nanogpt_lens.viz.figures.numbers import Measured

_BARS = 20


def difference(
    result: WeightDifference, *, kind: Literal["matrices", "embed", "unembed"] = "matrices", k: int | None = None
) -> Drawing:
    """How far weights have moved.

    Args:
        result: of `ngl.compare_weights`.
        kind: "matrices", or the tokens of the "embed" or "unembed" table.
        k: how many, those that moved most; None for 20.

    Raises:
        ResultError: no such kind, or `k` is no count.
    """
    one_of("kind", kind, ("matrices", *TABLES))
    k = _BARS if k is None else count("k", k)
    if kind != "matrices":
        return _tokens(result, kind, k)
    kept = result.values.argsort(descending=True, stable=True)[:k]
    names = [f"{result.matrices[i]}{_mark(result, i)}" for i in kept.tolist()]
    others = {"cosine": result.cosine[kept].float(), "effective_rank": result.effective_rank[kept].float()}
    left = len(result.values) - len(kept)
    notes = ["* differs in how it is written, and not in what it does"] if any("*" in name for name in names) else []
    notes += [f"The {len(kept)} that moved most, of {len(result.values)}"] if left else []
    return bar_chart(
        names,
        Measured(result.values[kept].nan_to_num(0.0, posinf=0.0)),
        title=_title(result),
        unit="norm of the difference, as a share of a's",
        others=others,
        notes=notes,
    )


def _mark(result: WeightDifference, i: int) -> str:
    return " *" if result.verdicts[i] == "same function" else ""


def _tokens(result: WeightDifference, kind: str, k: int) -> Drawing:
    """The tokens whose rows moved most."""
    moved = result.token_moved[TABLES.index(kind)]
    kept = moved.argsort(descending=True, stable=True)[:k]
    differing = int(result.token_differs[TABLES.index(kind)].sum())
    return bar_chart(
        distinct([words(repr(result.tokens[i])) for i in kept.tolist()]),
        Measured(moved[kept]),
        title=f"{differing} of {len(moved)} tokens' rows of the {kind}ding differ",
        unit="how far the row moved, as a share of a's rows",
    )


def _title(result: WeightDifference) -> str:
    """How many components have changed, and whether the two share a start."""
    origin = f"; {result.origin}" if result.origin and result.origin != "identical" else ""
    if not result.changed and not result.rewritten:
        return "The two are identical, parameter by parameter"
    if not result.changed:
        return f"The two compute the same: {len(result.rewritten)} components are written differently{origin}"
    return f"{len(result.changed)} of {len(result.components)} components have changed{origin}"


def start(result: Origin) -> Drawing:
    """The cosine of each matrix, and up to where chance goes.

    Raises:
        ResultError: the models have other shapes, so that there is no matrix to draw.
    """
    if not len(result.values):
        raise ResultError(f"there is nothing to draw: the models have other shapes ({result.different})")
    verdict = {"identical": "are identical", "shared start": "come from one start"}
    said = verdict.get(result.verdict, "show no common start")
    return bar_chart(
        list(result.labels["matrix"]),
        Measured(result.values, chance=result.chance_high),
        title=f"The two {said}: mean cosine {result.cosine:.3f}, by chance {result.chance_mean:.3f}",
        unit="cosine of b's matrix with a's",
        named="97.5% of orders are below",
    )
