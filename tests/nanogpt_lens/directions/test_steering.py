from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.directions.steer import steer, steering_effect
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results import load_result
from nanogpt_lens.text.corpus import windows
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

TEXT = play(12 * 20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("steering"))


@pytest.fixture(scope="module")
def direction():
    return torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tokens(model):
    return torch.tensor(model.tokenizer.encode(TEXT[:24])).view(2, 12)


def after(model, residual):
    """The logits from the residual stream at the end."""
    with torch.no_grad():
        return model.unembed(model.ln_final(residual))


def test_adds_the_direction_and_leaves_nothing(model, direction, tokens):
    plain, cache = model.run_with_cache(tokens)
    residual = cache["blocks.1.hook_resid_post"]
    with steer(model, direction, layer=1, scale=2.5) as steered:
        assert steered is model
        logits = model(tokens, return_type="logits")
        _, kept = model.run_with_cache(tokens)
        again = model(tokens, return_type="logits")  # run_with_cache has not taken the hook away
    assert torch.allclose(logits, after(model, residual + 2.5 * direction), atol=1e-10)
    assert torch.allclose(kept["blocks.0.hook_resid_post"], cache["blocks.0.hook_resid_post"], atol=1e-12)
    assert torch.equal(again, logits)
    assert not has_hooks(model)
    assert torch.equal(model(tokens, return_type="logits"), plain)


def test_earlier_points_reach_later_layers(model, direction, tokens):
    _, cache = model.run_with_cache(tokens)
    with steer(model, direction, layer=0, activation="resid_mid"):
        _, kept = model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_pre")
    with steer(model, direction, layer=0, activation="attn_out"):
        _, same = model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_pre")
    name = "blocks.1.hook_resid_pre"
    assert torch.allclose(kept[name], same[name], atol=1e-10)
    assert (kept[name] - cache[name] - direction).abs().max() > 1e-3  # the MLP of layer 0 has seen it


def test_positions(model, direction, tokens):
    _, cache = model.run_with_cache(tokens)
    with steer(model, direction, layer=1, positions=[3, -1, 11]):
        logits = model(tokens, return_type="logits")
    residual = cache["blocks.1.hook_resid_post"].clone()
    residual[:, [3, 11]] += direction
    assert torch.allclose(logits, after(model, residual), atol=1e-10)
    with (
        pytest.raises(AnalysisError, match="there is no position 12 in 12 tokens"),
        steer(model, direction, layer=1, positions=12),
    ):
        model(tokens)
    assert not has_hooks(model)


def test_generation_is_steered(model):
    target = model.tokenizer.encode("Q")[0]
    direction = model.W_U[:, target] - model.W_U.mean(1)
    with steer(model, direction, layer=1, scale=200.0):
        text = ngl.generate(model, "Rome", max_new_tokens=20, temperature=0.0)
    expected = project_best(model, direction)
    assert text[4:] == expected * 20
    assert ngl.generate(model, "Rome", max_new_tokens=20, temperature=0.0) != text


def project_best(model, direction):
    """The token that a direction at the end promotes most."""
    from nanogpt_lens.directions.find import project_direction

    return model.tokenizer.decode([int(project_direction(model, direction).values.argmax())])


def test_hooks_are_gone_after_an_exception_and_contexts_nest(model, direction, tokens):
    _, cache = model.run_with_cache(tokens)
    with pytest.raises(RuntimeError, match="mine"), steer(model, direction, layer=1):
        raise RuntimeError("mine")
    assert not has_hooks(model)
    with steer(model, direction, layer=1):
        with steer(model, direction, layer=1, scale=2.0):
            both = model(tokens, return_type="logits")
        one = model(tokens, return_type="logits")
    residual = cache["blocks.1.hook_resid_post"]
    assert torch.allclose(both, after(model, residual + 3 * direction), atol=1e-10)
    assert torch.allclose(one, after(model, residual + direction), atol=1e-10)


def test_effect_by_hand(model, direction):
    result = steering_effect(
        model, TEXT, direction, layer=1, scales=(0, 1.5), tokens=["e", 3], n=6, controls=4, seed=2, progress=False
    )
    text = windows(model, TEXT, seq_len=12, n=6, seed=2)
    before = model(text, return_type="logits").log_softmax(-1)
    with steer(model, direction, layer=1, scale=1.5):
        after = model(text, return_type="logits").log_softmax(-1)
    own = [-logs[:, :-1].gather(-1, text[:, 1:, None]).mean() for logs in (before, after)]
    kl = torch.nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean()
    e = model.tokenizer.encode("e")[0]
    expected = [own[1], own[1] - own[0], kl]
    for i in (e, 3):
        expected += [after[..., i].exp().mean(), (after[..., i].exp() - before[..., i].exp()).mean()]
    assert torch.allclose(result.at(scale="1.5"), torch.stack(expected).detach(), atol=1e-10)
    third = model.tokenizer.decode([3])
    assert result.labels["score"][3:] == ("p('e')", "p('e') change", f"p({third!r})", f"p({third!r}) change")
    nothing = result.at(scale="0")
    assert nothing[[1, 2, 4, 6]].abs().max() < 1e-14
    assert result.controls[:, 0, [1, 2]].abs().max() < 1e-14
    assert (result.low <= result.values + 1e-12).all()
    assert (result.values <= result.high + 1e-12).all()


def test_controls_are_random_directions_of_the_same_length(model, direction):
    result = steering_effect(model, TEXT, direction, layer=0, scales=[1.0], controls=5, n=4, progress=False)
    noise = torch.randn(5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = noise - noise.mean(1, keepdim=True)
    noise = noise / noise.norm(dim=1, keepdim=True) * (direction - direction.mean()).norm()
    for row, expected in zip(noise, result.controls, strict=True):
        alone = steering_effect(model, TEXT, row, layer=0, scales=[1.0], controls=0, n=4, progress=False)
        assert torch.allclose(alone.values, expected, atol=1e-10)
    assert torch.allclose(result.chance, result.controls.mean(0))
    assert torch.equal(result.chance_high, result.controls.amax(0))


def test_own_text_saved_and_loaded(model, direction, tmp_path):
    result = steering_effect(model, None, direction, layer=0, n=3, controls=0, progress=False)
    assert result.chance is None
    assert (result.values[:, 2] > 0).all()
    assert (result.values[1:, 2] > result.values[:-1, 2]).all()  # more of it changes more
    again = load_result(result.save(tmp_path / "s"))
    assert again.scales == (0.5, 1.0, 2.0, 4.0)
    assert torch.equal(again.values, result.values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": 2}, "there is no layer 2"),
        ({"layer": 0, "activation": "z"}, "activation is 'z'; expected one of resid_pre"),
        ({"layer": 0, "scale": float("inf")}, "scale is inf"),
        ({"layer": 0, "scale": "2"}, "scale is '2'"),
    ],
)
def test_bad_steering(model, direction, arguments, message):
    with pytest.raises(AnalysisError, match=message), steer(model, direction, **arguments):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": []}, "scales is \\[\\]"),
        ({"scales": [float("nan")]}, "expected finite numbers"),
        ({"tokens": ["ab"]}, "is 2 tokens; expected one token"),
        ({"tokens": [65]}, "there is no token 65; expected 0 to 64"),
        ({"seq_len": 1}, "seq_len is 1"),
        ({"controls": -1}, "controls is -1"),
    ],
)
def test_bad_effects(model, direction, arguments, message):
    with pytest.raises(AnalysisError, match=message):
        steering_effect(model, TEXT, direction, layer=0, progress=False, **arguments)
