"""Patterns and statistics against plain loops, replaced patterns, and the handmade model."""

from __future__ import annotations

import math
from importlib.metadata import version

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads import attention
from nanogpt_lens.heads.attention import (
    STATISTICS,
    attention_patterns,
    attention_statistics,
    pattern_hook,
    statistics_of,
)
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.text.from_model import own_text
from tests.conftest import convert
from tests.handmade import PREVIOUS, handmade_model
from tests.making import write, write_meta


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("random"), vocab_size=11, seed=3)
    return read_checkpoint(path)


@pytest.fixture(scope="module")
def model(checkpoint):
    return convert(checkpoint, dtype=torch.float64)


@pytest.fixture(scope="module")
def corpus():
    return torch.randint(11, (130,), generator=torch.Generator().manual_seed(1))


def first_layer_by_hand(state: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Attention [head, query, key] of layer 0, as nanoGPT's model.py has it, entry by entry."""
    state = {name: value.double() for name, value in state.items()}
    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][: len(tokens)]
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    x = x * state["transformer.h.0.ln_1.weight"] + state["transformer.h.0.ln_1.bias"]
    qkv = x @ state["transformer.h.0.attn.c_attn.weight"].T + state["transformer.h.0.attn.c_attn.bias"]
    q, k, _ = qkv.split(16, dim=1)
    found = torch.zeros(2, len(tokens), len(tokens), dtype=torch.float64)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        for i in range(len(tokens)):
            scores = [math.exp(float(q[i, part] @ k[j, part]) / math.sqrt(8)) for j in range(i + 1)]
            found[head, i, : i + 1] = torch.tensor(scores, dtype=torch.float64) / sum(scores)
    return found


class TestPatterns:
    def test_are_the_softmax_of_the_weights(self, model, checkpoint, corpus):
        found = attention_patterns(model, corpus[:9])
        assert found.axes == ("layer", "head", "dest_pos", "src_pos")
        torch.testing.assert_close(
            found.values[0], first_layer_by_hand(checkpoint.state_dict, corpus[:9]), atol=1e-12, rtol=0
        )
        torch.testing.assert_close(found.values.sum(-1), torch.ones(2, 2, 9, dtype=torch.float64))
        assert found.values.triu(1).abs().max() == 0
        assert found.tokens.tolist() == corpus[:9].tolist()
        assert found.labels["src_pos"] == tuple(str(i) for i in corpus[:9].tolist())

    def test_are_those_of_transformer_lens(self, model, corpus):
        tokens = corpus[:24].view(3, 8)
        found = attention_patterns(model, tokens, layers=[1])
        _, cache = model.run_with_cache(tokens)
        assert found.axes[0] == "example"
        torch.testing.assert_close(found.values[:, 0], cache[pattern_hook(1)].detach(), atol=1e-12, rtol=0)
        assert found.layers == (1,)
        assert found.at(layer="1").shape == (3, 2, 8, 8)
        assert "src_pos" not in found.labels

    def test_of_a_text_have_its_letters(self, tmp_path):
        write_meta(tmp_path)
        text = convert(read_checkpoint(write(tmp_path)), dtype=torch.float64)
        found = attention_patterns(text, "To be")
        assert found.labels["dest_pos"] == tuple("To be")
        assert attention_patterns(text, ["To", "be"]).shape["example"] == 2

    @pytest.mark.parametrize("layers", [[2], [-1], [], [0, 0], 1, [0.0], [True], [[0]], "01"])
    def test_of_layers_that_are_not_there(self, model, layers):
        with pytest.raises(AnalysisError, match="expected different numbers from 0 to 1"):
            attention_patterns(model, [1, 2], layers=layers)

    def test_of_a_model_with_attention_only(self):
        """It has no hook point in the middle of a block; none is needed."""
        import transformer_lens

        if version("transformer-lens") >= "4":
            pytest.skip("TransformerLens 4 has no HookedTransformer")
        config = transformer_lens.HookedTransformerConfig(
            n_layers=2, d_model=16, n_ctx=16, d_head=8, n_heads=2, d_vocab=11, attn_only=True, seed=0
        )
        alone = transformer_lens.HookedTransformer(config)
        found = attention_patterns(alone, [1, 2, 3])
        _, cache = alone.run_with_cache(torch.tensor([[1, 2, 3]]))
        assert torch.allclose(found.values[1], cache["blocks.1.attn.hook_pattern"][0])
        assert attention_statistics(alone, torch.arange(11), seq_len=5).values.shape == (len(STATISTICS), 2, 2)

    def test_that_do_not_sum_to_one(self, model):
        with (
            model.hooks(fwd_hooks=[(pattern_hook(1), lambda value, hook: value * 0.5)]),
            pytest.raises(AnalysisError, match="attention of layer 1 is off by 0.5"),
        ):
            attention_patterns(model, [1, 2])
        assert not has_hooks(model)


def by_hand(patterns: Tensor, tokens: Tensor) -> dict[str, float]:
    """Every statistic of one head from patterns [example, query, key], loop by loop."""
    n, n_pos = tokens.shape
    rows: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for example in range(n):
        for i in range(1, n_pos):
            a = patterns[example, i, : i + 1].tolist()
            entropy = -sum(p * math.log(p) for p in a if p > 0)
            rows["entropy"].append(entropy)
            rows["normalized_entropy"].append(entropy / math.log(i + 1))
            length = math.sqrt(sum(p * p for p in a))
            rows["sparsity"].append((math.sqrt(i + 1) - 1 / length) / (math.sqrt(i + 1) - 1))
            rows["distance"].append(sum((i - j) * p for j, p in enumerate(a)))
            rows["sink"].append(a[0])
            rows["self"].append(a[i])
            rows["previous_token"].append(a[i - 1])
            earlier = [j for j in range(i) if tokens[example, j] == tokens[example, i]]
            if earlier:
                rows["duplicate_token"].append(sum(a[j] for j in earlier))
    means = {name: sum(values) / len(values) for name, values in rows.items() if values}
    return means | {"positional": positional_by_hand(patterns, range(n))}


def flat(n: int) -> Tensor:
    rows = [[1 / (i + 1) if j <= i else 0.0 for j in range(n)] for i in range(n)]
    return torch.tensor(rows, dtype=torch.float64)


def positional_by_hand(patterns: Tensor, drawn) -> float:
    deviation, drawn = patterns - flat(patterns.shape[1]), list(drawn)
    products = [float((deviation[a] * deviation[b]).sum()) for a in drawn for b in drawn if a != b]
    energy = [float((deviation[a] ** 2).sum()) for a in drawn]
    return (sum(products) / len(products)) / (sum(energy) / len(energy)) if sum(energy) else 0.0


class TestStatistics:
    def test_are_the_loops(self, model, corpus):
        found = attention_statistics(model, corpus, seq_len=10, n=100)
        tokens = corpus.view(13, 10)  # all windows, in order
        patterns = attention_patterns(model, tokens).values
        for layer in range(2):
            for head in range(2):
                expected = by_hand(patterns[:, layer, head], tokens)
                for name, value in expected.items():
                    assert float(found.at(score=name, layer=layer, head=head)) == pytest.approx(value, abs=1e-10)
        expected = by_hand(flat(10).expand(13, -1, -1), tokens)
        for i, name in enumerate(STATISTICS):
            assert float(found.chance[i, 1, 1]) == pytest.approx(expected[name], abs=1e-10)
        assert ((found.low <= found.values) & (found.values <= found.high)).all()

    def test_do_not_depend_on_batches(self, model, corpus, monkeypatch):
        one = attention_statistics(model, corpus, seq_len=10, batch_size=1)
        monkeypatch.setattr(attention, "_KEPT", 1)  # a layer at a time
        other = attention_statistics(model, corpus, seq_len=10, batch_size=5)
        for name, tensor in one.tensors().items():
            torch.testing.assert_close(tensor, other.tensors()[name], atol=1e-12, rtol=0)

    def test_intervals_leave_out_pairs_of_a_sequence_with_itself(self, model, corpus):
        tokens = corpus[:50].view(5, 10)
        found = statistics_of(model, tokens, origin="test", seed=4)
        patterns = attention_patterns(model, tokens).values[:, 1, 0]
        whole = positional_by_hand(patterns, range(5))
        without = [positional_by_hand(patterns, [j for j in range(5) if j != i]) for i in range(5)]
        pseudo = np.array([5 * whole - 4 * float(one) for one in without])
        ends = scipy.stats.t.interval(0.95, 4, float(whole), scipy.stats.sem(pseudo))
        at = {"score": "positional", "layer": 1, "head": 0}
        i = list(STATISTICS).index("positional")
        assert float(found.low[i, 1, 0]) == pytest.approx(float(ends[0]), abs=1e-10)
        assert float(found.high[i, 1, 0]) == pytest.approx(float(ends[1]), abs=1e-10)
        assert float(found.at(**at)) == pytest.approx(positional_by_hand(patterns, range(5)), abs=1e-10)

    def test_of_the_models_own_text(self, model):
        found = attention_statistics(model, n=6, seed=2)
        again = statistics_of(model, own_text(model, seq_len=12, n=6, seed=2), origin="the same", seed=2)
        torch.testing.assert_close(found.values, again.values)
        assert "drawn from the model itself" in found.definition
        assert "drawn from the model itself" in found.provenance["arguments"]["text"]

    def test_leave_the_model_and_the_random_numbers_alone(self, model, corpus):
        before = torch.get_rng_state()
        attention_statistics(model, corpus, seq_len=5, n=3)
        assert torch.equal(before, torch.get_rng_state())
        assert not has_hooks(model)

    def test_duplicates_that_do_not_occur(self, model):
        found = attention_statistics(model, torch.arange(11), seq_len=5)
        assert found.score("duplicate_token").isnan().all()
        others = [name for name in STATISTICS if name != "duplicate_token"]
        assert all(found.score(name).isfinite().all() for name in others)

    def test_what_they_refuse(self, model, corpus):
        with pytest.raises(AnalysisError, match="1 sequences of 12 tokens"):
            attention_statistics(model, corpus, n=1)
        with pytest.raises(AnalysisError, match="64 sequences of 1 tokens"):
            attention_statistics(model, corpus, seq_len=1)
        with pytest.raises(AnalysisError, match="there are 1 sequences of 12 tokens"):
            attention_statistics(model, corpus[:20], seq_len=12)
        with pytest.raises(AnalysisError, match="batch_size is 0"):
            attention_statistics(model, corpus, batch_size=0)
        for options in ({"seed": None}, {"n": 3.5}, {"seq_len": "8"}, {"batch_size": None}):
            with pytest.raises(AnalysisError, match=f"{next(iter(options))} is .*; expected a whole number"):
                attention_statistics(model, corpus, **options)
        with pytest.raises(AnalysisError, match="seed is None"):
            statistics_of(model, corpus[:20].view(2, 10), origin="text", seed=None)
        with pytest.raises(AnalysisError, match="the model is a NoneType"):
            attention_statistics(None, corpus)


class TestPositional:
    """Patterns put in the model's place: fixed, random, and a known mixture."""

    @staticmethod
    def measured(model, pattern):
        tokens = torch.randint(11, (60, 12), generator=torch.Generator().manual_seed(0))
        with model.hooks(fwd_hooks=[(pattern_hook(1), lambda value, hook: pattern(value))]):
            found = statistics_of(model, tokens, origin="test")
        i = list(STATISTICS).index("positional")
        return found.values[i, 1], found.low[i, 1], found.high[i, 1]

    @staticmethod
    def dirichlet(centre: Tensor, concentration: float):
        """Replaces patterns by random rows around `centre` [query, key]."""
        generator = torch.Generator().manual_seed(0)

        def draw(like: Tensor) -> Tensor:
            alpha = (concentration * centre).expand(like.shape).clamp_min(1e-30)
            gamma = torch._standard_gamma(alpha, generator=generator).tril()
            return gamma / gamma.sum(-1, keepdim=True)

        return draw

    def test_is_one_for_a_fixed_pattern(self, model):
        fixed = torch.rand(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tril()
        fixed /= fixed.sum(-1, keepdim=True)
        value, low, high = self.measured(model, lambda v: fixed.expand(v.shape).clone())
        for number in (value, low, high):
            torch.testing.assert_close(number, torch.ones(2, dtype=torch.float64))

    def test_is_zero_for_uniform_and_for_unrelated_patterns(self, model):
        value, low, high = self.measured(model, lambda v: flat(12).expand(v.shape) * (1 + 1e-15))  # rounding
        assert value.tolist() == low.tolist() == high.tolist() == [0, 0]
        value, low, high = self.measured(model, self.dirichlet(flat(12), 2.0))
        assert (value.abs() < 0.02).all()
        assert ((low < 0.01) & (high > -0.01)).all()

    def test_is_the_share_of_a_known_mixture(self, model):
        """Dirichlet rows with mean P: the variance of an entry is P (1 - P) / (concentration + 1)."""
        centre = torch.rand(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).pow(3).tril()
        centre /= centre.sum(-1, keepdim=True)
        common = float((centre - flat(12)).square().sum())
        noise = float((centre * (1 - centre)).sum()) / (3.0 + 1)
        value, low, high = self.measured(model, self.dirichlet(centre, 3.0))
        expected = common / (common + noise)
        assert 0.2 < expected < 0.8
        torch.testing.assert_close(value, torch.full((2,), expected, dtype=torch.float64), atol=0.05, rtol=0)
        assert ((low < expected + 0.02) & (high > expected - 0.02) & (high - low < 0.15)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_handmade_heads(dtype):
    model = handmade_model(dtype=dtype)
    corpus = torch.randint(20, (24 * 20,), generator=torch.Generator().manual_seed(0))
    found = attention_statistics(model, corpus)
    near = 1e-2 if dtype == torch.bfloat16 else 1e-5
    perfect = {"entropy": 0, "normalized_entropy": 0, "sparsity": 1, "distance": 1, "self": 0, "previous_token": 1}
    for name, value in perfect.items() | {("positional", 1)}:
        assert float(found.at(score=name, layer=PREVIOUS[0], head=PREVIOUS[1])) == pytest.approx(value, abs=near)
    others = found.score("previous_token").flatten()[[0, 2, 3]]
    assert (others < 0.2).all()
    for dead in ((0, 0), (1, 1)):
        values, chance = found.values[:, *dead], found.chance[:, *dead]
        torch.testing.assert_close(values, chance, atol=near * 10, rtol=near)
        assert float(found.at(score="positional", layer=dead[0], head=dead[1])) == 0.0
    assert float(found.at(score="positional", layer=1, head=0)) < 0.3
