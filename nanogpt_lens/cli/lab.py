"""`nanogpt-lens lab`: one offline page with the model inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nanogpt_lens.cli.options import (
    JsonOption,
    PathArgument,
    SeedOption,
    TokenDtypeOption,
    check_text,
    tokens_of,
    with_reading,
)
from nanogpt_lens.cli.output import reading_file
from nanogpt_lens.cli.tables import finding
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.model.reading import Reading


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(lab))


def lab(
    path: PathArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="the page that is written")] = Path("lab.html"),
    text: Annotated[
        Path | None,
        typer.Option(help="a text for means and findings, such as shakespeare_char; without it, the model's own"),
    ] = None,
    token_dtype: TokenDtypeOption = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="a prompt to open with; repeatable ($'a\\nb' in bash for a line break)")
    ] = None,
    other: Annotated[str | None, typer.Option(help="the other prompt of the first one, of the same length")] = None,
    answer: Annotated[str | None, typer.Option(help="one token whose probability is watched in the first one")] = None,
    wrong: Annotated[str | None, typer.Option(help="one token that it is compared with in the first one")] = None,
    findings: Annotated[bool, typer.Option(help="look for labels of heads, prompts and neurons (seconds)")] = True,
    open_it: Annotated[bool, typer.Option("--open", help="show the page in the browser")] = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Write one offline page that computes the model itself, in which anybody can intervene.

    Send it to a colleague: it needs a browser and nothing else, and proves on opening that it computes the same.
    """
    check_text(text)
    reading_file(path, for_programs=as_json)
    from nanogpt_lens.core.errors import AnalysisError
    from nanogpt_lens.lab.making import lab as make
    from nanogpt_lens.lab.making import size_warning

    if prompt is None and (other or answer or wrong):
        raise AnalysisError("--other, --answer or --wrong was given without --prompt; give one too")
    made = make(
        path,
        text=tokens_of(text, token_dtype, "--text"),
        prompts=_prompts(prompt, other, answer, wrong),
        findings=findings,
        output=output,
        seed=seed,
        **reading.options(),
    )
    WAITING.done()
    size = output.expanduser().stat().st_size
    if warning := size_warning(size):
        typer.echo(f"warning: {warning}", err=True)
    if as_json:
        cases = len(made.payload["proof"]["cases"])
        typer.echo(
            json.dumps({"path": path, "output": str(output), "bytes": size, "checks": cases}, ensure_ascii=False)
        )
    else:
        finding(f"{output}: {size / 1e6:.2f} MB with the model inside; it opens offline and proves itself on opening")
    if open_it:
        typer.launch(output.expanduser().resolve().as_uri())


def _prompts(
    prompts: list[str] | None, other: str | None, answer: str | None, wrong: str | None
) -> list[dict[str, str | None]] | None:
    """The prompts of the command line; what is said of the first one goes with it."""
    if not prompts:
        return None
    first = {"clean": prompts[0], "other": other, "answer": answer, "wrong": wrong}
    return [first, *({"clean": prompt} for prompt in prompts[1:])]
