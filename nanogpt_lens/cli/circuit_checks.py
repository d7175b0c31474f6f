"""`nanogpt-lens circuit grade` and `validate`: which method to believe, and whether a circuit holds what it claims."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, RowsOption, SeedOption
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    print_few_examples,
    print_for_programs,
    print_warning,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.prompts import PromptOptions
from nanogpt_lens.cli.tables import alike, finding, fixed, holds, interval, note, number, print_table, say
from nanogpt_lens.core.choices import Direction, Source
from nanogpt_lens.core.errors import AnalysisError

if TYPE_CHECKING:
    from nanogpt_lens.circuits.kept import KeptCircuit, Prompts
    from nanogpt_lens.results import CircuitGrades, CircuitValidation


def grade(
    model: Any,
    *,
    methods: Annotated[str | None, typer.Option(help="with commas, such as exact,eap; all that apply")] = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="how many edges are the top; 10, or all of a small model")
    ] = None,
    direction: Annotated[Direction, typer.Option(help="of the exact effects and of the estimates")] = "noise",
    source: Annotated[Source, typer.Option(help="what other edges carry")] = "other",
    steps: Annotated[int, typer.Option(min=1, help="midpoints of eap_ig")] = 5,
    rows: RowsOption = 10,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    prompts: PromptOptions,
) -> None:
    """Grade methods that find circuits against the exact effect of every edge, and say which to use here."""
    from nanogpt_lens.circuits.grading import grade_circuit_methods

    check_picture(plot)
    asked = prompts.read(model, source=source, seed=seed)
    result = grade_circuit_methods(
        model,
        *asked.asked,
        methods=_methods(methods, asked),
        k=k,
        direction=direction,
        source=source,
        steps=steps,
        seed=seed,
        progress=shows_bar(as_json, as_csv),
    )
    save_result(result, output)
    draw(result, plot)
    worst = _worst_of(result)
    if as_json:
        table = [] if worst is None else result.worst(worst, rows).to_dict("records")
        more = {"verdict": result.verdict(), "worst_method": worst, "worst": table}
        typer.echo(json.dumps({"grades": result.to_json() | more}, ensure_ascii=False))
    elif not print_for_programs({"grades": result}, False, as_csv):
        _print_grades(result, worst, rows)


def _methods(names: str | None, asked: Prompts) -> list[Any]:
    """The methods that an option names; without it, all that these prompts allow."""
    from typing import get_args

    from nanogpt_lens.circuits.ranking import SearchMethod

    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip()]
    out = {"eap_ig"} if asked.source != "other" else set()
    out |= {"attention"} if asked.corrupted is None else set()
    return [method for method in get_args(SearchMethod) if method not in out]


def _worst_of(result: CircuitGrades) -> str | None:
    """The method whose worst edges are shown: EAP, else the first that estimates effects; None for none."""
    estimating = [method for method in result.methods if method != "exact" and result.knows_sign(method)]
    return "eap" if "eap" in estimating else estimating[0] if estimating else None


def _print_grades(result: CircuitGrades, worst: str | None, count: int) -> None:
    finding(result.verdict())
    table = [
        [
            method.replace("_", "-"),
            *(fixed(v, _grade_digits(s)) for s, v in zip(result.labels["score"], values, strict=True)),
        ]
        for method, values in zip(result.methods, result.values.tolist(), strict=True)
    ]
    print_table(["method", *(score.replace("_", " ") for score in result.labels["score"])], table, fold=True)
    _print_intervals(result)
    if worst is not None:
        say(f"the edges on which {worst} is farthest off:")
        off = result.worst(worst, count).to_dict("records")
        columns = [
            [row["edge"] for row in off],
            *(alike(r[name] for r in off) for name in ("exact", "estimate", "off")),
        ]
        cells = [list(row) for row in zip(*columns, strict=True)]
        print_table(["edge", "exact", "estimate", "off"], cells)
    note(result.definition)


def _grade_digits(score: str) -> int:
    """Digits of a grade: none of a count, one of seconds, three of what is between 0 and 1."""
    return 0 if score.startswith("n_") else 1 if score == "seconds" else 3


def _print_intervals(result: CircuitGrades) -> None:
    """The intervals of the grades that have one, of the methods that have one; nothing where there is none."""
    if result.low is None or result.high is None:
        return
    places = [i for i, there in enumerate((~result.low.isnan()).any(0).tolist()) if there]
    ends = zip(result.methods, result.values.tolist(), result.low.tolist(), result.high.tolist(), strict=True)
    rows = [
        [method.replace("_", "-"), *(_share(values[i], low[i], high[i]) for i in places)]
        for method, values, low, high in ends
        if method != "exact" and not math.isnan(low[0])
    ]
    if rows:
        say("intervals over the prompts:")
        print_table(["method", *(result.labels["score"][i].replace("_", " ") for i in places)], rows, fold=True)
        print_few_examples(result)


def validate(
    model: Any,
    *,
    saved: Annotated[
        Path | None, typer.Argument(help="what `circuit find` saved or printed with --json; without it, one is found")
    ] = None,
    method: Annotated[str | None, typer.Option(help="how it is found  [default: greedy]")] = None,
    source: Annotated[Source | None, typer.Option(help="what other edges carry; else as it was found")] = None,
    held_out_seed: Annotated[
        int | None, typer.Option(min=0, help="of other prompts of --task, on which it is run as well")
    ] = None,
    n_random: Annotated[int, typer.Option(min=1, help="random circuits that are drawn")] = 200,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    prompts: PromptOptions,
) -> None:
    """Check what a circuit claims: faithful, complete, minimal, above chance, and the same however it is run.

    Without prompts a saved circuit is run on those that it was found on.
    """
    from nanogpt_lens.circuits.discovery import find_circuit
    from nanogpt_lens.circuits.kept import read_circuit
    from nanogpt_lens.circuits.validation import validate_circuit

    check_picture(plot)
    _check_request(saved, method, source, held_out_seed, seed, prompts)
    kept = None if saved is None else read_circuit(saved)
    asked = _prompts(model, kept, source, seed, prompts)
    where: dict[str, Any] = {"source": asked.source, "reference": asked.reference, "seed": seed}
    if kept is None:
        options: dict[str, Any] = {"method": method or "greedy", "orders": 0}
        bar = shows_bar(as_json, as_csv)
        circuit = find_circuit(model, *asked.asked, **where, **options, progress=bar)
    else:
        circuit = kept.edges
    others = None if held_out_seed is None else prompts.read(model, source=asked.source, seed=held_out_seed)
    result = validate_circuit(
        model,
        circuit,
        *asked.asked,
        held_out=None if others is None else others.asked,
        found_on=None if kept is None else kept.found_on,
        n_random=n_random,
        **where,
    )
    save_result(result, output)
    draw(result, plot)
    if as_json:
        table = json.loads(result.robustness_table().to_json(None, orient="records", double_precision=15) or "[]")
        more = {"verdict": result.verdict(), "robustness_table": table}
        typer.echo(json.dumps({"validation": result.to_json() | more}, ensure_ascii=False))
    elif not print_for_programs({"validation": result}, False, as_csv):
        _print_validation(result)


def _check_request(
    saved: Path | None,
    method: str | None,
    source: Source | None,
    held_out_seed: int | None,
    seed: int,
    prompts: PromptOptions,
) -> None:
    """Raise AnalysisError for options that do not go together."""
    if saved is not None and method is not None:
        raise AnalysisError(f"--method was given with the saved circuit {saved}; leave one of them out")
    if saved is not None and prompts.none and source is not None:
        raise AnalysisError("--source was given without prompts; leave it out, or give prompts anew")
    if held_out_seed is None:
        return
    if prompts.task is None:
        raise AnalysisError("--held-out-seed was given without --task, whose prompts alone are drawn; leave it out")
    if held_out_seed == seed:
        raise AnalysisError(f"--held-out-seed is {held_out_seed}, the seed of the prompts themselves; give another one")


def _prompts(model: Any, kept: KeptCircuit | None, source: Source | None, seed: int, prompts: PromptOptions) -> Prompts:
    """The prompts that were asked for; without any, those of the saved circuit."""
    if kept is not None and prompts.none:
        return kept.prompts(model)
    return prompts.read(model, source=source or ("other" if kept is None else kept.source), seed=seed)


def _print_validation(result: CircuitValidation) -> None:
    finding(result.verdict())
    columns = (result.values.tolist(), result.low.tolist(), result.high.tolist(), result.p.tolist())
    rows = []
    for name, value, low, high, p in zip(result.labels["check"], *columns, strict=True):
        rows.append([name.replace("_", " "), _share(value, low, high), number(p, 3)])
    print_table(["check", "value", "p"], rows, wrap=["check"])
    say("the same edges, run in other ways:")
    table = result.robustness_table().to_dict("records")
    ways = [
        [*(row[n] for n in result.choice_names), _share(row["faithfulness"], row["low"], row["high"])] for row in table
    ]
    header = [*(name.replace("_", " ") for name in result.choice_names), "faithfulness"]
    if not holds(header, ways):  # the choices of a way in one column of words
        header, ways = [", ".join(header[:-1]), header[-1]], [[", ".join(row[:-1]), row[-1]] for row in ways]
    print_table(header, ways, wrap=header[:1])
    print_few_examples(result)
    print_warning(result)
    note(result.definition)


def _share(value: float, low: float, high: float) -> str:
    """A share of the gap with its interval, where it has one; rounding is 0."""
    return "-" if math.isnan(value) else fixed(value, 2) if math.isnan(low) else interval(value, low, high, scale=1)
