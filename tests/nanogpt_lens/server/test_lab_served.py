"""The page whose engine is Python on the server: the routes, and in Chromium the numbers of the page's own engine."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi import FastAPI
from fastapi.testclient import TestClient

import nanogpt_lens as ngl
from nanogpt_lens.server.lab_calls import LabCalls, check_stopped
from nanogpt_lens.server.lab_routes import router
from nanogpt_lens.server.served import ServedModels
from tests.browser import Watched, launched
from tests.making import write
from tests.nanogpt_lens.lab.lab_helpers import Requests, until

SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 21, "block_size": 13}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write(tmp_path_factory.mktemp("served") / "tiny", seed=3, **SIZES)


@pytest.fixture(scope="module")
def app(checkpoint):
    app = FastAPI()
    models = ServedModels([checkpoint])
    app.state.lab = LabCalls(models)
    app.include_router(router(models, app.state.lab))
    yield app
    app.state.lab.close()


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app)


def unpacked(content):
    (size,) = struct.unpack("<I", content[:4])
    return json.loads(content[4 : 4 + size]), content[4 + size :]


def test_the_page_has_no_weights_and_may_ask_its_own_server_alone(client, checkpoint):
    page = client.get("/lab/tiny")
    assert page.status_code == 200
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    assert "connect-src 'self'; style-src" in page.text
    assert "wasm-unsafe-eval" not in page.text.partition("<script>")[0]
    whole = ngl.lab(checkpoint, findings=False)
    assert "connect-src" not in whole.html().partition("<script>")[0]
    assert len(page.content) < len(whole.html()) - len(whole.weights)


def test_a_run_over_http_is_that_of_intervene(client, checkpoint):
    model = ngl.load(checkpoint)
    request = {"tokens": [1, 2, 3], "interventions": [{"place": "0.1", "source": "zero"}], "activations": ["z"]}
    answer = client.post("/lab/tiny/run", json=request)
    assert answer.headers["content-type"] == "application/octet-stream"
    said, numbers = unpacked(answer.content)
    expected = ngl.intervene(model, [1, 2, 3], request["interventions"], activations=["z"])
    got = np.frombuffer(numbers, dtype="<f4", count=3 * 65, offset=said["logits"]["at"])
    assert said["logits"]["shape"] == [3, 65]
    np.testing.assert_allclose(got.reshape(3, 65), expected.values[0].numpy(), atol=1e-5)
    assert set(said["activations"]) == set(expected.activations)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/lab/nothing/run", {"tokens": [1]}, 404, "there is no model 'nothing' here; expected tiny"),
        ("/lab/tiny/steal", {"tokens": [1]}, 422, "there is no task 'steal'"),
        ("/lab/tiny/run", {"tokens": "/etc/passwd"}, 422, "expected a list of ids"),
        ("/lab/tiny/run", {"tokens": [1], "interventions": [{"place": "8.8"}]}, 422, "there is no layer 8"),
    ],
)
def test_what_cannot_be_is_one_sentence(client, path, body, status, said):
    answer = client.post(path, json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert said in error["message"]
    assert "\n" not in error["message"]
    assert error["code"]


def test_a_page_of_a_model_that_is_not_there_is_refused(client):
    assert client.get("/lab/..%2Ftiny").status_code in (404, 405, 422)
    assert client.get("/lab/nothing").json()["error"]["message"].startswith("there is no model")


LONG = {"tokens": [1, 2], "n": 1024}


def test_what_takes_too_long_is_stopped(app, client, monkeypatch):
    monkeypatch.setattr(app.state.lab, "seconds", 0.05)
    for task, request in (
        ("sample", LONG),
        ("sweep", {"tokens": [1] * 13, "candidates": [[{"place": "0.1"}]] * 512, "metric": {"answer": 1}}),
    ):
        answer = client.post(f"/lab/tiny/{task}", json=request)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "too_long"), answer.text[:200]


def test_who_leaves_is_not_computed_for(app, client, monkeypatch):
    """A request whose client has gone ends between two tokens, and the next one is answered."""
    assert client.post("/lab/tiny/run", json={"tokens": [1]}).status_code == 200  # it is loaded
    heard = []

    def forever(*_):
        heard.append("begun")
        try:
            while True:
                check_stopped()
                time.sleep(0.01)
        except BaseException as error:
            heard.append(error.code)
            raise

    monkeypatch.setattr("nanogpt_lens.server.lab_engine.sample", forever)
    with serving(app) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps(LONG).encode()
        kind = "Content-Type: application/json"
        head = f"POST /lab/tiny/sample HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {len(body)}"
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(head.encode() + b"\r\n\r\n" + body)
            wait_for(lambda: heard == ["begun"])
        wait_for(lambda: heard == ["begun", "cancelled"])
    assert client.post("/lab/tiny/run", json={"tokens": [1]}).status_code == 200


def wait_for(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def serving(app):
    """The address of a server on this machine."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


RUN = """async (requests) => {
  const out = [];
  for (const one of requests) out.push(await window.lab.run(one));
  return out;
}"""
OTHERS = """async ({request, metric, candidates}) => {
  const listed = (_, one) => (ArrayBuffer.isView(one) ? Array.from(one) : one);
  const plain = (value) => JSON.parse(JSON.stringify(value, listed));
  const swept = await window.lab.sweep({ ...request, metric, candidates });
  const lens = await window.lab.lens({ ...request, answer: metric.answer });
  const contributions = await window.lab.contributions({ ...request, metric });
  const sampled = await window.lab.sample({ ...request, n: 25, temperature: 0.9, top_k: 20, seed: 5 });
  return plain({ values: swept.values, base: swept.base, lens, contributions, ids: sampled.ids });
}"""


@pytest.fixture(scope="module")
def browser():
    """Chromium that finds this machine."""
    with launched(loopback=True) as found:
        yield found


@pytest.fixture
def both(browser, app, checkpoint, tmp_path):
    """The page that asks the server, and the page with the engine inside; the requests of the first are looked at."""
    file = tmp_path / "lab.html"
    with serving(app) as address:
        context = browser.new_context(reduced_motion="reduce")
        served = Watched(context)
        served.page.goto(f"{address}/lab/tiny")
        whole = Watched(context)
        ngl.lab(checkpoint, findings=False, output=file)
        whole.page.goto(file.as_uri())
        yield served, whole, address
        assert served.said == []
        assert all(url.startswith(f"{address}/") for url in served.asked)
        whole.check_silent()
        context.close()


@pytest.mark.browser
@pytest.mark.slow
def test_the_served_page_has_the_numbers_of_the_page_with_the_engine_inside(both, checkpoint):
    served, whole, address = both
    requests = Requests(ngl.load(checkpoint), seed=9)
    asked = [requests.request() for _ in range(20)]
    one, other = (page.page.evaluate(RUN, asked) for page in (served, whole))
    for got, expected in zip(one, other, strict=True):
        got, expected = np.array(got["logits"]), np.array(expected["logits"])
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert sum(url == f"{address}/lab/tiny/run" for url in served.asked) >= 20


@pytest.mark.browser
@pytest.mark.slow
def test_every_other_task_agrees_too(both, checkpoint):
    served, whole, _ = both
    requests = Requests(ngl.load(checkpoint), seed=10)
    for i in range(4):
        request = requests.request(i)
        candidates = [[requests.intervention(len(request["tokens"]))] for _ in range(3)]
        question = {"request": request, "metric": {"answer": 3, "wrong": 8, "pos": -1}, "candidates": candidates}
        one, other = (page.page.evaluate(OTHERS, question) for page in (served, whole))
        assert set(one) == set(other)
        for name in ("values", "base"):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-4)
        assert one["lens"]["rows"] == other["lens"]["rows"]
        assert one["lens"]["shape"] == other["lens"]["shape"]
        assert one["lens"]["top"] == other["lens"]["top"]
        for name in ("prob", "answer"):
            np.testing.assert_allclose(one["lens"][name], other["lens"][name], atol=1e-5)
        assert set(one["contributions"]) == set(other["contributions"])
        for name, value in other["contributions"].items():
            np.testing.assert_allclose(one["contributions"][name], value, rtol=1e-3, atol=1e-3)
        assert one["ids"] == other["ids"]


@pytest.mark.browser
@pytest.mark.slow
def test_the_served_page_proves_itself_and_shows_numbers(both):
    served, _, _ = both
    text = "document.querySelector('.nanogpt-lens-lab').shadowRoot.textContent"
    until(served.page, f"{text}.includes('equal to PyTorch on the server')", seconds=60)
    outcome = served.page.evaluate("window.lab.proof")
    assert outcome["equal"]
    assert outcome["n"] > 60
    assert outcome["mode"] == "server"


@pytest.mark.browser
@pytest.mark.slow
def test_a_newer_request_cancels_an_older_one_on_its_channel(both):
    served, _, _ = both
    outcome = served.page.evaluate(
        """async () => {
          const request = { tokens: [1, 2, 3], candidates: [], metric: { answer: 1 }, channel: "one" };
          const older = window.lab.sweep(request).then(() => "done", (error) => error.name);
          const newer = window.lab.sweep(request).then(() => "done", (error) => error.name);
          return [await older, await newer];
        }"""
    )
    assert outcome == ["Cancelled", "done"]


@pytest.mark.browser
@pytest.mark.slow
def test_what_the_server_refuses_is_said_in_the_page(both):
    served, _, _ = both
    said = served.page.evaluate("window.lab.run({ tokens: [1000] }).catch((error) => error.message)")
    assert "expected ids from 0 to 64" in said
    served.said.clear()  # Chromium writes a refused request to the console
