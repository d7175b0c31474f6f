"""Captions: what the numbers are, and on what they were measured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from nanogpt_lens.results.base import Result

_KINDS = ("str", "list", "tuple", "ndarray", "Tensor", "Path", "PosixPath", "WindowsPath", "TextData", "own text")
"""Where provenance names the corpus by its kind alone."""


def caption_of(result: Result, *, notes: Iterable[str] = (), definition: str | None = None) -> str:
    """Sentences: what is shown, the definition, the sample, intervals and chance, the checkpoint."""
    parts = [*notes, result.definition if definition is None else definition]
    interval = getattr(result, "low", None) is not None and getattr(result, "high", None) is not None
    if interval and "interval" not in " ".join(parts).lower():
        parts.append("Intervals: 95% bootstrap")
    parts += [sample_of(result), origin_of(result)]
    return " ".join(_sentence(part) for part in parts if part)


def definition_of(result: Result, score: str | None = None) -> str:
    """The result's definition; of several scores that it defines in turn, only the part about one."""
    if score is None:
        return result.definition
    names = result.labels.get("score", ())
    kept = []
    for part in result.definition.split("; "):
        about = next((name for name in names if part.startswith(f"{name}:")), None)
        if about is None or about == score:
            kept.append(part)
    return "; ".join(kept)


def sample_of(result: Result) -> str:
    """How many sequences of how many tokens, the text, the seed; "" where nothing was drawn."""
    arguments = result.provenance.get("arguments", {})
    said = []
    n, length = arguments.get("n"), arguments.get("length", arguments.get("seq_len"))
    tokens = getattr(result, "n_tokens", None)
    if isinstance(tokens, int):
        said.append(f"{tokens:,} tokens")
    if _whole(n):
        said.append(f"{n} sequences" + (f" of {length} tokens" if _whole(length) else ""))
    elif (examples := _examples(result)) > 1:
        said.append(f"{examples} examples")
    corpus = arguments.get("corpus", arguments.get("text"))
    if isinstance(corpus, str) and corpus not in result.definition and corpus not in _KINDS:
        said.append(f"text: {corpus}")
    if _whole(arguments.get("seed")):
        said.append(f"seed {arguments['seed']}")
    return f"Sample: {', '.join(said)}" if said else ""


def origin_of(result: Result) -> str:
    """The checkpoint's name and the beginning of its SHA-256."""
    name, digest = (result.provenance.get(key) for key in ("checkpoint", "checkpoint_sha256"))
    if not name:
        return ""
    return f"Checkpoint {short_name(str(name))}" + (f" (SHA-256 {digest[:12]})" if isinstance(digest, str) else "")


def short_name(name: str) -> str:
    """A checkpoint's path without what differs between machines: the file, or for "ckpt.pt" its folder."""
    parts = [part for part in re.split(r"[/\\\\]+", name) if part]
    if len(parts) > 1 and parts[-1] == "ckpt.pt":
        return parts[-2]
    return parts[-1] if parts else name


def _examples(result: Result) -> int:
    each = getattr(result, "per_example", None)
    if each is not None:
        return int(each.shape[-1])
    return result.shape.get("example", 1)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _sentence(text: str) -> str:
    text = text.strip()
    words = text.split(" ", 1)[0]
    plain = words.islower() and words.rstrip(",;.").isalpha()  # no identifier, such as "l0:" or "hook_z"
    return (text[:1].upper() if plain else text[:1]) + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
