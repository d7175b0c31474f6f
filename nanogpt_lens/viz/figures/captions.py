"""Captions: what the numbers are, and on what they were measured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from nanogpt_lens.results.base import Result

_KINDS = ("str", "list", "tuple", "ndarray", "Tensor", "Path", "PosixPath", "WindowsPath", "TextData", "own text")
"""Where provenance names the corpus by its kind alone."""

_AS_GIVEN = "low to high as given"

_ATOM = r"""(?:-?\d+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[({_ATOM}(?:, {_ATOM}){{3,}})\]")
"""A list of more than three numbers or strings."""


def caption_of(result: Result, *, notes: Iterable[str] = (), definition: str | None = None) -> str:
    """Sentences: what is shown, the definition, the sample, intervals and chance, the checkpoint."""
    parts = [*notes, result.definition if definition is None else definition]
    interval = getattr(result, "low", None) is not None and getattr(result, "high", None) is not None
    said = " ".join(parts).lower()
    if interval and "interval" not in said and _AS_GIVEN not in said:
        parts.append(interval_of(result))
    parts += [sample_of(result), origin_of(result)]
    return _short_lists(_without_folders(result, " ".join(_sentence(part) for part in parts if part)))


def measured_here(result: Result) -> bool:
    """Whether an analysis of ours made the result: its provenance then names our version."""
    return "nanogpt_lens" in result.provenance


def interval_of(result: Result, called: str = "Intervals", *, over: str = "") -> str:
    """What `low` and `high` are; only of our own results is it known.

    Args:
        result: with an interval.
        called: how it is drawn: "Bands", "Bars".
        over: what was drawn again, such as " intervals over the sequences".
    """
    return f"{called}: 95% bootstrap{over}" if measured_here(result) else f"{called}: {_AS_GIVEN}"


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


def _short_lists(text: str) -> str:
    """The text, with only the first two entries of each longer list: "[2, 7, ... (32 in all)]"."""

    def short(found: re.Match[str]) -> str:
        entries = re.findall(_ATOM, found[1])
        return f"[{', '.join(entries[:2])}, ... ({len(entries)} in all)]"

    return _LIST.sub(short, text)


def _without_folders(result: Result, text: str) -> str:
    """The text, with the corpus' file in place of its path, which differs between machines."""
    arguments = result.provenance.get("arguments", {})
    for corpus in (arguments.get("corpus"), arguments.get("text")):
        path = re.sub(r" \([^()]*\)$", "", corpus) if isinstance(corpus, str) else ""
        if re.search(r"[/\\]", path):
            text = text.replace(path, short_name(path))
    return text


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
