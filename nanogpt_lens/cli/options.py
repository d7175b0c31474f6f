"""What the commands share: options, and how errors become one sentence and an exit code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer


class Backend(StrEnum):
    """Which kind of TransformerLens model."""

    auto = "auto"
    hooked = "hooked"
    bridge = "bridge"


class Gelu(StrEnum):
    """nanoGPT's activations."""

    gelu = "gelu"
    gelu_new = "gelu_new"


PathArgument = Annotated[str, typer.Argument(help="nanoGPT's out_dir, a ckpt.pt, or the name of a shipped checkpoint")]
MetaOption = Annotated[str | None, typer.Option(help="meta.pkl, tokenizer.json, a folder with one, or gpt2")]
ActivationOption = Annotated[Gelu, typer.Option(help="gelu_new for checkpoints of the old nanoGPT with a tanh GELU")]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore-model-arg", help="a fork's model_args entry that changes nothing; repeatable"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
BackendOption = Annotated[Backend, typer.Option(help="which kind of TransformerLens model")]


def plain(text: Any, style: str = "") -> Any:
    """Text from a checkpoint as it is, without rich's markup."""
    from rich.text import Text

    return Text(str(text), style=style)


@contextmanager
def errors() -> Iterator[None]:
    """One sentence on standard error, and the exit code, for everything that a user can get wrong."""
    try:
        yield
    except Exception as error:
        from conversion.errors import ConversionError, EquivalenceError

        if isinstance(error, ConversionError | OSError):
            path = f"{error.filename2 or error.filename}: " if isinstance(error, OSError) and error.filename else ""
            typer.echo(f"error: {path}{getattr(error, 'strerror', None) or error}", err=True)
        else:
            if "NANOGPT_LENS_TRACEBACK" in os.environ:
                raise
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            hint = "NANOGPT_LENS_TRACEBACK=1 shows where; please report it"
            typer.echo(f"error: this should not have happened ({reason}); {hint}", err=True)
        raise typer.Exit(1 if isinstance(error, EquivalenceError) else 2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
