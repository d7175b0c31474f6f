"""The names of heads: the handmade ones, heads with patterns or weights put in their place, and none by chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scipy.stats
import torch
from torch import Tensor

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads import naming
from nanogpt_lens.heads.attention import attention_patterns, pattern_hook
from nanogpt_lens.heads.copying import copying_score
from nanogpt_lens.heads.naming import THRESHOLDS
from nanogpt_lens.heads.taxonomy import SCORES, head_taxonomy, score_heads
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.weights import head_weights, unembedding
from nanogpt_lens.results import HeadTaxonomy, load_result
from nanogpt_lens.text.prompts import random_tokens, repeated_tokens
from tests.conftest import convert
from tests.handmade import INDUCTION, PREVIOUS, handmade_checkpoint, handmade_model
from tests.making import content, write


def random_model(folder, **sizes):
    return convert(read_checkpoint(write(folder, **sizes)), dtype=torch.float64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("random"), vocab_size=11, seed=3)


@pytest.fixture(scope="module")
def corpus():
    return torch.randint(11, (240,), generator=torch.Generator().manual_seed(1))


def names(found: HeadTaxonomy) -> dict[tuple[int, int], set[str]]:
    heads = [(layer, head) for layer in range(found.shape["layer"]) for head in range(found.shape["head"])]
    return {pair: set(found.of(*pair)) for pair in heads}


EXPECTED = {
    PREVIOUS: {"previous_token", "positional"},
    INDUCTION: {"induction", "copying"},
    (0, 0): {"broad"},
    (1, 1): {"broad"},
}


class TestHandmade:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_each_head_has_its_names_and_no_other(self, dtype):
        model = handmade_model(dtype=dtype)
        text = torch.randint(20, (24 * 30,), generator=torch.Generator().manual_seed(0))
        assert names(head_taxonomy(model, text)) == EXPECTED
        own = head_taxonomy(model)  # text of its own is one token over and over
        assert names(own) == EXPECTED
        assert own.heads("induction") == [INDUCTION]
        assert own.heads("sink") == own.heads("anti_copying") == own.heads("duplicate_token") == []

    def test_uniform_heads_have_the_scores_of_chance(self):
        found = score_heads(handmade_model())
        torch.testing.assert_close(found.values[:, 0, 0], found.chance[:, 0, 0])
        torch.testing.assert_close(found.values[:, 1, 1], found.chance[:, 1, 1])
        assert found.chance[list(SCORES).index("broad")].tolist() == [[1, 1], [1, 1]]

    def changed(self, factor: float):
        """The induction head writes `factor` times as much."""
        checkpoint = handmade_checkpoint()
        width = checkpoint.state_dict["transformer.h.1.attn.c_proj.weight"]
        width *= factor
        return convert(checkpoint, dtype=torch.float64)

    def test_a_head_that_lowers_what_it_attends_to(self):
        assert names(head_taxonomy(self.changed(-1.0)))[INDUCTION] == {"induction", "anti_copying"}

    def test_a_head_that_writes_next_to_nothing(self):
        found = head_taxonomy(self.changed(1e-4))
        assert names(found)[INDUCTION] == {"induction"}
        assert float(found.at(score="copying", layer=1, head=0)) == 0
        assert float(copying_score(self.changed(1e-4)).at(layer=1, head=0)) == pytest.approx(1)

    def test_a_head_whose_weights_copy_but_which_does_not(self):
        """What layer 1 reads is turned around, so that the head lowers what its weights would raise."""
        model = handmade_model()
        with model.hooks(fwd_hooks=[("blocks.1.ln1.hook_normalized", lambda value, hook: -value)]):
            found = head_taxonomy(model)
        assert float(found.at(score="copying", layer=1, head=0)) == pytest.approx(1)
        assert not {"copying", "anti_copying"} & set(found.of(*INDUCTION))
        assert found.threshold[list(SCORES).index("copying"), 1, 0] == torch.inf


class TestScores:
    def test_are_those_of_the_patterns(self, model, corpus):
        found = score_heads(model, corpus, n=20, seed=2)
        text = attention_patterns(model, corpus.view(20, 12)).values
        noise = random_tokens(model, 20, 12, repeats="allow", generator=torch.Generator().manual_seed(2))
        noise = attention_patterns(model, noise).values
        repeated = attention_patterns(model, repeated_tokens(model, seq_len=6, n=20, seed=2)).values
        keys = torch.arange(2, 13)

        def broad(patterns: Tensor) -> Tensor:
            entropy = -(patterns * patterns.clamp_min(1e-300).log()).sum(-1)[..., 1:]
            return (entropy / keys.log()).mean(dim=(0, -1))

        expected = {
            "previous_token": text.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, -1)),
            "sink": text[..., 1:, 0].mean(dim=(0, -1)),
            "duplicate_token": repeated.diagonal(offset=-6, dim1=-2, dim2=-1).mean(dim=(0, -1)),
            "induction": repeated.diagonal(offset=-5, dim1=-2, dim2=-1)[..., 1:].mean(dim=(0, -1)),
            "broad": torch.minimum(broad(text), broad(noise)),
            "copying": copying_score(model).values,
            "anti_copying": -copying_score(model).values,
        }
        for name, values in expected.items():
            torch.testing.assert_close(found.score(name), values, atol=1e-6, rtol=0)
        assert tuple(found.labels["score"]) == tuple(SCORES)
        assert ((found.low <= found.values) & (found.values <= found.high)).all()

    def test_leave_nothing_behind(self, model, corpus):
        before = torch.get_rng_state()
        head_taxonomy(model, corpus, n=4)
        assert torch.equal(before, torch.get_rng_state())
        assert not has_hooks(model)

    def test_what_attended_tokens_gain(self, model):
        """Against loops over keys and tokens, with the unfolded weights of the model."""
        tokens = torch.tensor([[4, 1, 4, 7], [2, 2, 2, 2]])
        _, cache = model.run_with_cache(tokens)
        found = naming._raise_of_logits(model, tokens, head_weights(model), unembedding(model)).detach()
        unembed = model.W_U.detach() * norm_weight(model.ln_final)[:, None]
        unembed = unembed - unembed.mean(0)  # ln_final centres what is written
        for layer in range(2):
            stream = cache[f"blocks.{layer}.ln1.hook_normalized"][0] * norm_weight(model.blocks[layer].ln1)
            for head in range(2):
                attention = cache[pattern_hook(layer)][0, head].mean(0).detach()
                gain = 0.0
                for j in range(4):
                    logits = (stream[j] @ model.W_V[layer, head] @ model.W_O[layer, head] @ unembed).detach()
                    others = [k for k in range(4) if tokens[0, k] != tokens[0, j]]
                    usual = sum(attention[k] * logits[tokens[0, k]] for k in others) / sum(attention[k] for k in others)
                    gain += float(attention[j] * (logits[tokens[0, j]] - usual))
                assert float(found[layer, head, 0]) == pytest.approx(gain, abs=1e-10)
        assert found[..., 1].abs().max() == 0


def norm_weight(norm) -> Tensor:
    found = [w for name in ("weight", "w") if isinstance(w := getattr(norm, name, None), Tensor)]
    return found[0].detach()


def attending(model, layer: int, rule):
    """Both heads of a layer attend to position `rule(i)` from position i, or as `rule` says to all [query, key]."""

    def replace(value: Tensor, hook) -> Tensor:
        n = value.shape[-1]
        rows = torch.zeros(n, n, dtype=value.dtype)
        for i in range(n):
            rows[i, rule(i)] = 1
        return (rows.tril() / rows.tril().sum(-1, keepdim=True)).expand(value.shape).clone()

    return model.hooks(fwd_hooks=[(pattern_hook(layer), replace)])


class TestHeadsPutInPlace:
    def test_a_head_that_looks_back_by_a_fixed_number_is_no_induction_head(self, model, corpus):
        """At seq_len 6, five back is where induction looks, and six back where the duplicate is."""
        for back, name in ((5, "induction"), (6, "duplicate_token")):
            with attending(model, 1, lambda i, back=back: max(0, i - back)):
                found = head_taxonomy(model, corpus)
                asked = head_taxonomy(model, corpus, thresholds={name: 0.4})
            assert found.score(name)[1].tolist() == pytest.approx([1, 1])
            assert found.heads(name) == []
            assert {(1, 0), (1, 1)} <= set(found.heads("positional"))
            assert set(asked.heads(name)) == {(1, 0), (1, 1)}

    @pytest.mark.parametrize(("block_size", "vocab_size"), [(4, 2), (6, 11), (12, 65)])
    def test_sinks_and_uniform_heads_of_short_contexts(self, tmp_path, block_size, vocab_size):
        model = random_model(tmp_path, block_size=block_size, vocab_size=vocab_size)
        attention = {"previous_token", "duplicate_token", "induction", "positional", "sink", "broad"}
        with attending(model, 0, lambda i: 0), attending(model, 1, lambda i: slice(None)):
            found = names(head_taxonomy(model))
        for head in range(2):
            assert found[0, head] & attention == {"sink", "positional"}
            assert found[1, head] & attention == {"broad"}

    def test_a_previous_token_head_is_no_induction_head_where_both_look_the_same(self, tmp_path):
        """In a context of 4 tokens, what followed the earlier occurrence is the token before."""
        model = random_model(tmp_path, block_size=4)
        with attending(model, 1, lambda i: max(0, i - 1)):
            found = head_taxonomy(model)
        assert found.score("induction")[1].tolist() == pytest.approx([1, 1])
        assert found.heads("induction") == []
        assert {(1, 0), (1, 1)} <= set(found.heads("previous_token"))


def test_few_random_heads_copy_by_chance(tmp_path):
    """Heads of 4 dimensions exceed 0.5 often; the quantile of rotated heads they rarely exceed."""
    scores, over = [], []
    for seed in range(12):
        model = random_model(tmp_path / str(seed), n_head=4, vocab_size=30, seed=seed)
        values = copying_score(model).values.double()
        scores.append(values.abs() > 0.5)
        over.append(values.abs() > naming._rotated_copying(model, values, 0))
    assert torch.stack(scores).double().mean() > 0.15
    assert torch.stack(over).double().mean() < 0.08


class TestThresholds:
    def test_are_kept_in_the_result(self, model, corpus, tmp_path):
        found = head_taxonomy(model, corpus, thresholds={"broad": 0, "sink": 2.0})
        i = list(SCORES).index("broad")
        assert found.threshold[i].tolist() == [[0, 0], [0, 0]]
        assert found.carries[i].all()
        assert found.heads("sink") == []
        assert torch.equal(found.carries, found.sure_low > found.threshold)
        assert "as asked for" in found.reasons(0, 0)["broad"]
        assert found.provenance["arguments"]["thresholds"] == {"broad": 0.0, "sink": 2.0}
        again = load_result(found.save(tmp_path / "result"))
        assert isinstance(again, HeadTaxonomy)
        assert names(again) == names(found)

    def test_the_whole_interval_has_to_be_above(self, model, corpus):
        """By an interval that holds for all four heads: Student's, at a quarter of 2.5%."""
        scores = score_heads(model, corpus)
        i = list(SCORES).index("previous_token")
        text = attention_patterns(model, corpus.view(20, 12)).values
        each = text[:, 0, 0].diagonal(offset=-1, dim1=-2, dim2=-1).mean(-1).numpy()
        low = each.mean() - scipy.stats.sem(each) * scipy.stats.t.ppf(1 - 0.025 / 4, len(each) - 1)
        assert low < scores.low[i, 0, 0]
        between, below = low + 1e-6, low - 1e-6
        assert (0, 0) not in head_taxonomy(model, corpus, thresholds={"previous_token": between}).heads(
            "previous_token"
        )
        assert (0, 0) in head_taxonomy(model, corpus, thresholds={"previous_token": below}).heads("previous_token")

    def test_tables_and_pictures_say_why(self, tmp_path):
        """The head whose weights copy but which does not, of above."""
        model = handmade_model()
        with model.hooks(fwd_hooks=[("blocks.1.ln1.hook_normalized", lambda value, hook: -value)]):
            found = head_taxonomy(model)
        why = (
            "1.00 is not enough; threshold none: on text and random tokens, the head does not raise the logits of the "
        )
        assert found.reasons(*INDUCTION)["copying"] == f"{why}tokens that it attends to"
        assert ("copying", *INDUCTION, f"{why}tokens that it attends to") in found.unnamed()
        table = found.table().set_index("head")
        assert table.loc["0.1", "why"].startswith("previous_token 1.00, surely 1.00, threshold 0.40 (the default); ")
        assert f"copying {why}" in table.loc["1.0", "why"]
        assert set(table["labels"]) >= {"previous_token, positional", "broad"}
        assert f"; copying {why}"[:60] in repr(found)
        drawn = found.plot()
        assert {shape.name for shape in drawn.layout.shapes} == {"carries", "unnamed"}
        assert "Dotted: a high score that does not earn it, 1 times; .table() says why" in drawn.layout.meta["caption"]
        again = load_result(found.save(tmp_path / "t"))
        assert again.reasons(*INDUCTION) == found.reasons(*INDUCTION)

    def test_broad_is_no_name_where_uniform_attention_is_the_default(self, tmp_path):
        """A model at its start attends evenly: its heads have no name; one even head among others has."""
        small = content(n_layer=2, n_head=2, seed=0)
        for name in small["model"]:
            if "c_attn" in name:
                small["model"][name] *= 1e-3
        found = head_taxonomy(convert(read_checkpoint(write(tmp_path / "a", small)), dtype=torch.float64))
        assert found.score("broad").min() > 0.99
        assert "broad" not in {name for pair in names(found).values() for name in pair}
        assert "more than half of its heads attend that evenly" in found.reasons(0, 0)["broad"]
        assert "none" in set(found.table()["labels"])
        assert names(head_taxonomy(handmade_model()))[0, 0] == {"broad"}  # two of four

    def test_there_is_one_for_each_score(self):
        assert list(THRESHOLDS) == [*SCORES, "line_break"]

    @pytest.mark.parametrize(
        ("thresholds", "message"),
        [
            ({"inducton": 0.4}, "no score 'inducton' to have a threshold; expected previous_token"),
            ({"induction": "high"}, "threshold of induction is 'high'; expected a number"),
            ({"induction": True}, "threshold of induction is True"),
            ({"sink": float("nan")}, "threshold of sink is nan"),
            (0.4, "thresholds is 0.4; expected a mapping"),
        ],
    )
    def test_that_are_none(self, model, corpus, thresholds, message):
        with pytest.raises(AnalysisError, match=message):
            head_taxonomy(model, corpus, thresholds=thresholds)


def test_a_short_text_says_so_and_its_words_stay_within_the_bounds(model, corpus):
    """Of two sequences an interval can reach far below what a score can be; and they are few."""
    text = corpus[: 2 * model.cfg.n_ctx]
    found = head_taxonomy(model, text, n=16)
    assert (found.sample.n, found.few_examples) == (2, "hardly any examples: n = 2")
    assert head_taxonomy(model, corpus, n=16).few_examples == ""
    low = torch.full_like(found.sure_low, -18.17)
    far = replace(found, sure_low=low, values=torch.full_like(found.values, 0.99), carries=torch.zeros_like(low).bool())
    words = [words for *_, words in far.unnamed()]
    assert words
    assert not any("18.17" in one for one in words)
    assert any("which these sequences leave open" in one for one in words)
    some = replace(far, sure_low=low.fill_(0.2))
    assert any("surely above 0.20 only" in one for *_, one in some.unnamed())


def test_contexts_and_texts_that_are_too_short(model, tmp_path):
    with pytest.raises(AnalysisError, match="1 sequences of 12 tokens were asked for"):
        score_heads(model, n=1)
    with pytest.raises(AnalysisError, match="context is 3 tokens; expected at least 4"):
        score_heads(random_model(tmp_path, block_size=3))
