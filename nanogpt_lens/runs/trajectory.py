"""One measure over all checkpoints of a training run: how a model came to do what it does.

    heads = ngl.trajectory("out", "prefix_matching")
    heads.plot(mark=ngl.find_change_point(heads, layer=1, head=2).mark)

One model object takes the weights of one checkpoint after the other, so that memory holds one at a time. The
measure looks at the same sequences each time: what changes between two steps is the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from conversion.backends import BackendChoice
from conversion.config import ActFn
from conversion.vocabulary import Vocabulary
from nanogpt_lens.catalogue import ANALYSES, find
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.distributed import alone, gathered, share, world
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.unfinished import Unfinished
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.model.access import Hooked, provenance
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.results import Result, Sample, Trajectory
from nanogpt_lens.results.files import as_json
from nanogpt_lens.runs.on_pairs import fingerprint_of, on_pairs, pairs_for, takes_pairs
from nanogpt_lens.runs.stages import PATTERN, Stage, Walk, list_stages
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.task import TASK_NAME
from nanogpt_lens.text.tasks import Task, read_task

_COLUMNS = ("chance", "low", "high", "per_example", "threshold", "sure_low")
_HASH, _ABOUT = "sha256", "about"
_N_DEFAULT = 128
"""The number of sequences of a task, or drawn from the last model, where the caller names no text."""


def trajectory(
    path: str | Path,
    measure: str | Callable[[Hooked], Any] = "score_heads",
    *,
    corpus: Corpus | None = None,
    task: Task | None = None,
    pairs: Pair | str | None = None,
    pattern: str = PATTERN,
    resume: str | Path | None = None,
    backend: BackendChoice = "auto",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
    progress: bool = True,
    **options: Any,
) -> Trajectory:
    """Measure every checkpoint of a folder, by iteration.

    Under `torchrun` each process takes a share of the checkpoints, and all get the whole result.

    Args:
        path: a folder with `ckpt*.pt` of one run, or the name of a shipped checkpoint with stages.
        measure: the name of an analysis of `ngl.catalogue` that needs no more than the model and a corpus or task,
            such as score_heads, prefix_matching, text_loss, head_importance or task_accuracy; or edge_effects or
            edge_attribution, whose effects on the logit difference of `pairs` are followed. Or a function from the
            model to a result, a tensor, or a number, the same axes at every step.
        corpus: the text of measures on text, of which every step reads the same windows. None for sequences of the
            task in the folder's `task.json`, or without that file for text drawn from the last checkpoint.
        task: the task of measures on a task; None for the folder's.
        pairs: the prompts of measures on prompt pairs: such as `ngl.induction_pairs` makes, or a word that
            `pairs_by_name` knows, as "induction"; None for those of the folder's task, without one for "induction".
            They are made once, by n, seq_len and seed.
        pattern: the pattern of the checkpoints' file names.
        resume: a folder where the values of finished checkpoints are saved every ten seconds; the same call goes on
            from there. A function of your own is known by its name alone.
        backend, device, dtype, meta, act_fn, n_head, ignore_model_args: as for `load`.
        progress: show a bar.
        options: options of the measure, such as n=32, seed=1, seq_len=20.

    Returns:
        The measure's values with the axis "step" in front, its chance, intervals and `per_example` alike.

    Raises:
        CheckpointError: there are no checkpoints, one is damaged or has no `iter_num`, or their models differ.
        AnalysisError: there is no such measure or option; the measure's axes change; there are fewer checkpoints
            than processes; or `resume` has another trajectory.
        DataError: the measure needs a task, and there is none.
    """
    reading = Reading(backend=backend, meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
    stages = list_stages(path, pattern=pattern, reading=reading)
    walk = Walk(stages, reading=reading, device=device, dtype=dtype)
    folder = stages[0].path.parent
    with alone():
        name, function, source = _measure_and_source(measure, walk, folder, corpus, task, pairs, options)
    rank, size = world()
    mine = [stages[i] for i in share(len(stages), what="checkpoints", hint="start fewer processes")]
    kept = None
    if resume is not None:
        description = {
            "measure": name,
            "options": options,
            "source": _source_hash(walk, source),
            "device": str(device),
            "dtype": str(dtype),
            "reading": reading.options(),
            "files": [_identity(stage) for stage in mine],
        }
        kept = Unfinished(resume, f"trajectory_{rank}_of_{size}", description)
    with alone():
        tensors, about = _values_of_stages(walk, mine, function, name, kept, progress=progress and rank == 0)
    words = torch.frombuffer(bytearray(json.dumps(about).encode()), dtype=torch.uint8)
    every = gathered({**_columns(tensors), _ABOUT: words})
    for part in every:
        _check_same(json.loads(part.pop(_ABOUT).numpy().tobytes()), about, name, "some checkpoints")
    if kept is not None:
        kept.delete()
    if pairs is not None:
        options |= {"pairs": fingerprint_of(pairs) if isinstance(pairs, Pair) else pairs}
    return _result(every, about, stages, name, walk, options, path)


def _measure_and_source(
    measure: str | Callable[[Hooked], Any],
    walk: Walk,
    folder: Path,
    corpus: Corpus | None,
    task: Task | None,
    pairs: Pair | str | None,
    options: dict[str, Any],
) -> tuple[str, Callable[[Hooked], Any], Task | Corpus | Pair | None]:
    """The measure's name, a function of the model alone, and the task, text or prompts that it looks at."""
    sources = {"corpus": corpus, "task": task, "pairs": pairs}
    given = [name for name, value in sources.items() if value is not None]
    if callable(measure):
        names = [*options, *given]
        if names:
            raise AnalysisError(
                f"{', '.join(names)} were given for a function of your own; expected options for measures by name: "
                "put them into the function"
            )
        return getattr(measure, "__qualname__", type(measure).__name__), measure, None
    analysis = find(measure)
    with_pairs = takes_pairs(analysis)
    if not analysis.alone and not with_pairs:
        raise AnalysisError(
            f"{measure} needs {', '.join(analysis.needs())}, so that it cannot be followed by name; expected one of "
            f"{', '.join(a.name for a in ANALYSES.values() if a.alone or takes_pairs(a))}, or a function of the model"
        )
    for kind in given:
        if not (with_pairs if kind == "pairs" else analysis.takes(kind) or analysis.looks_at == "corpus"):
            alone = "the weights alone" if analysis.looks_at == "weights" else analysis.looks_at
            raise AnalysisError(
                f"{kind}= was given, but {measure!r} looks at {alone.replace('task', 'the task')}; leave it out"
            )
    if with_pairs:
        made = pairs_for(walk.at(walk.stages[-1]), folder, pairs, options)
        return measure, on_pairs(analysis, made, options), made
    analysis.check(options)
    source: tuple[Any, ...] = ()
    if analysis.looks_at == "task":
        source = (task if task is not None else read_task(folder),)
    elif analysis.looks_at == "corpus":
        source = (corpus if corpus is not None else _default_corpus(walk, folder, task, options),)
    elif corpus is not None:
        source = (corpus,)
    make = lambda model: analysis.call(model, *source, progress=False, **options)  # noqa: E731
    return measure, make, source[0] if source else None


def _default_corpus(
    walk: Walk, folder: Path, task: Task | None, options: Mapping[str, Any]
) -> Int[Tensor, "example pos"]:
    """Sequences, the same for all checkpoints: of the task, or drawn from the last model."""
    n, seed = options.get("n", _N_DEFAULT), options.get("seed", 0)
    check_whole(n=n, seed=seed)
    n = max(_N_DEFAULT, n)
    model = walk.at(walk.stages[-1])
    if task is None and (folder / TASK_NAME).is_file():
        task = read_task(folder)
    if task is not None:
        return torch.from_numpy(task_sequences(model, task, n=n, seed=seed).tokens)
    return own_text(model, seq_len=model.cfg.n_ctx, n=n, seed=seed)


def _values_of_stages(
    walk: Walk,
    stages: Sequence[Stage],
    function: Callable[[Hooked], Any],
    name: str,
    kept: Unfinished | None,
    *,
    progress: bool,
) -> tuple[list[dict[str, Shaped[Tensor, " ..."]]], dict[str, Any]]:
    """The tensors of each stage, by name; and the axes, labels and words that all have in common."""
    stage_tensors: list[dict[str, Shaped[Tensor, " ..."]]] = []
    about: dict[str, Any] = {}
    before = kept.read() if kept is not None else None
    if before is not None:
        stage_tensors, about = _split(before[0]), json.loads(before[1])
    with tqdm(total=len(stages), initial=len(stage_tensors), unit="checkpoint", disable=not progress) as bar:
        for stage in stages[len(stage_tensors) :]:
            model = walk.at(stage)
            digest = bytearray.fromhex(model.nanogpt_origin.sha256)
            tensors, about_stage = _as_tensors(function(model), name)
            about = about or about_stage
            _check_same(about_stage, about, name, str(stage.path))
            stage_tensors.append({**tensors, _HASH: torch.frombuffer(digest, dtype=torch.uint8)})
            bar.update()
            if kept is not None:
                kept.keep(lambda: _flat(stage_tensors), json.dumps(about))
    return stage_tensors, about


def _check_same(one: Mapping[str, Any], about: Mapping[str, Any], name: str, place: str) -> None:
    """Raise AnalysisError unless the values at a place have the same axes, sizes and labels as the others."""
    if all(one[key] == about[key] for key in ("axes", "shape", "labels")):
        return
    raise AnalysisError(
        f"{name} gives the axes {one['axes']} of sizes {one['shape']} with the labels {_short(one['labels'])} for "
        f"{place}, and {about['axes']} of {about['shape']} with {_short(about['labels'])} for others; expected the "
        "same for every checkpoint"
    )


def _as_tensors(value: Any, name: str) -> tuple[dict[str, Shaped[Tensor, " ..."]], dict[str, Any]]:
    """The value of a measure as tensors by name; and its axes, labels and words."""
    if not isinstance(value, Result):
        try:
            values = torch.as_tensor(value).detach().double().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise AnalysisError(
                f"{name} gave a {type(value).__name__}; expected a result, a tensor, or a number"
            ) from None
        axes = [f"axis_{i}" for i in range(values.dim())]
        words = {"labels": {}, "meaning": {"quantity": name, "definition": name}}
        return {"values": values}, {"axes": axes, "shape": list(values.shape), **words}
    columns = {"values": value.values, **{c: t for c in _COLUMNS if isinstance(t := getattr(value, c, None), Tensor)}}
    tensors = {column: tensor.double() for column, tensor in columns.items()}
    labels = {axis: list(labels) for axis, labels in value.labels.items()}
    return tensors, {
        "axes": list(value.axes),
        "shape": list(value.values.shape),
        "labels": labels,
        "meaning": as_json(value.meaning()),
    }


def _flat(stage_tensors: Sequence[Mapping[str, Shaped[Tensor, " ..."]]]) -> dict[str, Shaped[Tensor, " ..."]]:
    """The tensors of all stages in one dictionary, as "0.values"."""
    return {f"{i}.{name}": tensor for i, tensors in enumerate(stage_tensors) for name, tensor in tensors.items()}


def _split(flat: Mapping[str, Shaped[Tensor, " ..."]]) -> list[dict[str, Shaped[Tensor, " ..."]]]:
    """The tensors of each stage, from what `_flat` makes of them."""
    tensors_of: dict[int, dict[str, Shaped[Tensor, " ..."]]] = {}
    for key, tensor in flat.items():
        i, _, name = key.partition(".")
        tensors_of.setdefault(int(i), {})[name] = tensor
    return [tensors_of[i] for i in sorted(tensors_of)]


def _columns(stage_tensors: Sequence[Mapping[str, Shaped[Tensor, " ..."]]]) -> dict[str, Shaped[Tensor, "step ..."]]:
    """The columns that all steps have in one shape."""
    shared = [name for name in stage_tensors[0] if all(name in tensors for tensors in stage_tensors)]
    shapes = {name: {tensors[name].shape for tensors in stage_tensors} for name in shared}
    return {name: torch.stack([t[name] for t in stage_tensors]) for name in shared if len(shapes[name]) == 1}


def _result(
    every: Sequence[Mapping[str, Shaped[Tensor, "_ ..."]]],
    about: Mapping[str, Any],
    stages: Sequence[Stage],
    name: str,
    walk: Walk,
    options: Mapping[str, Any],
    path: str | Path,
) -> Trajectory:
    """The trajectory, from the columns of every process."""
    shapes = {column: {part[column].shape[1:] if column in part else None for part in every} for column in every[0]}
    tensors: dict[str, Any] = {
        column: torch.cat([part[column] for part in every]) for column, kinds in shapes.items() if len(kinds) == 1
    }
    hashes = [bytes(row).hex() for row in tensors.pop(_HASH).tolist()]
    plain = {
        key: value if isinstance(value, str | int | float | bool | None) else str(value)
        for key, value in options.items()
    }
    model = walk.model or walk.at(stages[-1])
    meaning = dict(about["meaning"])
    meaning["definition"] += f"; at {len(stages)} checkpoints of one training run"
    if meaning.get("sample") is not None:
        meaning["sample"] = Sample(**meaning["sample"])
    return Trajectory(
        values=tensors.pop("values"),
        axes=("step", *about["axes"]),
        labels={
            "step": tuple(str(stage.step) for stage in stages),
            **{a: tuple(t) for a, t in about["labels"].items()},
        },
        **meaning,
        measure=name,
        files=tuple(stage.path.name for stage in stages),
        provenance={
            **provenance(model, measure=name, **plain),
            "checkpoint": str(path),
            "checkpoint_sha256": None,
            "checkpoints_sha256": hashes,
        },
        **tensors,
    )


def _identity(stage: Stage) -> list[Any]:
    """What tells a checkpoint's file from another, and from another version of itself."""
    status = stage.path.stat()
    return [stage.step, stage.path.name, status.st_size, status.st_mtime_ns]


def _source_hash(walk: Walk, source: Task | Corpus | Pair | None) -> str | None:
    """A hash of the task or the tokens that the measure looks at."""
    if isinstance(source, Pair):
        return fingerprint_of(source)
    if source is None or isinstance(source, Task):
        return source and source.sha256
    opened = open_corpus(walk.model or walk.at(walk.stages[-1]), source)
    return f"{list(opened.shape)} {opened.fingerprint}"


def _short(labels: Mapping[str, Sequence[str]]) -> str:
    """The first three labels of each axis, in words."""
    return str({axis: list(names)[:3] for axis, names in labels.items()})
