"""A server under 64 clients for a minute: no error, no memory that grows. `benchmarks/serve.py` makes the requests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_64_clients_for_a_minute():
    command = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), "--only", "load", "--json", "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-1000:]
    said = json.loads(done.stdout)["load"]
    assert said["errors"] == 0, said["first_errors"]
    assert set(said["latency"]) == {"run", "cached", "analysis", "facts", "refused", "all"}
    assert all(row["n"] > 0 for row in said["latency"].values())
    for early, late in said["memory"].values():
        assert late - early < 64 * 2**20
