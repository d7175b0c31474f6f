"""The reference model, against the original nanoGPT's numbers and against itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from conversion import GPT, NanoGPTConfig, read_checkpoint
from conversion.native import hook_names
from tests.making import content, write


def test_logits_and_loss_are_the_originals(golden):
    tokens, targets = golden.expected["tokens"], golden.expected["targets"]
    with torch.no_grad():
        exact = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
        assert (exact(tokens) - golden.expected["logits_float64"]).abs().max() < 1e-12
        assert (exact.loss(tokens, targets) - golden.expected["loss_float64"]).abs() < 1e-12
        single = GPT.from_checkpoint(golden.checkpoint)
        assert (single(tokens) - golden.expected["logits"]).abs().max() < 2e-6
        assert (single.loss(tokens, targets) - golden.expected["loss"]).abs() < 2e-6


def test_greedy_text_is_the_originals(golden):
    model = GPT.from_checkpoint(golden.checkpoint)
    text = golden.expected["tokens"][:2, :5]
    with torch.no_grad():
        while text.shape[1] < golden.expected["greedy"].shape[1]:
            text = torch.cat([text, model(text[:, -model.config.block_size :])[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(text, golden.expected["greedy"])


def test_reading_every_hook_leaves_the_logits_alone(golden):
    """The slow path, taken where a hook is read, computes what the fused one computes."""
    model = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
    tokens = golden.expected["tokens"]
    seen = {}
    names = hook_names(model.config.n_layer)
    readers = {name: (lambda x, name=name: seen.__setitem__(name, x)) for name in names}
    with torch.no_grad():
        logits = model(tokens, edits=readers)
    assert (logits - golden.expected["logits_float64"]).abs().max() < 1e-12
    assert list(seen) == list(names)


def test_hooks_hold_what_their_names_say(golden):
    """Relations that hold by definition, computed by hand from other hooks and weights."""
    model = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
    cfg, tokens = model.config, golden.expected["tokens"]
    seen = {}
    with torch.no_grad():
        model(tokens, edits={n: (lambda x, n=n: seen.__setitem__(n, x)) for n in hook_names(cfg.n_layer)})
        b, t = tokens.shape
        for i in range(cfg.n_layer):
            at = {n.removeprefix(f"blocks.{i}."): x for n, x in seen.items() if n.startswith(f"blocks.{i}.")}
            block = model.transformer.h[i]
            assert at["attn.hook_q"].shape == (b, t, cfg.n_head, cfg.d_head)
            scores = torch.einsum("bqhd,bkhd->bhqk", at["attn.hook_q"], at["attn.hook_k"]) / cfg.d_head**0.5
            below = torch.ones(t, t).tril().bool()
            assert torch.allclose(scores[..., below], at["attn.hook_attn_scores"][..., below], atol=1e-12)
            assert at["attn.hook_attn_scores"][..., ~below].isneginf().all()
            assert torch.allclose(at["attn.hook_pattern"].sum(-1), torch.ones(1, dtype=torch.float64))
            z = torch.einsum("bhqk,bkhd->bqhd", at["attn.hook_pattern"], at["attn.hook_v"])
            assert torch.allclose(z, at["attn.hook_z"], atol=1e-12)
            assert torch.allclose(block.attn.c_proj(z.reshape(b, t, -1)), at["hook_attn_out"], atol=1e-12)
            assert torch.allclose(at["hook_resid_pre"] + at["hook_attn_out"], at["hook_resid_mid"], atol=1e-12)
            assert torch.allclose(at["hook_resid_mid"] + at["hook_mlp_out"], at["hook_resid_post"], atol=1e-12)
            variance = at["hook_resid_mid"].var(-1, unbiased=False, keepdim=True)
            assert torch.allclose((variance + 1e-5).sqrt(), at["ln2.hook_scale"], atol=1e-12)
            erf = 0.5 * at["mlp.hook_pre"] * (1 + torch.erf(at["mlp.hook_pre"] / 2**0.5))
            assert torch.allclose(erf, at["mlp.hook_post"], atol=1e-12)
        assert torch.equal(seen["hook_embed"], model.transformer.wte.weight[tokens])
        assert torch.equal(seen["hook_pos_embed"][0], model.transformer.wpe.weight[:t])


@pytest.mark.parametrize("name", hook_names(2))
def test_an_edit_at_every_hook_takes_effect(tmp_path, name):
    """No hook is decoration: doubling it changes the logits, and nothing stays behind."""
    model = GPT.from_checkpoint(read_checkpoint(write(tmp_path)), dtype=torch.float64)
    tokens = torch.randint(65, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = model(tokens)
        edited = model(tokens, edits={name: lambda x: x * 2})
        assert (edited - clean).abs().max() > 1e-6
        assert torch.equal(model(tokens), clean)


def test_zeroing_an_output_equals_zeroing_its_weights(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path))
    tokens = torch.arange(12)[None]
    for part, hook in (("attn", "hook_attn_out"), ("mlp", "hook_mlp_out")):
        edited = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
        for parameter in edited.get_submodule(f"transformer.h.1.{part}.c_proj").parameters():
            parameter.data.zero_()
        with torch.no_grad():
            by_edit = GPT.from_checkpoint(checkpoint, dtype=torch.float64)(
                tokens, edits={f"blocks.1.{hook}": torch.zeros_like}
            )
            assert torch.allclose(edited(tokens), by_edit, atol=1e-13)


def test_gelu_new_is_the_tanh_approximation(tmp_path):
    write(tmp_path)
    tokens = torch.arange(12)[None]
    pre, post = {}, {}
    model = GPT.from_checkpoint(read_checkpoint(tmp_path, act_fn="gelu_new"), dtype=torch.float64)
    with torch.no_grad():
        model(
            tokens,
            edits={
                "blocks.0.mlp.hook_pre": lambda x: pre.update(x=x),
                "blocks.0.mlp.hook_post": lambda x: post.update(x=x),
            },
        )
    x = pre["x"]
    by_hand = 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    assert torch.allclose(post["x"], by_hand, atol=1e-14)
    assert (post["x"] - F.gelu(x)).abs().max() > 1e-5


def test_an_untied_head_stays_apart(tmp_path):
    stored = content()
    stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] * 2
    model = GPT.from_checkpoint(read_checkpoint(write(tmp_path, stored)))
    assert torch.equal(model.lm_head.weight, 2 * model.transformer.wte.weight)


def test_initialisation_is_nanogpts():
    torch.manual_seed(0)
    config = NanoGPTConfig(n_layer=8, n_head=4, n_embd=64, block_size=32, vocab_size=500)
    model = GPT(config)
    named = dict(model.named_parameters())
    assert len(named) == len(config.shapes()) - 1  # tied
    for name, p in named.items():
        if name.endswith(".bias"):
            assert not p.any()
        elif p.dim() == 1:
            assert torch.equal(p, torch.ones_like(p))
        else:
            std = 0.02 / (2 * 8) ** 0.5 if name.endswith("c_proj.weight") else 0.02
            assert p.std().item() == pytest.approx(std, rel=0.1), name


def test_what_it_refuses():
    model = GPT(NanoGPTConfig(n_layer=1, n_head=1, n_embd=4, block_size=3, vocab_size=5))
    with pytest.raises(ValueError, match="4 tokens exceed the context of 3"):
        model(torch.zeros(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match=r"no activation is called blocks\.1\.hook_q"):
        model(torch.zeros(1, 2, dtype=torch.long), edits={"blocks.1.hook_q": torch.zeros_like})
