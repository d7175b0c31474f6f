"""The pages of docs/, their blocks and links, for the tests of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
"""The text of every page, by its path in docs/."""
FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", flags=re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The code of a page's blocks in a language."""
    return [code for kind, code in FENCE.findall(PAGES[page]) if kind == language]


def prose(text: str) -> str:
    """A page without its code, in blocks and in lines."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def links(text: str) -> list[tuple[str, str]]:
    """The relative links of a page: place, and anchor."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [(place, anchor) for place, _, anchor in (link.partition("#") for link in found) if ":" not in place]


def anchors(text: str) -> set[str]:
    """What may stand behind # in a link to a page: its headings, as MkDocs writes them."""
    titles = re.findall(r"^#+ (.+?)(?: \{#[\w-]+\})?$", FENCE.sub("", text), flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles)
    named = set(re.findall(r"\{#([\w-]+)\}", text))
    return named | {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}
