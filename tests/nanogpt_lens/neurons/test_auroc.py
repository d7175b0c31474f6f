"""The interval of an AUROC: against resampling where there are many pieces, against the truth where there are few."""

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm

from nanogpt_lens.neurons.auroc import auroc, auroc_interval, n_pieces
from nanogpt_lens.neurons.find import find_neurons
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

SEQUENCES, LENGTH = 40, 16
PIECES = np.repeat(np.arange(SEQUENCES), LENGTH)


def neuron(rng, clumps, shift, spread):
    """A neuron that is `shift` higher in some whole sequences, which differ among each other by `spread`."""
    labels = np.zeros((SEQUENCES, LENGTH), dtype=bool)
    labels[rng.choice(SEQUENCES, clumps, replace=False)] = True
    values = rng.normal(size=(SEQUENCES, LENGTH)) + spread * rng.normal(size=(SEQUENCES, 1)) + shift * labels
    return values.ravel(), labels.ravel()


@pytest.mark.parametrize("clumps", [3, 4, 6, 10])
@pytest.mark.parametrize(("shift", "spread"), [(1.0, 1.0), (2.5, 1.0), (0.0, 0.3)])
def test_the_interval_covers_where_the_class_is_a_few_clumps_as_long_as_a_sequence(clumps, shift, spread):
    rng = np.random.default_rng(0)
    truth = norm.cdf(shift / np.sqrt(2 * (1 + spread**2)))
    ends = np.array([auroc_interval(*neuron(rng, clumps, shift, spread), PIECES) for _ in range(200)])
    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) >= 0.92
    assert ends.min() >= 0
    assert ends.max() <= 1


def test_with_many_pieces_the_interval_is_that_of_a_bootstrap_over_them():
    rng = np.random.default_rng(2)
    labels = rng.random(PIECES.size) < 0.3
    values = np.round(rng.normal(size=PIECES.size) + 0.5 * rng.normal(size=SEQUENCES)[PIECES] + labels, 1)
    areas = []
    for _ in range(1000):
        index = (rng.integers(SEQUENCES, size=SEQUENCES)[:, None] * LENGTH + np.arange(LENGTH)).ravel()
        areas.append(auroc(values[index, None], labels[None, index])[0, 0])
    low, high = auroc_interval(values, labels, PIECES)
    assert (logit(high) - logit(low)) / (2 * 2.02) == pytest.approx(np.std(logit(areas)), rel=0.15)


def test_fewer_than_two_pieces_have_no_interval_and_a_perfect_one_has_an_end():
    values, labels = np.arange(12.0), np.arange(12) >= 6
    pieces = np.repeat(np.arange(4), 3)
    assert all(np.isnan(end) for end in auroc_interval(values, labels, np.repeat([0, 1], 6)))
    assert n_pieces(labels, pieces) == 2
    assert auroc_interval(values, labels, pieces) == (pytest.approx(0.025**0.5), 1.0)
    assert auroc_interval(-values, labels, pieces) == (0.0, pytest.approx(1 - 0.025**0.5))


def test_a_clump_through_several_sequences_is_one_piece_and_few_pieces_are_flagged(tmp_path):
    text = play(12 * 40)
    mask = np.zeros(480, dtype=bool)
    for start in (12, 130, 250, 400, 440):  # of 40 tokens: they go through four sequences or five
        mask[start : start + 40] = True
    found = find_neurons(lens_model(tmp_path), text, mask, permutations=5, k=2, progress=False)
    assert found.n_pieces == 2  # held out are 250 to 290 and 400 to 480
    assert found.few_examples == "hardly any examples: n = 2"
    assert "hardly any examples: n = 2" in repr(found)
    assert "Hardly any examples: n = 2." in found.plot().layout.meta["caption"]
    scattered = find_neurons(lens_model(tmp_path), text, "vowel", permutations=5, k=2, progress=False)
    assert scattered.n_pieces > 10
    assert scattered.few_examples == ""
