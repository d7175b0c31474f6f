"""The first screen: a picture of the whole model, and what to look at first; and, for the end, what was read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conversion.checkpoint import Checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.reporting.blocks import Block, Facts, Heading, Picture, Table
from nanogpt_lens.reporting.face import Face, Look, PartGrid
from nanogpt_lens.reporting.looks import MOST, looks_of
from nanogpt_lens.reporting.section import Section, in_a_sentence
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, line_of, number, plural, short_path
from nanogpt_lens.reporting.worth import Worth, grid_of, worth_of
from nanogpt_lens.results import HeadTaxonomy, Scores

log = logging.getLogger(__name__)

KEY, TITLE = "summary", "At a glance"
READING = (
    "On the left every head and MLP, coloured by how much worse the model predicts without it. On the right what to "
    "look at first; every sentence is a measurement, and its section says how sure it is."
)


def section(subject: Subject, others: Sequence[Section]) -> Section:
    """The section, from the others; it is made last and stands first, also where it fails, which it says."""
    error = ""
    try:
        face = _face_of_several(others) if subject.checkpoint is None else _face(subject, others)
    except Exception as reason:
        log.debug("the first screen failed", exc_info=True)
        face, error = _face_of_several(others), in_a_sentence(reason, subject.folders)
    return Section(
        key=KEY,
        title=TITLE,
        reading=READING,
        status="failed" if error else "done",
        error=error,
        commands=(subject.report_command(),),
        body=(face,),
        findings=tuple(look.sentence for look in face.looks),
        again=_again(subject, others),
    )


def _face(subject: Subject, sections: Sequence[Section]) -> Face:
    """The first screen of one checkpoint."""
    heads, taxonomy = (_result(sections, name) for name in ("head_importance", "head_taxonomy"))
    worth: Worth | None = None
    picture: PartGrid | None = None
    try:
        worth = worth_of(subject, heads if isinstance(heads, Scores) else None)
        known = taxonomy if isinstance(taxonomy, HeadTaxonomy) else None
        picture = grid_of(worth, known, line_of(subject.text_name))
    except AnalysisError as reason:  # the text is too short
        log.debug("no grid: %s", reason)
    return Face(picture=picture, looks=looks_of(worth, sections))


def _face_of_several(sections: Sequence[Section]) -> Face:
    """The first screen of several checkpoints: their first figure, and what was found of them."""
    figures = (block for section in sections for block in section.body if isinstance(block, Picture))
    said = [Look(sentence=finding, section=s.key) for s in sections for finding in s.findings]
    return Face(picture=next(figures, None), looks=tuple(said[:MOST]), title="What changed")


def _result(sections: Sequence[Section], name: str) -> Any:
    """A result that a section left for the first screen; None where there is none."""
    return next((section.results[name] for section in sections if name in section.results), None)


def size_of(subject: Subject) -> str:
    """The model's size in one phrase."""
    checkpoint = subject.checkpoint
    if checkpoint is None:
        return plural(len(subject.stages), "checkpoint")
    c, trained = checkpoint.config, checkpoint.iter_num
    said = [f"{plural(c.n_layer, 'layer')} of {plural(c.n_head, 'head')}", f"{c.n_embd} wide"]
    said += [f"{count(trained)} iterations"] if trained else [f"{count(subject.n_params)} parameters"]
    return ", ".join(said)


def _again(subject: Subject, sections: Sequence[Section]) -> tuple[Block, ...]:
    """What was read and with what, for the end of the page."""
    checkpoint = subject.checkpoint
    if checkpoint is None:
        about = [("checkpoints", f"{len(subject.stages)} in {line_of(subject.name)}")]
        return (Facts(pairs=(*about, *_circumstances(subject))),)
    blocks: list[Block] = [
        Heading(text="What was read"),
        Facts(
            pairs=(
                *_model(checkpoint, subject.n_params),
                *_origin(subject, checkpoint),
                *_beside(subject, sections),
                *_circumstances(subject),
            )
        ),
    ]
    run = _run(checkpoint.run_config)
    if run:
        blocks.append(
            Table(
                header=("setting", "value"),
                rows=run,
                left=(0, 1),
                folded="Settings of the training run",
                caption="nanoGPT's config, as it is stored in the checkpoint.",
            )
        )
    return tuple(blocks)


def _model(checkpoint: Checkpoint, n_params: int) -> list[tuple[str, str]]:
    c, vocabulary = checkpoint.config, checkpoint.vocabulary
    return [
        (
            "architecture",
            f"{plural(c.n_layer, 'layer')} of {plural(c.n_head, 'head')}, {c.n_embd} wide, MLPs of {c.d_mlp} neurons, "
            f"context {count(c.block_size)}; {'with' if c.bias else 'without'} biases, act_fn {c.act_fn}, head "
            f"{'tied to' if c.tied else 'apart from'} the embedding",
        ),
        ("parameters", count(n_params)),
        (
            "vocabulary",
            f"{count(vocabulary.size)} tokens ({vocabulary.kind}); the model has {count(c.vocab_size)}"
            if vocabulary
            else f"none ({checkpoint.no_vocabulary or 'no file was found'}): tokens are shown as ids, of which the "
            f"model has {count(c.vocab_size)}",
        ),
    ]


def _origin(subject: Subject, checkpoint: Checkpoint) -> list[tuple[str, str]]:
    stated = checkpoint.best_val_loss
    known = stated is not None and stated < 1e8
    return [
        ("checkpoint", line_of(short_path(checkpoint.path) if checkpoint.path else subject.name)),
        ("SHA-256", checkpoint.sha256 or "none, it was made in memory"),
        ("iteration", "not stored" if checkpoint.iter_num is None else count(checkpoint.iter_num)),
        ("stored loss", f"{number(stated, 4)} nats (best_val_loss)" if known else "not stored"),
    ]


def _beside(subject: Subject, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The other checkpoints of the folder."""
    if len(subject.stages) < 2:
        return []
    compared = any(s.key == "checkpoints" and s.status == "done" for s in sections)
    remark = "this one among them" + ("; the last section compares them" if compared else "")
    return [("checkpoints", f"{len(subject.stages)} in {line_of(subject.name)}, {remark}")]


def _circumstances(subject: Subject) -> list[tuple[str, str]]:
    text = line_of(subject.text_name)
    if subject.text is not None:
        text += f", {count(len(subject.text.ids))} tokens"
        text += f"; SHA-256 {subject.text.sha256}" if subject.text.sha256 else ""
    return [
        ("text", text),
        ("seed", str(subject.seed)),
        ("made with", ", ".join(f"{name} {version(name)}" for name in ("nanogpt-lens", "transformer-lens", "torch"))),
    ]


def _run(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Settings that are plain values, in alphabetical order; absolute paths lose their folders."""
    rows = []
    for name in sorted(map(str, config)):
        value = config.get(name)
        if isinstance(value, str) and Path(value).is_absolute():
            value = short_path(value)
        if isinstance(value, str | int | float | bool) or value is None:
            rows.append((line_of(name, longest=60), line_of(str(value), longest=120)))
    return tuple(rows)
