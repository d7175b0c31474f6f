from __future__ import annotations

import pytest
import torch

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.composition import composition_scores
from tests.conftest import convert
from tests.handmade import INDUCTION, PREVIOUS, handmade_model
from tests.making import content, write

MODES = ("Q", "K", "V")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sizes = {"n_layer": 3, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}
    return read_checkpoint(write(tmp_path_factory.mktemp("composition"), content(**sizes, seed=3, dtype=torch.float64)))


@pytest.fixture(scope="module")
def folded(checkpoint):
    return convert(checkpoint, dtype=torch.float64, process_weights=True)


def upstream(model, mode):
    scores = model.all_composition_scores(mode)
    return scores if isinstance(scores, torch.Tensor) else scores.scores


@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_transformer_lens_on_processed_weights(checkpoint, folded, mode):
    scores = composition_scores(folded, mode=mode)
    earlier = ~scores.values.isnan()
    assert torch.allclose(scores.values[earlier], upstream(folded, mode).detach()[earlier], atol=1e-9)
    raw = composition_scores(convert(checkpoint, dtype=torch.float64), mode=mode)
    assert torch.allclose(raw.values, scores.values, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
def test_against_whole_matrices(folded, mode):
    scores = composition_scores(folded, mode=mode).values
    w = {name: getattr(folded, f"W_{name}").detach() for name in "QKVO"}
    for i in range(3):
        for a in range(2):
            for j in range(3):
                for b in range(2):
                    if j <= i:
                        assert scores[i, a, j, b].isnan()
                        continue
                    ov = w["V"][i, a] @ w["O"][i, a]
                    query_key = w["Q"][j, b] @ w["K"][j, b].T
                    reader = {"Q": query_key, "K": query_key.T, "V": w["V"][j, b] @ w["O"][j, b]}[mode]
                    expected = (ov @ reader).norm() / ov.norm() / reader.norm()
                    assert scores[i, a, j, b].item() == pytest.approx(expected.item(), abs=1e-9)


def test_the_handmade_circuit_composes_through_keys_alone():
    model = handmade_model()
    circuit = (*PREVIOUS, *INDUCTION)
    keys = composition_scores(model, mode="K")
    assert keys.values[circuit] > 2 * keys.provenance["random"]["high"]
    others = [keys.values[0, a, 1, b].item() for a in range(2) for b in range(2) if (0, a, 1, b) != circuit]
    assert others == [0, 0, 0]
    for mode in ("Q", "V"):
        assert composition_scores(model, mode=mode).values[circuit] < 1e-6


def test_chance_is_that_of_random_heads(folded):
    scores = composition_scores(folded, samples=400)
    random = scores.provenance["random"]
    generator = torch.Generator().manual_seed(9)
    found = []
    for _ in range(400):
        v, o, q, k = (torch.randn(16, 8, generator=generator, dtype=torch.float64) for _ in range(4))
        q, k, o = (m - m.mean(0) for m in (q, k, o))  # as LayerNorm does
        v = v - v.mean(0)
        ov, key_query = v @ o.T, k @ q.T
        found.append((ov @ key_query).norm() / ov.norm() / key_query.norm())
    expected = torch.stack(found)
    error = 4 * expected.std() / 20 * 2**0.5
    assert abs(random["mean"] - expected.mean()) < error
    assert random["std"] == pytest.approx(expected.std().item(), rel=0.2)
    assert random["low"] < random["mean"] < random["high"]
    earlier = ~scores.values.isnan()
    assert (scores.chance[earlier] == random["mean"]).all()
    assert scores.chance[~earlier].isnan().all()


def test_random_untrained_heads_are_at_chance(folded):
    """The heads of the random checkpoint, but for their LayerNorm weights, are such random matrices."""
    for mode in MODES:
        scores = composition_scores(folded, mode=mode)
        gap = (scores.values - scores.chance).nanmean().abs()
        assert gap < 3 * scores.provenance["random"]["std"]


def test_the_seed_decides(folded):
    first, again, other = (composition_scores(folded, samples=5, seed=s).provenance["random"] for s in (1, 1, 2))
    assert first == again != other


def test_one_layer_has_no_pairs(tmp_path):
    model = convert(read_checkpoint(write(tmp_path, content(n_layer=1))))
    assert composition_scores(model, samples=2).values.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "k"}, "mode is 'k'; expected Q, K or V"),
        ({"samples": 1}, "samples is 1; expected at least 2"),
        ({"samples": 2.5}, "samples is 2.5; expected a whole number"),
        ({"seed": None}, "seed is None; expected a whole number"),
    ],
)
def test_bad_input(folded, options, message):
    with pytest.raises(AnalysisError, match=message):
        composition_scores(folded, **options)
