"""What a real model learns when it is trained further on another text, moved with its weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from conversion.native import GPT
from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.compare.transplants import transplant
from nanogpt_lens.model.places import find_checkpoint
from tests.conftest import convert

CONSONANTS, VOWELS, LETTERS = "BDGKLMNPRT", "AEIOU", 20_000


def made_up(seed: int) -> str:
    """A language of upper-case words of syllables, in which each word is said twice."""
    generator = np.random.default_rng(seed)
    words = []
    while sum(map(len, words)) < LETTERS:
        n = int(generator.integers(1, 4))
        word = "".join(str(generator.choice(list(CONSONANTS))) + str(generator.choice(list(VOWELS))) for _ in range(n))
        words += [word + " ", word + ("\n" if generator.random() < 0.2 else " ")]
    return "".join(words)


@cache
def before_and_after(steps: int = 250):
    """A shipped model, and the same after some steps on the made-up language."""
    checkpoint = read_checkpoint(find_checkpoint("shakespeare_char"))
    a = convert(checkpoint)
    native = GPT.from_checkpoint(checkpoint).train()
    ids = a.to_tokens(made_up(0))[0]
    optimizer = torch.optim.AdamW(native.parameters(), lr=1e-3, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(ids) - 65, (12, 1), generator=generator)
        windows = ids[starts + torch.arange(65)]
        logits = native(windows[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {name: value.detach().clone() for name, value in native.state_dict().items()}
    return a, convert(replace(checkpoint, state_dict=state)), ids


@pytest.mark.slow
def test_what_was_learnt_moves_with_few_components():
    a, b, _ = before_and_after()
    held_out = made_up(1)
    assert float(ngl.text_loss(b, held_out, n=16).values) < float(ngl.text_loss(a, held_out, n=16).values) - 1
    assert shared_start(a, b).verdict == "shared start"
    found = transplant(a, b, held_out, n=24, n_random=39, progress=False)
    print(found)
    for i, direction in enumerate(("a into b", "b into a")):
        chosen = found.smallest_set(direction)
        assert len(chosen) < int(found.changed.sum()) / 2
        assert float(found.set_share[i, 0]) > 0.8
        assert float(found.set_p[i, 0]) <= 0.05
        assert float(found.curve[i, -1]) == pytest.approx(1.0, abs=1e-6)
        assert float(found.curve[i, 0]) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_another_seed_is_no_training_further():
    _, b, _ = before_and_after()
    with pytest.raises(ngl.AnalysisError, match=r"no common start .* compare_circuits"):
        transplant(ngl.load("shakespeare_char/ckpt_000000.pt"), other_seed(), made_up(1), progress=False)
    assert shared_start(other_seed(), b).verdict == "separate starts"


def other_seed():
    return ngl.load("shakespeare_char/seed_1338")
