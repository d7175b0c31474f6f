"""Pairs of a task: both prompts call for a token, plain lines say which; and the pairs that a model answers."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.running.metrics import logit_diff_of, metric_from_json
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.solved import solved_pairs
from nanogpt_lens.text.task import TaskSequences
from nanogpt_lens.text.task_kinds import RepeatedRandom
from nanogpt_lens.text.task_pairs import pairs_by_name, task_pairs
from nanogpt_lens.text.tasks import read_task

FIELDS = ("clean", "corrupted", "answer", "wrong")


@cache
def model(name: str = "induction") -> Any:
    return ngl.load(name)


def rows(pairs: Pair) -> list[tuple[Any, ...]]:
    return list(zip(*(getattr(pairs, name).tolist() for name in FIELDS), strict=True))


def called_for(prompt: list[int]) -> set[int]:
    """What followed the prompt's last token wherever it came before."""
    return {after for before, after in pairwise(prompt) if before == prompt[-1]}


@pytest.mark.parametrize("name", ["trigger_bigrams", "repeated_random"])
def test_both_prompts_call_for_their_token_and_differ_in_nothing_else(name):
    pairs = pairs_by_name(model(), name, n=60, seq_len=24, seed=2)
    assert pairs.clean.shape == (60, 24)
    for clean, corrupted, answer, wrong in rows(pairs):
        assert (called_for(clean), called_for(corrupted)) == ({answer}, {wrong})
        assert clean[-1] == corrupted[-1]
        assert wrong not in clean
        changed = [place for place in range(24) if clean[place] != corrupted[place]]
        assert changed == [place for place in range(1, 24) if clean[place - 1] == clean[-1]]
    assert pairs.chosen == ""


def test_a_pair_of_repeated_tokens_is_one_for_the_task_itself():
    """Both repeat with the same period, but where the first token of all is one whose predecessor is not there."""
    for clean, corrupted, answer, _ in rows(pairs_by_name(model(), "repeated_random", n=40, seq_len=24)):
        if clean[0] == answer:
            continue
        periods = [{p for p in range(1, 24) if row[p:] == row[:-p]} for row in (clean, corrupted)]
        assert periods[0] == periods[1] != set()


def test_the_seed_decides_and_the_length_is_32():
    one, two, other = (pairs_by_name(model(), "trigger_bigrams", n=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.clean, two.clean)
    assert torch.equal(one.wrong, two.wrong)
    assert not torch.equal(one.clean, other.clean)
    assert one.clean.shape == (5, 32)


def test_the_shipped_model_answers_its_own_task_as_both_call_for():
    """Trained for it, it changes its mind with the changed tokens."""
    pairs = pairs_by_name(model(), "trigger_bigrams", n=64)
    with torch.no_grad():
        clean, corrupted = (model()(ids)[:, -1].argmax(-1) for ids in (pairs.clean, pairs.corrupted))
    assert (clean == pairs.answer).double().mean() > 0.9
    assert (corrupted == pairs.wrong).double().mean() > 0.8


def test_names_and_places_are_the_same_task():
    by_name = pairs_by_name(model(), "trigger_bigrams", n=4)
    by_place = pairs_by_name(model(), "checkpoints/induction", n=4)
    by_task = task_pairs(model(), read_task("induction"), n=4)
    assert torch.equal(by_name.clean, by_place.clean)
    assert torch.equal(by_name.corrupted, by_task.corrupted)
    random, same = pairs_by_name(model(), "induction", n=4, seq_len=12), ngl.induction_pairs(model(), n=4, seq_len=12)
    assert torch.equal(random.clean, same.clean)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("text", {}, "the task text has no prompt pairs, since nothing marks what a text calls for: give --text"),
        ("nowhere", {}, "cannot be read"),
        ("trigger_bigrams", {"seq_len": 2}, "prompts of 2 tokens were asked for; expected 3 to 128"),
        ("trigger_bigrams", {"n": 0}, "n is 0"),
    ],
)
def test_bad_input_is_one_sentence(name, options, said):
    with pytest.raises(ngl.NanoGPTLensError, match=said) as caught:
        pairs_by_name(model(), name, **options)
    assert "\n" not in str(caught.value)


def test_a_model_that_was_trained_on_something_else():
    with pytest.raises(AnalysisError, match="was not trained on trigger_bigrams, whose bigrams are a text's; expected"):
        pairs_by_name(model("shakespeare_char"), "trigger_bigrams")
    with pytest.raises(AnalysisError, match="has 65 characters, and the model 48 tokens or others|give the task.json"):
        pairs_by_name(model("handmade_induction"), "induction_control")
    pairs = pairs_by_name(model("handmade_induction"), "repeated_random", n=4, seq_len=16)
    assert all(called_for(clean) == {answer} for clean, _, answer, _ in rows(pairs))


def test_a_task_that_requires_nothing_says_so():
    class Nothing(RepeatedRandom):
        def draw(self, n: int, seq_len: int, generator: np.random.Generator) -> TaskSequences:
            drawn = super().draw(n, seq_len, generator)
            return TaskSequences(tokens=drawn.tokens, required=drawn.required & False, unseen=drawn.unseen)

    chars = read_task("induction").vocabulary.chars
    with pytest.raises(AnalysisError, match="of 256 sequences of 'nothing', 0 require induction after 32 tokens"):
        task_pairs(model(), Nothing(vocabulary=CharVocabulary(chars), name="nothing"), n=4)


class TestSolved:
    def test_they_are_those_of_plain_lines(self):
        chosen = ngl.induction_pairs(model(), n=8, seed=5, solved_by=model())
        with torch.no_grad():
            clean, corrupted = (model()(ids)[:, -1].argmax(-1) for ids in (chosen.clean, chosen.corrupted))
        assert torch.equal(clean, chosen.answer)
        assert not bool((corrupted == chosen.answer).any())
        every = ngl.induction_pairs(model(), n=64, seed=5)  # what is drawn first: 8 for each
        with torch.no_grad():
            clean, corrupted = (model()(ids)[:, -1].argmax(-1) for ids in (every.clean, every.corrupted))
        places = ((clean == every.answer) & (corrupted != every.answer)).nonzero()[:, 0]
        assert len(places) > 8
        assert torch.equal(chosen.clean, every.clean[places[:8]])
        assert chosen.chosen == (f"chosen of {int(places[7]) + 1} drawn pairs, as those that the model answers")

    def test_more_are_drawn_until_there_are_enough(self):
        few = task_pairs(model(), read_task("induction"), n=1, seq_len=16)

        def draw(many: int) -> Pair:
            """One that it answers, and others that it does not."""
            wrong = torch.where(torch.arange(many) == 2, few.answer, (few.answer + 1) % 65)
            return Pair(
                clean=few.clean.expand(many, -1), corrupted=few.corrupted.expand(many, -1), answer=wrong,
                wrong=few.wrong.expand(many),
            )  # fmt: skip

        assert solved_pairs(model(), draw, n=2).chosen.startswith("chosen of 19 drawn pairs")  # the third of each 16
        with pytest.raises(AnalysisError, match="does the task in 0 of 128 prompt pairs, and 2 were asked for: give a"):
            solved_pairs(model(), lambda many: draw(2).at(torch.zeros(many, dtype=torch.long)), n=2)

    def test_no_result_is_silent_about_the_choice(self, tmp_path):
        pairs = pairs_by_name(model(), "induction", n=4, seq_len=12, solved_by=model())
        metric = logit_diff_of(pairs)
        assert metric.definition.endswith(f", on prompts {pairs.chosen}")
        circuit = ngl.find_circuit(
            model(), pairs.clean, pairs.corrupted, metric, method="exact", orders=0, progress=False
        )
        assert pairs.chosen in circuit.definition
        plain = circuit.asks["metric"]
        assert metric_from_json(plain).definition.endswith(pairs.chosen)
        with pytest.raises(AnalysisError, match="is no metric"):
            metric_from_json(plain | {"on": "x" * 301})
        assert "on" not in logit_diff_of(ngl.induction_pairs(model(), n=4)).to_json()
