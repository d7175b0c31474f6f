"""docs/SCRUBBING.md says what docs/data/scrubbing.json has, and what is the case."""

from __future__ import annotations

import json
import re

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.circuits.features import DEFINITIONS
from scripts import scrubbing
from scripts.results import SEEDS

FOUND = json.loads(scrubbing.OUT.read_text())
TEXT = scrubbing.DOCUMENT.read_text()
PROSE = " ".join(TEXT.split())
TASK, RANDOM = scrubbing.PROMPT_KINDS


@pytest.mark.parametrize("name", scrubbing.TABLES)
def test_a_table_is_that_of_the_file(name):
    _, _, behind = TEXT.partition(f"<!-- table: {name} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == scrubbing.TABLES[name](FOUND)


def test_every_feature_is_in_the_table():
    table = TEXT.partition("| feature | what it is |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) >= set(DEFINITIONS)


def shares(kind, name):
    return [FOUND["seeds"][seed][kind]["rungs"][name]["recovered"] for seed in SEEDS]


def permuted(kind, name):
    return [FOUND["seeds"][seed][kind]["rungs"][name]["permuted"] for seed in SEEDS]


def test_the_rungs_are_the_hypotheses_of_the_script():
    for seed in SEEDS:
        for kind in scrubbing.PROMPT_KINDS:
            assert [*FOUND["seeds"][seed][kind]["rungs"]] == [*scrubbing.ladder(scrubbing.PREVIOUS[seed])]


def test_what_is_said_of_the_handmade_models_keys_is_true():
    model = ngl.load("handmade_induction")
    pairs = ngl.induction_pairs(model, n=128, seq_len=12)
    token, position = {"depends_on": "token"}, {"depends_on": "position"}

    def recovered(**read):
        key = {"depends_on": "previous_token", "reads": {"0.1": {"depends_on": "previous_token"}, **read}}
        head = {"depends_on": ["token", "followed_earlier"], "reads": {"q": token, "k": key, "v": token}}
        hypothesis = {"logits": {"reads": {"1.0": head}}}
        return ngl.scrub(model, hypothesis, pairs, weaken=False, progress=False).recovered

    assert f"previous-token head alone, {recovered():.0%} is recovered here" in PROSE
    assert recovered(embed=position) == pytest.approx(1.0, abs=1e-3)


def test_one_rung_is_what_the_file_says():
    model = ngl.load(scrubbing.place("induction", "1337"))
    pairs = scrubbing.pairs_of(model, TASK)
    name = "keys depend on the previous token alone"
    result = ngl.scrub(
        model, scrubbing.ladder("0.1")[name], pairs, n_draws=scrubbing.DRAWS, weaken=False, progress=False
    )
    assert result.recovered == pytest.approx(shares(TASK, name)[0], abs=1e-4)


def span(values):
    least, most = f"{min(values):.2f}", f"{max(values):.2f}"
    return least if least == most else f"{least} to {most}"


def test_what_is_said_around_the_tables_is_true():
    naive, direct = "the heads say what followed", "keys read the previous-token head"
    guesses = {
        kind: [FOUND["seeds"][s][kind]["rungs"][naive]["guess"] for s in SEEDS] for kind in scrubbing.PROMPT_KINDS
    }
    assert f"{span(shares(TASK, naive))} is recovered, and a uniform guess recovers {span(guesses[TASK])}" in PROSE
    assert f"all is there, {span(shares(TASK, '... through MLP 1 as well'))}." in PROSE
    assert f"*directly* recover {span(shares(TASK, direct))}" in PROSE
    false = "keys depend on their own token alone"
    assert max(abs(a - b) for a, b in zip(shares(TASK, direct), shares(TASK, false), strict=True)) < 0.015
    assert f"Through MLP 0 it is {span(shares(TASK, scrubbing.MAIN))}" in PROSE
    assert f'nothing else", {span(shares(TASK, "keys depend on the previous token alone"))}.' in PROSE
    claims = [claim for seed in SEEDS for claim in FOUND["seeds"][seed][TASK]["claims"]]
    assert max(max(claim["cost"], claim["rest"] or 0) for claim in claims) < 0.01
    assert f"{span(shares(RANDOM, direct))} without MLP 0 and {span(shares(RANDOM, scrubbing.MAIN))} with it" in PROSE
    assert f'"recovers" {span(guesses[RANDOM])}' in PROSE
    beside = shares(RANDOM, "... beside what the last token brings")
    assert f"recover {span(beside)}, less" in PROSE
    assert all(a < b for a, b in zip(beside, shares(RANDOM, scrubbing.MAIN), strict=True))
    assert min(permuted(TASK, "keys, queries and values are what they are")) > 0.95


def test_what_is_said_of_counting_is_true():
    words = "which characters there are"
    (one,) = FOUND["counting"]["1 layer"].values()
    two = [seed[words]["recovered"] for seed in FOUND["counting"]["2 layers"].values()]
    assert f"for the control, {one[words]['recovered']:.2f}, and not for two layers, {span(two)}" in PROSE
