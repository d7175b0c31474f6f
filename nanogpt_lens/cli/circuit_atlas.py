"""`nanogpt-lens circuit atlas`: what every edge does at every stage of a run, and when each appears."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nanogpt_lens.cli.completing import TASKS, checkpoints, one_of
from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, ResumeOption, RowsOption, SeedOption
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    one_format,
    only_first,
    print_few_examples,
    print_for_programs,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.tables import finding, note, number, print_table
from nanogpt_lens.cli.waiting import WAITING, short
from nanogpt_lens.core.choices import Direction
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.model.places import find_folder
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from nanogpt_lens.results import CircuitAtlas


def atlas(
    path: Annotated[
        str,
        typer.Argument(
            help="a folder with ckpt*.pt of one run, or a shipped checkpoint with stages", autocompletion=checkpoints
        ),
    ],
    pairs: Annotated[
        str | None,
        typer.Option(
            "--task",
            "--pairs",
            help="the prompts: induction, a task or a run's folder; else the run's own task, or induction without one",
            autocompletion=one_of(TASKS),
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=2, help="prompts")] = 32,
    seq_len: Annotated[int | None, typer.Option(min=2, help="tokens of each of them")] = None,
    direction: Annotated[Direction, typer.Option(help="noise: one edge of the clean run is changed")] = "noise",
    pattern: Annotated[str, typer.Option(help="which files are the checkpoints")] = "ckpt*.pt",
    least: Annotated[float, typer.Option(min=0, help="the smallest change of an effect that counts, in logits")] = 0.1,
    level: Annotated[float, typer.Option(help="of the tests, all edges together")] = 0.05,
    rows: RowsOption = 20,
    seed: SeedOption = 0,
    resume: ResumeOption = None,
    kind: Annotated[
        Literal["appearance", "film", "multiples"], typer.Option(help="of --plot; film has a slider, in an .html")
    ] = "appearance",
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
    *,
    reading: Reading,
) -> None:
    """Measure what every edge does at every stage of a run, exactly, and say when each appears."""
    one_format(as_json, as_csv)
    check_picture(plot)
    WAITING.doing(f"reading the checkpoints of {short(find_folder(path))}", for_programs=as_json or as_csv)
    with only_first():
        from nanogpt_lens.core.distributed import is_first
        from nanogpt_lens.results.files import check_target
        from nanogpt_lens.runs.atlas import PERMUTATIONS, circuit_atlas
        from nanogpt_lens.runs.change_points import check_options
        from nanogpt_lens.runs.trajectory import trajectory

        check_options(least, level, PERMUTATIONS, seed)
        if output is not None:
            check_target(output)
        if kind == "film" and plot is not None and plot.suffix != ".html":
            raise ResultError(
                f"{plot} ends in {plot.suffix!r}, and a film has a slider; expected .html, or --kind multiples"
            )
        lengths: dict[str, Any] = {} if seq_len is None else {"seq_len": seq_len}
        effects = trajectory(
            path,
            "edge_effects",
            pairs=pairs,
            pattern=pattern,
            resume=resume,
            **reading.options(),
            progress=shows_bar(as_json, as_csv),
            n=n,
            seed=seed,
            direction=direction,
            **lengths,
        )
        result = circuit_atlas(effects, least=least, level=level, seed=seed)
        save_result(result, output)
        if plot is not None and is_first():
            draw(result.plot(kind=kind), plot)
        if not print_for_programs({"atlas": result}, as_json, as_csv):
            _print(result, rows)


def _print(result: CircuitAtlas, count: int) -> None:
    finding(result.sentence())
    changed = result.table().query("changed")
    rows = [
        [
            row["edge"],
            "appears" if row["formed"] else "changes",
            number(row["final"], 3),
            f"{row['half']:,.0f} ({row['half_low']:,.0f} to {row['half_high']:,.0f})",
            number(row["p_value"], 3),
            str(row["group"] + 1) if row["formed"] else "-",
        ]
        for row in changed.head(count).to_dict("records")
    ]
    if rows:
        header = ["edge", "", "effect at the end", "half-way, step", "p", "moment"]
        print_table(header, rows, drop=["", "moment"])
    rest = len(changed) - len(rows)
    more = f"; {rest} more change: --rows" if rest else ""
    print_few_examples(result)
    note(
        f"{len(result.steps)} checkpoints; intervals over {result.n_examples} prompts; p of a transition, corrected "
        f"for {result.n_curves} curves{more}"
    )
