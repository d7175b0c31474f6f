"""The worker by itself: what its memory is bounded by."""

from __future__ import annotations

import json
import subprocess
import sys

from nanogpt_lens.server import work


def test_the_bound_is_beside_the_model(models, name, tmp_path, monkeypatch):
    """It was set before the model was loaded, so that a large one could not be asked anything."""
    for folder in ("tasks", "answers", "cache", "stage"):
        (tmp_path / folder).mkdir()
    place = work.Workplace(folder=tmp_path, cache=tmp_path / "cache", stage=tmp_path / "stage", kept=None, memory=2**40)
    models.named(name).forget()
    seen = []
    monkeypatch.setattr(work, "limit_memory", lambda memory: seen.append((memory, models.named(name)._model is None)))
    task = {"model": name, "analysis": "copying_score", "body": {"options": {"n": 4}}, "format": "json"}
    place.task_file("1").write_text(json.dumps(task))
    work.Worker(models, place, lambda _: None)._do("1")
    assert seen == [(None, True), (2**40, False)]


def test_a_bound_is_lifted_again():
    code = """
from nanogpt_lens.server.work import limit_memory
limit_memory(2**26)
try:
    bytearray(2**28)
except MemoryError:
    print("refused")
limit_memory(None)
print(len(bytearray(2**28)) == 2**28)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["refused", "True"], done.stderr
