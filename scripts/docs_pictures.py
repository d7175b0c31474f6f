"""Draw the pictures of the how-to pages: what the first Python block of a page shows, as its reader will see it.

    python -m scripts.docs_pictures [NAME ...]

A page `docs/how-to/NAME.md` with the picture `images/how-to/NAME.png` has a first block whose last line is a figure.
Needs the extra `pictures` and Chromium.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from nanogpt_lens.viz.export import one_browser, to_png
from nanogpt_lens.viz.figures import uncaptioned

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "how-to"
PICTURES = ROOT / "docs" / "images" / "how-to"


def pages_with_pictures() -> list[str]:
    """The names of the pages whose picture their own block draws."""
    return [page.stem for page in sorted(PAGES.glob("*.md")) if f"images/how-to/{page.stem}.png" in page.read_text()]


def shown(code: str) -> Any:
    """Run a block; what its last line is worth."""
    *before, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        raise SystemExit(f"the last line of a block is no figure: {ast.unparse(last)}")
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(ast.Module(before, []), "the page", "exec"), names)
    return eval(compile(ast.Expression(last.value), "the page", "eval"), names)


def main() -> None:
    """Draw all pictures, or those named."""
    PICTURES.mkdir(exist_ok=True)
    with one_browser(), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name in sys.argv[1:] or pages_with_pictures():
            first = re.search(r"```python\n(.*?)```", (PAGES / f"{name}.md").read_text(), flags=re.DOTALL)
            assert first is not None, name
            to_png(uncaptioned(shown(first.group(1)))[0], PICTURES / f"{name}.png", width=760)
            print(name, flush=True)


if __name__ == "__main__":
    main()
