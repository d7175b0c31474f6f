"""While the tests run, tensors must have the shapes that signatures and dataclasses state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import beartype

COMPILED = {"conversion.native"}
"""Modules that torch compiles in a test; what they compute is compared with other code everywhere."""


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its jaxtyping annotations checked at each call, and no others.

    Other types are the type checker's business: tests of bad input must reach our own sentences.
    """
    if function.__module__ in COMPILED:
        return function
    stated = {name: hint for name, hint in function.__annotations__.items() if "jaxtyping." in repr(hint)}
    if not stated:
        return function
    function.__annotations__ = stated
    return beartype(function)
