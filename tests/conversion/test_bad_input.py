"""What is not a nanoGPT checkpoint is refused in one sentence, and nothing runs."""

from __future__ import annotations

import os
import pickle
import zipfile

import pytest
import torch

from conversion import CheckpointError, NanoGPTConfig, VocabularyError, read_checkpoint
from tests.making import content, random_state, write, write_meta


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def expect_refusal(path, *words, **options):
    """The message of the refusal; it is one sentence, names the file and says every word."""
    with pytest.raises((CheckpointError, VocabularyError)) as caught:
        read_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for word in words:
        assert word in message, message
    return message


def test_missing_file(tmp_path):
    expect_refusal(tmp_path / "nothing.pt", "nothing.pt does not exist", "expected a nanoGPT checkpoint")


def test_folder_without_checkpoint(tmp_path):
    expect_refusal(tmp_path, str(tmp_path), "has no ckpt.pt", "out_dir")
    torch.save({}, tmp_path / "last.pt")
    expect_refusal(tmp_path, "last.pt", "name the file itself")


def test_folder_of_a_hugging_face_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    expect_refusal(tmp_path, "Hugging Face", "from_huggingface")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    file = write(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    expect_refusal(tmp_path, str(file))


def test_damaged_in_the_middle(tmp_path):
    file = write(tmp_path)
    data = bytearray(file.read_bytes())
    data[40:200] = b"\0" * 160
    file.write_bytes(data)
    expect_refusal(tmp_path, str(file))


@pytest.mark.parametrize("data", [b"hello", b"\x80\x04N.", b"PK\x03\x04", b"{}", bytes(1000)])
def test_another_kind_of_file(tmp_path, data):
    (tmp_path / "ckpt.pt").write_bytes(data)
    expect_refusal(tmp_path, "ckpt.pt")


def test_a_zip_that_is_not_torch(tmp_path):
    with zipfile.ZipFile(tmp_path / "ckpt.pt", "w") as archive:
        archive.writestr("a.txt", "b")
    expect_refusal(tmp_path, "ckpt.pt")


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_the_checkpoint_is_not_run(tmp_path, new_format):
    target = tmp_path / "pwned"
    torch.save(content() | {"config": Bomb(target)}, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=new_format)
    expect_refusal(tmp_path / "ckpt.pt", "ckpt.pt", "mkdir", "nothing was executed")
    (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Bomb(target)))
    expect_refusal(tmp_path / "ckpt.pt", "ckpt.pt")
    assert not target.exists()


@pytest.mark.parametrize("what", [[1, 2], torch.zeros(3), "text", {"model_state_dict": {}}])
def test_other_contents(tmp_path, what):
    write(tmp_path, what)
    expect_refusal(tmp_path, "expected nanoGPT's dictionary with 'model' and 'model_args'")


def test_a_bare_state_dict(tmp_path):
    write(tmp_path, random_state())
    expect_refusal(tmp_path, "expected nanoGPT's dictionary", "n_head")


def test_a_hugging_face_gpt2(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=12, vocab_size=65))
    write(tmp_path, model.state_dict())
    expect_refusal(tmp_path, "from_huggingface")
    write(tmp_path, content(dict(model.state_dict())))
    expect_refusal(tmp_path, "transposed", "from_huggingface")


def test_a_llama(tmp_path):
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"]
    state = {name: torch.zeros(2, 2) for name in names}
    write(tmp_path, state)
    expect_refusal(tmp_path, "Llama")
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "missing", "another architecture")


def test_a_modded_nanogpt_with_rotary_and_rmsnorm(tmp_path):
    names = ["embed.weight", "blocks.0.attn.qkv_w", "blocks.0.lambdas", "value_embeds.0.weight", "lm_head.weight"]
    write(tmp_path, {"step": 1, "code": "", "model": {name: torch.zeros(2, 2) for name in names}, "optimizers": []})
    expect_refusal(tmp_path, "modded-nanoGPT")
    state = random_state(bias=False)
    del state["transformer.wpe.weight"]
    write(tmp_path, content(state, bias=False))
    expect_refusal(tmp_path, "without transformer.wpe.weight", "rotary")
    state = random_state(bias=False)
    norms = {k: v for k, v in state.items() if ".ln_" in k}
    gains = {k.replace(".weight", ".gain"): v for k, v in norms.items()}
    write(tmp_path, content({k: v for k, v in state.items() if k not in norms} | gains, bias=False))
    expect_refusal(tmp_path, "missing (5)", "unexpected (5)", "ln_1.gain")


def test_all_wrong_keys_in_one_error(tmp_path):
    state = random_state()
    del state["transformer.h.0.ln_1.weight"]
    state["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 3)
    state["transformer.extra"] = torch.zeros(1)
    write(tmp_path, content(state))
    expect_refusal(
        tmp_path,
        "missing (1): transformer.h.0.ln_1.weight",
        "unexpected (1): transformer.extra",
        "transformer.h.1.mlp.c_fc.weight is [3, 3], expected [64, 16]",
    )


def test_one_dropped_bias(tmp_path):
    state = random_state()
    del state["transformer.h.1.attn.c_attn.bias"]
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "missing (1): transformer.h.1.attn.c_attn.bias")


@pytest.mark.parametrize(
    "change", [{"n_layer": 1}, {"n_layer": 3}, {"vocab_size": 66}, {"block_size": 11}, {"n_embd": 32}]
)
def test_sizes_that_do_not_belong_to_the_tensors(tmp_path, change):
    stored = content()
    stored["model_args"] |= change
    write(tmp_path, stored)
    expect_refusal(tmp_path, "the tensors do not fit model_args")


def test_n_head_that_does_not_divide(tmp_path):
    stored = content()
    stored["model_args"]["n_head"] = 3
    write(tmp_path, stored)
    expect_refusal(tmp_path, "model_args['n_head'] is 3, which does not divide n_embd 16")


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", None, True])
def test_sizes_that_are_no_positive_integers(tmp_path, value):
    stored = content()
    stored["model_args"]["n_head"] = value
    write(tmp_path, stored)
    expect_refusal(tmp_path, "model_args['n_head'] is", "expected a positive integer")


@pytest.mark.parametrize(("name", "value"), [("bias", 1), ("dropout", True), ("dropout", 1.5)])
def test_options_of_the_wrong_kind(tmp_path, name, value):
    stored = content()
    stored["model_args"][name] = value
    write(tmp_path, stored)
    expect_refusal(tmp_path, f"model_args['{name}'] is {value!r}; expected ")


def test_what_is_neither_a_file_nor_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    expect_refusal(tmp_path / "pipe", "pipe is no file; expected a nanoGPT checkpoint or a folder that holds one")


def test_missing_n_head(tmp_path):
    stored = content()
    del stored["model_args"]["n_head"]
    write(tmp_path, stored)
    expect_refusal(tmp_path, "model_args has no n_head")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path, value):
    state = random_state()
    state["transformer.h.1.mlp.c_fc.weight"][3, 4] = value
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "model['transformer.h.1.mlp.c_fc.weight'] has 1 of 1024 values that are NaN or infinite")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats(tmp_path, dtype):
    state = random_state()
    state["transformer.ln_f.weight"] = state["transformer.ln_f.weight"].to(dtype)
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "transformer.ln_f.weight", str(dtype).removeprefix("torch."))


def test_the_same_name_with_and_without_its_beginning(tmp_path):
    write(tmp_path, content(random_state() | {"wte.weight": torch.zeros(65, 16)}))
    expect_refusal(tmp_path, "'transformer.wte.weight' twice")


def test_the_same_name_under_two_prefixes(tmp_path):
    state = random_state()
    state["module.lm_head.weight"] = torch.zeros(65, 16)
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "'lm_head.weight' twice")


def test_a_meta_with_code_is_not_run(tmp_path):
    target = tmp_path / "pwned"
    write(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": Bomb(target), "itos": {}}))
    expect_refusal(tmp_path, "meta.pkl", "mkdir", "nothing was executed", meta=tmp_path)
    assert read_checkpoint(tmp_path).vocabulary is None
    assert not target.exists()


def test_a_meta_that_does_not_fit(tmp_path):
    write(tmp_path, vocab_size=10)
    write_meta(tmp_path)
    expect_refusal(tmp_path, "meta.pkl has 65 tokens, but the model has vocab_size 10", meta=tmp_path)


def test_a_meta_that_is_not_there(tmp_path):
    write(tmp_path)
    expect_refusal(tmp_path, "nowhere.pkl does not exist", meta=tmp_path / "nowhere.pkl")


def test_a_meta_nested_beyond_the_stack(tmp_path):
    """Three hundred thousand tuples inside each other, as a key: hashing it would overflow the interpreter's stack."""
    write(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.")
    expect_refusal(tmp_path, "meta.pkl", "a tuple as a key", meta=tmp_path)


def test_a_meta_with_ids_of_two_types(tmp_path):
    write(tmp_path)
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": {"a": 0, "b": "1"}, "itos": {0: "a", "1": "b"}}))
    expect_refusal(tmp_path, "not inverse", meta=tmp_path)


def test_a_million_layers_on_paper(tmp_path):
    stored = content()
    stored["model_args"]["n_layer"] = 10**8
    write(tmp_path, stored)
    expect_refusal(tmp_path, "model_args['n_layer'] is 100000000, but the model has only 29 tensors")


def test_control_characters_in_a_key_are_escaped(tmp_path):
    write(tmp_path, content(random_state() | {"\x1b[2Jevil\n\nerror: all good": torch.zeros(1)}))
    message = expect_refusal(tmp_path, r"\x1b[2Jevil\n\nerror")
    assert message.isprintable()


@pytest.mark.parametrize("name", ["foo.attn.bias", "transformer.h.7.attn.bias"])
def test_a_mask_where_none_belongs(tmp_path, name):
    write(tmp_path, content(random_state() | {name: torch.ones(1, 1, 5, 5).tril()}))
    expect_refusal(tmp_path, name)


@pytest.mark.parametrize("key", [3, None, ("a",)])
def test_model_args_under_odd_names(tmp_path, key):
    stored = content()
    stored["model_args"][key] = 4
    write(tmp_path, stored)
    expect_refusal(tmp_path, "model_args has arguments that nanoGPT does not know")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "seven"])
def test_counters_that_are_no_numbers_are_left_out(tmp_path, value):
    write(tmp_path, content() | {"iter_num": value, "best_val_loss": value})
    read = read_checkpoint(tmp_path)
    assert (read.iter_num, read.best_val_loss) == (None, None)


def test_weights_without_values(tmp_path):
    state = random_state()
    state["transformer.ln_f.weight"] = torch.ones(16, device="meta")
    write(tmp_path, content(state))
    expect_refusal(tmp_path, "transformer.ln_f.weight", "meta")


def test_an_unknown_activation(tmp_path):
    write(tmp_path)
    expect_refusal(tmp_path, "act_fn is 'relu'", "'gelu_new'", act_fn="relu")


def test_the_config_says_what_it_expected():
    with pytest.raises(CheckpointError, match="dropout"):
        NanoGPTConfig(n_layer=1, n_head=1, n_embd=1, block_size=1, vocab_size=1, dropout=2.0)
