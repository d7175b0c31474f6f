"""The section on circuits: the numbers of the functions, and a sentence where there is nothing to find."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.reporting.blocks import Heading, Paragraph, Picture, Table
from nanogpt_lens.reporting.making import SECTIONS, report
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.sections import circuits
from nanogpt_lens.text.pairs import find_prompt_pairs
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.reporting.conftest import WINDOWS
from tests.nanogpt_lens.reporting.report_helpers import flat, small, text


def made(path: Any, **options: Any) -> tuple[Section, Any]:
    page = report(path, sections=["summary", "circuits"], progress=False, **options)
    return page.sections[1], page


@pytest.fixture(scope="module")
def of_induction() -> Section:
    return made("induction")[0]


def of_kind(section: Section, kind: type) -> list[Any]:
    return [block for block in flat(section.body) if isinstance(block, kind)]


def test_it_stands_behind_patching():
    keys = list(SECTIONS)
    assert keys[keys.index("patching") + 1] == "circuits"


def test_the_handmade_circuit_is_found_and_holds_on_other_prompts():
    section, page = made("handmade_induction")
    assert section.status == "done"
    (table,) = of_kind(section, Table)
    assert sorted(row[1] for row in table.rows) == ["0.1->1.0.k", "1.0->logits", "embed->0.1.v"]
    elsewhere, budget = of_kind(section, Paragraph)
    (picture,) = of_kind(section, Picture)
    assert picture.says == "These 3 edges do what all 46 do (100%), and none of them can go."
    assert "Faithfulness: in sample: the search has seen 100%" in table.caption
    assert "and 1.00 (1.00 to 1.00) on 8 that did not, prompts of another seed, 1;" in elsewhere.text
    assert "few examples: n = 8" in elsewhere.text
    assert "at most 8 prompts of at most 32 tokens" in budget.text
    assert "Pairs of the text: no edit of one token changes the model's top prediction" in budget.text
    assert section.findings == (
        "3 of its 46 edges do 100% of the work on these prompts, and 100% on prompts that had no part in finding them.",
    )
    assert section.findings[0] in page.html


@pytest.mark.slow
def test_the_page_is_the_same_again():
    assert made("handmade_induction")[1].html == made("handmade_induction")[1].html


def test_numbers_are_those_of_the_functions(of_induction):
    model = ngl.load("induction")
    pairs = find_prompt_pairs(model, None, k=16, n=WINDOWS)
    assert len(pairs) > 8
    each = []
    for some in (pairs[:8], pairs[8:]):
        metric = ngl.metrics.logit_diff([p.answer for p in some], [p.wrong for p in some])
        each.append((torch.stack([p.clean for p in some]), torch.stack([p.corrupted for p in some]), metric))
    circuit = ngl.find_circuit(model, *each[0], method="exact", orders=0, progress=False)
    table = of_kind(of_induction, Table)[0]
    assert {row[1] for row in table.rows} == set(circuit.edges)
    values = dict(zip(circuit.labels["edge"], circuit.values.tolist(), strict=True))
    for row in table.rows:
        assert float(row[2].replace("−", "-")) == pytest.approx(values[row[1]], abs=5.1e-4)
    there = ngl.run_circuit(model, [[*circuit.edges]], *each[1], progress=False)
    assert f"and {float(there.faithfulness[0]):.2f} (" in of_kind(of_induction, Paragraph)[0].text


def test_both_kinds_of_prompts_of_a_small_model_with_their_commands(of_induction, tmp_path):
    titles = [block.text for block in of_kind(of_induction, Heading)]
    assert titles == ["Pairs found in the model's own text", "Induction: [A][B] ... [A]"]
    assert len(of_kind(of_induction, Picture)) == 2
    again = of_induction.commands[1].split()
    assert again[:3] == ["nanogpt-lens", "circuit", "find"]
    code, shown, _ = run(*again[1:])
    assert code == 0
    n_edges, of, share = re.match(r"(\d+) of (\d+) edges do (\d+%)", shown).groups()
    assert of_kind(of_induction, Picture)[1].says.startswith(f"These {n_edges} edges do what all {of} do ({share})")


def test_models_that_are_too_large_are_skipped_in_a_sentence(monkeypatch):
    monkeypatch.setattr(circuits, "MOST_EDGES", 45)
    section, _ = made("handmade_induction")
    assert (section.status, section.body) == ("does not apply", ())
    assert section.error == (
        "This model has 46 edges, and a report looks for circuits among at most 45: see nanogpt-lens circuit find "
        "handmade_induction."
    )


def test_a_middle_sized_model_is_asked_on_one_kind_of_prompts(monkeypatch):
    monkeypatch.setattr(circuits, "BOTH", 100)
    section, _ = made("induction")
    assert len(of_kind(section, Picture)) == 1
    assert (
        "Other prompts are left out, because the model has more than 100 edges" in of_kind(section, Paragraph)[-1].text
    )


def test_without_a_gap_there_is_a_sentence(tmp_path):
    section, _ = made(small(tmp_path), corpus=text(3000))
    assert section.status in ("done", "does not apply")  # random weights may be right now and then
    said = section.error or of_kind(section, Paragraph)[-1].text
    assert "so that there is no gap for a circuit to close" in said


def test_a_context_too_short_for_induction(tmp_path):
    section, _ = made(small(tmp_path, block_size=3), corpus=text(3000))
    said = section.error or of_kind(section, Paragraph)[-1].text
    assert "[A][B]...[A] prompts do not fit this model" in said
