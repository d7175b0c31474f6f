"""Exported folders under Hugging Face's own classes: batches of texts give what single texts give."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import nanogpt_lens as ngl
from conversion import Checkpoint, read_checkpoint, to_huggingface
from tests.conftest import convert
from tests.conversion.test_special_ids import bpe
from tests.making import CHARS, write, write_meta

PROMPTS = ["a", "ab\n", "the king", "zz"]


def chars(folder: Path) -> Checkpoint:
    write_meta(folder)
    return read_checkpoint(write(folder, block_size=32))


def padded(folder: Path) -> Checkpoint:
    write_meta(folder)
    return read_checkpoint(write(folder, block_size=32, vocab_size=96))


def marked(folder: Path) -> Checkpoint:
    folder.mkdir(exist_ok=True)
    tokens = ["<PAD>", *(c for c in CHARS if c not in "PAD")]
    (folder / "meta.pkl").write_bytes(pickle.dumps({"stoi": {token: i for i, token in enumerate(tokens)}}))
    return read_checkpoint(write(folder, block_size=32, vocab_size=len(tokens)))


def subwords(folder: Path) -> Checkpoint:
    return bpe(folder, [], block_size=32)


@pytest.mark.parametrize(
    ("make", "padding"), [(chars, None), (padded, "<|padding|>"), (marked, "<PAD>"), (subwords, None)]
)
def test_batches_are_single_texts(tmp_path, make, padding):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    checkpoint = make(tmp_path / "out")
    to_huggingface(checkpoint, tmp_path / "hf", dtype=torch.float64)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer.bos_token, tokenizer.eos_token) == (None, None)
    assert 0 <= tokenizer.pad_token_id < checkpoint.config.vocab_size
    assert padding is None or tokenizer.pad_token == padding
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"do_sample": False, "max_new_tokens": 12}
    prompts = [*PROMPTS, tokenizer.pad_token] if make is chars else PROMPTS  # one that holds what pads
    single = [generate(prompt, **settings)[0]["generated_text"] for prompt in prompts]
    batched = [texts[0]["generated_text"] for texts in generate(prompts, batch_size=2, **settings)]
    assert batched == single
    ours = convert(checkpoint, dtype=torch.float64)
    for prompt, text in zip(prompts, single, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        assert torch.equal(ids, ours.to_tokens(prompt))
        expected = ngl.generate(ours, ids, max_new_tokens=12, temperature=0)[0, ids.shape[1] :]
        assert text == prompt + tokenizer.decode(expected.tolist())


def test_masks_and_padding_of_the_tokenizer_itself(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = chars(tmp_path / "out")
    to_huggingface(checkpoint, tmp_path / "hf", dtype=torch.float64)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", padding_side="left")
    rows = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert rows["attention_mask"].sum(1).tolist() == [len(prompt) for prompt in PROMPTS]
    out = model.generate(**rows, max_new_tokens=8, do_sample=False)
    ours = convert(checkpoint, dtype=torch.float64)
    for prompt, row in zip(PROMPTS, out, strict=True):
        text = ngl.generate(ours, prompt, max_new_tokens=8, temperature=0)
        assert tokenizer.decode(row[-len(text) :]) == text


def test_what_pads_is_the_token_that_the_model_writes_least(tmp_path):
    """Hugging Face drops it from text that is decoded with skip_special_tokens."""
    from transformers import AutoTokenizer

    checkpoint = chars(tmp_path / "out")
    rare = CHARS.index("q")
    weights = {name: tensor.double() for name, tensor in checkpoint.state_dict.items()}
    weights["transformer.ln_f.weight"] = torch.zeros(16, dtype=torch.float64)
    weights["transformer.ln_f.bias"] = -weights["transformer.wte.weight"][rare]  # its own direction, turned around
    weights["transformer.wte.weight"][rare] *= 9
    weights["lm_head.weight"] = weights["transformer.wte.weight"]
    checkpoint.state_dict.update(weights)
    to_huggingface(checkpoint, tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.pad_token == "q"
    ids = tokenizer("quite\nright")["input_ids"]
    assert ids == [CHARS.index(c) for c in "quite\nright"]
    assert tokenizer.decode(ids) == "quite\nright"


def test_a_tokenizer_that_is_saved_by_itself(tmp_path):
    """Without the model at hand it is the last token."""
    from transformers import AutoTokenizer

    convert(chars(tmp_path / "out")).tokenizer.save_pretrained(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (tokenizer.pad_token, tokenizer.pad_token_id, len(tokenizer)) == ("z", 64, 65)
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert "eos_token" not in config


def test_gpt2s_own_token_stays(tmp_path):
    from transformers import AutoTokenizer

    to_huggingface(bpe(tmp_path / "out", ["<|endoftext|>"]), tmp_path / "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.pad_token_id) == ("<|endoftext|>", "<|endoftext|>", 0)
