"""The figures of a causal scrubbing: every claim where the tree has it, with the numbers that were measured."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import Sample, Scrubbing
from nanogpt_lens.results.claims_in_words import features_in_words, node_in_words, verb
from nanogpt_lens.results.scrubbing import FREE, HYPOTHESIS, NOTHING, PERMUTED, UNIFORM
from nanogpt_lens.viz.figures import figure
from tests.hostile import HOSTILE, plain
from tests.nanogpt_lens.viz.figure_helpers import named, result
from tests.nanogpt_lens.viz.test_figures_circuit_validation import replace_bold
from tests.nanogpt_lens.viz.test_figures_hostile import check

NAN = float("nan")
PATHS = ("logits", "logits/1.0", "logits/1.0/q", "logits/1.0/k@3", "logits/1.0/k@3/0.1", "logits/mlp1")
FEATURES = ("everything", "token, followed_earlier", "token", "previous_token", "token-2", "nothing")
COST = (0.0, -0.05, 0.01, 0.4, 0.0, 0.002)
REST = (0.1, 0.0, NAN, 0.02, NAN, NAN)
NEED = (0.9, 0.8, 0.7, 0.6, 3.0, 0.0)


def made(*, weaken: bool = True, recovered: float = 0.8, **changed: Any) -> Scrubbing:
    numbers = torch.tensor([recovered, 1.0, 0.0, 0.1, 0.6], dtype=torch.float64)
    n = len(changed.get("claims", PATHS))
    measured: dict[str, Any] = {}
    scrubbed, own, free = torch.tensor([[1.0, 3, 2, 2], [1, 1, 1, 4], [5, 5, 5, 5]])
    permuted = scrubbed + (recovered - 0.1) * float((free - own).mean()) + torch.tensor([0.3, -0.3, 0.3, -0.3])
    for name, values in (("cost", COST), ("rest", REST), ("need", NEED)) if weaken else ():
        value = torch.tensor((values * 20)[:n], dtype=torch.float64)
        measured |= {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}
        measured[f"{name}_p"] = torch.where(value.isnan(), NAN, torch.where(value > 0.01, 0.001, 0.9).double())
    about: dict[str, Any] = {
        "values": numbers,
        "axes": ("condition",),
        "labels": {"condition": (HYPOTHESIS, NOTHING, FREE, PERMUTED, UNIFORM)},
        "quantity": "recovered share of the loss",
        "definition": "made up",
        "sample": Sample(n=4, seq_len=8, seed=0),
        "interval": "t",
        "provenance": {"nanogpt_lens": "1", "arguments": {"metric": "loss, nats"}},
        "low": numbers - 0.05,
        "high": numbers + 0.05,
        "metric": torch.stack([scrubbed, own, free, permuted, free]),
        "over_draws": torch.rand(5, 3),
        "hypothesis": {"name": "an idea", "logits": {}},
        "claims": PATHS,
        "features": FEATURES,
        "alone": torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0, 0.0]),
        "n_values": torch.tensor([4, 3, 2, 2, 2, 1]),
        **measured,
    }
    return Scrubbing(**about | changed)


def title(drawn: Any) -> str:
    return plain(drawn.layout.title.text.replace("<br>", " "))


def notes(drawn: Any) -> dict[str, Any]:
    """The annotations by their words."""
    return {plain(re.sub("</?b>", "", note.text.replace("<br>", " "))): note for note in drawn.layout.annotations}


def below(drawn: Any, words: str) -> list[float]:
    """The dots between some words and the next ones, from the top down."""
    edges = sorted(
        (note.y for note in drawn.layout.annotations if note.yanchor == "top" and note.name is None), reverse=True
    )
    top = notes(drawn)[words].y
    bottom = max([y for y in edges if y < top], default=-1e9)
    dots = [(y, x) for trace in drawn.data for x, y in zip(trace.x, trace.y, strict=True) if bottom < y < top]
    return [round(float(x), 4) for _, x in sorted(dots, reverse=True)]


class TestTree:
    def test_every_claim_has_its_numbers_below_its_words(self):
        drawn = figure(made())
        assert below(drawn, "the hypothesis recovers 80% (75% to 85%)") == [0.8]
        assert below(drawn, "with its features permuted 10% (5% to 15%)") == [0.1]
        assert below(drawn, "logits depend on everything") == [0.0, 0.1, 0.9]
        assert below(drawn, "head 1.0 depends on the token here and what followed its earlier occurrence") == [
            -0.05,
            0,
            0.8,
        ]
        assert below(drawn, "query depends on the token here") == [0.01, 0.7]
        assert below(drawn, "key at position 3 depends on the token before") == [0.4, 0.02, 0.6]
        assert below(drawn, "MLP 1 depends on nothing") == [0.002, 0.0]

    def test_a_claim_stands_in_below_what_reads_it(self):
        drawn = figure(made())
        words = list(notes(drawn))
        place = {name: note.xshift for name, note in notes(drawn).items()}
        head = next(word for word in words if word.startswith("head 1.0"))
        sender = next(word for word in words if word.startswith("head 0.1"))
        steps = [place[w] for w in ("logits depend on everything", head, "query depends on the token here", sender)]
        assert np.diff(steps).tolist() == [14, 14, 14]  # the head that the key reads is below the key
        assert place["MLP 1 depends on nothing"] == place[head]
        branches = [shape for shape in drawn.layout.shapes if shape.xsizemode == "pixel" and shape.y0 == shape.y1]
        assert len(branches) == len(PATHS) - 1

    def test_numbers_stand_at_costs_that_are_sure_and_not_at_needs(self):
        numbers = [note.text for note in figure(made()).layout.annotations if "%</b>" in note.text]
        assert numbers == ["<b>10%</b>", "<b>40%</b>", "<b>2%</b>"]

    def test_what_agrees_with_nothing_is_a_ring(self):
        drawn = figure(made())
        dots = named(drawn, "measured")
        rings = [
            round(float(x), 4) for x, symbol in zip(dots.x, dots.marker.symbol, strict=True) if symbol == "circle-open"
        ]
        assert rings == [-0.05, 0.8]
        assert "the places of 1 claim agree with no other" in drawn.layout.meta["caption"]

    def test_what_is_far_away_is_at_the_edge_with_its_number(self):
        drawn = figure(made())
        assert list(named(drawn, "beyond the edge").text) == ["3"]
        assert "1 value, as triangles with numbers" in drawn.layout.meta["caption"]

    def test_the_title_is_the_finding_beside_its_control(self):
        assert title(figure(made())) == "“an idea” recovers 80% of what the model does, with permuted features 10%"
        assert title(figure(made(recovered=0.12))) == "“an idea” recovers 12%, permuted features about as much: 10%"
        assert title(figure(made(hypothesis={}))).startswith("The hypothesis recovers 80%")

    def test_costs_that_were_not_measured_are_not_drawn(self):
        drawn = figure(made(weaken=False))
        assert len(named(drawn, "measured").x) == 2
        assert "was not measured: leave out weaken=False" in drawn.layout.meta["caption"]
        assert "query depends on the token here" in notes(drawn)

    def test_of_many_claims_those_that_cost_most_with_what_reads_them(self):
        drawn = figure(made(), k=3)
        shown = [
            re.split(" depends? on ", word)[0]
            for word in notes(drawn)
            if re.search(" depends? on ", word) and "alone" not in word
        ]
        assert shown == ["logits", "head 1.0", "key at position 3"]
        assert "Of 6 claims those that cost most, with what reads them, are drawn: 3" in drawn.layout.meta["caption"]

    def test_many_claims_stay_within_the_picture(self):
        deep = ["logits"]
        while len(deep) < 40:
            deep.append(f"{deep[-1]}/resid_pre{60 - len(deep)}")
        drawn = figure(
            made(claims=tuple(deep), features=("token",) * 40, alone=torch.zeros(40), n_values=torch.ones(40).long())
        )
        shifts = [note.xshift for note in drawn.layout.annotations if " depends " in note.text]
        assert len(shifts) == 40  # without the logits, which depend, and with what a colour means
        assert drawn.layout.margin.l <= 110
        assert max(shifts) <= 0


class TestPrompts:
    def test_how_many_get_worse_and_better(self):
        drawn = figure(made(), kind="prompts")
        counts = {trace.name: int(sum(trace.y)) for trace in drawn.data}
        assert counts == {"the same": 1, "worse": 2, "better": 1}
        assert title(drawn) == "Of 4 prompts 50% get worse, 25% better, 25% stay the same"
        assert "The mean change is 0.25, the mean size of a change 1.25" in drawn.layout.meta["caption"]
        assert "Each prompt is the mean of 3 draws" in drawn.layout.meta["caption"]

    def test_of_a_metric_that_the_model_has_more_of_less_is_worse(self):
        metric = -made().metric
        drawn = figure(made(metric=metric), kind="prompts")
        assert {trace.name: int(sum(trace.y)) for trace in drawn.data} == {"the same": 1, "worse": 2, "better": 1}

    def test_nothing_changes(self):
        assert title(figure(made(metric=torch.ones(5, 4)), kind="prompts")) == "No prompt changes"


class TestLadder:
    def test_a_rung_for_each_with_its_control(self):
        drawn = figure(made(), beside={"another": made(recovered=0.3)})
        assert below(drawn, "an idea recovers 80% (75% to 85%), permuted 10%") == [0.8, 0.1]
        assert below(drawn, "another recovers 30% (25% to 35%), permuted 10%") == [0.3, 0.1]
        assert title(drawn) == "“an idea” recovers 80%, “another” 30%"

    def test_of_one_name_both_are_told_apart(self):
        drawn = figure(made(), kind="ladder", beside={"an idea": made(recovered=0.3)})
        assert below(drawn, "an idea, this one recovers 80% (75% to 85%), permuted 10%") == [0.8, 0.1]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"kind": "table"}, "kind is 'table'; expected one of tree, prompts, ladder"),
            ({"kind": "tree", "beside": {}}, "beside was given, but the tree is of one hypothesis"),
            ({"kind": "prompts", "k": 3}, "k is 3, the claims of the tree, but kind is 'prompts'"),
            ({"beside": {"a": 1}}, "expected scrubbings by name"),
            (
                {"beside": {"a": made(quantity="another")}},
                "'a' is the another, this one the recovered share of the loss",
            ),
        ],
    )
    def test_what_is_wrong_is_refused(self, options, sentence):
        with pytest.raises(ResultError, match=re.escape(sentence)):
            figure(made(), **options)


@pytest.mark.parametrize("kind", ["tree", "prompts", "ladder"])
def test_names_that_try_something_are_text(kind):
    names = tuple(HOSTILE)[:5]
    paths = ("logits", *(f"logits/{name.replace('/', '')}" for name in names))
    hostile = made(
        claims=paths,
        features=("token", *names),
        hypothesis={"name": names[0]},
        provenance={"arguments": {"metric": names[1]}},
    )
    beside = {"beside": dict.fromkeys(names, hostile)} if kind == "ladder" else {}
    check(replace_bold(figure(hostile, kind=kind, **beside)))


@pytest.mark.parametrize("kind", ["tree", "prompts", "ladder"])
def test_of_a_real_scrubbing(kind):
    scrubbed = result("scrub")
    drawn = scrubbed.plot(kind=kind)
    if kind == "prompts":
        assert sum(int(sum(trace.y)) for trace in drawn.data) == scrubbed.sample.n
        return
    dots = [float(x) for trace in drawn.data for x in trace.x]
    measured = [scrubbed.of(HYPOTHESIS), scrubbed.of(PERMUTED)]
    if kind == "tree":
        for values in (scrubbed.cost, scrubbed.rest, scrubbed.need):
            measured += values[values.isfinite()].tolist()
    assert sorted(dots) == pytest.approx(sorted(measured), abs=1e-4)


def test_claims_in_words():
    words = {
        "1.0": "head 1.0",
        "mlp0": "MLP 0",
        "embed": "embedding",
        "q": "query",
        "1.0.k": "key",
        "k@here": "key where the head writes",
        "v@all": "values of all positions",
        "resid_mid1": "stream after the heads of block 1",
        "logits": "logits",
        "something": "something",
    }
    assert {name: node_in_words(name) for name in words} == words
    assert features_in_words("previous_token") == "the token before"
    assert features_in_words("class@3, token-4, my_function") == (
        "the class of the token at position 3, the token 4 before and my_function"
    )


def test_verbs_go_with_their_names():
    assert [verb(name, "depends") for name in ("head 1.0", "logits", "keys of all positions", "value")] == [
        "depends",
        "depend",
        "depend",
        "depends",
    ]


def test_every_feature_has_words_of_its_own():
    from nanogpt_lens.circuits.scrubbing import FEATURES

    said = [features_in_words(feature) for feature in FEATURES]
    assert len(set(said)) == len(FEATURES)
    assert not {"_"} & set("".join(said))
