"""What the model is, where it comes from, and what the other sections found, in a few sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conversion.checkpoint import Checkpoint
from nanogpt_lens.reporting.blocks import Block, Facts, Heading, Listing, Paragraph, Table
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, line_of, number, plural, short_path

KEY, TITLE = "summary", "Summary"
READING = (
    "What the checkpoint is and where it comes from, then what the sections below found, in their own numbers. Each "
    "sentence is a measurement on the text named here, and its section says how sure it is."
)
_MOST = 9


def section(subject: Subject, others: Sequence[Section]) -> Section:
    """The section, from the others; it is made last and stands first."""
    return Section(
        key=KEY,
        title=TITLE,
        reading=READING,
        status="done",
        commands=(subject.report_command(),),
        body=_body(subject, others),
    )


def _body(subject: Subject, sections: Sequence[Section]) -> tuple[Block, ...]:
    findings = [section.findings[0] for section in sections if section.findings][:_MOST]
    said: list[Block] = (
        [Listing(items=tuple(findings))]
        if findings
        else [Paragraph(text="None of the chosen sections has a finding to report.", tone="note")]
    )
    checkpoint = subject.checkpoint
    if checkpoint is None:
        about = [("checkpoints", f"{len(subject.stages)} in {line_of(subject.name)}")]
        return (*said, Facts(pairs=(*about, *_circumstances(subject))))
    blocks: list[Block] = [
        Heading(text="The model"),
        Facts(pairs=tuple(_model(checkpoint, subject.n_params))),
        Heading(text="Where it comes from"),
        Facts(pairs=(*_origin(subject, checkpoint), *_beside(subject, sections), *_circumstances(subject))),
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
    return (*said, *blocks)


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
