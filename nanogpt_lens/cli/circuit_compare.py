"""`nanogpt-lens circuit compare`: saved circuits of models, seeds, stages, tasks or methods beside each other."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, SeedOption, check_saved
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    load,
    one_format,
    print_few_examples,
    print_for_programs,
    print_warning,
    reading_file,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.prompts import PromptOptions
from nanogpt_lens.cli.tables import finding, fixed, interval, note, p_value, print_table, say
from nanogpt_lens.core.choices import Source
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.circuits.kept import KeptCircuit
    from nanogpt_lens.results import CircuitComparison


def compare(
    saved: Annotated[list[Path], typer.Argument(help="two or more, as `circuit find` saved or printed them (--json)")],
    *,
    model: Annotated[
        list[str],
        typer.Option("--model", help="out_dir, ckpt.pt or name: one for all, or one for each circuit"),
    ],
    name: Annotated[
        list[str] | None, typer.Option("--name", help="what each is called; else its file's name; repeatable")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="heads: numbers, behaviour, effects  [default: numbers for one model, else behaviour]"),
    ] = None,
    source: Annotated[Source | None, typer.Option(help="with prompts given anew; else as they were found")] = None,
    splits: Annotated[int, typer.Option(min=0, help="halvings of the prompts, for the ceiling; 0 for none")] = 4,
    n_random: Annotated[int, typer.Option(min=1, help="random circuits in the place of each")] = 100,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    prompts: PromptOptions,
    reading: Reading,
) -> None:
    """Compare saved circuits: effects of edges, edges shared, and what each does in the other's place.

    Each is run on the prompts that it was found on, or on the prompts given.
    """
    for path in saved:
        check_saved({"saved": path})
    for path in model:
        reading_file(path, for_programs=as_json or as_csv)
    from nanogpt_lens.circuits.kept import read_circuit
    from nanogpt_lens.compare.circuits import compare_circuits
    from nanogpt_lens.results.files import check_target

    one_format(as_json, as_csv)
    check_picture(plot)
    if output is not None:
        check_target(output)
    kept = [read_circuit(path) for path in saved]
    models = _models(model, len(kept), reading)
    asked, run_as = _asked(kept, models, prompts, source, seed)
    options: dict[str, Any] = {"match": match}
    result = compare_circuits(
        *((one, circuit, *prompt) for one, circuit, prompt in zip(models, kept, asked, strict=True)),
        names=name or _names(saved),
        source=run_as,
        splits=splits,
        n_random=n_random,
        seed=seed,
        progress=shows_bar(as_json, as_csv),
        **options,
    )
    if prompts.none:
        _warn_of_others(result, kept)
    save_result(result, output)
    draw(result, plot)
    if as_json:
        typer.echo(json.dumps({"comparison": result.to_json() | {"sentence": result.sentence()}}, ensure_ascii=False))
    elif not print_for_programs({"comparison": result}, False, as_csv):
        _print(result)


def _models(paths: list[str], n: int, reading: Reading) -> list[Any]:
    """A model for each circuit, each file loaded once."""
    if len(paths) not in (1, n):
        raise AnalysisError(f"there are {len(paths)} --model for {n} circuits; expected one for all, or one for each")
    loaded = {path: load(path, reading) for path in dict.fromkeys(paths)}
    return [loaded[path] for path in (paths * n if len(paths) == 1 else paths)]


def _asked(
    kept: list[KeptCircuit], models: list[Any], prompts: PromptOptions, source: Source | None, seed: int
) -> tuple[list[tuple[Any, Any, Any]], Source]:
    """The prompts of each circuit, and what the edges outside carry.

    Raises:
        AnalysisError: circuits were found with different sources, or a source is given without prompts.
    """
    sources: list[Source] = list(dict.fromkeys(one.source for one in kept))
    if prompts.none:
        if source is not None:
            raise AnalysisError("--source was given without prompts; leave it out, or give prompts anew")
        if len(sources) > 1:
            raise AnalysisError(
                f"the circuits were found with the sources {' and '.join(sources)}, whose effects are of different "
                "things; expected one, or prompts given anew with --source"
            )
        return [one.prompts(model).asked for one, model in zip(kept, models, strict=True)], sources[0]
    chosen = source or sources[0]
    return [prompts.read(model, source=chosen, seed=seed).asked for model in models], chosen


def _warn_of_others(result: CircuitComparison, kept: list[KeptCircuit]) -> None:
    """Say of circuits that do not do here, on the prompts that they were found on, what they did there."""
    for i, one in enumerate(kept):
        here = float(result.score("transfer")[i, i])
        if abs(here - one.faithfulness) > one.tolerance:
            typer.echo(
                f"{one.path} had a faithfulness of {one.faithfulness:.2f} where it was found, and has {here:.2f} in "
                "this model on the same prompts: give the model that it was found in, with a --model for each circuit",
                err=True,
            )


def _names(saved: list[Path]) -> list[str]:
    """The names of the files without their ends; the whole paths where these are not apart."""
    short = [path.stem if path.suffix == ".json" else path.name for path in saved]
    return short if len(set(short)) == len(short) else [str(path) for path in saved]


def _print(result: CircuitComparison) -> None:
    finding(result.sentence())
    columns = ("low", "high", "chance", "p", "ceiling")
    for i, score in enumerate(result.labels["score"]):
        say(f"{score.replace('_', ' ')}: {result.scores[score]}", indent=2)
        rows = []
        for j, one in enumerate(result.names):
            for k, other in enumerate(result.names):
                if j < k or (score == "transfer"):
                    low, high, chance, p, ceiling = (float(getattr(result, name)[i, j, k]) for name in columns)
                    value = float(result.values[i, j, k])
                    said = fixed(value) if math.isnan(low) else interval(value, low, high, scale=1)
                    rows.append([one, other, said, fixed(chance), p_value(p), fixed(ceiling)])
        header = ["of", "in" if score == "transfer" else "and", "value", "by chance", "p", "ceiling"]
        print_table(header, rows, drop=["ceiling", "p", "by chance"], wrap=header[:2])
    print_few_examples(result)
    print_warning(result)
    note(result.definition)
