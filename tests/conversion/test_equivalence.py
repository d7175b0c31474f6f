"""The certificate: it proves what is right, and catches, and names, what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from conversion import (
    ConversionError,
    EquivalenceError,
    EquivalenceReport,
    check_equivalence,
    read_checkpoint,
)
from conversion.comparing import TOGETHER
from conversion.native import hook_names
from conversion.transformerlens_to_nanogpt import hooked_layout_of
from tests.conftest import convert
from tests.making import content, write


def weights(model):
    """Every weight under TransformerLens' names, sharing memory with the model."""
    return hooked_layout_of(model, lambda weight: weight.data)


def test_golden_cases_are_proven(golden):
    report = check_equivalence(golden.checkpoint)
    assert report.passed, str(report)
    assert report.raise_if_failed() is report
    assert report.sha256 == golden.checkpoint.sha256
    n_layer = golden.checkpoint.config.n_layer
    for precision in ("float64", "float32"):
        mine = [c for c in report.comparisons if c.precision == precision]
        assert [c.name for c in mine if c.kind == "activation" and c.mode == "raw"] == list(hook_names(n_layer))
        edited = {c.name.rpartition(" at ")[2] for c in mine if c.kind == "edit" and c.mode == "raw"}
        assert edited == {*hook_names(n_layer), TOGETHER}
        grads = [c.name for c in mine if c.kind == "gradient"]
        assert set(grads) | {"lm_head.weight"} == set(golden.checkpoint.state_dict)
        assert {c.mode for c in mine if c.kind == "greedy"} == {"raw", "processed"}
    exact = [c for c in report.comparisons if c.precision == "float64"]
    assert max(c.max_abs for c in exact) < 1e-12
    assert all(c.tolerance == 1e-9 for c in exact if c.kind not in ("greedy", "weight"))
    assert all(c.max_abs == 0 for c in exact if c.kind == "weight" and c.mode == "raw")
    assert "PROVEN EQUAL" in str(report)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_its_own_precision_and_upcast(tmp_path, dtype):
    report = check_equivalence(read_checkpoint(write(tmp_path, dtype=dtype)), edits=False)
    assert report.passed, str(report)
    name = str(dtype).removeprefix("torch.")
    assert {c.precision for c in report.comparisons} == {"float64", "float32", name}
    assert {c.name for c in report.comparisons if c.precision == name} >= {"logits", "loss", "log-probabilities"}


def test_an_untied_head_and_gelu_new_are_proven(tmp_path):
    stored = content()
    stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] * 2
    report = check_equivalence(read_checkpoint(write(tmp_path, stored), act_fn="gelu_new"))
    assert report.passed, str(report)
    assert report.architecture["act_fn"] == "gelu_new"
    assert not report.architecture["tied"]
    assert "gelu_new" in str(report)


def gelu_new(tmp_path):
    return convert(read_checkpoint(tmp_path, act_fn="gelu_new"), dtype=torch.float64)


def dropped_bias(tmp_path):
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    weights(model)["blocks.1.attn.b_O"].zero_()
    return model


def swapped_q_and_k(tmp_path):
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    w = weights(model)
    for kind in "Wb":
        q, k = w[f"blocks.1.attn.{kind}_Q"], w[f"blocks.1.attn.{kind}_K"]
        q[:], k[:] = k.clone(), q.clone()
    return model


def transposed_w_o(tmp_path):
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    w_o = weights(model)["blocks.0.attn.W_O"]
    w_o[:] = w_o.flatten(0, 1).T.clone().view_as(w_o)
    return model


def wrong_head_split(tmp_path):
    checkpoint = read_checkpoint(tmp_path)
    return convert(replace(checkpoint, config=replace(checkpoint.config, n_head=4)), dtype=torch.float64)


def interleaved_heads(tmp_path):
    """Right shapes, wrong grouping: (out head) for (head out)."""
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    w_q = weights(model)["blocks.0.attn.W_Q"]
    w_q[:] = w_q.permute(0, 2, 1).flatten(0, 1).unflatten(0, (8, 2)).permute(1, 2, 0).clone()
    return model


def dropped_position(tmp_path):
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    weights(model)["pos_embed.W_pos"][-1] = 0
    return model


def transposed_unembedding(tmp_path):
    model = convert(read_checkpoint(tmp_path), dtype=torch.float64)
    w_u = weights(model)["unembed.W_U"]
    w_u[:] = w_u.flip(1)
    return model


MUTATIONS = [
    (gelu_new, "blocks.0.mlp.hook_post"),
    (dropped_bias, "blocks.1.hook_attn_out"),
    (swapped_q_and_k, "blocks.1.attn.hook_q"),
    (transposed_w_o, "blocks.0.hook_attn_out"),
    (wrong_head_split, "blocks.0.attn.hook_q"),
    (interleaved_heads, "blocks.0.attn.hook_q"),
    (dropped_position, "hook_pos_embed"),
    (transposed_unembedding, "logits"),
]


@pytest.mark.parametrize(("mutate", "first"), MUTATIONS, ids=[m.__name__ for m, _ in MUTATIONS])
def test_a_mutation_is_caught_and_its_first_hook_named(tmp_path, mutate, first):
    write(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    report = check_equivalence(checkpoint, mutate(tmp_path))
    assert not report.passed
    assert report.first_difference is not None
    assert report.first_difference.name == first
    with pytest.raises(EquivalenceError, match=f"not proven equal.*the first at {first.replace('.', r'[.]')} "):
        report.raise_if_failed()
    assert f"first at {first}" in report.verdict()
    assert "FAIL" in str(report)


def test_the_same_model_unmutated_passes(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path))
    for processed in (False, True):
        for dtype in (torch.float64, torch.float32):
            model = convert(checkpoint, process_weights=processed, dtype=dtype)
            report = check_equivalence(checkpoint, model)
            assert report.passed, str(report)
            assert {c.mode for c in report.comparisons} == {"processed" if processed else "raw"}


def test_float32_alone_catches_the_wrong_gelu(tmp_path):
    write(tmp_path)
    wrong = convert(read_checkpoint(tmp_path, act_fn="gelu_new"))
    assert not check_equivalence(read_checkpoint(tmp_path), wrong, edits=False).passed


@pytest.mark.bridge
def test_a_hook_that_ignores_edits_is_caught(tmp_path, monkeypatch):
    """Upstream's own bridge: every value at hook_resid_mid is right, and its edits are not."""
    from conversion import mending, nanogpt_to_bridge

    checkpoint = read_checkpoint(write(tmp_path))
    monkeypatch.setattr(mending, "mend", lambda bridge: bridge)
    broken = nanogpt_to_bridge._build(checkpoint, process_weights=False, device="cpu", dtype=torch.float64)
    report = check_equivalence(checkpoint, broken)
    wrong = {c.name for c in report.failures if c.kind == "edit"}
    assert {f"{kind} at blocks.{i}.hook_resid_mid" for i in range(2) for kind in ("zero", "perturb")} <= wrong
    assert not [c for c in report.failures if c.kind in ("output", "gradient")]


def test_a_hook_that_ignores_edits_is_caught_anywhere(tmp_path):
    """The same for any model: one hook is made blind to edits."""
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)
    blind = model.blocks[0].attn.hook_z
    original = type(blind).__call__
    blind.__class__ = type("Blind", (type(blind),), {"__call__": lambda self, x: (original(self, x.clone()), x)[1]})
    report = check_equivalence(checkpoint, model)
    alone = {"zero at blocks.0.attn.hook_z", "perturb at blocks.0.attn.hook_z"}
    assert {c.name for c in report.failures} == {*alone, TOGETHER}
    assert report.first_difference.name in alone


def test_the_users_model_keeps_its_state(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)
    model.train()
    first = next(model.parameters())
    first.requires_grad_(False)
    with torch.no_grad():
        assert check_equivalence(checkpoint, model, edits=False).passed
    assert model.training
    assert not first.requires_grad
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_compared_whatever_is_switched_off(golden, mode):
    with mode():
        report = check_equivalence(golden.checkpoint, edits=False)
        fresh = check_equivalence(golden.folder, edits=False)
    assert report.passed, str(report)
    assert [c for c in report.comparisons if c.kind == "gradient"]
    assert fresh.passed, str(fresh)


def test_a_row_that_no_token_reaches_is_compared_all_the_same(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path, vocab_size=5000, block_size=8))
    for processed in (False, True):
        model = convert(checkpoint, dtype=torch.float64, process_weights=processed)
        assert check_equivalence(checkpoint, model, edits=False).passed
        w_e = weights(model)["embed.W_E"]
        w_e[[4000, 4001]] = w_e[[4001, 4000]].clone()
        report = check_equivalence(checkpoint, model, edits=False)
        assert {c.kind for c in report.failures} == {"weight"}


def test_positions_beyond_those_whose_activations_are_read(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path, n_layer=1, block_size=300))
    model = convert(checkpoint, dtype=torch.float64)
    weights(model)["pos_embed.W_pos"][260:] += 5  # LayerNorm hides a constant
    assert not check_equivalence(checkpoint, model, edits=False).passed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_wrong_model_in_half_precision_is_caught(tmp_path, dtype):
    checkpoint = read_checkpoint(write(tmp_path))
    assert check_equivalence(checkpoint, convert(checkpoint, dtype=dtype)).passed
    wrong = convert(read_checkpoint(tmp_path, act_fn="gelu_new"), dtype=dtype)
    assert "cfg.act_fn" in {c.name for c in check_equivalence(checkpoint, wrong).failures}
    scaled = convert(checkpoint, dtype=dtype)
    weights(scaled)["blocks.1.attn.b_O"].mul_(1.05)
    assert "transformer.h.1.attn.c_proj.bias" in {c.name for c in check_equivalence(checkpoint, scaled).failures}


def test_zero_weights_are_no_false_alarm(tmp_path):
    state = {k: torch.zeros_like(v) for k, v in content()["model"].items()}
    report = check_equivalence(read_checkpoint(write(tmp_path, content(state))))
    assert report.passed, str(report)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [{"n_embd": 1, "n_head": 1}, {"n_embd": 2, "n_head": 2}, {"vocab_size": 1}])
def test_odd_sizes_are_no_false_alarm(tmp_path, seed, sizes):
    checkpoint = read_checkpoint(write(tmp_path, seed=seed, bias=False, **sizes))
    report = check_equivalence(checkpoint, edits=False)
    assert report.passed, str(report)


def test_a_model_that_does_not_even_run_fails_and_says_why(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)

    def broken(module, arguments):
        raise RuntimeError("no such\nkernel")

    model.blocks[1].register_forward_pre_hook(broken)
    report = check_equivalence(checkpoint, model)
    assert [(c.name, c.detail) for c in report.failures] == [("the model itself", "RuntimeError: no such")]
    with pytest.raises(EquivalenceError, match="not proven equal"):
        report.raise_if_failed()


def test_packages_that_are_not_installed_are_said(golden, monkeypatch):
    def version(package):
        if package == "nanogpt-lens":
            raise PackageNotFoundError(package)
        return f"1.0 of {package}"

    monkeypatch.setattr("conversion.equivalence.version", version)
    versions = check_equivalence(golden.checkpoint, edits=False).versions
    assert versions["nanogpt-lens"] == "not installed as a package"
    assert versions["transformer-lens"] == "1.0 of transformer-lens"
    assert versions["torch"] == torch.__version__  # with its build


def test_what_is_no_model_is_refused(golden):
    with pytest.raises(ConversionError, match="model is a Linear; expected a HookedTransformer"):
        check_equivalence(golden.checkpoint, torch.nn.Linear(1, 1))
    with torch.inference_mode():
        model = convert(golden.checkpoint)
    with pytest.raises(ConversionError, match="inference_mode"):
        check_equivalence(golden.checkpoint, model)


def test_every_submodule_keeps_its_mode(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)
    model.train()
    model.blocks[0].eval()
    check_equivalence(checkpoint, model, edits=False)
    assert model.training
    assert not model.blocks[0].training


def test_the_report_is_saved_and_read(tmp_path):
    write(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    for model in (convert(checkpoint, dtype=torch.float64), wrong_head_split(tmp_path)):
        report = check_equivalence(checkpoint, model)
        assert EquivalenceReport.load(report.save(tmp_path / "certificate.json")) == report
        stored = json.loads((tmp_path / "certificate.json").read_text())
        assert stored["passed"] is report.passed
        assert stored["versions"]["torch"] == torch.__version__
        assert stored["sha256"] == checkpoint.sha256
    for other in ({}, [], {"format": "another"}, stored | {"comparisons": [{"kind": "output"}]}):
        (tmp_path / "other.json").write_text(json.dumps(other))
        with pytest.raises(EquivalenceError, match="not a report"):
            EquivalenceReport.load(tmp_path / "other.json")


def test_nothing_compared_is_not_proven(golden):
    report = replace(check_equivalence(golden.checkpoint, edits=False), comparisons=())
    assert not report.passed
    with pytest.raises(EquivalenceError, match="nothing was compared"):
        report.raise_if_failed()
