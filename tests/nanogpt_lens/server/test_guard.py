"""Who may ask, how much, and for what: everything else is refused with a code and one sentence."""

from __future__ import annotations

import asyncio
import json
import re
import time
import tracemalloc

import pytest
from starlette.testclient import TestClient

from nanogpt_lens.server.guard import COOKIE, Keys
from nanogpt_lens.server.refusals import STATUSES
from tests.nanogpt_lens.server.conftest import TOKEN

GOOD = {"Authorization": f"Bearer {TOKEN}"}


def refused(answer, status, code):
    """The sentence of a refusal, after a look at its form."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert set(said) == {"error"}
    assert set(said["error"]) == {"code", "message"}
    assert said["error"]["code"] == code
    assert STATUSES[code] == status
    message = said["error"]["message"]
    assert "\n" not in message
    assert "Traceback" not in message
    assert 10 < len(message) <= 600
    return message


def bare(app, **headers):
    return TestClient(app, base_url="http://localhost", headers=headers)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/jobs", "/docs", "/openapi.json", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": "Bearer "},
        {"Cookie": f"{COOKIE}={TOKEN}"},
        {"Cookie": f"{COOKIE}="},
    ],
)
def test_without_the_token_there_is_nothing(app, path, headers):
    answer = bare(app, **headers).get(path)
    refused(answer, 401, "no_token")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "a@localhost", "localhost/x", "local:host:1"],
)
def test_another_host_is_refused(app, host):
    refused(bare(app, **GOOD, Host=host).get("/v1/models"), 403, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:80", "LOCALHOST"])
def test_its_own_names_are_heard(app, host):
    assert bare(app, **GOOD, Host=host).get("/v1/models").status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "https://localhost", ""])
def test_another_origin_is_refused(app, origin):
    refused(bare(app, **GOOD, Origin=origin).get("/v1/models"), 403, "wrong_origin")
    answer = bare(app, **GOOD, Origin=origin).options("/v1/models")
    refused(answer, 403, "wrong_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_its_own_pages_may_ask(app):
    answer = bare(app, **GOOD, Origin="http://localhost").get("/v1/models")
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    refused(bare(app, **GOOD, **{"Sec-Fetch-Site": "cross-site"}).get("/v1/models"), 403, "wrong_origin")


def test_a_browser_is_let_in_once(app, monkeypatch):
    monkeypatch.setattr(app.state.keys, "page", "the key")
    browser = bare(app)
    answer = browser.get("/docs?token=the%20key&x=1", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs?x=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert browser.get("/docs").text.startswith("<!doctype html>")
    refused(bare(app).get("/docs?token=the%20key"), 401, "no_token")
    refused(browser.get("/docs", headers={"Origin": "https://evil.example"}), 403, "wrong_origin")


def test_the_key_leads_to_a_page_that_leads_to_every_lab(app, monkeypatch, models):
    monkeypatch.setattr(app.state.keys, "page", "the key")
    browser = bare(app)
    page = browser.get("/?token=the%20key")
    assert page.status_code == 200
    links = re.findall(r'href="([^"]+)"', page.text)
    assert links == [*(f"/lab/{one.name}" for one in models), "/docs"]
    assert [browser.get(link).status_code for link in links] == [200] * len(links)
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}  # what the lab's page sends, with the cookie
    assert browser.post(f"{links[0]}/run", json={"tokens": [1]}, headers=own).status_code == 200
    assert browser.post(f"{links[0]}/run", json={"tokens": [1]}, headers={"Origin": "http://evil"}).status_code == 403


def test_two_servers_of_a_host_have_two_cookies():
    names = [Keys(TOKEN, port=port).cookie for port in (8000, 8001)]
    assert names == [f"{COOKIE}_8000", f"{COOKIE}_8001"]


def test_the_key_leads_nowhere_else(app, monkeypatch):
    monkeypatch.setattr(app.state.keys, "page", "the key")
    answer = bare(app).get("//evil.example/docs?token=the%20key", follow_redirects=False)
    assert answer.headers.get("location", "/").startswith("/")
    assert not answer.headers.get("location", "/").startswith("//")


def asked(app, chunks, headers=()):
    """The status and the body of a POST whose body comes in pieces, straight to the application."""
    sent: list = []
    pieces = iter(chunks)

    async def receive():
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/models/x/run",
        "raw_path": b"/v1/models/x/run",
        "query_string": b"",
        "headers": [
            (b"host", b"localhost"),
            (b"authorization", f"Bearer {TOKEN}".encode()),
            (b"content-type", b"application/json"),
            *headers,
        ],
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("headers", [(), ((b"content-length", b"100000000"),)])
def test_a_body_of_100_mb_is_refused_and_never_in_memory(app, headers):
    tracemalloc.start()
    status, body = asked(app, (bytes(2**20) for _ in range(100)), headers)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    assert peak < 12 * 2**20


def test_a_lie_about_the_length_does_not_help(app):
    status, body = asked(app, (bytes(2**20) for _ in range(100)), ((b"content-length", b"10"),))
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    assert asked(app, [b"{}"], ((b"content-length", b"-1"),))[0] == 400


def test_a_body_that_does_not_come_is_refused(app):
    from nanogpt_lens.server.guard import Guard, Keys

    async def receive():
        await asyncio.sleep(60)

    guarded = Guard(app, keys=Keys(TOKEN), hosts=["localhost"], seconds=0.05)
    sent: list = []

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {"type": "http", "method": "POST", "scheme": "http", "path": "/", "query_string": b"", "headers": headers}
    asyncio.run(guarded(scope, receive, send))
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    "model",
    [
        "..",
        "../../etc/passwd",
        "%2Fetc%2Fpasswd",
        "/etc/passwd",
        "ckpt.pt",
        "..%2F..%2Fcheckpoints",
        "induction",
        "%00",
    ],
)
def test_a_path_is_no_model(client, name, folder, model):
    encoded = str(folder).replace("/", "%2F")
    for path in (model, str(folder), str(folder / "ckpt.pt"), encoded, f"{name}%2F..%2F{name}"):
        answer = client.get(f"/v1/models/{path}")
        assert answer.status_code in (404, 405)
        refused(answer, answer.status_code, answer.json()["error"]["code"])
    assert client.post(f"/v1/models/{model}/run", json={"text": "a"}).status_code in (404, 405)


def test_a_model_that_was_not_named_is_refused_with_the_nearest(client):
    message = refused(client.get("/v1/models/handmade_inductin"), 404, "no_such_model")
    assert "did you mean 'handmade_induction'?" in message


def test_an_unknown_analysis_is_refused_with_the_nearest(client, name):
    answer = client.post(f"/v1/models/{name}/analyses/find_circut", json={})
    assert "did you mean 'find_circuit'?" in refused(answer, 404, "no_such_analysis")


@pytest.mark.parametrize(
    ("analysis", "body", "words"),
    [
        ("copying_score", {"options": {"sed": 1}}, "has no option 'sed'.*did you mean 'seed'"),
        ("copying_score", {"options": {"n": "many"}}, 'n is "many"; expected a whole number'),
        ("copying_score", {"options": {"n": True}}, "n is true; expected a whole number"),
        ("copying_score", {"options": {"n": 10**12}}, "number beyond"),
        ("copying_score", {"options": {"method": "best"}}, 'method is "best"; expected one of eigenvalues, logits'),
        ("copying_score", {"options": {"n": 0}}, "expected"),
        ("copying_score", {"corpus": "text"}, "takes no corpus, for it looks at weights"),
        ("copying_score", {"option": {}}, "there is no field 'option'"),
        ("copying_score", {"wait": 1000}, "wait"),
        ("copying_score", {"options": {"progress": True}}, "progress cannot be given here"),
        ("train_tuned_lens", {"corpus": "text", "options": {"resume": "/tmp/x"}}, "it is a path on the server"),
        ("search_neurons", {"corpus": "text", "options": {"sae": "x"}}, "live object"),
        ("search_neurons", {}, "needs corpus"),
        ("attention_patterns", {}, "needs text"),
        ("activation_patching", {"options": {"activation": "z", "axes": ["head"]}}, "needs metric"),
        ("find_circuit", {"metric": {"name": "loss"}}, "needs prompts"),
        ("find_circuit", {"prompts": {}, "metric": {"name": "loss"}}, "prompts need clean, or a task"),
        ("find_circuit", {"prompts": {"task": "induction"}, "options": {"memory": 10**9}}, "at most 268435456"),
        ("find_circuit", {"prompts": {"task": "/etc"}}, "prompts.task"),
        ("task_heads", {"task": {"name": "/etc"}}, "task.name"),
        ("task_heads", {"task": {"name": "trigger_bigrams"}}, "needs a text"),
        ("scrub", {"text": "abc", "options": {"hypothesis": "/etc/passwd"}}, "expected an object"),
        ("evaluate_lens", {"corpus": "abc", "options": {"lens": {"result": "../../x"}}}, "result_id"),
        ("evaluate_lens", {"corpus": "abc", "options": {"lens": {"result": "x-" + "0" * 24}}}, "there is no result"),
        ("logit_lens", {"text": "a€"}, "€"),
        ("logit_lens", {"text": [999]}, "has the token 999; expected ids from 0 to 64"),
        ("logit_lens", {"text": "\ud800"}, "."),
        ("text_loss", {"corpus": [[1, 2], [3]]}, "rows of several lengths"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(client, name, analysis, body, words):
    answer = client.post(
        f"/v1/models/{name}/analyses/{analysis}",
        content=json.dumps({"wait": 60, **body}),
        headers={"content-type": "application/json"},
    )
    code = answer.json()["error"]["code"]
    message = refused(answer, STATUSES[code], code)
    assert answer.status_code in (400, 422)
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("run", "text"),
        ("run", "reference"),
        ("analyses/text_loss", "corpus"),
        ("analyses/logit_lens", "text"),
        ("run", "metric"),
    ],
)
@pytest.mark.parametrize(
    "wrong",
    [[-1] * 1_040_000, [[-1]] * 200_000, [[-1] * 1_000_000], ["", *["a"] * 4000], [True] * 600_000, [1] * 1_040_000],
    ids=["ids", "rows", "row", "texts", "booleans", "many"],
)
def test_a_body_full_of_mistakes_is_refused_at_the_first(client, name, path, field, wrong):
    """It took seconds and gigabytes to say each of them."""
    value = {"name": "logit_diff", "answer": wrong} if field == "metric" else wrong
    content = json.dumps({"text": "a", field: value}).encode()
    began = time.monotonic()
    answer = client.post(f"/v1/models/{name}/{path}", content=content, headers={"content-type": "application/json"})
    assert time.monotonic() - began < 6
    assert field in refused(answer, 422, "wrong_option")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"options": {"n": ' + b"[" * 500 + b"]" * 500 + b"}}", "application/json", 422),
        (b"\xff\xfe", "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{}", "", 415),
        (b"[]", "application/json", 422),
        (b"", "application/json", 422),
        (b'{"options": {"n": NaN}}', "application/json", 422),
        (b'{"options": {"n": 1e999}}', "application/json", 422),
        (b'{"options": {"n": ' + b"9" * 5000 + b"}}", "application/json", 400),
    ],
)
def test_what_is_no_request_is_one_sentence(client, name, content, kind, status):
    answer = client.post(f"/v1/models/{name}/analyses/copying_score", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text[:300]
    refused(answer, status, answer.json()["error"]["code"])


def test_what_is_not_there_is_one_sentence(client):
    refused(client.get("/v2"), 404, "not_found")
    answer = client.put("/v1/models")
    refused(answer, 405, "wrong_method")
    assert answer.headers["allow"] == "GET"
    refused(client.get("/v1/jobs/9"), 404, "no_such_job")
    refused(client.delete("/v1/jobs/9"), 404, "no_such_job")


def test_what_should_not_happen_shows_no_traceback(client, name, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.server.routes.run_of", lambda *_: 1 / 0)
    message = refused(client.post(f"/v1/models/{name}/run", json={"text": "a"}), 500, "internal")
    assert "ZeroDivisionError" in message
    assert "division by zero" not in message
