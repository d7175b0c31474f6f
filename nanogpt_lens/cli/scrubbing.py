"""`nanogpt-lens scrub`: whether a hypothesis about what a model computes is true, by causal scrubbing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.completing import TASKS, one_of
from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, SeedOption, check_text
from nanogpt_lens.cli.output import (
    PlotOption,
    check_picture,
    draw,
    on_model,
    print_few_examples,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.prompts import check_task
from nanogpt_lens.cli.tables import finding, note, number, print_table, say

if TYPE_CHECKING:
    from nanogpt_lens.results import Scrubbing

_COSTS = {
    "cost": "what is recovered in addition if the part may depend on all that it reads",
    "rest": "what is recovered in addition if the part may read everything",
    "need": "what is lost without the claim",
}


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(on_model(scrub))


def _list_features(asked: bool) -> None:
    if asked:
        from nanogpt_lens.circuits.scrubbing import FEATURES

        for name, definition in FEATURES.items():
            typer.echo(f"{name:<17} {definition}")
        typer.echo("several in a list, such as [token, position]; classes of your own as classes: {vowels: aeiou}")
        raise typer.Exit


def scrub(
    model: Any,
    hypothesis: Annotated[
        Path, typer.Argument(help="a YAML or JSON file with the tree of claims, see docs/SCRUBBING.md")
    ],
    *,
    task: Annotated[
        str | None,
        typer.Option(
            help="induction ([A][B]...[A] of random tokens), repeated_random, trigger_bigrams, or a run's folder with "
            "its task.json",
            show_default="the model's own, else induction",
            autocompletion=one_of(TASKS),
        ),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="instead, passages of a text, whose last token is the answer")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="prompts, of which each can stand in for others")] = 256,
    seq_len: Annotated[int | None, typer.Option(min=1, help="tokens of a prompt", show_default="32")] = None,
    n_draws: Annotated[int, typer.Option(min=1, help="how often each prompt is scrubbed")] = 4,
    weaken: Annotated[bool, typer.Option(help="measure what each claim costs and is needed for")] = True,
    features: Annotated[
        bool,
        typer.Option("--features", callback=_list_features, is_eager=True, help="name all features and what they are"),
    ] = False,
    seed: SeedOption = 0,
    plot: PlotOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Scrub a model by a hypothesis: how much of what it does is left if only what the hypothesis names is kept.

    Printed beside its controls: the same claims with permuted features, a random prompt's logits (0) and the model
    itself (1); and what each claim costs.
    """
    from nanogpt_lens.circuits.scrubbing import read_hypothesis
    from nanogpt_lens.circuits.scrubbing import scrub as scrubbing_of
    from nanogpt_lens.text.task_pairs import own_task

    check_picture(plot)
    claims = read_hypothesis(hypothesis)
    data = _data(model, task, text, n, seq_len, seed)
    bar = shows_bar(as_json, as_csv)
    result = scrubbing_of(model, claims, data, n_draws=n_draws, weaken=weaken, seed=seed, progress=bar)
    save_result(result, output)
    draw(result, plot)
    if as_json:
        table = json.loads(result.claims_table().to_json(None, orient="records", double_precision=15) or "[]")
        more = {"sentence": result.sentence(), "claims_table": table}
        typer.echo(json.dumps({"scrubbing": result.to_json() | more}, ensure_ascii=False))
    elif as_csv:
        typer.echo(_as_csv(result), nl=False)
    else:
        where = f"passages of {text}" if text is not None else f"prompts of the task {task or own_task(model)}"
        _print(result, f"{len(result.metric[0]):,} {where}, {result.seq_len} tokens each")


def _data(model: Any, task: str | None, text: Any, n: int, seq_len: int | None, seed: int) -> Any:
    """The prompts that were asked for.

    Raises:
        AnalysisError: a task and a text were both given, or there is no such text.
    """
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.text.corpus import text_sample
    from nanogpt_lens.text.prompts import LONGEST
    from nanogpt_lens.text.task_pairs import own_task, pairs_by_name

    if text is None:
        check_task(task)
        return pairs_by_name(model, task or own_task(model), n=n, seq_len=seq_len, seed=seed)
    if task is not None:
        raise AnalysisError("--task and --text were both given; expected one of them")
    check_text(text if isinstance(text, Path) else text.path)
    length = 1 + (min(LONGEST, int(model.cfg.n_ctx) - 1) if seq_len is None else seq_len)
    return text_sample(model, text, seq_len=length, n=n, seed=seed)[0]


def _as_csv(result: Scrubbing) -> str:
    """A row for each condition, and for each cost of each claim."""
    import pandas as pd

    frame = result.to_dataframe()[["condition_label", "value", "low", "high"]]
    frames = [frame.set_axis(["place", "value", "low", "high"], axis=1).assign(measure="recovered")]
    table = result.claims_table()
    for what in (name for name in _COSTS if name in table):
        some = table[["claim", "depends_on", what, f"{what}_low", f"{what}_high", f"{what}_p"]]
        frames.append(some.set_axis(["place", "depends_on", "value", "low", "high", "p"], axis=1).assign(measure=what))
    whole = pd.concat(frames, ignore_index=True).dropna(subset="value")
    return whole.reindex(columns=["measure", "place", "depends_on", "value", "low", "high", "p"]).to_csv(index=False)


def _print(result: Scrubbing, prompts: str) -> None:
    finding(result.sentence())
    ends = zip(result.values.tolist(), result.low.tolist(), result.high.tolist(), strict=True)
    means = result.metric.double().mean(-1).tolist()
    names = result.labels["condition"]
    rows = [[name, number(mean, 3), _share(*three)] for name, three, mean in zip(names, ends, means, strict=True)]
    print_table(["condition", "metric", "recovered share"], rows, wrap=["condition"])
    table = result.claims_table()
    costs = [what for what in _COSTS if what in table]
    header = ["claim", "values", "alone", *costs]
    print_table(header, [_cells(row, costs) for row in table.to_dict("records")], fold=True, wrap=["claim"])
    say("values: how many the feature has; alone: the share of places that agree with no other", indent=2)
    for what in costs:
        say(f"{what}: {_COSTS[what]}", indent=2)
    print_few_examples(result)
    note(f"{prompts}, {result.over_draws.shape[1]} draws of each; {result.definition}")


def _cells(row: dict[str, Any], costs: list[str]) -> list[str]:
    """A claim in words, below what reads it, and its costs with their intervals."""
    from nanogpt_lens.results.claims_in_words import features_in_words, node_in_words

    path = str(row["claim"])
    node = node_in_words(path.rpartition("/")[2])
    name = f"{'  ' * path.count('/')}{node}: {features_in_words(row['depends_on'])}"
    measured = [_share(*(row[f"{what}{end}"] for end in ("", "_low", "_high"))) for what in costs]
    return [name, f"{row['n_values']:,}", f"{row['alone']:.0%}", *measured]


def _share(value: float, low: float, high: float) -> str:
    """A share in percent with its interval; rounding is 0, and - is for nan."""
    ends = [f"{x:.1%}".replace("-0.0%", "0.0%") for x in (value, low, high)]
    return "-" if math.isnan(value) else f"{ends[0]} [{ends[1]}, {ends[2]}]"
