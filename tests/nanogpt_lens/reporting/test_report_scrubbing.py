"""The section on a hypothesis: the numbers of the function, there only where one is given, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.core import intervals
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.blocks import Facts, Paragraph, Picture, Table
from nanogpt_lens.reporting.making import SECTIONS, chosen_sections, report
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.sections import scrubbing
from nanogpt_lens.reporting.words import share
from tests.hostile import HOSTILE
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.reporting.report_helpers import flat, read, section
from tests.nanogpt_lens.reporting.test_report_doubts import SAID, with_intervals

HYPOTHESIS = """
name: keys are the token itself
logits:
  reads:
    "1.0":
      depends_on: [token, followed_earlier]
      reads: {q: {depends_on: token}, k: {depends_on: token}, v: {depends_on: token}}
"""
TRUE = {"logits": {"reads": {"1.0": {"reads": {"k": {"depends_on": "previous_token"}, "q": {}, "v": {}}}}}}


def made(hypothesis: Any, path: Any = "handmade_induction", **options: Any) -> tuple[Section, Any]:
    page = report(path, sections=["summary", "scrubbing"], hypothesis=hypothesis, progress=False, **options)
    return page.sections[1], page


def of_kind(made: Section, kind: type) -> list[Any]:
    return [block for block in flat(made.body) if isinstance(block, kind)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("hypothesis") / "keys.yaml"
    path.write_text(HYPOTHESIS)
    return path


@pytest.fixture(scope="module")
def of_file(file: Any) -> tuple[Section, Any]:
    return made(file)


@pytest.fixture(scope="module")
def expected(file: Any) -> Any:
    model = ngl.load("handmade_induction")
    return ngl.scrub(model, file, ngl.induction_pairs(model, n=128), n_draws=2, progress=False)


def test_it_stands_behind_circuits_and_is_there_only_with_a_hypothesis():
    keys = list(SECTIONS)
    assert keys[keys.index("circuits") + 1] == "scrubbing"
    about: dict[str, Any] = {"path": "x", "several": False, "alone": False}
    without = chosen_sections(None, **about)
    assert "scrubbing" not in without
    assert set(chosen_sections(None, **about, scrubs=True)) - set(without) == {"scrubbing"}


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "few"), [(10**9, True), (0, False)])
def test_every_block_with_intervals_says_that_examples_are_few(file, monkeypatch, threshold, few):
    for kind in intervals.FEW:
        monkeypatch.setitem(intervals.FEW, kind, threshold)
    blocks = list(with_intervals(made(file)[0]))
    assert blocks
    for what, said in blocks:
        assert bool(SAID.search(said)) is few, (what, said)


def test_numbers_are_those_of_the_function(of_file, expected):
    part, page = of_file
    assert part.status == "done"
    low, high = expected.interval_of_recovered
    said = (
        f"“keys are the token itself” recovers {expected.recovered:.0%} ({low:.0%} to {high:.0%}) of what the model "
        f"does; with the values of its features shuffled, {share(expected.of('features permuted'))}. What costs most: "
        f"that the key of head 1.0 depends on the token here alone ({float(expected.cost[3]):.0%})."
    )
    assert of_kind(part, Paragraph)[0].text == said
    assert of_kind(part, Paragraph)[0].tone == "plain"
    assert part.findings[0].startswith(
        f"The explanation does not hold as it stands: it recovers {expected.recovered:.0%} of "
    )
    assert part.findings[1] == said
    assert said in read(page.html).text
    (table,) = of_kind(part, Table)
    assert [row[0] for row in table.rows] == list(expected.claims)
    numbers = [float(row[6].split(" ")[0].replace("−", "-")) for row in table.rows]
    assert numbers == pytest.approx(expected.need.tolist(), abs=5.1e-4)
    assert table.rows[3][5] == "–", "it says nothing of what the key reads"
    assert len(of_kind(part, Picture)) == 2


def test_it_says_how_it_was_measured(of_file):
    part, _ = of_file
    said = of_kind(part, Paragraph)[-1].text
    assert "On 128 prompts of 20 tokens of the task induction, each scrubbed twice." in said
    assert "drawn freely" in said
    features = dict(of_kind(part, Facts)[0].pairs)
    assert set(features) == {"everything", "token", "followed_earlier"}
    assert features["followed_earlier"] == "the token that followed the last earlier occurrence of the token here"
    assert any("(76% of them) and stand in for themselves" in block.text for block in of_kind(part, Paragraph))


def test_the_commands_make_it_again(of_file, file, monkeypatch):
    part, page = of_file
    assert part.commands == ("nanogpt-lens scrub handmade_induction keys.yaml --n 128 --n-draws 2",)
    assert page.sections[0].commands == (
        "nanogpt-lens report handmade_induction -o report.html --hypothesis keys.yaml",
    )
    monkeypatch.chdir(file.parent)
    code, shown, _ = run(*part.commands[0].split()[1:], "--no-weaken")
    assert code == 0
    recovered = re.search(r"recovers (\d+%)", shown)
    assert recovered is not None
    assert f"recovers {recovered[1]} of" in part.findings[0]


def test_an_explanation_that_holds_is_green():
    part, _ = made(TRUE)
    verdict = of_kind(part, Paragraph)[0]
    assert verdict.tone == "good"
    assert verdict.text.startswith("The hypothesis recovers 100% (100% to 100%) of what the model does; with ")
    assert verdict.text.endswith("No claim surely costs anything.")
    assert part.commands[0].endswith("# the hypothesis was given in Python: put it into this file")


def test_of_very_many_claims_none_is_weakened(monkeypatch):
    monkeypatch.setattr(scrubbing, "_MOST", 3)
    part, _ = made(TRUE)
    assert of_kind(part, Table)[0].header == ("claim", "depends on", "values", "alone")
    assert "for at most 3 claims in a report; this hypothesis has 5" in of_kind(part, Paragraph)[-1].text
    assert "--no-weaken" in part.commands[0]


@pytest.mark.slow
def test_names_that_try_something_are_text():
    name = next(iter(HOSTILE))
    _, page = made({**TRUE, "name": "".join(HOSTILE)[:300] + name})
    body = section(read(page.html), "scrubbing")
    assert not [element for element in body.all("img") if "onerror" in element.attributes]
    scripts = "".join(element.text for element in body.all("script"))
    assert "pwned" in scripts, "it is in the figure, as text"
    assert not re.search(r"\\u003c(?!\\u2060|/?b\\u003e|br\\u003e|/?extra\\u003e)", scripts)


@pytest.mark.parametrize(
    ("hypothesis", "options", "sentence"),
    [
        ("nowhere.yaml", {}, "there is no file 'nowhere.yaml'; expected a hypothesis in YAML or JSON"),
        ({"logits": {"reads": {"5.0": {}}}}, {}, "5.0"),
        ({"logits": {"depends_on": "colour"}}, {}, "'colour' is no feature; expected token"),
        (TRUE, {"sections": ["summary"]}, "a hypothesis was given, but the section scrubbing, which alone uses it"),
        (None, {"sections": ["scrubbing"]}, "the section scrubbing was chosen without a hypothesis"),
    ],
)
def test_what_is_wrong_is_refused_before_the_work(hypothesis, options, sentence):
    with pytest.raises(AnalysisError, match=re.escape(sentence)):
        report("handmade_induction", hypothesis=hypothesis, progress=False, **{"sections": ["scrubbing"], **options})


@pytest.mark.slow
def test_on_the_command_line(file, tmp_path):
    words = ("report", "handmade_induction", "--sections", "scrubbing", "-o", tmp_path / "x.html")
    code, shown, said = run(*words)
    assert (code, shown, said.count("\n")) == (2, "", 1)
    assert "give --hypothesis FILE too, or leave it out" in said
    code, shown, _ = run(*words, "--hypothesis", file)
    assert code == 0
    assert "1 of 1 sections" in shown
    assert "keys are the token itself" in (tmp_path / "x.html").read_text()
