"""What activation patching refuses, in one sentence each."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from tests.nanogpt_lens.patching.patching_helpers import model, texts

METRIC = ngl.metrics.logit_diff([3, 1, 4], [5, 9, 2])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"corrupted": texts()[1][:, :-1]}, r"9 tokens.*8 tokens"),
        ({"activation": "resid"}, "'resid' cannot be patched; expected one of resid_pre"),
        ({"axes": ("layer", "head")}, "resid_pre has no axis 'head'"),
        ({"axes": ()}, "cannot be swept over"),
        ({"axes": ("pos", "pos")}, "each once"),
        ({"direction": "both"}, "'both'; expected 'denoise' or 'noise'"),
        ({"source": "median"}, "'median'; expected one of other, zero"),
        ({"corrupted": None}, "no corrupted run to patch with"),
        ({"engine": "fast"}, "'fast'; expected 'auto' or 'hooks'"),
        ({"metric": lambda logits: logits.mean((1, 2))}, r"returned shape \[3\]; expected one number"),
        ({"metric": 3}, "the metric is 3"),
        ({"metric": ngl.metrics.loss}, r"call it first, as in metric=ngl.metrics.loss\(\)"),
        ({"metric": lambda logits: None}, "returned None; expected one number"),
        ({"metric": ngl.metrics.logit_diff(3.7, 3)}, "answer is 3.7; expected an id"),
        ({"metric": ngl.metrics.logit_diff(torch.tensor([3.7]), 3)}, "expected an id"),
        ({"metric": ngl.metrics.logit_diff(None, 3)}, "answer is None; expected an id"),
        ({"metric": ngl.metrics.kl_to([1.0])}, "kl_to has no logits"),
        ({"metric": ngl.metrics.kl_to(torch.full((3, 9, 13), torch.nan))}, "logits with nan"),
        ({"metric": ngl.metrics.loss(torch.full((3, 9), -1))}, "the token -1"),
        ({"metric": ngl.metrics.loss(torch.zeros(3, 9))}, "float32; expected integer"),
        ({"clean": None}, "a NoneType that is neither text nor ids"),
        ({"clean": [[1, 2], [3]]}, "neither text nor ids"),
        ({"axes": None}, "cannot be swept over None"),
        ({"metric": ngl.metrics.logit_diff([1, 2], 3)}, "answer has 2 tokens; expected 1, or one for each of the 3"),
        ({"metric": ngl.metrics.logit_diff(99, 3)}, "ids outside 0 to 12"),
        ({"metric": ngl.metrics.logit_diff(1, 3, pos=9)}, "position 9; expected -9 to 8"),
        ({"clean": torch.full((1, 11), 1)}, "11 tokens; expected at most 10, the model's context"),
        ({"clean": torch.full((1, 9), 13)}, "the token 13; expected ids from 0 to 12"),
        ({"clean": torch.zeros(1, 9)}, "float32; expected integer"),
        ({"clean": torch.zeros(0, dtype=torch.long)}, "at least one"),
        ({"source": "mean", "reference": torch.zeros(2, 4, dtype=torch.long)}, "reference has 4 tokens; expected 9"),
    ],
)
def test_bad_input_is_named(change, words):
    clean, corrupted = texts()
    given = {"clean": clean, "corrupted": corrupted, "metric": METRIC, "activation": "resid_pre", "axes": ("layer",)}
    with pytest.raises(ngl.AnalysisError, match=words):
        ngl.activation_patching(model(), **(given | change), progress=False)


def test_what_is_no_model_is_named():
    for wrong in ("shakespeare_char", torch.nn.Linear(2, 2)):
        with pytest.raises(ngl.AnalysisError, match="expected a HookedTransformer or a TransformerBridge"):
            ngl.activation_patching(wrong, [1], [2], METRIC, activation="z", axes=("layer",))


@pytest.mark.hooked
def test_a_model_without_mlps_is_named():
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(n_layers=1, d_model=8, n_ctx=8, d_head=4, d_vocab=9, attn_only=True, seed=0)
    with pytest.raises(ngl.AnalysisError, match="has attention alone"):
        ngl.activation_patching(
            HookedTransformer(cfg), [1, 2], [2, 1], ngl.metrics.logit_diff(1, 2), activation="z", axes=("layer",)
        )


def test_one_example_can_be_neither_resampled_nor_averaged_as_a_pattern():
    clean, _ = texts(n=1)
    for source, activation in (("resample", "z"), ("mean", "pattern")):
        with pytest.raises(ngl.AnalysisError, match="give several"):
            ngl.activation_patching(
                model(),
                clean,
                None,
                ngl.metrics.loss(),
                activation=activation,
                axes=("layer",),
                source=source,
                progress=False,
            )


def test_answers_must_be_one_token():
    hooked = ngl.load("shakespeare_char")
    for answer in ("", "ab"):
        with pytest.raises(ngl.AnalysisError, match="expected one token"):
            ngl.activation_patching(
                hooked,
                "ROMEO:",
                "JULIE:",
                ngl.metrics.logit_diff(answer, "a"),
                activation="z",
                axes=("layer",),
                progress=False,
            )
    with pytest.raises(ngl.errors.VocabularyError, match="not among the 65 characters"):
        ngl.activation_patching(
            hooked,
            "ROMEO:",
            "JULIE:",
            ngl.metrics.logit_diff("é", "a"),
            activation="z",
            axes=("layer",),
            progress=False,
        )
    with pytest.raises(ngl.AnalysisError, match="6 and 7 tokens"):
        ngl.activation_patching(
            hooked, ["ROMEO:", "JULIET:"], None, ngl.metrics.loss(), activation="z", axes=("layer",), progress=False
        )
