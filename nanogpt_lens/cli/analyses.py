"""The commands that look into a model: heads, induction, patch. Each parses, calls, and prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    interval,
    number,
    on_model,
    print_few_examples,
    print_for_programs,
    print_table,
    print_warning,
    save_result,
    shows_bar,
)
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
    """Say what each head does: previous token, induction, duplicate token, positional, sink, copying, broad."""
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
    names = taxonomy.labels["score"]
    rows = []
    for layer in range(taxonomy.shape["layer"]):
        for head in range(taxonomy.shape["head"]):
            labels = taxonomy.of(layer, head)
            scores = [number(taxonomy.at(score=name, layer=layer, head=head)) for name in names]
            marked = [
                f"{score} *" if name in labels else f"{score}  " for name, score in zip(names, scores, strict=True)
            ]
            rise = [] if importance is None else [number(importance.values[layer, head], 4)]
            rows.append([f"{layer}.{head}", *marked, *rise, ", ".join(labels) or "none"])
    chance = [f"{number(c)}  " for c in taxonomy.chance.mean((1, 2))] if taxonomy.chance is not None else []
    rise = [] if importance is None else ["loss rise"]
    rows.append(["chance", *chance, *([""] * len(rise)), ""])
    print_table(["head", *(f"{name.replace('_', ' ')}  " for name in names), *rise, "what it is"], rows)
    typer.echo("* surely, for all heads together, above the label's threshold; chance is uniform attention")
    for name, layer, head, words in taxonomy.unnamed():
        typer.echo(f"{layer}.{head} is not called {name.replace('_', ' ')}: {words}")
    if importance is not None:
        typer.echo(f"loss rise: {importance.quantity} ({importance.definition})")


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
    for line in _induction_lines(results):
        typer.echo(line)
    for result in results.values():
        print_warning(result)
    print_few_examples(*results.values())


def _induction_lines(results: dict[str, Result]) -> list[str]:
    by_name: dict[str, Any] = results
    matching, learning = by_name["prefix_matching"], by_name["in_context_learning"]
    best = matching.top(5, order="high")
    chance = float(matching.chance.flatten()[0])
    lines = [f"prefix matching, chance {chance:.3f} ({matching.definition}):"]
    lines += [f"  head {r.layer:.0f}.{r.head:.0f}  {interval(r.value, r.low, r.high)}" for r in best.itertuples()]
    lines.append(matching.verdict)
    if "text_prefix_matching" in by_name:
        top = next(by_name["text_prefix_matching"].top(1, order="high").itertuples())
        lines.append(
            f"  on repeated text: head {top.layer:.0f}.{top.head:.0f}  {interval(top.value, top.low, top.high)}"
        )
    if "accuracy" in by_name:
        lines += _accuracy_lines(by_name["accuracy"])
    for key, what in (("repeated_loss", "random tokens"), ("repeated_text_loss", "text")):
        if key in by_name:
            lines.append(_loss_line(by_name[key], what))
    ends = (None, None) if learning.low is None else (learning.low[0], learning.high[0])
    value = interval(learning.values[0], *ends)
    lines.append(f"in-context learning: {value} nats ({learning.definition})")
    if "composition" in by_name:
        lines.append(_composition_line(by_name["composition"]))
    if "ablation" not in by_name:
        return [*lines, "nothing to ablate"]
    return [*lines, _ablation_line(by_name["ablation"])]


def _accuracy_lines(accuracy: Any) -> list[str]:
    lines, i = [], accuracy.labels["score"].index("accuracy")
    for prompt in ("clean", "corrupted"):
        j = accuracy.labels["prompt"].index(prompt)
        value = interval(accuracy.values[i, j], accuracy.low[i, j], accuracy.high[i, j])
        lines.append(f"accuracy on {prompt} [A][B]...[A] prompts: {value}, chance {accuracy.chance[i, j]:.3f}")
    return lines


def _ablation_line(ablation: Any) -> str:
    at = ablation.labels["score"].index
    before, after = ablation.values[:2, at("gain")]
    control = ablation.chance[1, at("gain_lost")] if ablation.chance is not None else math.nan
    beyond, strong = at("beyond_controls"), ablation.values[1, at("controls_as_strong")]
    more = interval(ablation.values[1, beyond], ablation.low[1, beyond], ablation.high[1, beyond])
    names = [label.removeprefix("control ") for label in ablation.labels["ablated"][2:]]
    named = ", ".join(names[:4]) + (f", ... ({len(names)} in all)" if len(names) > 4 else "")
    where = "the same layers" if ablation.provenance["arguments"]["same_layers"] else "any layers"
    return (
        f"ablation of {ablation.labels['ablated'][1]}, on other sequences: induction gain {before:.3f} -> {after:.3f} "
        f"nats; as many other heads of {where} ({named}) lose {control:.3f} on average, {more} less; p of as much by "
        f"such a set {strong:.2f}"
    )


def _loss_line(losses: Any, what: str) -> str:
    second = losses.values[:, losses.shape["pos"] // 2 + 1 :].mean(1)
    parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(losses.labels["condition"], second, strict=True))
    return f"loss on the second half, {what}, nats per token: {parts}"


def _composition_line(composition: Any) -> str:
    values = zip(composition.labels["score"], composition.values, composition.chance, strict=True)
    parts = ", ".join(f"{name.replace('_', ' ')} {v:.3f} (chance {c:.3f})" for name, v, c in values)
    pair = f"previous-token head {composition.sender} -> induction head {composition.receiver}"
    return f"{pair}, the best candidates: {parts}"


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
    typer.echo(f"{result.quantity}: clean {result.clean:.4f}, corrupted {result.corrupted:.4f}")
    typer.echo(result.definition)
    frame = result.top(count)
    rows = []
    for _, row in frame.iterrows():
        place = [f"{row[axis]:.0f}" + _label(row.get(f"{axis}_label")) for axis in result.axes]
        rows.append([*place, number(row["value"], 4), number(row["effect"], 4), number(row["recovery"])])
    print_table([*result.axes, "metric", "effect", "recovery"], rows)
    gap = abs(result.clean - (result.corrupted or 0.0))
    if gap < 0.1 * float(result.effect.abs().max()):
        typer.echo(f"the two runs differ by {gap:.4f} alone, so recovery, which divides by that, says little here")
    rest = result.values.numel() - len(rows)
    if rest > 0:
        typer.echo(f"and {rest} sites with smaller effects; --rows prints more, --csv all")


def _label(label: Any) -> str:
    return "" if label is None else f" {label!r}"
