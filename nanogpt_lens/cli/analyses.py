"""The commands that look into a model: heads, induction, patch. Each parses, calls, and prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.head_sentences import stars, what_heads_do, without_star
from nanogpt_lens.cli.induction_lines import print_induction
from nanogpt_lens.cli.options import (
    CsvOption,
    JsonOption,
    OutputOption,
    RowsOption,
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
from nanogpt_lens.cli.tables import alike, finding, fixed, interval, note, print_table, say
from nanogpt_lens.core.choices import Activation, Direction

if TYPE_CHECKING:
    from nanogpt_lens.results import HeadTaxonomy, PatchingResult, Result


_INDUCTION = (
    "prefix_matching",
    "accuracy",
    "repeated_loss",
    "in_context_learning",
    "composition",
    "text_prefix_matching",
    "repeated_text_loss",
    "ablation",
)
"""What `induction` saves, each in a folder of its own."""


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(on_model(heads))
    app.command()(on_model(induction, parts=_INDUCTION))
    app.command()(on_model(patch))


def heads(
    model: Any,
    text: TextOption = None,
    n: SequencesOption = 64,
    importance: Annotated[
        bool, typer.Option("--importance", help="also ablate each head and measure the loss")
    ] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Say what each head does: where it looks (previous token, induction, line break and more), what it copies."""
    from nanogpt_lens.heads.taxonomy import head_taxonomy
    from nanogpt_lens.patching.importance import head_importance

    taxonomy = head_taxonomy(model, text, n=n, seed=seed)
    results: dict[str, Result] = {"heads": taxonomy}
    if importance:
        results["importance"] = head_importance(model, text, n=n, seed=seed, progress=shows_bar(as_json, as_csv))
    save_result(taxonomy, output)
    if print_for_programs(results, as_json, as_csv):
        return
    _print_heads(taxonomy, results.get("importance"))


def _print_heads(taxonomy: HeadTaxonomy, importance: Result | None) -> None:
    finding(what_heads_do(taxonomy))
    names = [name for name in taxonomy.labels["score"] if name != "anti_copying"]  # which is minus copying
    rows = []
    for layer in range(taxonomy.shape["layer"]):
        for head in range(taxonomy.shape["head"]):
            labels = taxonomy.of(layer, head)
            scores = [
                fixed(taxonomy.at(score=name, layer=layer, head=head)) + (" *" if _starred(name, labels) else "  ")
                for name in names
            ]
            rise = [] if importance is None else [_rise(importance, layer, head)]
            rows.append([f"{layer}.{head}", ", ".join(label.replace("_", " ") for label in labels), *rise, *scores])
    if taxonomy.chance is not None:
        chance = dict(zip(taxonomy.labels["score"], taxonomy.chance.mean((1, 2)), strict=True))
        empty = [""] * (2 if importance is not None else 1)
        rows.append(["chance", *empty, *(f"{fixed(chance[name])}  " for name in names)])
    titles = {name: name.replace("_", " ") for name in names}
    earned = {name for name in names if any(row[-len(names) + names.index(name)].endswith("*") for row in rows)}
    drop = sorted(_LEAST_TELLING, key=lambda name: name in earned)
    rise = [] if importance is None else ["loss rise without it"]
    print_table(
        ["head", "what it is", *rise, *titles.values()],
        rows,
        drop=[titles[name] for name in drop if name in titles],
        wrap=["what it is"],
        more="--csv has all scores",
    )
    for line in (*stars(taxonomy), *without_star(taxonomy)):
        say(line, indent=2)
    print_few_examples(taxonomy, *([] if importance is None else [importance]))
    if importance is not None:
        note(f"loss rise: {importance.quantity} ({importance.definition})")
    more = "" if importance is not None else "; --importance adds the rise of the loss without each head"
    note(f"{taxonomy.definition.removeprefix('text: ')}; chance is uniform attention{more}")


_LEAST_TELLING = (
    "broad", "sink", "duplicate_token", "positional", "line_break", "previous_token", "induction", "copying",
)  # fmt: skip
"""Scores in the order in which a narrow terminal leaves them out; those that no head earns go first."""


def _starred(score: str, labels: Sequence[str]) -> bool:
    return score in labels or (score == "copying" and "anti_copying" in labels)


def _rise(importance: Any, layer: int, head: int) -> str:
    ends = [None if end is None else end[layer, head] for end in (importance.low, importance.high)]
    return interval(importance.values[layer, head], *ends)


def induction(
    model: Any,
    text: TextOption = None,
    seq_len: Annotated[int | None, typer.Option(min=2, help="tokens of a sequence before it is repeated")] = None,
    n: SequencesOption = 32,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Measure induction: heads, losses on repeated sequences, [A][B]...[A] prompts, and what ablation takes away."""
    from nanogpt_lens.heads.ablation import ablate_induction_heads
    from nanogpt_lens.heads.induction import induction_accuracy, prefix_matching, repeated_sequence_loss
    from nanogpt_lens.heads.induction_composition import induction_composition
    from nanogpt_lens.heads.induction_rule import find_induction_heads
    from nanogpt_lens.losses.on_text import in_context_learning_score
    from nanogpt_lens.model.access import n_tokens
    from nanogpt_lens.text.prompts import LEAST_VOCABULARY

    matching = find_induction_heads(model, seq_len=seq_len, n=n, seed=seed)
    results: dict[str, Result] = {"prefix_matching": matching}
    if n_tokens(model) >= LEAST_VOCABULARY:
        results["accuracy"] = induction_accuracy(model, n=max(n, 128), seed=seed)
    results |= {
        "repeated_loss": repeated_sequence_loss(model, seq_len=seq_len, n=n, seed=seed),
        "in_context_learning": in_context_learning_score(model, text, seed=seed),
    }
    if model.cfg.n_layers > 1:
        results["composition"] = induction_composition(model, n=n, seed=seed)
    if text is not None:
        results["text_prefix_matching"] = prefix_matching(model, text, seq_len=seq_len, n=n, seed=seed)
        results["repeated_text_loss"] = repeated_sequence_loss(model, text, seq_len=seq_len, n=n, seed=seed)
    if found := matching.heads():
        bar = shows_bar(as_json, as_csv)  # of the heads on other sequences than those that they were found on
        options: dict[str, Any] = {"seq_len": seq_len, "n": n, "seed": seed + 1, "progress": bar}
        results["ablation"] = ablate_induction_heads(model, sorted(found), chosen_by=matching, **options)
    if output is not None:
        for name, result in results.items():
            save_result(result, output / name)
    if print_for_programs(results, as_json, as_csv):
        return
    print_induction(results)
    for result in results.values():
        print_warning(result)
    print_few_examples(*results.values())


def patch(
    model: Any,
    clean: Annotated[str, typer.Option(help="the text that calls for the answer ($'a\\nb' in bash for a line break)")],
    corrupted: Annotated[str, typer.Option(help="a text of the same length that does not")],
    answer: Annotated[str, typer.Option(help="one token")],
    wrong: Annotated[str | None, typer.Option(help="one token; without it, log-probability of the answer")] = None,
    activation: Annotated[Activation, typer.Option(help="what is patched")] = "resid_pre",
    axes: Annotated[str, typer.Option(help="what is swept, such as layer,pos or layer,head")] = "layer,pos",
    direction: Annotated[Direction, typer.Option(help="denoise: clean into corrupted")] = "denoise",
    rows: RowsOption = 10,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    output: OutputOption = None,
) -> None:
    """Patch one run's activations into the other, exactly, at every site."""
    from nanogpt_lens.patching.sweeps import activation_patching
    from nanogpt_lens.running.metrics import answer_logprob, logit_diff

    metric = answer_logprob(answer) if wrong is None else logit_diff(answer, wrong)
    result = activation_patching(
        model,
        clean,
        corrupted,
        metric,
        activation=activation,
        axes=[axis.strip() for axis in axes.split(",") if axis.strip()],
        direction=direction,
        progress=shows_bar(as_json, as_csv),
    )
    save_result(result, output)
    if print_for_programs({"patching": result}, as_json, as_csv):
        return
    _print_patching(result, rows)


def _print_patching(result: PatchingResult, count: int) -> None:
    frame = result.top(count)
    records = frame.to_dict("records")
    places = [[f"{row[axis]:.0f}" + _label(row.get(f"{axis}_label")) for axis in result.axes] for row in records]
    columns = alike(r["value"] for r in records), alike(r["effect"] for r in records)
    recovery = [fixed(row["recovery"]) for row in records]
    rows = [[*place, *cells] for place, *cells in zip(places, *columns, recovery, strict=True)]
    gap = abs(result.clean - (result.corrupted or 0.0))
    little = gap < 0.1 * float(result.effect.abs().max())
    if rows:
        where = ", ".join(f"{axis} {cell}" for axis, cell in zip(result.axes, rows[0][: len(result.axes)], strict=True))
        recovers = "" if little else f", {_percent(frame.iloc[0]['recovery'])} of what the two texts differ by"
        finding(f"The largest effect is {rows[0][-2]}, at {where}{recovers}.")
    say(f"{result.quantity}: clean {result.clean:.3f}, corrupted {result.corrupted:.3f}")
    print_table([*result.axes, "metric", "effect", "recovery"], rows, drop=["metric"], wrap=list(result.axes))
    if little:
        say(f"the two runs differ by {gap:.4f} alone, so recovery, which divides by that, says little here")
    rest = result.values.numel() - len(rows)
    more = f"; {rest} sites with smaller effects: --rows prints more, --csv all" if rest > 0 else ""
    note(f"{result.definition}{more}")


def _percent(share: Any) -> str:
    return f"{100 * float(share):.0f}%"


def _label(label: Any) -> str:
    return "" if label is None else f" {label!r}"
