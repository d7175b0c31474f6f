"""What a request costs over the call that it makes, and a server under 64 clients, on this machine's own network.

    python benchmarks/serve.py [--rounds 40] [--clients 64] [--seconds 60] [--only load] [--json]

Overhead: requests and direct calls in turn, in the same seconds, one client, `shakespeare_char`, one thread:

- `run`: 64 tokens, a head switched off, the five likeliest tokens, against `ngl.intervene`;
- `analysis`: `copying_score` of a seed that was not asked for before, against the same call;
- `cached`: the same analysis again, against making it.

Load: clients that ask one thing after the other (most of them runs with interventions, analyses that are new and that
are not, facts, and things that are refused), for a minute. An error is any answer but the one that was called for. The
memory is that of the server's process and of the worker's, at a quarter of the time and at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # conversion.py there
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import httpx
import torch

import nanogpt_lens as ngl

MODEL = "shakespeare_char"
TEXT = "ROMEO:\nWhat lady is that, which doth enrich the hand of yonder kni"[:64]
RUN = f"/v1/models/{MODEL}/run"
SCORE = f"/v1/models/{MODEL}/analyses/copying_score"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--only", choices=["overhead", "load"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    said: dict[str, Any] = {}
    with server() as (process, started):
        headers = {"Authorization": f"Bearer {started['token']}"}
        with httpx.Client(base_url=started["url"], headers=headers, timeout=120) as client:
            warm(client)
            if options.only != "load":
                said["overhead"] = overhead(client, options.rounds)
        if options.only != "overhead":
            said["load"] = asyncio.run(load(started["url"], headers, process.pid, options.clients, options.seconds))
    if options.json:
        print(json.dumps(said))
        return
    if "overhead" in said:
        print(f"{'':12}{'direct, ms':>12}{'request, ms':>13}{'ratio':>8}{'over it, ms':>13}")
        for name, row in said["overhead"].items():
            print(f"{name:12}{row['direct']:12.1f}{row['request']:13.1f}{row['ratio']:8.2f}{row['over']:13.1f}")
    if "load" in said:
        rows = said["load"]["latency"]
        print(f"\n{'':12}{'requests':>10}{'p50, ms':>10}{'p95, ms':>10}{'max, ms':>10}")
        for name, row in rows.items():
            print(f"{name:12}{row['n']:10d}{row['p50']:10.0f}{row['p95']:10.0f}{row['max']:10.0f}")
        facts = said["load"]
        print(f"errors: {facts['errors']}; {facts['per_second']:.0f} requests a second")
        for name, (early, late) in facts["memory"].items():
            print(
                f"memory of the {name}: {early / 2**20:.0f} MiB at a quarter of the time, {late / 2**20:.0f} at the end"
            )


@contextmanager
def server() -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A server in a process of its own, and what it said when it started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nanogpt_lens", "serve", MODEL, "--port", "0", "--json", "--queue", "256"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(60)


def warm(client: httpx.Client) -> None:
    for path, body in ((RUN, run_body("0.0")), (SCORE, {"wait": 60, "options": {"seed": 0}})):
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text[:300]


def run_body(place: str) -> dict[str, Any]:
    return {"text": TEXT, "interventions": [{"place": place, "source": "zero"}]}


def overhead(client: httpx.Client, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of direct calls and of requests, medians, and the median of their ratios."""
    model = ngl.load(MODEL)
    seeds = iter(range(1000, 10**6))
    place = [{"place": "0.0", "source": "zero"}]
    subjects: dict[str, tuple[Callable[[], Any], Callable[[], httpx.Response]]] = {
        "run": (lambda: ngl.intervene(model, TEXT, place), lambda: client.post(RUN, json=run_body("0.0"))),
        "analysis": (
            lambda: ngl.copying_score(model, seed=1),
            lambda: client.post(SCORE, json={"wait": 60, "options": {"seed": next(seeds)}}),
        ),
        "cached": (
            lambda: ngl.copying_score(model, seed=1),
            lambda: client.post(SCORE, json={"wait": 60, "options": {"seed": 0}}),
        ),
    }
    said = {}
    for name, (direct, request) in subjects.items():
        direct()
        pairs = []
        for _ in range(rounds):
            start = time.perf_counter()
            direct()
            middle = time.perf_counter()
            answer = request()
            pairs.append((middle - start, time.perf_counter() - middle))
            assert answer.status_code == 200, answer.text[:300]
        medians = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
        said[name] = {
            "direct": medians[0],
            "request": medians[1],
            "ratio": statistics.median(request / direct for direct, request in pairs),
            "over": 1000 * statistics.median(request - direct for direct, request in pairs),
        }
    return said


async def load(url: str, headers: dict[str, str], pid: int, clients: int, seconds: float) -> dict[str, Any]:
    """Latencies by kind of request, errors, and memory, with many clients at once."""
    times: dict[str, list[float]] = {}
    errors: list[str] = []
    memory: list[dict[str, int]] = []
    began = time.monotonic()

    async def client(number: int, asking: httpx.AsyncClient) -> None:
        choose = random.Random(number)
        while time.monotonic() - began < seconds:
            name, expected, make = choose_request(choose)
            start = time.perf_counter()
            try:
                answer = await make(asking)
                if answer.status_code != expected:
                    errors.append(f"{name}: {answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                errors.append(f"{name}: {type(error).__name__}")
            times.setdefault(name, []).append(1000 * (time.perf_counter() - start))

    async def watch() -> None:
        for part in (0.25, 1.0):
            await asyncio.sleep(max(0.0, began + part * seconds - time.monotonic()))
            memory.append(resident(pid))

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as asking:
        await asyncio.gather(watch(), *(client(i, asking) for i in range(clients)))
    rows = {name: latency(some) for name, some in sorted(times.items())}
    every = [one for some in times.values() for one in some]
    rows["all"] = latency(every)
    return {
        "latency": rows,
        "errors": len(errors),
        "first_errors": errors[:5],
        "per_second": len(every) / (time.monotonic() - began),
        "memory": {name: (memory[0][name], memory[1][name]) for name in memory[1] if name in memory[0]},
    }


def choose_request(choose: random.Random) -> tuple[str, int, Callable[[httpx.AsyncClient], Any]]:
    """A kind of request, the status that it calls for, and the function that makes it."""
    kind = choose.choices(["run", "cached", "analysis", "facts", "refused"], [60, 15, 5, 15, 5])[0]
    if kind == "run":
        body = run_body(f"{choose.randrange(2)}.{choose.randrange(4)}")
        return kind, 200, lambda asking: asking.post(RUN, json=body)
    if kind in ("cached", "analysis"):
        seed = choose.randrange(10**6, 10**8) if kind == "analysis" else 0
        return kind, 200, lambda asking: asking.post(SCORE, json={"wait": 60, "options": {"seed": seed}})
    if kind == "facts":
        path = choose.choice(["/v1/models", f"/v1/models/{MODEL}", "/v1/jobs", "/v1/analyses"])
        return kind, 200, lambda asking: asking.get(path)
    return kind, 422, lambda asking: asking.post(SCORE, json={"options": {"sed": 1}})


def latency(some: list[float]) -> dict[str, float]:
    ordered = sorted(some)
    at = {"p50": 0.5, "p95": 0.95}
    return {
        "n": len(ordered),
        **{name: ordered[int(q * (len(ordered) - 1))] for name, q in at.items()},
        "max": ordered[-1],
    }


def resident(pid: int) -> dict[str, int]:
    """The bytes that the server's processes have in memory."""

    def children(parent: int) -> list[int]:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    nurseries = [child for thread in Path(f"/proc/{pid}/task").iterdir() for child in _of_thread(thread)]
    workers = [child for nursery in nurseries for child in children(nursery)]
    named = {"server": pid, **({"worker": workers[0]} if workers else {})}
    page = os.sysconf("SC_PAGESIZE")
    return {name: int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page for name, one in named.items()}


def _of_thread(thread: Path) -> list[int]:
    return [int(word) for word in (thread / "children").read_text().split()]


if __name__ == "__main__":
    main()
