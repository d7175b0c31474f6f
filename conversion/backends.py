"""The kinds of models that the installed TransformerLens has, and errors that say which version to install."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

from conversion.errors import BackendError

Backend = Literal["hooked", "bridge"]
"""A kind of TransformerLens model: HookedTransformer (3.x) or TransformerBridge (4.x)."""

BackendChoice = Literal["auto", "hooked", "bridge"]
"""What a caller can ask for: a kind of model, or "auto" for the one that the installed TransformerLens has."""


@cache
def transformer_lens_version() -> tuple[int, ...]:
    """The major and minor version of the installed TransformerLens.

    Raises:
        BackendError: TransformerLens is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version  # 25 ms, which `nanogpt-lens --help` need not wait

    try:
        installed = version("transformer-lens")
    except PackageNotFoundError:
        raise BackendError("TransformerLens is not installed; run `pip install 'transformer-lens>=3.9,<4'`") from None
    return tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())


def resolve_backend(backend: str = "auto") -> Backend:
    """The kind of model that the installed TransformerLens gives.

    Args:
        backend: "auto" (HookedTransformer if TransformerLens has it, else the bridge), "hooked" or "bridge".

    Raises:
        BackendError: the kind that was asked for needs another TransformerLens.
        ValueError: `backend` is another word.
    """
    from importlib.metadata import version

    has_bridge = transformer_lens_version() >= (4, 0)
    if backend == "auto":
        return "bridge" if has_bridge else "hooked"
    installed = version("transformer-lens")
    if backend == "hooked" and has_bridge:
        raise BackendError(
            f"backend='hooked' needs HookedTransformer, which TransformerLens {installed} no longer has; run "
            "`pip install 'transformer-lens>=3.9,<4'`, or use backend='bridge'"
        )
    if backend == "bridge" and not has_bridge:
        raise BackendError(
            f"backend='bridge' needs TransformerLens 4: the bridge of {installed} ignores edits of attention patterns; "
            "run `pip install 'transformer-lens>=4.3,<5'`, or use backend='hooked'"
        )
    if backend not in ("hooked", "bridge"):
        raise ValueError(f"backend is {backend!r}; expected 'auto', 'hooked' or 'bridge'")
    return "hooked" if backend == "hooked" else "bridge"


@contextmanager
def importing() -> Iterator[None]:
    """A block of imports that make so many objects that Python would look through all of them several times.

    Nothing of them is garbage, and looking takes a fifth of the time of TransformerLens' import.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
