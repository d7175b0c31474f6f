"""Direct logit attribution against hand-computed values, plain sums over native activations, and TransformerLens'."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens.attribution import direct_logit_attribution
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.text.prompts import repeated_tokens
from tests.conftest import convert
from tests.handmade import handmade_model
from tests.making import random_state
from tests.nanogpt_lens.lens.test_logit_lens import handmade_logit
from tests.nanogpt_lens.patching.patching_helpers import N_POS, checkpoint, model, native, native_run, texts

KINDS = ("heads", "layers", "neurons")


def naive(tokens, answer, wrong):
    """Contributions by name [example, pos], from the checkpoint's own weights and the native activations."""
    state, names = checkpoint().state_dict, ["hook_embed", "hook_pos_embed", "ln_final.hook_scale"]
    names += [
        f"blocks.{i}.{n}" for i in range(3) for n in ("attn.hook_z", "mlp.hook_post", "hook_mlp_out", "hook_attn_out")
    ]
    kept = native_run(tokens, names)
    weight, bias = state["transformer.ln_f.weight"], state["transformer.ln_f.bias"]
    towards = state["lm_head.weight"][answer] - (0 if wrong is None else state["lm_head.weight"][wrong])
    scale = kept["ln_final.hook_scale"][..., 0]

    def onto(vector):
        return ((vector - vector.mean(-1, keepdim=True)) * weight * towards).sum(-1) / scale

    found = {"embed": onto(kept["hook_embed"]), "pos_embed": onto(kept["hook_pos_embed"])}
    found["ln_final_bias"] = (bias * towards).sum(-1).expand_as(scale)
    for i in range(3):
        block = f"transformer.h.{i}"
        out, into = state[f"{block}.attn.c_proj.weight"], state[f"{block}.mlp.c_proj.weight"]
        for h in range(2):
            found[f"{i}.{h}"] = onto(kept[f"blocks.{i}.attn.hook_z"][:, :, h] @ out[:, 8 * h : 8 * h + 8].T)
        for n in range(64):
            found[f"mlp{i}.{n}"] = onto(kept[f"blocks.{i}.mlp.hook_post"][..., [n]] * into[:, n])
        found[f"attn{i}_bias"] = onto(state[f"{block}.attn.c_proj.bias"].expand(*tokens.shape, 16))
        found[f"mlp{i}_bias"] = onto(state[f"{block}.mlp.c_proj.bias"].expand(*tokens.shape, 16))
        found[f"mlp{i}"], found[f"attn{i}"] = (onto(kept[f"blocks.{i}.hook_{k}_out"]) for k in ("mlp", "attn"))
    return found, kept["logits"]


@pytest.mark.parametrize("components", KINDS)
@pytest.mark.parametrize("wrong", [None, [5, 9, 2]])
def test_every_component_is_the_native_models(components, wrong):
    tokens, _ = texts()
    answer = torch.tensor([3, 1, 4])
    result = direct_logit_attribution(model(), tokens, answer, wrong, components=components, pos=None)
    assert result.axes == ("component", "example", "pos")
    found, logits = naive(tokens, answer[:, None], None if wrong is None else torch.tensor(wrong)[:, None])
    for i, label in enumerate(result.labels["component"]):
        assert torch.allclose(result.values[i], found[label], atol=1e-12), label
    total = logits.gather(-1, answer[:, None, None].expand(-1, N_POS, 1))[..., 0]
    if wrong is not None:
        total = total - logits.gather(-1, torch.tensor(wrong)[:, None, None].expand(-1, N_POS, 1))[..., 0]
    assert torch.allclose(result.total, total, atol=1e-10)
    assert torch.allclose(result.values.sum(0), total, atol=1e-10)
    assert not has_hooks(model())


@pytest.mark.parametrize("components", KINDS)
def test_the_answer_is_what_follows_unless_given(components):
    tokens, _ = texts()
    every = direct_logit_attribution(model(), tokens, components=components, pos=None)
    assert every.positions == tuple(range(N_POS - 1))
    assert torch.equal(every.answer, tokens[:, 1:])
    logits = native_run(tokens, [])["logits"]
    assert torch.allclose(every.total, logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0], atol=1e-10)
    assert torch.allclose(every.values.sum(0), every.total, atol=1e-10)
    last = direct_logit_attribution(model(), tokens, components=components)
    assert last.positions == (N_POS - 2,)
    assert torch.allclose(last.values, every.values[..., -1:], atol=1e-12)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("components", KINDS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_sums_to_the_logit(processed, bias, components, dtype, error):
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 16, "bias": bias}
    content = Checkpoint(config=NanoGPTConfig(**sizes), state_dict=random_state(**sizes, seed=4, dtype=torch.float64))
    own = convert(content, dtype=dtype, process_weights=processed)
    tokens = torch.randint(16, (3, 12), generator=torch.Generator().manual_seed(0))
    result = direct_logit_attribution(own, tokens, 3, 7, components=components, pos=[0, 5, -1])
    with torch.no_grad():
        logits = own(tokens, return_type="logits")[:, [0, 5, 11]]
    assert torch.allclose(result.values.sum(0), (logits[..., 3] - logits[..., 7]).double(), atol=error, rtol=0)
    assert result.values[result.labels["component"].index("ln_final_bias")].any() == bias


def test_processing_moves_nothing_between_components_but_biases():
    """Value biases go to b_O; the difference of two logits is that of the model as it was trained."""
    tokens, _ = texts()
    raw, folded = (direct_logit_attribution(model(process_weights=p), tokens, 3, 7) for p in (False, True))
    assert torch.allclose(raw.total, folded.total, atol=1e-10)
    for i, label in enumerate(raw.labels["component"]):
        if label.startswith(("embed", "pos_embed", "mlp")):
            assert torch.allclose(raw.values[i], folded.values[i], atol=1e-10), label
    for layer in range(3):
        rows = [i for i, label in enumerate(raw.labels["component"]) if label.startswith((f"{layer}.", f"attn{layer}"))]
        assert len(rows) == 3
        assert torch.allclose(raw.values[rows].sum(0), folded.values[rows].sum(0), atol=1e-10)


def test_a_component_is_what_its_removal_takes_from_the_logit():
    """With the scale held at its value in this run, by an intervention in the native model."""
    tokens, _ = texts()
    result = direct_logit_attribution(model(), tokens, 3, 7)
    scale = native_run(tokens, ["ln_final.hook_scale"])["ln_final.hook_scale"]

    def without_head(z):
        z = z.clone()
        z[:, :, 1] = 0
        return z

    with torch.no_grad():
        logits = native()(
            tokens,
            edits={
                "blocks.2.attn.hook_z": without_head,
                "ln_final.hook_scale": lambda _: scale,
                "blocks.2.hook_mlp_out": lambda _: native_run(tokens, ["blocks.2.hook_mlp_out"])[
                    "blocks.2.hook_mlp_out"
                ],
            },
        )[:, -1]
    removed = result.total[:, 0] - (logits[:, 3] - logits[:, 7])
    assert torch.allclose(removed, result.at(component="2.1")[:, 0], atol=1e-10)


def test_handmade_induction_head_gives_the_logit_and_nothing_else_does():
    handmade = handmade_model()
    tokens = repeated_tokens(handmade, seq_len=8, n=4)
    result = direct_logit_attribution(handmade, tokens, pos=list(range(8, 15)))
    head = result.labels["component"].index("1.0")
    assert torch.allclose(result.values[head], torch.tensor(handmade_logit()).double(), atol=1e-7)
    others = [i for i in range(len(result.values)) if i != head]
    assert result.values[others].abs().max() < 1e-9
    assert result.heads().shape == (2, 2, 4, 7)
    assert result.heads().abs().mean((2, 3)).argmax() == 2  # 1.0


@pytest.mark.parametrize(
    "backend", [pytest.param("3.9", marks=pytest.mark.hooked), pytest.param("4", marks=pytest.mark.bridge)]
)
def test_equals_transformer_lens(backend):
    from transformer_lens.tools.analysis.direct_logit_attribution import direct_logit_attribution as theirs

    tokens, _ = texts()
    own = model(process_weights=True, dtype=torch.float32)
    ours = direct_logit_attribution(own, tokens, 3, 7, components="layers")
    heads = direct_logit_attribution(own, tokens, 3, 7, components="heads")
    if backend == "4":
        own.enable_compatibility_mode(no_processing=True)
    found = theirs(own, tokens, answer_tokens=torch.tensor([3] * 3), incorrect_tokens=torch.tensor([7] * 3), pos=-1)
    name = {"embed": "embed", "pos_embed": "pos_embed"}
    name |= {f"{i}_{kind}_out": f"{kind}{i}" for i in range(3) for kind in ("attn", "mlp")}
    assert set(found.labels) == set(name)
    for i, label in enumerate(found.labels):
        assert torch.allclose(found.attribution[i].double(), ours.at(component=name[label])[:, 0], atol=1e-5), label
    found = theirs(
        own, tokens, answer_tokens=torch.tensor([3] * 3), incorrect_tokens=torch.tensor([7] * 3), pos=-1, unit="head"
    )
    assert torch.allclose(found.attribution[:6].double(), heads.heads().flatten(0, 1)[..., 0], atol=1e-5)


def test_one_text_and_its_labels(tmp_path):
    result = direct_logit_attribution(ngl.load("shakespeare_char"), "First Citize", "n", "r", components="neurons")
    assert result.axes == ("component", "pos")
    assert result.shape == {"component": 4 * (4 + 1 + 512 + 1) + 3, "pos": 1}
    assert result.labels["pos"] == ("e",)
    assert abs(result.values.sum() - result.total) < 1e-5
    assert len(result.top(7)) == 7
    result.save(tmp_path)
    again = ngl.load_result(tmp_path)
    assert repr(again) == repr(result)
    assert again.positions == (11,)
    assert torch.equal(again.heads(), result.heads())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((3,), {"components": "mlps"}, "components is 'mlps'; expected one of heads, layers, neurons"),
        ((3,), {"pos": 9}, "reads position 9; expected -9 to 8"),
        ((3,), {"pos": []}, "reads no position"),
        ((), {"pos": 8}, "reads position 8; expected -8 to 7"),
        (([3, 4],), {}, "answer has 2 tokens; expected 1, or one for each of the 3 examples"),
        ((3, 13), {}, "wrong has ids outside 0 to 12"),
        ((3.5,), {}, "answer is 3.5; expected an id or a string"),
    ],
)
def test_bad_options(arguments, options, message):
    with pytest.raises(AnalysisError, match=message):
        direct_logit_attribution(model(), texts()[0], *arguments, **options)


def test_what_is_no_such_sum_is_refused():
    with pytest.raises(AnalysisError, match="the text is one token, which nothing follows"):
        direct_logit_attribution(model(), [3])
    with pytest.raises(AnalysisError, match="has no heads|without heads"):
        direct_logit_attribution(model(), texts()[0], 3, components="layers").heads()
    edited = model()
    with (
        edited.hooks(fwd_hooks=[("blocks.1.hook_resid_mid", lambda value, hook: value * 2)]),
        pytest.raises(AnalysisError, match="contributions differ from the logit"),
    ):
        direct_logit_attribution(edited, texts()[0], 3)
