"""Copy as Python: the script that the page gives prints the numbers that the page shows, for every kind of change."""

from __future__ import annotations

import contextlib
import io
import math
import re
from functools import cache

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.interventions.sites import KINDS
from tests.browser import watched
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.lab.lab_helpers import Requests, exact

pytestmark = pytest.mark.browser
SCRIPT = """async ({state, request}) => {
  window.lab.set(state);
  const {logits} = await window.lab.run(request);
  const base = await window.lab.run({tokens: request.tokens});
  return {python: window.lab.python(), after: logits[state.read], before: base.logits[state.read]};
}"""
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 21, "block_size": 13}
DIRECTIONS = (
    {"token": 5},
    {"neuron": [1, 17]},
    {"difference": {"activation": "resid_post", "layer": 0, "pos": -2}},
    {"stored": 'a "name" \\ with all'},
)


@pytest.fixture(scope="module")
def page(tmp_path_factory, browser):
    folder = tmp_path_factory.mktemp("a model")
    write(folder, seed=5, **SIZES)
    write_meta(folder)
    directions = {'a "name" \\ with all': torch.linspace(-1, 1, 21)}
    file = folder / "lab.html"
    ngl.lab(folder, findings=False, directions=directions, output=file)
    with watched(browser) as opened:
        opened.page.goto(file.as_uri())
        yield opened.page, exact(folder)
        opened.check_silent()


def states(model):
    """One change of every kind from every source, the named directions, and some changes together."""
    requests = Requests(model, seed=9)
    for activation in [*KINDS, "edge"]:
        for source in ("zero", "mean", "other", "scale", "add"):
            request = requests.request(0)
            request["interventions"] = [requests.intervention(len(request["tokens"]), activation, source)]
            yield request
    for direction in DIRECTIONS:
        request = {"tokens": requests.ids(9), "other": requests.ids(9)}
        source = {"add": direction, "scale": -2.5}
        yield request | {"interventions": [{"activation": "resid_mid", "layer": 1, "pos": -1, "source": source}]}
    yield requests.request(3)
    yield requests.request(0)


def chance(logits, answer, wrong):
    if wrong is not None:
        return logits[answer] - logits[wrong]
    most = max(logits)
    return logits[answer] - most - math.log(sum(math.exp(x - most) for x in logits))


def printed(python):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(python, "copied", "exec"), {"__name__": "__main__"})
    return [float(x) for x in re.findall(r": +(-?\d+\.\d+)", said.getvalue())]


@pytest.mark.slow
def test_it_gives_the_pages_numbers(page, monkeypatch):
    opened, model = page
    monkeypatch.setattr(ngl, "load", cache(ngl.load))  # the scripts load it seventy times
    for number, request in enumerate(states(model)):
        wrong = None if number % 2 else 7
        items = [{"on": True, "intervention": one} for one in request["interventions"]]
        off = {"on": False, "intervention": {"activation": "z", "layer": 0, "head": 0, "source": "zero"}}
        state = {
            "version": 1,
            "tokens": request["tokens"],
            "other": request["other"],
            "answer": 3,
            "wrong": wrong,
            "read": len(request["tokens"]) - 1,
            "stacks": {"A": [*items, off], "B": []},
        }
        got = opened.evaluate(SCRIPT, {"state": state, "request": request})
        before, after = printed(got["python"])
        assert before == pytest.approx(chance(got["before"], 3, wrong), abs=2e-5), got["python"]
        assert after == pytest.approx(chance(got["after"], 3, wrong), abs=2e-4 * max(1, abs(after))), got["python"]


def test_texts_come_as_texts(page):
    opened, _ = page
    text = "I'm here\n"
    state = {"version": 1, "tokens": [CHARS.index(c) for c in text], "answer": 0, "stacks": {}}
    python = opened.evaluate("(state) => { window.lab.set(state); return window.lab.python(); }", state)
    assert '''clean = "I'm here\\n"''' in python
