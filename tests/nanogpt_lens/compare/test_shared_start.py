"""Whether two models come from one start: on shipped runs, and how often separate starts are taken for one."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare import origin
from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results import Origin
from tests.nanogpt_lens.compare.kin import later, model_of, start


def trained(seed: int, batches: int, steps: int, lr: float = 0.01):
    """A tiny model from a fresh start of that seed, trained on batches of that seed of a text that all share."""
    from conversion.config import NanoGPTConfig
    from conversion.native import GPT

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        native = GPT(NanoGPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=12, vocab_size=11)).double()
    text = torch.randint(11, (400,), generator=torch.Generator().manual_seed(0)).cumsum(0) % 11
    generator = torch.Generator().manual_seed(batches)
    optimizer = torch.optim.AdamW(native.parameters(), lr=lr, weight_decay=0.1)
    for _ in range(steps):
        windows = text[torch.randint(388, (8, 1), generator=generator) + torch.arange(12)]
        loss = torch.nn.functional.cross_entropy(native(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.detach().clone() for name, value in native.state_dict().items()}
    return model_of(state, n_layer=1)


@pytest.mark.slow
def test_stages_of_a_run_and_other_seeds():
    last = ngl.load("induction")
    first = shared_start(ngl.load("induction/ckpt_000000.pt"), last)
    assert first.verdict == "shared start"
    assert first.p == origin.LEVEL
    assert first.cosine > 20 * first.chance_deviation
    other = shared_start(last, ngl.load("induction/seed_1338"))
    assert other.verdict == "separate starts"
    assert other.p > 0.05
    assert abs(other.cosine - other.chance_mean) < 3 * other.chance_deviation
    control = shared_start(last, ngl.load("induction_control"))
    assert control.verdict == "other shape"
    assert control.different == "n_layers is 2 in a and 1 in b"
    assert "other shapes" in control.sentence()


def test_cosines_by_hand():
    a, b = model_of(start()), model_of(later(start()))
    found = shared_start(a, b)
    for name, one, two in (("embed", a.W_E, b.W_E), ("unembed", a.W_U.T, b.W_U.T)):
        one, two = (x.detach() - x.detach().mean(1, keepdim=True) for x in (one, two))
        assert float(found.at(matrix=name)) == pytest.approx(float((one * two).sum() / (one.norm() * two.norm())))

    def moves(model):
        each = [model.W_V[1, head].detach() @ model.W_O[1, head].detach() for head in range(2)]
        matrix = sum(each) - sum(each).mean(0)
        return matrix - matrix.mean(1, keepdim=True)

    one, two = moves(a), moves(b)
    assert float(found.at(matrix="1.ov")) == pytest.approx(float((one * two).sum() / (one.norm() * two.norm())))
    assert found.cosine == pytest.approx(float(found.values.mean()))


def test_what_the_orders_leave_is_what_separate_starts_give():
    """A model whose residual dimensions are in another order computes the same, and shares nothing that can be seen."""
    state = start()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    moved = {}
    for name, value in state.items():
        if name.endswith(("c_attn.weight", "c_fc.weight")) or "wte" in name or "wpe" in name or "lm_head" in name:
            moved[name] = value[:, order]
        elif "c_attn.bias" in name or "c_fc.bias" in name:
            moved[name] = value
        else:
            moved[name] = value[order]
    a, b = model_of(state), model_of(moved)
    tokens = torch.randint(11, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(a(tokens), b(tokens), atol=1e-9)
    found = shared_start(a, b)
    assert found.verdict == "separate starts"
    assert found.chance_low[0] < found.values[0] < found.chance_high[0]


@pytest.mark.slow
def test_false_positives_of_fresh_models():
    """Of 100 pairs of fresh models none is taken for kin, and their p are spread as p of true nulls are."""
    models = [trained(seed, 0, 0) for seed in range(25)]
    p = torch.tensor([shared_start(models[i], models[j]).p for i in range(25) for j in range(i + 1, min(i + 5, 25))])
    assert len(p) == 90
    assert float(p.min()) > origin.LEVEL
    assert 0.35 < float(p.mean()) < 0.65
    assert float((p < 0.1).double().mean()) < 0.25


@pytest.mark.slow
def test_false_positives_of_trained_models():
    """Models of separate starts that have learnt the same text."""
    models = [trained(seed, 100 + seed, 150) for seed in range(30)]
    p = torch.tensor([shared_start(models[i], models[j]).p for i in range(30) for j in range(i + 1, 30)])
    assert float((p <= origin.LEVEL).double().mean()) <= 0.01  # 435 pairs, 0.4 expected
    assert 0.4 < float(p.mean()) < 0.6
    assert 0.02 < float((p < 0.1).double().mean()) < 0.2


@pytest.mark.slow
def test_how_long_a_start_is_seen():
    """Two runs of one start on other batches, and a start and its end: seen until training has moved all of it.

    At a learning rate of 0.01 each step is half of what a start's weights are, and after 150 of them the cosine, about
    0.1, is no longer surely above that of chance in so small a model.
    """
    for lr, least in ((0.001, 0.6), (0.003, 0.3)):
        kin = [shared_start(trained(seed, 1, 150, lr), trained(seed, 2, 150, lr)) for seed in range(6)]
        assert [one.verdict for one in kin] == ["shared start"] * 6
        assert min(one.cosine for one in kin) > least
        ends = [shared_start(trained(seed, 1, 0), trained(seed, 2, 150, lr)) for seed in range(6)]
        assert [one.verdict for one in ends] == ["shared start"] * 6
    far = [shared_start(trained(seed, 1, 150), trained(seed, 2, 150)) for seed in range(3)]
    assert max(one.cosine for one in far) < 0.2


def test_kept_and_refused(tmp_path):
    a = model_of(start())
    found = shared_start(a, model_of(later(start())))
    assert Origin.load(found.save(tmp_path / "o")).sentence() == found.sentence()
    assert shared_start(a, model_of(start())).sentence() == "a and b are identical, parameter by parameter"
    with pytest.raises(AnalysisError, match="6 dimensions"):
        shared_start(*(model_of(start(n_embd=6, seed=seed), n_embd=6) for seed in (0, 1)))
    with pytest.raises(AnalysisError, match="seed is -1"):
        shared_start(a, a, seed=-1)
    with pytest.raises(AnalysisError, match="expected a HookedTransformer"):
        shared_start(a, None)
