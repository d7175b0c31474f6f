"""The sections of docs/FILES.md on vocabularies and exports are true: their Python runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

TEXT = (Path(__file__).parent.parent / "docs" / "FILES.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    return re.split(r"\n## ", TEXT.split(f"## {title}\n")[1])[0]


def test_the_snippets_run_and_print_what_they_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for title in ("Vocabularies", "Exports and their clients"):
        for code in re.findall(r"```python\n(.*?)```", section(title), flags=re.DOTALL):
            said = re.findall(r"^print\((.*)\) +# (.*)$", code, flags=re.MULTILINE)
            exec(code, names)
            assert said
            for expression, printed in said:
                assert str(eval(expression, names)) == printed
    assert isinstance(names["rows"]["tokens"][0], torch.Tensor)
