"""What a label says of a head, in plain words: one table for the command line, the report, the lab and the figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeadJob:
    """What heads with a label do.

    Attributes:
        one, several: as the predicate of a sentence about one head, or about several: "does induction".
        badge: in a word or two, for a small place.
        measured: at length, with "{share}", the score in percent, or "{score}".
    """

    one: str
    several: str
    badge: str
    measured: str


JOBS: dict[str, HeadJob] = {
    "previous_token": HeadJob(
        "looks at the token before",
        "look at the token before",
        "previous token",
        "gives {share} of its attention to the token before, on text",
    ),
    "duplicate_token": HeadJob(
        "looks at the same token further up",
        "look at the same token further up",
        "same token",
        "gives {share} of its attention to earlier places with the same token, on random tokens that are repeated",
    ),
    "induction": HeadJob(
        "does induction",
        "do induction",
        "induction",
        "gives {share} of its attention to what followed the last time this token stood here, on random tokens that "
        "are repeated",
    ),
    "positional": HeadJob(
        "goes by position",
        "go by position",
        "by position",
        "looks at places, whatever stands there: {share} of how its attention differs from an even one is the same in "
        "all sequences",
    ),
    "sink": HeadJob(
        "rests on the first token",
        "rest on the first token",
        "first token",
        "gives {share} of its attention to the first position, on text",
    ),
    "copying": HeadJob(
        "copies what it looks at",
        "copy what they look at",
        "copies",
        "raises the tokens that it attends to (by its weights {score:.2f}, where 1 is raising alone)",
    ),
    "anti_copying": HeadJob(
        "lowers what it looks at",
        "lower what they look at",
        "lowers",
        "lowers the tokens that it attends to (by its weights {score:.2f}, where 1 is lowering alone)",
    ),
    "line_break": HeadJob(
        "looks at the last line break",
        "look at the last line break",
        "line break",
        "gives {share} of its attention to the newline before the line, on text",
    ),
    "broad": HeadJob(
        "looks everywhere",
        "look everywhere",
        "everywhere",
        "attends broadly: its attention has {share} of the entropy of an even one",
    ),
}
"""By the labels of `ngl.head_taxonomy`."""


def job_of(label: str) -> HeadJob:
    """What heads with a label do; of a label that is none of ours, only that they carry it."""
    name = label.replace("_", " ")
    return JOBS.get(label, HeadJob(f"carries the label “{name}”", f"carry the label “{name}”", name, f"is “{name}”"))
