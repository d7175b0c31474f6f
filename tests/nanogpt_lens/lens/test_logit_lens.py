"""The logit lens against the native model by plain loops, hand-computed values, and TransformerLens' own."""

from __future__ import annotations

import math

import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint, read_checkpoint
from conversion.config import NanoGPTConfig
from conversion.native import GPT
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens import reading
from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results.lens import POINTS
from nanogpt_lens.text.corpus import windows
from nanogpt_lens.text.prompts import repeated_tokens
from tests.conftest import convert
from tests.handmade import VOCAB, WIDTH, handmade_model
from tests.making import CHARS, content, random_state, write, write_meta
from tests.nanogpt_lens.patching.patching_helpers import model, native, texts

EPS = 1e-5
OPTIONS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12}


def naive(gpt: GPT, tokens, layer, point):
    """Logits [example, pos, vocab] of a point, by an edit that only reads, and nanoGPT's own head."""
    kept = {}
    with torch.no_grad():
        gpt(tokens, edits={f"blocks.{layer}.hook_{point}": lambda x: kept.update(x=x.clone())})
        return gpt.lm_head(gpt.transformer.ln_f(kept["x"]))


@pytest.mark.parametrize("processed", [False, True])
def test_every_point_is_the_native_models(processed):
    tokens, _ = texts()
    result = logit_lens(model(process_weights=processed), tokens, k=3)
    assert result.axes == ("layer", "point", "example", "pos")
    gpt = native()
    with torch.no_grad():
        final = gpt(tokens).log_softmax(-1)
    for layer in range(3):
        for p, point in enumerate(POINTS):
            logp = naive(gpt, tokens, layer, point).log_softmax(-1)
            for e in range(len(tokens)):
                for i in range(tokens.shape[1]):
                    row, at = logp[e, i], (layer, p, e, i)
                    assert result.entropy[at] == pytest.approx(-float((row.exp() * row).sum()), abs=1e-10)
                    divergence = float((final[e, i].exp() * (final[e, i] - row)).sum())
                    assert result.kl[at] == pytest.approx(divergence, abs=1e-10)
                    order = row.argsort(descending=True).tolist()
                    assert result.top_tokens[at].tolist() == order[:3]
                    assert torch.allclose(result.top_logprobs[at], row[order[:3]], atol=1e-10)
                    if i + 1 == tokens.shape[1]:
                        assert math.isnan(result.values[at])
                        assert result.rank[at] == -1
                    else:
                        following = int(tokens[e, i + 1])
                        assert result.values[at] == pytest.approx(float(row[following]), abs=1e-10)
                        assert result.rank[at] == order.index(following)


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocab", [11, 16, 64])  # 16 is the width
def test_the_last_point_is_the_models_output(processed, bias, vocab):
    sizes = {**OPTIONS, "bias": bias, "vocab_size": vocab}
    state = random_state(**sizes, seed=2, dtype=torch.float64)
    own = convert(
        Checkpoint(config=NanoGPTConfig(**sizes), state_dict=state), dtype=torch.float64, process_weights=processed
    )
    tokens = torch.randint(vocab, (1, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logp = own(tokens, return_type="logits").log_softmax(-1)[0]
    result = logit_lens(own, tokens, layers=1, points="resid_post", k=vocab)
    assert result.axes == ("layer", "point", "pos")
    ordered = logp.sort(-1, descending=True)
    assert torch.allclose(result.top_logprobs[0, 0], ordered.values, atol=1e-10, rtol=0)
    assert torch.equal(result.top_tokens[0, 0], ordered.indices)
    assert result.kl.abs().max() < 1e-12
    assert (result.depth == 2).all()  # only the output was looked at


def test_padding_of_the_vocabulary_stays_in_the_softmax(tmp_path):
    folder = write(tmp_path, content(**OPTIONS, vocab_size=128, dtype=torch.float64)).parent
    write_meta(folder)
    own = convert(read_checkpoint(folder), dtype=torch.float64)
    text = "To be, or no"
    result = logit_lens(own, text, k=128)
    assert result.top_logprobs.exp().sum(-1).sub(1).abs().max() < 1e-12
    with torch.no_grad():
        logp = own(text, return_type="logits").log_softmax(-1)[0]
    assert logp.shape[-1] == 128
    assert torch.allclose(result.top_logprobs[-1, -1], logp.sort(-1, descending=True).values, atol=1e-10)
    assert result.string(70) == "[70]"
    assert result.string(CHARS.index("T")) == "T"
    bits = -result.values[-1, -1, :-1].sum() / math.log(2) / 11
    assert result.bits_per_char[-1, -1] == pytest.approx(float(bits))


def test_equal_points_are_equal_and_points_and_layers_can_be_chosen():
    tokens, _ = texts()
    whole = logit_lens(model(), tokens)
    for name, tensor in whole.tensors().items():
        if tensor.dim() >= 4:
            assert torch.equal(tensor[0, 2].nan_to_num(), tensor[1, 0].nan_to_num()), name
    some = logit_lens(model(), tokens, points=("resid_post", "resid_mid"), layers=[2, 0])
    assert some.labels == {"layer": ("0", "2"), "point": ("resid_mid", "resid_post")}
    assert torch.equal(some.kl, whole.kl[[0, 2], 1:])
    assert torch.equal(some.at(layer=2, point="resid_mid").nan_to_num(), whole.values[2, 1].nan_to_num())
    names = [name for _, _, name in whole.in_depth_order()]
    assert names == [
        "0.resid_pre",
        "0.resid_mid",
        "0.resid_post",
        "1.resid_mid",
        "1.resid_post",
        "2.resid_mid",
        "2.resid_post",
    ]


def settled(result, e, i, n_layers):
    """By a plain loop from the embedding upwards."""
    found = [(result.depths()[a][b], result.top_tokens[a, b, e, i, 0]) for a, b, _ in result.in_depth_order()]
    final = result.final_tokens[e, i]
    for k, (depth, _) in enumerate(found):
        if all(top == final for _, top in found[k:]):
            return depth / 2
    return n_layers


@pytest.mark.parametrize("points", [POINTS, ("resid_pre",), ("resid_mid",)])
def test_depth_is_where_the_top_token_settles(points):
    tokens = torch.randint(13, (20, 10), generator=torch.Generator().manual_seed(5))
    result = logit_lens(model(), tokens, points=points)
    with torch.no_grad():
        assert torch.equal(result.final_tokens, native()(tokens).argmax(-1))
    expected = [[settled(result, e, i, 3) for i in range(10)] for e in range(20)]
    assert result.depth.tolist() == expected
    assert len(result.depth.unique()) > 2


def test_chunks_change_nothing(monkeypatch):
    tokens, _ = texts(n=5)
    whole = logit_lens(model(), tokens)
    monkeypatch.setattr(reading, "_NUMBERS", 7 * 13)
    monkeypatch.setattr(reading, "batches", lambda model, tokens: iter([slice(0, 2), slice(2, 4), slice(4, 6)]))
    cut = logit_lens(model(), tokens)
    for name, tensor in whole.tensors().items():
        assert torch.allclose(tensor.double().nan_to_num(), getattr(cut, name).double().nan_to_num(), atol=1e-12), name
    assert not has_hooks(model())


def handmade_logit() -> float:
    """Of the answer after the induction head, with LayerNorm's eps at every place."""
    previous = 1 / math.sqrt(2 / WIDTH + EPS) / math.sqrt(WIDTH / 2)  # what head 0.1 writes
    size = 2 + previous**2
    written = 10 / math.sqrt(size / WIDTH + EPS) / math.sqrt(WIDTH / 3)  # what head 1.0 writes
    return written / math.sqrt((size + written**2) / WIDTH + EPS)


def test_handmade_model_predicts_after_the_attention_of_layer_1_and_not_before():
    handmade = handmade_model()
    tokens = repeated_tokens(handmade, seq_len=8, n=4)
    result = logit_lens(handmade, tokens)
    second = slice(8, 15)
    before = result.values[:, :, :, second][[0, 0, 0, 1], [0, 1, 2, 0]]
    assert torch.allclose(before, torch.tensor(-math.log(VOCAB)).double(), atol=1e-9)
    assert torch.allclose(result.entropy[0], torch.tensor(math.log(VOCAB)).double(), atol=1e-9)
    logit = handmade_logit()
    after = logit - math.log(math.exp(logit) + VOCAB - 1)
    assert torch.allclose(result.values[1, 1:, :, second], torch.tensor(after).double(), atol=1e-7)
    assert (result.rank[1, 1:, :, second] == 0).all()
    assert (result.depth[:, second] <= 1.5).all()
    p, q = math.exp(after), (1 - math.exp(after)) / (VOCAB - 1)
    divergence = p * math.log(p * VOCAB) + (VOCAB - 1) * q * math.log(q * VOCAB)  # to the uniform distribution
    assert torch.allclose(result.kl[0, :, :, second], torch.tensor(divergence).double(), atol=1e-6)


@pytest.mark.bridge
@pytest.mark.parametrize("processed", [False, True])
def test_equals_transformer_lens(processed):
    from transformer_lens.tools.analysis import logit_lens as theirs

    tokens, _ = texts()
    bridge = model(process_weights=processed)
    if processed:
        bridge.enable_compatibility_mode(no_processing=True)
    ours = logit_lens(bridge, tokens[:, :-1], points=("resid_pre", "resid_mid"), k=4)
    last = logit_lens(bridge, tokens[:, :-1], points="resid_post", layers=2)
    found = theirs(
        bridge, tokens[:, :-1], positions=None, targets=tokens[:, 1:], return_type="log_probs", incl_mid=True
    )
    assert len(found.labels) == 7
    entropy = torch.cat([ours.entropy.flatten(0, 1), last.entropy[0]])
    assert torch.allclose(entropy, found.readout.entropy.double(), atol=1e-5)
    ranks = torch.cat([ours.rank.flatten(0, 1), last.rank[0]])
    values = torch.cat([ours.values.flatten(0, 1), last.values[0]])
    assert torch.equal(ranks[..., :-1], found.rank_trajectory()[..., :-1])
    assert torch.allclose(values[..., :-1], found.values[..., :-1, 0].double(), atol=1e-5)


def test_results_can_be_read_without_the_model(tmp_path):
    folder = write(tmp_path / "model", content(**OPTIONS, vocab_size=65)).parent
    write_meta(folder)
    result = logit_lens(ngl.load(folder), "Hello\n")
    result.save(tmp_path / "saved")
    again = ngl.load_result(tmp_path / "saved")
    assert repr(again) == repr(result)
    assert again.top_strings().shape == (2, 3, 6, 5)
    assert again.top_strings()[1, 2, 0, 0] == CHARS[int(result.top_tokens[1, 2, 0, 0])]
    table = again.table()
    assert list(table.columns) == ["0 'H'", "1 'e'", "2 'l'", "3 'l'", "4 'o'", "5 '\\n'"]
    assert list(table.index)[-1] == "1.resid_post"
    assert table.iloc[-1, 2] == repr(CHARS[int(result.final_tokens[2])])
    assert {"value", "rank", "entropy", "kl"} <= set(again.to_dataframe().columns)
    assert "mean KL" in repr(again)


def test_without_a_vocabulary():
    result = logit_lens(model(), texts()[0][:1])
    assert result.bits_per_char is None
    assert result.top_strings()[0, 0, 0, 0] == str(int(result.top_tokens[0, 0, 0, 0]))
    assert logit_lens(model(), [3]).values.isnan().all()


@pytest.fixture(scope="module")
def corpus():
    return torch.randint(13, (900,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("points", [POINTS, ("resid_mid",)])
def test_convergence_is_the_mean_of_the_lens(corpus, points):
    found = measure_convergence(model(), corpus, points=points, n=40, seed=3, progress=False)
    tokens = windows(model(), corpus, seq_len=10, n=40, seed=3)
    lens = logit_lens(model(), tokens, points=points)
    assert torch.equal(found.tokens, tokens)
    assert torch.allclose(found.score("kl"), lens.kl.mean((2, 3)))
    assert torch.allclose(found.score("entropy"), lens.entropy.mean((2, 3)))
    assert torch.allclose(found.score("loss"), -lens.values[..., :-1].mean((2, 3)))
    assert found.score("bits_per_char").isnan().all()
    top = lens.top_tokens[..., 0] == lens.final_tokens
    assert torch.allclose(found.score("agreement"), top.double().mean((2, 3)))
    assert torch.equal(found.depth, lens.depth)
    places = lens.in_depth_order()
    for k, (i, j, _) in enumerate(places):
        stays = torch.stack([top[a, b] for a, b, _ in places[k:]]).all(0)
        assert found.score("converged")[i, j] == pytest.approx(float(stays.double().mean()))
        assert torch.allclose(found.converged_by_position()[i, j], stays.double().mean(0))
    assert found.mean_depth == pytest.approx(float(lens.depth.mean()))
    assert torch.allclose(found.depth_by_position, lens.depth.mean(0))
    assert found.depth_low < found.mean_depth < found.depth_high
    measured = [i for i, name in enumerate(found.labels["score"]) if name != "bits_per_char"]
    assert (found.low <= found.values + 1e-12)[measured].all()
    assert (found.values <= found.high + 1e-12)[measured].all()


def test_chance_is_the_best_constant_prediction(corpus):
    found = measure_convergence(model(), corpus, n=30, progress=False)
    with torch.no_grad():
        logp = native()(found.tokens).log_softmax(-1)
    mean = logp.exp().mean((0, 1))
    divergence = (logp.exp() * (logp - mean.log())).sum(-1).mean()
    hits = (logp.argmax(-1) == mean.argmax()).double().mean()
    loss = -mean.log()[found.tokens[:, 1:]].mean()
    chance = dict(zip(found.labels["score"], found.chance[:, 0, 0].tolist(), strict=True))
    assert chance["kl"] == pytest.approx(float(divergence))
    assert chance["entropy"] == pytest.approx(float(-(mean * mean.log()).sum()))
    assert chance["loss"] == pytest.approx(float(loss))
    assert chance["agreement"] == chance["converged"] == pytest.approx(float(hits))
    assert found.chance.shape == found.values.shape


def test_bits_per_character_of_a_text(tmp_path):
    folder = write(tmp_path / "model", content(**OPTIONS, vocab_size=65)).parent
    write_meta(folder)
    own = ngl.load(folder)
    found = measure_convergence(own, "The quick brown fox jumps over the lazy dog. " * 4, n=8, progress=False)
    assert torch.allclose(found.score("bits_per_char"), found.score("loss") / math.log(2))
    assert found.chance[3, 0, 0] == pytest.approx(float(found.chance[2, 0, 0]) / math.log(2))
    assert measure_convergence(own, n=3, progress=False).provenance["arguments"]["own_text"]
    found.save(tmp_path / "saved")
    assert repr(ngl.load_result(tmp_path / "saved")) == repr(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": "resid"}, "points is 'resid'; expected some of resid_pre, resid_mid, resid_post"),
        ({"points": ()}, "points is"),
        ({"layers": 3}, "there is no layer 3; expected 0 to 2"),
        ({"layers": []}, "layers is empty"),
        ({"k": 0}, "k is 0; expected a whole number, 1 or more"),
        ({"k": 14}, "k is 14; expected at most 13"),
        ({"lens": "tuned"}, "lens is a str; expected a TunedLens"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(AnalysisError, match=message):
        logit_lens(model(), texts()[0], **options)


def test_bad_texts(corpus):
    with pytest.raises(AnalysisError, match="the text has 11 tokens; expected at most 10"):
        logit_lens(model(), corpus[:11])
    with pytest.raises(AnalysisError, match="expected a HookedTransformer"):
        logit_lens("model", corpus[:3])
    with pytest.raises(AnalysisError, match="the corpus has 5 tokens; expected at least one window of 10"):
        measure_convergence(model(), corpus[:5], seq_len=10)
    for options in ({"n": 0}, {"seq_len": 1}, {"seq_len": 2.5}, {"seed": -1}):
        with pytest.raises(AnalysisError, match=f"{next(iter(options))} is .*; expected a whole number"):
            measure_convergence(model(), corpus, **options)
    with pytest.raises(AnalysisError, match="windows of 11 tokens were asked for"):
        measure_convergence(model(), corpus, seq_len=11)
