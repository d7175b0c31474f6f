"""`nanogpt-lens neurons`: search, one neuron's page, neurons that separate a class, ablation."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.options import CsvOption, JsonOption, OutputOption, ResumeOption, RowsOption, SeedOption
from nanogpt_lens.cli.output import (
    on_model,
    print_few_examples,
    print_for_programs,
    print_warning,
    save_result,
    shows_bar,
)
from nanogpt_lens.cli.tables import finding, fixed, interval, note, number, print_table, say
from nanogpt_lens.cli.typos import Commands
from nanogpt_lens.core.choices import NeuronSource, On

if TYPE_CHECKING:
    from nanogpt_lens.results import NeuronSearch
    from nanogpt_lens.results.effects import NeuronAblation, SeparatingNeurons
    from nanogpt_lens.results.neurons import NeuronPage


app = typer.Typer(
    cls=Commands, no_args_is_help=True, help="What excites each neuron, what it separates, and what happens without it."
)

CorpusOption = Annotated[
    Path, typer.Option("--text", help="a text file, nanoGPT's .bin or data folder, or shakespeare_char for its text")
]
LayersOption = Annotated[list[int] | None, typer.Option("--layer", help="repeatable; without it, all layers")]
KOption = Annotated[int | None, typer.Option("--k", min=1, help="excerpts of each neuron", show_default="20")]
WindowOption = Annotated[int | None, typer.Option(min=1, help="tokens of an excerpt", show_default="32")]
Neuron = Annotated[str, typer.Argument(help="layer.neuron, such as 2.17")]


_ON_A_PAGE = 10
"""Excerpts of a page, where nothing is asked for and the text has so many."""


def register(parent: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (search, page, find, ablate):
        app.command()(on_model(command))
    parent.add_typer(app, name="neurons")


def search(
    model: Any,
    text: CorpusOption,
    layer: LayersOption = None,
    k: KOption = None,
    window: WindowOption = None,
    rows: RowsOption = 20,
    seed: SeedOption = 0,
    resume: ResumeOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Find the excerpts on which every neuron is highest and lowest, and its statistics, in one pass."""
    from nanogpt_lens.neurons.search import search_neurons

    bar = shows_bar(as_json, as_csv)
    search = search_neurons(model, text, layers=layer, k=k, window=window, seed=seed, resume=resume, progress=bar)
    save_result(search, output)
    if not print_for_programs({"neurons": search}, as_json, as_csv):
        _print_search(search, rows)


def _print_search(search: NeuronSearch, count: int) -> None:
    rows = []
    for row in search.top(count, order="high").to_dict("records"):
        page = search.page(int(row["layer_label"]), int(row["neuron"]))
        best = page.highest[0]
        at = best.position - best.start
        excerpt = "".join(best.tokens[max(0, at - 12) : at]), best.token, "".join(best.tokens[at + 1 : at + 9])
        promoted = "".join(token for token, _ in page.promoted)
        name = f"{page.layer}.{page.neuron}"
        numbers = [number(best.value), number(page.mean, 2), number(page.sparsity)]
        rows.append([name, *numbers, repr(promoted), f"{excerpt[0]!r} [{excerpt[1]!r}] {excerpt[2]!r}"])
        if len(rows) == 1:
            finding(f"{search.unit_kind.capitalize()} {name} goes highest: {numbers[0]}, at {best.token!r}.")
    header = [search.unit_kind, "highest", "mean", "sparsity", "promotes", "where it is highest"]
    print_table(header, rows, drop=["sparsity", "mean", "promotes"], wrap=header[-2:], more="`neurons page` has them")
    rest = search.values.numel() - len(rows)
    if rest > 0:
        note(f"and {rest} more; --rows prints more, --csv all; `neurons page` shows one, also of a saved search")
    note(f"{search.quantity}: {search.definition}")


def page(
    model: Any,
    neuron: Neuron,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="a text file, nanoGPT's .bin or data folder, or shakespeare_char for its text"),
    ] = None,
    search: Annotated[Path | None, typer.Option("--search", help="a search that was saved, in place of --text")] = None,
    k: KOption = None,
    window: WindowOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Everything about one neuron: statistics, the tokens that it promotes, its highest and lowest excerpts."""
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.interventions.units import Units
    from nanogpt_lens.neurons.search import search_neurons
    from nanogpt_lens.results import NeuronSearch

    layer, unit = _place(neuron)
    Units(model, layers=[layer]).checked(layer, unit)
    if (text is None) == (search is None):
        raise AnalysisError("expected either --text, which is searched, or --search, a saved search")
    if search is not None:
        result = NeuronSearch.load(search)
        _check_model(model, result, search)
    else:
        options: dict[str, Any] = {"layers": [layer], "window": window, "seed": seed}
        options["progress"] = shows_bar(as_json, False)
        try:
            result = search_neurons(model, text or "", k=_ON_A_PAGE if k is None else k, **options)
        except AnalysisError:
            if k is not None:
                raise
            result = search_neurons(model, text or "", **options)  # as many as a short text has
    about = result.page(layer, unit)
    if as_json:
        content = {**asdict(about), "definition": result.definition, "provenance": dict(result.provenance)}
        typer.echo(json.dumps(content, ensure_ascii=False))
    else:
        _print_page(about, result)


def _print_page(about: NeuronPage, search: NeuronSearch) -> None:
    first, *rest = str(about).splitlines()
    peak = f" is highest, {about.highest[0].value:.2f}, at {about.highest[0].token!r}." if about.highest else ""
    finding(f"{first[:1].upper()}{first[1:]}{peak}")
    for line in rest:
        say(line, indent=11)
    note(search.definition)


def _check_model(model: Any, result: NeuronSearch, folder: Path) -> None:
    """Raise AnalysisError unless the saved search is of this model."""
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.model.access import provenance

    searched, mine = result.checkpoint_sha256, provenance(model)["checkpoint_sha256"]
    if searched != mine:
        raise AnalysisError(
            f"{folder} was found on another checkpoint ({str(searched)[:12]}) than this one ({str(mine)[:12]}); search "
            "again"
        )


def _place(neuron: str) -> tuple[int, int]:
    layer, dot, unit = neuron.partition(".")
    if not (dot and layer.isdecimal() and unit.isdecimal()):
        from nanogpt_lens.core.errors import AnalysisError

        raise AnalysisError(f"the neuron is {neuron!r}; expected layer.neuron, such as 2.17")
    return int(layer), int(unit)


def find(
    model: Any,
    predicate: Annotated[
        str,
        typer.Argument(
            help="upper_case, after_newline, speaker_name, ...; or re: and a regular expression, as in re:ing"
        ),
    ],
    text: CorpusOption,
    on: Annotated[On, typer.Option(help="next: the neuron fires where such a token is to come")] = "token",
    layer: LayersOption = None,
    k: Annotated[int, typer.Option("--k", min=1, help="how many neurons are measured on held-out text")] = 10,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Find the neurons that separate a class of tokens best, against what chance gives."""
    from nanogpt_lens.neurons.find import find_neurons

    bar = shows_bar(as_json, as_csv)
    result = find_neurons(model, text, predicate, on=on, layers=layer, k=k, seed=seed, progress=bar)
    save_result(result, output)
    if print_for_programs({"separation": result}, as_json, as_csv):
        return
    _print_found(result, predicate, k)


def _print_found(result: SeparatingNeurons, predicate: str, k: int) -> None:
    least = 1 / (1 + len(result.null))  # no p can be smaller
    rows = [
        [
            f"{row['layer_label']}.{row['neuron']}",
            "higher" if row["sign"] > 0 else "lower",
            number(row["separation"], 3),
            interval(row["held_out"], row["low"], row["high"]),
            ("<= " if row["p"] <= least else "") + f"{row['p']:.3f}",
        ]
        for row in result.top(k).to_dict("records")
    ]
    best = result.top(1).to_dict("records")[0]
    finding(
        f"Neuron {rows[0][0]} tells {predicate} best: on held-out text it is {rows[0][1]} there with an AUROC of "
        f"{rows[0][3]}."
        if best["p"] <= 0.05
        else f"No neuron surely tells {predicate} better than chance; the best is {rows[0][0]}, AUROC {rows[0][2]}."
    )
    print_warning(result)
    print_table(["neuron", "on the class", "AUROC", "held out", "p"], rows, drop=["on the class"])
    tokens, members = result.n_tokens, result.n_class
    say(
        f"chance: in 95% of shifts the best of all neurons stays at or below {result.chance:.3f}; {members[0]} of "
        f"{tokens[0]} tokens are of the class, held out {members[1]} of {tokens[1]}",
        indent=2,
    )
    print_few_examples(result)
    note(f"{result.quantity}: {result.definition}")


def ablate(
    model: Any,
    neurons: Annotated[str, typer.Argument(help="layer.neuron, several with commas: 2.17,3.5")],
    text: CorpusOption,
    source: Annotated[NeuronSource, typer.Option(help="what takes a neuron's place")] = "zero",
    predicate: Annotated[
        str | None, typer.Option("--class", help="also the rise on tokens of a class, as in find")
    ] = None,
    controls: Annotated[
        int | None, typer.Option(min=0, help="sets of as many random other neurons", show_default="20")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, help="sequences at most")] = 512,
    k: Annotated[int, typer.Option("--k", min=1, help="how many of the tokens hit hardest are listed")] = 10,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Take neurons out, all together: how much the loss rises, on which tokens, and against random others."""
    from nanogpt_lens.neurons.ablation import ablate_neurons

    chosen = [name.strip() for name in neurons.split(",") if name.strip()]
    result = ablate_neurons(
        model,
        text,
        chosen,
        source=source,
        predicate=predicate,
        controls=controls,
        n=n,
        k=k,
        seed=seed,
        progress=shows_bar(as_json, as_csv),
    )
    save_result(result, output)
    if print_for_programs({"ablation": result}, as_json, as_csv):
        return
    _print_ablation(result, chosen)


def _print_ablation(result: NeuronAblation, chosen: list[str]) -> None:
    rows = [
        [
            str(row["score"]).replace("_", " "),
            interval(row["value"], row.get("low", float("nan")), row.get("high", float("nan"))),
            fixed(row.get("chance", float("nan")), 3),
            fixed(row["controls_as_strong"]),
        ]
        for row in result.table().to_dict("records")
    ]
    rise = next((row for row in rows if row[0] == "rise"), rows[0])
    finding(f"Without neuron{'s' * (len(chosen) > 1)} {', '.join(chosen)} the loss rises by {rise[1]} nats per token.")
    print_warning(result)
    print_table(["nats per token", "value", "controls", "controls as strong"], rows, wrap=["nats per token"])
    say("hit hardest (what precedes [token]):")
    hits = [
        [
            *(number(row[name], 2) for name in ("rise", "before", "after")),
            f"{str(row['preceding'])[-30:]!r} [{row['token']!r}]",
        ]
        for row in result.hits().to_dict("records")
    ]
    print_table(["rise", "before", "after", "where"], hits, wrap=["where"])
    print_few_examples(result)
    note(result.definition)
