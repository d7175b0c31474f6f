"""Draw the house as it stands: folders by rank, and the arrows of their imports, into docs/ARCHITECTURE.md and an SVG.

    python -m scripts.architecture            # writes both
    python -m scripts.architecture --check    # exit code 1 where they are not what the code says

An arrow that follows from others is left out: `cli -> heads` where `cli -> catalogue -> heads`.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path

from conversion.atomic import write_text
from tests.test_architecture import MODULES, RANKS, imports, room

ROOT = Path(__file__).resolve().parent.parent
PAGE, PICTURE = ROOT / "docs" / "ARCHITECTURE.md", ROOT / "docs" / "images" / "architecture.svg"
_WIDTH, _HEIGHT, _GAP, _ROW = 104, 34, 18, 74
_LEFT_OUT = ("nanogpt_lens", "__main__")


def arrows() -> dict[tuple[str, str], int]:
    """How many imports go from one folder to another, the declared exception left out."""
    count: dict[tuple[str, str], int] = {}
    for module, path in MODULES.items():
        for imported in imports(path):
            pair = room(module), room(imported)
            if pair[0] not in (pair[1], *_LEFT_OUT) and RANKS[pair[1]] < RANKS[pair[0]]:
                count[pair] = count.get(pair, 0) + 1
    return count


def without_shortcuts(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows that do not follow from two or more others."""
    below: dict[str, set[str]] = {}
    for start, end in pairs:
        below.setdefault(start, set()).add(end)

    def reached(start: str) -> set[str]:
        return {place for end in below.get(start, ()) for place in (end, *reached(end))}

    return sorted(
        (start, end) for start, end in pairs if not any(end in reached(other) for other in below[start] if other != end)
    )


def mermaid(kept: list[tuple[str, str]]) -> str:
    """The diagram as Mermaid reads it, the highest rank first."""
    names = sorted({name for pair in kept for name in pair}, key=lambda name: (-RANKS[name], name))
    lines = ["```mermaid", "flowchart TD"]
    for rank in sorted({RANKS[name] for name in names}, reverse=True):
        lines += [f"  subgraph rank{rank}[{rank}]", *(f"    {n}" for n in names if RANKS[n] == rank), "  end"]
    return "\n".join([*lines, *(f"  {start} --> {end}" for start, end in kept), "```"])


def svg(kept: list[tuple[str, str]]) -> str:
    """The same as a picture: a row for each rank."""
    names = sorted({name for pair in kept for name in pair}, key=lambda name: (-RANKS[name], name))
    rows = [[n for n in names if RANKS[n] == rank] for rank in sorted({RANKS[n] for n in names}, reverse=True)]
    width = max(len(row) for row in rows) * (_WIDTH + _GAP) + 60
    centre = {
        name: (30 + width / 2 + (i - (len(row) - 1) / 2) * (_WIDTH + _GAP), 30 + y * _ROW)
        for y, row in enumerate(rows)
        for i, name in enumerate(row)
    }
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 60:.0f} {len(rows) * _ROW + 20}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#8a8f98"/></marker></defs>',
    ]
    for start, end in kept:
        (x1, y1), (x2, y2) = centre[start], centre[end]
        middle = (y1 + y2) / 2
        lines.append(
            f'<path d="M{x1:.0f} {y1 + _HEIGHT / 2:.0f}C{x1:.0f} {middle:.0f} {x2:.0f} {middle:.0f} {x2:.0f} '
            f'{y2 - _HEIGHT / 2 - 2:.0f}" fill="none" stroke="#8a8f98" marker-end="url(#tip)"/>'
        )
    for y, row in enumerate(rows):
        lines.append(f'<text x="14" y="{34 + y * _ROW}" fill="#8a8f98">{RANKS[row[0]]}</text>')
        for name in row:
            x = centre[name][0] - _WIDTH / 2
            top = centre[name][1] - _HEIGHT / 2
            lines.append(
                f'<rect x="{x:.0f}" y="{top:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="#eef3fb" '
                f'stroke="#3b6fb6"/><text x="{x + _WIDTH / 2:.0f}" y="{top + 22:.0f}" text-anchor="middle" '
                f'fill="#1d2733">{html.escape(name)}</text>'
            )
    return "\n".join([*lines, "</svg>\n"])


def main() -> int:
    """Write both, or say whether they are what the code says."""
    count = arrows()
    kept = without_shortcuts(set(count))
    numbers = f"{len(count)} pairs of folders, {sum(count.values())} imports between them"
    page = PAGE.read_text()
    page = re.sub(r"```mermaid\n.*?```", lambda _: mermaid(kept), page, flags=re.DOTALL)
    page = re.sub(r"\d+ pairs of folders, \d+ imports between them", numbers, page)
    if "--check" in sys.argv:
        return int(page != PAGE.read_text() or svg(kept) != PICTURE.read_text())
    write_text(PAGE, page)
    write_text(PICTURE, svg(kept))
    print(numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
