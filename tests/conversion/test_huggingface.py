"""GPT-2 models of Hugging Face: there, back, and refused."""

from __future__ import annotations

import pytest
import torch

from conversion import CheckpointError, from_huggingface, read_checkpoint, to_huggingface
from tests.making import CHARS, content, write, write_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_originals_logits(golden, dtype):
    model = to_huggingface(golden.checkpoint, dtype=dtype)
    with torch.no_grad():
        logits = model(golden.expected["tokens"]).logits
    key, tolerance = ("logits_float64", 1e-9) if dtype == torch.float64 else ("logits", 2e-5)
    assert (logits - golden.expected[key]).abs().max() < tolerance


def test_a_saved_folder_loads_by_itself(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_meta(tmp_path)
    checkpoint = read_checkpoint(write(tmp_path))
    model = to_huggingface(checkpoint, tmp_path / "hf")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "Hark! who's\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[CHARS.index(c) for c in text]]
    assert tokenizer.decode(ids[0]) == text
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert again.config.activation_function == "gelu"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("untied", [True, False])
def test_there_and_back(tmp_path, bias, untied):
    stored = content(bias=bias)
    if untied:
        stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] + 1
    write_meta(tmp_path)
    checkpoint = read_checkpoint(write(tmp_path, stored))
    to_huggingface(checkpoint, tmp_path / "hf")
    for source in (tmp_path / "hf", to_huggingface(checkpoint)):
        back = from_huggingface(source)
        assert back.config == checkpoint.config
        assert list(back.state_dict) == list(checkpoint.state_dict)
        assert all(torch.equal(back.state_dict[k], v) for k, v in checkpoint.state_dict.items())
    assert from_huggingface(tmp_path / "hf").vocabulary.chars == tuple(CHARS)
    write_meta(tmp_path / "other", CHARS[::-1])
    assert from_huggingface(tmp_path / "hf", meta=tmp_path / "other").vocabulary.chars == tuple(CHARS[::-1])


def test_a_real_gpt2_class_with_its_own_gelu(tmp_path):
    """GPT-2 as Hugging Face makes it: its tanh GELU is taken over, and its logits are."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from conversion import GPT

    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=12, vocab_size=65)).double().eval()
    for p in theirs.parameters():
        p.data.normal_(std=0.4)
    checkpoint = from_huggingface(theirs)
    assert checkpoint.config.act_fn == "gelu_new"
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert (GPT.from_checkpoint(checkpoint)(tokens) - theirs(tokens).logits).abs().max() < 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation_function": "relu"}, "activation_function='relu'"),
        ({"n_inner": 32}, "n_inner=32"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon=1e-06"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ],
)
def test_settings_that_nanogpt_cannot_express(change, words):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=12, vocab_size=65, **change)
    with pytest.raises(CheckpointError, match=words):
        from_huggingface(GPT2LMHeadModel(config))


def test_bad_folders(tmp_path):
    with pytest.raises(CheckpointError, match="has no config.json"):
        from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="'llama'; expected 'gpt2'"):
        from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="cannot be read as a GPT-2"):
        from_huggingface(tmp_path)
    checkpoint = read_checkpoint(write(tmp_path / "out"))
    with pytest.raises(CheckpointError, match="not an empty folder"):
        to_huggingface(checkpoint, tmp_path)


def test_the_folders_own_code_is_never_offered(tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    with pytest.raises(CheckpointError, match="'evil'; expected 'gpt2'"):
        from_huggingface(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_missing_tensors_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    to_huggingface(read_checkpoint(write(tmp_path)), tmp_path / "hf")
    state = load_file(tmp_path / "hf" / "model.safetensors")
    del state["transformer.h.1.mlp.c_fc.bias"]
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"h\.1\.mlp\.c_fc\.bias"):
        from_huggingface(tmp_path / "hf")
