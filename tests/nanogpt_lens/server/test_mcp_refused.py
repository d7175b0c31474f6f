"""What clients get wrong or should not be able to do: one sentence, and nothing happens."""

from __future__ import annotations

import pytest

pytest.importorskip("mcp")

from nanogpt_lens.core.errors import AnalysisError, NanoGPTLensError
from nanogpt_lens.server.mcp_app import make_server
from nanogpt_lens.server.tools import pictures
from tests.nanogpt_lens.server.mcp_helpers import ONE_PAIR, PAIRS, call, sentence_of, write_models

NONE = {"place": "0.0", "source": "zero"}
MANY = [{"place": "0.0", "source": "zero"}] * 33

REFUSED = [
    ("nothing", {}, "there is no tool 'nothing'; expected describe, run"),
    ("runs", {}, "did you mean 'run'?"),
    ("run", {}, "run was called with model that cannot be: Field required"),
    ("run", {"model": "tinny", "text": "a"}, "there is no model 'tinny' here; expected tiny or other or one or"),
    ("run", {"model": "FOLDER/tiny", "text": "a"}, "there is no model"),
    ("run", {"model": "../tiny", "text": "a"}, "there is no model"),
    ("describe", {"model": "/etc/passwd"}, "there is no model"),
    ("report", {"model": "FOLDER/tiny"}, "there is no model"),
    ("report", {"model": "tiny", "output": "/tmp/x.html"}, "report has no argument 'output'"),
    ("report", {"model": "tiny", "sections": ["secrets"]}, "there is no section 'secrets'"),
    ("run", {"model": "tiny", "text": "a", "steps": 3}, "run has no argument 'steps'; expected some of model"),
    ("run", {"model": "tiny"}, "text or ids: neither was given"),
    ("run", {"model": "tiny", "text": "a", "ids": [1]}, "text or ids: both were given"),
    ("run", {"model": "tiny", "ids": []}, "shape [1, 0]"),
    ("run", {"model": "tiny", "text": "a" * 5000}, "run was called with text that cannot be: String should have at"),
    ("run", {"model": "tiny", "text": "a" * 100}, "has 100 tokens; expected at most 12, the model's context"),
    ("run", {"model": "tiny", "text": "é"}, "'é'"),
    ("run", {"model": "tiny", "ids": [65]}, "expected ids from 0 to 64"),
    ("run", {"model": "tiny", "text": "abc", "answer": "ab"}, "answer 'ab' is 2 tokens; expected one token"),
    ("run", {"model": "tiny", "text": "abc", "answer": "a", "wrong": "a"}, "answer and wrong are the same token"),
    ("run", {"model": "tiny", "text": "abc", "k": 10**6}, "run was called with k that cannot be: Input should be less"),
    ("run", {"model": "tiny", "text": "abc", "seed": -1}, "run was called with seed that cannot be"),
    ("run", {"model": "tiny", "text": "abc", "interventions": MANY}, "run was called with interventions"),
    ("run", {"model": "tiny", "text": "abc", "interventions": [{"place": "7.0"}]}, "there is no layer 7"),
    ("run", {"model": "tiny", "text": "abc", "interventions": [{"place": "x"}]}, "'x' is no place"),
    ("run", {"model": "tiny", "text": "abc", "interventions": [{"what": 1}]}, "an intervention has no field 'what'"),
    ("run", {"model": "tiny", "text": "abc", "interventions": "nonsense"}, "run was called with interventions"),
    ("run", {"model": "tiny", "text": "abc", "interventions": [{"place": "0.0", "source": "other"}]}, "other"),
    ("run", {"model": "tiny", "text": "abc", "interventions": [{"place": "0.0", "source": {"scale": "x"}}]}, "scale"),
    ("find_what_matters", {"model": "tiny"}, "pairs or drawn: neither was given"),
    ("find_what_matters", {"model": "tiny", "pairs": PAIRS, "drawn": "induction"}, "pairs or drawn: both were given"),
    ("find_what_matters", {"model": "tiny", "pairs": [*PAIRS, *ONE_PAIR]}, "the prompts have 4 and 10 tokens"),
    ("find_what_matters", {"model": "tiny", "pairs": [{"clean": "ab", "corrupted": "ab"}]}, "pair 0 are equal"),
    ("find_what_matters", {"model": "tiny", "pairs": [{"clean": "ab"}]}, "pairs.0.corrupted that cannot be: Field"),
    ("find_what_matters", {"model": "tiny", "pairs": ONE_PAIR, "direction": "up"}, "direction that cannot be"),
    ("find_what_matters", {"model": "tiny", "pairs": ONE_PAIR * 65}, "pairs that cannot be"),
    ("find_what_matters", {"model": "tiny", "pairs": ONE_PAIR, "draws": 18}, "draws that cannot be: Input should"),
    ("find_circuit", {"model": "tiny", "pairs": PAIRS, "method": "magic"}, "method that cannot be"),
    ("find_circuit", {"model": "tiny", "pairs": PAIRS, "n_edges": 1999}, "n_edges is 1999; expected at most"),
    ("describe_component", {"model": "tiny", "component": "5.0"}, "there is no head 5.0; the model has 2 layers of 3"),
    ("describe_component", {"model": "tiny", "component": "L0N96"}, "there is no neuron L0N96"),
    ("describe_component", {"model": "tiny", "component": "mlp0"}, "component is 'mlp0'; expected a head such as"),
    ("compare", {"model": "tiny", "other": "tiny"}, "model and other are both 'tiny'"),
    ("compare", {"model": "tiny", "other": "FOLDER/other"}, "there is no model"),
    ("compare", {"model": "tiny", "other": "other", "parts": ["soul"]}, "parts.0 that cannot be"),
    ("picture", {"model": "tiny", "analysis": "exec"}, "there is no analysis 'exec' to draw"),
    ("picture", {"model": "tiny", "analysis": "train_tuned_lens"}, "there is no analysis 'train_tuned_lens' to draw"),
    ("picture", {"model": "tiny", "analysis": "attention_patterns"}, "text or ids: neither was given"),
    ("picture", {"model": "tiny", "analysis": "copying_score", "text": "a"}, "takes no text; leave it out"),
    ("picture", {"model": "tiny", "analysis": "search_neurons", "options": {"resume": "/tmp/x"}}, "no option 'resume'"),
    ("picture", {"model": "tiny", "analysis": "text_loss", "options": {"n": 10**9}}, "expected numbers of at most"),
    ("picture", {"model": "tiny", "analysis": "head_importance", "options": {"source": "/etc/passwd"}}, "plain word"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder):
    return make_server(write_models(folder), output_folder=folder / "reports")


@pytest.mark.parametrize(("tool", "arguments", "said"), REFUSED)
def test_what_cannot_be_is_one_sentence(server, folder, tool, arguments, said):
    arguments = {k: v.replace("FOLDER", str(folder)) if isinstance(v, str) else v for k, v in arguments.items()}
    assert said in sentence_of(call(server, tool, arguments))


def test_a_text_that_names_a_file_is_a_text(server, tmp_path, monkeypatch):
    """No file is opened for a client: what is measured on are the letters of its name."""
    (tmp_path / "abcdefgh").write_text("zyxwvut " * 20)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "png_of", lambda result: (None, "not drawn"))
    asked = {"model": "tiny", "analysis": "text_loss"}
    ids = [39, 40, 41, 42, 43, 44, 45, 46]
    by_text, by_ids = (call(server, "picture", {**asked, **given}) for given in ({"text": "abcdefgh"}, {"ids": ids}))
    assert by_text.structured_content["python"] == by_ids.structured_content["python"]
    assert f"text = torch.tensor({ids})" in by_text.structured_content["python"]
    assert by_text.structured_content["result"] == by_ids.structured_content["result"]


def test_a_crash_is_one_sentence(server, monkeypatch):
    from nanogpt_lens.server.tools import experiment

    def crash(*_, **__):
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(experiment, "same_elsewhere", crash)
    said = sentence_of(call(server, "run", {"model": "tiny", "text": "ab", "interventions": [NONE]}))
    assert said == "this should not have happened (ZeroDivisionError: first line); please report it"


def test_a_server_needs_models_that_are_there(tmp_path):
    with pytest.raises(AnalysisError, match="no model was given"):
        make_server([])
    with pytest.raises(NanoGPTLensError, match="does not exist"):
        make_server([tmp_path / "nothing"])


def test_texts_that_look_like_json_are_texts(server):
    for text in ("null", "[1]", "3", '"a"'):
        result = call(server, "run", {"model": "tiny", "text": text})
        if not result.is_error:  # a vocabulary need not have all of these
            assert "".join(result.structured_content["tokens"]) == text
        else:
            assert "is not among the 65 characters" in sentence_of(result)
