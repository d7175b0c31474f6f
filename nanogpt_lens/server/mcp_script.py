"""Calls of the package that are made and written down in one step.

What a tool answers with as its lines of Python is what it did: a line cannot say something else than was computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from nanogpt_lens.model.access import Hooked
from nanogpt_lens.server.served import ServedModel

_QUIET = ("progress",)  # options that change nothing of a result


def public() -> ModuleType:
    """The package as a user imports it: the lines are written with its public names."""
    return import_module("nanogpt_lens")


class Script:
    """The lines of one answer.

    Args:
        served: the model that is asked.
        model: the same, loaded; None where only its file is looked at.
        step: is called with the name of a function before it is called.
    """

    def __init__(self, served: ServedModel, model: Hooked, step: Callable[[str], None]) -> None:
        self.served, self.model, self._step = served, model, step
        self._imports: list[str] = ["import nanogpt_lens as ngl"]
        self._lines: list[str] = []
        self._named: list[tuple[Any, str]] = []
        if model is not None:
            self.name("model", model, served.python)

    @property
    def python(self) -> str:
        """All lines."""
        return "\n".join([*self._imports, *self._lines])

    def name(self, called: str, value: Any, written: str | None = None, *, imports: str = "") -> Any:
        """Give a value a name in the lines, and return it.

        Args:
            called: the name.
            value: what gets it.
            written: the Python that makes it; None for its repr.
            imports: a line that this needs.
        """
        if imports and imports not in self._imports:
            self._imports.append(imports)
        self._lines.append(f"{called} = {self._written(value) if written is None else written}")
        self._named.append((value, called))
        return value

    def call(self, called: str, function: str, *arguments: Any, **options: Any) -> Any:
        """What a function of the package returns; `called` is its name in the lines.

        Args:
            called: the name.
            function: "ngl.intervene", or the whole path of a function that has no short name.
            arguments, options: what it is called with.
        """
        self._step(function.rpartition(".")[2])
        result = self._function(function)(*arguments, **options)
        return self.name(called, result, self._call(function, arguments, options))

    def each(self, called: str, function: str, over: Sequence[Any], *arguments: Any, **options: Any) -> list[Any]:
        """What a function returns for each of several last arguments."""
        self._step(function.rpartition(".")[2])
        results = [self._function(function)(*arguments, one, **options) for one in over]
        call = self._call(function, (*arguments, _Word("one")), options)
        return self.name(called, results, f"[{call} for one in {self._written(list(over))}]")

    def _function(self, function: str) -> Callable[..., Any]:
        module, _, name = function.rpartition(".")
        if module == "ngl" or module.startswith("ngl."):
            home: Any = public()
            for part in function.split(".")[1:]:
                home = getattr(home, part)
            return home
        line = f"from {module} import {name}"
        if line not in self._imports:
            self._imports.append(line)
        return getattr(import_module(module), name)

    def _call(self, function: str, arguments: Sequence[Any], options: dict[str, Any]) -> str:
        shown = function if function.startswith("ngl.") else function.rpartition(".")[2]
        words = [self._written(value) for value in arguments]
        words += [f"{name}={self._written(value)}" for name, value in options.items() if name not in _QUIET]
        return f"{shown}({', '.join(words)})"

    def _written(self, value: Any) -> str:
        """A value as Python: its name where it has one."""
        for known, called in self._named:
            if known is value and not isinstance(value, int | float | str | bool | None):
                return called
        if isinstance(value, _Word):
            return str(value.word)
        if isinstance(value, Path):
            return repr(str(value))
        if isinstance(value, tuple):
            return f"({''.join(self._written(one) + ', ' for one in value).rstrip()})" if value else "()"
        return repr(value)


class _Word:
    """A name that stands in the lines as it is."""

    def __init__(self, word: str) -> None:
        self.word = word
