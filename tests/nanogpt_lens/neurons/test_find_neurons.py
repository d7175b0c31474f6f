from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.neurons import find
from nanogpt_lens.neurons.activations import get_neuron_activations
from nanogpt_lens.neurons.auroc import auroc
from nanogpt_lens.neurons.find import find_neurons
from nanogpt_lens.results import load_result
from nanogpt_lens.text.corpus import open_corpus
from tests.handmade import handmade_model
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, no_tokenizer, play, random_checkpoint

TEXT = play(12 * 40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("find"))


@pytest.fixture(scope="module")
def activations(model):
    """[layer, neuron, sequence, pos]."""
    found = [get_neuron_activations(model, TEXT[i : i + 12]).values for i in range(0, len(TEXT), 12)]
    return torch.stack(found, 2).numpy()


def scipys(values, labels):
    inside, outside = values[labels], values[~labels]
    return mannwhitneyu(inside, outside).statistic / (len(inside) * len(outside))


@pytest.mark.parametrize("on", ["token", "next"])
def test_equals_scipy_on_both_parts(model, activations, on):
    result = find_neurons(model, TEXT, "vowel", on=on, permutations=5, progress=False)
    labels = np.array([c in "aeiouAEIOU" for c in TEXT]).reshape(40, 12)
    values = activations if on == "token" else activations[..., :-1]
    labels = labels if on == "token" else labels[:, 1:]
    for layer, neuron in ((0, 0), (0, 33), (1, 5), (1, 63)):
        own = values[layer, neuron]
        first = scipys(own[:20].ravel(), labels[:20].ravel())
        held = scipys(own[20:].ravel(), labels[20:].ravel())
        assert result.values[layer, neuron].item() == pytest.approx(first, abs=1e-12)
        assert result.sign[layer, neuron].item() == (1 if first >= 0.5 else -1)
        assert result.separation[layer, neuron].item() == pytest.approx(max(first, 1 - first), abs=1e-12)
        assert result.held_out[layer, neuron].item() == pytest.approx(held if first >= 0.5 else 1 - held, abs=1e-12)
    assert result.n_tokens == (labels[:20].size, labels[20:].size)
    assert result.n_class == (labels[:20].sum(), labels[20:].sum())
    assert not has_hooks(model)


def test_ties_count_half():
    values = np.round(np.random.default_rng(0).normal(size=(60, 4)))
    labels = np.random.default_rng(1).random((3, 60)) < 0.3
    found = auroc(values, labels)
    for c in range(3):
        for u in range(4):
            assert found[c, u] == pytest.approx(scipys(values[:, u], labels[c]), abs=1e-12)


def test_chance_is_the_largest_of_all_neurons_under_shifts(model, activations):
    result = find_neurons(model, TEXT, "upper_case", held_out=0, permutations=7, seed=3, progress=False)
    labels = np.array([c.isupper() for c in TEXT])
    by = torch.randint(12, 480 - 12 + 1, (7,), generator=torch.Generator().manual_seed(3)).tolist()
    flat = activations.reshape(128, -1)
    largest = [max(abs(scipys(row, np.roll(labels, k)) - 0.5) for row in flat) + 0.5 for k in by]
    assert np.allclose(result.null, largest, atol=1e-12)
    assert result.chance == pytest.approx(max(largest))
    expected = [(1 + sum(n >= s - 1e-12 for n in largest)) / 8 for s in result.separation.flatten().tolist()]
    assert np.allclose(result.p.flatten(), expected)
    assert 0 < (result.p > 1 / 8).sum() < 128
    assert result.held_out.isnan().all()
    assert result.n_tokens == (480, 0)
    assert not result.low.flatten()[result.separation.flatten().argmax()].isnan()


def test_a_planted_neuron_is_found_and_holds_on_new_text(model, activations):
    mask = activations[1, 17].reshape(-1) < np.quantile(activations[1, 17], 0.2)  # lowest on its class
    result = find_neurons(model, TEXT, mask, k=3, progress=False)
    assert result.best(1) == [(1, 17)]
    row = result.top(1).iloc[0]
    assert (row["layer"], row["neuron"], row["sign"], row["held_out"]) == (1, 17, -1, 1)
    assert row["high"] == 1  # all tokens of 20 sequences are on one side
    assert row["low"] == pytest.approx(0.025 ** (1 / result.n_pieces))
    assert 10 < result.n_pieces <= 20
    assert row["p"] == pytest.approx(1 / 201)
    assert (~result.low.isnan()).sum() == 3


def test_no_neuron_of_the_handmade_model_separates_anything():
    model = handmade_model()  # all neurons are constant
    ids = torch.randint(20, (24 * 30,), generator=torch.Generator().manual_seed(0))
    result = find_neurons(model, ids, ids < 5, permutations=20, progress=False)
    assert (result.values == 0.5).all()
    assert (result.held_out == 0.5).all()
    assert (result.p == 1).all()


def test_random_classes_are_not_above_chance(model):
    """The share of unrelated masks with p <= 0.1 is near a tenth, although the best of 128 neurons is taken."""
    rejected = 0
    for seed in range(40):
        mask = torch.rand(len(TEXT), generator=torch.Generator().manual_seed(seed)) < 0.15
        result = find_neurons(model, TEXT, mask, permutations=19, k=1, held_out=0, seed=seed, progress=False)
        rejected += int(result.p.min() <= 0.1)
    assert rejected <= 10  # expected 4; more than 10 has a probability of 0.001


def test_a_sample_is_spread_over_the_corpus_and_seeded(model, activations):
    tokens, at = open_corpus(model, TEXT).sequences().drawn(10, seed=1)
    assert ((at[:, 0] // 12) // 4 == np.arange(10)).all()
    assert "".join(model.tokenizer.decode(tokens[3].tolist())) == "".join(TEXT[i] for i in at[3])
    result = find_neurons(model, TEXT, "vowel", sample=120, permutations=5, seed=1, progress=False)
    values = activations.reshape(2, 64, -1)[:, :, at]
    labels = np.array([c in "aeiouAEIOU" for c in TEXT])[at]
    assert result.values[1, 9].item() == pytest.approx(scipys(values[1, 9, :5].ravel(), labels[:5].ravel()), abs=1e-12)
    same = find_neurons(model, TEXT, "vowel", sample=120, permutations=5, seed=1, progress=False)
    other = find_neurons(model, TEXT, "vowel", sample=120, permutations=5, seed=2, progress=False)
    assert torch.equal(same.values, result.values)
    assert not torch.equal(other.values, result.values)


def test_layer_by_layer_gives_the_same(model, monkeypatch):
    expected = find_neurons(model, TEXT, "vowel", permutations=5, progress=False)
    monkeypatch.setattr(find, "_HELD", 1)
    assert torch.equal(find_neurons(model, TEXT, "vowel", permutations=5, progress=False).values, expected.values)


def test_layers_are_called_by_their_numbers_also_when_loaded(model, tmp_path):
    result = find_neurons(model, TEXT, "vowel", layers=[1], permutations=5, progress=False)
    assert {layer for layer, _ in result.best(3)} == {1}
    again = load_result(result.save(tmp_path / "found"))
    assert again.best(3) == result.best(3)
    assert again.n_class == result.n_class
    assert "95% of shifts" in repr(again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on": "both"}, "on is 'both'; expected token"),
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"k": 0}, "k is 0"),
        ({"permutations": 0}, "permutations is 0"),
        ({"sample": 0}, "sample is 0"),
        ({"layers": [5]}, "there is no layer 5"),
        ({"sample": 12}, "1 sequences of 12 tokens cannot be divided with held_out=0.5"),
    ],
)
def test_bad_input(model, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        find_neurons(model, TEXT, "vowel", progress=False, **arguments)


def test_a_class_that_is_only_in_one_part(model):
    mask = torch.arange(480) < 100
    with pytest.raises(AnalysisError, match="a mask holds for 0 of 240 tokens of the held-out part"):
        find_neurons(model, TEXT, mask, progress=False)


def test_without_a_vocabulary(tmp_path):
    model = no_tokenizer(random_checkpoint(tmp_path, meta=False))
    ids = torch.arange(240) % 65
    with pytest.raises(AnalysisError, match="no vocabulary"):
        find_neurons(model, ids, "upper_case", progress=False)
    assert find_neurons(model, ids, ids % 3 == 0, permutations=3, progress=False).values.shape == (2, 64)


def test_classes_that_are_ranked_together_have_their_own_numbers(model):
    options = {"permutations": 7, "k": 4, "seed": 3, "progress": False}
    together = find.find_neurons_of_each(model, TEXT, ["vowel", "no such \x00", "upper_case"], **options)
    assert isinstance(together[1], AnalysisError)
    for got, predicate in zip(together[::2], ("vowel", "upper_case"), strict=True):
        alone = find_neurons(model, TEXT, predicate, **options)
        assert isinstance(got, type(alone))
        for name in ("values", "separation", "sign", "held_out", "low", "high", "p", "null"):
            assert torch.equal(getattr(got, name).nan_to_num(-1), getattr(alone, name).nan_to_num(-1)), name
        assert (got.chance, got.predicate, got.provenance) == (alone.chance, alone.predicate, alone.provenance)
