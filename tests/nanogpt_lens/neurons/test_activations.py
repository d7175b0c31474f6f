from __future__ import annotations

import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.neurons.activations import get_neuron_activations
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model

TEXT = "O Rome, is"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("activations"))


def test_one_text(model):
    result = get_neuron_activations(model, TEXT)
    _, cache = model.run_with_cache(TEXT, prepend_bos=False)
    assert result.axes == ("layer", "neuron", "pos")
    for layer in range(2):
        assert torch.allclose(result.values[layer], cache[f"blocks.{layer}.mlp.hook_post"][0].T, atol=1e-12)
    assert result.labels["pos"] == tuple(TEXT)
    assert not has_hooks(model)


def test_some_neurons_of_several_texts(model):
    result = get_neuron_activations(model, ["abc", "xyz"], [7, 3], layers=[1])
    every = get_neuron_activations(model, ["abc", "xyz"])
    assert result.axes == ("example", "layer", "neuron", "pos")
    assert torch.equal(result.values, every.values[:, [1]][:, :, [7, 3]])
    assert (result.labels["layer"], result.labels["neuron"]) == (("1",), ("7", "3"))
    assert torch.equal(result.at(layer=1, neuron="3"), every.values[:, 1, 3])
    alone = get_neuron_activations(model, "xyz", 3, layers=1)
    assert torch.allclose(alone.values, every.values[1, [1]][:, [3]], atol=1e-12)


def test_other_sites_and_ids(model):
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    _, cache = model.run_with_cache(ids)
    z = get_neuron_activations(model, ids, activation="z").values
    assert torch.allclose(z[:, 1], cache["blocks.1.attn.hook_z"].flatten(2).transpose(1, 2), atol=1e-12)
    assert get_neuron_activations(model, ids[0]).axes == get_neuron_activations(model, ids[0].tolist()).axes
    assert get_neuron_activations(model, ids[:1]).axes[0] == "example"


class Doubled:
    """A stand-in for an autoencoder: features are twice the first three neurons of layer 1."""

    W_dec = torch.eye(64, dtype=torch.float64)[:3] / 2
    cfg = type("Config", (), {"hook_name": "blocks.1.mlp.hook_post"})()

    def encode(self, x):
        return 2 * x[..., :3]


def test_features(model):
    found = get_neuron_activations(model, TEXT, [2, 0], sae=Doubled())
    assert torch.allclose(found.values, 2 * get_neuron_activations(model, TEXT, [2, 0], layers=[1]).values)
    assert found.labels["neuron"] == ("2", "0")
    assert found.labels["layer"] == ("1",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons": [64]}, "there is no neuron 64; expected 0 to 63"),
        ({"neurons": []}, "expected at least one index"),
        ({"neurons": [1, 1]}, "each once"),
        ({"layers": [2]}, "there is no layer 2; expected 0 to 1"),
        ({"activation": "mlp.hook_mid"}, "the activation is 'mlp.hook_mid'; expected one of mlp_post"),
    ],
)
def test_bad_input(model, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        get_neuron_activations(model, TEXT, **arguments)
