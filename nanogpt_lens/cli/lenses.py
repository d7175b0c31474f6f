"""`nanogpt-lens lens` and `nanogpt-lens tune-lens`: what each layer believes, and a better lens to see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.options import (
    CsvOption,
    JsonOption,
    OutputOption,
    ResumeOption,
    SeedOption,
    SequencesOption,
    TextOption,
)
from nanogpt_lens.cli.output import (
    on_model,
    print_few_examples,
    print_for_programs,
    print_warning,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.tables import alike, finding, holds, interval, note, number, print_table, say

if TYPE_CHECKING:
    from nanogpt_lens.results import Result
    from nanogpt_lens.results.attribution import LogitAttribution
    from nanogpt_lens.results.lens import ConvergenceResult, LensResult, TunedLens

_COLUMNS = 12
_SHOWN = 10
_PARTS = ("lens", "attribution", "convergence")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(on_model(lens, parts=_PARTS))
    app.command()(on_model(tune_lens))


def lens(
    model: Any,
    prompt: Annotated[str | None, typer.Option(help="a text to read token by token ($'a\\nb' in bash)")] = None,
    answer: Annotated[str | None, typer.Option(help="one token: also what adds to its logit after the prompt")] = None,
    wrong: Annotated[str | None, typer.Option(help="one token: whose logit is taken off")] = None,
    text: TextOption = None,
    n: SequencesOption = 64,
    tuned: Annotated[Path | None, typer.Option(help="a tuned lens that tune-lens saved")] = None,
    transfer: Annotated[bool, typer.Option("--transfer", help="let the tuned lens of another model in")] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Read every layer through the final norm and unembedding: on a prompt, and on average over a text."""
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.lens.attribution import direct_logit_attribution
    from nanogpt_lens.lens.convergence import measure_convergence
    from nanogpt_lens.lens.logit import logit_lens
    from nanogpt_lens.results.lens import TunedLens

    for name, value, needed, other in (("answer", answer, prompt, "prompt"), ("wrong", wrong, answer, "answer")):
        if value is not None and needed is None:
            raise AnalysisError(f"--{name} was given without --{other}; give both")
    if transfer and tuned is None:
        raise AnalysisError("--transfer was given without --tuned; give both")
    tuned_lens = None if tuned is None else TunedLens.load(tuned, model, transfer=transfer)
    results: dict[str, Result] = {}
    if prompt is not None:
        results["lens"] = logit_lens(model, prompt, lens=tuned_lens)
    if answer is not None and prompt is not None:
        results["attribution"] = direct_logit_attribution(model, prompt, answer, wrong)
    if prompt is None or text is not None:
        bar = shows_bar(as_json, as_csv)
        results["convergence"] = measure_convergence(model, text, n=n, seed=seed, lens=tuned_lens, progress=bar)
    for name, result in results.items():
        save_result(result, None if output is None else output / name)
    if print_for_programs(results, as_json, as_csv):
        return
    by_name: dict[str, Any] = results
    if "lens" in by_name:
        _print_lens(by_name["lens"])
    if "attribution" in by_name:
        _print_attribution(by_name["attribution"])
    if "convergence" in by_name:
        _print_convergence(by_name["convergence"])


def _print_lens(result: LensResult) -> None:
    table, bits = result.table(), result.bits_per_char
    places = result.in_depth_order()
    last, layers = result.string(int(result.final_tokens.flatten()[-1])), result.shape["layer"]
    depth = float(result.depth.flatten()[-1])
    finding(f"After the prompt the model says {last!r}, which leads {_depth(depth, layers)}.")
    print_warning(result)
    before = [
        [name, number(result.kl[i, j].mean(), 2), *([] if bits is None else [number(bits[i, j], 2)])]
        for i, j, name in places
    ]
    header = ["point", "mean KL", *([] if bits is None else ["bits per char"])]
    shown = min(_COLUMNS, len(table.columns))
    while True:
        columns = list(table.columns)[-shown:]
        rows = [[*row, *map(str, table.loc[row[0], columns])] for row in before]
        if shown == 1 or holds([*header, *columns], rows):
            break
        shown -= 1
    say("most likely next token at each point, read behind each token of the text:")
    print_table([*header, *columns], rows, drop=header[:0:-1])
    hidden = len(table.columns) - shown
    more = f"; {hidden} positions before these are left out, --csv has them all" if hidden else ""
    note(f"{result.definition}{more}")


def _depth(depth: float, layers: int) -> str:
    """A depth in layers, in words."""
    if depth >= layers:
        return "at the output alone"
    if depth == 0:
        return "from the embedding on"
    layer, half = divmod(depth, 1)
    return f"from the middle of layer {layer:g} on" if half else f"from the end of layer {layer - 1:g} on"


def _print_attribution(result: LogitAttribution) -> None:
    top = result.top(_SHOWN).to_dict("records")
    names = [_component(str(row["component_label"])) for row in top]
    rows = [[name, value] for name, value in zip(names, alike(row["value"] for row in top), strict=True)]
    if rows:
        total = number(result.total.flatten()[-1], 2)
        finding(f"{names[0][0].upper()}{names[0][1:]} adds most, {rows[0][1]} of {total}: {result.quantity}.")
    read = f"read at position {result.positions[-1]}, after {result.labels['pos'][-1]!r}"
    say(f"{result.quantity}, {read}, in all {number(result.total.flatten()[-1], 3)}:")
    print_table(["component", "contribution"], rows)
    note(f"{result.definition}; the {len(rows)} largest of {result.shape['component']}, --csv has all")


def _component(label: str) -> str:
    """A component in words: a head is called one."""
    if label.replace(".", "").isdecimal():
        return f"head {label}"
    return label.replace("mlp", "MLP ") if label.startswith("mlp") else label


def _print_convergence(result: ConvergenceResult) -> None:
    finding(
        f"On average the model's first choice settles at depth {result.mean_depth:.1f} of {result.n_layers} layers."
    )
    print_warning(result)
    kept = [k for k, name in enumerate(result.labels["score"]) if not bool(result.values[k].isnan().all())]
    names = [result.labels["score"][k].replace("_", " ") for k in kept]
    rows = []
    for i, j, name in result.in_depth_order():
        ends = [(t[:, i, j] if t is not None else result.values[:, i, j]) for t in (result.low, result.high)]
        rows.append([name, *(interval(result.values[k, i, j], ends[0][k], ends[1][k]) for k in kept)])
    if result.chance is not None:
        rows.append(["constant", *(number(result.chance[k, 0, 0], 2) for k in kept)])
    print_table(["point", *names], rows, fold=True)
    print_few_examples(result)
    note(result.definition)


def tune_lens(
    model: Any,
    text: Annotated[
        Path, typer.Option(help="a text file, data folder or shakespeare_char; its last parts are held out")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder that the lens is saved in")],
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps at most")] = 1000,
    seed: SeedOption = 0,
    resume: ResumeOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> None:
    """Train a tuned lens (Belrose et al. 2023): one affine map per point; held-out KL beside the logit lens."""
    from nanogpt_lens.lens.tuned import train_tuned_lens

    bar = shows_bar(as_json, as_csv)
    lens = train_tuned_lens(model, text, steps=steps, seed=seed, resume=resume, progress=bar)
    save_result(lens, output)
    if not print_for_programs({"tuned_lens": lens}, as_json, as_csv):
        _print_tuned(lens)


def _print_tuned(lens: TunedLens) -> None:
    low, high = lens.low, lens.high
    rows = []
    for i, j, name in lens.in_depth_order():
        cells = [
            number(value, 3) if low is None or high is None else interval(value, low[k, i, j], high[k, i, j])
            for k, value in enumerate(lens.values[:, i, j])
        ]
        rows.append([name, *cells])
    names = [name.replace("_", " ") for name in lens.labels["score"]]
    say(f"{lens.quantity}:", style="bold")
    print_table(["point", *names], rows, fold=True)
    print_few_examples(lens)
    note(lens.definition)
