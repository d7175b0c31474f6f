"""How a checkpoint is read: the five options that `load`, `check`, `report`, `trajectory` and the commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion.backends import BackendChoice
from conversion.config import ActFn

if TYPE_CHECKING:
    from conversion.checkpoint import Checkpoint
    from conversion.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a checkpoint is read and converted.

    Attributes:
        backend: "auto" gives a HookedTransformer with TransformerLens 3.x and a TransformerBridge with 4.x; "hooked"
            and "bridge" insist on one of them.
        meta: the vocabulary, if it is not beside the checkpoint: a `meta.pkl`, a `tokenizer.json`, a folder with
            one of them, or "gpt2"; "none" for no vocabulary, whatever files there are.
        act_fn: "gelu_new" for a checkpoint of the old nanoGPT, or of another project, with the tanh GELU; by default
            nanoGPT's exact one.
        n_head: the number of heads, for a file that does not state it.
        ignore_model_args: the names of a fork's `model_args` that do not change what is computed.
    """

    backend: BackendChoice = "auto"
    meta: str | Path | Vocabulary | None = None
    act_fn: ActFn | None = None
    n_head: int | None = None
    ignore_model_args: Iterable[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore_model_args", tuple(self.ignore_model_args))

    def checkpoint(self, path: str | Path, *, optimizer: bool = False) -> Checkpoint:
        """Read the checkpoint that a path or a shipped name stands for, with its optimizer if that is asked for.

        Raises:
            CheckpointError: the file is missing, damaged, unsafe or not a nanoGPT checkpoint.
            VocabularyError: the vocabulary that `meta` names does not exist, is damaged or does not fit.
        """
        from conversion.checkpoint import read_checkpoint
        from nanogpt_lens.model.places import find_checkpoint

        return read_checkpoint(
            find_checkpoint(path),
            meta=self.meta,
            act_fn=self.act_fn,
            n_head=self.n_head,
            ignore_model_args=self.ignore_model_args,
            optimizer=optimizer,
        )

    def options(self) -> dict[str, Any]:
        """All five options as keyword arguments."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults, as keyword arguments."""
        default = Reading()
        return {name: value for name, value in self.options().items() if value != getattr(default, name)}

    def command_line(self, *, shorten: Callable[[str], str] = str) -> list[str]:
        """The options that differ from their defaults, as words of a command line; `shorten` is applied to paths."""
        words: list[str] = []
        for name, value in self.changed().items():
            if name == "ignore_model_args":
                words += [word for argument in value for word in ("--ignore-model-arg", argument)]
            elif isinstance(value, str | Path | int):
                words += [f"--{name.replace('_', '-')}", shorten(str(value))]
        return words
