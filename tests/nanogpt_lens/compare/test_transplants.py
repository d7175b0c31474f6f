"""Components exchanged: bit for bit, against weights that were put together by hand, and what the shares must obey."""

from __future__ import annotations

from functools import cache

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare.components import components_of, weights_of
from nanogpt_lens.compare.hybrids import Hybrid, HybridRuns
from nanogpt_lens.compare.transplants import transplant
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import record
from nanogpt_lens.model.fingerprints import weights_hash
from nanogpt_lens.results import Transplants
from nanogpt_lens.running.metrics import answer_logprob, bind, logit_diff, loss
from tests.nanogpt_lens.compare.kin import SIZES, drawn_from, hybrid_state, later, model_of, start

TOKENS = drawn_from(model_of(start()), 10, 9)
QUIET = {"progress": False, "n_random": 5}
SOME = ["embed", "unembed", "0.0", "mlp0", "1.1"]


@cache
def states():
    return start(), later(start())


@cache
def pair(dtype=torch.float64):
    a, b = states()
    return tuple(model_of({name: value.to(dtype) for name, value in state.items()}) for state in (a, b))


@cache
def result():
    return transplant(*pair(), TOKENS, seq_len=9, components=SOME, **QUIET)


@cache
def singles():
    return transplant(*pair(), TOKENS, seq_len=9, search=False, progress=False)


def logits(model, tokens=TOKENS):
    return record(model, tokens, [])["logits"]


def test_components_are_all_parameters_once():
    model = model_of(start())
    weights = weights_of(model)
    for value in weights.values():
        value.zero_()
    for component in components_of(model):
        for part in component.of(weights):
            part += 1
    counted = {name: value for name, value in model.state_dict().items() if "mask" not in name and "IGNORE" not in name}
    assert all(bool((value == 1).all()) for value in weights.values())
    assert all(bool((value == 1).all()) for value in counted.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_is_a_and_nothing_is_b(dtype):
    a, b = pair(dtype)
    runs = HybridRuns(Hybrid(a, b), TOKENS, bind(loss(), b, TOKENS))
    every, some = torch.ones(len(runs.components)).bool(), torch.arange(len(TOKENS))
    with torch.no_grad():
        assert torch.equal(runs.logits(every, some), logits(a))
        assert torch.equal(runs.logits(~every, some), logits(b))
        measured = runs.measure(torch.stack([~every, every]))
        assert torch.equal(measured[0, 1], torch.zeros(10, dtype=torch.float64))
        assert torch.equal(measured[1, 0], torch.zeros(10, dtype=torch.float64))
        assert measured[0, 0].min() > 1e-3


def test_the_models_stay_as_they_are():
    a, b = pair()
    before = weights_hash(a), weights_hash(b)
    result()
    with pytest.raises(RuntimeError, match="boom"):
        transplant(a, b, TOKENS, metric=Breaking(3, 4), **QUIET)
    assert (weights_hash(a), weights_hash(b)) == before


def Breaking(answer, wrong):
    class BreakingMetric(type(logit_diff(answer, wrong))):
        def at_reads(self, logits, reads):
            raise RuntimeError("boom")

    return BreakingMetric(answer=answer, wrong=wrong)


def test_against_weights_put_together_by_hand():
    """Every component in both directions: nanoGPT's own tensors cut and joined, converted, and KL and loss by hand."""
    a_state, b_state = states()
    found = singles()
    p, q = (logits(model).log_softmax(-1) for model in pair())

    def of(end):
        kl = (end.exp() * (end - own)).sum(-1)[:, :-1].mean()
        return float(kl)

    def nll(log_p):
        return float(-log_p[:, :-1].gather(-1, TOKENS[:, 1:, None]).mean())

    for name in found.components:
        for direction, states_, donor, receiver in (
            ("a into b", (a_state, b_state), p, q),
            ("b into a", (b_state, a_state), q, p),
        ):
            own = logits(model_of(hybrid_state(*states_, [name]))).log_softmax(-1)
            far = float((donor.exp() * (donor - receiver)).sum(-1)[:, :-1].mean())
            assert found.share(name, direction, "kl") == pytest.approx(1 - of(donor) / far, abs=1e-9)
            share = (nll(own) - nll(receiver)) / (nll(donor) - nll(receiver))
            assert found.share(name, direction, "loss") == pytest.approx(share, abs=1e-8)


def test_runs_that_begin_late_give_what_whole_runs_give():
    a, b = pair()
    hybrid = Hybrid(a, b)
    runs = HybridRuns(hybrid, TOKENS, bind(loss(), b, TOKENS))
    sets = torch.rand(40, len(runs.components), generator=torch.Generator().manual_seed(0)) < 0.5
    some = torch.tensor([1, 4, 7])
    with torch.no_grad():
        together = runs.measure(sets, some)
        alone = torch.cat([runs.measure(one[None], some) for one in sets], 1)
        ids = TOKENS[some]
        for i in range(0, 40, 13):
            own = runs.logits(sets[i], some).log_softmax(-1)[:, :-1]
            expected = -own.gather(-1, ids[:, 1:, None])[..., 0].mean(-1)
            assert torch.allclose(together[2, i], expected, atol=1e-12)
    assert torch.equal(together, alone)


def test_a_set_and_the_rest_are_one_hybrid():
    """What a set moves of the loss into b and what the others move into a sum to 1."""
    a_state, b_state = states()
    chosen, rest = ["embed", "0.1"], ["mlp1", "1.ln1"]
    a, b = model_of(a_state), model_of(hybrid_state(b_state, a_state, chosen + rest))
    forth = transplant(a, b, TOKENS, seq_len=9, components=chosen, enough=1.0, **QUIET)
    back = transplant(a, b, TOKENS, seq_len=9, components=rest, enough=1.0, **QUIET)
    # no set of these moves all, so the search keeps all that it may
    assert forth.chosen.all()
    assert back.chosen.all()
    assert torch.equal(torch.tensor(forth.n_held_out), torch.tensor(back.n_held_out))
    for one, other in ((0, 1), (1, 0)):
        total = forth.set_share[one, 1] + back.set_share[other, 1]
        assert float(total) == pytest.approx(1.0, abs=1e-9)


def test_what_does_not_differ_moves_nothing():
    a_state, _ = states()
    b_state = hybrid_state(later(a_state, size=1.0), a_state, ["1.0", "mlp0"])
    found = transplant(model_of(a_state), model_of(b_state), TOKENS, seq_len=9, **QUIET)
    changed = [name for name, flag in zip(found.components, found.changed.tolist(), strict=True) if flag]
    assert changed == ["mlp0", "1.0"]
    same = ~found.changed
    assert (found.values[:, 0, same] == 0).all()
    assert (found.moved[same] == 0).all()
    assert (found.moved[~same] > 0.1).all()
    for direction in ("a into b", "b into a"):
        assert set(found.smallest_set(direction)) <= {"mlp0", "1.0"}
    assert found.curve[:, -1] == pytest.approx(1.0)
    assert found.curve[:, 0] == pytest.approx(0.0)
    assert set(found.table("a into b")["component"]) == {"mlp0", "1.0"}


def test_one_component_that_differs_moves_all():
    a_state, _ = states()
    b_state = hybrid_state(later(a_state), a_state, ["0.1"])
    found = transplant(model_of(a_state), model_of(b_state), TOKENS, seq_len=9, **QUIET)
    for direction in ("a into b", "b into a"):
        assert found.smallest_set(direction) == ("0.1",)
        assert found.share("0.1", direction) == pytest.approx(1.0, abs=1e-12)
        assert found.share("0.1", direction, "loss") == pytest.approx(1.0, abs=1e-9)
    assert found.set_p.isnan().all()  # there is no other set to draw
    assert "0.1" in found.sentence()
    assert "random" not in found.sentence()


def test_a_metric_on_prompts():
    a, b = pair()
    prompts = drawn_from(a, 40, 6, seed=5)
    metric = answer_logprob(logits(a, prompts)[:, -1].argmax(-1))
    found = transplant(a, b, prompts, metric=metric, components=["mlp1", "0.0", "embed"], **QUIET)
    assert found.measures == ("kl", "metric")
    assert found.by == "metric"
    answers = logits(a, prompts)[:, -1].argmax(-1, keepdim=True)

    def value(model):
        return logits(model, prompts)[:, -1].log_softmax(-1).gather(-1, answers).mean()

    mixed = model_of(hybrid_state(*states(), ["mlp1"]))
    share = (value(mixed) - value(b)) / (value(a) - value(b))
    assert found.share("mlp1", "a into b") == pytest.approx(float(share), abs=1e-9)
    assert torch.isfinite(found.values).all()


def test_no_ratio_where_the_gap_is_not_sure():
    """On random ids neither model is surely the better: the loss has no share, and the divergence has."""
    ids = torch.randint(11, (8, 9), generator=torch.Generator().manual_seed(0))
    found = transplant(*pair(), ids, seq_len=9, components=SOME, **QUIET)
    low, high = found.gap_low[:, 1], found.gap_high[:, 1]
    assert (low < 0).all()
    assert (high > 0).all()
    assert found.values[:, 1].isnan().all()
    assert found.set_share[:, 1].isnan().all()
    assert found.values[:, 0].isfinite().all()
    assert found.set_share[:, 0].isfinite().all()
    by_loss = transplant(*pair(), ids, seq_len=9, by="loss", components=SOME, **QUIET)  # nothing to search by
    assert by_loss.chosen is None
    assert "do not surely differ" in by_loss.sentence()


def test_interval_by_the_jackknife():
    """The linearised interval is near that of pseudo-values made anew from the shares without each sequence."""
    from nanogpt_lens.core.intervals import pseudo_values, t_interval

    tokens = torch.randint(11, (60, 9), generator=torch.Generator().manual_seed(8))
    found = transplant(*pair(), tokens, seq_len=9, search=False, progress=False)
    a, b = pair()
    mixed = logits(model_of(hybrid_state(*states(), ["mlp0"])), tokens).log_softmax(-1)[:, :-1]
    p, q = (logits(m, tokens).log_softmax(-1)[:, :-1] for m in (a, b))
    far, near = ((p.exp() * (p - other)).sum((1, 2)) for other in (q, mixed))
    without = 1 - (near.sum() - near) / (far.sum() - far)
    low, high = t_interval(pseudo_values(without, 1 - near.sum() / far.sum()))
    at = found.components.index("mlp0")
    assert float(found.low[0, 0, at]) == pytest.approx(float(low), abs=0.02)
    assert float(found.high[0, 0, at]) == pytest.approx(float(high), abs=0.02)
    assert float(high - low) > 0.04


def test_round_trip(tmp_path):
    found = result()
    again = Transplants.load(found.save(tmp_path / "t"))
    assert again.smallest_set("a into b") == found.smallest_set("a into b")
    assert again.sentence() == found.sentence()
    assert torch.equal(again.random_curve, found.random_curve)
    assert repr(again) == repr(found)


def test_refusals():
    a, b = pair()
    with pytest.raises(AnalysisError, match="identical"):
        transplant(a, model_of(start()), TOKENS, **QUIET)
    with pytest.raises(AnalysisError, match=r"no common start .*match_heads"):
        transplant(a, model_of(start(seed=5)), TOKENS, **QUIET)
    with pytest.raises(AnalysisError, match="n_layers is 2 in a and 1 in b"):
        transplant(a, model_of(start(n_layer=1), n_layer=1), TOKENS, **QUIET)
    with pytest.raises(AnalysisError, match="one precision"):
        transplant(a, pair(torch.float32)[1], TOKENS, **QUIET)
    with pytest.raises(AnalysisError, match="is no component"):
        transplant(a, b, TOKENS, components=["0.9"], **QUIET)
    with pytest.raises(AnalysisError, match="expected some names"):
        transplant(a, b, TOKENS, components=[], **QUIET)
    with pytest.raises(AnalysisError, match=r"ngl\.metrics"):
        transplant(a, b, TOKENS, metric=lambda x: x.mean(), **QUIET)
    with pytest.raises(AnalysisError, match="seq_len is 4"):
        transplant(a, b, TOKENS, metric=logit_diff(1, 2), seq_len=4, **QUIET)
    with pytest.raises(AnalysisError, match="by is 'metric'"):
        transplant(a, b, TOKENS, by="metric", **QUIET)
    with pytest.raises(AnalysisError, match="by is 'size'"):
        transplant(a, b, TOKENS, by="size", **QUIET)
    with pytest.raises(AnalysisError, match="at least 4"):
        transplant(a, b, TOKENS[:3], seq_len=9, **QUIET)
    with pytest.raises(AnalysisError, match="there is no text"):
        transplant(a, b, None, **QUIET)
    with pytest.raises(AnalysisError, match="enough is 2"):
        transplant(a, b, TOKENS, enough=2, **QUIET)
    found = singles()
    with pytest.raises(ResultError, match="no set was searched"):
        found.smallest_set("a into b")
    assert "alone moves most" in found.sentence()


def test_hooks_are_refused():
    a, b = pair()
    b.add_hook("blocks.0.hook_resid_pre", lambda x, hook=None: x * 0)
    try:
        with pytest.raises(AnalysisError, match="hooks attached"):
            transplant(a, b, TOKENS, seq_len=9, **QUIET)
    finally:
        b.reset_hooks()


def test_processed_weights_are_refused():
    from conversion.checkpoint import Checkpoint
    from conversion.config import NanoGPTConfig
    from tests.conftest import convert

    config = NanoGPTConfig(**SIZES, tied=False)
    folded = convert(Checkpoint(config=config, state_dict=start()), dtype=torch.float64, process_weights=True)
    with pytest.raises(AnalysisError, match="LayerNorms"):
        transplant(pair()[0], folded, TOKENS, **QUIET)


def test_public_loading_and_stages():
    """Two stages of a shipped run, as a user would, on few sequences."""
    a, b = ngl.load("induction/ckpt_000500.pt"), ngl.load("induction")
    tokens = torch.randint(65, (4, 24), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    found = transplant(a, b, tokens, seq_len=48, components=["0.0", "0.1", "1.0"], search=False, progress=False)
    assert found.values.isfinite()[:, 0].all()
    assert 0.4 < found.cosine < 0.7


def test_one_layer_with_one_head_and_no_bias():
    sizes = {"n_layer": 1, "n_head": 1, "block_size": 8, "bias": False}
    a, b = (model_of(state, **sizes) for state in (start(**sizes), later(start(**sizes))))
    found = transplant(a, b, TOKENS, seq_len=8, **QUIET)
    assert found.values[:, 0].isfinite().all()
    assert not found.changed[found.components.index("0.b_O")]
    assert found.curve[:, -1].tolist() == pytest.approx([1.0, 1.0])
