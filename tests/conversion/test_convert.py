"""Converted models: the original's numbers, properties over architectures, and no side effects."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversion import GPT, BackendError, Checkpoint, ConversionError, read_checkpoint, to_nanogpt
from conversion.backends import importing, resolve_backend
from conversion.folding import fold
from conversion.layout import from_hooked_layout, native_tensor, to_hooked_layout
from conversion.native import hook_names
from conversion.state import canonical_state
from conversion.transformerlens_to_nanogpt import hooked_layout_of
from tests.conftest import convert
from tests.making import content, write


def visible(logits, processed):
    return logits.log_softmax(-1) if processed else logits


@pytest.mark.parametrize("processed", [False, True])
def test_the_originals_logits_and_loss(golden, processed):
    tokens, targets = golden.expected["tokens"], golden.expected["targets"]
    for dtype, key, tolerance in ((torch.float64, "logits_float64", 1e-9), (torch.float32, "logits", 2e-5)):
        model = convert(golden.checkpoint, dtype=dtype, process_weights=processed)
        with torch.no_grad():
            logits = model(tokens)
        assert logits.dtype == dtype
        assert (visible(logits, processed) - visible(golden.expected[key], processed)).abs().max() < tolerance
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        assert abs(loss - golden.expected["loss_float64" if dtype == torch.float64 else "loss"]) < tolerance


architectures = st.fixed_dictionaries(
    {
        "n_layer": st.integers(1, 3),
        "n_head": st.sampled_from([1, 2, 3, 4]),
        "d_head": st.sampled_from([1, 2, 5, 8]),
        "block_size": st.integers(1, 9),
        "vocab": st.one_of(st.integers(2, 70), st.sampled_from(["d_model", "d_mlp"])),
        "bias": st.booleans(),
        "untied": st.booleans(),
        "masks": st.booleans(),
        "drop_head": st.booleans(),
        "prefix": st.sampled_from(["", "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."]),
        "dtype": st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
        "act_fn": st.sampled_from(["gelu", "gelu_new"]),
        "seed": st.integers(0, 2**16),
    }
)


def build(a: dict[str, Any]) -> Checkpoint:
    n_embd = a["n_head"] * a["d_head"]
    vocab = {"d_model": n_embd, "d_mlp": 4 * n_embd}.get(a["vocab"], a["vocab"])
    sizes = {"n_layer": a["n_layer"], "n_head": a["n_head"], "n_embd": n_embd, "block_size": a["block_size"]}
    stored = content(**sizes, vocab_size=vocab, bias=a["bias"], dtype=a["dtype"], seed=a["seed"])
    state = stored["model"]
    if a["untied"]:
        state["lm_head.weight"] = state["lm_head.weight"].flip(0) * 2
    elif a["drop_head"]:
        del state["lm_head.weight"]
    if a["masks"]:
        size = a["block_size"]
        state["transformer.h.0.attn.bias"] = torch.ones(size, size).tril().view(1, 1, size, size)
    state = {a["prefix"] + name: tensor for name, tensor in state.items()}
    config, own, notes = canonical_state(state, stored["model_args"], act_fn=a["act_fn"])
    return Checkpoint(config=config, state_dict=own, notes=notes)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures)
def test_every_architecture_is_equal_in_float64(a):
    checkpoint = build(a)
    native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    generator = torch.Generator().manual_seed(a["seed"])
    tokens = torch.randint(checkpoint.config.vocab_size, (2, a["block_size"]), generator=generator)
    with torch.no_grad():
        expected = native(tokens)
        for processed in (False, True):
            model = convert(checkpoint, dtype=torch.float64, process_weights=processed)
            error = (visible(model(tokens), processed) - visible(expected, processed)).abs().max()
            assert error < 1e-9 * max(1, float(expected.abs().max()))
    again = to_nanogpt(convert(checkpoint, dtype=checkpoint.dtype))
    assert again.config.tied == checkpoint.config.tied
    for name, tensor in checkpoint.state_dict.items():
        assert torch.equal(again.state_dict[name], tensor)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures)
def test_the_layout_is_a_bijection(a):
    checkpoint = build(a)
    hooked = to_hooked_layout(checkpoint.state_dict, checkpoint.config)
    back = from_hooked_layout(hooked, checkpoint.config)
    assert list(back) == list(checkpoint.state_dict)
    assert all(torch.equal(back[name], tensor) for name, tensor in checkpoint.state_dict.items())
    emptied = dict(checkpoint.state_dict)
    consumed = to_hooked_layout(emptied, checkpoint.config, consume=True)
    assert not emptied
    assert list(consumed) == list(hooked)
    assert all(torch.equal(consumed[name], tensor) for name, tensor in hooked.items())


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(architectures)
def test_one_tensor_is_that_of_the_checkpoint(a):
    checkpoint = build(a)
    hooked = to_hooked_layout(checkpoint.state_dict, checkpoint.config)
    for name, tensor in checkpoint.state_dict.items():
        assert torch.equal(native_tensor(name, hooked), tensor)
    for unknown in ("transformer.wte.bias", "transformer.h.0.attn.c_attn", "lm_head.bias"):
        with pytest.raises(KeyError):
            native_tensor(unknown, hooked)


@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_collected_after_imports_as_before(collects):
    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        with pytest.raises(ImportError), importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is collects
    finally:
        (gc.enable if before else gc.disable)()


def test_folded_weights_are_centred(golden):
    state = to_hooked_layout(golden.checkpoint.state_dict, golden.checkpoint.config)
    before = {name: tensor.clone() for name, tensor in state.items()}
    folded = fold(state, golden.checkpoint.config.n_layer)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert not [name for name in folded if ".ln" in name or name.startswith("ln_")]
    writes = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out", "b_U", "W_U")
    for name, tensor in folded.items():
        assert tensor.dtype == torch.float64
        if name.endswith(writes):
            assert tensor.mean(-1).abs().max() < 1e-15
        if name.endswith("b_V"):
            assert not tensor.any()


def test_edited_logits_at_every_hook(golden):
    """Beyond the certificate's own edits: set to a constant, and permute positions."""
    native = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
    model = convert(golden.checkpoint, dtype=torch.float64)
    tokens = golden.expected["tokens"]
    edits = [lambda x: torch.full_like(x, 0.37), lambda x: x.flip(0)]
    with torch.no_grad():
        for name in hook_names(model.cfg.n_layers):
            for edit in edits:
                expected = native(tokens, edits={name: edit})
                got = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook, edit=edit: edit(x))])
                assert (got - expected).abs().max() < 1e-9, name
        assert (model(tokens) - native(tokens)).abs().max() < 1e-12  # no hook stayed


def test_the_checkpoint_is_left_as_it_was(golden):
    before = {name: tensor.clone() for name, tensor in golden.checkpoint.state_dict.items()}
    model = convert(golden.checkpoint)
    for parameter in model.parameters():
        parameter.data.fill_(7)
    assert list(before) == list(golden.checkpoint.state_dict)
    assert all(torch.equal(golden.checkpoint.state_dict[name], tensor) for name, tensor in before.items())


def test_embedding_and_unembedding_are_apart(golden):
    """The tie is nanoGPT's; here an edit of one must not reach the other."""
    model = convert(golden.checkpoint)
    before = model.W_U.clone()
    model.W_E.data.zero_()
    assert torch.equal(model.W_U, before)


@pytest.mark.parametrize("processed", [False, True])
def test_conversion_draws_no_random_numbers(golden, processed):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    convert(golden.checkpoint, process_weights=processed)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_upcast_exactly(tmp_path, dtype):
    checkpoint = read_checkpoint(write(tmp_path, dtype=dtype))
    model = convert(checkpoint)
    assert model.cfg.dtype == torch.float32
    assert torch.equal(model.W_E, checkpoint.state_dict["transformer.wte.weight"].float())


def test_a_model_is_ready_to_use(golden):
    model = convert(golden.checkpoint)
    assert not model.training
    tokens = golden.expected["tokens"]
    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens), model(tokens))
    assert torch.allclose(model.to(torch.float64)(tokens), golden.expected["logits_float64"], atol=1e-12)
    loss = twin(tokens, return_type="loss")
    loss.backward()
    assert all(p.grad is not None for n, p in twin.named_parameters() if "b_U" not in n and "unembed.bias" not in n)


def test_an_edited_model_goes_back_to_nanogpt(golden):
    model = convert(golden.checkpoint, dtype=torch.float64)
    with torch.no_grad():
        model.blocks[1].attn.W_Q[0] = 0
        model.blocks[0].mlp.b_in += 0.5
        tokens = golden.expected["tokens"]
        native = GPT.from_checkpoint(to_nanogpt(model))
        assert (native(tokens) - model(tokens)).abs().max() < 1e-12


def test_a_model_remembers_its_run(golden):
    """nanoGPT's sample.py finds the vocabulary by config["dataset"]."""
    again = to_nanogpt(convert(golden.checkpoint))
    assert again.run_config == golden.checkpoint.run_config
    assert again.iter_num == golden.checkpoint.iter_num
    assert again.best_val_loss is None  # its weights may have been edited


def test_processed_models_do_not_go_back(golden):
    with pytest.raises(ConversionError, match="process_weights=False"):
        to_nanogpt(convert(golden.checkpoint, process_weights=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"act_fn": "relu"}, "the model has act_fn='relu', which nanoGPT cannot express; expected 'gelu'"),
        ({"d_mlp": 32}, "the model has d_mlp=32, which nanoGPT cannot express; expected 64"),
        ({"normalization_type": "RMS"}, "the model has normalization_type='RMS'"),
        ({"positional_embedding_type": "rotary"}, "the model has positional_embedding_type='rotary'"),
        ({"eps": 1e-6}, "the model has eps=1e-06, which nanoGPT cannot express; expected 1e-05"),
    ],
    ids=str,
)
def test_models_that_nanogpt_does_not_have_do_not_go_back(tmp_path, change, words):
    model = convert(read_checkpoint(write(tmp_path)))
    for name, value in change.items():
        setattr(model.cfg, name, value)
    with pytest.raises(ConversionError, match=words):
        to_nanogpt(model)


def test_what_has_no_place_in_nanogpt_does_not_go_back(tmp_path):
    with pytest.raises(ConversionError, match="model is a Linear; expected a HookedTransformer or a TransformerBridge"):
        to_nanogpt(torch.nn.Linear(2, 2))
    model = convert(read_checkpoint(write(tmp_path)))
    with torch.no_grad():
        hooked_layout_of(model, lambda weight: weight.data)["unembed.b_U"][3] = 0.1
    with pytest.raises(ConversionError, match="unembedding has a bias b_U that is not zero"):
        to_nanogpt(model)


def test_the_other_backend_says_what_to_install(golden):
    other = "bridge" if resolve_backend() == "hooked" else "hooked"
    with pytest.raises(BackendError, match="pip install 'transformer-lens"):
        convert(golden.checkpoint, backend=other)
    with pytest.raises(ValueError, match="expected 'auto', 'hooked' or 'bridge'"):
        convert(golden.checkpoint, backend="tensorflow")


@pytest.mark.hooked
def test_a_subclass_is_built(golden):
    from transformer_lens import HookedTransformer

    class Mine(HookedTransformer):
        pass

    assert type(convert(golden.checkpoint, model_class=Mine)) is Mine


@pytest.mark.sae
def test_sae_lens_gets_its_own_class(golden):
    from sae_lens import HookedSAETransformer

    model = convert(golden.checkpoint, model_class=HookedSAETransformer, dtype=torch.float64)
    assert isinstance(model, HookedSAETransformer)
    logits = model.run_with_saes(golden.expected["tokens"], saes=[])
    assert (logits - golden.expected["logits_float64"]).abs().max() < 1e-9


@pytest.mark.parametrize("processed", [False, True])
def test_every_weight_is_where_transformer_lens_has_it(golden, processed):
    """`blocks.0.ln1.w`, `blocks.0.mlp.b_in` and the like; on a bridge some are aliases, which could be stale."""
    model = convert(golden.checkpoint, dtype=torch.float64, process_weights=processed)
    double = golden.checkpoint.to(torch.float64)
    state = to_hooked_layout(double.state_dict, double.config)
    for name, expected in (fold(state, double.config.n_layer) if processed else state).items():
        found: Any = model
        for part in name.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        assert not found.is_meta, name
        assert (found - expected).abs().max() < 1e-12, name


@pytest.mark.bridge
class TestMending:
    def test_upstream_still_needs_it(self, golden, monkeypatch):
        """If this fails, upstream has mended its hooks, and ours can go."""
        from conversion import mending, nanogpt_to_bridge

        monkeypatch.setattr(mending, "mend", lambda bridge: bridge)
        nanogpt_to_bridge.self_test.cache_clear()
        with pytest.raises(BackendError, match="could not be mended.*is off by"):
            convert(golden.checkpoint)
        nanogpt_to_bridge.self_test.cache_clear()

    def test_an_exception_in_a_hook_leaves_nothing_behind(self, golden):
        model = convert(golden.checkpoint, dtype=torch.float64)
        tokens = golden.expected["tokens"]

        def fail(x, hook):
            raise RuntimeError("no")

        for name in ("hook_resid_mid", "ln2.hook_scale", "attn.hook_attn_scores"):
            with pytest.raises(RuntimeError, match="no"):
                model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.0.{name}", fail)])
            with torch.no_grad():
                assert (model(tokens) - golden.expected["logits_float64"]).abs().max() < 1e-12

    def test_gradients_at_the_mended_hooks(self, golden):
        native = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
        model = convert(golden.checkpoint, dtype=torch.float64)
        tokens = golden.expected["tokens"]
        for name in ("blocks.0.hook_resid_mid", "blocks.1.attn.hook_attn_scores"):
            kept = []

            def keep(x, kept=kept):
                leaf = x.detach().clone().requires_grad_(True)
                kept.append(leaf)
                return leaf

            native(tokens, edits={name: keep}).logsumexp(-1).sum().backward()
            model.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook, keep=keep: keep(x))]).logsumexp(
                -1
            ).sum().backward()
            assert torch.allclose(kept[0].grad, kept[1].grad, atol=1e-12)
