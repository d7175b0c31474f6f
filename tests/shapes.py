"""While the tests run, tensors must have the shapes that signatures and dataclasses state."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

ALWAYS, EVERY = 50, 50
"""The calls of a function that are checked in a process: the first ones, and then every fiftieth."""

COMPILED = {"conversion.native"}
"""Modules that torch compiles in a test; what they compute is compared with other code everywhere."""
STATED = re.compile(r"\b(?:Float|Int|Integer|Bool|Shaped)\[|\b(?:Activations|Coords|Rule|HookedState)\b|jaxtyping\.")
"""What the annotation of an array has in it: a type of jaxtyping, or a name for one."""


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its jaxtyping annotations checked at each call, and no others.

    Other types are the type checker's business: tests of bad input must reach our own sentences.
    """
    stated = {name: hint for name, hint in function.__annotations__.items() if "jaxtyping." in repr(hint)}
    if not stated:
        return function
    function.__annotations__ = stated
    return beartype(function)


def states_shapes(thing: Any) -> bool:
    """Whether a class or a function of a module has shapes to check; not one that is made anew for each call."""
    if isinstance(thing, type):
        return True
    if thing.__module__ in COMPILED or "<locals>" in thing.__qualname__:
        return False
    return any(STATED.search(hint if isinstance(hint, str) else repr(hint)) for hint in thing.__annotations__.values())


def now_and_then(checked: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose first calls are checked, and then every fiftieth.

    A check costs up to a millisecond, and a search calls small functions ten thousand times, with the same shapes.
    """
    calls = itertools.count()

    @functools.wraps(checked)
    def function(*args: Any, **kwargs: Any) -> Any:
        call = next(calls)
        return (checked if call < ALWAYS or call % EVERY == 0 else plain)(*args, **kwargs)

    return function


def check_where_stated() -> None:
    """Let jaxtyping's import hook pass over functions without shapes: checking nothing costs it as much as they do."""
    decorator = jaxtyping.jaxtyped

    def where_stated(**options: Any) -> Callable[[Any], Any]:
        def decorate(thing: Any) -> Any:
            if not states_shapes(thing):
                return thing
            if not isinstance(thing, type):
                return now_and_then(decorator(**options)(thing), thing)
            plain = thing.__init__
            checked = decorator(**options)(thing)
            if checked.__init__ is not plain:
                checked.__init__ = now_and_then(checked.__init__, plain)
            return checked

        return decorate

    jaxtyping.jaxtyped = where_stated
