from __future__ import annotations

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.neurons import statistics
from nanogpt_lens.neurons.activations import get_neuron_activations
from nanogpt_lens.neurons.comoments import Comoments
from nanogpt_lens.neurons.moments import Moments
from nanogpt_lens.neurons.statistics import neuron_statistics
from nanogpt_lens.results import load_result
from nanogpt_lens.text.sequences import Batch, Sequences
from tests.handmade import handmade_model
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

TEXT = play(12 * 30 + 5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("statistics"), n_layer=3)


@pytest.fixture(scope="module")
def activations(model):
    """All of them [layer, neuron, token], read sequence by sequence."""
    pieces = [get_neuron_activations(model, TEXT[i : i + 12]).values for i in range(0, len(TEXT), 12)]
    return torch.cat(pieces, 2).numpy()


@pytest.mark.parametrize("engine", ["auto", "hooks"])
def test_equals_numpy(model, activations, engine):
    result = neuron_statistics(model, TEXT, between="all", batch_size=7, engine=engine, progress=False)
    assert result.n_tokens == len(TEXT)
    assert np.allclose(result.values, activations.mean(-1), atol=1e-12)
    assert np.allclose(result.variance, activations.var(-1), atol=1e-12)
    whole = np.corrcoef(activations.reshape(-1, activations.shape[-1]))
    blocks = whole.reshape(3, 64, 3, 64)
    for layer in range(3):
        assert np.allclose(result.within[layer], blocks[layer, :, layer], atol=1e-10)
    assert result.pairs == ((0, 1), (0, 2), (1, 2))
    for i, (a, b) in enumerate(result.pairs):
        assert np.allclose(result.across[i], blocks[a, :, b], atol=1e-10)


def test_some_layers_and_neurons(model, activations):
    result = neuron_statistics(model, TEXT, layers=[2, 0], neurons=[9, 1], progress=False)
    assert result.pairs == ((0, 2),)
    assert result.across[0, 0, 1].item() == pytest.approx(np.corrcoef(activations[0, 9], activations[2, 1])[0, 1])
    assert result.labels == {"layer": ("0", "2"), "neuron": ("9", "1")}
    assert neuron_statistics(model, TEXT, between="none", progress=False).across is None


def test_top_lists_each_pair_once(model, activations, tmp_path):
    result = neuron_statistics(model, TEXT, progress=False)
    every = []
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2)):
        whole = np.corrcoef(activations[a], activations[b])[:64, 64:]
        every += [(whole[i, j], a, i, b, j) for i in range(64) for j in range(64) if a != b or i < j]
    for order, key in (("abs", lambda e: -abs(e[0])), ("high", lambda e: -e[0]), ("low", lambda e: e[0])):
        expected = sorted(every, key=key)[:15]
        frame = result.top(15, order=order)
        assert np.allclose(frame["correlation"], [e[0] for e in expected], atol=1e-10)
        columns = frame[["layer_a", "neuron_a", "layer_b", "neuron_b"]]
        assert columns.to_numpy().tolist() == [list(e[1:]) for e in expected]
    assert result.top(1, by="variance")["variance"].item() == pytest.approx(activations.var(-1).max())
    again = load_result(result.save(tmp_path / "r"))
    assert again.top(3).equals(result.top(3))
    assert again.pairs == result.pairs
    assert "tokens" in repr(result)


def test_parts_joined_are_the_whole():
    torch.manual_seed(0)
    values = torch.randn(2, 50, 3, dtype=torch.float64) * 0.1 + 1e4  # far from zero
    values[1] += values[0].flip(-1)
    tokens = torch.zeros(1, 50, dtype=torch.long)

    def read(pieces):
        keeper = Comoments(pairs=[(0, 0), (1, 1), (0, 1)], control=True)
        for start, stop in pieces:
            for i in range(2):
                batch = Batch(tokens=tokens[:, start:stop], first=start)
                keeper.add(i, values[i, None, start:stop], batch)
        return keeper

    joined = Comoments(pairs=[(0, 0), (1, 1), (0, 1)], control=True)
    joined.hold([read([(0, 20)]).state(), read([(20, 30)]).state(), read([(30, 45), (45, 50)]).state()])
    whole = read([(0, 20), (20, 30), (30, 45), (45, 50)])
    expected = np.corrcoef(values[0].T.numpy(), values[1].T.numpy())
    for keeper in (joined, whole):
        assert np.allclose(keeper.correlation((0, 1)), expected[:3, 3:], atol=1e-9)
        assert np.allclose(keeper.correlation((1, 1)), expected[3:, 3:], atol=1e-9)
        assert np.allclose(keeper.mean(1), values[1].mean(0), atol=1e-9)
        assert keeper.n == 50
    assert torch.allclose(joined.correlation((0, 1), control=True), whole.correlation((0, 1), control=True), atol=1e-9)


def test_the_control_shifts_tokens():
    values = torch.randn(1, 4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens=torch.zeros(4, 5, dtype=torch.long), first=0)
    keeper = Comoments(pairs=[(0, 0)], control=True, seed=3)
    keeper.add(0, values[0], batch)
    flat = values[0].flatten(0, 1).numpy()
    found = keeper.correlation((0, 0), control=True).numpy()
    shifts = [k for k in range(20) if np.allclose(np.corrcoef(np.roll(flat, k, 0).T, flat.T)[:3, 3:], found)]
    assert len(shifts) == 1
    assert 5 <= shifts[0] <= 15


def test_chance_is_the_level_of_unrelated_units(model):
    result = neuron_statistics(model, TEXT, progress=False)
    assert result.chance_within.shape == (3,)
    assert result.chance_across.shape == (2,)
    assert (result.chance_within < 0.5).all()  # 365 tokens: 1 / sqrt(365) is 0.05, the largest of 2016 some 0.2
    assert (result.chance_within > 0.1).all()
    assert (result.top(5)["correlation"].abs() > result.top(5)["chance"]).all()
    assert neuron_statistics(model, TEXT, control=False, progress=False).chance_within is None


def test_a_neuron_that_never_changes():
    model = handmade_model()  # all MLP weights are zero
    result = neuron_statistics(model, torch.arange(20).repeat(12), batch_size=2, progress=False)
    assert (result.variance == 0).all()
    assert result.within.isnan().all()
    assert result.across.isnan().all()
    assert len(result.top(5)) == 0


def test_resumed(model, tmp_path, monkeypatch):
    from nanogpt_lens.core import unfinished

    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    expected = neuron_statistics(model, TEXT, batch_size=4, progress=False)
    original, calls = Sequences.batch, []

    def failing(self, i):
        calls.append(i)
        if i == 5:
            raise KeyboardInterrupt
        return original(self, i)

    monkeypatch.setattr(Sequences, "batch", failing)
    with pytest.raises(KeyboardInterrupt):
        neuron_statistics(model, TEXT, batch_size=4, resume=tmp_path / "run", progress=False)
    monkeypatch.setattr(Sequences, "batch", original)
    found = neuron_statistics(model, TEXT, batch_size=4, resume=tmp_path / "run", progress=False)
    assert torch.allclose(found.within, expected.within, atol=1e-12)
    assert torch.allclose(found.chance_within, expected.chance_within, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"between": "some"}, "between is 'some'; expected one of neighbours, all, none"),
        ({"neurons": [99]}, "there is no neuron 99"),
        ({"seed": -1}, "seed is -1"),
        ({"layers": [7]}, "there is no layer 7"),
    ],
)
def test_bad_input(model, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        neuron_statistics(model, TEXT, progress=False, **arguments)


def test_too_many_correlations(model, monkeypatch):
    monkeypatch.setattr(statistics, "LARGEST", 64 * 64 * 5)
    with pytest.raises(AnalysisError, match="5 matrices of 64 x 64 correlations, twice for the control.*layers="):
        neuron_statistics(model, TEXT, progress=False)
    assert neuron_statistics(model, TEXT, control=False, progress=False).n_tokens == len(TEXT)


def test_an_empty_corpus(model):
    with pytest.raises(AnalysisError, match="0 tokens"):
        neuron_statistics(model, torch.zeros(0, dtype=torch.long), progress=False)


def test_moments_of_several_parts_are_those_of_the_whole():
    """As several processes put theirs together; the mean is large beside the deviation, where sums of squares fail."""
    values = 1e6 + torch.randn(2, 30, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    states = []
    for first, last in ((0, 4), (4, 5), (5, 30)):
        part = Moments(sites=2)
        for site in range(2):
            rows = values[site, first:last][None] - 1e6 * site
            part.add(site, rows, Batch(tokens=torch.zeros(1, last - first, dtype=torch.long), first=first))
        states.append(part.state())
    whole = Moments(sites=2)
    whole.hold(states)
    expected = values.numpy() - 1e6 * np.arange(2)[:, None, None]
    assert whole.n == 30
    assert np.allclose(whole.mean, expected.mean(1), rtol=1e-13, atol=1e-9)
    assert np.allclose(whole.variance, expected.var(1), rtol=1e-6)
    assert np.array_equal(whole.sparsity, (expected <= 0).mean(1))
