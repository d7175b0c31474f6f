"""docs/SERVING.md is true: its client runs as it is written, against a server; its table has all routes and codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt_lens.server.refusals import STATUSES

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "SERVING.md").read_text().partition("<!-- as MCP")[0]
CLIENT, PYTHON = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.DOTALL)


@pytest.mark.slow
def test_the_client_runs_as_written(tmp_path, monkeypatch, capsys):
    """But for the port, which is one that is free."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "nanogpt_lens", "serve", "shakespeare_char", "induction", "--token-file", "token"]
    with subprocess.Popen(
        [*command, "--port", "0", "--json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            monkeypatch.chdir(tmp_path)
            assert "http://127.0.0.1:8000" in CLIENT
            exec(CLIENT.replace("http://127.0.0.1:8000", url), {})
        finally:
            process.terminate()
    printed = capsys.readouterr().out
    assert "result = ngl.copying_score(model, method='eigenvalues')" in printed
    assert printed.rstrip().endswith("False")
    assert not (tmp_path / "token").exists()


def test_a_client_is_ten_lines():
    assert len([line for line in CLIENT.splitlines() if line]) <= 10


def test_the_application_is_made_as_written():
    exec(PYTHON, {})


def test_the_table_has_all_routes_and_codes(tmp_path):
    from nanogpt_lens.server.app import close_app, create_app
    from nanogpt_lens.server.served import ServedModels

    app = create_app(ServedModels(["induction"]), token="x")
    try:
        paths = app.openapi()["paths"]
    finally:
        close_app(app)
    shown = {(m, p.replace("{id}", "{job}")) for m, p in re.findall(r"`(GET|POST|DELETE) (/v1[^`]*)`", DOCUMENT)}
    assert shown == {(method.upper(), path) for path, methods in paths.items() for method in methods}
    table = DOCUMENT.partition("| status | codes |")[2].partition("###")[0]
    assert set(re.findall(r"`([a-z_]+)`", table)) == set(STATUSES)
