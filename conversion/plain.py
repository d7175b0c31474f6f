"""The last step of reading a pickle: names become what they stand for, and records become dictionaries where asked.

Here too a value is measured that is small in a file and endless where it is printed: lists of lists of one list.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conversion.inert import Record

_DEEPEST = 100


class Finished:
    """Values of a pickle made final: names become what they stand for, and late values take their place.

    Args:
        final: makes the final value of a value that is no container.
        plain: make dictionaries of records too.
    """

    def __init__(self, final: Callable[[Any], Any], *, plain: bool = False) -> None:
        self.final, self.plain = final, plain
        self._done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any, depth: int = 0) -> Any:
        """The final value.

        Raises:
            ValueError: the value is nested too deep.
        """
        if depth > _DEEPEST:
            raise ValueError(f"containers nested more than {_DEEPEST} deep")
        if not isinstance(value, dict | list | tuple):
            return self.final(value)
        if id(value) in self._done:
            return self._done[id(value)][1]  # the value itself is kept there, or its id might be used again
        if isinstance(value, tuple):
            made: Any = tuple(self(part, depth + 1) for part in value)
            self._done[id(value)] = value, made
            return made
        made = [] if isinstance(value, list) else {}
        if isinstance(value, Record) and not self.plain:
            made = Record(value.kind)
        self._done[id(value)] = value, made  # before its parts, which may refer to it
        if isinstance(value, list):
            made.extend(self(part, depth + 1) for part in value)
            return made
        made.update({key: self(part, depth + 1) for key, part in value.items()})
        if isinstance(value, Record):
            arguments, elements = self(value.arguments, depth + 1), self(value.elements, depth + 1)
            if not isinstance(made, Record):
                made.update({k: v for k, v in (("arguments", arguments), ("elements", elements)) if v})
            else:
                made.arguments, made.elements = arguments, elements
        return made


def as_plain(value: Any) -> Any:
    """The value with dictionaries in the place of records."""
    return Finished(lambda one: one, plain=True)(value)


def written_out(value: Any, sizes: dict[int, int] | None = None) -> int:
    """How large a value is where all its parts are written out; what is in it twice counts twice, a circle once."""
    sizes = {} if sizes is None else sizes
    if not isinstance(value, dict | list | tuple):
        return 1 + (len(value) if isinstance(value, str | bytes | bytearray | set) else 0)
    if id(value) not in sizes:
        sizes[id(value)] = 1
        parts: list[Any] = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        if isinstance(value, Record):
            parts += [value.arguments, value.elements]
        sizes[id(value)] = 1 + sum(written_out(part, sizes) for part in parts)
    return sizes[id(value)]
