"""Whether what a notebook's text says is true of the run above it.

Beside each notebook stands `notebooks/checks/NAME.py`. It runs in the notebook's own kernel after the last cell, sees
the reader's variables, and says which sentence rests on which of them:

    says("It loses 0.37 nats, and head 1.3 is worth 0.03", importance.max(), importance[1, 3])
    holds("No head is an induction head", not taxonomy.heads("induction"))
    defines("accuracy is above 0.8")

Every piece has to stand in the text as it is. Numbers in it are compared, in order, with the values; a decimal number
or a percentage of the text that no piece covers is an error.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Any

NUMBER = re.compile(r"(?<![\w.,])[-−+]?\d[\d,]*(?:\.\d+)?%?(?![\w])")
_NO_NUMBERS = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>"  # code, addresses
    r"|\b[Hh]eads? \d+\.\d+(?:(?:, and |, | and | or | to )\d+\.\d+)*"  # names of heads
    r"|\b(?:[Ll]ayers?|MLP|[Nn]otebooks?) \d+(?:(?:, | and | or | to )\d+)*"
    r"|\b95% (?=interval)|\b95% (?=of rankings)",
    re.DOTALL,
)


def prose(texts: Iterable[str]) -> str:
    """The text of markdown cells, with single blanks, and without the marks of emphasis."""
    return re.sub(r"\s+", " ", " ".join(texts).replace("**", "").replace("*", ""))


def numbers(text: str) -> list[str]:
    """The numbers of a text, as they are written; names of heads, code and addresses have none."""
    return NUMBER.findall(_NO_NUMBERS.sub(" ", text))


def precise(text: str) -> list[str]:
    """The numbers that only a run can give: decimals and percentages."""
    return [number for number in numbers(text) if "." in number or "%" in number]


def pieces(source: str) -> Iterator[str]:
    """The pieces of text that a file of checks rests on."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("says", "holds", "defines"):
            assert isinstance(node.args[0], ast.Constant), f"line {node.lineno}: the piece has to be a plain string"
            yield str(node.args[0].value)


def uncovered(text: str, covered: Iterable[str]) -> list[str]:
    """Where the text has a precise number and no piece covers it: each with the words around it."""
    masked = _NO_NUMBERS.sub(lambda found: " " * len(found[0]), text)
    for piece in covered:
        masked = masked.replace(_NO_NUMBERS.sub(lambda found: " " * len(found[0]), piece), " " * len(piece))
    return [
        f"{found[0]} in “{text[max(0, found.start() - 40) : found.end() + 20]}”"
        for found in NUMBER.finditer(masked)
        if "." in found[0] or "%" in found[0]
    ]


def is_near(said: str, value: Any) -> bool:
    """Whether a number is the value, rounded; processors and TransformerLens may differ by one in its last digit."""
    plain = said.replace(",", "").replace("−", "-").rstrip("%")
    decimals = len(plain.partition(".")[2])
    return abs(float(plain) - float(value) * (100 if said.endswith("%") else 1)) <= 1.01 * 10**-decimals


class Claims:
    """What was said and is not so, collected: all at once, with the numbers that there are.

    Args:
        text: the notebook's text, see `prose`.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.n = 0
        self.wrong: list[str] = []

    def says(self, piece: str, *values: Any) -> None:
        """Compare the numbers of a piece of text with values, in order; a share is compared with a percentage."""
        self._stands(piece)
        said = numbers(piece)
        if len(said) != len(values):
            self.wrong.append(
                f"“{piece}” has the numbers {', '.join(said) or 'none'}, and {len(values)} values are given"
            )
        elif not all(is_near(a, b) for a, b in zip(said, values, strict=True)):
            self.wrong.append(f"“{piece}”: it is {', '.join(f'{float(value):.4g}' for value in values)}")

    def holds(self, piece: str, condition: Any) -> None:
        """Note where a condition that a piece of text rests on is false."""
        self._stands(piece)
        if not condition:
            self.wrong.append(f"“{piece}”: it does not hold")

    def defines(self, piece: str) -> None:
        """Note that the numbers of a piece are choices, such as a threshold, and not of this run."""
        self._stands(piece)

    def _stands(self, piece: str) -> None:
        self.n += 1
        if piece not in self.text:
            self.wrong.append(f"“{piece}” is not in the text")
