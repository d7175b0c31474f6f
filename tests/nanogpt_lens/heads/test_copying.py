from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.copying import copying_score
from nanogpt_lens.text.prompts import random_tokens
from tests.conftest import convert
from tests.handmade import INDUCTION, handmade_model
from tests.making import content, write


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16, "vocab_size": 30}
    return read_checkpoint(write(tmp_path_factory.mktemp("copying"), content(**sizes, seed=3, dtype=torch.float64)))


@pytest.fixture(scope="module")
def model(checkpoint):
    return convert(checkpoint, dtype=torch.float64)


@pytest.fixture(scope="module")
def folded(checkpoint):
    return convert(checkpoint, dtype=torch.float64, process_weights=True)


def block(checkpoint, layer, name):
    return checkpoint.state_dict[f"transformer.h.{layer}.{name}"]


def ov_circuit(checkpoint, layer, head):
    """W_E W_V W_O W_U [token, token] from nanoGPT's own tensors, LayerNorm as it is but for its scale and bias."""
    state, d_head = checkpoint.state_dict, checkpoint.config.n_embd // checkpoint.config.n_head
    rows = slice(head * d_head, (head + 1) * d_head)
    value = block(checkpoint, layer, "attn.c_attn.weight").chunk(3)[2][rows]
    out = block(checkpoint, layer, "attn.c_proj.weight")[:, rows]
    x = state["transformer.wte.weight"]
    x = (x - x.mean(1, keepdim=True)) * block(checkpoint, layer, "ln_1.weight")
    x = x @ value.T @ out.T
    x = (x - x.mean(1, keepdim=True)) * state["transformer.ln_f.weight"]
    return x @ state["lm_head.weight"].T


def test_eigenvalues_are_those_of_the_whole_vocabulary_square(checkpoint, model):
    scores = copying_score(model).values
    for layer in range(2):
        for head in range(3):
            circuit = ov_circuit(checkpoint, layer, head)
            eigenvalues = torch.linalg.eigvals(circuit - circuit.mean(1, keepdim=True))
            expected = eigenvalues.real.sum() / eigenvalues.abs().sum()
            assert scores[layer, head].item() == pytest.approx(expected.item(), abs=1e-8)
    assert scores.abs().max() > 0.1  # so that zeros would not pass


def test_folding_changes_nothing(model, folded):
    for method in ("eigenvalues", "logits"):
        raw, processed = copying_score(model, method=method), copying_score(folded, method=method)
        assert torch.allclose(raw.values, processed.values, atol=1e-9, rtol=0)
        assert torch.allclose(raw.chance, processed.chance, atol=1e-9, rtol=0)


def test_a_flipped_sign_flips_the_eigenvalue_score(checkpoint, model):
    flipped = convert(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        for layer in flipped.blocks:
            layer.attn.W_V.neg_()
    assert torch.equal(flipped.W_V, -model.W_V)
    assert torch.allclose(copying_score(flipped).values, -copying_score(model).values, atol=1e-9)


def test_the_handmade_induction_head_alone_copies():
    model = handmade_model()
    expected = torch.zeros(2, 2, dtype=torch.float64)
    expected[INDUCTION] = 1.0
    for method in ("eigenvalues", "logits"):
        assert torch.allclose(copying_score(model, method=method).values, expected, atol=1e-9)
        assert torch.equal(
            copying_score(handmade_model(dtype=torch.float32), method=method).values.abs() > 1e-3, expected > 0
        )


def test_logits_against_plain_loops(checkpoint, model):
    length, n, seed = 6, 3, 5
    tokens = random_tokens(model, n, length, repeats="forbid", generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    w_o = model.W_O.detach()
    scores = copying_score(model, method="logits", seq_len=length, n=n, seed=seed)
    gain, unembed = checkpoint.state_dict["transformer.ln_f.weight"], checkpoint.state_dict["lm_head.weight"]
    for layer in range(2):
        constant = block(checkpoint, layer, "ln_1.bias") @ block(checkpoint, layer, "attn.c_attn.weight").chunk(3)[2].T
        values = cache[f"blocks.{layer}.attn.hook_v"] - (
            constant + block(checkpoint, layer, "attn.c_attn.bias").chunk(3)[2]
        ).view(3, 8)
        for head in range(3):
            got, chance = [], []
            for b in range(n):
                for query in range(length):
                    for key in range(query + 1):
                        weight = cache[f"blocks.{layer}.attn.hook_pattern"][b, head, query, key] / length
                        out = values[b, key, head] @ w_o[layer, head]
                        logits = ((out - out.mean()) * gain) @ unembed.T
                        raised = (logits - logits.mean()).relu()[tokens[b]]
                        judged = [4 * r / (r + raised.sum()) - 1 if raised.sum() > 0 else -1.0 for r in raised]
                        got.append(weight * judged[key])
                        chance.append(weight * sum(judged) / length)
            assert scores.values[layer, head].item() == pytest.approx(float(sum(got)) / n, abs=1e-9)
            assert scores.chance[layer, head].item() == pytest.approx(float(sum(chance)) / n, abs=1e-9)
    assert (scores.low <= scores.values).all()
    assert (scores.values <= scores.high).all()
    assert (scores.low < scores.high).any()


def test_an_anticopying_head_scores_minus_one():
    model = handmade_model()
    layer, head = INDUCTION
    with torch.no_grad():
        model.blocks[layer].attn.W_O[head].neg_()
    assert model.W_O[layer, head].sum() != handmade_model().W_O[layer, head].sum()
    assert copying_score(model).values[INDUCTION].item() == pytest.approx(-1)
    assert copying_score(model, method="logits").values[INDUCTION].item() == pytest.approx(-1)


def test_the_seed_decides(model):
    first, again, other = (copying_score(model, method="logits", n=4, seed=s).values for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padded_rows_of_the_vocabulary_do_not_count(tmp_path):
    """nanoGPT pads GPT-2's 50,257 tokens; here 30 tokens of a character vocabulary, padded to 64."""
    from tests.making import CHARS, write_meta

    folder = write(tmp_path, content(vocab_size=64, seed=3, dtype=torch.float64))
    write_meta(tmp_path, CHARS[:30])
    padded = ngl.load(folder, dtype=torch.float64)
    before = copying_score(padded).values
    state = content(vocab_size=64, seed=3, dtype=torch.float64)
    state["model"]["transformer.wte.weight"][30:] *= -7
    write(tmp_path, state)
    assert torch.allclose(copying_score(ngl.load(folder, dtype=torch.float64)).values, before, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "svd"}, "method is 'svd'; expected eigenvalues or logits"),
        ({"method": "logits", "seq_len": 1}, "seq_len is 1; expected 2 to 16"),
        ({"method": "logits", "seq_len": 17}, "seq_len is 17; expected 2 to 16"),
        ({"method": "logits", "n": 0}, "n is 0; expected a whole number, 1 or more"),
        ({"method": "logits", "seq_len": 4.0}, "seq_len is 4.0; expected a whole number"),
        ({"seed": None}, "seed is None; expected a whole number"),
    ],
)
def test_bad_input(model, options, message):
    with pytest.raises(AnalysisError, match=message):
        copying_score(model, **options)


def test_sequences_longer_than_the_vocabulary_are_refused(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path, content(vocab_size=8, block_size=16)))
    with pytest.raises(AnalysisError, match="seq_len <= 8"):
        copying_score(convert(checkpoint), method="logits", seq_len=9)


def test_another_normalisation_is_refused(checkpoint):
    model = convert(checkpoint)
    model.cfg.normalization_type = "RMS"
    with pytest.raises(AnalysisError, match="normalization_type is 'RMS'"):
        copying_score(model)
