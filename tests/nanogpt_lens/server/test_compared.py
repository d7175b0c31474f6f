"""Two of the models compared over HTTP: `ngl.compare`, as a job of the worker."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from starlette.testclient import TestClient

from nanogpt_lens.compare.comparing import PARTS
from nanogpt_lens.server import work
from nanogpt_lens.server.app import close_app, create_app
from nanogpt_lens.server.schemas import ComparedPart
from nanogpt_lens.server.served import ServedModels
from tests.making import write, write_meta
from tests.nanogpt_lens.server.conftest import TOKEN

TEXT = "abc def ghi abc def ghi " * 20
BODY = {"a": "before", "b": "after", "text": TEXT, "parts": ["weights", "outputs"], "search": False, "seed": 3}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    for seed, name in enumerate(("before", "after")):
        write(folder / name, seed=seed, block_size=16)
        write_meta(folder / name)
    return ServedModels([folder / "before", folder / "after"])


@pytest.fixture(scope="module")
def both(pair):
    app = create_app(pair, token=TOKEN)
    yield TestClient(app, base_url="http://localhost", headers={"Authorization": f"Bearer {TOKEN}"})
    close_app(app)


def test_the_parts_are_those_of_compare():
    assert get_args(ComparedPart) == PARTS


@pytest.mark.slow
def test_it_is_the_direct_call(pair, tmp_path):
    """In the worker's own class, whose Python is run here."""
    for folder in ("tasks", "answers", "cache", "stage"):
        (tmp_path / folder).mkdir()
    place = work.Workplace(folder=tmp_path, cache=tmp_path / "cache", stage=tmp_path / "stage", kept=None, memory=None)
    place.task_file("1").write_text(json.dumps({"compare": BODY, "format": "json"}))
    facts = work.Worker(pair, place, lambda _: None)._do("1")
    said = json.loads(place.answer_file("1").read_text())
    assert facts["result_id"] is None
    assert (said["kind"], said["names"], list(said["parts"])) == (
        "ModelComparison",
        ["before", "after"],
        BODY["parts"][::-1],
    )
    here: dict = {}
    exec(place.answer_file("1", "py").read_text(), here)
    assert said == json.loads(json.dumps(here["result"].to_json()))
    assert said["parts"]["weights"]["rows"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"a": "before", "b": "before"}, 422, "a and b are both 'before'"),
        ({"a": "before", "b": "aftr"}, 404, "did you mean 'after'"),
        ({"a": "before"}, 422, "b is missing"),
        ({"a": "before", "b": "after", "parts": []}, 422, "parts"),
        ({"a": "before", "b": "after", "parts": ["nothing"]}, 422, "parts"),
        ({"a": "before", "b": "after", "text": [-1] * 9}, 422, "text"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(both, body, status, words):
    answer = both.post("/v1/compare", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


@pytest.mark.slow
def test_over_http_it_is_a_job(both):
    said = both.post("/v1/compare", json={**BODY, "wait": 60})
    assert said.status_code == 200, said.text[:300]
    assert (said.json()["analysis"], said.json()["result_id"]) == ("compare", None)
    assert said.json()["result"]["sentences"]
    job = said.json()["job"]
    assert both.get(f"/v1/jobs/{job}/result").json()["result"] == said.json()["result"]
    picture = both.get(f"/v1/jobs/{job}/result?format=html")
    assert (picture.status_code, picture.json()["error"]["code"]) == (422, "no_picture")
    assert both.post("/v1/compare", json={**BODY, "wait": 0}).json()["cached"]
