"""`nanogpt-lens serve`: what it needs, and what it refuses before it hears."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys

import pytest

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server import serving
from nanogpt_lens.server.served import ServedModels
from tests.nanogpt_lens.cli.test_cli import run


@pytest.mark.parametrize("imported", ["import nanogpt_lens", "import nanogpt_lens.cli.app"])
def test_nothing_of_the_extra_is_imported_before_it_is_used(imported):
    code = (
        f"{imported}; import sys; print([m for m in ('fastapi', 'uvicorn', 'pydantic', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("missing", ["uvicorn", "fastapi"])
def test_without_the_extra_there_is_one_sentence(monkeypatch, missing):
    for module in [name for name in sys.modules if name.startswith("nanogpt_lens.server.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = run("serve", "induction", "--port", 0)
    assert (code, out) == (2, "")
    assert err.strip() == f"error: serving needs {missing}, which is not installed; `pip install fastapi uvicorn`"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "paths"),
        (("inducton",), "did you mean 'induction'"),
        (("induction", "induction"), "was given twice"),
        (("induction", "--port", 99999), "65535"),
        (("induction", "--token-file", "/nowhere/token", "--port", 0), "/nowhere/token cannot be written"),
        (("induction", "--host", "203.0.113.7", "--port", 0), "203.0.113.7:0 cannot be had"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(args, words):
    code, _, err = run("serve", *args)
    assert code == 2
    assert words in " ".join(err.split())


def test_another_host_is_warned_about():
    _, _, err = run("serve", "induction", "--host", "203.0.113.7", "--port", 0)
    assert "warning: on 203.0.113.7 other machines can ask" in err
    assert "Other machines are refused until --allowed-host has the name they ask for" in " ".join(err.split())


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("::1", "http://[::1]:8000"),
        ("example.org", "http://example.org:8000"),
    ],
)
def test_the_address_that_is_printed_is_one_that_is_heard(host, url):
    assert serving._url(host, 8000) == url


def test_a_port_that_is_taken_is_one_sentence():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(AnalysisError, match=r"cannot be had .*; expected a free port"):
            serving.serve(ServedModels(["induction"]), port=other.getsockname()[1])


def test_a_token_is_its_owners_and_gone_at_the_end(tmp_path, monkeypatch):
    """The server is told to end as soon as it hears."""
    file = tmp_path / "token"
    file.write_text("an old one that all may read")
    file.chmod(0o644)
    seen = []

    def started(server):
        seen.append((server, stat.S_IMODE(file.stat().st_mode), file.read_text()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serving.serve(ServedModels(["induction"]), port=0, token_file=file, started=started)
    server, mode, text = seen[0]
    assert (mode, text) == (0o600, server.token + "\n")
    assert len(server.token) >= 40
    assert not file.exists()
    assert json.dumps(server.url).startswith('"http://127.0.0.1:')
    assert server.page.startswith(f"{server.url}/?token=")
    assert server.labs == {"induction": f"{server.url}/lab/induction"}
