"""`nanogpt-lens circuit`: what every edge does, the few that do the work, and whether they still do elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.circuit_atlas import atlas
from nanogpt_lens.cli.circuit_checks import grade, validate
from nanogpt_lens.cli.circuit_compare import compare
from nanogpt_lens.cli.completing import METHODS, one_of
from nanogpt_lens.cli.options import (
    CsvOption,
    JsonOption,
    OutputOption,
    PathArgument,
    RowsOption,
    SeedOption,
    check_saved,
    with_reading,
)
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    load,
    on_model,
    print_few_examples,
    print_for_programs,
    reading_file,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.prompts import PromptOptions, with_prompts
from nanogpt_lens.cli.tables import alike, finding, fixed, interval, note, print_table, say
from nanogpt_lens.cli.typos import Commands
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.core.choices import Direction, Source
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.results import Circuit, PatchingResult

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="The edges between heads and MLPs: each alone, and the few that do the work.",
)

SourceOption = Annotated[Source, typer.Option(help="what other edges carry: the corrupted run's, or something else")]
MethodOption = Annotated[
    str,
    typer.Option(
        help="greedy, exact, acdc, eap_ig, eap; weights and attention look at no metric", autocompletion=one_of(METHODS)
    ),
]


def register(parent: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (edges, find, grade, validate):
        app.command()(on_model(with_prompts(command)))
    for command in (check, compare):
        app.command()(with_reading(with_prompts(command)))
    app.command()(with_reading(atlas))
    parent.add_typer(app, name="circuit")


def edges(
    model: Any,
    *,
    direction: Annotated[Direction, typer.Option(help="noise: one edge of the clean run is changed")] = "noise",
    source: SourceOption = "other",
    rows: RowsOption = 20,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    prompts: PromptOptions,
) -> None:
    """Measure what every edge does on its own, exactly, and print the largest effects."""
    from nanogpt_lens.circuits.edges import edge_effects

    check_picture(plot)
    asked = prompts.read(model, source=source, seed=seed)
    result = edge_effects(
        model,
        *asked.asked,
        direction=direction,
        source=source,
        seed=seed,
        progress=shows_bar(as_json, as_csv),
    )
    save_result(result, output)
    draw(result, plot)
    if not print_for_programs({"edges": result}, as_json, as_csv):
        _print_edges(result, rows)


def _print_edges(result: PatchingResult, count: int) -> None:
    corrupted = "" if result.corrupted is None else f", corrupted {result.corrupted:.3f}"
    top = result.top(count, by="effect").to_dict("records")
    scale = max((abs(row["effect"]) for row in top), default=0.0)
    effects = [interval(row["effect"], row.get("effect_low"), row.get("effect_high"), scale=scale) for row in top]
    metrics = alike(row["value"] for row in top)
    table = [[row["edge_label"], *cells] for row, *cells in zip(top, metrics, effects, strict=True)]
    if table:
        finding(f"The edge {table[0][0]} does most on its own: an effect of {table[0][-1]}.")
    say(f"metric: clean {result.clean:.3f}{corrupted}")
    print_table(["edge", "metric", "effect"], table, drop=["metric"])
    print_few_examples(result)
    rest = result.values.numel() - len(table)
    more = f"; {rest} edges with smaller effects: --rows prints more, --csv all" if rest > 0 else ""
    note(f"{result.definition}{more}")


def find(
    model: Any,
    *,
    method: MethodOption = "greedy",
    n_edges: Annotated[int | None, typer.Option(min=1, help="how many; else as few as --faithfulness allows")] = None,
    threshold: Annotated[float | None, typer.Option(help="the least score of an edge; not for greedy")] = None,
    faithfulness: Annotated[float, typer.Option(help="0.9: within 0.1 of 1, as `circuit check` asks too")] = 0.9,
    source: SourceOption = "other",
    orders: Annotated[int, typer.Option(min=0, help="random orders, for other minimal circuits")] = 4,
    rows: RowsOption = 40,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    prompts: PromptOptions,
) -> None:
    """Find few edges that do what all do, and say whether any of them can go."""
    from nanogpt_lens.circuits.discovery import find_circuit
    from nanogpt_lens.circuits.kept import circuit_to_json

    check_picture(plot)
    asked = prompts.read(model, source=source, seed=seed)
    options: dict[str, Any] = {"method": method, "n_edges": n_edges, "threshold": threshold}
    circuit = find_circuit(
        model,
        *asked.asked,
        faithfulness=faithfulness,
        source=source,
        orders=orders,
        seed=seed,
        progress=shows_bar(as_json, as_csv),
        **options,
    )
    save_result(circuit, output)
    draw(circuit, plot)
    if as_json:
        typer.echo(json.dumps({"circuit": circuit_to_json(circuit)}, ensure_ascii=False))
    elif not print_for_programs({"circuit": circuit}, False, as_csv):
        _print_circuit(circuit, rows)


def _print_circuit(circuit: Circuit, count: int) -> None:
    finding(circuit.sentence())
    ends = circuit.faithfulness_interval
    if ends is not None:
        say(f"faithfulness {interval(circuit.faithfulness, *ends)}, on the prompts that chose the edges")
    scored = circuit.method != "greedy"  # whose scores are the order
    top = circuit.to_dataframe().head(min(count, circuit.n_edges)).to_dict("records")
    scores = [[score] if scored else [] for score in alike(row["value"] for row in top)]
    table = [
        [f"{row['rank'] + 1:.0f}", row["edge_label"], *score, fixed(row["without"], 3)]
        for row, score in zip(top, scores, strict=True)
    ]
    print_table(["rank", "edge", *(["score"] if scored else []), "faithfulness without it"], table)
    rest = circuit.n_edges - len(table)
    _print_others(circuit)
    more = f"; {rest} more edges: --rows prints more, --csv all" if rest > 0 else ""
    note(f"{circuit.definition}{more}")


def _print_others(circuit: Circuit) -> None:
    """The other minimal circuits, each by what it has that this one has not, and the reverse."""
    if circuit.other_circuits is None or circuit.other_faithfulness is None:
        return
    mine, found = set(circuit.edges), circuit.different
    orders = f"{len(circuit.other_circuits)} random orders found {len(found)} minimal circuits"
    say(f"{orders}; in all of them: {_names(circuit.core)}", indent=2)
    rows = [tuple(row) for row in circuit.other_circuits.tolist()]
    values = dict(zip(rows, circuit.other_faithfulness.tolist(), strict=True)).values()  # as `different`: each once
    for others, value in zip(found, values, strict=True):
        more = [edge for edge in others if edge not in mine]
        less = [edge for edge in circuit.edges if edge not in set(others)]
        said = f"with {_names(more)}; without {_names(less)}" if more or less else "the same"
        say(f"  {len(others)} edges, faithfulness {value:.3f}: {said}", indent=4)


def _names(edges: Any) -> str:
    """The first of some edges."""
    some = list(edges)
    return ", ".join(some[:6]) + (f" and {len(some) - 6} more" if len(some) > 6 else "") or "nothing"


def check(
    saved: Annotated[Path, typer.Argument(help="what `circuit find` saved with -o, or printed with --json, in a file")],
    path: PathArgument,
    *,
    source: Annotated[Source | None, typer.Option(help="with prompts given anew; else as it was found")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of prompts that are drawn anew")] = 0,
    as_json: JsonOption = False,
    prompts: PromptOptions,
    reading: Reading,
) -> None:
    """Run a saved circuit on another checkpoint; exit code 0 only if it is as faithful there as it has to be.

    Without prompts it is run on those that it was found on. Exit code 1: outside its tolerance of 1; 2: bad input.
    """
    check_saved({"saved": saved})
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.circuits.kept import read_circuit
    from nanogpt_lens.core.errors import AnalysisError

    kept = read_circuit(saved)
    if prompts.none and source is not None:
        raise AnalysisError("--source was given without prompts; leave it out, or give prompts anew")
    model = load(path, reading, for_programs=as_json)
    asked = None if prompts.none else prompts.read(model, source=source or kept.source, seed=seed)
    checked = kept.check(model, asked, progress=shows_bar(as_json, False))
    if as_json:
        typer.echo(json.dumps(checked.to_json(), ensure_ascii=False))
    else:
        finding(checked.sentence())
    if checked.warning:
        WAITING.done()
        typer.echo(f"warning: {checked.warning}", err=True)
    raise typer.Exit(0 if checked.holds else 1)
