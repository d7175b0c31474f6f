"""`ngl.lab` and its command: what is in the page, what is refused, and that the same arguments give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
import torch
from typer.testing import CliRunner

import nanogpt_lens as ngl
from nanogpt_lens.cli.app import app
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.sites import KINDS
from nanogpt_lens.lab import making, page
from nanogpt_lens.lab.page import Lab
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.lab.lab_helpers import exact


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write(folder)
    write_meta(folder)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    return ngl.lab(folder, findings=False)


def test_the_page_holds_the_model(made, tmp_path):
    file = made.save(tmp_path / "lab.html")
    text = file.read_text()
    assert json.loads(re.search(r'data-lab="payload">(.*?)</script>', text)[1]) == json.loads(json.dumps(made.payload))
    packed = base64.b64decode(re.search(r'data-lab="weights">([^<]*)<', text)[1])
    assert packed == made.weights
    assert hashlib.sha256(packed).hexdigest() == made.payload["weights_sha256"]


def test_the_content_policy_lets_our_script_and_its_worker_in_alone(made):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', made.html())[1]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert parts["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[^']+' 'wasm-unsafe-eval'", parts["script-src"])
    assert parts["worker-src"] == "blob:"
    assert "connect-src" not in parts


def test_the_same_arguments_give_the_same_bytes(folder, made):
    assert ngl.lab(folder, findings=False).html() == made.html()
    assert ngl.lab(folder, findings=False, seed=1).payload["reference"] != made.payload["reference"]


def test_what_the_payload_says(made, folder):
    payload = made.payload
    assert payload["name"] == folder.name
    assert payload["code"] == f"ngl.load({str(folder)!r})"
    assert payload["vocab"] == list(CHARS)
    assert payload["encode"] == "characters"
    assert payload["sha256"] == ngl.load(folder).nanogpt_origin.sha256
    assert payload["config"] == {
        "n_layers": 2,
        "n_heads": 2,
        "d_model": 16,
        "d_head": 8,
        "d_mlp": 64,
        "n_ctx": 12,
        "d_vocab": 65,
        "n_tokens": 65,
        "act_fn": "gelu",
    }
    assert len(payload["reference"]) == 32
    assert {len(row) for row in payload["reference"]} == {12}


def test_the_proof_is_the_models(made, folder):
    model = exact(folder)
    for case in made.payload["proof"]["cases"]:
        assert case["rows"][-1] == len(case["tokens"]) - 1
    packed = made.payload["tensors"]
    assert sum(entry["name"].startswith("proof.") for entry in packed) == len(made.payload["proof"]["cases"])
    kinds = {one["activation"] for case in made.payload["proof"]["cases"] for one in case["interventions"]}
    assert kinds == {*KINDS, "edge"}
    assert model.cfg.n_layers == 2


def test_a_model_in_memory(folder):
    model = ngl.load(folder)
    with torch.no_grad():
        model.W_E[0, 0] += 1
    changed = ngl.lab(model, findings=False)
    assert changed.payload["code"] == f"ngl.load({str(folder / 'ckpt.pt')!r})"
    assert changed.payload["identity"] != ngl.lab(folder, findings=False).payload["identity"]
    assert next(model.parameters()).dtype == torch.float32


def test_prompts_and_directions(folder):
    prompts = ["ROMEO:", {"clean": "the king", "other": "the duke", "answer": "s", "wrong": 3, "label": "who"}, [1, 2]]
    payload = ngl.lab(folder, findings=False, prompts=prompts, directions={"up": torch.arange(16.0)}).payload
    first, second, third = payload["findings"]["prompts"]
    assert "".join(CHARS[i] for i in first["tokens"]) == "ROMEO:"
    assert second["label"] == "who"
    assert (second["answer"], second["wrong"]) == (CHARS.index("s"), 3)
    assert third["tokens"] == [1, 2]
    assert payload["directions"]["up"] == list(map(float, range(16)))


def test_a_text_is_what_means_are_over(folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("First Citizen: before we go on. " * 40)
    payload = ngl.lab(folder, findings=False, text=text).payload
    assert payload["reference_name"] == "windows of text.txt"
    assert {token for row in payload["reference"] for token in row} <= {
        CHARS.index(c) for c in "First Citizen: before we go on. "
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"prompts": "ROMEO"}, "expected a list"),
        ({"prompts": [{"other": "x"}]}, "has no clean prompt"),
        ({"prompts": [{"clean": "x", "wat": 1}]}, "has wat; expected some of"),
        ({"prompts": [{"clean": "abc", "other": "ab"}]}, "3 tokens and its other one 2"),
        ({"prompts": [{"clean": "a", "answer": "ab"}]}, "is 2 tokens"),
        ({"prompts": [{"clean": "a", "answer": 65}]}, "an id from 0 to 64"),
        ({"directions": {"d": [1.0]}}, "expected 16 numbers"),
        ({"directions": {"d": [float("nan")] * 16}}, "not finite"),
        ({"output": "lab.txt"}, r"does not end in \.html"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_input_is_one_sentence(folder, options, sentence):
    with pytest.raises(AnalysisError, match=sentence):
        ngl.lab(folder, findings=False, **options)


def test_a_model_that_is_too_large_is_refused_before_any_work(folder, monkeypatch):
    monkeypatch.setattr(making, "MOST_BYTES", 1000)
    with pytest.raises(AnalysisError, match="a browser opens at most"):
        ngl.lab(folder)
    assert making.size_warning(10_000_000) == ""
    assert "61 MB" in making.size_warning(61_000_000)


def test_no_model_is_refused():
    with pytest.raises(AnalysisError, match="expected a HookedTransformer"):
        ngl.lab(7)


def test_the_command(folder, tmp_path):
    file = tmp_path / "out.html"
    run = CliRunner().invoke(
        app, ["lab", str(folder), "-o", str(file), "--no-findings", "--prompt", "ROMEO:", "--answer", "s", "--json"]
    )
    assert run.exit_code == 0, run.output
    said = json.loads(run.stdout)
    assert said["bytes"] == file.stat().st_size
    assert said["checks"] > 60
    assert '"answer":' in file.read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--answer", "s"], "without --prompt"),
        (["--text", "nowhere.txt"], "nowhere.txt does not exist"),
        (["-o", "x.pdf"], "does not end in .html"),
        (["--prompt", "€"], "€"),
    ],
)
def test_bad_options_are_one_sentence(folder, words, sentence):
    run = CliRunner().invoke(app, ["lab", str(folder), "--no-findings", *words])
    assert run.exit_code == 2
    assert sentence in run.output
    assert "Traceback" not in run.output


def test_what_a_notebook_gets(made):
    pytest.importorskip("anywidget")
    shown = made._repr_mimebundle_()
    data = shown[0] if isinstance(shown, tuple) else shown
    assert "application/vnd.jupyter.widget-view+json" in data
    widget = made.widget()
    assert widget.weights == made.weights
    assert "render" in str(widget._esm)


def test_without_anywidget_it_is_a_frame(made, monkeypatch):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    shown = made._repr_mimebundle_()
    assert shown["text/html"].startswith("<iframe ")
    assert "allow-same-origin" not in shown["text/html"]
    with pytest.raises(AnalysisError, match="anywidget is not installed"):
        made.widget()


def test_the_function_is_not_hidden_by_the_folder():
    import nanogpt_lens.lab.packing  # noqa: F401

    assert ngl.lab is making.lab
    assert isinstance(Lab, type)
