"""Features of the input, on sequences short enough to be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nanogpt_lens.circuits.features import DEFINITIONS, Features
from nanogpt_lens.circuits.places import Agreements
from nanogpt_lens.circuits.tree import Pool
from nanogpt_lens.core.errors import AnalysisError
from tests.nanogpt_lens.circuits.naive_scrubbing import feature_value

TOKENS = torch.tensor([[0, 1, 0, 2, 1, 0], [1, 0, 0, 2, 2, 2]])
ANSWER = torch.tensor([2, 1])
LABELS = ["a", "b", " ", "\n", "7", "é", ".", ""]


def features(tokens=TOKENS, labels=None, classes=None):
    return Features(tokens, ANSWER[: len(tokens)], labels, classes or {})


def same(one, other):
    """Whether two tables have the same places in common."""
    one, other = (np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1) for values in (one, other))
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("token", [[0, 1, 0, 2, 1, 0], [1, 0, 0, 2, 2, 2]]),
        ("previous_token", [[-1, 0, 1, 0, 2, 1], [-1, 1, 0, 0, 2, 2]]),
        ("token-2", [[-1, -1, 0, 1, 0, 2], [-1, -1, 1, 0, 0, 2]]),
        ("token-5", [[-1] * 5 + [0], [-1] * 5 + [1]]),
        ("token@3", [[2] * 6, [2] * 6]),
        ("token@0", [[0] * 6, [1] * 6]),
        ("position", [[0, 1, 2, 3, 4, 5]] * 2),
        ("followed_earlier", [[-1, -1, 1, -1, 0, 2], [-1, -1, 0, -1, 2, 2]]),
        ("occurred_earlier", [[0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1]]),
        ("distance_earlier", [[0, 0, 2, 0, 3, 3], [0, 0, 1, 0, 1, 1]]),
        ("answer", [[2] * 6, [1] * 6]),
        ("nothing", [[0] * 6] * 2),
    ],
)
def test_what_each_feature_is(word, expected):
    values = features().values(word)
    assert same(values, expected)
    if "nothing" not in word:
        assert values.tolist() == expected


@pytest.mark.parametrize(
    "word",
    ["token", "previous_token", "position", "followed_earlier", "counts", "set", "everything", "nothing", "answer"],
)
def test_which_places_agree_is_what_plain_lines_say(word):
    tokens = torch.randint(3, (6, 5), generator=torch.Generator().manual_seed(1))
    answer = torch.tensor([0, 1, 2, 0, 1, 2])
    got = Features(tokens, answer, None, {}).values(word)
    rows = tokens.tolist()
    expected = [[feature_value(word, rows[i], int(answer[i]), j) for j in range(5)] for i in range(6)]
    numbers = {value: i for i, value in enumerate({v for row in expected for v in row})}
    assert same(got, [[numbers[value] for value in row] for row in expected])


def test_several_features_agree_where_each_does():
    both = features().values(("token", "position"))
    assert both[0, 3] == both[1, 3]
    assert len(np.unique(both)) == 10
    counts = features().values("counts_before")
    assert counts[0, 0] == counts[1, 0]  # nothing before
    assert counts[0, 2] == counts[1, 2]  # 0 and 1, in whatever order
    assert counts[0, 3] == counts[1, 3]
    assert counts[0, 4] != counts[1, 5]


def test_classes_are_kinds_of_characters_or_those_that_are_given():
    tokens = torch.arange(8)[None]
    kinds = features(tokens, LABELS).values("class")[0]
    assert kinds[0] == kinds[1] == kinds[5]
    assert len({*kinds[[0, 2, 3, 4, 6]].tolist()}) == 5
    given = features(tokens, LABELS, {"vowel": ("a", "é"), "consonant": ("b",)}).values("class")[0]
    assert given[0] == given[5] != given[1]
    assert given[2] == given[3] == given[4] == -2  # in no class
    before = features(tokens, LABELS, {"vowel": ("a",)}).values("class-1")[0]
    assert before.tolist() == [-1, 0, -2, -2, -2, -2, -2, -2]
    with pytest.raises(AnalysisError, match="the class 'vowel' has 'x', which is no token of the model's vocabulary"):
        features(tokens, LABELS, {"vowel": ("x",)}).values("class")
    with pytest.raises(AnalysisError, match="'a' is in the class 'two' and in another"):
        features(tokens, LABELS, {"one": ("a",), "two": ("a",)}).values("class")


def test_a_function_gives_a_value_for_each_place_or_prompt():
    assert same(features().values(lambda tokens: tokens[:, 0]), [[0] * 6, [1] * 6])
    assert same(features().values(lambda tokens: tokens % 2), (TOKENS % 2).numpy())
    words = [["x", "y", "x", "x", "y", "y"], ["y"] * 6]
    assert same(features().values(lambda tokens: words), np.array(words))
    for bad in ([[1], [1, 2]], torch.full((2, 6), torch.nan), [None, None]):
        with pytest.raises(AnalysisError, match="expected a number or word for each prompt and position"):
            features().values(lambda tokens, bad=bad: bad)


def test_every_feature_of_the_list_has_a_definition_and_a_value():
    for word in DEFINITIONS:
        assert features(TOKENS, LABELS).values(word).shape == TOKENS.shape


def test_stand_ins_agree_and_are_uniform():
    made = Agreements(features(), 0)
    every = made.agreement("token", Pool(None))
    place = torch.arange(12)
    uniform = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(TOKENS.flatten()[every.drawn(place, uniform)], TOKENS.flatten())
    zeros = [i for i in range(12) if TOKENS.flatten()[i] == 0]
    grid = torch.linspace(0, 1 - 1e-9, 500, dtype=torch.float64)
    drawn = every.drawn(torch.zeros(500, dtype=torch.long), grid)
    assert torch.equal(torch.unique(drawn), torch.tensor(zeros))
    assert {int((drawn == i).sum()) for i in zeros} == {100}
    end = made.agreement("token", Pool(5))
    assert end.drawn(torch.tensor([5, 11]), torch.tensor([0.99, 0.0], dtype=torch.float64)).tolist() == [5, 11]
    assert end.alone == 1.0
    kept = made.agreement("token", Pool(None, same=True))
    drawn = kept.drawn(place, uniform)
    assert torch.equal(drawn % 6, place % 6)
    assert kept.n_values == every.n_values == 3


def test_permuted_values_are_as_frequent_as_before_and_say_nothing():
    tokens = torch.randint(4, (200, 3), generator=torch.Generator().manual_seed(0))
    made = Agreements(Features(tokens, tokens[:, 0], None, {}), 0)
    plain, permuted = (made.agreement("token", Pool(None), word) for word in ("", "k"))
    assert torch.equal(plain.size, permuted.size)
    drawn = permuted.drawn(torch.arange(600), torch.rand(600, dtype=torch.float64))
    agree = (tokens.flatten()[drawn] == tokens.flatten()).double().mean()
    assert 0.15 < agree < 0.35
    within = made.agreement("token", Pool(None, same=True), "k")
    drawn = within.drawn(torch.arange(600), torch.rand(600, dtype=torch.float64))
    assert torch.equal(drawn % 3, torch.arange(600) % 3)
