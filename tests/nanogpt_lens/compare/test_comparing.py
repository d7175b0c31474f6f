"""`ngl.compare`: what differs is named and nothing else; what does not apply is left out, with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare.comparing import PARTS
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.results import ModelComparison, Scores
from tests.making import CHARS
from tests.nanogpt_lens.compare.pairs_of_files import TEXT, saved, state, with_other_head

QUIET: dict[str, Any] = {"text": TEXT, "progress": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "before")


@pytest.fixture(scope="module")
def one_head(base, tmp_path_factory) -> ModelComparison:
    after = saved(tmp_path_factory.mktemp("head") / "after", with_other_head(state(), 0, 1))
    return ngl.compare(base, after, **QUIET)


class TestTwoCopies:
    @pytest.fixture(scope="class")
    def copies(self, base, tmp_path_factory):
        return ngl.compare(base, saved(tmp_path_factory.mktemp("copy") / "after"), **QUIET)

    def test_all_is_equal_exactly(self, copies):
        assert copies["outputs"].same
        assert float(copies["outputs"].at(measure="agreement")) == 1
        assert set(copies["weights"].verdicts) == {"identical"}
        assert torch.equal(copies["representations"].values.diagonal(), torch.ones(5, dtype=torch.float64))
        assert copies["weights"].origin == "identical"

    def test_there_is_nothing_to_move(self, copies):
        assert set(copies.left_out) == {"transplants", "edges"}
        assert "same weights" in copies.left_out["transplants"]
        with pytest.raises(ResultError, match="no part 'transplants': the two have the same weights"):
            copies["transplants"]

    def test_sentences_say_so(self, copies):
        assert "predict exactly the same" in copies.sentences()[0]
        assert any("identical" in sentence for sentence in copies.sentences())


class TestOneHead:
    def test_it_is_named_and_nothing_else(self, one_head):
        assert one_head["weights"].changed == ("0.1",)
        assert not one_head["weights"].rewritten

    def test_it_carries_the_whole_difference(self, one_head):
        transplants = one_head["transplants"]
        for direction in ("a into b", "b into a"):
            assert transplants.smallest_set(direction) == ("0.1",)
            assert transplants.share("0.1", direction) == pytest.approx(1, abs=1e-5)
            assert transplants.share("mlp1", direction) == 0

    def test_the_second_sentence_names_it(self, one_head):
        assert one_head.sentences()[1].startswith("Head 0.1, moved from ")
        assert "carries 100%" in one_head.sentences()[1]
        assert one_head.sentences()[1].endswith("of the difference in output (KL).")

    def test_the_last_sentence_says_how_large_the_set_is(self, one_head):
        said = one_head.sentences()[-1]
        assert said.startswith(
            "What carries the difference is 1 of the 1 parts that differ, with 100% of their parameters"
        )
        assert "of the difference in loss it carries 100%" in said

    def test_a_change_of_one_part_is_not_called_spread(self, base, tmp_path):
        generator = torch.Generator().manual_seed(3)
        weights = {name: t + 0.003 * t.std() * torch.randn(t.shape, generator=generator) for name, t in state().items()}
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        for kind in ("c_fc", "c_proj"):
            part = weights[f"transformer.h.1.mlp.{kind}.weight"]
            part += 0.5 * part.std() * torch.randn(part.shape, generator=generator)
        made = ngl.compare(base, saved(tmp_path / "after", weights), **QUIET, parts=["outputs", "transplants"])
        transplants = made["transplants"]
        assert transplants.smallest_set("b into a") == ("mlp1",)
        assert not any("spread" in sentence for sentence in made.sentences())
        way = transplants.labels["direction"].index("b into a")
        beside = transplants.random_share[way]
        assert float(beside[~beside.isnan()].max()) < 0.9  # none of them has the part itself in it

    def test_all_parts_are_there(self, one_head):
        assert set(one_head.parts) == set(PARTS)
        assert not one_head.left_out

    def test_it_is_saved_and_read(self, one_head, tmp_path):
        read = ModelComparison.load(one_head.save(tmp_path / "kept"))
        assert read.sentences() == one_head.sentences()
        assert read.facts == one_head.facts
        for name, part in one_head.parts.items():
            assert type(read[name]) is type(part)
            assert torch.equal(read[name].values.nan_to_num(9), part.values.nan_to_num(9))
        read.save(tmp_path / "kept")  # in place of what is there

    def test_it_is_json(self, one_head):
        plain = json.loads(json.dumps(one_head.to_json(), allow_nan=False))
        assert plain["names"] == ["before", "after"]
        assert set(plain["parts"]) == set(PARTS)
        assert plain["sentences"] == list(one_head.sentences())

    def test_a_picture_of_each_part(self, one_head):
        named = one_head["transplants"].plot(names=one_head.names)
        assert one_head.plot().layout.title.text == named.layout.title.text
        assert "before into after" in str(named.to_json())
        for part in PARTS:
            assert one_head.plot(part).data

    def test_the_other_way_round_is_the_other_way_round(self, one_head, base, tmp_path):
        after = saved(tmp_path / "after", with_other_head(state(), 0, 1))
        turned = ngl.compare(after, base, **QUIET, parts=["outputs", "transplants"])
        there, here = (c["outputs"].measure("loss_difference")[0] for c in (turned, one_head))
        assert there == pytest.approx(-here, abs=1e-9)
        assert turned["outputs"].measure("kl_ab")[0] == pytest.approx(one_head["outputs"].measure("kl_ba")[0], abs=1e-9)


class TestWhatIsLeftOut:
    def test_separate_starts(self, base, tmp_path):
        other = saved(tmp_path / "other", state(seed=5))
        made = ngl.compare(base, other, **QUIET)
        assert set(made.left_out) == {"transplants", "edges", "difference_lens"}
        assert "no common start" in made.sentences()[1]
        assert "carry" not in made.sentences()[1].partition(":")[2]

    def test_another_number_of_layers(self, base, tmp_path):
        deeper = saved(tmp_path / "deeper", n_layer=3)
        made = ngl.compare(base, deeper, **QUIET)
        assert set(made.parts) == {"outputs", "representations"}
        assert "layers 2 and 3" in made.left_out["weights"]
        assert made["representations"].shape == {"point_a": 5, "point_b": 7}

    def test_another_vocabulary_is_compared_by_character(self, base, tmp_path):
        shuffled = saved(tmp_path / "shuffled", chars=CHARS[1:] + CHARS[0])
        made = ngl.compare(base, shuffled, **QUIET)
        assert isinstance(made["outputs"], Scores)
        assert made["outputs"].labels["score"] == ("a", "b", "difference")
        assert "vocabularies differ" in made.left_out["representations"]
        assert "nats per character" in made.sentences()[0]

    def test_another_context(self, base, tmp_path):
        weights = state()
        weights["transformer.wpe.weight"] = weights["transformer.wpe.weight"][:8].clone()
        cropped = saved(tmp_path / "cropped", weights, block_size=8)
        made = ngl.compare(base, cropped, **QUIET)
        assert made["outputs"].same
        assert "same context" in made.left_out["heads"]
        assert "these have context 12 and 8" in made.left_out["transplants"]

    def test_a_short_text_leaves_out_what_needs_more(self, base, tmp_path):
        after = saved(tmp_path / "after", with_other_head(state(), 0, 1))
        made = ngl.compare(base, after, text=TEXT[:60], progress=False)
        assert {"outputs", "weights"} <= set(made.parts)
        assert set(made.left_out) >= {"representations"}
        with pytest.raises(AnalysisError, match="expected at least"):
            ngl.compare(base, after, text=TEXT[:60], parts=["representations"], progress=False)

    def test_a_third_model_of_other_tokens(self, base, tmp_path):
        shuffled = saved(tmp_path / "shuffled", chars=CHARS[1:] + CHARS[0])
        with pytest.raises(AnalysisError, match="reference does not read the same tokens"):
            ngl.compare(base, base, **QUIET, reference=shuffled)

    def test_another_vocabulary_and_ids(self, base, tmp_path):
        shuffled = saved(tmp_path / "shuffled", chars=CHARS[1:] + CHARS[0])
        with pytest.raises(
            AnalysisError, match="nothing of before and shuffled can be compared: the vocabularies differ"
        ):
            ngl.compare(base, shuffled, text=torch.arange(60), progress=False)


class TestWhatGoesIn:
    def test_models_and_their_own_text(self, base, tmp_path):
        models = [ngl.load(base), ngl.load(saved(tmp_path / "after", with_other_head(state(), 1, 0)))]
        made = ngl.compare(*models, parts="outputs", progress=False)
        assert made.names == ("before", "after")
        assert made.text == "text that the two models write themselves"
        assert made["outputs"].n_examples == 64
        assert made.sentences()[0].startswith("On text that they write themselves, half each, the two name the same")

    def test_prompts_and_a_metric(self, base, tmp_path):
        after = saved(tmp_path / "after", with_other_head(state(), 1, 0))
        metric = ngl.metrics.logit_diff("a", "b")
        prompts = ["to be, or ", "that is th", "in the min", "tis nobler"]
        made = ngl.compare(
            base, after, text=TEXT, prompts=prompts, metric=metric, parts=["transplants"], progress=False
        )
        right, wrong = (CHARS.index(c) for c in "ab")
        last = [ngl.load(path)(prompts, return_type="logits")[:, -1] for path in (base, after)]
        a, b = (float((logits[:, right] - logits[:, wrong]).mean()) for logits in last)
        gap = made["transplants"].gap[made["transplants"].labels["direction"].index("b into a")]
        assert float(gap[made["transplants"].measures.index("metric")]) == pytest.approx(b - a, abs=1e-5)

    def test_a_third_model_for_similarity(self, base, tmp_path):
        after, third = saved(tmp_path / "after", with_other_head(state(), 1, 0)), saved(tmp_path / "3", state(seed=4))
        made = ngl.compare(base, after, **QUIET, reference=third, parts=["representations"])
        assert made["representations"].reference is not None

    def test_same_names_are_told_apart(self, base, tmp_path):
        other = saved(tmp_path / "before", state(seed=2))
        assert ngl.compare(base, other, **QUIET, parts=["weights"]).names == ("before (a)", "before (b)")
        assert ngl.compare(base, other, **QUIET, parts=["weights"], names=["x", "y"]).names == ("x", "y")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"parts": ["output"]}, "no part 'output'.*did you mean 'outputs'"),
            ({"parts": []}, "parts is empty"),
            ({"names": ["x", "x"]}, "expected two different names"),
            ({"names": "xy"}, "expected two different names"),
            ({"seed": -1}, "seed"),
            ({"seq_len": 1}, "seq_len"),
        ],
    )
    def test_bad_options(self, base, options, words):
        with pytest.raises(AnalysisError, match=words):
            ngl.compare(base, base, **QUIET, **options)

    def test_a_path_that_is_not_there(self, base):
        with pytest.raises(ngl.NanoGPTLensError, match="nowhere"):
            ngl.compare(base, "nowhere/out", **QUIET)

    def test_no_model(self, base):
        with pytest.raises(AnalysisError, match="expected a HookedTransformer"):
            ngl.compare(base, 3, **QUIET)


class TestFiles:
    def test_a_folder_with_something_else(self, one_head, tmp_path):
        (tmp_path / "note.txt").write_text("mine")
        with pytest.raises(ResultError, match="is no saved comparison"):
            one_head.save(tmp_path)
        assert (tmp_path / "note.txt").read_text() == "mine"

    @pytest.mark.parametrize("text", ["{", "[]", '{"format": 99, "parts": []}', '{"format": 1}'])
    def test_a_damaged_file(self, tmp_path, text):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(ResultError, match=r"comparison\.json"):
            ModelComparison.load(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(ResultError, match="cannot be read"):
            ModelComparison.load(tmp_path / "none")


class TestTheSameFunction:
    """What is written differently and does the same is said to be that; nothing is there to move."""

    @staticmethod
    def rescaled() -> dict[str, torch.Tensor]:
        weights = {name: tensor.clone() for name, tensor in state().items()}
        for kind in ("weight", "bias"):
            both = weights[f"transformer.h.1.attn.c_attn.{kind}"]
            both[:8] *= 2
            both[16:24] /= 2
        return weights

    @staticmethod
    def reordered(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        order = torch.cat([torch.arange(8, 16), torch.arange(8)])
        changed = {name: tensor.clone() for name, tensor in weights.items()}
        rows = torch.cat([order + 16 * part for part in range(3)])
        for kind in ("weight", "bias"):
            changed[f"transformer.h.0.attn.c_attn.{kind}"] = changed[f"transformer.h.0.attn.c_attn.{kind}"][rows]
        changed["transformer.h.0.attn.c_proj.weight"] = changed["transformer.h.0.attn.c_proj.weight"][:, order]
        return changed

    def test_a_rescaled_pair(self, base, tmp_path):
        made = ngl.compare(base, saved(tmp_path / "after", self.rescaled()), **QUIET)
        assert made["weights"].rewritten == ("1.0",)
        assert not made["weights"].changed
        assert "same function" in made.left_out["transplants"]
        assert made["outputs"].measure("kl_ab")[0] < 1e-6

    def test_heads_in_another_order(self, base, tmp_path):
        made = ngl.compare(base, saved(tmp_path / "after", self.reordered(state())), **QUIET)
        assert made["weights"].reordered_heads == {0: (1, 0)}
        assert not made["weights"].changed
        assert "same function" in made.left_out["edges"]

    def test_outputs_that_differ_by_rounding_alone_are_said_to(self, base, tmp_path):
        made = ngl.compare(base, saved(tmp_path / "after", self.reordered(state())), **QUIET, parts=["outputs"])
        assert "but for rounding" in made.sentences()[0]
        assert "most clearly" not in made.sentences()[0]

    def test_heads_in_another_order_and_one_changed(self, base, tmp_path):
        after = saved(tmp_path / "after", self.reordered(with_other_head(state(), 1, 1)))
        made = ngl.compare(base, after, **QUIET, parts=["weights", "transplants"])
        assert made["weights"].changed == ("1.1",)
        assert "another order" in made.left_out["transplants"]

    def test_what_the_text_does_not_see(self, base, tmp_path):
        weights = {name: tensor.clone() for name, tensor in state().items()}
        weights["transformer.wpe.weight"][11, :5] += 1  # the last position, which texts of 8 tokens do not reach
        after = saved(tmp_path / "after", weights)
        made = ngl.compare(base, after, text=torch.arange(64).reshape(8, 8), progress=False)
        assert made["weights"].moved_positions() == (11,)
        assert "do the same on this text" in made.left_out["transplants"]
        assert made["outputs"].same
