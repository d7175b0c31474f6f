"""Every table and sentence of the report that shows intervals says that they are of few examples, or in sample."""

import re

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core import intervals
from nanogpt_lens.reporting.blocks import Paragraph, Table
from nanogpt_lens.reporting.doubts import doubts
from nanogpt_lens.reporting.making import report, section_titles
from nanogpt_lens.results import Sample, Scores
from tests.conftest import convert
from tests.handmade import handmade_checkpoint
from tests.making import CHARS, content, write_meta
from tests.nanogpt_lens.reporting.report_helpers import flat, text

pytestmark = pytest.mark.slow  # whole reports

INTERVAL = re.compile(r"\(−?[\d.]+ to −?[\d.]+\)")
SAID = re.compile(r"(few|hardly any) examples: n = \d+")
WITHOUT = ("certificate", "summary", "scrubbing")  # scrubbing has a test of its own: a random model does nothing
"""Sections that take long, or repeat others."""
WITH_INTERVALS = (
    "loss",
    "heads",
    "induction",
    "lens",
    "neurons",
    "checkpoints",
    "head_importance",
    "circuits",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two checkpoints, one of which is looked into."""
    out = tmp_path_factory.mktemp("out")
    for name, seed in (("ckpt.pt", 1), ("ckpt_2.pt", 2)):
        what = content(block_size=16, seed=seed)
        what["iter_num"] = seed
        torch.save(what, out / name)
    write_meta(out, CHARS)
    return out


def with_intervals(section):
    """The tables and paragraphs of a section that show intervals, as text: what they show, and what they say of it."""
    for block in flat(section.body):
        if isinstance(block, Table) and any(INTERVAL.search(cell) for row in block.rows for cell in row):
            yield block.header, block.caption
        elif isinstance(block, Paragraph) and INTERVAL.search(block.text):
            yield "paragraph", block.text


@pytest.fixture
def registered(monkeypatch):
    """An analysis with intervals in the report, beside those that are written for it."""
    analysis = ngl.catalogue.find("head_importance")
    monkeypatch.setitem(
        ngl.catalogue.ANALYSES, "head_importance", analysis.__class__(**{**vars(analysis), "in_report": True})
    )


@pytest.mark.parametrize(("threshold", "few"), [(10**9, True), (0, False)])
def test_every_block_with_intervals_says_it(folder, registered, monkeypatch, threshold, few):
    for kind in intervals.FEW:
        monkeypatch.setitem(intervals.FEW, kind, threshold)
    every = [key for key in section_titles() if key not in WITHOUT]
    made = report(folder, corpus=text(3000), sections=every, progress=False)
    assert not made.failed
    seen = set()
    for section in made.sections:
        for what, said in with_intervals(section):
            assert bool(SAID.search(said)) is few, (section.key, what, said)
            seen.add(section.key)
        if section.key == "head_importance":  # it shows values alone, and its picture the intervals
            (table,) = (block for block in flat(section.body) if isinstance(block, Table))
            assert bool(SAID.search(table.caption)) is few
            seen.add(section.key)
    assert seen == set(WITH_INTERVALS)


SHORT = ["loss", "heads", "induction", "checkpoints"]


def test_a_short_text_is_said_where_it_is_read_and_not_where_tokens_are_random(folder):
    made = {s.key: s for s in report(folder, corpus=text(70), sections=SHORT, progress=False).sections}
    captions = {b.header[0]: b.caption for b in flat(made["induction"].body) if isinstance(b, Table)}
    assert re.search(r"Text: few examples: n = \d\.", captions["head"])
    assert "Random tokens:" not in captions["head"]
    assert "examples: n" not in captions["prompts"]
    for key, start in (("loss", "Intervals: "), ("heads", "Loss rise: few"), ("checkpoints", "Intervals: ")):
        said = " ".join(b.caption for b in flat(made[key].body) if isinstance(b, Table))
        assert re.search(rf"{start}.*examples: n = \d\.", said), (key, said)


def scores(n, **sample):
    return Scores(
        values=torch.zeros(()), axes=(), quantity="", definition="", low=torch.zeros(()), high=torch.ones(()),
        interval="t", sample=Sample(n=n, **sample),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("results", "named", "said"),
    [
        ([], {}, ""),
        ([None, scores(10)], {"text": None}, ""),
        ([scores(4)], {}, " Intervals: few examples: n = 4."),
        ([scores(2), scores(2)], {}, " Intervals: hardly any examples: n = 2."),
        ([scores(32)], {"loss_rise": scores(5)}, " Loss rise: few examples: n = 5."),
        (
            [scores(32, seen_by="the lens", seen_share=1.0)],
            {},
            " Intervals: in sample: the lens has seen 100% of this text before.",
        ),
        (
            [scores(3, seen_by="the lens")],
            {},
            " Intervals: few examples: n = 3. "
            "Intervals: unknown whether in sample; the lens may have seen the same before.",
        ),
    ],
)
def test_doubts(results, named, said):
    assert doubts(*results, **named) == said


def test_the_ablation_of_the_section_on_induction_says_it_too():
    from nanogpt_lens.reporting.sections.induction import _without

    model = convert(handmade_checkpoint())
    ablation = ngl.ablate_induction_heads(model, [(1, 0)], n=4, progress=False)
    said = _without(ablation)
    assert "few examples: n = 4" in said
    assert "unknown whether in sample; the choice of heads" in said
