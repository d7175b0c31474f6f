"""Generated text, against the original's greedy text and against nanoGPT's sampling loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import nanogpt_lens as ngl
from conversion import GPT, read_checkpoint
from tests.conftest import convert
from tests.making import write, write_meta


def test_greedy_text_is_the_originals(golden):
    model = convert(golden.checkpoint)
    expected = golden.expected["greedy"]
    prompt = golden.expected["tokens"][:2, :5]
    got = ngl.generate(model, prompt, max_new_tokens=expected.shape[1] - 5, temperature=0)
    assert torch.equal(got, expected)


@pytest.mark.parametrize(("temperature", "top_k"), [(0.8, 200), (1.0, None), (1.3, 5), (0.5, 1)])
def test_sampling_draws_what_nanogpt_draws(golden, temperature, top_k):
    """nanoGPT's loop on the native model after torch.manual_seed(seed)."""
    native = GPT.from_checkpoint(golden.checkpoint, dtype=torch.float64)
    idx = golden.expected["tokens"][:3, :7]
    steps = native.config.block_size + 5
    got = ngl.generate(
        convert(golden.checkpoint, dtype=torch.float64),
        idx,
        max_new_tokens=steps,
        temperature=temperature,
        top_k=top_k,
        seed=11,
    )
    torch.manual_seed(11)
    with torch.no_grad():
        for _ in range(steps):
            logits = native(idx[:, -native.config.block_size :])[:, -1, :] / temperature
            if top_k is not None:
                v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
                logits[logits < v[:, [-1]]] = -float("inf")
            idx = torch.cat((idx, torch.multinomial(F.softmax(logits, dim=-1), num_samples=1)), dim=1)
    assert torch.equal(got, idx)


@pytest.fixture
def model(tmp_path):
    write_meta(tmp_path)
    return convert(read_checkpoint(write(tmp_path, vocab_size=96)))


def test_text_in_text_out(model):
    text = ngl.generate(model, "ROMEO:", max_new_tokens=40, temperature=5, seed=3)
    assert text.startswith("ROMEO:")
    assert len(text) == 46
    assert text == ngl.generate(model, "ROMEO:", max_new_tokens=40, temperature=5, seed=3)
    assert text != ngl.generate(model, "ROMEO:", max_new_tokens=40, temperature=5, seed=4)


def test_a_prompt_longer_than_the_context_is_cropped_as_nanogpt_does(model):
    long = "O Romeo, Romeo! wherefore art thou"
    text = ngl.generate(model, long, max_new_tokens=5, temperature=0)
    short = ngl.generate(model, long[-12:], max_new_tokens=5, temperature=0)
    assert text[len(long) :] == short[12:]


def test_no_token_beyond_the_vocabulary(model):
    """Rows 65 to 95 are padding; nanoGPT's decode would fail on them."""
    model.unembed.b_U.data[80] = 100.0
    assert len(ngl.generate(model, "a", max_new_tokens=30)) == 31
    assert (ngl.generate(model, torch.tensor([[1]]), max_new_tokens=3)[0, 1:] == 80).all()


def test_the_world_is_left_alone(model):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model.train()
    ngl.generate(model, "a", max_new_tokens=3)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("", {}, "at least one token"),
        (torch.zeros(1, 0, dtype=torch.long), {}, "at least one token"),
        (torch.zeros(1, 1, 1, dtype=torch.long), {}, "at least one token"),
        (torch.tensor([[96]]), {}, "vocabulary of 96"),
        (torch.tensor([[-1]]), {}, "vocabulary of 96"),
        (torch.tensor([[1.0]]), {}, "vocabulary of 96"),
        ("a", {"temperature": -1}, "temperature=-1"),
        ("a", {"top_k": 0}, "top_k=0"),
        ("a", {"max_new_tokens": -1}, "max_new_tokens=-1"),
        ("é", {}, "'é'"),
    ],
)
def test_what_it_refuses(model, prompt, options, words):
    with pytest.raises(ngl.NanoGPTLensError, match=words):
        ngl.generate(model, prompt, **options)


def test_without_a_vocabulary(tmp_path):
    model = convert(read_checkpoint(write(tmp_path)))
    assert ngl.generate(model, torch.tensor([3]), max_new_tokens=2).shape == (1, 3)
    for prompt in ("a", ""):
        with pytest.raises(ngl.NanoGPTLensError, match="no vocabulary|at least one token"):
            ngl.generate(model, prompt)
