"""The options by which a command is told its prompts: written out, made for a task, or found in a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogpt_lens.cli.completing import TASKS, one_of
from nanogpt_lens.cli.options import as_command
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError

if TYPE_CHECKING:
    from nanogpt_lens.circuits.kept import Prompts
    from nanogpt_lens.core.choices import Source

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "clean": (
        Annotated[list[str] | None, typer.Option(help="a text that calls for the answer; repeatable, of one length")],
        None,
    ),
    "corrupted": (
        Annotated[list[str] | None, typer.Option(help="for each of them, a text of the same length that does not")],
        None,
    ),
    "answer": (Annotated[list[str] | None, typer.Option(help="one token for all, or one for each")], None),
    "wrong": (
        Annotated[list[str] | None, typer.Option(help="likewise; without it, log-probability of the answer")],
        None,
    ),
    "task": (
        Annotated[
            str | None,
            typer.Option(
                help="induction ([A][B]...[A] of random tokens), repeated_random, trigger_bigrams, or a run's folder "
                "with its task.json",
                autocompletion=one_of(TASKS),
            ),
        ],
        None,
    ),
    "text": (
        Annotated[Path | None, typer.Option(help="find prompts in a text, where one token changes the model's mind")],
        None,
    ),
    "n": (
        Annotated[int | None, typer.Option("--n", min=1, help="prompts of --task or --text", show_default="16")],
        None,
    ),
    "seq_len": (Annotated[int | None, typer.Option(min=2, help="tokens of each of them")], None),
    "solved": (
        Annotated[
            bool, typer.Option("--solved", help="of --task, only prompts that this model answers; results say so")
        ],
        False,
    ),
}
_WAYS = "expected --clean with --corrupted and --answer, or --task, or --text"


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What the options say, see `_OPTIONS`."""

    clean: list[str] | None
    corrupted: list[str] | None
    answer: list[str] | None
    wrong: list[str] | None
    task: str | None
    text: Any
    n: int | None
    seq_len: int | None
    solved: bool

    @property
    def none(self) -> bool:
        """Whether no option is given at all."""
        return not any(getattr(self, name) for name in _OPTIONS)

    def read(self, model: Any, *, source: Source = "other", seed: int = 0) -> Prompts:
        """The prompts, and the metric on them.

        Args:
            model: that the prompts are made for.
            source: what takes an edge's place; only "other" needs corrupted texts.
            seed: of what is drawn.

        Raises:
            AnalysisError: they are given in no way or in two, or in half of one.
        """
        from nanogpt_lens.circuits.kept import Prompts

        self._check()
        if self.clean:
            clean, corrupted, metric = self._written(source)
        else:
            clean, corrupted, metric = self._of_task(model, seed) if self.task else self._in_text(model, seed)
        return Prompts(clean=clean, corrupted=corrupted, metric=metric, source=source, seed=seed)

    def _check(self) -> None:
        """Raise AnalysisError unless there is exactly one way, with nothing of another."""
        ways = [f"--{name}" for name in ("clean", "task", "text") if getattr(self, name)]
        if not ways:
            raise AnalysisError(f"no prompts are given; {_WAYS}")
        if len(ways) > 1:
            raise AnalysisError(f"{' and '.join(ways)} were both given; {_WAYS}")
        if ways != ["--clean"]:
            strays = [f"--{name}" for name in ("corrupted", "answer", "wrong") if getattr(self, name)]
            made = "makes" if self.task else "finds"
            reason = f"{ways[0]}, which {made} its own"
        else:
            strays = [option for option, value in (("--n", self.n), ("--seq-len", self.seq_len)) if value is not None]
            reason = "--clean, whose texts are as they are"
        strays += ["--solved"] if self.solved and not self.task else []
        if strays:
            raise AnalysisError(f"{strays[0]} was given with {reason}; leave it out")

    def _written(self, source: Source) -> tuple[Any, Any, Any]:
        from nanogpt_lens.running.metrics import answer_logprob, logit_diff

        clean, corrupted = self.clean or [], self.corrupted or None
        if not self.answer:
            raise AnalysisError("--clean was given without --answer; give one token that it calls for")
        if source == "other" and corrupted is None:
            raise AnalysisError(
                "--clean was given without --corrupted; give a text of the same length, or another --source than other"
            )
        if corrupted is not None and len(corrupted) != len(clean):
            raise AnalysisError(
                f"there are {len(clean)} --clean and {len(corrupted)} --corrupted; expected one of each"
            )
        metric = logit_diff(self.answer, self.wrong) if self.wrong else answer_logprob(self.answer)
        return clean, corrupted, metric

    def _of_task(self, model: Any, seed: int) -> tuple[Any, Any, Any]:
        from nanogpt_lens.running.metrics import logit_diff_of
        from nanogpt_lens.text.task_pairs import pairs_by_name

        check_task(self.task)
        by = {"solved_by": model} if self.solved else {}
        pairs = pairs_by_name(model, self.task or "", seq_len=self.seq_len, n=self.n or 16, seed=seed, **by)
        return pairs.clean, pairs.corrupted, logit_diff_of(pairs)

    def _in_text(self, model: Any, seed: int) -> tuple[Any, Any, Any]:
        from torch import stack

        from nanogpt_lens.running.metrics import logit_diff
        from nanogpt_lens.text.pairs import find_prompt_pairs

        pairs = find_prompt_pairs(model, self.text, k=self.n or 16, seq_len=self.seq_len, seed=seed)
        metric = logit_diff([pair.answer for pair in pairs], [pair.wrong for pair in pairs])
        return stack([pair.clean for pair in pairs]), stack([pair.corrupted for pair in pairs]), metric


def check_task(task: str | None) -> None:
    """Raise AnalysisError for a task that is no name and no place, but nearly a name."""
    near = did_you_mean(task or "", TASKS)
    if task is not None and task not in TASKS and near and not Path(task).expanduser().exists():
        raise AnalysisError(f"there is no task {task!r}; expected {', '.join(TASKS)}, or the folder of a run{near}")


def with_prompts(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `prompts`, given the options that say them.

    Args:
        command: takes the keyword `prompts`, a `PromptOptions`.
    """

    def run(*model: Any, **arguments: Any) -> None:
        words = {name: arguments.pop(name) for name in _OPTIONS}
        command(*model, **arguments, prompts=PromptOptions(**words))

    assert "prompts" in signature(command).parameters
    return as_command(run, command, replace={"prompts": _OPTIONS})
