"""What differs between the last two checkpoints of a folder, and which parts of the model carry it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from conversion.errors import NanoGPTLensError
from nanogpt_lens.compare.comparing import compare
from nanogpt_lens.model.loading import convert
from nanogpt_lens.reporting.blocks import Block, Heading, Listing, Paragraph, picture_of
from nanogpt_lens.reporting.compared_parts import without_small
from nanogpt_lens.reporting.section import in_a_sentence
from nanogpt_lens.reporting.subject import Subject, text_of
from nanogpt_lens.reporting.words import line_of

_TOKENS = 20_000  # of the text that are read


def last_change(
    subject: Subject, measured: Sequence[tuple[str, Path]], drawn_text: Int[Tensor, "example pos"] | None
) -> list[Block]:
    """The last two checkpoints side by side, as blocks; none where there are not two.

    Args:
        subject: what the report is about.
        measured: name and file of every checkpoint that was measured, in their order.
        drawn_text: what the others are measured on where there is no text.
    """
    if len(measured) < 2:
        return []
    (before, one), (after, other) = measured[-2:]
    heading = Heading(text=f"From {line_of(before)} to {line_of(after)}")
    try:
        models = [
            convert(subject.reading.checkpoint(file), backend=subject.reading.backend, consume=True)
            for file in (one, other)
        ]
        text = text_of(models[0], subject.raw_text)
        corpus: Any = drawn_text if text is None else text.ids[:_TOKENS]
        made = compare(
            *models,
            text=corpus,
            names=(line_of(before), line_of(after)),
            parts=["outputs", "weights", "transplants"],
            search=False,
            seed=subject.seed,
            progress=False,
        )
    except NanoGPTLensError as error:
        return [
            heading,
            Paragraph(text=f"The two cannot be compared: {in_a_sentence(error, subject.folders)}.", tone="note"),
        ]
    blocks: list[Block] = [heading, Listing(items=made.sentences())]
    if "transplants" in made.parts:
        shown: Any = without_small(made["transplants"])  # type: ignore[arg-type]
        blocks.append(picture_of(shown, "where the difference of the last two sits", names=made.names))
    return blocks
