"""The commands lens, tune-lens and neurons: the numbers of the functions, for people and for programs."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.neurons.stream_helpers import corpus, text_of


@pytest.fixture
def out(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(text_of(corpus(1500)))
    return file


def test_search_prints_saves_and_equals_the_function(out, text, tmp_path):
    expected = ngl.search_neurons(ngl.load(out), text, k=3, window=4, progress=False)
    code, shown, _ = run(
        "neurons", "search", out, "--text", text, "--k", 3, "--window", 4, "--output", tmp_path / "kept"
    )
    assert code == 0
    best = expected.top(1, order="high").iloc[0]
    first = next(line for line in shown.splitlines() if line[:1].isdigit())
    assert first.split()[:2] == [f"{best['layer']}.{best['neuron']}", f"{best['value']:.2f}"]
    assert torch.equal(ngl.load_result(tmp_path / "kept").top_starts, expected.top_starts)
    code, shown, _ = run("neurons", "search", out, "--text", text, "--k", 3, "--window", 4, "--layer", 1, "--csv")
    table = list(csv.DictReader(io.StringIO(shown)))
    assert code == 0
    assert len(table) == 64
    assert [float(row["value"]) for row in table] == pytest.approx(expected.values[1].tolist())


def test_page_shows_one_neuron(out, text):
    expected = ngl.search_neurons(ngl.load(out), text, layers=[1], k=10, window=12, progress=False).page(1, 7)
    code, shown, _ = run("neurons", "page", out, "1.7", "--text", text)
    assert code == 0
    best = expected.highest[0]
    assert shown.startswith(f"Neuron 1.7 is highest, {best.value:.2f}, at {best.token!r}.\n")
    said = str(expected).partition("\n")[2]
    assert said in shown
    code, shown, _ = run("neurons", "page", out, "1.7", "--text", text, "--json")
    found = json.loads(shown)
    code, _, _ = run(
        "neurons", "search", out, "--text", text, "--output", out.parent / "kept", "--k", 10, "--window", 12
    )
    assert code == 0
    code, kept, _ = run("neurons", "page", out, "1.7", "--search", out.parent / "kept")
    assert said in kept
    code, _, error = run("neurons", "page", "shakespeare_char", "1.7", "--search", out.parent / "kept")
    assert code == 2
    assert "was found on another checkpoint" in error
    code, _, error = run("neurons", "page", out, "1.7")
    assert code == 2
    assert "either --text" in error
    assert found["highest"][0]["value"] == pytest.approx(expected.highest[0].value)
    assert found["provenance"]["checkpoint_sha256"] == ngl.read_checkpoint(out).sha256


def test_find_and_ablate(out, text):
    code, shown, _ = run("neurons", "find", out, "upper_case", "--text", text, "--k", 3, "--json")
    assert code == 0
    expected = ngl.find_neurons(ngl.load(out), text, "upper_case", k=3, progress=False)
    found = json.loads(shown)["separation"]["rows"]
    assert [row["value"] for row in found] == pytest.approx(expected.values.flatten().tolist())
    code, shown, _ = run("neurons", "find", out, "upper_case", "--text", text, "--k", 3)
    assert code == 0
    layer, neuron = expected.best(1)[0]
    assert f"{layer}.{neuron}" in shown
    code, shown, _ = run("neurons", "ablate", out, "0.3,1.7", "--text", text, "--class", "upper_case", "--controls", 2)
    assert code == 0
    assert "rise on token" in shown
    assert "hit hardest" in shown
    code, shown, _ = run("neurons", "ablate", out, "0.3,1.7", "--text", text, "--controls", 2, "--json")
    removed = ngl.ablate_neurons(ngl.load(out), text, ["0.3", "1.7"], controls=2, progress=False)
    rows = json.loads(shown)["ablation"]["rows"]
    rise = next(row["value"] for row in rows if row["score_label"] == "rise" and row["ablated"] == 0)
    assert rise == pytest.approx(float(removed.at(score="rise", ablated="0.3+1.7")))


def test_lens_reads_prompts_and_texts(out, text):
    prompt = CHARS[5:15]
    code, shown, _ = run("lens", out, "--prompt", prompt, "--answer", CHARS[3], "--wrong", CHARS[4])
    assert code == 0
    for name in ("0.resid_pre", "0.resid_mid", "1.resid_post", "MLP 1"):
        assert name in shown
    code, shown, _ = run("lens", out, "--prompt", prompt, "--answer", CHARS[3], "--text", text, "--n", 8, "--json")
    found = json.loads(shown)
    assert set(found) == {"lens", "attribution", "convergence"}
    expected = ngl.logit_lens(ngl.load(out), prompt)
    np.testing.assert_allclose(
        [row["value"] for row in found["lens"]["rows"] if row["value"] is not None],
        expected.values[..., :-1].flatten(),
        rtol=1e-6,
    )
    logit = ngl.load(out)(prompt)[0, -1, 3]
    assert sum(row["value"] for row in found["attribution"]["rows"]) == pytest.approx(float(logit), abs=1e-4)


def test_tune_lens_trains_saves_and_is_used(out, text, tmp_path):
    code, shown, _ = run("tune-lens", out, "--text", text, "-o", tmp_path / "tuned", "--steps", 20, "--json")
    assert code == 0
    rows = json.loads(shown)["tuned_lens"]["rows"]
    assert {row["score_label"] for row in rows} == {"tuned", "logit", "gain"}
    code, tuned, _ = run("lens", out, "--text", text, "--n", 8, "--tuned", tmp_path / "tuned")
    assert code == 0
    assert "tuned lens" in tuned
    code, people, _ = run("tune-lens", out, "--text", text, "-o", tmp_path / "tuned", "--steps", 20)
    assert code == 0
    assert "0.resid_mid" in people


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("neurons", "page", "9.1"), "there is no layer 9; expected one of 0, 1|there is no layer 9"),
        (("neurons", "page", "0.64"), "there is no neuron 64; expected 0 to 63"),
        (("neurons", "page", "seven"), "the neuron is 'seven'; expected layer.neuron"),
        (("neurons", "find", "sarcasm"), "sarcasm"),
        (("neurons", "find", "re:("), "re:|regular expression"),
        (("neurons", "ablate", "0.3,0.3"), "each once"),
        (("neurons", "ablate", "0.99"), "there is no neuron 99"),
        (("neurons", "search", "--layer", "5"), "there is no layer 5"),
        (("neurons", "search", "--k", "100000"), "k is 100000, but"),
        (("neurons", "search", "--json", "--csv"), "--json and --csv were both given"),
        (("lens", "--answer", "a"), "--answer was given without --prompt"),
        (("lens", "--transfer"), "--transfer was given without --tuned"),
        (("neurons", "search", "--output", __file__), "is there and is no saved result"),
        (("tune-lens", "-o", __file__), "is there and is no saved result"),
        (("lens", "--prompt", "a€"), "€"),
        (("lens", "--tuned", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(out, text, words, sentence):
    import re

    head = 2 if words[0] == "neurons" else 1
    code, shown, error = run(*words[:head], out, *words[head:], "--text", text)
    assert code == 2
    assert not shown
    assert re.search(sentence, error)
    assert len(error.strip().splitlines()) == 1
    assert "should not have happened" not in error


def test_a_text_that_is_not_there_or_too_short(out, tmp_path):
    for command in (("neurons", "search"), ("lens",), ("tune-lens", "-o", tmp_path / "x")):
        code, _, error = run(
            *command[:2] if command[0] == "neurons" else command[:1],
            out,
            *command[1 if command[0] != "neurons" else 2 :],
            "--text",
            tmp_path / "no.txt",
        )
        assert code == 2
        assert "no.txt" in error
    (tmp_path / "short.txt").write_text("a")
    for command in (("lens", out), ("tune-lens", out, "-o", tmp_path / "x")):
        code, _, error = run(*command, "--text", tmp_path / "short.txt")
        assert code == 2
        assert "expected at least" in error
        assert len(error.strip().splitlines()) == 1
