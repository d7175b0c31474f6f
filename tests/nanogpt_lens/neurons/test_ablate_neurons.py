from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from conversion.native import GPT
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import has_hooks, loss_per_token, next_token_loss
from nanogpt_lens.neurons import ablation
from nanogpt_lens.neurons.ablation import ablate_neurons
from nanogpt_lens.neurons.find import find_neurons
from nanogpt_lens.neurons.search import search_neurons
from nanogpt_lens.results import load_result
from tests.handmade import handmade_model
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play, random_checkpoint

TEXT = play(12 * 25)
NEURONS = [(0, 3), (1, 17), (0, 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ablate")


@pytest.fixture(scope="module")
def model(folder):
    return lens_model(folder)


@pytest.fixture(scope="module")
def tokens(model):
    return torch.tensor(model.tokenizer.encode(TEXT)).view(25, 12)


def native_losses(folder, tokens, neurons=(), bias=None):
    """nanoGPT's own, with neurons' output weights set to zero, and what they would write on average as a bias."""
    native = GPT.from_checkpoint(random_checkpoint(folder))
    with torch.no_grad():
        for layer, unit in neurons:
            projection = native.transformer.h[layer].mlp.c_proj
            if bias is not None:
                projection.bias += bias[layer][unit] * projection.weight[:, unit]
            projection.weight[:, unit] = 0
        logits = native(tokens)
    logits = logits[0] if isinstance(logits, tuple) else logits
    return next_token_loss(logits, tokens)


def test_zero_is_nanogpt_without_the_output_weights(model, folder, tokens):
    result = ablate_neurons(model, TEXT, NEURONS, each=True, progress=False)
    before = native_losses(folder, tokens)
    after = native_losses(folder, tokens, NEURONS)
    assert result.at(score="loss")[0].item() == pytest.approx(after.mean().item(), abs=1e-10)
    assert result.at(score="rise")[0].item() == pytest.approx((after - before).mean().item(), abs=1e-10)
    for i, neuron in enumerate(NEURONS):
        alone = native_losses(folder, tokens, [neuron])
        assert result.values[1 + i, 1].item() == pytest.approx((alone - before).mean().item(), abs=1e-10)
    assert result.labels["ablated"][:4] == ("0.3+1.17+0.40", "0.3", "1.17", "0.40")
    assert not has_hooks(model)


def test_mean_is_nanogpt_with_the_mean_as_a_bias(model, folder, tokens):
    _, cache = model.run_with_cache(tokens)
    means = [cache[f"blocks.{layer}.mlp.hook_post"].mean((0, 1)) for layer in range(2)]
    result = ablate_neurons(model, TEXT, NEURONS, source="mean", progress=False)
    rise = native_losses(folder, tokens, NEURONS, means) - native_losses(folder, tokens)
    assert result.at(score="rise")[0].item() == pytest.approx(rise.mean().item(), abs=1e-10)


@pytest.mark.parametrize("pieces", [False, True])
def test_on_and_off_the_class(model, folder, tokens, pieces, monkeypatch):
    if pieces:
        monkeypatch.setattr(ablation, "batches", lambda model, t: (slice(i, i + 4) for i in range(0, len(t), 4)))
    result = ablate_neurons(model, TEXT, NEURONS, predicate="vowel", controls=0, progress=False)
    rise = (native_losses(folder, tokens, NEURONS) - native_losses(folder, tokens)).numpy()
    vowel = np.array([c in "aeiouAEIOU" for c in TEXT]).reshape(25, 12)
    for name, mask in (("token", vowel[:, :-1]), ("next", vowel[:, 1:])):
        on, off = rise[mask].mean(), rise[~mask].mean()
        found = [result.at(score=f"{kind} {name}")[0].item() for kind in ("rise on", "rise off", "difference")]
        assert found == pytest.approx([on, off, on - off], abs=1e-10)
    assert result.n_class == (vowel[:, :-1].sum(), vowel[:, 1:].sum())
    assert result.chance is None
    assert result.controls_as_strong.isnan().all()


def test_intervals_are_over_sequences(model, folder, tokens):
    result = ablate_neurons(model, TEXT, NEURONS, predicate="vowel", controls=0, seed=2, progress=False)
    rise = (native_losses(folder, tokens, NEURONS) - native_losses(folder, tokens)).numpy()
    on = np.array([c in "aeiouAEIOU" for c in TEXT]).reshape(25, 12)[:, 1:]
    difference = rise[on].mean() - rise[~on].mean()
    each = ((rise - rise[on].mean()) * on).sum(1) / on.sum() - ((rise - rise[~on].mean()) * ~on).sum(1) / (~on).sum()
    ends_by_hand = scipy.stats.t.interval(0.95, 24, difference, 25 * each.std(ddof=1) / 25**0.5)
    ends = [end[0, result.labels["score"].index("difference next")].item() for end in (result.low, result.high)]
    assert ends == pytest.approx(ends_by_hand, abs=1e-10)
    means = np.array(scipy.stats.t.interval(0.95, 24, rise.mean(), scipy.stats.sem(rise.mean(1))))
    assert [result.low[0, 1].item(), result.high[0, 1].item()] == pytest.approx(means.tolist(), abs=1e-10)
    losses = native_losses(folder, tokens, NEURONS).numpy()
    of_loss = np.array(scipy.stats.t.interval(0.95, 24, losses.mean(), scipy.stats.sem(losses.mean(1))))
    assert [result.low[0, 0].item(), result.high[0, 0].item()] == pytest.approx(of_loss.tolist(), abs=1e-10)


def test_hardest_hit_tokens(model, folder, tokens):
    result = ablate_neurons(model, TEXT, NEURONS, k=4, controls=0, progress=False)
    before, after = native_losses(folder, tokens), native_losses(folder, tokens, NEURONS)
    order = (after - before).flatten().argsort(descending=True)[:4]
    assert torch.allclose(result.hit_values, (after - before).flatten()[order], atol=1e-10)
    assert torch.allclose(result.hit_losses[:, 1], after.flatten()[order], atol=1e-10)
    for flat, position, (preceding, token) in zip(
        order.tolist(), result.hit_positions.tolist(), result.hit_texts, strict=True
    ):
        row, pos = divmod(flat, 11)
        assert position == row * 12 + pos + 1
        assert token == TEXT[position]
        assert preceding == TEXT[row * 12 : position]
    assert result.hits()["rise"].tolist() == result.hit_values.tolist()


def test_controls_are_other_neurons_of_the_same_layers(model):
    result = ablate_neurons(model, TEXT, ["0.3", "L1N17", (0, 40)], controls=6, seed=1, progress=False)
    controls = result.labels["ablated"][1:]
    assert len(controls) == 6
    assert len(set(controls)) == 6
    for name in controls:
        pairs = [tuple(map(int, part.split("."))) for part in name.removeprefix("control ").split("+")]
        assert sorted(layer for layer, _ in pairs) == [0, 0, 1]
        assert len(set(pairs)) == 3
        assert not set(pairs) & set(NEURONS)
        again = ablate_neurons(model, TEXT, pairs, controls=0, progress=False)
        assert again.values[0, 1].item() == pytest.approx(result.at(ablated=name)[1].item(), abs=1e-12)
    rises = result.values[:, 1]
    assert result.chance[0, 1].item() == pytest.approx(rises[1:].mean().item())
    assert result.controls_as_strong[1].item() == pytest.approx((rises[1:] >= rises[0]).double().mean().item())


def test_a_neuron_with_no_output_changes_nothing():
    model = handmade_model()
    ids = torch.randint(20, (24 * 8,), generator=torch.Generator().manual_seed(0))
    result = ablate_neurons(model, ids, [(0, 1)], predicate=ids < 5, controls=3, progress=False)
    assert (result.values[:, 1:] == 0).all()
    assert (result.controls_as_strong[1:] == 1).all()
    whole = torch.stack([loss_per_token(model, row[None])[0] for row in ids.view(8, 24)])
    assert result.values[0, 0].item() == pytest.approx(whole.mean().item(), abs=1e-10)


def test_saved_and_loaded(model, tmp_path):
    result = ablate_neurons(model, TEXT, [(0, 3)], predicate="vowel", controls=2, n=5, progress=False)
    again = load_result(result.save(tmp_path / "a"))
    assert again.hit_texts == result.hit_texts
    assert again.n_class == result.n_class
    assert again.table().equals(result.table())
    assert "rise on token" in repr(again)


@pytest.mark.parametrize(
    ("neurons", "arguments", "message"),
    [
        ([(0, 64)], {}, "there is no neuron 64"),
        ([(2, 0)], {}, "there is no layer 2"),
        (["0-3"], {}, "there is no neuron '0-3'"),
        ("0.3", {}, "expected a list of neurons"),
        ([], {}, "at least one"),
        ([(0, 1), (0, 1)], {}, "each once"),
        ([(0, 1)], {"source": "resample"}, "source is 'resample'; expected one of zero, mean"),
        ([(0, 1)], {"predicate": "digit"}, "digit holds for no token"),
        ([(0, 1)], {"k": 0}, "k is 0"),
        ([(0, 1)], {"n": 0}, "n is 0"),
        ([(0, 1)], {"seq_len": 1}, "expected at least 2 tokens"),
        ([(0, i) for i in range(40)], {"controls": 20}, "40 of the 64 neurons of layer 0 are to be ablated, too many"),
    ],
)
def test_bad_input(model, neurons, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        ablate_neurons(model, TEXT, neurons, progress=False, **arguments)


def test_a_class_that_the_sequences_drawn_do_not_hold(model):
    mask = torch.zeros(300, dtype=torch.bool)
    mask[-1] = True
    with pytest.raises(AnalysisError, match="a mask holds for 0 of 11 positions"):
        ablate_neurons(model, TEXT, [(0, 1)], predicate=mask, n=1, progress=False)


def test_it_says_whether_the_neurons_were_chosen_on_this_text(model, tmp_path):
    text, other = play(3000), play(3000, seed=9)
    found = find_neurons(model, text[:2000], "upper_case", permutations=5, progress=False)
    search = search_neurons(model, text[:2000], k=1, window=4, progress=False)
    found.save(tmp_path / "found")
    again = load_result(tmp_path / "found")
    options = {"controls": 0, "n": 20, "progress": False}
    for chosen, share in ((found, 1 / 3), (search, 2 / 3), (again, 1 / 3)):  # `find_neurons` holds one half out
        result = ablate_neurons(model, text, [(0, 3)], chosen_by=chosen, **options)
        assert abs(result.seen_share - share) < 0.15
        assert result.in_sample
        words = f"in sample: the choice of neurons has seen {result.seen_share:.0%} of this text before"
        for shown in (repr(result).lower(), result.plot().layout.to_json().replace("<br>", " ").lower()):
            assert words in shown
        assert result.table()["in_sample"].all()
        new = ablate_neurons(model, other, [(0, 3)], chosen_by=chosen, **options)
        assert new.seen_share < share / 2
    half = ablate_neurons(model, text[2200:], [(0, 3)], chosen_by=found, **options)
    assert half.seen_share < 0.1
    whole = find_neurons(model, text[:2000], "upper_case", held_out=0, permutations=5, progress=False)
    assert whole.in_sample  # its intervals are of the tokens by which the best were chosen
    assert found.in_sample is None
    named = ablate_neurons(model, text, [(0, 3)], **options)  # nobody says by what
    assert named.seen_share is named.in_sample is None
    assert "unknown whether in sample; the choice of neurons may have seen the same before" in repr(named).lower()
    assert set(named.table()["in_sample"]) == set(named.to_dataframe()["in_sample"]) == {"unknown"}
