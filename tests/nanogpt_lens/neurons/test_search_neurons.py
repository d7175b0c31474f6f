"""Neuron search against brute force over a corpus that is small enough to hold."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from nanogpt_lens.core import unfinished
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.directions.find import principal_components
from nanogpt_lens.neurons.peaks import TopWindows
from nanogpt_lens.neurons.promoted import with_promoted
from nanogpt_lens.neurons.search import BINS, PROBABILITIES, search_neurons
from nanogpt_lens.neurons.statistics import neuron_statistics
from nanogpt_lens.results import Result, load_result
from nanogpt_lens.text.sequences import Batch, Sequences
from tests.nanogpt_lens.neurons.stream_helpers import corpus, small_model, text_of, two_processes

N = 12 * 13 + 5
"""Tokens: thirteen sequences and a shorter one."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


def activations(model, ids, site="mlp.hook_post"):
    """[layer, token, unit], each sequence run on its own through `run_with_cache`."""
    rows = [ids[i : i + 12] for i in range(0, len(ids), 12)]
    layers = []
    for layer in range(2):
        name = f"blocks.{layer}.{site}"
        kept = [model.run_with_cache(row[None], names_filter=[name])[1][name][0].flatten(1) for row in rows]
        layers.append(torch.cat(kept))
    return torch.stack(layers).detach()


def best_excerpts(values, k, window, length, where="max"):
    """(value, start) of a unit's k best excerpts: every excerpt of every sequence, strongest first, no overlap."""
    found = []
    for first in range(0, len(values), length):
        row = values[first : first + length]
        if where == "mean":
            scored = [(sum(row[s : s + window]) / window, s) for s in range(len(row) - window + 1)]
            starts = [s for _, s in scored]
        else:
            scored = [(v, p) for p, v in enumerate(row)]
            starts = [min(max(p - window // 2, 0), max(len(row) - window, 0)) for p in range(len(row))]
        taken = []
        for value, place in sorted(scored, key=lambda pair: (-pair[0], pair[1])):
            if all(abs(starts[place] - other) >= window for other in taken):
                taken.append(starts[place])
                found.append((value, first + starts[place]))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


@pytest.mark.parametrize("engine", ["native", "hooks"])
@pytest.mark.parametrize(("window", "where"), [(5, "max"), (12, "max"), (1, "max"), (4, "mean")])
def test_equals_brute_force(model, engine, window, where):
    ids = corpus(N)
    found = search_neurons(
        model, ids, k=6, window=window, where=where, batch_size=4, sample=N, engine=engine, progress=False
    )
    assert found.provenance["arguments"]["engine"] == engine
    expected = activations(model, ids)
    assert found.n_tokens == N == found.sample_size
    torch.testing.assert_close(found.mean, expected.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.variance, expected.var(1, correction=0), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sparsity, 1 - (expected > 0).double().mean(1), rtol=0, atol=1e-12)
    quantiles = np.quantile(expected.numpy(), PROBABILITIES, axis=1).transpose(1, 2, 0)
    np.testing.assert_allclose(found.quantiles, quantiles, rtol=0, atol=1e-12)
    for layer in range(2):
        for unit in range(64):
            values = expected[layer, :, unit].tolist()
            for sign, which in ((1, "top"), (-1, "low")):
                excerpts = best_excerpts([sign * v for v in values], 6, window, 12, where)
                for i, (value, start) in enumerate(excerpts):
                    end = min(start + window, start // 12 * 12 + 12, N)
                    assert getattr(found, f"{which}_values")[layer, unit, i].item() == pytest.approx(
                        sign * value, abs=1e-12
                    )
                    assert getattr(found, f"{which}_starts")[layer, unit, i] == start
                    assert (
                        getattr(found, f"{which}_tokens")[layer, unit, i][: end - start].tolist()
                        == ids[start:end].tolist()
                    )
                    around = getattr(found, f"{which}_activations")[layer, unit, i]
                    torch.testing.assert_close(
                        around[: end - start], expected[layer, start:end, unit], rtol=0, atol=1e-12
                    )
                    assert around[end - start :].isnan().all()
                    peak = start + int((sign * expected[layer, start:end, unit]).argmax())
                    assert getattr(found, f"{which}_positions")[layer, unit, i] == peak
                rest = getattr(found, f"{which}_values")[layer, unit, len(excerpts) :]
                assert rest.isnan().all()
    highest = found.top_values[..., 0] if where == "mean" else expected.amax(1)
    torch.testing.assert_close(found.values, highest, rtol=0, atol=1e-12)


def test_float32_and_processed_weights_find_the_same(tmp_path):
    ids = corpus(N)
    plain, single, folded = (
        search_neurons(small_model(tmp_path, **options), ids, k=3, window=4, progress=False)
        for options in ({}, {"dtype": torch.float32}, {"process_weights": True})
    )
    assert folded.provenance["arguments"]["engine"] == "hooks"
    assert single.provenance["arguments"]["engine"] == "native"
    torch.testing.assert_close(folded.top_values, plain.top_values, rtol=0, atol=1e-10)
    torch.testing.assert_close(folded.promoted_logits, plain.promoted_logits, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(single.top_values.double(), plain.top_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.variance, plain.variance, rtol=1e-4, atol=1e-6)


def test_variance_survives_a_large_mean(tmp_path):
    model = small_model(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        model.blocks[0].mlp.b_in[7] = 3000.0
    ids = corpus(N)
    found = search_neurons(model, ids, layers=[0], k=1, window=4, batch_size=3, progress=False)
    exact = activations(model, ids)[0, :, 7].double()
    assert found.mean[0, 7].item() == pytest.approx(exact.mean().item(), rel=1e-6)
    assert found.variance[0, 7].item() == pytest.approx(exact.var(correction=0).item(), rel=1e-3)


@pytest.mark.parametrize("site", ["mlp.hook_pre", "attn.hook_z", "hook_resid_mid", "hook_mlp_out"])
def test_other_sites(model, site):
    ids = corpus(N)
    found = search_neurons(model, ids, activation=site, layers=[1], k=2, window=3, progress=False)
    expected = activations(model, ids, site)[1:]
    torch.testing.assert_close(found.values, expected.amax(1), rtol=0, atol=1e-12)
    assert found.at(layer=1).shape == (expected.shape[-1],)


def test_logits_that_the_output_weights_promote(model):
    found = search_neurons(model, corpus(60), k=1, window=4, progress=False)
    # by hand: LayerNorm without its scale, from the weights of the native model
    from conversion.native import GPT
    from conversion.transformerlens_to_nanogpt import to_nanogpt

    native = GPT.from_checkpoint(to_nanogpt(model)).double()
    out = native.transformer.h[1].mlp.c_proj.weight[:, 9]
    logits = native.lm_head.weight @ ((out - out.mean()) * native.transformer.ln_f.weight)
    logits = logits - logits.mean()
    assert found.promoted[1, 9].tolist() == logits.topk(5).indices.tolist()
    assert found.suppressed[1, 9].tolist() == (-logits).topk(5).indices.tolist()
    torch.testing.assert_close(found.promoted_logits[1, 9].double(), logits.topk(5).values, rtol=1e-5, atol=1e-6)


def test_every_way_to_give_a_corpus_is_the_same(model, tmp_path):
    ids = corpus(N)
    text = text_of(ids)
    (tmp_path / "a.txt").write_text(text)
    ids.numpy().astype("<u2").tofile(tmp_path / "any.bin")
    (tmp_path / "data").mkdir()
    for name in ("train", "val"):
        ids.numpy().astype("<u2").tofile(tmp_path / "data" / f"{name}.bin")
    memmap = np.memmap(tmp_path / "any.bin", dtype="<u2", mode="r")
    sources = [ids, text, tmp_path / "a.txt", str(tmp_path / "a.txt"), tmp_path / "any.bin", tmp_path / "data", memmap]
    whole = [search_neurons(model, source, k=3, window=4, progress=False) for source in sources]
    for other in whole[1:]:
        assert torch.equal(other.top_starts, whole[0].top_starts)
        torch.testing.assert_close(other.variance, whole[0].variance, rtol=0, atol=1e-13)
    rows = ids[: 12 * 13].view(13, 12)
    of_rows = search_neurons(model, rows, k=3, window=4, progress=False)
    of_ids = search_neurons(model, rows.flatten(), k=3, window=4, progress=False)
    assert torch.equal(of_rows.top_positions, of_ids.top_positions)


def test_sample_is_seeded_and_of_the_stated_size(model):
    ids = corpus(N)
    found = search_neurons(model, ids, k=1, window=4, sample=40, seed=3, progress=False)
    chosen = sorted(random.Random(3).sample(range(N), 40))
    expected = activations(model, ids)[:, chosen]
    assert found.sample_size == 40
    np.testing.assert_allclose(
        found.quantiles, np.quantile(expected.numpy(), PROBABILITIES, axis=1).transpose(1, 2, 0), atol=1e-12
    )
    assert found.histogram.shape == (2, 64, BINS)
    for unit in (0, 13, 63):
        values = expected[0, :, unit].numpy()
        counts, _ = np.histogram(values, bins=BINS, range=(values.min(), values.max()))
        assert found.histogram[0, unit].tolist() == counts.tolist()


def test_what_some_neurons_promote_can_be_asked_for_later(model, tmp_path):
    options = {"k": 2, "window": 4, "progress": False}
    whole = search_neurons(model, corpus(N), **options)
    bare = search_neurons(model, corpus(N), promoted=False, **options)
    assert bare.promoted.unique().tolist() == [-1]
    assert bare.suppressed_logits.isnan().all()
    assert bare.page(1, 3).promoted == ()
    assert "promotes" not in str(bare.page(1, 3))
    assert "promotes" in str(whole.page(1, 3))
    assert (bare.provenance["arguments"]["promoted"], whole.provenance["arguments"]["promoted"]) == (False, True)
    again = load_result(bare.save(tmp_path / "bare"))
    assert torch.equal(again.promoted, bare.promoted)
    assert again.suppressed_logits.isnan().all()
    some = [3, 64 + 9, 64 + 10]  # 0.3, 1.9, 1.10
    asked = with_promoted(model, bare, some)
    for name in ("promoted", "promoted_logits", "suppressed", "suppressed_logits"):
        expected, got, before = (getattr(search, name).flatten(0, 1) for search in (whole, asked, bare))
        assert torch.equal(got[some], expected[some])
        others = [i for i in range(128) if i not in some]
        assert torch.equal(got[others].nan_to_num(), before[others].nan_to_num())
    assert asked.page(1, 9).promoted == whole.page(1, 9).promoted
    for name in ("top_starts", "low_activations", "quantiles"):
        assert torch.equal(getattr(bare, name).nan_to_num(), getattr(whole, name).nan_to_num())


def synthetic(values, batches, **options):
    """A keeper that saw integer activations [token, unit], sequences of 12, in batches of some sequences."""
    keeper = TopWindows(sites=1, **options)
    first = 0
    for n in batches:
        part = values[first : first + 12 * n]
        keeper.add(
            0,
            part.view(n, -1, part.shape[-1]),
            Batch(tokens=torch.zeros(n, len(part) // n, dtype=torch.long), first=first),
        )
        first += len(part)
    return keeper


@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize(("window", "where"), [(3, "max"), (4, "max"), (3, "mean")])
def test_equal_activations_go_by_position(lowest, window, where):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 4, (12 * 7 + 2, 5), generator=generator).double()
    keeper = synthetic(values, [3, 4, 1], k=9, window=window, where=where, lowest=lowest)
    sign = -1 if lowest else 1
    for unit in range(5):
        expected = best_excerpts((sign * values[:, unit]).tolist(), 9, window, 12, where)
        assert keeper.start[0, unit].tolist() == [start for _, start in expected]
        assert keeper.value[0, unit].tolist() == pytest.approx([sign * value for value, _ in expected])


def test_parts_put_together_are_the_whole():
    values = torch.randint(0, 5, (12 * 8, 6), generator=torch.Generator().manual_seed(1)).double()
    whole = synthetic(values, [8], k=7, window=5)
    early, late = synthetic(values[:36], [3], k=7, window=5), TopWindows(sites=1, k=7, window=5)
    late.add(0, values[36:].view(5, 12, 6), Batch(tokens=torch.zeros(5, 12, dtype=torch.long), first=36))
    late.hold([early.state(), late.state()])
    assert torch.equal(late.start, whole.start)
    assert torch.equal(late.value, whole.value)
    torch.testing.assert_close(late.activations, whole.activations, equal_nan=True)


def test_an_interrupted_search_goes_on(model, tmp_path, monkeypatch):
    ids, options = corpus(N), {"k": 4, "window": 4, "batch_size": 2, "sample": 30, "progress": False}
    whole = search_neurons(model, ids, **options)
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    read = Sequences.batch
    seen = []

    def failing(self, i):
        seen.append(i)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return read(self, i)

    monkeypatch.setattr(Sequences, "batch", failing)
    with pytest.raises(KeyboardInterrupt):
        search_neurons(model, ids, resume=tmp_path / "state", **options)
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["unfinished-0-of-1.safetensors"]
    with pytest.raises(AnalysisError, match="unfinished run of another model, corpus or set of options"):
        search_neurons(model, ids, resume=tmp_path / "state", **{**options, "k": 5})
    with pytest.raises(AnalysisError, match="unfinished run of another"):
        search_neurons(model, corpus(N, seed=1), resume=tmp_path / "state", **options)
    resumed = search_neurons(model, ids, resume=tmp_path / "state", **options)
    assert seen == [0, 1, 2, 3, *range(3, 8)]
    assert not (tmp_path / "state").exists()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor.nan_to_num(), resumed.tensors()[name].nan_to_num()), name


def test_a_damaged_state_is_one_sentence(model, tmp_path):
    (tmp_path / "unfinished-0-of-1.safetensors").write_bytes(b"nothing")
    with pytest.raises(AnalysisError, match="cannot be read .*delete it to start again"):
        search_neurons(model, corpus(N), k=1, window=4, resume=tmp_path, progress=False)


SCRIPT = """
import sys, torch
from pathlib import Path
from nanogpt_lens.directions.find import principal_components
from nanogpt_lens.core.distributed import world
from nanogpt_lens.neurons.statistics import neuron_statistics
from nanogpt_lens.neurons.search import search_neurons
from tests.nanogpt_lens.neurons.stream_helpers import corpus, small_model
rank, size = world()
folder = Path(f"rank{rank}"); folder.mkdir()
model, options = small_model(folder), {"batch_size": 2, "progress": False}
search_neurons(model, corpus(161), k=5, window=4, sample=50, **options).save(folder / "found")
neuron_statistics(model, corpus(161), **options).save(folder / "statistics")
principal_components(model, corpus(161), "resid_post", layer=1, k=16, **options).save(folder / "components")
"""


@pytest.mark.slow  # torchrun starts two processes, each of which imports everything
def test_two_processes_are_as_one(model, tmp_path):
    done = two_processes(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    one = search_neurons(model, corpus(161), k=5, window=4, batch_size=2, sample=50, progress=False)
    others = {
        "statistics": neuron_statistics(model, corpus(161), batch_size=2, progress=False),
        "components": principal_components(
            model, corpus(161), "resid_post", layer=1, k=16, batch_size=2, progress=False
        ),
    }
    for rank in range(2):
        for name, alone in others.items():
            shared = Result.load(tmp_path / f"rank{rank}" / name)
            for part, tensor in alone.tensors().items():
                torch.testing.assert_close(shared.tensors()[part], tensor, rtol=1e-9, atol=1e-9, equal_nan=True)
        both = Result.load(tmp_path / f"rank{rank}" / "found")
        for name, tensor in one.tensors().items():
            if name in ("mean", "variance"):
                torch.testing.assert_close(both.tensors()[name], tensor, rtol=0, atol=1e-13)
            else:
                assert torch.equal(both.tensors()[name].nan_to_num(), tensor.nan_to_num()), name


def test_hooks_of_the_user_are_respected(model):
    ids = corpus(N)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda value, hook: value * 0.5)]):
        edited = search_neurons(model, ids, k=1, window=4, progress=False)
    assert edited.provenance["arguments"]["engine"] == "hooks"
    plain = search_neurons(model, ids, k=1, window=4, progress=False)
    assert not torch.allclose(edited.values, plain.values)
    expected = activations(model, ids)
    torch.testing.assert_close(plain.values, expected.amax(1), rtol=0, atol=1e-12)


def test_page_and_files(model, tmp_path):
    found = search_neurons(model, text_of(corpus(N)), layers=[1], k=3, window=4, progress=False)
    page = found.page(1, 5)
    assert [e.value for e in page.highest] == found.top_values[0, 5].tolist()
    best = page.highest[0]
    assert best.activations[best.position - best.start] == pytest.approx(best.value)
    assert best.token == text_of(corpus(N))[best.position]
    assert "neuron 1.5" in str(page)
    assert repr(best.token) in str(page)
    frame = found.windows(1, 5)
    assert frame["value"].tolist() == found.top_values[0, 5].tolist()
    again = Result.load(found.save(tmp_path / "found"))
    assert again.page(1, 5) == page
    with pytest.raises(Exception, match="there is no neuron 64"):
        found.page(1, 64)
    with pytest.raises(Exception, match="layer"):
        found.page(0, 5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"k": 0}, "k is 0; expected a whole number, 1 or more"),
        ({"k": 40}, "k is 40, but .* has room for at most 39 excerpts"),
        ({"window": 13}, "window is 13; expected at most 12"),
        ({"layers": [2]}, "there is no layer 2; expected 0 to 1"),
        ({"layers": []}, "layers is empty"),
        ({"activation": "mlp.hook_nothing"}, "the activation is 'mlp.hook_nothing'; expected one of mlp_post"),
        ({"where": "median"}, "where is 'median'; expected one of max, mean"),
        ({"engine": "fast"}, "engine is 'fast'"),
        ({"seq_len": 13}, "seq_len=13; expected at most 12"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"sample": 0}, "sample is 0"),
        ({"resume": __file__}, "is a file; expected a folder"),
    ],
)
def test_bad_options_are_one_sentence(model, options, sentence):
    with pytest.raises(AnalysisError, match=sentence):
        search_neurons(model, corpus(12 * 13), **{"window": 4, "k": 2, "progress": False, **options})


def test_bad_corpora_are_one_sentence(model, tmp_path):
    def refused(source, sentence, **options):
        with pytest.raises(Exception, match=sentence) as caught:
            search_neurons(model, source, **{"window": 4, "k": 1, "progress": False, **options})
        assert "\n" not in str(caught.value)

    refused(torch.empty(0, dtype=torch.long), "has 0 tokens; expected at least 4, one window")
    refused(corpus(3), "has 3 tokens; expected at least 4, one window: give a longer text")
    refused(corpus(30), "k is 8, but .* room for at most 7 excerpts of 4 tokens", k=8)
    refused(torch.full((40,), 65), "has the token 65; expected ids from 0 to 64")
    refused(torch.zeros(40), "expected text, a path, or integer ids")
    refused(tmp_path / "no.txt", "no.txt does not exist")
    (tmp_path / "odd.bin").write_bytes(b"\0\0\0")
    refused(tmp_path / "odd.bin", "odd.bin has 3 bytes, an odd number")
    np.array([1, 2, 300] * 9, dtype="<u2").tofile(tmp_path / "large.bin")
    refused(tmp_path / "large.bin", "large.bin has the token 300; expected ids from 0 to 64")
    (tmp_path / "empty.txt").write_text("")
    refused(tmp_path / "empty.txt", "empty.txt is empty|is no file, or empty")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1") * 20)
    refused(tmp_path / "latin.txt", "is not UTF-8 text")
    (tmp_path / "foreign.txt").write_text("日本" * 20)
    refused(tmp_path / "foreign.txt", "日")


def test_excerpt_means_need_whole_excerpts(model):
    with pytest.raises(AnalysisError, match="k is 3, but .* room for at most 2 excerpts"):
        search_neurons(model, corpus(15), window=6, k=3, where="mean", progress=False)
    found = search_neurons(model, corpus(15), window=6, k=2, where="mean", progress=False)
    assert found.top_values[..., 0].isfinite().all()
    assert search_neurons(model, corpus(15), window=6, k=3, progress=False).top_values[..., 0].isfinite().all()


def test_a_long_text_of_one_line_is_no_path(model):
    found = search_neurons(model, text_of(corpus(900)).replace("\n", "a"), window=4, k=1, progress=False)
    assert found.n_tokens == 900


def test_a_bin_of_another_vocabulary_is_refused(model, tmp_path):
    from tests.making import CHARS, write_meta

    corpus(N).numpy().astype("<u2").tofile(tmp_path / "val.bin")
    write_meta(tmp_path, CHARS[::-1])
    with pytest.raises(AnalysisError, match="prepared with another vocabulary"):
        search_neurons(model, tmp_path / "val.bin", window=4, k=1, progress=False)


def test_activations_that_overflow_are_refused(tmp_path):
    model = small_model(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        model.blocks[1].mlp.b_in[3] = torch.inf
    with pytest.raises(AnalysisError, match="not finite"):
        search_neurons(model, corpus(N), window=4, k=1, progress=False)


@pytest.mark.bridge
def test_the_bridge_uses_the_fast_engine(model):
    assert (
        search_neurons(model, corpus(60), k=1, window=4, progress=False).provenance["arguments"]["engine"] == "native"
    )
