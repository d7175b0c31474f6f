"""A report of a model of GPT-2's size has one model in memory at a time."""

from __future__ import annotations

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.reporting import making, sections
from nanogpt_lens.reporting.blocks import Table
from nanogpt_lens.reporting.subject import Subject, is_large
from tests.making import write, write_meta

SECTIONS = ["certificate", "attention"]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    write_meta(tmp_path)
    return tmp_path


def test_the_model_is_made_again_after_the_certificate_and_the_page_is_the_same(folder, monkeypatch):
    usual = ngl.report(folder, sections=SECTIONS, progress=False)
    order = []
    convert, section_of = making.convert, making.section_of
    monkeypatch.setattr(making, "is_large", lambda n_params: True)
    monkeypatch.setattr(making, "convert", lambda *a, **k: (order.append("model"), convert(*a, **k))[1])
    monkeypatch.setattr(making, "section_of", lambda r, s: (section_of(r, s), order.append(r.key))[0])
    large = ngl.report(folder, sections=SECTIONS, progress=False)
    assert order == ["model", "certificate", "model", "attention"]
    assert large.html == usual.html


def test_a_file_that_changes_meanwhile_is_named(folder, monkeypatch):
    monkeypatch.setattr(making, "is_large", lambda n_params: True)
    about = {"path": str(folder), "raw_text": None, "pair": None, "hypothesis": None}
    subject = making._subject(about, Reading())
    write(folder, seed=1)
    with pytest.raises(AnalysisError, match="has changed while the report was made"):
        _ = subject.model


def test_sections_of_a_large_model_read_less_and_say_so(folder, monkeypatch):
    """Each on the same model, taken for a large one."""
    text = "To be, or not to be, that is the question:\n" * 100
    monkeypatch.setattr(Subject, "is_large", True)
    monkeypatch.setattr(sections.neurons, "_MOST_OF_LARGE", 30)
    monkeypatch.setattr(sections.lens, "_LONGEST_OF_LARGE", 6)
    made = ngl.report(folder, corpus=text, sections=["loss", "lens", "neurons"], progress=False)
    assert not made.failed
    assert "These are the 30 of 128 whose peaks stand out most" in made.html
    assert "sequences of 6 tokens" in made.html
    commands = {section.key: " ".join(section.commands) for section in made.sections}
    assert "--max-new-tokens 64" in commands["loss"]
    search = next(section for section in made.sections if section.key == "neurons").results["search_neurons"]
    known = (search.promoted[..., 0] >= 0).sum()
    assert known == 30
    assert "read in sequences of" in made.html
    assert "Read between layers alone." in made.html
    assert "inside layers too: numbers differ a little" in commands["lens"]


def test_patching_of_a_large_model_takes_heads_whole_and_fewer_pairs(monkeypatch):
    """On a model that has pairs: heads are patched at all positions alone, and the table says so."""
    usual = ngl.report("shakespeare_char", corpus="shakespeare_char", sections=["patching"], progress=False)
    monkeypatch.setattr(Subject, "is_large", True)
    monkeypatch.setattr(making, "is_large", lambda n_params: False)
    large = ngl.report("shakespeare_char", corpus="shakespeare_char", sections=["patching"], progress=False)
    assert not large.failed
    assert "The 8 pairs" in usual.html
    assert "The 4 pairs" in large.html
    assert "in 4 windows of" in large.html
    rows = [cells[:3] for block in flat(large) if isinstance(block, Table) for cells in block.rows]
    heads = [row for row in rows if row[0] == "head"]
    assert len(heads) == 5
    assert {row[2] for row in heads} == {"all"}


def flat(report):
    """All blocks of a report, those in folds too."""
    todo = [block for section in report.sections for block in section.body]
    while todo:
        block = todo.pop(0)
        yield block
        todo += getattr(block, "body", ())


def test_less_is_read_of_a_large_model_and_of_none_below():
    assert not is_large(10_745_088)
    assert is_large(124_000_000)
    small, large = (Subject(path="x", n_params=n) for n in (10_745_088, 124_337_664))
    assert (small.affordable(2**16, 2**13), large.affordable(2**16, 2**12)) == (32573, 4096)
