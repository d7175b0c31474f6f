"""The command scrub: the numbers of the function, the features by name, and one sentence for bad input."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.circuits.scrubbing import FEATURES
from nanogpt_lens.text.task_pairs import own_task, pairs_by_name
from tests.nanogpt_lens.cli.test_cli import run

MODEL = "handmade_induction"
FEW = ("--n", 16, "--seq-len", 8, "--n-draws", 2)
HYPOTHESIS = """
name: an induction head
logits:
  reads:
    "1.0":
      reads:
        q: {depends_on: token}
        k: {depends_on: previous_token}
        v: {depends_on: token}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: Any) -> Any:
    path = tmp_path_factory.mktemp("scrub") / "hypothesis.yaml"
    path.write_text(HYPOTHESIS)
    return path


@pytest.fixture(scope="module")
def expected(file: Any) -> Any:
    model = ngl.load(MODEL)
    return ngl.scrub(model, file, ngl.induction_pairs(model, n=16, seq_len=8), n_draws=2, progress=False)


def test_the_numbers_are_those_of_the_function(file, expected, tmp_path):
    words = (*FEW, "--json", "-o", tmp_path / "kept", "--plot", tmp_path / "x.html")
    code, shown, said = run("scrub", MODEL, file, *words)
    assert code == 0
    found = json.loads(shown)["scrubbing"]
    numbers = {row["condition_label"]: row["value"] for row in found["rows"]}
    assert numbers == pytest.approx({name: expected.of(name) for name in expected.labels["condition"]}, rel=1e-5)
    assert found["sentence"] == expected.sentence()
    need = {row["claim"]: row["need"] for row in found["claims_table"]}
    assert need == pytest.approx(dict(zip(expected.claims, expected.need.tolist(), strict=True)), rel=1e-5)
    assert torch.equal(ngl.load_result(tmp_path / "kept").metric, expected.metric)
    assert "picture written to" in said
    assert "an induction head" in (tmp_path / "x.html").read_text()


def test_it_prints_the_sentence_the_controls_and_the_claims_in_words(file, expected):
    code, shown, _ = run("scrub", MODEL, file, *FEW)
    assert code == 0
    lines = shown.splitlines()
    asked = "16 prompts of the task induction, 8 tokens each, 2 draws of each"
    assert [lines[0], lines[-1]] == [f"{expected.sentence()}.", f"{asked}; {expected.definition}"]
    for name, line in zip(expected.labels["condition"], lines[2:7], strict=True):
        assert line.startswith(f"{name} ")
    assert f"{expected.of('features permuted'):.1%} [" in lines[5]
    first = lines.index(next(line for line in lines if line.startswith("claim ")))
    claims = (
        "logits: everything",
        "  head 1.0: everything",
        "    query: the token here",
        "    key: the token before",
        "    value: the token here",
    )
    for claim, line in zip(claims, lines[first + 1 : first + 6], strict=True):
        assert line.startswith(f"{claim} ")
    key = lines[first + 4]
    assert f"{float(expected.need[3]):.1%} [{float(expected.need_low[3]):.1%}," in key
    assert " - " in key, "it says nothing of what the key reads"
    assert any(line.startswith("rest: what is recovered in addition") for line in lines)


def test_a_row_per_condition_and_per_cost_as_csv(file, expected):
    rows = list(csv.DictReader(io.StringIO(run("scrub", MODEL, file, *FEW, "--csv")[1])))
    numbers = {(row["measure"], row["place"]): float(row["value"]) for row in rows}
    assert numbers["recovered", "features permuted"] == pytest.approx(expected.of("features permuted"))
    for what in ("cost", "need"):
        for path, value in zip(expected.claims, getattr(expected, what).tolist(), strict=True):
            assert numbers[what, path] == pytest.approx(value)
    assert {place for what, place in numbers if what == "rest"} == {"logits", "logits/1.0"}


def test_without_weakening_no_claim_is_measured(file):
    code, shown, _ = run("scrub", MODEL, file, *FEW, "--no-weaken", "--json")
    assert code == 0
    assert set(json.loads(shown)["scrubbing"]["claims_table"][0]) == {"claim", "depends_on", "n_values", "alone"}
    assert "cost" not in run("scrub", MODEL, file, *FEW, "--no-weaken")[1]


def test_the_features_are_listed_with_their_definitions():
    code, shown, _ = run("scrub", "--features")
    assert code == 0
    for name, definition in FEATURES.items():
        assert any(line.split(maxsplit=1) == [name, definition] for line in shown.splitlines())


def test_the_task_is_the_models_own(file, tmp_path):
    model = ngl.load("induction")
    assert own_task(model) == "trigger_bigrams"
    assert own_task(ngl.load(MODEL)) == "induction"
    expected = ngl.scrub(
        model, file, pairs_by_name(model, "trigger_bigrams", n=16), n_draws=1, weaken=False, progress=False
    )
    words = ("--n", 16, "--n-draws", 1, "--no-weaken", "--json")
    rows = json.loads(run("scrub", "induction", file, *words)[1])["scrubbing"]["rows"]
    assert rows[0]["value"] == pytest.approx(expected.recovered, rel=1e-5)


def test_passages_of_a_text_end_with_the_answer(file, tmp_path):
    (tmp_path / "text.txt").write_text("the king and the night " * 40)
    (tmp_path / "all.yaml").write_text("logits: {reads: {resid_pre1: {depends_on: token}}}")
    words = ("--text", tmp_path / "text.txt", "--n", 16, "--seq-len", 5, "--n-draws", 1, "--json")
    code, shown, _ = run("scrub", "shakespeare_char", tmp_path / "all.yaml", *words)
    assert code == 0
    found = json.loads(shown)["scrubbing"]
    assert found["sample"]["n"] == 16
    assert found["sample"]["seq_len"] == 5
    prompts = found["provenance"]["arguments"]["prompts"]
    model = ngl.load("shakespeare_char")
    whole = model.to_tokens("the king and the night " * 40, prepend_bos=False, truncate=False)[0].tolist()
    for prompt, answer in zip(prompts, found["provenance"]["arguments"]["answer"], strict=True):
        assert any(whole[i : i + 6] == [*prompt, answer] for i in range(len(whole)))


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (None, (), "none.yaml does not exist; expected a hypothesis in YAML or JSON"),
        ("logits: [", (), "is no YAML"),
        ("claims: {}", (), "is no hypothesis; expected a mapping with the claim 'logits'"),
        ("logits: {reads: {'7.0': {}}}", (), "logits/7.0"),
        ("logits: {depends_on: colour}", (), "'colour' is no feature; expected token, previous_token"),
        ("logits: {}", ("--task", "nothing_such"), "nothing_such"),
        ("logits: {}", ("--task", "induction", "--text", __file__), "--task and --text were both given"),
        ("logits: {}", ("--text", "nowhere.txt"), "nowhere.txt does not exist; expected a text file"),
        ("logits: {}", ("--json", "--csv"), "--json and --csv were both given"),
        ("logits: {}", ("--plot", "x.pdf"), "x.pdf ends in '.pdf'; expected a picture"),
        ("logits: {}", ("--seq-len", 500), "500"),
    ],
)
def test_bad_input_gives_one_sentence(text, words, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "h.yaml").write_text(text)
    code, shown, said = run("scrub", MODEL, "none.yaml" if text is None else "h.yaml", *words)
    assert (code, shown, said.count("\n")) == (2, "", 1)
    assert sentence in said
