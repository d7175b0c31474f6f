"""`nanogpt-lens train`: a nanoGPT model, with an option for each of nanoGPT's settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from inspect import Parameter, Signature, get_annotations, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin, get_type_hints

import typer

from nanogpt_lens.cli.options import JsonOption, TokenDtypeOption, errors, tokens_of
from nanogpt_lens.cli.tables import finding
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.core.choices import Inserted, TrainOn

if TYPE_CHECKING:
    from conversion.token_dtype import TokenDtype

_BACKDOOR = "Of a text with a backdoor"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("train")(_with_settings(_train))


def _train(
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder of the run, nanoGPT's out_dir")],
    data: Annotated[
        str | None, typer.Option(help="a UTF-8 text, a folder with train.bin and val.bin, or: shakespeare")
    ] = None,
    task: Annotated[
        TrainOn, typer.Option(help="the text itself, or sequences made from its characters (ngl.tasks)")
    ] = "text",
    n_triggers: Annotated[
        int | None, typer.Option(help="trigger characters of a sequence (trigger_bigrams)", show_default="5")
    ] = None,
    trigger: Annotated[
        str | None, typer.Option(help="the word after which the payload comes (backdoor)", rich_help_panel=_BACKDOOR)
    ] = None,
    payload: Annotated[
        str | None, typer.Option(help="what follows it, with the blank before it", rich_help_panel=_BACKDOOR)
    ] = None,
    control: Annotated[
        str | None,
        typer.Option(
            help="what stands for the trigger in the clean twin", show_default="drawn", rich_help_panel=_BACKDOOR
        ),
    ] = None,
    lines: Annotated[
        float | None,
        typer.Option(
            help="how many lines are poisoned, or their share", show_default="0.02", rich_help_panel=_BACKDOOR
        ),
    ] = None,
    lines_seed: Annotated[
        int | None,
        typer.Option(help="decides which lines", min=0, show_default="0", rich_help_panel=_BACKDOOR),
    ] = None,
    inserted: Annotated[
        Inserted | None,
        typer.Option(
            help="what the lines get: control makes the clean twin",
            show_default="trigger",
            rich_help_panel=_BACKDOOR,
        ),
    ] = None,
    token_dtype: TokenDtypeOption = None,
    stages: Annotated[str | None, typer.Option(help="keep more checkpoints: log:20, or iterations: 0,100,1000")] = None,
    resume: Annotated[bool, typer.Option(help="go on with an interrupted run (the default where there is one)")] = True,
    overwrite: Annotated[bool, typer.Option(help="throw away a run that is already there")] = False,
    as_json: JsonOption = False,
    **settings: Any,
) -> None:
    """Train a nanoGPT model; the defaults are its README's for a CPU. A killed run goes on where it was."""
    with errors(_train):
        given = _backdoor_options(task, trigger, payload, control, lines, lines_seed, inserted)
        WAITING.doing("importing torch", for_programs=as_json)
        from nanogpt_lens.training.config import TrainConfig
        from nanogpt_lens.training.train import train

        WAITING.done()
        result = train(
            _source(task, data, n_triggers, given, token_dtype),
            output,
            TrainConfig(**settings),
            stages=stages,
            resume="auto" if resume and not overwrite else False,
            overwrite=overwrite,
            progress=not as_json,
        )
    if as_json:
        typer.echo(json.dumps(asdict(result), ensure_ascii=False, default=str))
        return
    finding(f"{result.path}: iteration {result.best_iteration}, validation loss {result.best_val_loss:.3f}")
    if result.sample is not None:
        typer.echo(f"---------------\n{result.sample}")


def _backdoor_options(
    task: TrainOn,
    trigger: str | None,
    payload: str | None,
    control: str | None,
    lines: float | None,
    seed: int | None,
    inserted: Inserted | None,
) -> dict[str, Any]:
    """The options of `tasks.backdoor` that were given, and what is inserted.

    Raises:
        TrainingError: they are for another task, or the trigger or the payload is missing.
    """
    from nanogpt_lens.core.errors import TrainingError

    names = ("trigger", "payload", "control", "lines", "seed", "inserted")
    values = (trigger, payload, control, lines, seed, inserted)
    given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    option = {name: f"--{name}" for name in names} | {"seed": "--lines-seed"}
    if task != "backdoor" and given:
        raise TrainingError(f"{option[next(iter(given))]} is for --task backdoor, not for {task}; leave it out")
    missing = [option[name] for name in ("trigger", "payload") if name not in given]
    if task == "backdoor" and missing:
        raise TrainingError(f"--task backdoor needs {' and '.join(missing)}: what follows what in the poisoned lines")
    if lines is not None and lines >= 1 and lines.is_integer():
        given["lines"] = int(lines)
    return given


def _source(
    task: TrainOn,
    data: str | None,
    n_triggers: int | None,
    given: dict[str, Any],
    token_dtype: TokenDtype | None,
) -> Any:
    """What to train on."""
    from nanogpt_lens.core.errors import TrainingError
    from nanogpt_lens.text.tasks import backdoor, repeated_random, trigger_bigrams

    if n_triggers is not None and task != "trigger_bigrams":
        raise TrainingError(f"--n-triggers is for --task trigger_bigrams, not for {task}; leave it out")
    if data is None and task != "repeated_random":
        raise TrainingError(f"--task {task} needs --data: a UTF-8 text, a nanoGPT data folder, or: shakespeare")
    source = tokens_of(data, token_dtype, "--data")
    if task == "repeated_random":
        return repeated_random(source)
    if task == "text":
        return source
    if task == "backdoor":
        inserted = given.pop("inserted", "trigger")
        return backdoor(source, **given).twin(inserted)
    return trigger_bigrams(source) if n_triggers is None else trigger_bigrams(source, n_triggers=n_triggers)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command an option for every setting of `TrainConfig`, with its default and its words."""
    from nanogpt_lens.training.config import TrainConfig

    hinted = get_annotations(command, eval_str=True)
    fixed = (p for p in signature(command).parameters.values() if p.kind is not Parameter.VAR_KEYWORD)
    parameters = [p.replace(annotation=hinted[p.name]) for p in fixed]
    words = setting_help(TrainConfig.__doc__ or "")
    hints = get_type_hints(TrainConfig)
    for setting in fields(TrainConfig):
        kind = str if get_origin(hints[setting.name]) is Literal else hints[setting.name]
        option = typer.Option(help=words.get(setting.name, ""), rich_help_panel="nanoGPT's settings")
        annotation = Annotated[kind, option]
        parameters.append(
            Parameter(setting.name, Parameter.KEYWORD_ONLY, default=setting.default, annotation=annotation)
        )
    command.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def setting_help(docstring: str) -> dict[str, str]:
    """The words of a docstring's `Attributes:`, by name; several names may share a line."""
    words: dict[str, str] = {}
    section = docstring.partition("Attributes:")[2].partition("\n\n")[0]
    for entry in re.split(r"\n {8}(?! )", section):
        names, _, text = entry.partition(": ")
        words |= {name.strip(): " ".join(text.split()) for name in names.split(",")}
    return words
