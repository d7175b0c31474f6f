"""What a label says of a head is said alike everywhere: by one table, for every label that a head can carry."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nanogpt_lens
from nanogpt_lens.core.head_jobs import JOBS, job_of
from nanogpt_lens.heads.naming import THRESHOLDS

PLURAL = {"looks": "look", "does": "do", "goes": "go", "rests": "rest", "copies": "copy", "lowers": "lower"}


def test_every_label_has_its_words():
    assert set(JOBS) == set(THRESHOLDS)
    assert len({job.badge for job in JOBS.values()}) == len(JOBS)


@pytest.mark.parametrize("label", list(JOBS))
def test_one_head_and_several_do_the_same(label):
    verb, *rest = JOBS[label].one.split()
    said = " ".join([PLURAL[verb], *rest]).replace("it looks at", "they look at")
    assert JOBS[label].several == said


def test_a_label_of_somebody_elses():
    assert job_of("next_line").one == "carries the label “next line”"


def test_the_sentences_stand_in_no_other_file():
    package = Path(nanogpt_lens.__file__).parent
    for job in JOBS.values():
        for words in {job.one, job.several} - {"does induction", "do induction"}:
            written = re.compile(rf"[\"'(]{re.escape(words)}[\"']")
            files = [path.name for path in package.rglob("*.py") if written.search(path.read_text("utf-8"))]
            assert files == ["head_jobs.py"], words
