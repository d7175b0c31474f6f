"""However a server ends, nothing is left: no process, no file. And it says only to its owner what opens it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.nanogpt_lens.server.test_jobs import LONG

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def started():
    """A server in a process of its own, whose files are all in one folder; it and what it says.

    The folder has a short name: Chromium's socket is in it, and a socket's path has at most 107 characters.
    """
    folder = Path(tempfile.mkdtemp(prefix="ngl"))
    temporary, cache = folder / "tmp", folder / "cache"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nanogpt_lens", "serve", "induction", "--port", "0", "--json"]
    command += ["--cache", str(cache), "--token-file", str(folder / "token")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, json.loads(process.stdout.readline()), folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def begin_job(said):
    """Begin a long analysis, and wait until it says how far it is."""
    client = httpx.Client(base_url=said["url"], headers={"Authorization": f"Bearer {said['token']}"}, timeout=120)
    body = {**LONG, "corpus": [i % 40 for i in range(4000)]}
    answer = client.post("/v1/models/induction/analyses/train_tuned_lens", json=body)
    assert answer.status_code == 202, answer.text[:300]
    end = time.monotonic() + 90
    while not (job := client.get(answer.json()["job"]["link"]).json()["job"])["progress"]:
        assert time.monotonic() < end
        assert job["state"] in ("queued", "running"), job
        time.sleep(0.1)
    return client


def family(pid):
    """All processes that descend from one, whichever of its threads began them."""
    children = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(word) for word in file.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
    return children + [one for child in children for one in family(child)]


def left_of(processes, folders):
    """The processes and files that are left; an empty folder that `import torch` makes anywhere is torch's own."""
    files = [path for folder in folders for path in folder.rglob("*") if not path.name.startswith("torchinductor_")]
    return [pid for pid in processes if Path(f"/proc/{pid}").exists()], files


def wait_for_nothing(processes, folders):
    end = time.monotonic() + 20
    while time.monotonic() < end and any(left_of(processes, folders)):
        time.sleep(0.1)
    assert left_of(processes, folders) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_that_ends_during_a_job_leaves_nothing(started, how):
    process, said, folder = started
    token = Path(said["token_file"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text().strip() == said["token"]
    assert said["url"].startswith("http://127.0.0.1:")
    with closing(begin_job(said)):
        processes = family(process.pid)
        assert len(processes) == 2  # the nursery and the worker
        os.kill(process.pid, how)
        process.wait(30)
    wait_for_nothing(processes, [folder / "tmp", folder / "cache"])
    assert not token.exists()


@pytest.mark.slow
def test_a_nursery_that_is_killed_takes_its_worker_along(started):
    process, said, _ = started
    with closing(begin_job(said)) as client:
        nursery, worker = family(process.pid)
        os.kill(nursery, signal.SIGKILL)
        wait_for_nothing([worker], [])
        end = time.monotonic() + 30
        while client.get("/v1/jobs").json()["jobs"][0]["state"] == "running":
            assert time.monotonic() < end
            time.sleep(0.1)
        job = client.get("/v1/jobs").json()["jobs"][0]
        assert (job["state"], job["error"]["code"]) == ("failed", "worker_died")
        answer = client.post("/v1/models/induction/analyses/copying_score", json={"wait": 60})
        assert answer.status_code == 200, answer.text[:300]


@pytest.mark.slow
def test_100_mb_over_the_network(started):
    process, said, _ = started

    def resident():
        words = Path(f"/proc/{process.pid}/statm").read_text().split()
        return int(words[1]) * os.sysconf("SC_PAGESIZE")

    headers = {"Authorization": f"Bearer {said['token']}", "Content-Type": "application/json"}
    warm = {"text": "ROMEO:"}  # imports what a run needs, and loads the model
    assert (
        httpx.post(f"{said['url']}/v1/models/induction/run", json=warm, headers=headers, timeout=60).status_code == 200
    )
    before = resident()
    for content in (bytes(10**8), (bytes(2**20) for _ in range(96))):
        answer = httpx.post(f"{said['url']}/v1/models/induction/run", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert resident() - before < 30 * 2**20


@pytest.mark.slow
@pytest.mark.browser
def test_a_server_that_is_killed_while_it_draws_takes_the_browser_along(started):
    process, said, folder = started
    headers = {"Authorization": f"Bearer {said['token']}"}
    path = f"{said['url']}/v1/models/induction/analyses/copying_score"
    assert httpx.post(path, json={"wait": 60}, headers=headers, timeout=90).status_code == 200
    assert httpx.post(f"{path}?format=svg", json={"wait": 0}, headers=headers).status_code == 202
    end = time.monotonic() + 60
    while len(processes := family(process.pid)) < 4:  # the nursery, the worker, and the browser's
        jobs = httpx.get(f"{said['url']}/v1/jobs", headers=headers).json()["jobs"]
        assert all(job["state"] != "failed" for job in jobs), [job.get("error") for job in jobs]
        assert time.monotonic() < end, jobs
        time.sleep(0.02)
    process.kill()
    process.wait(30)
    wait_for_nothing(processes, [folder / "tmp"])  # the result that it drew is kept, where --cache says
