"""The whole catalogue over HTTP: every answer is what the direct call gives, to the last digit."""

from __future__ import annotations

import json

import pytest

from nanogpt_lens.catalogue import ANALYSES
from tests.nanogpt_lens.server.requests_of_all import BODIES, MODELS, NOT_AVAILABLE


def ask(client, name, analysis, body=None):
    return client.post(f"/v1/models/{name}/analyses/{analysis}", json={"wait": 60, **(body or {})})


def body_of(client, name, analysis):
    """The body of an analysis; where it takes an earlier result, that is made first."""
    body = json.loads(json.dumps(BODIES[analysis]))
    for option in body["options"].values():
        if isinstance(option, dict) and "result" in option:
            earlier = ask(client, name, option["result"], BODIES[option["result"]])
            option["result"] = earlier.json()["result_id"]
    return body


def without_seconds(result):
    """A result without how long something took, which `grade_circuit_methods` measures."""
    return {**result, "rows": [row for row in result["rows"] if row.get("score_label") != "seconds"]}


@pytest.mark.parametrize("analysis", BODIES)
def test_an_answer_is_the_direct_call(client, name, analysis):
    """The Python of the answer is run here, in another process than the one that made the answer."""
    answer = ask(client, MODELS.get(analysis, name), analysis, body_of(client, name, analysis))
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert said["schema_version"] == 1
    assert "load_result" not in said["python"]  # an earlier result is made again: its folder is the server's
    here: dict = {}
    exec(said["python"], here)
    direct = json.loads(json.dumps(here["result"].to_json()))
    assert without_seconds(said["result"]) == without_seconds(direct)
    assert said["result"]["kind"] == ANALYSES[analysis].result or analysis == "get_neuron_activations"
    assert said["result"]["rows"]


def test_the_list_says_what_can_be_asked(client):
    listed = client.get("/v1/analyses").json()["analyses"]
    assert [one["name"] for one in listed] == list(ANALYSES)
    for one in listed:
        assert one["available"] == (one["name"] not in NOT_AVAILABLE)
        assert bool(one["reason"]) == (not one["available"])
        by_name = {option["name"]: option for option in one["options"]}
        for option in BODIES.get(one["name"], {}).get("options", {}):
            assert by_name[option]["json_schema"] is not None
        for option in by_name.values():
            assert option["needed"] == (option["name"] in ANALYSES[one["name"]].needs())


@pytest.mark.parametrize("analysis", NOT_AVAILABLE)
def test_what_needs_a_live_object_is_refused_with_the_reason(client, name, analysis):
    answer = ask(client, name, analysis, {"corpus": "some text"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_available")
    assert "live object" in answer.json()["error"]["message"]
