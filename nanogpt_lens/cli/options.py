"""What the commands share: options, and how errors become one sentence and an exit code."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from inspect import Parameter, Signature, get_annotations, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conversion.backends import BackendChoice
from conversion.config import ActFn
from conversion.errors import ConversionError
from conversion.locating import CHECKPOINT_NAME
from conversion.token_dtype import TokenDtype
from nanogpt_lens.cli.completing import checkpoints, texts
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.cli.wording import in_options
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.places import SUFFIXES, shipped_text
from nanogpt_lens.model.reading import Reading

if TYPE_CHECKING:
    from conversion.val_loss import ValBin

_CLOSED_PIPE = 141
"""What a shell says of a program that wrote into a closed pipe; 1 would mean "not equal"."""

PathArgument = Annotated[
    str,
    typer.Argument(
        help="nanoGPT's out_dir, a ckpt.pt, or the name of a shipped checkpoint", autocompletion=checkpoints
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
CsvOption = Annotated[bool, typer.Option("--csv", help="print CSV: one row per value")]
TextOption = Annotated[
    Path | None,
    typer.Option(
        help="a text file, a data folder, or shakespeare_char for its shipped text; without it, the model's own text",
        autocompletion=texts,
    ),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="save the result in this folder (ngl.load_result)")
]
SequencesOption = Annotated[int, typer.Option("--n", min=2, help="sequences of each kind")]
SeedOption = Annotated[int, typer.Option(help="of everything that is drawn")]
ResumeOption = Annotated[Path | None, typer.Option(help="a folder for the state of an unfinished run, to go on from")]
TokenDtypeOption = Annotated[
    TokenDtype | None,
    typer.Option("--token-dtype", help="insist on how a .bin keeps its tokens; else it is found out"),
]
ValBinOption = Annotated[Path | None, typer.Option(help="the run's val.bin, where it is not found by itself")]
NoValBinOption = Annotated[bool, typer.Option("--no-val-bin", help="do without the loss on the run's val.bin")]
RowsOption = Annotated[int, typer.Option(min=1, help="how many rows are printed; --csv prints all")]

_READING: dict[str, tuple[Any, Any]] = {
    "backend": (Annotated[BackendChoice, typer.Option(help="which kind of TransformerLens model")], "auto"),
    "meta": (
        Annotated[str | None, typer.Option(help="meta.pkl, tokenizer.json, a folder with one, gpt2, none")],
        None,
    ),
    "act_fn": (
        Annotated[ActFn | None, typer.Option(help="gelu_new for checkpoints whose code has the tanh GELU")],
        None,
    ),
    "n_head": (Annotated[int | None, typer.Option(help="heads, for a file that does not state them")], None),
    "ignore_model_arg": (
        Annotated[
            list[str] | None,
            typer.Option("--ignore-model-arg", help="a fork's model_args entry that changes nothing; repeatable"),
        ],
        None,
    ),
}


def with_reading(command: Callable[..., None], *, backend: bool = True) -> Callable[..., None]:
    """A command that takes `reading`, given the options that say how a checkpoint is read.

    Args:
        command: takes the keyword `reading`, a `nanogpt_lens.model.reading.Reading`.
        backend: also offer `--backend`, for commands that convert.
    """
    options = {name: option for name, option in _READING.items() if backend or name != "backend"}

    def run(**arguments: Any) -> None:
        with errors(run):
            words = {name: arguments.pop(name) for name in options}
            words["ignore_model_args"] = words.pop("ignore_model_arg") or ()
            command(**arguments, reading=Reading(**words))

    return as_command(run, command, replace={"reading": options})


def tokens_of(path: Path | str | None, token_dtype: TokenDtype | None, option: str) -> Any:
    """The path that an option names, with the width of its tokens where one is said.

    Raises:
        ConversionError: a width without a path.
    """
    if token_dtype is None:
        return path
    if path is None:
        raise ConversionError(f"--token-dtype was given without {option}; give both")
    from conversion.token_files import TokenFile

    return TokenFile(path, token_dtype)


def check_text(path: Path | None) -> None:
    """Raise AnalysisError where `--text` names something that is not there, or a checkpoint."""
    if path is not None and not path.expanduser().exists() and shipped_text(str(path)) is None:
        raise AnalysisError(
            f"{path} does not exist; expected a text file, nanoGPT's .bin or its data folder, or the name of a shipped "
            f"checkpoint with text beside it, such as shakespeare_char{did_you_mean(str(path), texts(''))}"
        )
    if path is not None and _is_checkpoint(path.expanduser()):
        raise AnalysisError(
            f"{path} is a checkpoint; expected a text: give the checkpoint first and a text file behind --text"
        )


def _is_checkpoint(path: Path) -> bool:
    """Whether a path is that of a checkpoint, or of a folder with one and without data beside it."""
    if path.is_dir():
        return any(path.glob(f"{Path(CHECKPOINT_NAME).stem}*.pt")) and not any(path.glob("*.bin"))
    if path.suffix not in SUFFIXES or path.suffix == ".bin":
        return False
    with suppress(OSError), path.open("rb") as file:
        return file.read(9).startswith((b"PK", b"\x80")) or path.suffix == ".safetensors"
    return False


_SAVED = {
    "tuned": "a folder that `tune-lens` saved",
    "search": "a folder that `neurons search` saved with -o",
    "saved": "a folder that `circuit find` saved with -o, or what it printed with --json",
    "hypothesis": "a hypothesis in YAML or JSON",
}
"""What options and arguments name that is read beside the model."""


def check_saved(arguments: Mapping[str, Any]) -> None:
    """Raise AnalysisError where an option names something saved that is not there, before a model is loaded."""
    for name, what in _SAVED.items():
        path = arguments.get(name)
        if isinstance(path, Path) and not path.expanduser().exists():
            raise AnalysisError(f"{path} does not exist; expected {what}")


def val_bin_of(val_bin: Path | None, no_val_bin: bool, token_dtype: TokenDtype | None) -> ValBin:
    """What the certificate's options say of the run's validation data.

    Raises:
        ConversionError: they contradict each other.
    """
    if no_val_bin and val_bin is not None:
        raise ConversionError("--val-bin and --no-val-bin were both given; expected one of them")
    tokens = tokens_of(val_bin, token_dtype, "--val-bin")
    return False if no_val_bin else tokens


def as_command(
    run: Callable[..., None], command: Callable[..., None], *, replace: dict[str, dict[str, tuple[Any, Any]]]
) -> Callable[..., None]:
    """`run` with the name, the help and the options of `command`, some of whose parameters become others.

    Args:
        run: is called with all options by name.
        command: what typer reads.
        replace: for a parameter, the options (annotation and default, which is `...` for none) in its place.
    """
    hints = get_annotations(command, eval_str=True)
    kept, added = [], []
    for name, parameter in signature(command).parameters.items():
        if name not in replace:
            kept.append(parameter.replace(annotation=hints.get(name, Any), kind=Parameter.KEYWORD_ONLY))
    for name, options in replace.items():
        if name not in signature(command).parameters:
            continue
        for option, (hint, default) in options.items():
            value = Parameter.empty if default is ... else default
            added.append(Parameter(option, Parameter.KEYWORD_ONLY, default=value, annotation=hint))
    needed = [p for p in (*added, *kept) if p.default is Parameter.empty]
    parameters = [*needed, *(p for p in (*kept, *added) if p.default is not Parameter.empty)]
    run.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


@contextmanager
def _warnings() -> Iterator[None]:
    """A block in which a warning about a checkpoint is one sentence on standard error."""
    from conversion.errors import CheckpointWarning, printable

    with warnings.catch_warnings():
        show = warnings.showwarning

        def shown(message: Warning | str, category: type[Warning], *about: Any) -> None:
            WAITING.done()
            if issubclass(category, CheckpointWarning):
                typer.echo(f"warning: {printable(str(message))}", err=True)
            else:
                show(message, category, *about)

        warnings.showwarning = shown
        yield


@contextmanager
def errors(command: Callable[..., None]) -> Iterator[None]:
    """One sentence on standard error, and the exit code, for everything that a user can get wrong.

    Args:
        command: whose options the sentence names in place of Python's arguments.
    """
    gc.enable()  # which was off while the commands were imported
    try:
        with _warnings():
            yield
    except typer.Exit:
        raise
    except BrokenPipeError:
        _leave_pipe()
        raise typer.Exit(_CLOSED_PIPE) from None
    except Exception as error:
        WAITING.done()
        from conversion.errors import EquivalenceError, NanoGPTLensError

        if isinstance(error, NanoGPTLensError | OSError):
            path = f"{error.filename2 or error.filename}: " if isinstance(error, OSError) and error.filename else ""
            sentence = f"{path}{getattr(error, 'strerror', None) or error}"
            typer.echo(f"error: {in_options(sentence, command)}", err=True)
        else:
            if "NANOGPT_LENS_TRACEBACK" in os.environ:
                raise
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            hint = "NANOGPT_LENS_TRACEBACK=1 shows where; please report it"
            typer.echo(f"error: this should not have happened ({reason}); {hint}", err=True)
        raise typer.Exit(1 if isinstance(error, EquivalenceError) else 2) from None
    except KeyboardInterrupt:
        WAITING.interrupted()
        raise typer.Exit(130) from None
    finally:
        WAITING.done()


def _leave_pipe() -> None:
    """Give up a standard output that nobody reads any more (`| head`), so that closing it is no error either."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
