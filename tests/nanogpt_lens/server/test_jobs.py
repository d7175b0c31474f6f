"""Long analyses are jobs: they say how far they are, end when they are told to, wait in a bounded queue."""

from __future__ import annotations

import os
import signal
import time

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.server.pictures import write_picture
from nanogpt_lens.server.refusals import Refusal
from tests.nanogpt_lens.server.requests_of_all import TEXT
from tests.nanogpt_lens.server.test_every_analysis import ask

LONG = {
    "corpus": TEXT,
    "options": {"steps": 10**6, "seq_len": 12, "patience": 10**6, "evaluations": 10**6, "n_test": 4, "n_stop": 4},
    "wait": 0,
}


@pytest.fixture(autouse=True)
def nothing_is_left(client):
    yield
    for job in client.get("/v1/jobs").json()["jobs"]:
        client.delete(job["link"])


def long_one(client, name, seed=0):
    """A job that takes for ever; its link."""
    answer = ask(client, name, "train_tuned_lens", {**LONG, "options": {**LONG["options"], "seed": seed}})
    assert answer.status_code == 202, answer.text[:300]
    assert answer.headers["location"] == answer.json()["job"]["link"]
    return answer.json()["job"]["link"]


def until(client, link, holds, seconds=60):
    """The facts of a job, once something holds of them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        facts = client.get(link).json()["job"]
        if holds(facts):
            return facts
        time.sleep(0.05)
    raise AssertionError(f"it never held: {facts}")


def worker_of(app):
    """The process id of the worker."""
    nursery = app.state.workshop._nursery.pid
    with open(f"/proc/{nursery}/task/{nursery}/children") as file:
        return int(file.read().split()[0])


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_job_says_how_far_it_is_and_is_cancelled_for_real(app, client, name):
    link = long_one(client, name)
    facts = until(client, link, lambda job: job["progress"] and job["progress"]["done"] > 2)
    assert facts["state"] == "running"
    assert facts["progress"]["total"] == 10**6
    later = until(client, link, lambda job: job["progress"]["done"] > facts["progress"]["done"])
    assert later["position"] is None
    early = client.get(f"{link}/result")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_done")
    worker = worker_of(app)
    answer = client.delete(link)
    assert answer.json()["job"]["state"] == "cancelled"
    assert gone(worker)
    after = client.get(f"{link}/result")
    assert (after.status_code, after.json()["error"]["code"]) == (409, "cancelled")
    assert ask(client, name, "copying_score", {"options": {"seed": 5}}).status_code == 200


def test_a_queue_has_an_order_and_an_end(app, client, name, monkeypatch):
    monkeypatch.setattr(app.state.jobs, "waiting", 2)
    links = [long_one(client, name, seed) for seed in (1, 2, 3)]
    until(client, links[0], lambda job: job["state"] == "running")
    assert [client.get(link).json()["job"]["position"] for link in links] == [None, 0, 1]
    full = ask(client, name, "train_tuned_lens", {**LONG, "options": {**LONG["options"], "seed": 4}})
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) > 0
    assert client.delete(links[1]).json()["job"]["state"] == "cancelled"
    assert client.get(links[2]).json()["job"]["position"] == 0
    client.delete(links[0])
    until(client, links[2], lambda job: job["state"] == "running")


def test_a_job_that_takes_too_long_is_stopped(app, client, name, monkeypatch):
    monkeypatch.setattr(app.state.jobs, "seconds", 1.0)
    answer = ask(client, name, "train_tuned_lens", {**LONG, "options": {**LONG["options"], "seed": 8}, "wait": 60})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_long")
    failed = [job for job in client.get("/v1/jobs").json()["jobs"] if job["state"] == "failed"][-1]
    assert failed["error"]["code"] == "too_long"
    assert client.get(f"{failed['link']}/result").json()["error"]["code"] == "too_long"


def test_a_regular_expression_that_never_ends_is_cancelled(client, name):
    """One that holds Python's lock: no thread of the worker could stop it."""
    body = {"corpus": "a" * 2000, "options": {"predicate": "re:(a*)*b"}, "wait": 0.5}
    answer = ask(client, name, "find_neurons", body)
    assert answer.status_code == 202, answer.text[:300]
    assert client.delete(answer.json()["job"]["link"]).json()["job"]["state"] == "cancelled"


def test_a_worker_that_dies_is_told_and_replaced(app, client, name):
    link = long_one(client, name, seed=9)
    until(client, link, lambda job: job["progress"])
    os.kill(worker_of(app), signal.SIGKILL)
    facts = until(client, link, lambda job: job["state"] != "running")
    assert (facts["state"], facts["error"]["code"]) == ("failed", "worker_died")
    assert client.get(f"{link}/result").status_code == 500
    assert ask(client, name, "copying_score", {"options": {"seed": 6}}).status_code == 200
    os.kill(worker_of(app), signal.SIGKILL)  # while it has nothing to do
    time.sleep(0.3)
    assert ask(client, name, "copying_score", {"options": {"seed": 7}}).status_code == 200


def test_an_analysis_that_needs_too_much_memory_is_one_sentence(client, name):
    body = {"options": {"n": 10**8, "seq_len": 12}}
    answer = ask(client, name, "prefix_matching", body)
    assert answer.status_code in (413, 422), answer.text[:300]
    assert answer.json()["error"]["code"] in ("too_large", "refused")
    assert ask(client, name, "copying_score", {"options": {"seed": 11}}).status_code == 200


def test_the_same_request_is_answered_from_what_was_made(app, client, name):
    first = ask(client, name, "copying_score", {"options": {"seed": 20}}).json()
    again = ask(client, name, "copying_score", {"options": {"seed": 20}}).json()
    assert (first["cached"], again["cached"]) == (False, True)
    assert first["result"] == again["result"]
    assert again["job"] == first["job"]
    spelled = ask(client, name, "copying_score", {"options": {"seed": 20, "method": "eigenvalues"}}).json()
    assert spelled["cached"]  # by the key of the call, which has the defaults
    assert spelled["job"] != first["job"]
    while_busy = long_one(client, name, seed=21)
    until(client, while_busy, lambda job: job["state"] == "running")
    assert ask(client, name, "copying_score", {"options": {"seed": 20}}).json()["cached"]


def test_finished_jobs_are_kept_for_a_while(app, client, name, monkeypatch):
    monkeypatch.setattr(app.state.jobs, "kept", 3)
    links = [
        f"/v1/jobs/{ask(client, name, 'copying_score', {'options': {'seed': s}}).json()['job']}" for s in range(30, 35)
    ]
    assert [client.get(link).status_code for link in links] == [404, 404, 200, 200, 200]
    kept = {job["id"] for job in client.get("/v1/jobs").json()["jobs"]}
    files = {path.stem for path in (app.state.workshop.place.folder / "answers").iterdir()}
    assert files <= kept
    assert not list((app.state.workshop.place.folder / "tasks").iterdir())


def test_a_picture_is_a_page_that_needs_no_network(client, name):
    body = {"wait": 60, "options": {"seed": 40}}
    page = client.post(f"/v1/models/{name}/analyses/copying_score?format=html", json=body)
    assert page.headers["content-type"].startswith("text/html")
    assert "sandbox" in page.headers["content-security-policy"]
    assert "plotly" in page.text
    assert 'src="http' not in page.text
    accepted = client.post(
        f"/v1/models/{name}/analyses/copying_score", json=body, headers={"accept": "text/html;q=0.9, */*"}
    )
    assert accepted.headers["x-job"] == page.headers["x-job"]
    as_json = client.get(f"/v1/jobs/{page.headers['x-job']}/result?format=json").json()
    assert as_json["result"]["kind"] == "Scores"
    numbers = ask(client, name, "copying_score", {"options": {"seed": 40}}).json()
    drawn = client.get(f"/v1/jobs/{numbers['job']}/result?format=html")
    assert (drawn.status_code, "plotly" in drawn.text) == (200, True)
    picture = f"/v1/jobs/{drawn.headers['x-job']}/result"
    assert "plotly" in client.get(picture).text
    numberless = client.get(f"{picture}?format=json")
    assert (numberless.status_code, numberless.json()["error"]["code"]) == (404, "not_found")
    assert "drew a picture of an earlier job's result" in numberless.json()["error"]["message"]


def test_without_a_browser_svg_is_one_sentence(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    result = ngl.copying_score(ngl.load(folder))
    with pytest.raises(Refusal, match="expected a path of Chromium; format=html needs neither") as caught:
        write_picture(result, "svg", tmp_path / "a.svg")
    assert caught.value.code == "no_picture"
