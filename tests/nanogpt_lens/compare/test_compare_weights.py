"""What differs between weights: changes made by hand to nanoGPT's tensors, of which only what changed may be named."""

from __future__ import annotations

import math

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.compare.weights import compare_weights, effective_rank
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import record
from nanogpt_lens.results import WeightDifference
from tests.nanogpt_lens.compare.kin import SIZES, later, model_of, native_places, start

DTYPES = [torch.float32, torch.float64]
SIZE = SIZES["n_embd"] // SIZES["n_head"]


def compared(changed, dtype=torch.float64):
    """The comparison of the start with changed weights, and how far the logits differ."""
    a, b = model_of(start(dtype=dtype)), model_of({name: value.to(dtype) for name, value in changed.items()})
    tokens = torch.randint(SIZES["vocab_size"], (4, 12), generator=torch.Generator().manual_seed(0))
    one, two = (record(model, tokens, [])["logits"].log_softmax(-1) for model in (a, b))
    return compare_weights(a, b), float((one - two).abs().max())


def rows_of(head, third):
    return slice(third * SIZES["n_embd"] + head * SIZE, third * SIZES["n_embd"] + (head + 1) * SIZE)


def columns_of(head):
    return slice(head * SIZE, (head + 1) * SIZE)


def rebased(state, layer, head, qk, ov):
    """One head in another basis: queries times qk, keys times its inverse transposed, values and output likewise."""
    attn = f"transformer.h.{layer}.attn"
    for third, basis in ((0, qk), (1, torch.linalg.inv(qk).T), (2, ov)):
        rows = rows_of(head, third)
        for part in ("weight", "bias"):
            name = f"{attn}.c_attn.{part}"
            state[name][rows] = (basis.to(state[name]) @ state[name][rows].clone()).to(state[name].dtype)
    out = state[f"{attn}.c_proj.weight"]
    out[:, columns_of(head)] = out[:, columns_of(head)].clone() @ torch.linalg.inv(ov).to(out)
    return state


def heads_moved(state, layer, order):
    """Head h of the layer becomes head order[h]."""
    old = {name: value.clone() for name, value in state.items()}
    attn = f"transformer.h.{layer}.attn"
    for head, there in enumerate(order):
        for third in range(3):
            for part in ("weight", "bias"):
                state[f"{attn}.c_attn.{part}"][rows_of(there, third)] = old[f"{attn}.c_attn.{part}"][
                    rows_of(head, third)
                ]
        state[f"{attn}.c_proj.weight"][:, columns_of(there)] = old[f"{attn}.c_proj.weight"][:, columns_of(head)]
    return state


def neurons_moved(state, layer, order):
    """Neuron order[i] of the new weights is neuron i of the old ones."""
    mlp = f"transformer.h.{layer}.mlp"
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    for name in (f"{mlp}.c_fc.weight", f"{mlp}.c_fc.bias"):
        state[name] = state[name][back]
    state[f"{mlp}.c_proj.weight"] = state[f"{mlp}.c_proj.weight"][:, back]
    return state


@pytest.mark.parametrize("dtype", DTYPES)
def test_copies_are_identical_exactly(dtype):
    found, _ = compared(start(), dtype)
    assert set(found.verdicts) == {"identical"}
    assert found.origin == "identical"
    assert (found.values == 0).all()
    assert not found.token_differs.any()
    assert found.sentence() == "a and b are identical, parameter by parameter"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["0.0", "1.1", "mlp0", "0.b_O", "1.ln1", "0.ln2", "ln_final", "pos_embed"])
def test_only_what_changed_is_named(name, dtype):
    state, other = start(), later(start(), size=0.5)
    for key, place in native_places(name):
        state[key][place] = other[key][place]
    found, apart = compared(state, dtype)
    assert apart > 1e-3
    assert found.changed == (name,)
    assert not found.rewritten
    assert found.verdict_of(name) == "changed"
    assert found.sentence().startswith(f"1 of 16 components have changed: {name} by")
    assert not found.token_differs.any()
    assert found.origin == "shared start"


@pytest.mark.parametrize("part", range(4))
def test_one_entry_of_one_head(part):
    """The smallest change, of a query, key, value or output weight, names the head and the half that it is in."""
    state = start()
    if part < 3:
        state["transformer.h.1.attn.c_attn.weight"][rows_of(1, part).start + 3, 5] += 0.01
    else:
        state["transformer.h.1.attn.c_proj.weight"][5, columns_of(1).start + 3] += 0.01
    found, apart = compared(state)
    assert apart > 1e-5
    assert found.changed == ("1.1",)
    half = "1.1.qk" if part < 2 else "1.1.ov"
    assert [name for name, verdict in zip(found.matrices, found.verdicts, strict=True) if verdict == "changed"] == [
        half
    ]
    rank = found.effective_rank[found.matrices.index(half)]
    assert float(rank) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_in_another_order(dtype):
    found, apart = compared(heads_moved(start(), 1, [1, 0]), dtype)
    assert apart < (1e-9 if dtype == torch.float64 else 1e-3)
    assert not found.changed
    assert found.reordered_heads == {1: (1, 0)}
    assert set(found.rewritten) == {"1.0", "1.1"}
    assert found.origin == "shared start"
    assert "layer 1 has the same heads in another order (0 is 1 in b, 1 is 0 in b)" in found.sentence()
    assert "written differently, same function" not in found.sentence()


def test_a_changed_head_among_heads_in_another_order():
    state = heads_moved(start(), 0, [1, 0])
    state["transformer.h.0.attn.c_attn.weight"][rows_of(0, 0)] += 0.05  # was head 1
    found, _ = compared(state)
    assert found.reordered_heads == {0: (1, 0)}
    assert found.changed == ("0.1",)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", ["scale", "any"])
def test_a_head_in_another_basis(how, dtype):
    generator = torch.Generator().manual_seed(2)
    bases = [torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) for _ in range(2)]
    if how == "scale":
        bases = [2 * torch.eye(SIZE, dtype=torch.float64)] * 2
    found, apart = compared(rebased(start(dtype=dtype), 0, 1, *bases), dtype)
    assert apart < (1e-8 if dtype == torch.float64 else 1e-2)
    assert not found.changed
    assert found.rewritten == ("0.1",)
    assert not found.reordered_heads
    assert float(found.values.max()) < 1e-4
    assert "written differently, same function: 0.1" in found.sentence()
    assert found.origin == "shared start"


@pytest.mark.parametrize("dtype", DTYPES)
def test_neurons_in_another_order(dtype):
    order = torch.randperm(64, generator=torch.Generator().manual_seed(4))
    found, apart = compared(neurons_moved(start(), 0, order), dtype)
    assert apart < (1e-9 if dtype == torch.float64 else 1e-3)
    assert not found.changed
    assert found.rewritten == ("mlp0",)
    assert found.reordered_neurons == {0: tuple(order.tolist())}
    assert "layer 0 has the same neurons in another order" in found.sentence()


def test_two_neurons_exchanged_and_one_changed():
    order = torch.arange(64)
    order[[3, 9]] = order[[9, 3]]
    state = neurons_moved(start(), 1, order)
    state["transformer.h.1.mlp.c_fc.weight"][40, 2] += 0.3
    found, _ = compared(state)
    assert found.reordered_neurons == {1: tuple(order.tolist())}
    assert found.changed == ("mlp1",)
    assert found.verdict_of("mlp1.in") == "changed"
    assert found.verdict_of("mlp1.out") == "same function"


def test_separate_starts_have_no_order():
    """Nothing is alike, and no order of heads or neurons is made up."""
    found, _ = compared(start(seed=9))
    assert not found.reordered_heads
    assert not found.reordered_neurons
    assert found.origin == "separate starts"
    assert len(found.changed) == 16


def test_layer_norm_folded_into_what_reads():
    """LayerNorm's weight and bias moved into the matrices behind it: written differently, same function."""
    state = start()
    for norm, readers in (("ln_1", "attn.c_attn"), ("ln_2", "mlp.c_fc")):
        weight, bias = (state[f"transformer.h.0.{norm}.{part}"].clone() for part in ("weight", "bias"))
        matrix = state[f"transformer.h.0.{readers}.weight"].clone()
        state[f"transformer.h.0.{readers}.bias"] += matrix @ bias
        state[f"transformer.h.0.{readers}.weight"] = matrix * weight
        state[f"transformer.h.0.{norm}.weight"].fill_(1.0)
        state[f"transformer.h.0.{norm}.bias"].zero_()
    found, apart = compared(state)
    assert apart < 1e-9
    assert not found.changed
    assert set(found.rewritten) == {"0.ln1", "0.0", "0.1", "0.ln2", "mlp0"}


def test_a_bias_that_moved():
    """The values' bias through the output matrix into the output's bias; a bias of the keys, which nothing sees."""
    state = start()
    bias, out = state["transformer.h.0.attn.c_attn.bias"], state["transformer.h.0.attn.c_proj.weight"]
    values = bias[rows_of(1, 2)].clone()
    state["transformer.h.0.attn.c_proj.bias"] += out[:, columns_of(1)] @ values
    bias[rows_of(1, 2)] = 0.0
    state["transformer.h.1.attn.c_attn.bias"][rows_of(0, 1)] += 3.0
    found, apart = compared(state)
    assert apart < 1e-9
    assert not found.changed
    assert set(found.rewritten) == {"0.1", "0.b_O", "1.0"}


def test_a_shift_between_tokens_and_positions():
    state = start()
    shift = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state["transformer.wte.weight"] += shift
    state["transformer.wpe.weight"] -= shift
    found, apart = compared(state)
    assert apart < 1e-9
    assert not found.changed
    assert set(found.rewritten) == {"embed", "pos_embed"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_one_row_of_the_embedding(tied, dtype):
    state = start()
    state["transformer.wte.weight"][7, 3] += 0.4
    if tied:
        state["lm_head.weight"] = state["transformer.wte.weight"].clone()
    found, _ = compared(state, dtype)
    assert found.changed == (("embed", "unembed") if tied else ("embed",))
    assert found.moved_tokens("embed") == ("7",)
    assert found.moved_tokens("unembed") == (("7",) if tied else ())
    assert "embed by" in found.sentence()
    assert "(token '7' alone)" in found.sentence()
    assert found.tokens_table(2)["token"].tolist()[0] == "7"
    assert not found.moved_positions()


def test_a_small_change_of_one_row_among_many():
    state = start()
    state["transformer.wpe.weight"][4, 1] += 1e-6
    found, _ = compared(state)
    assert found.changed == ("pos_embed",)
    assert found.moved_positions() == (4,)


def test_the_unembedding_plus_the_same_for_all_tokens():
    state = start()
    state["lm_head.weight"] += torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, apart = compared(state)
    assert apart < 1e-9
    assert found.rewritten == ("unembed",)
    assert not found.changed


def test_numbers_against_whole_matrices():
    """Norm, cosine, singular values and effective rank, by d_model x d_model matrices and the formulas themselves."""
    a, b = model_of(start()), model_of(later(start()))
    found = compare_weights(a, b)
    for parameter in (*a.parameters(), *b.parameters()):
        parameter.requires_grad_(False)
    for layer, head in ((0, 1), (1, 0)):
        pair = []
        for model in (a, b):
            block = model.blocks[layer]
            weight, bias = (model.state_dict().get(f"blocks.{layer}.ln1.{p}") for p in ("w", "b"))
            if weight is None:
                weight, bias = block.ln1.weight, block.ln1.bias
            centre = torch.eye(16, dtype=torch.float64) - 1 / 16
            q, k, v = (centre @ torch.diag(weight) @ getattr(block.attn, f"W_{p}")[head] for p in "QKV")
            b_q, b_v = (bias @ getattr(block.attn, f"W_{p}")[head] + getattr(block.attn, f"b_{p}")[head] for p in "QV")
            qk = torch.cat([q, b_q[None]]) @ k.T
            pair.append((qk, torch.cat([v, b_v[None]]) @ block.attn.W_O[head] @ centre))
        for name, one, two in zip(("qk", "ov"), *pair, strict=True):
            at = found.matrices.index(f"{layer}.{head}.{name}")
            spectrum = torch.linalg.svdvals(two - one)
            shares = spectrum / spectrum.sum()
            entropy = -sum(s * math.log(s) for s in shares.tolist() if s > 1e-12)
            assert float(found.values[at]) == pytest.approx(float((two - one).norm() / one.norm()), rel=1e-9)
            cosine = (one * two).sum() / (one.norm() * two.norm())
            assert float(found.cosine[at]) == pytest.approx(float(cosine), abs=1e-9)
            assert torch.allclose(found.singular_values[at][:16], spectrum[:16], atol=1e-9)
            assert float(found.effective_rank[at]) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_effective_rank():
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([5.0, 0.0])) == pytest.approx(1.0)
    assert math.isnan(effective_rank(torch.zeros(3)))


def test_kept_and_refused(tmp_path):
    found, _ = compared(later(start()))
    again = WeightDifference.load(found.save(tmp_path / "w"))
    assert again.sentence() == found.sentence()
    assert again.verdicts == found.verdicts
    assert "tokens" not in found.to_json()
    assert set(found.top(3)["verdict"]) == {"changed"}
    with pytest.raises(ResultError, match="there is no 'mlp7'"):
        found.verdict_of("mlp7")
    with pytest.raises(ResultError, match="expected embed or unembed"):
        found.moved_tokens("pos_embed")
    with pytest.raises(AnalysisError, match="n_layers"):
        compare_weights(model_of(start()), model_of(start(n_layer=1), n_layer=1))
    with pytest.raises(AnalysisError, match="a is in float64, b in float32"):
        compare_weights(model_of(start()), model_of(start(dtype=torch.float32)))
    with pytest.raises(AnalysisError, match="expected a HookedTransformer"):
        compare_weights("a", model_of(start()))


def test_padded_vocabulary_and_no_bias():
    """A model without biases, whose vocabulary is padded: nothing is nan that has to be a number."""
    sizes = {"bias": False, "n_head": 1}
    a, b = model_of(start(**sizes), **sizes), model_of(later(start(**sizes)), **sizes)
    found = compare_weights(a, b)
    assert found.verdict_of("0.b_O") == "identical"
    assert found.values.isfinite().all()
    real = ngl.load("induction/ckpt_000500.pt")
    assert compare_weights(real, real).tokens[1] == " "
