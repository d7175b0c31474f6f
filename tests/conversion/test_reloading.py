"""Weights of another checkpoint in the same model, against a model freshly converted from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

from conversion import Checkpoint, CheckpointError, read_checkpoint, read_vocabulary, reload_weights, to_nanogpt
from tests.conftest import convert
from tests.making import CHARS, content, random_state, write, write_meta

TOKENS = torch.randint(65, (3, 12), generator=torch.Generator().manual_seed(0))


def checkpoint(folder: Path, seed: int, **sizes: Any) -> Checkpoint:
    write_meta(folder)
    return read_checkpoint(write(folder, seed=seed, **sizes))


@pytest.fixture
def first(tmp_path):
    return checkpoint(tmp_path / "first", 1)


@pytest.fixture
def second(tmp_path):
    return checkpoint(tmp_path / "second", 2)


def everything(model: Any) -> dict[str, torch.Tensor]:
    """The logits and every activation."""
    with torch.no_grad():
        logits, cache = model.run_with_cache(TOKENS)
    return {"logits": logits, **dict(cache.items())}


def assert_same(model: Any, fresh: Any) -> None:
    got, expected = everything(model), everything(fresh)
    assert list(got) == list(expected)
    assert len(got) > 40
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    state = fresh.state_dict()
    assert list(model.state_dict()) == list(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_freshly_converted_model(tmp_path, processed, dtype, bias):
    one, two = (checkpoint(tmp_path / str(seed), seed, bias=bias) for seed in (1, 2))
    model = convert(one, dtype=dtype, process_weights=processed)
    fresh = convert(two, dtype=dtype, process_weights=processed)
    before = everything(model)
    assert (before["logits"] - everything(fresh)["logits"]).abs().max() > 0.1
    reload_weights(model, two)
    assert_same(model, fresh)
    reload_weights(model, one)  # and back, so that nothing of the second stays
    after = everything(model)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("processed", [False, True])
def test_half_precision_files_and_untied_heads(tmp_path, processed):
    folders = []
    for seed in (1, 2):
        state = random_state(seed=seed, dtype=torch.float16)
        state["lm_head.weight"] = state["lm_head.weight"].flip(0) * 2
        folders.append(write(tmp_path / str(seed), content(state)))
    one, two = map(read_checkpoint, folders)
    assert not two.config.tied
    model = convert(one, process_weights=processed)
    reload_weights(model, two)
    assert_same(model, convert(two, process_weights=processed))


def test_a_model_that_was_cast_keeps_its_precision(first, second):
    model = convert(first, dtype=torch.float32).to(torch.float64)
    reload_weights(model, second)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.equal(everything(model)["logits"], everything(convert(second, dtype=torch.float64))["logits"])


@pytest.mark.parametrize("processed", [False, True])
def test_every_object_is_the_one_it_was(first, second, processed):
    model = convert(first, dtype=torch.float64, process_weights=processed)
    tensors = model.state_dict(keep_vars=True)
    before = {name: (id(tensor), tensor.data_ptr(), tensor.requires_grad) for name, tensor in tensors.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    tokenizer = model.tokenizer
    reload_weights(model, second)
    after = model.state_dict(keep_vars=True)
    assert {n: (id(t), t.data_ptr(), t.requires_grad) for n, t in after.items()} == before
    assert model.tokenizer is tokenizer
    fresh = convert(second, dtype=torch.float64, process_weights=processed)
    held = optimizer.param_groups[0]["params"]
    for mine, theirs in zip(held, fresh.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    # a step of that optimizer reaches the model, as it would reach the fresh one
    fresh_optimizer = torch.optim.SGD(fresh.parameters(), lr=0.5)
    for each, its_optimizer in ((model, optimizer), (fresh, fresh_optimizer)):
        each(TOKENS, return_type="loss").backward()
        its_optimizer.step()
    assert torch.equal(everything(model)["logits"], everything(fresh)["logits"])
    assert not torch.equal(model.W_E, convert(second, dtype=torch.float64, process_weights=processed).W_E)


@pytest.mark.parametrize("processed", [False, True])
def test_names_of_transformer_lens_see_the_new_weights(first, second, processed):
    """On a bridge `blocks.0.ln1.w`, `blocks.0.mlp.b_in` and others are aliases."""
    model = convert(first, dtype=torch.float64, process_weights=processed)
    reload_weights(model, second)
    fresh = convert(second, dtype=torch.float64, process_weights=processed)
    for name in ("W_E", "W_pos", "W_U", "b_U", "W_Q", "W_K", "W_V", "W_O", "b_Q", "b_V", "W_in", "b_in", "W_out"):
        assert torch.equal(getattr(model, name), getattr(fresh, name)), name
    for mine, theirs in zip(model.blocks, fresh.blocks, strict=True):
        assert torch.equal(mine.mlp.b_in, theirs.mlp.b_in)
        assert torch.equal(mine.attn.W_Q, theirs.attn.W_Q)
        if not processed:
            assert torch.equal(mine.ln1.w, theirs.ln1.w)
            assert torch.equal(mine.ln2.b, theirs.ln2.b)


def test_hooks_of_the_user_stay(first, second):
    model, fresh = (convert(c, dtype=torch.float64) for c in (first, second))
    seen: list[torch.Tensor] = []

    def double(value: torch.Tensor, hook: Any) -> torch.Tensor:
        seen.append(value.detach().clone())
        return value * 2

    model.add_hook("blocks.0.hook_resid_mid", double)
    reload_weights(model, second)
    edited = everything(model)["logits"]
    plain = everything(fresh)
    with torch.no_grad():
        expected = fresh.run_with_hooks(TOKENS, fwd_hooks=[("blocks.0.hook_resid_mid", lambda x, hook: x * 2)])
    assert torch.equal(edited, expected)
    assert torch.equal(seen[-1], plain["blocks.0.hook_resid_mid"])
    assert not torch.equal(edited, plain["logits"])


def test_the_checkpoint_is_left_as_it_was_and_remembered(first, second):
    before = {name: tensor.clone() for name, tensor in second.state_dict.items()}
    model = convert(first)
    reload_weights(model, second)
    assert model.nanogpt_origin.path == second.path
    assert model.nanogpt_origin.sha256 == second.sha256 != first.sha256
    assert not model.nanogpt_origin.state_dict
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    assert list(before) == list(second.state_dict)
    assert all(torch.equal(second.state_dict[name], tensor) for name, tensor in before.items())


def test_a_reloaded_model_goes_back_to_nanogpt(first, second):
    model = convert(first)
    reload_weights(model, second)
    again = to_nanogpt(model)
    assert again.config == second.config
    assert all(torch.equal(again.state_dict[name], tensor) for name, tensor in second.state_dict.items())


def unchanged(model: Any, other: Any, match: str) -> None:
    """Loading is refused, and the model is as it was."""
    before, origin = {k: v.clone() for k, v in model.state_dict().items()}, model.nanogpt_origin
    with pytest.raises(CheckpointError, match=match):
        reload_weights(model, other)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.nanogpt_origin is origin


@pytest.mark.parametrize(
    ("sizes", "differs"),
    [
        ({"n_head": 4}, "n_head is 4, expected 2"),  # the tensors would fit
        ({"n_layer": 3}, "n_layer is 3, expected 2"),
        ({"n_embd": 32}, "n_embd is 32, expected 16"),
        ({"block_size": 13}, "block_size is 13, expected 12"),
        ({"bias": False}, "bias is False, expected True"),
        ({"n_layer": 1, "n_head": 1}, "n_layer is 1, expected 2, n_head is 1, expected 2"),
    ],
)
def test_another_architecture_is_refused(tmp_path, first, sizes, differs):
    other = checkpoint(tmp_path / "other", 2, **sizes)
    unchanged(convert(first), other, f"{tmp_path}/other/ckpt.pt.*{tmp_path}/first/ckpt.pt.*: {differs}; convert")


def test_another_activation_or_tie_is_refused_but_dropout_is_not(tmp_path, first, second):
    model = convert(first)
    unchanged(model, read_checkpoint(second.path, act_fn="gelu_new"), "act_fn is 'gelu_new', expected 'gelu'")
    untied = random_state(seed=3)
    untied["lm_head.weight"] = untied["lm_head.weight"] + 1
    write_meta(tmp_path / "untied")
    unchanged(model, read_checkpoint(write(tmp_path / "untied", content(untied))), "tied is False, expected True")
    reload_weights(model, replace(second, config=replace(second.config, dropout=0.3)))
    assert model.nanogpt_origin.config.dropout == 0.3


def test_vocabularies_are_compared_by_what_they_say(tmp_path, first, second):
    model = convert(first)
    assert second.vocabulary.source != first.vocabulary.source
    reload_weights(model, second)
    swapped = read_checkpoint(second.path, meta=write_meta(tmp_path / "swapped", CHARS[::-1]))
    unchanged(model, swapped, r"vocabulary is 65 tokens \(characters\) of .*swapped/meta.pkl, expected 65 tokens")
    unchanged(model, replace(second, vocabulary=None), "vocabulary is none, expected 65 tokens")
    (tmp_path / "hf").mkdir()
    second.tokenizer().save_pretrained(tmp_path / "hf")
    same = read_vocabulary(tmp_path / "hf" / "tokenizer.json", 65)
    reload_weights(model, replace(second, vocabulary=same))  # the same characters from a tokenizer.json
    without = convert(replace(first, vocabulary=None))
    unchanged(without, second, "vocabulary is 65 tokens .*expected none")
    reload_weights(without, replace(second, vocabulary=None))


def test_subword_vocabularies_are_compared_by_what_they_say(tmp_path):
    def with_words(folder, seed, words):
        write(folder, seed=seed, vocab_size=len(words))
        Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a")).save(
            str(folder / "tokenizer.json")
        )
        return read_checkpoint(folder)

    first = with_words(tmp_path / "first", 1, ["a", "the", "cat"])
    model = convert(first)
    second = with_words(tmp_path / "second", 2, ["a", "the", "cat"])
    reload_weights(model, second)
    assert model.nanogpt_origin.sha256 == second.sha256
    unchanged(
        model, with_words(tmp_path / "third", 3, ["a", "cat", "the"]), "vocabulary is 3 tokens .*expected 3 tokens"
    )


def test_a_checkpoint_without_its_weights_is_refused(first, second):
    model = convert(first)
    unchanged(model, second.without_weights(), "has 0 of its 29 tensors.*read it again")
    convert(second, consume=True)
    unchanged(model, second, "has 0 of its 29 tensors.*read it again")


def test_a_model_of_unknown_origin_is_refused(first, second):
    model = convert(first)
    del model.nanogpt_origin
    with pytest.raises(CheckpointError, match="was not made from a nanoGPT checkpoint.*make it with"):
        reload_weights(model, second)


def test_a_model_that_was_rebuilt_is_refused(first, second):
    def part(model, *names):
        for name in names:
            model = getattr(model, name)
        return getattr(model, "original_component", model)

    added = convert(first)
    part(added.blocks[1]).adapter = torch.nn.Linear(3, 3)
    unchanged(added, second, r"it has \S*\.1\.\S*adapter\.weight, which a checkpoint does not fill.*take off")
    model = convert(first)
    name, cut = next((n, p) for n, p in model.state_dict(keep_vars=True).items() if n.endswith(("W_out", "out.weight")))
    cut.data = cut.data[:5].clone()
    unchanged(model, second, f"its .*{name.rsplit('.', 1)[1]} is .5, .*, expected ")
    model = convert(first)
    on_bridge = hasattr(model, "original_model")
    where, name = (("attn", "q"), "weight") if on_bridge else (("attn",), "W_Q")
    setattr(part(model.blocks[1], *where), name, getattr(part(model.blocks[0], *where), name))
    unchanged(model, second, rf"it has no blocks\.[01]\.attn\.{'q.' if on_bridge else ''}{name} of its own")
