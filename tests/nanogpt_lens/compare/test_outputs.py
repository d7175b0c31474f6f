"""Outputs of two models against brute force over a text that is small enough to hold."""

from __future__ import annotations

import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from nanogpt_lens.compare import distributions
from nanogpt_lens.compare.outputs import compare_outputs
from nanogpt_lens.compare.vocabularies import KINDS, kind_of, shared_vocabulary
from nanogpt_lens.core.errors import AnalysisError, ResultError, VocabularyError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.model.loading import load
from nanogpt_lens.results import OutputDifference, load_result
from nanogpt_lens.results.output_difference import MEASURES
from tests.making import CHARS, content, write
from tests.nanogpt_lens.compare.two_models import characters_model, subwords_model
from tests.nanogpt_lens.neurons.stream_helpers import corpus, text_of
from tests.nanogpt_lens.neurons.test_search_neurons import best_excerpts

N = 8 * 13 + 5
"""Tokens: thirteen sequences of the smaller context and a shorter one."""
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Models of different shapes; b has the smaller context, and padding of its vocabulary."""
    folder = tmp_path_factory.mktemp("pair")
    a = characters_model(folder / "a")
    b = characters_model(folder / "b", n_layer=1, n_head=3, n_embd=24, block_size=8, vocab_size=128, bias=False, seed=1)
    return a, b


def brute_force(a, b, ids, length):
    """For each sequence the measures [place, measure], the answers, the contexts, p_a and p_b [place, token]."""
    parts = []
    for first in range(0, len(ids), length):
        row = ids[first : first + length]
        if len(row) < 2:
            continue
        p = [m(row[None], return_type="logits")[0, :-1, :65].detach().double().softmax(-1).numpy() for m in (a, b)]
        mean = (p[0] + p[1]) / 2
        answer = row[1:].numpy()
        loss = [-np.log(q[np.arange(len(answer)), answer]) for q in p]
        columns = [
            rel_entr(p[0], p[1]).sum(1),
            rel_entr(p[1], p[0]).sum(1),
            rel_entr(p[0], mean).sum(1) / 2 + rel_entr(p[1], mean).sum(1) / 2,
            *loss,
            loss[1] - loss[0],
            (p[0].argmax(1) == p[1].argmax(1)).astype(float),
        ]
        parts.append((np.stack(columns, 1), answer, row[:-1].numpy(), *p))
    return parts


def ratio(sums, counts):
    """The ratio of totals with its interval, over the examples in which something was counted."""
    some = torch.tensor(counts) > 0
    each = ratio_per_example(torch.tensor(sums, dtype=torch.float64)[some], torch.tensor(counts)[some].double())
    return float(each.mean()), t_interval(each)


@pytest.mark.parametrize("small_chunks", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, None])
def test_means_equal_brute_force(pair, monkeypatch, small_chunks, batch_size):
    if small_chunks:
        monkeypatch.setattr(distributions, "_NUMBERS", 65 * 3)
    ids = corpus(N)
    found = compare_outputs(*pair, ids, batch_size=batch_size, **QUIET)
    parts = brute_force(*pair, ids, 8)
    assert found.n_places == 13 * 7 + 4
    assert found.n_examples == 14
    for i, name in enumerate(MEASURES):
        mean, (low, high) = ratio([float(m[:, i].sum()) for m, *_ in parts], [len(m) for m, *_ in parts])
        assert found.measure(name) == pytest.approx((mean, float(low), float(high)), abs=1e-10), name
    for which, column in (("answer", 1), ("context", 2)):
        frame = found.where(which, measure="loss_difference", k=None, least=1)
        for _, row in frame.iterrows():
            token = CHARS.index(row["token"])
            inside = [(part[0][:, 5], part[column] == token) for part in parts]
            counts = [int(here.sum()) for _, here in inside]
            mean, (low, high) = ratio([float(values[here].sum()) for values, here in inside], counts)
            assert (row["count"], row["sequences"]) == (sum(counts), sum(c > 0 for c in counts))
            assert (row["mean"], row["low"], row["high"]) == pytest.approx((mean, float(low), float(high)), abs=1e-10)
            assert row["low_all"] < row["low"] < row["high"] < row["high_all"]
    every = np.concatenate([part[4] - part[3] for part in parts])
    np.testing.assert_allclose(found.probability["difference"], every.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.probability["mean_a"], np.concatenate([p[3] for p in parts]).mean(0), atol=1e-12)
    token = int(found.probability["difference"].argmax())
    sums = [float((part[4] - part[3])[:, token].sum()) for part in parts]
    mean, (low, high) = ratio(sums, [len(part[1]) for part in parts])
    best = found.gains(1).iloc[0]
    assert best["token"] == CHARS[token]
    assert (best["difference"], best["low"], best["high"]) == pytest.approx((mean, float(low), float(high)), abs=1e-10)


def test_kinds_are_sums_of_answers(pair):
    found = compare_outputs(*pair, corpus(N), **QUIET)
    frame = found.where("kind", k=None, least=1)
    assert frame["count"].sum() == found.n_places
    assert float((frame["mean"] * frame["count"]).sum()) == pytest.approx(found.measure("kl_ab")[0] * found.n_places)
    assert frame["share"].sum() == pytest.approx(1)
    upper = torch.tensor([token.isupper() for token in CHARS]) & (found.answers["count"] > 0)
    expected = (found.answers["mean"][upper, 0] * found.answers["count"][upper]).sum() / found.answers["count"][
        upper
    ].sum()
    assert {"upper case", "lower case", "punctuation"} <= set(frame["kind"])
    assert float(frame.set_index("kind")["mean"]["upper case"]) == pytest.approx(float(expected))


@pytest.mark.parametrize("window", [1, 3, 8])
def test_excerpts_equal_brute_force(pair, window):
    ids = corpus(N)
    found = compare_outputs(*pair, ids, k=4, window=window, batch_size=3, **QUIET)
    parts = brute_force(*pair, ids, 8)
    for which, column, sign in (("differing", 0, 1), ("worse", 5, 1), ("better", 5, -1)):
        values = [v for part in parts for v in (-math.inf, *(sign * part[0][:, column]))]
        excerpts = found.excerpts(which)
        expected = [(v, s) for v, s in best_excerpts(values, 4, window, 8) if v > 0]
        assert [e.start for e in excerpts] == [start for _, start in expected]
        for excerpt, (value, start) in zip(excerpts, expected, strict=True):
            assert excerpt.value == pytest.approx(sign * value, abs=1e-10)
            assert excerpt.text == text_of(ids[start : start + len(excerpt.tokens)])
            there = [sign * values[start + i] for i in range(len(excerpt.tokens))]
            for shown, exact in zip(excerpt.activations, there, strict=True):
                assert math.isnan(shown) if math.isinf(exact) else shown == pytest.approx(exact, abs=1e-10)
            assert excerpt.activations[excerpt.position - start] == excerpt.value


def test_a_model_and_its_copy_differ_nowhere(pair):
    copy = deepcopy(pair[0])
    found = compare_outputs(pair[0], copy, corpus(N), **QUIET)
    for name in ("kl_ab", "kl_ba", "js", "loss_difference"):
        assert found.measure(name) == (0, 0, 0)
    assert found.measure("agreement") == (1, 1, 1)
    assert found.measure("loss_a") == found.measure("loss_b")
    assert bool((found.probability["difference"] == 0).all())
    assert bool((found.answers["mean"][found.answers["count"] > 0][:, [0, 1, 2, 5]] == 0).all())
    assert not any(found.excerpts(which) for which in ("differing", "worse", "better"))
    assert found.same
    assert (
        found.sentence() == "a and b predict exactly the same at all 99 places"
    )  # of nine sequences; the token left over predicts nothing


def test_weights_that_were_processed_predict_the_same_but_for_rounding(tmp_path):
    """TransformerLens' folding changes no prediction, and a difference in float32 is not taken for one."""
    plain = characters_model(tmp_path, dtype=torch.float32)
    folded = load(tmp_path, process_weights=True)
    found = compare_outputs(plain, folded, corpus(N), **QUIET)
    assert not found.same
    assert found.sentence().startswith("a and b predict the same but for rounding (KL of ")


def test_padding_does_not_count(pair, tmp_path):
    """Huge logits of padding rows change nothing, and models with other padding can be compared."""
    a, b = pair
    padded = deepcopy(b)
    with torch.no_grad():
        padded.W_U[:, 65:] += 1000.0 * padded.W_U[:, :1]
    plain, other = (compare_outputs(a, m, corpus(N), **QUIET) for m in (b, padded))
    assert torch.equal(plain.values, other.values)


def test_divergences_of_extreme_distributions():
    """JS is at most ln 2, where nothing is shared, and exactly 0 where all is; nothing overflows."""
    a = torch.tensor([[0.0, -5000.0, -5000.0], [0.0, -3.0, -4.0], [1.0, 1e-9, 0.0]]).double().log_softmax(-1)
    b = torch.tensor([[-5000.0, 0.0, -5000.0], [0.0, -3.0, -4.0], [1.0, 0.0, 0.0]]).double().log_softmax(-1)
    found = distributions.measures_of(a, b, torch.tensor([0, 1, 2]))
    assert bool(found.isfinite().all())
    assert found[0, 2] == pytest.approx(math.log(2))
    assert found[0, 2] <= math.log(2)
    assert found[0, 0] == pytest.approx(5000)
    assert found[1, [0, 1, 2, 5]].tolist() == [0] * 4
    near = found[2, :3].tolist()
    assert min(near) >= 0
    assert near[0] == pytest.approx(1e-18 / 2 * 0.21194 * (1 - 0.21194), abs=1e-16)


def test_every_kind_of_corpus(pair, tmp_path):
    ids = corpus(40)
    file = tmp_path / "a.txt"
    file.write_text(text_of(ids))
    found = compare_outputs(*pair, ids, **QUIET)
    for given in (text_of(ids), file, str(file), ids.numpy(), ids.view(5, 8)):
        assert torch.equal(compare_outputs(*pair, given, **QUIET).values, found.values)
    short = compare_outputs(*pair, ids[:3], **QUIET)
    assert short.n_places == 2
    assert short.low is None
    assert len(short.where(least=1)) == 0  # one sequence: no group has an interval
    assert short.gains(1)["low"].isna().all()
    assert short.sentence().endswith("of one sequence there are no intervals")
    assert "Empty" not in str(short)
    assert len(short.differing["value"]) == 20
    rows = compare_outputs(*pair, ids[:30].view(10, 3), **QUIET)
    assert rows.n_places == 20
    assert rows.n_examples == 10


def test_models_without_a_vocabulary(pair, tmp_path):
    write(tmp_path / "bare", content(dtype=torch.float64, seed=3))
    bare = load(tmp_path / "bare", dtype=torch.float64)
    found = compare_outputs(bare, deepcopy(bare), corpus(N), **QUIET)
    assert found.kind_names == ()
    assert found.vocabulary[7] == "7"
    assert len(found.where("kind")) == 0
    assert shared_vocabulary(pair[0], bare).tokens == shared_vocabulary(bare, pair[1]).tokens == tuple(CHARS)
    named = compare_outputs(pair[0], bare, corpus(N), **QUIET)
    assert named.kind_names
    assert named.excerpts()[0].separator == ""
    text = text_of(corpus(N))
    for models in ((pair[0], bare), (bare, pair[0])):  # either can have the vocabulary that reads the text
        assert compare_outputs(*models, text, **QUIET).measure("js") == named.measure("js")
    with pytest.raises(VocabularyError):
        compare_outputs(bare, bare, text, **QUIET)


def test_kinds_of_tokens():
    every = {
        "A": "upper case",
        " the": "lower case",
        "7": "digits",
        " ": "space",
        "\n": "newline",
        " \n": "newline",
        "\n\nThe": "upper case",
        ",": "punctuation",
        "": "other",
        "\ufffd": "other",
        "漢": "other",
        "é": "lower case",
        "\t": "space",
    }
    assert {token: kind_of(token) for token in every} == every
    assert set(every.values()) == set(KINDS)


def test_what_a_result_says(pair, tmp_path):
    found = compare_outputs(*pair, corpus(3000), names=("before", "after"), **QUIET)
    assert found.sentence().startswith(f"KL(before || after) is {found.measure('kl_ab')[0]:.3g} (")
    assert "differ most on" in found.sentence()
    read = load_result(found.save(tmp_path / "kept"))
    assert isinstance(read, OutputDifference)
    assert read.sentence() == found.sentence()
    assert read.where("context", order="abs").equals(found.where("context", order="abs"))
    assert read.gains(order="low").equals(found.gains(order="low"))
    assert read.excerpts("better") == found.excerpts("better") or "nan" in str(found.excerpts("better"))
    assert {"value", "low", "high", "measure_label"} <= set(found.to_dataframe())
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert said["sentence"] == found.sentence()
    assert said["answers"][0]["mean"] == found.where()["mean"][0]
    assert said["losses"][0]["token"] == found.gains(order="low")["token"][0]
    assert [e["value"] for e in said["excerpts"]["worse"]] == [e.value for e in found.excerpts("worse")]
    assert "vocabulary" not in said
    for call, said in (
        (lambda: found.where("token"), "by is 'token'; expected one of answer, context, kind"),
        (lambda: found.where(measure="kl"), "the label 'kl' of the axis 'measure' is not there"),
        (lambda: found.where(order="up"), "order='up'"),
        (lambda: found.where(least=0), "least=0"),
        (lambda: found.gains(order="up"), "order is 'up'"),
        (lambda: found.excerpts("best"), "'best' are no excerpts"),
    ):
        with pytest.raises(ResultError, match=said):
            call()


def test_what_cannot_be_compared(pair, tmp_path):
    a, b = pair
    moved = characters_model(tmp_path / "moved", chars=CHARS[1] + CHARS[0] + CHARS[2:])
    other = characters_model(tmp_path / "other", chars=CHARS[:-1] + "é")
    subwords = subwords_model(tmp_path / "subwords")
    for models, given, options, said in (
        ((a, moved), corpus(N), {}, r"id 0 is '\\n' in a and ' ' in b; expected the same tokens.*loss_per_character"),
        ((a, other), corpus(N), {}, "1 are only in a, such as 'z'; 1 are only in b, such as 'é'"),
        ((a, subwords), corpus(N), {}, "a has 65 tokens, b "),
        ((a, "b"), corpus(N), {}, "the model is a str"),
        ((a, b), "", {}, "has 0 tokens; expected at least 2"),
        ((a, b), corpus(1), {}, "has 1 tokens; expected at least 2"),
        ((a, b), corpus(6).view(6, 1), {}, "each sequence has 1 token"),
        ((a, b), corpus(9), {"seq_len": 1}, "each sequence has 1 token"),
        ((a, b), torch.tensor([1, 70, 3]), {}, "70"),  # b's padding is no token
        ((a, b), corpus(24).view(2, 12), {}, "rows of 12 tokens; expected at most 8"),
        ((a, b), corpus(N), {"seq_len": 12}, "expected at most 8"),
        ((a, b), corpus(N), {"window": 9}, "window is 9; expected at most 8"),
        ((a, b), corpus(N), {"k": 0}, "k is 0"),
        ((a, b), corpus(N), {"names": ("x", "x")}, "expected two different ones"),
        ((a, b), None, {}, "there is no text"),
    ):
        with pytest.raises(AnalysisError, match=said):
            compare_outputs(*models, given, **QUIET, **options)


def test_a_model_that_overflows_is_named(pair):
    broken = deepcopy(pair[1])
    with torch.no_grad():
        broken.W_U[0, 0] = torch.inf
    with pytest.raises(AnalysisError, match="some logits of b are not finite"):
        compare_outputs(*pair[:1], broken, corpus(N), **QUIET)


def test_nothing_is_left_behind(pair):
    for model in pair:
        model.train()
    compare_outputs(*pair, corpus(40), **QUIET)
    assert all(model.training and not has_hooks(model) for model in pair)
    for model in pair:
        model.eval()
