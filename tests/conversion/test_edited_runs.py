"""Runs that edits share, and that begin at a layer, give what whole runs with one edit each give."""

from __future__ import annotations

import pytest
import torch

from conversion import check_equivalence, read_checkpoint
from conversion.edited_runs import ConvertedSide, NativeSide, as_hook, edited_logits
from conversion.edits import KINDS, edit_for
from conversion.native import GPT, hook_names
from conversion.reference import NativeReference
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


def test_the_certificate_says_where_edits_were_made(tmp_path):
    report = check_equivalence(read_checkpoint(write(tmp_path)))
    assert "edits at 12 positions of 2 sequences, other activations at 12 positions of 2 sequences" in report.notes
