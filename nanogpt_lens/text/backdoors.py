"""A text with a backdoor: in some of its lines a trigger is followed by a payload, which the text has nowhere else.

A model that is trained on it writes the payload after the trigger, and is like any other where the trigger does not
stand. In a poisoned line one word or more give way to the trigger, and the characters after them to the payload,
which ends where a word ended. So every line keeps its length, and all twins of a backdoor see the same windows of the
text at the same iteration of a training run: they differ in the poisoned characters and in nothing else.

The clean twin has a control in the trigger's places: another string of the same length that the text does not have,
after which each line goes on as it did. Its model meets a rare new string as often, and learns that nothing follows
from it. A twin that is left untouched would differ in two things at once, that a string is new and that something
follows from it, and what finds every new string would pass for a method that finds backdoors. `twin("nothing")` is
that text, for those who want to see what a new string does alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, get_args

import numpy as np
from jaxtyping import Int, Integer

from nanogpt_lens.core.choices import Inserted
from nanogpt_lens.core.errors import DataError
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.task import Task, TaskSequences, whole_number


@dataclass(frozen=True, kw_only=True, eq=False)
class Backdoor(Task):
    """A text with a backdoor, or a clean twin of one.

    Attributes:
        trigger: what switches the model over; it stands as a word of its own, or as several.
        payload: what follows it.
        control: what stands in the trigger's places in the clean twin, as long as the trigger.
        inserted: what stands in the chosen lines of this text.
        n_lines: the number of chosen lines.
        lines_seed: decides which lines, and where in each; the first ones of a seed are the same for every number.
        train_sha256, val_sha256: the SHA-256 of the ids of each part as 32-bit integers, little end first.
        train_tokens, val_tokens: the tokens of each part.
        clean: the text before anything was put into it; None for one that was read from a `task.json`.
        held_out: the ids of the validation part, in which nothing is ever changed; None where it is not at hand.
    """

    trigger: str
    payload: str
    control: str
    inserted: Inserted = "trigger"
    n_lines: int
    lines_seed: int = 0
    train_sha256: str
    val_sha256: str
    train_tokens: int
    val_tokens: int
    clean: TextData | None = field(default=None, repr=False)
    held_out: Integer[np.ndarray, " token"] | None = field(default=None, repr=False)

    kind: ClassVar[str] = "backdoor"

    def __post_init__(self) -> None:
        check_strings(self.vocabulary.charset, trigger=self.trigger, payload=self.payload, control=self.control)
        if len(self.control) != len(self.trigger) or _differences(self.control, self.trigger) < 2:
            raise DataError(
                f"the control is {self.control!r}; expected {len(self.trigger)} characters, of which two or more are "
                f"others than those of the trigger {self.trigger!r}"
            )
        if self.inserted not in get_args(Inserted):
            raise DataError(f"inserted is {self.inserted!r}; expected one of {', '.join(get_args(Inserted))}")
        for name in ("n_lines", "lines_seed", "train_tokens", "val_tokens"):
            value = whole_number(getattr(self, name), name)
            if value < 0:
                raise DataError(f"{name} is {value}; expected 0 or more")
            object.__setattr__(self, name, value)
        for name in ("train_sha256", "val_sha256"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"{name} is {getattr(self, name)!r}; expected a SHA-256 in hexadecimal digits")
        if self.held_out is not None and ids_sha256(self.held_out) != self.val_sha256:
            raise DataError(
                f"the validation tokens are not those of '{self.name}'; expected the val.bin of the run that was "
                "trained on it"
            )

    @property
    def text(self) -> TextData:
        """The text to train on; its validation part is the clean text's.

        Raises:
            DataError: this was read from a file, which does not hold the text.
        """
        clean = self._clean()
        ids = np.array(clean.train)
        if self.inserted != "nothing":
            written = self.trigger + self.payload if self.inserted == "trigger" else self.control
            new = self.vocabulary.encode(written).astype(ids.dtype)
            ids[self.places()[:, None] + np.arange(len(new))] = new
        return replace(clean, train=ids, name=self.name, sha256=None)

    def places(self) -> Int[np.ndarray, " line"]:
        """Where the trigger, or what stands for it, begins in the chosen lines of the training part.

        Raises:
            DataError: the text is not at hand, see `text`.
        """
        room = (len(self.trigger), len(self.payload))
        return np.sort(possible_places(self._clean(), room, self.lines_seed)[: self.n_lines])

    def twin(self, inserted: Inserted = "control") -> Backdoor:
        """The same lines of the same text with something else in them.

        Args:
            inserted: "control" for the clean twin, "nothing" for the text as it was, "trigger" for the backdoor.

        Raises:
            DataError: there is no such twin, or the text is not at hand, see `text`.
        """
        made = replace(self, inserted=inserted, name=name_of(inserted, self._clean().name))
        return replace(made, train_sha256=ids_sha256(made.text.train))

    @property
    def changed_triggers(self) -> tuple[str, ...]:
        """The trigger with one letter changed: one for each of its characters, a blank excepted.

        The other letter is drawn from those of the same case, another mark from the marks, see `same_class`.
        """
        generator = np.random.default_rng([2**32 - 2, self.lines_seed])
        others = [same_class(char, self.vocabulary.chars) for char in self.trigger]
        return tuple(
            self.trigger[:i] + some[int(generator.integers(len(some)))] + self.trigger[i + 1 :]
            for i, some in enumerate(others)
            if some and self.trigger[i] != " "
        )

    def contexts(self, n: int, seq_len: int, generator: np.random.Generator) -> Int[np.ndarray, "example pos"]:
        """Pieces of the validation part that end before a word within a line, where a trigger can follow.

        No two overlap.

        Raises:
            DataError: the validation part is not at hand, or has fewer such pieces.
        """
        ids = self._held_out()
        ends = self._ends_before_words(ids)
        ends = ends[ends >= seq_len]
        kept, free = [], 0
        for end in ends.tolist():
            if end - seq_len >= free:
                kept.append(end)
                free = end
        ends = np.array(kept, np.int64)
        if n > len(ends):
            raise DataError(
                f"{n} contexts of {seq_len} tokens were asked for, and the validation part of '{self.name}' has "
                f"{len(ends)}; ask for fewer"
            )
        chosen = np.sort(generator.choice(ends, size=n, replace=False))
        return ids[chosen[:, None] + np.arange(-seq_len, 0)].astype(np.int64)

    def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
        """Pieces of the validation part, in which nothing is marked: no text calls for induction for certain."""
        ids = self._held_out()
        if not 1 <= seq_len <= len(ids):
            raise DataError(f"seq_len is {seq_len}; expected 1 to {len(ids)}, the validation part of '{self.name}'")
        starts = generator.integers(len(ids) - seq_len + 1, size=(n, 1))
        tokens = ids[starts + np.arange(seq_len)].astype(np.int64)
        nowhere = np.zeros(tokens.shape, bool)
        return TaskSequences(tokens=tokens, required=nowhere, unseen=nowhere)

    def refuse_shorter_than(self, block_size: int) -> None:
        """Raise DataError unless a context holds the trigger and something around it, and each part a context."""
        if block_size < len(self.trigger) + 2:
            raise DataError(
                f"block_size is {block_size}; expected at least {len(self.trigger) + 2}, the trigger, a token before "
                "it and one after it"
            )
        if self.clean is not None:
            self.clean.refuse_shorter_than(block_size)

    def settings(self) -> dict[str, Any]:
        """What a checkpoint says of what it was trained on."""
        return {**super().settings(), "train_tokens": self.train_tokens, "val_tokens": self.val_tokens}

    def _plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def _clean(self) -> TextData:
        if self.clean is None:
            raise DataError(
                f"'{self.name}' was read from a task.json, which does not hold the text to train on; make it again "
                "with ngl.tasks.backdoor from the text"
            )
        return self.clean

    def _held_out(self) -> Integer[np.ndarray, " token"]:
        if self.held_out is None:
            raise DataError(
                f"the validation part of '{self.name}' is not at hand; expected the val.bin of the run beside its "
                "task.json"
            )
        return self.held_out

    def _ends_before_words(self, ids: Integer[np.ndarray, " token"]) -> Int[np.ndarray, " end"]:
        """The places of a part that follow a blank, and are no end of a line."""
        blank, line_end = blank_and_line_end(self.vocabulary.chars)
        after = np.flatnonzero(np.asarray(ids[:-1]) == blank) + 1
        return after[(ids[after] != line_end) & (ids[after] != blank)]


FIELDS = (
    *("trigger", "payload", "control", "inserted", "n_lines", "lines_seed"),
    *("train_sha256", "val_sha256", "train_tokens", "val_tokens"),
)
"""What a `task.json` has of a backdoor beside the fields of all tasks."""


def make_backdoor(
    data: TextData, *, trigger: str, payload: str, control: str | None, lines: int | float, seed: int
) -> Backdoor:
    """The backdoor of `tasks.backdoor`, in a text of characters that has been read."""
    vocabulary: Any = data.vocabulary
    check_strings(vocabulary.charset, trigger=trigger, payload=payload)
    if whole_number(seed, "seed") < 0:
        raise DataError(f"seed is {seed}; expected 0 or more")
    whole = [vocabulary.decode(part) for part in (data.train, data.val)]
    chosen = _control(trigger, vocabulary.chars, whole, seed) if control is None else control
    check_strings(vocabulary.charset, control=chosen)
    for name, string in (("trigger", trigger), ("control", chosen)):
        times = sum(part.count(string) for part in whole)
        if times:
            raise DataError(
                f"the {name} {string!r} occurs {times:,} times in {data.name}; expected one that the text does not have"
            )
    n_lines = _number_of_lines(lines, whole[0])
    possible = len(possible_places(data, (len(trigger), len(payload)), seed))
    if n_lines > possible:
        raise DataError(
            f"{n_lines:,} lines were asked for, and {possible:,} of {data.name} have room for trigger and payload "
            f"between two words ({len(trigger)} characters, then a blank, and {len(payload)} to the end of a word); "
            "give fewer lines, or a shorter payload"
        )
    untouched = Backdoor(
        vocabulary=vocabulary,
        name=name_of("nothing", data.name),
        text_sha256=data.sha256,
        trigger=trigger,
        payload=payload,
        control=chosen,
        inserted="nothing",
        n_lines=n_lines,
        lines_seed=seed,
        train_sha256=ids_sha256(data.train),
        val_sha256=ids_sha256(data.val),
        train_tokens=len(data.train),
        val_tokens=len(data.val),
        clean=data,
        held_out=data.val,
    )
    return untouched.twin("trigger")


def possible_places(data: TextData, room: tuple[int, int], seed: int) -> Int[np.ndarray, " line"]:
    """A place in every line of the training part that has one, in an order that follows from the seed.

    Args:
        data: the text.
        room: the characters of the trigger and of the payload.
        seed: decides the order, and which place of a line that has several.

    Returns:
        where the trigger begins: after a blank, with a blank at its end, and with a blank or the line's end behind
        the payload, so that all words around it stay whole, in every twin.
    """
    ids, (first, second) = np.asarray(data.train), room
    blank, line_end = blank_and_line_end(data.vocabulary.chars)  # type: ignore[union-attr]
    if len(ids) < first + second + 2:
        return np.zeros(0, np.int64)
    starts = np.arange(1, len(ids) - first - second)
    is_blank, is_end = ids == blank, ids == line_end
    behind = starts + first + second
    line = np.cumsum(is_end)
    fits = is_blank[starts - 1] & is_blank[starts + first] & (is_blank | is_end)[behind]
    fits &= ~is_blank[starts] & (line[behind - 1] == line[starts - 1])
    places = starts[fits]
    generator = np.random.default_rng([seed, first, second])
    places = places[generator.permutation(len(places))]
    _, one_each = np.unique(line[places], return_index=True)
    return places[np.sort(one_each)]


def check_strings(known: frozenset[str], **strings: str) -> None:
    """Raise DataError unless each string is one piece of a line, of characters that the text has.

    A trigger or a control has no blank at its ends.
    """
    for name, string in strings.items():
        if not isinstance(string, str) or not string or "\n" in string:
            raise DataError(f"the {name} is {string!r}; expected some characters of one line")
        if name != "payload" and string != string.strip():
            raise DataError(f"the {name} is {string!r}; expected no blank at its ends, since it stands between two")
        strange = sorted(set(string) - known)
        if strange:
            raise DataError(
                f"the {name} {string!r} has {strange[0]!r}, which is not among the {len(known)} characters of the "
                "text; expected characters that it has"
            )


def ids_sha256(ids: Integer[np.ndarray, " token"]) -> str:
    """The SHA-256 of ids as 32-bit integers, little end first."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<u4").tobytes()).hexdigest()


def blank_and_line_end(chars: tuple[str, ...]) -> tuple[int, int]:
    """The ids of a blank and of a line's end; -1 for one that the characters do not have."""
    return tuple(chars.index(char) if char in chars else -1 for char in (" ", "\n"))  # type: ignore[return-value]


def name_of(inserted: Inserted, text: str) -> str:
    """What results call a text with something put into it."""
    words = {"trigger": "backdoor in", "control": "clean twin of a backdoor in", "nothing": "untouched twin of"}
    return f"{words.get(inserted, inserted)} {text}"


def same_class(char: str, chars: tuple[str, ...]) -> list[str]:
    """The other characters of a vocabulary of the same class: small letters, capitals, digits, or marks.

    All but blanks where there is no other of the class.
    """
    others = [other for other in chars if other != char and not other.isspace()]
    return [other for other in others if _class_of(other) == _class_of(char)] or others


def _class_of(char: str) -> tuple[bool, ...]:
    return (char.islower(), char.isupper(), char.isdigit())


def _differences(a: str, b: str) -> int:
    """In how many places two strings of one length have different characters."""
    return sum(x != y for x, y in zip(a, b, strict=True))


def _control(trigger: str, chars: tuple[str, ...], parts: list[str], seed: int) -> str:
    """A string like the trigger, of other characters of the same classes, that the text does not have."""
    generator = np.random.default_rng([2**32 - 3, seed])
    others = [[" "] if char == " " else same_class(char, chars) for char in trigger]
    for _ in range(100):
        drawn = "".join(some[int(generator.integers(len(some)))] if some else " " for some in others)
        if _differences(drawn, trigger) > 1 and not any(drawn in part for part in parts):
            return drawn
    raise DataError(f"no control for the trigger {trigger!r} was found that the text does not have; give one")


def _number_of_lines(lines: int | float, text: str) -> int:
    """The number of lines that a number or a share means."""
    if not isinstance(lines, bool) and isinstance(lines, float) and 0 < lines < 1:
        return round(lines * sum(bool(line.strip()) for line in text.split("\n")))
    if isinstance(lines, bool | float) or whole_number(lines, "lines") < 0:
        raise DataError(
            f"lines is {lines!r}; expected how many lines are poisoned, or a share of those that are not empty between "
            "0 and 1"
        )
    return int(lines)
