"""A report whose results have other prose: the same sections, verdicts, numbers and commands but for those words."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from plotly.graph_objects import Figure

from nanogpt_lens.reporting.blocks import Paragraph, Picture, Table
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.results import Result
from tests.nanogpt_lens.reporting.report_helpers import flat, small, text
from tests.nanogpt_lens.viz.test_prose_is_for_people import differences, in_other_words, same_but_for_words

pytestmark = pytest.mark.slow  # whole reports

SECTIONS = ("heads", "attention", "induction", "lens", "neurons", "loss")


def sections_of(folder: Path) -> tuple[Section, ...]:
    return report(folder, corpus=text(3000), sections=list(SECTIONS), progress=False).sections


def test_sections_hang_on_no_word(tmp_path, monkeypatch: pytest.MonkeyPatch):
    folder = small(tmp_path / "out")
    expected = sections_of(folder)
    checked = Result.__post_init__

    def with_other_prose(self: Result) -> None:
        checked(self)
        object.__setattr__(self, "quantity", in_other_words(self.quantity))
        object.__setattr__(self, "definition", in_other_words(self.definition))

    monkeypatch.setattr(Result, "__post_init__", with_other_prose)
    changed = 0
    for one, other in zip(expected, sections_of(folder), strict=True):
        assert (one.key, one.status, one.commands) == (other.key, other.status, other.commands)
        assert one.status not in ("failed", "does not apply")
        blocks, others = (list(flat(section.body)) for section in (one, other))
        assert [type(block) for block in blocks] == [type(block) for block in others]
        for a, b in zip((*one.findings,), (*other.findings,), strict=True):
            assert same_but_for_words(a, b)
        for a, b in zip(blocks, others, strict=True):
            if isinstance(a, Paragraph) and isinstance(b, Paragraph):
                assert a.tone == b.tone
                assert same_but_for_words(a.text, b.text)
                changed += a.text != b.text
            elif isinstance(a, Table) and isinstance(b, Table):
                assert replace(a, caption="") == replace(b, caption="")
                assert same_but_for_words(a.caption, b.caption)
                changed += a.caption != b.caption
            elif isinstance(a, Picture) and isinstance(b, Picture):
                assert a.label == b.label
                assert same_but_for_words(a.caption, b.caption)
                drawn = [block.picture for block in (a, b) if isinstance(block.picture, Figure)]
                plots = [json.loads(str(figure.to_json(engine="json"))) for figure in drawn]
                assert not (plots and list(differences(*plots)))
    assert changed
