"""What the worker does: one task after the other, each of which it reads from a file and answers with files.

Messages are lines of JSON, short enough to be written in one piece: that it is ready, how far a task is, how it ended.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from tqdm.std import tqdm

from nanogpt_lens.catalogue import find
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.caching import ResultCache
from nanogpt_lens.server.arguments import call_of, corpus_of
from nanogpt_lens.server.pictures import write_picture
from nanogpt_lens.server.refusals import Refusal, one_sentence, refusal_of
from nanogpt_lens.server.schemas import AnalysisBody, CompareBody
from nanogpt_lens.server.served import ServedModels

LARGEST_RESULT = 500_000
"""Values of a result that is sent as JSON."""

_CALL = "call.py"
"""Beside a result, the Python that makes it."""
_NOWHERE = io.StringIO()
_OFTEN = 0.2  # seconds between two messages of progress


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """Where the worker works.

    Attributes:
        folder: of the server, which has `tasks`, `answers` and `tmp`.
        cache: the folder of results.
        stage: a folder beside them in which results are written, this server's own.
        kept: how many results the cache keeps; None for all.
        memory: bytes that a job may take beside what the worker has with the model; None for any.
    """

    folder: Path
    cache: Path
    stage: Path
    kept: int | None
    memory: int | None

    def task_file(self, identity: str) -> Path:
        """The file of a task."""
        return self.folder / "tasks" / f"{identity}.json"

    def answer_file(self, identity: str, kind: str = "json") -> Path:
        """The file of an answer."""
        return self.folder / "answers" / f"{identity}.{kind}"


class Worker:
    """The models, loaded when they are first asked for, and what is done with them."""

    def __init__(self, models: ServedModels, workplace: Workplace, tell: Callable[[dict[str, Any]], None]) -> None:
        self.models, self.workplace, self.tell = models, workplace, tell
        self.cache = ResultCache(workplace.cache)

    def serve(self, tasks: IO[str]) -> None:
        """Do every task whose id stands on a line, until there are no more lines."""
        self.tell({"ready": os.getpid()})
        for line in tasks:
            identity = line.strip()
            try:
                self.tell({"id": identity, "done": self._do(identity)})
            except Exception as error:
                refusal = refusal_of(error)
                if refusal.code == "internal":
                    traceback.print_exc(file=sys.stderr)
                self.tell({"id": identity, "failed": {"code": refusal.code, "message": refusal.sentence}})

    def _do(self, identity: str) -> dict[str, Any]:
        task = json.loads(self.workplace.task_file(identity).read_text(encoding="utf-8"))
        began = time.perf_counter()
        limit_memory(None)
        facts: dict[str, Any] = {}
        if "result_id" in task:  # a picture of a result that is there
            result = self._result(task["result_id"])[0]
            facts = {"result_id": task["result_id"], "drawn": True}
        else:
            if "compare" in task:
                result, facts = None, self._compared(identity, CompareBody.model_validate(task["compare"]))
            else:
                result, facts = self._analysed(identity, task)
            facts["seconds"] = time.perf_counter() - began
            answer = self.workplace.answer_file(identity)
            answer.write_text(json.dumps(facts.pop("json"), allow_nan=False))
        if task["format"] != "json" and result is not None:
            write_picture(result, task["format"], self.workplace.answer_file(identity, task["format"]))
        return facts

    def _analysed(self, identity: str, task: dict[str, Any]) -> tuple[Result, dict[str, Any]]:
        served = self.models.named(task["model"])
        analysis = find(task["analysis"])
        body = AnalysisBody.model_validate(task["body"])
        with served.open() as model, _told_progress(lambda how_far: self.tell({"id": identity, "progress": how_far})):
            limit_memory(self.workplace.memory)  # beside the model, whose size is its owner's to choose
            call = call_of(analysis, body, served, model, self._result)
            options = {"progress": True} if "progress" in analysis.options() else {}
            key = self.cache.key(analysis.function, model, **call.arguments)
            result = self._cached(key)
            cached = result is not None
            if result is None:
                result = analysis.function(model, **call.arguments, **options)
                self._keep(key, result, call.python(served))
        if result.values.numel() > LARGEST_RESULT:
            raise Refusal(
                "too_large",
                f"the result has {result.values.numel()} values; expected at most {LARGEST_RESULT}: ask for less, or "
                "call it in Python",
            )
        facts = {"result_id": key, "cached": cached, "python_file": self._python(identity, call.python(served))}
        return result, {**facts, "json": result.to_json()}

    def _compared(self, identity: str, body: CompareBody) -> dict[str, Any]:
        """A comparison of two models; it is no single result, and is not kept beyond its job."""
        from nanogpt_lens.compare.comparing import compare

        a, b = self.models.named(body.a), self.models.named(body.b)
        with (
            a.open() as one,
            b.open() as other,
            _told_progress(lambda bar: self.tell({"id": identity, "progress": bar})),
        ):
            limit_memory(self.workplace.memory)
            options: dict[str, Any] = {"parts": body.parts, "search": body.search, "seed": body.seed}
            options["names"] = [a.name, b.name]
            text, words = (None, "None") if body.text is None else corpus_of(one, body.text)
            made = compare(one, other, text=text, **options)
        if not made.parts:
            raise Refusal("refused", f"nothing can be compared: {'; '.join(made.left_out.values())}")
        size = sum(result.values.numel() for result in made.parts.values())
        if size > LARGEST_RESULT:
            raise Refusal(
                "too_large", f"the parts have {size} values; expected at most {LARGEST_RESULT}: ask for fewer parts"
            )
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        lines = ["import nanogpt_lens as ngl", f"model = {a.python}", f"other = {b.python}"]
        lines.append(f"result = ngl.compare(model, other, text={words}{given})")
        python = self._python(identity, "\n".join(lines))
        return {"result_id": None, "cached": False, "python_file": python, "json": made.to_json()}

    def _python(self, identity: str, python: str) -> str:
        """Write the Python of a call to a file, as it may be longer than a message, and return the file's name."""
        file = self.workplace.answer_file(identity, "py")
        file.write_text(python, encoding="utf-8", errors="backslashreplace")
        return file.name

    def _result(self, identity: str) -> tuple[Result, str]:
        """A result of the cache, and the Python that made it; only what is there under that very name is looked at."""
        folders = {path.name: path for path in self.workplace.cache.iterdir()} if self.workplace.cache.is_dir() else {}
        if identity not in folders or not (folders[identity] / "result.json").is_file():
            raise Refusal("wrong_option", f"there is no result {identity}; make it again, and take its result_id")
        call = folders[identity] / _CALL
        python = call.read_text(encoding="utf-8") if call.is_file() else ""
        return Result.load(folders[identity]), python or f"result = ngl.load_result({str(folders[identity])!r})"

    def _cached(self, key: str) -> Result | None:
        """The result that the cache has; None where it has none, or a damaged one."""
        with suppress(ResultError):
            return Result.load(self.workplace.cache / key)
        return None

    def _keep(self, key: str, result: Result, python: str) -> None:
        """Save a result in one step: a worker that is killed leaves a part of it in the server's own stage alone.

        Where the cache is the server's own, the oldest results go.
        """
        place, staged = self.workplace.cache / key, self.workplace.stage / key
        result.save(staged)
        (staged / _CALL).write_text(python, encoding="utf-8", errors="backslashreplace")
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # another server has just put it there
            staged.replace(place)
        if self.workplace.kept is None:
            return
        folders = sorted(self.workplace.cache.glob("*/result.json"), key=lambda file: file.stat().st_mtime)
        for file in [file for file in folders if file.parent.name != key][: -self.workplace.kept]:
            shutil.rmtree(file.parent, ignore_errors=True)


class _told_progress:
    """A context in which every bar of tqdm is told to a function, at most every fifth of a second, and not shown."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.tell, self.last = tell, 0.0

    def __enter__(self) -> None:
        self.display = tqdm.display
        told = self

        def display(bar: Any, *_: Any, **__: Any) -> bool:
            bar.fp = _NOWHERE
            now = time.monotonic()
            if now - told.last >= _OFTEN:
                told.last = now
                told.tell({"done": bar.n, "total": bar.total, "what": one_sentence(bar.desc or "", 80)})
            return True

        tqdm.display = display  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        tqdm.display = self.display  # type: ignore[method-assign]


def models_from_json(plain: dict[str, Any]) -> ServedModels:
    """The models that `models_to_json` wrote, under the same names."""
    return ServedModels(plain["paths"], Reading(**plain["reading"]), sha256=plain["sha256"])


def models_to_json(models: ServedModels) -> dict[str, Any]:
    """The models as JSON: their paths, how they are read, and what their files were."""
    reading = next(iter(models)).reading.options()
    plain = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in reading.items()
    }
    return {"paths": [one.path for one in models], "reading": plain, "sha256": [one.sha256 for one in models]}


def limit_memory(memory: int | None) -> None:
    """Let this process take no more than so many bytes beside what it has, where the system can; None for any."""
    with suppress(OSError, ValueError):
        most = hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if memory is not None:
            pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
            most = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def work(plain: dict[str, Any], tasks: int, messages: int, *, threads: int) -> None:
    """Be the worker of a server until the tasks end.

    Args:
        plain: the models and the workplace, as the server wrote them.
        tasks, messages: file descriptors to read from and to write to.
        threads: of torch.
    """
    torch.set_num_threads(threads)
    workplace = Workplace(
        folder=Path(plain["folder"]),
        cache=Path(plain["cache"]),
        stage=Path(plain["stage"]),
        kept=plain["kept"],
        memory=plain["memory"],
    )

    def tell(message: dict[str, Any]) -> None:
        os.write(messages, (json.dumps(message) + "\n").encode())

    with os.fdopen(tasks, encoding="utf-8") as lines:
        Worker(models_from_json(plain), workplace, tell).serve(lines)
