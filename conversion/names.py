"""nanoGPT's names of tensors, found in the names that wrappers gave them.

`torch.compile`, DataParallel, Fabric, FSDP and activation checkpointing put parts into names
(`_orig_mod.`, `module.`, `_forward_module.`, `_fsdp_wrapped_module.`, `_checkpoint_wrapped_module.`), and
a module that holds the model puts its own prefix before all of them (`model.`, `net.gpt.`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from conversion.errors import CheckpointError
from conversion.inert import Record

_OWN = re.compile(r"(?:^|\.)((?:transformer\.)?(?:wte|wpe|ln_f|h\.\d+)\..*|lm_head\.(?:weight|bias))$")
_WITHOUT_HEAD = ("wte.", "wpe.", "ln_f.", "h.")


def nanogpt_names(raw: Mapping[Any, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a state dict under nanoGPT's names, and notes on what was stripped.

    A prefix is stripped only if all names have it (the head's may lack it); other names stay as they are.

    Raises:
        CheckpointError: a value is no tensor or has no name, two tensors have one name, or there are two models.
    """
    inner, wrappers = _without_wrappers(raw)
    prefix = _common_prefix(inner)
    state: dict[str, Tensor] = {}
    for name, tensor in inner.items():
        short = name.removeprefix(prefix)
        if short.startswith(_WITHOUT_HEAD):  # as in a Hugging Face GPT2Model, which is a GPT2LMHeadModel's transformer
            short = f"transformer.{short}"
        if short in state:
            raise CheckpointError(f"model has {short!r} twice, with different prefixes; expected every tensor once")
        state[short] = tensor
    stripped = sorted(wrappers) + ([prefix] if prefix else [])
    return state, (("stripped " + " and ".join(stripped),) if stripped else ())


def outsiders(names: Collection[str]) -> tuple[str, list[str]]:
    """The prefix of the token embedding's name, and the names that do not have it."""
    found = next((name for name in names if name.endswith("wte.weight")), "")
    match = _OWN.search(found)
    prefix = found[: match.start(1)] if match else ""
    return prefix, [name for name in names if not name.startswith((prefix, "lm_head."))]


def kind_of(value: Any) -> str:
    """The kind of a value of a file, for a message."""
    return value.kind if isinstance(value, Record) else type(value).__name__


def _without_wrappers(raw: Mapping[Any, Any]) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors under names without the parts of wrappers, and these parts."""
    state: dict[str, Tensor] = {}
    wrappers: set[str] = set()
    for key, value in raw.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"model[{key!r}] is a {kind_of(value)}; expected a tensor under a name")
        parts = key.split(".")
        kept = [part for part in parts[:-1] if not _is_wrapper(part)] + parts[-1:]
        wrappers.update(f"{part}." for part in parts[:-1] if _is_wrapper(part))
        name = ".".join(kept)
        if name in state:
            raise CheckpointError(f"model has {name!r} twice, with different prefixes; expected every tensor once")
        state[name] = value
    return state, wrappers


def _is_wrapper(part: str) -> bool:
    """Whether a part of a name is a wrapper's: nanoGPT has no module whose name begins with an underscore."""
    return part == "module" or (part.startswith("_") and len(part) > 1)


def _common_prefix(names: Collection[str]) -> str:
    """The prefix that all names have before nanoGPT's own (the head may be outside); empty if there is none."""
    before = {name: name[: match.start(1)] for name in names if (match := _OWN.search(name))}
    models = sorted({prefix for name, prefix in before.items() if name.endswith("wte.weight")})
    if len(models) > 1:
        raise CheckpointError(
            f"model has {len(models)} token embeddings ({', '.join(f'{m}...wte.weight' for m in models)}), so "
            "there are several models in it; expected one: save the tensors of the one that you mean"
        )
    prefix = models[0] if models else next(iter(before.values()), "")
    return prefix if all(name.startswith((prefix, "lm_head.")) for name in names) else ""
