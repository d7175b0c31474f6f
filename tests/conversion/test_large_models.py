"""What is done otherwise where a model has GPT-2's size: small models are taken for large ones here."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F

from conversion import check_equivalence, comparing, comparing_gradients, edits, equivalence, read_checkpoint, upcasting
from conversion.comparing import TOGETHER
from conversion.edited_runs import ExactEdits, NativeSide
from conversion.edits import KINDS, edit_for
from conversion.in_parts import InParts, in_rows, since
from conversion.judge import Judge
from conversion.layout import LARGE_HEAD
from conversion.native import GPT, hook_names
from conversion.native_reference import NativeReference
from conversion.reference import gradients_of
from conversion.transformerlens_to_nanogpt import own_weights
from tests.conftest import convert
from tests.conversion.test_equivalence import MUTATIONS
from tests.making import content, write


@pytest.fixture
def large(monkeypatch):
    """A test in which every model is large, and what is computed in parts has many."""
    for place in ("conversion.native_reference", "conversion.equivalence"):
        monkeypatch.setattr(f"{place}.LARGE", 0)
    monkeypatch.setattr("conversion.native_reference._MANY", 0)
    monkeypatch.setattr("conversion.native_reference._FEW", 7 * 16)
    monkeypatch.setattr(upcasting, "_SLICE", 7 * 16)
    monkeypatch.setattr(comparing, "_LARGE", 0)
    monkeypatch.setattr(comparing_gradients, "_LARGE", 0)
    monkeypatch.setattr(edits, "_LARGE", 100)
    monkeypatch.setattr(edits, "_PERIOD", 97)


def of_model(checkpoint, tokens, targets):
    """The gradients of the whole model in float64, by autograd in one go."""
    model = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    return gradients_of(model, model(tokens), targets)


def whole(tensor):
    return torch.cat(list(in_rows(tensor, 5))).view(tensor.shape)


@pytest.fixture
def tokens():
    return torch.randint(65, (2, 2, 9), generator=torch.Generator().manual_seed(3)).unbind(0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_large_model_is_proven_by_the_same_comparisons(tmp_path, large, monkeypatch, tied):
    stored = content()
    if not tied:
        stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] * 2
    checkpoint = read_checkpoint(write(tmp_path, stored))
    report = check_equivalence(checkpoint)
    assert report.passed, str(report)
    assert max(c.max_abs for c in report.comparisons if c.precision == "float64") < 1e-12
    monkeypatch.undo()
    usual = check_equivalence(checkpoint)
    assert [(c.kind, c.name, c.mode, c.precision) for c in report.comparisons] == [
        (c.kind, c.name, c.mode, c.precision) for c in usual.comparisons
    ]


@pytest.mark.parametrize(("mutate", "first"), MUTATIONS, ids=[m.__name__ for m, _ in MUTATIONS])
def test_a_mutation_of_a_large_model_is_caught_and_its_first_hook_named(tmp_path, large, mutate, first):
    write(tmp_path)
    report = check_equivalence(read_checkpoint(tmp_path), mutate(tmp_path))
    assert not report.passed
    assert report.first_difference.name == first


@pytest.mark.parametrize("late", [0, 3, 5, 11])
def test_an_edit_that_a_large_model_ignores_is_caught(tmp_path, large, late):
    """Noise that is repeated reaches every position; edits alone are made at the first four."""
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)
    blind = model.blocks[0].attn.hook_z
    original = type(blind).__call__

    def call(self, x):
        return torch.cat([original(self, x)[:, :late], x[:, late:]], dim=1)

    blind.__class__ = type("Late", (type(blind),), {"__call__": call})
    wrong = {c.name for c in check_equivalence(checkpoint, model).failures}
    alone = {f"{kind} at blocks.0.attn.hook_z" for kind in KINDS} if late < 4 else set()
    assert wrong == {*alone, TOGETHER}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("late", [5, 8])
def test_a_large_model_that_is_judged_alone_is_edited_at_every_position(tmp_path, large, monkeypatch, late, dtype):
    """Fewer positions are enough in float32 only where the same conversion is compared in float64 too."""
    monkeypatch.setattr(comparing, "_TOGETHER_IN_FLOAT32", 6)
    checkpoint = read_checkpoint(write(tmp_path))
    both = check_equivalence(checkpoint)
    assert both.passed, str(both)
    assert any("all together at 12 positions of 1 sequence (in float32 at 6);" in note for note in both.notes)
    assert any(note.endswith("greedy text at the end of 12 positions of 1 sequence: 2 tokens") for note in both.notes)
    model = convert(checkpoint, dtype=dtype)
    blind = model.blocks[0].attn.hook_z
    original = type(blind).__call__
    ignoring = lambda self, x: torch.cat([original(self, x)[:, :late], x[:, late:]], dim=1)  # noqa: E731
    blind.__class__ = type("Late", (type(blind),), {"__call__": ignoring})
    alone = check_equivalence(checkpoint, model)
    assert {c.name for c in alone.failures} == {TOGETHER}
    assert not any("in float32 at" in note for note in alone.notes)


def test_one_gradient_that_is_wrong_is_caught_alone(tmp_path, large):
    checkpoint = read_checkpoint(write(tmp_path))
    model = convert(checkpoint, dtype=torch.float64)
    trained = {id(weight) for weight in model.parameters()}
    first = next(w for name, w in own_weights(model).items() if name.startswith("blocks.1.") and id(w) in trained)
    first.register_hook(lambda gradient: gradient * (1 + 1e-6))
    wrong = check_equivalence(checkpoint, model, edits=False).failures
    assert len(wrong) == 1
    assert wrong[0].kind == "gradient"
    assert wrong[0].name.startswith("transformer.h.1.")


def test_gradients_of_many_blocks_are_computed_once(tmp_path, large, monkeypatch):
    """The two sides give blocks in the same order, so that none is thrown away and asked for again."""
    checkpoint = read_checkpoint(write(tmp_path, n_layer=7))
    model = convert(checkpoint, dtype=torch.float64)
    begun, gradients = [], NativeReference.gradients
    monkeypatch.setattr(NativeReference, "gradients", lambda *a: (begun.append(1), gradients(*a))[1])
    report = check_equivalence(checkpoint, model, edits=False)
    assert report.passed, str(report)
    assert len(begun) == 1
    compared = [c.name for c in report.comparisons if c.kind == "gradient"]
    assert compared == [name for name in checkpoint.config.shapes() if name != "lm_head.weight"]


def test_the_native_model_has_no_weights_of_its_own_and_computes_the_same(tmp_path, large, tokens):
    checkpoint = read_checkpoint(write(tmp_path))
    ids, _ = tokens
    for dtype in (torch.float64, torch.float32):
        reference = NativeReference(checkpoint, dtype)
        stored = {tensor.data_ptr() for tensor in checkpoint.state_dict.values()}
        assert {weight.data_ptr() for weight in reference.model.parameters()} == stored
        expected = GPT.from_checkpoint(checkpoint, dtype=dtype)
        bound = {torch.float64: 1e-13, torch.float32: 1e-5}[dtype]
        seen, others = {}, {}
        with torch.no_grad():
            for model, kept in ((reference.model, seen), (expected, others)):
                keep = {n: (lambda x, n=n, kept=kept: kept.__setitem__(n, x.clone())) for n in hook_names(2)}
                kept["logits"] = model(ids, edits=keep)
            assert reference.logits(ids).dtype == dtype
            late = reference.logits_since(4, ids)
            assert isinstance(late, InParts)
            assert (whole(late) - expected(ids)[:, 4:]).abs().max() < bound
            assert (since(reference.logits_since(0, ids), 4) - expected(ids)[:, 4:]).abs().max() < bound
            assert (reference.next_logits()(ids) - expected(ids)[:, -1]).abs().max() < bound
        finite = {name: torch.nan_to_num(seen[name] - others[name], 0.0, 0.0, 0.0) for name in others}
        assert max(float(difference.abs().max()) for difference in finite.values()) < bound


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_block_by_block_are_those_of_the_whole_model(tmp_path, large, tokens, tied, bias):
    stored = content(bias=bias)
    if not tied:
        stored["model"]["lm_head.weight"] = stored["model"]["lm_head.weight"] * 2
    checkpoint = read_checkpoint(write(tmp_path, stored))
    expected = of_model(checkpoint, *tokens)
    found = {}
    for some in NativeReference(checkpoint, torch.float64).gradients(*tokens):
        found |= {name: whole(gradient) for name, gradient in some.items()}
    assert set(found) == set(expected)
    assert all((found[name] - expected[name]).abs().max() < 1e-13 for name in expected)


def test_gradients_of_one_block_are_in_memory_at_a_time(tmp_path, large, tokens):
    checkpoint = read_checkpoint(write(tmp_path, n_layer=4))
    alive: list[weakref.ref] = []
    most = 0
    for some in NativeReference(checkpoint, torch.float64).gradients(*tokens):
        alive += [weakref.ref(gradient) for gradient in some.values() if isinstance(gradient, torch.Tensor)]
        most = max(most, sum(one() is not None for one in alive))
        del some
    assert 12 <= most <= 2 * 12  # a block has twelve weights; the next block's are made before the last one's are gone


def test_a_tensor_in_parts_is_judged_as_the_whole_tensor():
    generator = torch.Generator().manual_seed(0)
    expected, noise = (torch.randn(2, 9, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    asked = []

    def rows(some):
        asked.append(some)
        return expected.flatten(0, 1)[some]

    parts = InParts(expected.shape, rows, at_once=4 * 5)
    for size in (0.0, 1e-12, 1e-6):
        got = expected + size * noise
        for logits in (False, True):
            judge = Judge("processed", torch.float64)
            one, other = (judge("output", "x", got, value, logits=logits) for value in (parts, expected))
            assert one == other
    assert torch.equal(since(parts, 3), expected[:, 3:])
    assert len(asked) > 6


@torch.no_grad()
def test_exact_logits_under_any_edit_whenever_they_are_asked_for(tmp_path, tokens):
    checkpoint = read_checkpoint(write(tmp_path))
    ids, _ = tokens
    named = [(name, edit_for(kind, name, 0)) for name in hook_names(2) for kind in KINDS]
    native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)
    exact = ExactEdits(lambda: NativeSide(NativeReference(checkpoint, torch.float64), 2), ids, named)
    for i in (0, 3, 2, 40, len(named) - 1, 41):
        assert (exact(i) - native(ids, edits=dict([named[i]]))).abs().max() < 1e-12


def test_noise_of_a_large_activation_differs_between_heads_and_positions_and_reaches_all(monkeypatch):
    monkeypatch.setattr(edits, "_LARGE", 1000)
    monkeypatch.setattr(edits, "_PERIOD", 257)
    value = torch.randn(2, 4, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = value.masked_fill(torch.ones(32, 32, dtype=torch.bool).triu(1), -torch.inf).transpose(1, 2)
    for dtype in (torch.float64, torch.float32):
        changed = edit_for("perturb", "blocks.0.attn.hook_attn_scores", 0)(value.to(dtype))
        noise = (changed - value.to(dtype))[value.isfinite()]
        assert (noise != 0).all()
        assert float(noise.std()) == pytest.approx(0.1 * float(value[value.isfinite()].std()), rel=0.15)
        assert changed[~value.isfinite()].isneginf().all()
    plain = edit_for("perturb", "hook_embed", 0)(torch.zeros(2, 4, 32, 32))
    rows = plain.flatten(0, 2)
    assert len(rows.unique(dim=0)) == len(rows)
    assert torch.equal(plain, edit_for("perturb", "hook_embed", 0)(torch.zeros(2, 4, 32, 32)))


@pytest.mark.hooked
def test_a_large_head_is_not_turned_at_every_run(tmp_path):
    """TransformerLens asks for the contiguous transpose of W_U, which is W_U as nanoGPT keeps it."""
    width = 64
    checkpoint = read_checkpoint(write(tmp_path, n_layer=1, n_embd=width, vocab_size=LARGE_HEAD // width))
    for processed in (False, True):
        for dtype in (torch.float32, torch.float64):
            model = convert(checkpoint, dtype=dtype, process_weights=processed)
            assert model.W_U.shape == (width, LARGE_HEAD // width)
            assert model.W_U.T.contiguous().data_ptr() == model.W_U.data_ptr()
            assert model.W_U.data_ptr() != model.W_E.data_ptr()
    tokens = torch.arange(5)[None]
    expected = GPT.from_checkpoint(checkpoint, dtype=torch.float64)(tokens)
    with torch.no_grad():
        got = convert(checkpoint, dtype=torch.float64)(tokens)
    assert F.mse_loss(got, expected) < 1e-24


def test_the_limits_are_those_of_gpt2():
    assert equivalence.LARGE == 5e7
    assert comparing._LARGE == 5e9
