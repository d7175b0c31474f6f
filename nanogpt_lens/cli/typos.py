"""A group of commands that says what was probably meant by a mistyped word of an option."""

from __future__ import annotations

import re
from typing import Any

import typer
from typer.core import TyperGroup

from nanogpt_lens.core.choices import did_you_mean


class Commands(TyperGroup):
    """A group whose errors name the nearest word; commands and options that are mistyped typer names itself."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = meant(error.message)
            raise


def meant(message: str) -> str:
    """An error of typer's, and the nearest of the words that an option takes, where one is near."""
    message = message.removeprefix("Value error, ")
    said = re.match(r"'(.*?)' is not one of (.*)", message)
    if said is None or "did you mean" in message:
        return message
    return message.rstrip(".") + did_you_mean(said[1], re.findall(r"'(.*?)'", said[2]))
