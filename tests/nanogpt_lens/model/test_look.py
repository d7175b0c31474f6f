"""A run for what is seen inside, which ends before the unembedding."""

from __future__ import annotations

import pytest
import torch

from conversion import read_checkpoint
from nanogpt_lens.model.access import evaluating, has_hooks, look, run
from tests.conftest import convert
from tests.making import write

NAMES = [f"blocks.{layer}.{hook}" for layer in range(2) for hook in ("attn.hook_pattern", "hook_resid_post")]


@pytest.fixture(params=[False, True], ids=["raw", "processed"])
def model(request, tmp_path):
    return convert(read_checkpoint(write(tmp_path)), process_weights=request.param)


def kept(into):
    return {name: (lambda value, name=name: into.__setitem__(name, value.clone())) for name in NAMES}


def test_the_same_activations_bit_by_bit_and_no_logits(model):
    tokens = torch.randint(65, (2, 9), generator=torch.Generator().manual_seed(0))
    seen, expected, unembedded = {}, {}, []
    with evaluating(model):
        run(model, tokens, kept(expected))
        handle = model.unembed.register_forward_hook(lambda *_: unembedded.append(1))
        assert look(model, tokens, kept(seen)) is None
        handle.remove()
    assert not unembedded
    assert set(seen) == set(NAMES)
    assert all(torch.equal(seen[name], expected[name]) for name in NAMES)


def test_no_hook_is_left_and_the_next_run_is_whole(model):
    tokens = torch.arange(7)[None]
    with evaluating(model):
        before = run(model, tokens)
        look(model, tokens, kept({}))
        assert not has_hooks(model)
        assert torch.equal(run(model, tokens), before)


def test_an_error_of_an_edit_is_raised(model):
    def wrong(value):
        raise ZeroDivisionError

    with evaluating(model), pytest.raises(ZeroDivisionError):
        look(model, torch.arange(4)[None], {NAMES[0]: wrong})
    assert not has_hooks(model)


def test_what_is_behind_the_blocks_is_seen_in_a_whole_run(model):
    seen = []
    with evaluating(model):
        look(model, torch.arange(4)[None], {"ln_final.hook_scale": lambda value: seen.append(value.shape)})
    assert seen == [torch.Size([1, 4, 1])]
