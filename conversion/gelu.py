"""Which GELU a checkpoint is read with: the one that the caller names, as far as the file does not contradict.

No shape shows it, and no checkpoint of nanoGPT records it. nanoGPT has the exact GELU since 17 May 2023; nanoGPT
before, minGPT, build-nanogpt, llm.c and OpenAI's GPT-2 have the tanh approximation ("gelu_new").
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conversion.config import ActFn
from conversion.contents import Contents
from conversion.errors import CheckpointError, CheckpointWarning

ACT_FN_KEY = "nanogpt_lens_activation"
"""The key under which `save_checkpoint` records a GELU that is not nanoGPT's."""


def settled_gelu(file: Path, contents: Contents, told: ActFn | None) -> tuple[ActFn, tuple[str, ...]]:
    """The GELU to use, and notes on how it was found.

    Args:
        file: the file, for messages.
        contents: what the file holds.
        told: the GELU that the caller named; None if none was named, which means nanoGPT's.

    Raises:
        CheckpointError: the file states another GELU than the one that is used, or is of a format whose code has the
            tanh GELU, and nothing was named.
    """
    used: ActFn = told or "gelu"
    stated = _stated(contents.run_config, contents)
    if stated is not None and stated[0] != used:
        raise CheckpointError(
            f"{file} was saved with act_fn {stated[0]!r}{stated[1]}, and {used!r} was asked for; "
            f"give act_fn={stated[0]!r} (--act-fn {stated[0]})"
        )
    if told is not None or stated is not None:
        return used, ()
    if contents.format == "llm.c":
        raise CheckpointError(
            f"{file} is a model of llm.c, whose code computes with the tanh GELU, and the file does not say so; give "
            "act_fn='gelu_new' (--act-fn gelu_new), or act_fn='gelu' if your code has the exact one"
        )
    guess = contents.statement.guess if contents.statement else _guess(contents.tensors)
    if not guess:
        return used, ()
    note = (
        f"{file} has the form of {guess}, whose code computes with the tanh GELU, but was read with nanoGPT's exact "
        f"GELU; if it is {guess}'s, give act_fn='gelu_new' (--act-fn gelu_new); act_fn='gelu' silences this"
    )
    warnings.warn(note, CheckpointWarning, stacklevel=3)
    return used, (note.removeprefix(f"{file} "),)


def _stated(run_config: Mapping[str, Any], contents: Contents) -> tuple[str, str] | None:
    """The GELU that a file states, and where it does."""
    if ACT_FN_KEY in run_config:
        return str(run_config[ACT_FN_KEY]), ""
    if contents.statement is not None and contents.statement.gelu is not None:
        return contents.statement.gelu, f" ({contents.statement.place} names it)"
    return None


def _guess(tensors: Mapping[str, Any]) -> str:
    """Whose state dict this may be, if nothing stands beside it: minGPT's has causal masks in it."""
    masks = any(str(name).endswith(".attn.bias") and getattr(value, "ndim", 1) == 4 for name, value in tensors.items())
    return "minGPT" if masks else ""
