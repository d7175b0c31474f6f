"""A group of commands that says what was probably meant by a mistyped word of an option."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import NanoGPTLensError
from nanogpt_lens.model.places import SUFFIXES, find_checkpoint


class Commands(TyperGroup):
    """A group whose errors name the nearest word; commands and options that are mistyped typer names itself."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            if error.message:
                error.message = meant(error.message)
            elif type(error).__name__ == "MissingParameter":
                error.message = missed(words[1:], error)
            raise
        except _UsageError as error:
            error.message = placed(error.message, error.ctx)
            raise


_UsageError: Any = typer.BadParameter.__base__  # of the click that typer has


def placed(message: str, command: Any) -> str:
    """An error about a word too much, and what it may have been meant for: a neuron's number, a prompt, a text.

    Args:
        message: of typer's.
        command: the context of the command, with the arguments that it took; None where the error has none.
    """
    said = re.match(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)$", message)
    if said is None or command is None:
        return message
    extra, parameters = said[1], command.command.params
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [name for one in parameters if one.param_type_name == "option" for name in one.opts]
    last = str(command.params.get(arguments[-1].name, "")) if arguments else ""
    if last.isdecimal() and extra.isdecimal():
        return f"{message}: did you mean {last}.{extra}?"
    if "--text" in options and _is_model(extra) and not _is_model(last):
        order = f"{shlex.quote(extra)} --text {shlex.quote(last)}"
        return f"{message}: {last} and {extra} are the wrong way round: did you mean {order}?"
    taken = " ".join(one.name.upper() for one in arguments) or "no argument"
    exists = Path(extra).exists()
    for option, fits in (
        *(("--data", exists), ("--text", exists)),
        *((name, True) for name in ("--prompt", "--clean", "--text")),
    ):
        if option in options and fits:
            return f"{message}; it takes {taken}: did you mean {option} {shlex.quote(extra)}?"
    return f"{message}; it takes {taken}"


def missed(words: Sequence[str], error: Any) -> str:
    """What to add to the error that an option is missing, where words stand without their options; often nothing.

    Args:
        words: behind the command's name.
        error: typer's, with the option and the command's context.
    """
    if error.ctx is None or error.param is None or any(word.startswith("-") for word in words):
        return ""
    parameters = error.ctx.command.params
    extra = list(words[sum(one.param_type_name == "argument" for one in parameters) :])
    options = [name for one in parameters if one.param_type_name == "option" for name in one.opts]
    placed: list[str] = []
    if extra and "--data" in options and (Path(extra[0]).is_file() or len(extra) > 1):
        placed += ["--data", extra.pop(0)]
    if len(extra) == 1:
        placed += [error.param.opts[0], extra.pop()]
    return f"Did you mean {shlex.join(placed)}?" if placed and not extra else ""


def _is_model(word: str) -> bool:
    """Whether a word names a checkpoint, as a path or as a shipped one; what a file holds is not looked at."""
    try:
        return find_checkpoint(word).suffix in SUFFIXES
    except NanoGPTLensError:
        return False


def meant(message: str) -> str:
    """An error of typer's, and the nearest of the words that an option takes, where one is near."""
    message = message.removeprefix("Value error, ")
    said = re.match(r"'(.*?)' is not one of (.*)", message)
    if said is None or "did you mean" in message:
        return message
    return message.rstrip(".") + did_you_mean(said[1], re.findall(r"'(.*?)'", said[2]))
