"""The command line: parse, call, print.

Exit codes: 0 proven or done, 1 not equal, 2 bad input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.analyses import register as register_analyses
from nanogpt_lens.cli.catalogue import register as register_catalogue
from nanogpt_lens.cli.circuits import register as register_circuits
from nanogpt_lens.cli.compare import register as register_compare
from nanogpt_lens.cli.lab import register as register_lab
from nanogpt_lens.cli.lenses import register as register_lenses
from nanogpt_lens.cli.mcp import register as register_mcp
from nanogpt_lens.cli.neurons import register as register_neurons
from nanogpt_lens.cli.options import (
    JsonOption,
    NoValBinOption,
    PathArgument,
    TokenDtypeOption,
    ValBinOption,
    val_bin_of,
    with_reading,
)
from nanogpt_lens.cli.output import load, reading_file, shows_bar
from nanogpt_lens.cli.report import register as register_report
from nanogpt_lens.cli.scrubbing import register as register_scrubbing
from nanogpt_lens.cli.serving import register as register_serving
from nanogpt_lens.cli.tables import finding, note, print_table, say, whole
from nanogpt_lens.cli.train import register as register_train
from nanogpt_lens.cli.trajectory import register as register_trajectory
from nanogpt_lens.cli.typos import Commands
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.cli.wording import in_options
from nanogpt_lens.core.choices import ExportFormat
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from conversion.checkpoint import Checkpoint
    from conversion.report import EquivalenceReport

app = typer.Typer(
    name="nanogpt-lens",
    help="Any nanoGPT checkpoint as a TransformerLens model that is proven equal to it.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version
        from platform import python_version

        others = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformer-lens"))
        typer.echo(f"nanogpt-lens {version('nanogpt-lens')} (Python {python_version()}, {others})")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the versions")
    ] = False,
) -> None:
    """Any nanoGPT checkpoint as a TransformerLens model that is proven equal to it."""


def check(
    path: PathArgument,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the certificate as JSON")] = None,
    model_py: Annotated[
        Path | None, typer.Option(help="compare with this model.py of your nanoGPT fork; THE FILE IS EXECUTED")
    ] = None,
    val_bin: ValBinOption = None,
    no_val_bin: NoValBinOption = False,
    token_dtype: TokenDtypeOption = None,
    edits: Annotated[bool, typer.Option(help="compare the effect of an edit at every hook (most of the work)")] = True,
    seed: Annotated[int, typer.Option(help="of the random tokens and perturbations")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", help="print every row of the certificate")] = False,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Convert a checkpoint and prove the conversion; exit code 0 only if it is proven."""
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.model.loading import check as certify

    if model_py is not None and model_py.is_file():
        WAITING.done()
        typer.echo(f"executing {model_py}", err=True)
    report = certify(
        path,
        model_py=model_py,
        val_bin=val_bin_of(val_bin, no_val_bin, token_dtype),
        **reading.options(),
        edits=edits,
        seed=seed,
        progress=shows_bar(as_json, False),
    )
    WAITING.done()
    if as_json:
        typer.echo(report.to_json())
    else:
        _print_report(report, verbose)
    if output is not None:
        report.save(output)
        typer.echo(f"certificate written to {output}", err=True)
    raise typer.Exit(0 if report.passed else 1)


def convert(
    path: PathArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="a new folder")],
    to: Annotated[ExportFormat, typer.Option(help="what to make")] = "hooked",
    process_weights: Annotated[bool, typer.Option(help="fold LayerNorms and centre (hooked and bridge)")] = False,
    dtype: Annotated[
        str, typer.Option(help="float32, float64, bfloat16, float16; for hf and nanogpt the file's own")
    ] = "",
    val_bin: ValBinOption = None,
    no_val_bin: NoValBinOption = False,
    token_dtype: TokenDtypeOption = None,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Convert a checkpoint, prove it, and save the result in a new folder."""
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.model.exporting import export

    result = export(
        reading.checkpoint(path, optimizer=to == "nanogpt"),
        to,
        output,
        process_weights=process_weights,
        dtype=dtype or None,
        val_bin=val_bin_of(val_bin, no_val_bin, token_dtype),
    )
    WAITING.done()
    facts = {"output": str(result.folder), "to": to, "proof": result.proof, "load": result.how_to_load}
    if as_json:
        typer.echo(json.dumps(facts | {"notes": result.notes}))
        return
    finding(result.proof)
    say(f"saved in {result.folder}: {result.how_to_load}", indent=2)
    for remark in result.notes:
        say(f"note: {remark}", indent=2)


def sample(
    path: PathArgument,
    prompt: Annotated[
        str | None, typer.Option(help="text to continue", show_default="a line break, or the first token")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=0)] = 300,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="sample among the k likeliest; 0 for all")] = 200,
    num_samples: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(help="of the first sample; the next ones count up")] = 1337,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Generate text with the converted model, as nanoGPT's sample.py does."""
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.model.sampling import generate

    model = load(path, reading, for_programs=as_json)
    prompt = _start(model) if prompt is None else prompt
    texts = [
        generate(
            model,
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k or None,
            seed=seed + i,
        )
        for i in range(num_samples)
    ]
    WAITING.done()
    if as_json:
        typer.echo(json.dumps({"prompt": prompt, "seed": seed, "samples": texts}, ensure_ascii=False))
    else:
        typer.echo("\n---------------\n".join(texts))


def _start(model: Any) -> str:
    """NanoGPT's start of a sample, a line break; where the vocabulary has none, its first token."""
    encoder = getattr(getattr(model, "tokenizer", None), "encoder", None)
    characters = getattr(encoder, "chars", None)
    return "\n" if not characters or "\n" in characters else characters[0]


def info(
    path: PathArgument,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Say what a checkpoint is, without converting it."""
    reading_file(path, for_programs=as_json)
    facts = _facts(reading.checkpoint(path))
    WAITING.done()
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, default=str))
        return
    from conversion.errors import printable

    for name, value in facts.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        text = "; ".join(value) if isinstance(value, list) else f"{text:.4g}" if isinstance(text, float) else str(text)
        if text and value is not None:  # paths and hashes are never broken, so that they can be copied
            line = f"{name:<22}{printable(text)}"
            say(line, indent=22) if " " in text else whole(line)


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "file": checkpoint.name,
        "sha256": checkpoint.sha256,
        "architecture": checkpoint.model_args | {"act_fn": checkpoint.config.act_fn},
        "tied head": checkpoint.config.tied,
        "parameters": checkpoint.n_params,
        "precision": str(checkpoint.dtype).removeprefix("torch."),
        "iteration": checkpoint.iter_num,
        "best validation loss": checkpoint.best_val_loss,
        "vocabulary": _vocabulary(checkpoint),
        "run": dict(checkpoint.run_config),
        "notes": list(checkpoint.notes),
    }


def _vocabulary(checkpoint: Checkpoint) -> str:
    """What the vocabulary is, or why there is none."""
    vocabulary, why = checkpoint.vocabulary, checkpoint.no_vocabulary
    if vocabulary is not None:
        return f"{vocabulary.size} {vocabulary.kind} from {vocabulary.source}"
    return f"none: {why}" if why else "none found"


def _print_report(report: EquivalenceReport, verbose: bool) -> None:
    """Print the verdict and what matters, or with `verbose` all; a quantity that differs is always printed."""
    from conversion.report import limit_text

    precisions = report.precisions()
    say(in_options(report.verdict(), check), style="bold green" if report.passed else "bold red", indent=2)
    for line in report.heading(short=not verbose):
        say(line, indent=2)
    if verbose:
        _print_rows(report)
        note("abs, rel: the largest difference, and its share of the largest value; -o FILE keeps all")
    else:
        header = ["error / allowed", *precisions]
        kinds = [[words, *(limit_text(near.get(p)) for p in precisions)] for words, _, near in report.by_kind()]
        print_table(header, kinds, wrap=header[:1], more="--verbose", bad=_failed)
        if not report.passed:
            _print_rows(report, failed=_MOST_FAILED)
        note("relative errors nearest to their limits; --verbose prints all, -o FILE keeps all")


_MOST_FAILED = 10
"""Rows that differ, of which more are not printed unless all are."""


def _print_rows(report: EquivalenceReport, *, failed: int | None = None) -> None:
    """Print the rows of a certificate, or the first ones that failed."""
    from conversion.report import cell_text

    precisions = report.precisions()
    rows = [
        [quantity + ("" if mode == "raw" else f" ({mode})"), *(cell_text(cells.get(p)) for p in precisions)]
        for quantity, mode, cells in report.rows()
    ]
    header = ["quantity", *(f"{p} abs / rel" for p in precisions)]
    rows = rows if failed is None else list(filter(_failed, rows))[:failed]
    print_table(header, rows, wrap=header[:1], more="--output FILE writes all", bad=_failed)


def _failed(row: Sequence[str]) -> bool:
    """Whether a row of a certificate has a comparison that fails."""
    return "FAIL" in " ".join(row)


for command in (check, sample):
    app.command()(with_reading(command))
for command in (convert, info):
    app.command()(with_reading(command, backend=False))
for register in (
    register_train,
    register_analyses,
    register_lenses,
    register_neurons,
    register_circuits,
    register_scrubbing,
    register_trajectory,
    register_catalogue,
    register_compare,
    register_report,
    register_lab,
    register_mcp,
    register_serving,
):
    register(app)


def main() -> None:
    """Run the command line, with a line on standard error that says what is being done."""
    WAITING.speak()
    completes = any(name.endswith("_COMPLETE") for name in os.environ)  # a shell asks for what can be typed
    if sys.argv[1:] in ([], ["--help"]) and not completes:
        _forget_options(app)
    try:
        app()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            WAITING.interrupted()
        raise


_INTERRUPTED = 130


def _forget_options(commands: typer.Typer) -> None:
    """Leave the commands' names and first sentences alone, which the list of them needs; it is there sooner so."""
    for command in commands.registered_commands:
        bare, full = _bare(), command.callback
        bare.__name__, bare.__doc__ = getattr(full, "__name__", ""), getattr(full, "__doc__", "")
        command.callback = bare
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _forget_options(group.typer_instance)


def _bare() -> Callable[[], None]:
    return lambda: None
