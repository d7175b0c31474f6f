"""Reports of small checkpoints, and a page read with the standard library's parser."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tests.hostile import HOSTILE
from tests.making import CHARS, write, write_meta

VOID = {"meta", "link", "input", "br", "img", "hr", "rect", "line"}
WORDS = ("the", "king", "and", "ROMEO", "what", "is", "my", "lord", "O", "night")


def text(n: int, seed: int = 0) -> str:
    """Lines of words."""
    rng = random.Random(seed)
    lines = [" ".join(rng.choice(WORDS) for _ in range(rng.randint(2, 6))) for _ in range(n // 12)]
    return "\n".join(line + ("\n" if rng.random() < 0.2 else "") for line in lines)[:n]


def flat(blocks: Iterable[Any]) -> Iterator[Any]:
    """The blocks, and those that are folded away, in their order."""
    for block in blocks:
        yield block
        if block.kind == "folded":
            yield from flat(block.body)


def small(folder: Path, *, vocabulary: bool = True, **sizes: object) -> Path:
    """A checkpoint with random weights, and nanoGPT's meta.pkl unless told otherwise."""
    write(folder, **({"block_size": 16} | sizes))
    if vocabulary:
        write_meta(folder, CHARS)
    return folder


def hostile(folder: Path) -> Path:
    """A checkpoint whose tokens try to run something."""
    from tokenizers import Tokenizer, decoders, models

    tokens = [t for t in HOSTILE if t and "\ud800" not in t] + ["a", "b", " ", "B"]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="a"))
    tokenizer.decoder = decoders.Fuse()
    write(folder, vocab_size=len(tokens), block_size=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]["&lt;"] >= 0
    return folder


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it."""
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Every element below it of a tag and with some attributes; class_ is one of its classes."""
        found = []
        for child in self.children:
            if isinstance(child, Element):
                mine = not tag or child.tag == tag
                for name, value in attributes.items():
                    own = child.attributes.get(name.rstrip("_"), "")
                    mine = mine and (value in own.split() if name == "class_" else own == value)
                found += [child] if mine else []
                found += child.all(tag, **attributes)
        return found

    def tables(self) -> list[list[list[str]]]:
        """Every table as rows of cells, the header first."""
        return [
            [[cell.text for cell in row.children if isinstance(cell, Element)] for row in table.all("tr")]
            for table in self.all("table")
        ]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(html: str) -> Element:
    """The page; asserts that every element is closed where it should be."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def section(page: Element, key: str) -> Element:
    """One section of a page."""
    (found,) = [s for s in page.all("section") if s.attributes["id"] == key]
    return found
