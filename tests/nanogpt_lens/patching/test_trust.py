"""The bound of a screening's recall, against the recall that an exact sweep of all sites gives."""

import json

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.patching.trust import trust_of
from tests.nanogpt_lens.patching.patching_helpers import model, texts


def recall_and_bound(guess, effect, seed, *, k, verify, sample):
    """The share of the true top k that was patched, and `recall_low`, with another random sample for each seed."""
    order = guess.abs().argsort(descending=True, stable=True)
    generator = torch.Generator().manual_seed(seed)
    drawn = order[verify:][torch.randperm(len(guess) - verify, generator=generator)[:sample]]
    index = torch.cat([order[:verify], drawn])
    trust = trust_of(guess, index, effect[index], n_first=verify, k=k)
    patched = torch.zeros(len(guess), dtype=torch.bool).index_fill(0, index, True)
    return float(patched[effect.abs().topk(k).indices].double().mean()), trust["recall_low"]


def simulated(kind, n, seed):
    """Estimates with heavy tails, and effects that differ from them by a factor, by addition, or in all."""
    generator = torch.Generator().manual_seed(seed)
    guess, other, noise = torch.randn(3, n, generator=generator, dtype=torch.float64)
    guess = guess.sign() * (2 * guess.abs()).exp()
    effects = {
        "small factor": guess * (0.5 * noise).exp(),
        "factor": guess * noise.exp(),
        "addition": guess + 5 * noise,
        "nothing in common": other.sign() * (2 * other.abs()).exp(),
    }
    return guess, effects[kind]


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("kind", ["small factor", "factor", "addition", "nothing in common"])
def test_the_recall_is_at_least_the_bound_in_nineteen_of_twenty_cases(kind, n):
    pairs = [recall_and_bound(*simulated(kind, n, seed), seed, k=20, verify=60, sample=20) for seed in range(60)]
    assert sum(true >= low - 1e-9 for true, low in pairs) >= 0.95 * len(pairs)


def test_the_bound_of_a_good_ranking_is_worth_reading_and_that_of_a_bad_one_is_low():
    good, bad = (
        [recall_and_bound(*simulated(kind, 1000, s), s, k=20, verify=60, sample=20)[1] for s in range(30)]
        for kind in ("small factor", "nothing in common")
    )
    assert float(torch.tensor(good).median()) >= 0.85
    assert max(bad) <= 0.2


def test_on_an_exact_sweep_the_bound_holds():
    clean, corrupted = texts(seed=3)
    options = {"activation": "z", "axes": ("layer", "head", "pos"), "progress": False}
    metric = ngl.metrics.logit_diff(3, 5)
    effect = ngl.activation_patching(model(), clean, corrupted, metric, **options).effect.flatten().double()
    guess = ngl.attribution_patching(model(), clean, corrupted, metric, **options).values.flatten().double()
    pairs = [recall_and_bound(guess, effect, seed, k=10, verify=10, sample=8) for seed in range(200)]
    assert min(true for true, _ in pairs) < 1.0  # so that the bound can be wrong
    assert sum(true >= low - 1e-9 for true, low in pairs) >= 0.95 * len(pairs)


def test_without_a_sample_nothing_is_promised_and_with_all_sites_everything():
    guess = torch.linspace(1, 0, 30, dtype=torch.float64)
    some = torch.arange(10)
    assert trust_of(guess, some, guess[:10], n_first=10, k=5)["recall_low"] == 0.0
    assert trust_of(guess, torch.arange(30), guess, n_first=30, k=5)["recall_low"] == 1.0
    silent = torch.zeros(30, dtype=torch.float64)
    assert trust_of(silent, torch.arange(20), silent[:20], n_first=10, k=5)["recall_low"] >= 0.0


def test_a_screening_says_it_and_one_from_before_still_loads(tmp_path):
    clean, corrupted = texts()
    made = ngl.screen_and_verify(
        model(), clean, corrupted, ngl.metrics.logit_diff(3, 5), activation="z", axes=("layer", "head"), k=3,
        verify=4, progress=False,
    )  # fmt: skip
    assert f"at least {made.recall_low:.2f} of the top 3 were patched exactly" in repr(made)
    folder = made.save(tmp_path / "old")
    plain = json.loads((folder / "result.json").read_text())
    plain["recall"] = plain.pop("recall_among_patched")
    del plain["recall_low"]
    (folder / "result.json").write_text(json.dumps(plain))
    old = ngl.load_result(folder)
    assert old.recall_among_patched == made.recall_among_patched
    assert "at least" not in repr(old)
