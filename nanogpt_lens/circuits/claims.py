"""A hypothesis about what a model computes, as data: a tree of claims.

A claim is about one activation: what of the input it depends on, and what it reads. Everything that a claim does not
name is said not to matter for it. A hypothesis in a file:

    name: an induction head
    logits:
      reads:
        "1.0":
          depends_on: [token, followed_earlier]
          reads:
            q: {depends_on: token}
            k: {depends_on: previous_token}
            v: {depends_on: token}

Nodes are called as in circuits: "embed", heads "0.1" with their "q", "k" and "v", "mlp0", "logits"; and streams such as
"resid_pre1", which stand for all that was written into them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError

Feature: TypeAlias = str | tuple[str, ...] | Callable[..., Any]
"""What of the input an activation depends on: a word of `features`, several of them, or a function of the tokens."""

Positions: TypeAlias = Literal["any", "same"]

At: TypeAlias = int | str
"""Which of a head's keys or values a claim is about: "each" by itself, "all" together, "here", or one position."""

_KEYS = ("depends_on", "at", "reads")
_AT = ("each", "all", "here")
_DEEPEST, _MOST = 64, 2000
_LARGEST = 2**20  # bytes of a file


@dataclass(frozen=True)
class Claim:
    """What an activation is said to depend on, and what it is said to read.

    Attributes:
        node: the activation: "logits", "1.0" (what a head writes), "q", "k" or "v" of the head that reads it, "mlp0",
            "embed", or a stream such as "resid_pre1".
        depends_on: the feature of the input on which it depends, and on nothing else; "everything" says nothing.
        at: of keys and values: "each" position is a claim by itself; "all" are one activation, with one input; "here"
            is the position at which the head writes; a number is a position. "" for "each", and for other nodes.
        reads: the claims about what it reads; everything else is said not to matter. None to say nothing of that.
    """

    node: str
    depends_on: Feature = "everything"
    at: At = ""
    reads: tuple[Claim, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.depends_on, Sequence) and not isinstance(self.depends_on, str):
            object.__setattr__(self, "depends_on", tuple(self.depends_on))
        if self.reads is not None:
            object.__setattr__(self, "reads", tuple(self.reads))
        whole = isinstance(self.at, int) and not isinstance(self.at, bool) and self.at >= 0
        if not (whole or self.at in ("", *_AT)) or isinstance(self.at, bool):
            raise AnalysisError(
                f"the claim about {self.node!r} is at {self.at!r:.60}; expected {', '.join(_AT)}, or a position"
            )

    @property
    def name(self) -> str:
        """The node, and its position where the claim is about one: "k", "k@3"."""
        return f"{self.node}@{self.at}" if self.at not in ("", "each") else self.node

    def to_json(self) -> dict[str, Any]:
        """The claim as plain values; a function is its name."""
        plain: dict[str, Any] = {"node": self.node, "depends_on": feature_words(self.depends_on)}
        if self.at != "":
            plain["at"] = self.at
        return plain if self.reads is None else {**plain, "reads": [claim.to_json() for claim in self.reads]}


@dataclass(frozen=True)
class Hypothesis:
    """A tree of claims, from the logits down.

    Attributes:
        logits: the claim about the logits.
        name: what it says, in a few words.
        positions: "any" if what stands in for one of many positions may be at another one, unless "position" is a
            feature; "same" if not, which is the reading of Chan et al. for a graph unrolled over positions.
        classes: by name, the tokens of each class, for the features "class" and "class-1"; without them, letters,
            digits, spaces, newlines and other characters.
    """

    logits: Claim
    name: str = ""
    positions: Positions = "any"
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice(Positions, positions=self.positions)

    def to_json(self) -> dict[str, Any]:
        """The hypothesis as plain values, which `read_hypothesis` reads unless a feature is a function."""
        classes = {"classes": {name: list(tokens) for name, tokens in self.classes.items()}} if self.classes else {}
        root = {key: value for key, value in self.logits.to_json().items() if key != "node"}
        return {"name": self.name, "positions": self.positions, **classes, "logits": root}

    def walk(self) -> Iterator[tuple[str, Claim]]:
        """Every claim with its path, such as "logits/1.0/k", each before those that it reads."""
        return _walk("logits", self.logits)

    def claim(self, path: str) -> Claim:
        """The claim at a path.

        Raises:
            AnalysisError: there is no such claim.
        """
        for name, claim in self.walk():
            if name == path:
                return claim
        raise AnalysisError(f"there is no claim {path!r}; expected one of {', '.join(name for name, _ in self.walk())}")

    def with_claim(self, path: str, **changes: Any) -> Hypothesis:
        """The same hypothesis with some fields of the claim at a path changed, such as depends_on="token".

        Raises:
            AnalysisError: there is no such claim.
        """
        self.claim(path)
        return replace(self, logits=_changed(self.logits, "logits", path, changes))


def read_hypothesis(source: Hypothesis | Mapping[str, Any] | str | Path) -> Hypothesis:
    """A hypothesis, from plain values or a YAML or JSON file.

    Raises:
        AnalysisError: the file is not there or too large, or does not hold what this module's text shows.
    """
    if isinstance(source, Hypothesis):
        return source
    plain = _read_file(Path(source)) if isinstance(source, str | Path) else source
    place = str(source) if isinstance(source, str | Path) else "the hypothesis"
    if not isinstance(plain, Mapping) or "logits" not in plain:
        raise AnalysisError(f"{place} is no hypothesis; expected a mapping with the claim 'logits'")
    _only(plain, ("name", "positions", "classes", "logits"), place)
    name, positions = plain.get("name", ""), plain.get("positions", "any")
    if not isinstance(name, str):
        raise AnalysisError(f"{place}: name is {name!r:.60}; expected words")
    check_choice(Positions, positions=positions)
    return Hypothesis(
        logits=_Reader(place).claim("logits", plain["logits"], depth=0),
        name=name,
        positions=positions,
        classes=_classes(plain.get("classes", {}), place),
    )


def feature_words(feature: Feature) -> str | list[str]:
    """A feature as plain values; a function is its name."""
    if isinstance(feature, str):
        return feature
    return list(feature) if isinstance(feature, Sequence) else getattr(feature, "__name__", type(feature).__name__)


def _walk(path: str, claim: Claim) -> Iterator[tuple[str, Claim]]:
    yield path, claim
    for child in claim.reads or ():
        yield from _walk(f"{path}/{child.name}", child)


def _changed(claim: Claim, path: str, target: str, changes: Mapping[str, Any]) -> Claim:
    if path == target:
        return replace(claim, **changes)
    if claim.reads is None or not target.startswith(f"{path}/"):
        return claim
    return replace(claim, reads=tuple(_changed(c, f"{path}/{c.name}", target, changes) for c in claim.reads))


def _read_file(path: Path) -> Any:
    """What a YAML file holds, which JSON is as well.

    Raises:
        AnalysisError: there is no such file, it is too large, or it is no YAML.
    """
    try:
        there = path.is_file()
    except (OSError, ValueError):  # too long for a name, as the text of a hypothesis is
        there = False
    if not there:
        raise AnalysisError(f"there is no file {str(path)[:60]!r}; expected a hypothesis in YAML or JSON")
    if path.stat().st_size > _LARGEST:
        raise AnalysisError(f"{path} has {path.stat().st_size:,} bytes; expected a hypothesis of at most {_LARGEST:,}")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_EveryKeyOnce)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise AnalysisError(f"{path} is no YAML: {' '.join(str(error).split())[:200]}") from None


class _EveryKeyOnce(yaml.SafeLoader):
    """Plain values alone, and no mapping that has a key twice, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping.

        Raises:
            ConstructorError: it has a key twice.
        """
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Reader:
    """Claims from plain values.

    Args:
        place: where they are from, for errors.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.n_claims = 0

    def claim(self, node: str, plain: Any, *, depth: int) -> Claim:
        """One claim and all that it reads.

        Raises:
            AnalysisError: it holds something else than a claim does, or there are too many.
        """
        self.n_claims += 1
        if depth > _DEEPEST or self.n_claims > _MOST:
            raise AnalysisError(
                f"{self.place} has more than {_MOST:,} claims, or claims {_DEEPEST} deep; expected a tree that a model "
                "of so many layers can have"
            )
        plain = {} if plain is None else plain
        if not isinstance(plain, Mapping):
            raise AnalysisError(
                f"{self.place}: the claim about {node!r} is {plain!r:.60}; expected a mapping with {', '.join(_KEYS)}"
            )
        _only(plain, _KEYS, f"{self.place}: the claim about {node!r}")
        return Claim(
            node=node,
            depends_on=self._feature(node, plain.get("depends_on", "everything")),
            at=self._at(node, plain.get("at", "")),
            reads=self._reads(node, plain.get("reads"), depth + 1),
        )

    def _feature(self, node: str, plain: Any) -> Feature:
        if isinstance(plain, str) or callable(plain):
            return plain
        if isinstance(plain, Sequence) and plain and all(isinstance(word, str) for word in plain):
            return tuple(plain)
        raise AnalysisError(
            f"{self.place}: {node!r} depends on {plain!r:.60}; expected the name of a feature such as token, or a list"
        )

    def _at(self, node: str, plain: Any) -> At:
        if plain == "" or plain in _AT or (isinstance(plain, int) and not isinstance(plain, bool) and plain >= 0):
            return plain
        raise AnalysisError(
            f"{self.place}: the claim about {node!r} is at {plain!r:.60}; expected {', '.join(_AT)}, or a position"
        )

    def _reads(self, node: str, plain: Any, depth: int) -> tuple[Claim, ...] | None:
        if plain is None:
            return None
        if isinstance(plain, Mapping):
            return tuple(self.claim(self._node(node, key), value, depth=depth) for key, value in plain.items())
        if not isinstance(plain, Sequence) or isinstance(plain, str):
            raise AnalysisError(f"{self.place}: {node!r} reads {plain!r:.60}; expected claims by the name of a node")
        claims = []
        for item in plain:
            if not isinstance(item, Mapping) or "node" not in item:
                raise AnalysisError(f"{self.place}: {node!r} reads {item!r:.60}; expected a claim with its node")
            rest = {key: value for key, value in item.items() if key != "node"}
            claims.append(self.claim(self._node(node, item["node"]), rest, depth=depth))
        return tuple(claims)

    def _node(self, reader: str, name: Any) -> str:
        if isinstance(name, str):
            return name
        hint = f"; write it in quotes, {str(name)!r}, since YAML reads 1.10 as 1.1" if isinstance(name, float) else ""
        raise AnalysisError(f"{self.place}: {reader!r} reads the node {name!r}; expected a name{hint}")


def _classes(plain: Any, place: str) -> dict[str, tuple[str, ...]]:
    """The tokens of each class; a word is its characters.

    Raises:
        AnalysisError: they are something else.
    """
    if not isinstance(plain, Mapping):
        raise AnalysisError(f"{place}: classes is {plain!r:.60}; expected tokens by the name of their class")
    classes = {}
    for name, tokens in plain.items():
        if not isinstance(name, str) or not isinstance(tokens, str | Sequence) or not tokens:
            raise AnalysisError(f"{place}: the class {name!r} is {tokens!r:.60}; expected its tokens, such as 'aeiou'")
        if not all(isinstance(token, str) for token in tokens):
            raise AnalysisError(f"{place}: the class {name!r} is {tokens!r:.60}; expected tokens as text, in quotes")
        classes[name] = tuple(tokens)
    return classes


def _only(plain: Mapping[Any, Any], expected: Sequence[str], place: str) -> None:
    """Raise AnalysisError where a mapping has a key that is not expected."""
    for key in plain:
        if key not in expected:
            raise AnalysisError(f"{place} has the key {key!r}; expected {', '.join(expected)}")
