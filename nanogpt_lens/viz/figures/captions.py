"""Captions: what the numbers are, and on what they were measured.

A caption repeats what a result says of itself for people; what it does with it hangs on no word of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nanogpt_lens.results.base import Result
from nanogpt_lens.results.sample import Sample

_SHORT = 150  # letters of a definition below a figure
_ATOM = r"""(?:-?\d+|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[({_ATOM}(?:, {_ATOM}){{3,}})\]")
"""A list of more than three numbers or strings."""


def caption_of(
    result: Result, *, notes: Iterable[str] = (), definition: str | None = None, intervals_told: bool = False
) -> str:
    """Sentences: what is shown, the definition, the intervals, the sample, the checkpoint.

    Args:
        result: that is drawn.
        notes, definition, intervals_told: see `Drawing`.
    """
    parts = [*notes, result.explanation() if definition is None else definition]
    has_intervals = getattr(result, "low", None) is not None and getattr(result, "high", None) is not None
    if has_intervals and not intervals_told:
        parts.append(interval_of(result))
    parts += [result.few_examples, "" if result.sample is None else result.sample.in_sample_words]
    parts += [sample_of(result), origin_of(result)]
    return _short_lists(_without_folders(result, " ".join(_sentence(part) for part in parts if part)))


def short_caption_of(result: Result, *, notes: Iterable[str] = (), definition: str | None = None) -> str:
    """What stands below a figure: what is shown, the beginning of the definition, the warnings, how much was measured.

    Args:
        result: that is drawn.
        notes, definition: see `Drawing`.
    """
    whole = _short_lists(_without_folders(result, result.explanation() if definition is None else definition))
    parts = [*notes, _beginning(whole), result.few_examples]
    parts += ["" if result.sample is None else result.sample.in_sample_words, _how_many(result)]
    return _short_lists(_without_folders(result, " ".join(_sentence(part) for part in parts if part)))


def _beginning(text: str) -> str:
    """The first words of a text, up to where they may end; the whole of a short one."""
    if len(text) <= _SHORT:
        return text
    ends = [match.start() for match in re.finditer(r"[;.:,](?= )", text[: _SHORT + 1])]
    end = next((end for end in reversed(ends) if end > 40 and text[:end].count("(") == text[:end].count(")")), None)
    return f"{text[:end]} …" if end else f"{text[:_SHORT].rsplit(' ', 1)[0]} …"


def _how_many(result: Result) -> str:
    """`sample_of` without what only a repetition needs."""
    return re.sub(r"(, |^Sample: )seed \d+$", "", sample_of(result))


def interval_of(result: Result, called: str = "Intervals") -> str:
    """What `low` and `high` are, such as "Bands: 95% interval (Student's t over 64 examples)".

    What is known of our own results only.

    Args:
        result: with an interval.
        called: how it is drawn: "Bands", "Bars".
    """
    if not result.made_here:
        return f"{called}: low to high as given"
    kind = "Student's t" if result.interval == "t" else "bootstrap"  # an earlier version's are bootstraps
    over = "" if result.n_examples is None else f" over {result.n_examples:,} examples"
    return f"{called}: 95% interval ({kind}{over})"


def sample_of(result: Result) -> str:
    """How many tokens, how many sequences of how many, the seed; "" where nothing was drawn.

    The text is not named: definitions do that.
    """
    sample = result.sample or Sample()
    said = []
    if sample.n_tokens is not None:
        said.append(f"{sample.n_tokens:,} tokens")
    if sample.n is not None:
        said.append(f"{sample.n} sequences" + ("" if sample.seq_len is None else f" of {sample.seq_len} tokens"))
    elif (examples := _examples(result)) > 1:
        said.append(f"{examples} examples")
    if sample.seed is not None:
        said.append(f"seed {sample.seed}")
    return f"Sample: {', '.join(said)}" if said else ""


def origin_of(result: Result) -> str:
    """The checkpoint's name and the beginning of its SHA-256."""
    if result.checkpoint is None:
        return ""
    digest = result.checkpoint_sha256
    return f"Checkpoint {short_name(result.checkpoint)}" + ("" if digest is None else f" (SHA-256 {digest[:12]})")


def short_name(name: str) -> str:
    """A checkpoint's path without what differs between machines: the file, or for "ckpt.pt" its folder."""
    parts = [part for part in re.split(r"[/\\\\]+", name) if part]
    if len(parts) > 1 and parts[-1] == "ckpt.pt":
        return parts[-2]
    return parts[-1] if parts else name


def _short_lists(text: str) -> str:
    """The text, with only the first two entries of each longer list: "[2, 7, ... (32 in all)]"."""

    def short(match: re.Match[str]) -> str:
        entries = re.findall(_ATOM, match[1])
        return f"[{', '.join(entries[:2])}, ... ({len(entries)} in all)]"

    return _LIST.sub(short, text)


def _without_folders(result: Result, text: str) -> str:
    """The text, with the corpus' file in place of its path, which differs between machines."""
    path = (result.sample.corpus if result.sample is not None else None) or ""
    return text.replace(path, short_name(path)) if re.search(r"[/\\]", path) else text


def _examples(result: Result) -> int:
    each = getattr(result, "per_example", None)
    if each is not None:
        return int(each.shape[-1])
    return result.shape.get("example", 1)


def _sentence(text: str) -> str:
    text = text.strip()
    words = text.split(" ", 1)[0]
    plain = words.islower() and words.rstrip(",;.").isalpha()  # no identifier, such as "l0:" or "hook_z"
    return (text[:1].upper() if plain else text[:1]) + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")
