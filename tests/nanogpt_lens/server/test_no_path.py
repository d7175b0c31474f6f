"""No string from outside is opened: the same words as files that are there, in every place of every request."""

from __future__ import annotations

import json
import sys

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.catalogue import ANALYSES
from nanogpt_lens.server.arguments import call_of
from nanogpt_lens.server.refusals import Refusal
from nanogpt_lens.server.schemas import AnalysisBody
from tests.nanogpt_lens.server.requests_of_all import BODIES

BAIT = "bait.txt"
OPENED: list[str] = []
WATCHING: list[bool] = []


def _watch(event, arguments):
    if WATCHING and event in ("open", "os.listdir", "os.scandir", "glob.glob") and arguments:
        OPENED.append(str(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def model(folder):
    return ngl.load(folder)


def baited(value):
    """A body with the bait in place of every string, one at a time."""
    if isinstance(value, str):
        yield BAIT
    elif isinstance(value, dict):
        for key, inner in value.items():
            for some in baited(inner):
                yield {**value, key: some}
    elif isinstance(value, list):
        for i, inner in enumerate(value[:3]):
            for some in baited(inner):
                yield [*value[:i], some, *value[i + 1 :]]


def options_too(analysis):
    """The body with the bait as each option of the analysis as well."""
    body = BODIES.get(analysis, {})
    yield from baited(body)
    for option in ANALYSES[analysis].options():
        yield {**body, "options": {**body.get("options", {}), option: BAIT}}
        yield {**body, "options": {**body.get("options", {}), option: [BAIT]}}
    for field in ("corpus", "text"):
        yield {**body, field: BAIT}


@pytest.mark.parametrize("analysis", ANALYSES)
def test_the_bait_is_never_opened(models, name, model, analysis, tmp_path, monkeypatch):
    (tmp_path / BAIT).write_text("First Citizen: hear me speak " * 40)
    (tmp_path / "bait").mkdir()
    monkeypatch.chdir(tmp_path)
    OPENED.clear()
    tried, called = 0, 0
    for body in options_too(analysis):
        tried += 1
        WATCHING.append(True)
        try:
            parsed = AnalysisBody.model_validate(json.loads(json.dumps(body)))
            call = call_of(ANALYSES[analysis], parsed, models.named(name), model, _no_result)
            if BAIT in json.dumps([body.get("corpus"), body.get("text"), body.get("prompts"), body.get("task")]):
                called += 1
                quiet = {"progress": False} if "progress" in ANALYSES[analysis].options() else {}
                ANALYSES[analysis].function(model, **call.arguments, **quiet)
        except (Refusal, ValueError):
            pass
        finally:
            WATCHING.clear()
    assert tried > 1
    assert not [path for path in OPENED if "bait" in path]
    assert ANALYSES[analysis].looks_at != "corpus" or called or analysis in ("evaluate_sae", "evaluate_lens")


def test_the_watch_would_see_it(model, tmp_path, monkeypatch):
    (tmp_path / BAIT).write_text("First Citizen: hear me speak " * 40)
    monkeypatch.chdir(tmp_path)
    OPENED.clear()
    WATCHING.append(True)
    try:
        ngl.text_loss(model, BAIT, n=4)
    finally:
        WATCHING.clear()
    assert [path for path in OPENED if "bait" in path]


def _no_result(identity):
    raise Refusal("wrong_option", f"there is no result {identity}")
