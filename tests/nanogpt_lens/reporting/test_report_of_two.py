"""Two checkpoints on one page, and the last change in the section on checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from tests.making import content, write, write_meta
from tests.nanogpt_lens.compare.pairs_of_files import SIZES, TEXT, saved, state, with_other_head


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    return saved(folder / "before"), saved(folder / "after", with_other_head(state(), 0, 1))


def text_in(blocks: tuple) -> str:
    return " ".join(" ".join(getattr(b, "items", ())) + " " + getattr(b, "text", "") for b in blocks)


def test_the_page_has_what_the_comparison_says(two, tmp_path):
    page = ngl.report(two, corpus=TEXT, output=tmp_path / "compare.html", progress=False)
    made = ngl.compare(*two, text=TEXT, progress=False)
    assert page.passed
    assert [s.key for s in page.sections][:2] == ["summary", "transplants"]
    assert {s.key.replace("-", "_") for s in page.sections} - {"summary"} == set(made.parts)
    first = page.sections[0]
    face = first.body[0]
    assert tuple(look.sentence for look in face.looks) == made.sentences()[:3]
    assert face.picture.kind == "picture"
    assert (tmp_path / "compare.html").read_text() == page.html


@pytest.mark.parametrize(
    ("paths", "options", "words"),
    [
        (["induction"], {}, "1 paths were given; expected one checkpoint, or two"),
        (["induction", 3], {}, "expected one checkpoint, or two"),
        (["induction"] * 3, {}, "3 paths were given"),
        (["induction", "induction"], {"sections": ["loss"]}, "sections was given, which is about one checkpoint"),
        (["induction", "induction"], {"clean": "ab"}, "clean was given"),
    ],
)
def test_bad_input(paths, options, words):
    with pytest.raises(AnalysisError, match=words):
        ngl.report(paths, progress=False, **options)


def test_the_last_change_is_in_the_section_on_checkpoints(tmp_path):
    states = [state(), with_other_head(state(), 1, 1), with_other_head(with_other_head(state(), 1, 1), 0, 0)]
    for i, weights in enumerate(states):
        made = {**content(weights, **SIZES), "iter_num": 10 * i}
        write(tmp_path, made).rename(tmp_path / f"ckpt_{10 * i:06d}.pt")
    write_meta(tmp_path)
    section = ngl.report(tmp_path, corpus=TEXT, sections=["checkpoints"], progress=False).sections[0]
    said = text_in(section.body)
    assert "From ckpt_000010.pt to ckpt_000020.pt" in said
    assert "Head 0.0 alone, moved from ckpt_000020.pt into ckpt_000010.pt, carries 100% of the difference" in said
    assert str(tmp_path) not in said


def test_without_a_common_start_the_section_says_so(tmp_path):
    for i in range(2):
        write(tmp_path, {**content(state(seed=i), **SIZES), "iter_num": i}).rename(tmp_path / f"ckpt_{i}.pt")
    write_meta(tmp_path)
    section = ngl.report(tmp_path, corpus=TEXT, sections=["checkpoints"], progress=False).sections[0]
    assert "no common start" in text_in(section.body)
