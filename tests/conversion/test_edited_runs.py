"""Runs that edits share, and that begin at a layer, give what whole runs with one edit each give; blind spots."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from conversion import check_equivalence, read_checkpoint
from conversion.comparing import TOGETHER, Bench
from conversion.edited_runs import ConvertedSide, NativeSide, as_hook, edited_logits
from conversion.edits import KINDS, edit_for
from conversion.native import GPT, hook_names
from conversion.native_reference import NativeReference
from conversion.stepping import Stepper
from tests.conftest import convert
from tests.making import write

LAYERS = 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return read_checkpoint(write(tmp_path_factory.mktemp("edited"), n_layer=LAYERS))


@pytest.fixture
def tokens():
    return torch.randint(65, (2, 7), generator=torch.Generator().manual_seed(1))


EDITS = [(name, edit_for(kind, name, 0)) for name in hook_names(LAYERS) for kind in KINDS]


def native_alone(checkpoint, tokens):
    native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    return [native(tokens, edits={name: edit}) for name, edit in EDITS]


def converted_alone(model, tokens):
    return [model.run_with_hooks(tokens, fwd_hooks=[(name, as_hook(edit))]) for name, edit in EDITS]


def largest(shared, alone):
    return max(float((a - b).abs().max()) for a, b in zip(shared, alone, strict=True))


@torch.no_grad()
def test_both_sides_give_what_whole_runs_give(checkpoint, tokens):
    native = NativeSide(NativeReference(checkpoint, torch.float64), LAYERS)
    assert largest(edited_logits(native, tokens, EDITS), native_alone(checkpoint, tokens)) < 1e-12
    model = convert(checkpoint, dtype=torch.float64)
    assert largest(edited_logits(ConvertedSide(model, LAYERS), tokens, EDITS), converted_alone(model, tokens)) < 1e-12


@torch.no_grad()
def test_a_run_begins_at_the_edited_layer_and_has_many_edits(checkpoint, tokens):
    begun = []

    class Counting(NativeSide):
        def whole(self, tokens, edits):
            begun.append((None, len(tokens)))
            return super().whole(tokens, edits)

        def rest(self, stream, layer, edits):
            begun.append((layer, len(stream)))
            return super().rest(stream, layer, edits)

    list(edited_logits(Counting(NativeReference(checkpoint, torch.float64), LAYERS), tokens, EDITS))
    assert [layer for layer, _ in begun] == [None] * 5 + [0, 1, 2, 3]  # the plain run, four of embeddings
    assert [rows for _, rows in begun[5:]] == [2 * (2 * 17 + 1)] * LAYERS + [2 * (2 * 2 + 1)]


@torch.no_grad()
def test_a_model_that_goes_on_otherwise_is_run_whole(checkpoint, tokens):
    """Where a run that begins at a layer is not the model's, nothing is taken from it."""
    wrong = []

    class Wrong(NativeSide):
        def rest(self, stream, layer, edits):
            wrong.append(layer)
            return super().rest(stream, layer, edits) * 1.001

    side = Wrong(NativeReference(checkpoint, torch.float64), LAYERS)
    assert largest(edited_logits(side, tokens, EDITS), native_alone(checkpoint, tokens)) < 1e-12
    assert wrong == [0]


@torch.no_grad()
def test_a_native_run_from_a_layer_is_the_whole_run(checkpoint, tokens):
    native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    streams = {}
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(LAYERS)] + ["blocks.2.hook_resid_post"]
    native(tokens, edits={name: (lambda x, name=name: streams.__setitem__(name, x)) for name in names})
    whole = native(tokens)
    for layer, name in enumerate(names):
        assert torch.equal(native.rest(streams[name], layer), whole)
    assert torch.allclose(native.last_logits(tokens), whole[:, -1], rtol=0, atol=1e-13)


@torch.no_grad()
def test_text_that_grows_has_the_logits_of_whole_runs(checkpoint):
    native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    stepper = Stepper(native)
    text = torch.randint(65, (3, 20), generator=torch.Generator().manual_seed(2))
    for end in (1, 2, 3, 7, 8, 12, 13, 14, 5, 6):  # in one step and in several, past the context of 12, and a new text
        expected = native(text[:, max(0, end - 12) : end])[:, -1]
        assert (stepper(text[:, :end]) - expected).abs().max() < 1e-12
    other = text.flip(0)
    assert (stepper(other[:, :7]) - native(other[:, :7])[:, -1]).abs().max() < 1e-12


@pytest.mark.hooked
def test_a_model_that_ignores_edits_only_in_runs_from_tokens_is_caught(checkpoint):
    """People edit in runs from tokens; a run with start_at_layer is another way through the model."""
    from transformer_lens import HookedTransformer

    class Fast(HookedTransformer):
        def forward(self, input, *arguments, start_at_layer=None, **options):
            points = [block.hook_mlp_out for block in self.blocks] if start_at_layer is None else []
            kept = [dict(point._forward_hooks) for point in points]
            for point, hooks in zip(points, kept, strict=True):
                point._forward_hooks.update({i: without_effect(hook) for i, hook in hooks.items()})
            try:
                return super().forward(input, *arguments, start_at_layer=start_at_layer, **options)
            finally:
                for point, hooks in zip(points, kept, strict=True):
                    point._forward_hooks.update(hooks)

    model = convert(checkpoint, dtype=torch.float64)
    assert check_equivalence(checkpoint, model).passed
    model.__class__ = Fast
    wrong = {c.name for c in check_equivalence(checkpoint, model).failures}
    blind = {f"{kind} at blocks.{i}.hook_mlp_out" for i in range(LAYERS) for kind in KINDS}
    assert wrong == {*blind, TOGETHER}


def without_effect(hook):
    return lambda module, inputs, output: (hook(module, inputs, output), None)[1]


@pytest.mark.parametrize("late", [16, 20, 40, 299])
def test_edits_that_are_ignored_from_a_position_on_are_caught(tmp_path, late):
    """Runs with one edit are short; all hooks together are edited at every position of the context."""
    checkpoint = read_checkpoint(write(tmp_path, n_layer=1, block_size=300, bias=False))
    model = convert(checkpoint, dtype=torch.float64)
    blind = model.blocks[0].hook_mlp_out if hasattr(model.blocks[0], "hook_mlp_out") else model.blocks[0].mlp.hook_out
    original = type(blind).__call__

    def call(self, x):
        return torch.cat([original(self, x)[:, :late], x[:, late:]], dim=1)

    blind.__class__ = type("Late", (type(blind),), {"__call__": call})
    wrong = {c.name for c in check_equivalence(checkpoint, model).failures}
    alone = {f"{kind} at blocks.0.hook_mlp_out" for kind in KINDS} if late < 24 else set()
    assert wrong == {*alone, TOGETHER}


def test_a_middle_sized_model_is_read_at_256_positions(tmp_path):
    """Only models of GPT-2's size are read at fewer."""
    checkpoint = read_checkpoint(write(tmp_path, n_layer=1, block_size=256))
    made = (checkpoint, as_if_of(checkpoint, 10_600_000), as_if_of(checkpoint, 10**8))
    sizes = [Bench(one, None, seed=0, device="cpu") for one in made]
    read = [(tuple(b.tokens.shape), tuple(b.short.shape), tuple(b.prompt.shape), b.further) for b in sizes]
    usual, large = ((2, 256), (2, 24), (2, 5), 6), ((1, 128), (1, 4), (1, 255), 0)
    assert read == [usual, usual, large]


def as_if_of(checkpoint, n_params):
    """The checkpoint, which says that it has so many parameters."""
    cls = type("Sized", (type(checkpoint),), {"n_params": property(lambda self: n_params)})
    return cls(**{field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)})


def test_the_certificate_says_where_edits_were_made(tmp_path):
    report = check_equivalence(read_checkpoint(write(tmp_path)))
    said = "each edit alone at 12 positions of 2 sequences, all together at 12 positions of 1 sequence; "
    said += "other activations at 12 positions of 2 sequences; greedy text of 12 positions of 2 sequences and 6 tokens"
    assert f"{said} past them" in report.notes
