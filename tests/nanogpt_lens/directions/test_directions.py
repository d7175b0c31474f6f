from __future__ import annotations

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.directions.find import direction_similarity, principal_components, project_direction
from nanogpt_lens.results import load_result
from nanogpt_lens.text.corpus import open_corpus
from tests.handmade import handmade_model
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

TEXT = play(12 * 30 + 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("directions")


@pytest.fixture(scope="module")
def model(folder):
    return lens_model(folder)


@pytest.fixture(scope="module")
def processed(folder, model):
    import nanogpt_lens as ngl

    return ngl.load(folder, dtype=torch.float64, process_weights=True)


def collected(model, name):
    """All activations [token, unit], read sequence by sequence."""
    sequences = open_corpus(model, TEXT).sequences()
    rows = [sequences.batch(i).tokens for i in range(sequences.n_batches)]
    return torch.cat([model.run_with_cache(tokens)[1][name].flatten(0, 1).flatten(1) for tokens in rows])


@pytest.mark.parametrize(
    ("hook", "layer", "name"),
    [
        ("blocks.1.hook_resid_post", None, "blocks.1.hook_resid_post"),
        ("resid_pre", 1, "blocks.1.hook_resid_pre"),
        ("mlp_post", 0, "blocks.0.mlp.hook_post"),
        ("z", 1, "blocks.1.attn.hook_z"),
    ],
)
def test_pca_equals_svd(model, hook, layer, name):
    result = principal_components(model, TEXT, hook, layer=layer, k=5, batch_size=4, progress=False)
    values = collected(model, name).numpy()
    _, singular, rows = np.linalg.svd(values - values.mean(0), full_matrices=False)
    rows = rows[:5] * np.sign(rows[np.arange(5), np.abs(rows[:5]).argmax(1)])[:, None]
    assert np.allclose(result.values, rows, atol=1e-7)
    assert np.allclose(result.variance, singular[:5] ** 2 / len(values), atol=1e-10)
    assert np.allclose(result.ratio, singular[:5] ** 2 / (singular**2).sum(), atol=1e-10)
    assert np.allclose(result.mean, values.mean(0), atol=1e-10)
    assert result.n_tokens == len(TEXT)
    coordinates = result.project(torch.from_numpy(values))
    assert torch.allclose(coordinates.var(0, correction=0), result.variance, atol=1e-10)


def test_pca_saved_and_loaded(model, tmp_path):
    result = principal_components(model, TEXT, "resid_post", layer=0, k=16, progress=False)
    assert result.ratio.sum().item() == pytest.approx(1)
    assert torch.allclose(result.values @ result.values.T, torch.eye(16, dtype=torch.float64), atol=1e-10)
    assert torch.equal(load_result(result.save(tmp_path / "pca")).values, result.values)
    assert "share of the variance" in repr(result)


def test_a_direction_at_the_end_moves_the_logits_as_projected(model, processed):
    """With the final LayerNorm's scale held, adding the direction to the last residual changes logits by it."""
    direction = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor(model.tokenizer.encode(TEXT[:8]))[None]
    residual = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_post"][0, -1]
    centred = residual - residual.mean()
    scale = (centred.square().mean() + 1e-5).sqrt()
    gain = model.ln_final.w if hasattr(model.ln_final, "w") else model.ln_final.weight
    change = ((direction - direction.mean()) / scale * gain) @ model.W_U
    result = project_direction(model, direction)
    assert torch.allclose(result.values, (change - change.mean()) * scale, atol=1e-10)
    assert torch.allclose(project_direction(processed, direction).values, result.values, atol=1e-10)
    assert torch.allclose(project_direction(model, (2 * direction).tolist()).values, 2 * result.values, atol=1e-10)
    assert result.labels["token"] == tuple(model.tokenizer.decode([i]) for i in range(65))


def test_the_unembedding_direction_promotes_its_token():
    model = handmade_model()
    result = project_direction(model, model.W_U[:, 7])
    assert result.top(1, order="high")["token"].item() == 7


def test_chance_of_projections(model):
    noise = torch.randn(4000, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noise = noise / noise.norm(dim=1, keepdim=True) * 3
    found = torch.stack([project_direction(model, row).values for row in noise[:600]])
    chance = project_direction(model, noise[0]).chance
    share = (found.abs() <= chance).double().mean()
    assert 0.93 < share < 0.97


def test_cosines(model, processed):
    layer, unit, token = 1, 17, 5
    out = direction_similarity(model, model.W_out[layer, unit])
    assert out.kind("output")[layer, unit].item() == pytest.approx(1)
    assert out.top(1)["vector_label"].item() == "output 1.17"
    centred = model.W_out[0, 2] - model.W_out[0, 2].mean(), model.W_out[1, 17] - model.W_out[1, 17].mean()
    assert out.kind("output")[0, 2].item() == pytest.approx(torch.cosine_similarity(*centred, dim=0).item())
    embedded = direction_similarity(model, -model.W_E[token] + 4)  # LayerNorm does not see a constant
    assert embedded.kind("embedding")[token].item() == pytest.approx(-1)
    gain = model.blocks[1].ln2.w if hasattr(model.blocks[1].ln2, "w") else model.blocks[1].ln2.weight
    read = direction_similarity(model, model.W_in[1][:, 3] * gain)
    assert read.kind("input")[1, 3].item() == pytest.approx(1)
    assert read.kind("unembedding").shape == (65,)
    raw = direction_similarity(model, model.W_E[token])
    folded = direction_similarity(processed, model.W_E[token])
    assert torch.allclose(raw.values, folded.values, atol=1e-9)
    row = out.top(200)[lambda f: f["vector_label"].str.startswith("embedding")].iloc[0]
    assert row["text"] == model.tokenizer.decode([int(row["vector_label"].split()[1])])
    with pytest.raises(ResultError, match="there is no kind 'outputs'"):
        out.kind("outputs")


def test_chance_of_cosines(model, tmp_path):
    result = direction_similarity(model, model.W_E[3])
    random = torch.randn(300, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = [direction_similarity(model, row).values.abs() for row in random[:60]]
    assert 0.92 < (torch.stack(found) <= result.chance).double().mean() < 0.98
    outputs = torch.stack([values[128:256].max() for values in found])  # of the 128 outputs, behind the inputs
    assert (outputs <= result.chance_of_largest["output"]).double().mean() >= 0.85
    assert result.chance_of_largest["output"] > result.chance.max()
    again = load_result(result.save(tmp_path / "cosines"))
    assert torch.equal(again.kind("input"), result.kind("input"))


@pytest.mark.parametrize(
    ("hook", "arguments", "message"),
    [
        ("resid_post", {}, "of no layer; give layer="),
        ("blocks.1.hook_resid_post", {"layer": 0}, "give the layer once"),
        ("blocks.7.hook_resid_post", {}, "there is no layer 7"),
        ("resid", {"layer": 0}, "'resid' cannot be patched"),
        ("blocks.0.attn.hook_pattern", {}, "the activation is 'attn.hook_pattern'"),
        ("resid_post", {"layer": 0, "k": 17}, "k is 17; expected at most 16"),
        ("resid_post", {"layer": 0, "k": 0}, "k is 0"),
    ],
)
def test_bad_components(model, hook, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        principal_components(model, TEXT, hook, progress=False, **arguments)


def test_an_activation_that_never_varies():
    with pytest.raises(AnalysisError, match="never varies"):
        principal_components(handmade_model(), torch.arange(20), "mlp_post", layer=0, k=2, progress=False)


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (torch.zeros(16), "expected finite numbers that are not all 0"),
        (torch.full((16,), torch.nan), "not finite"),
        (torch.ones(15), r"shape \[15\]; expected \[16\]"),
        ("north", "the direction is a str"),
    ],
)
def test_bad_directions(model, direction, message):
    for function in (project_direction, direction_similarity):
        with pytest.raises(AnalysisError, match=message):
            function(model, direction)


def test_a_constant_direction_has_no_cosine(model):
    with pytest.raises(AnalysisError, match="the same in every coordinate"):
        direction_similarity(model, torch.ones(16))
