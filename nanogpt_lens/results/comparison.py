"""Two models side by side: every part of the comparison as a result of its own, and what was left out and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversion.atomic import write_text
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.comparison_in_words import sentences_of
from nanogpt_lens.results.files import check_target

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NAME = "comparison.json"
FORMAT = 1

PICTURED = ("transplants", "representations", "weights", "outputs", "heads")
"""The parts that can be the one picture of a comparison, the most telling first."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelComparison:
    """What differs between two models, `a` before and `b` after: differences are b minus a.

    Attributes:
        names: what the two are called.
        parts: the results by the names of their parts, see `nanogpt_lens.compare.comparing.PARTS`.
        left_out: by the name of each part that is not there, why, in a sentence.
        text: the name of the text that they were compared on.
        own_text: whether that is text which the two wrote themselves, half each.
        facts: by name what is known of both: a pair of values as text.
    """

    names: tuple[str, str]
    parts: Mapping[str, Result]
    left_out: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    own_text: bool = False
    facts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "facts", {name: tuple(pair) for name, pair in self.facts.items()})

    def __getitem__(self, part: str) -> Result:
        """The result of a part.

        Raises:
            ResultError: the part is not there; the message says why.
        """
        if part in self.parts:
            return self.parts[part]
        why = self.left_out.get(part, f"expected one of {', '.join(self.parts)}")
        raise ResultError(f"the comparison has no part {part!r}: {why}")

    def sentences(self) -> tuple[str, ...]:
        """What was found, at most a sentence for each part: first what differs, then where it sits, then the rest."""
        return sentences_of(self.parts, self.left_out, self.names, own_text=self.own_text)

    def reasons(self) -> dict[str, tuple[str, ...]]:
        """Each reason for which parts were left out, and the names of these parts."""
        return {
            why: tuple(part for part, its in self.left_out.items() if its == why)
            for why in dict.fromkeys(self.left_out.values())
        }

    def plot(self, part: str | None = None, **options: Any) -> Figure:
        """The picture of a part; None for the one that says most: where the difference sits, if that is known.

        Raises:
            ResultError: the part is not there, or has no such option.
        """
        part = part or next((name for name in PICTURED if name in self.parts), next(iter(self.parts), ""))
        named = {"names": self.names} if part in ("transplants", "edges") else {}
        return self[part].plot(**named, **options)

    def to_json(self) -> dict[str, Any]:
        """All parts as plain values that `json.dumps` takes."""
        return {
            **self._plain(),
            "kind": type(self).__name__,
            "sentences": list(self.sentences()),
            "parts": {name: result.to_json() for name, result in self.parts.items()},
        }

    def save(self, folder: str | Path) -> Path:
        """Write every part into a folder of its own below `folder`, and `comparison.json` last.

        A folder without `comparison.json` is no whole comparison.

        Raises:
            ResultError: the folder holds something else.
        """
        place = Path(folder)
        if place.exists() and (not place.is_dir() or (any(place.iterdir()) and not (place / NAME).is_file())):
            raise ResultError(f"{place} is there and is no saved comparison; give a new folder, or one with a {NAME}")
        for name in self.parts:
            check_target(place / name)
        place.mkdir(parents=True, exist_ok=True)
        (place / NAME).unlink(missing_ok=True)
        for name, result in self.parts.items():
            result.save(place / name)
        plain = {"format": FORMAT, **self._plain(), "parts": list(self.parts)}
        write_text(place / NAME, json.dumps(plain, ensure_ascii=False, indent=1) + "\n")
        return place

    @classmethod
    def load(cls, folder: str | Path) -> ModelComparison:
        """Read what `save` wrote.

        Raises:
            ResultError: nothing there, or damaged.
        """
        file = Path(folder) / NAME
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ResultError(f"{file} cannot be read ({error.strerror}); expected what `save` wrote") from None
        except ValueError:
            raise ResultError(f"{file} is not JSON; the file is damaged: make the comparison again") from None
        whole = isinstance(plain, dict) and plain.pop("format", None) == FORMAT
        if not whole or not isinstance(plain.get("parts"), list) or len(plain.get("names", ())) != 2:
            raise ResultError(f"{file} is no comparison of format {FORMAT}; another version wrote it: make it again")
        parts = {str(name): Result.load(Path(folder) / Path(str(name)).name) for name in plain.pop("parts")}
        names = plain.pop("names")
        return cls(names=(names[0], names[1]), parts=parts, **plain)

    def _plain(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "left_out": dict(self.left_out),
            "text": self.text,
            "own_text": self.own_text,
            "facts": {name: list(pair) for name, pair in self.facts.items()},
        }

    def __repr__(self) -> str:
        heading = f"ModelComparison of {self.names[0]} (before) and {self.names[1]} (after)"
        told = [f"  {sentence}" for sentence in self.sentences()]
        left = [f"  without {name}: {why}" for name, why in self.left_out.items() if name != "transplants"]
        return "\n".join([heading, *told, *left])
