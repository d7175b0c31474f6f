"""The command compare: sentences, JSON, the page, and what does not go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nanogpt_lens as ngl
from nanogpt_lens.results import ModelComparison
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.compare.pairs_of_files import TEXT, saved, state, with_other_head

PARTS = ("outputs", "weights", "transplants")
QUICK = ("--parts", ",".join(PARTS), "--no-search")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    text = folder / "text.txt"
    text.write_text(TEXT)
    return saved(folder / "before"), saved(folder / "after", with_other_head(state(), 0, 1)), text


class TestWhatItPrints:
    def test_json_is_that_of_the_function(self, files, tmp_path):
        before, after, text = files
        words = ("compare", before, after, "--text", text, *QUICK)
        code, out, _ = run(*words, "--json", "--save", tmp_path / "kept")
        assert code == 0
        plain = json.loads(out)
        made = ngl.compare(before, after, text=text, parts=list(PARTS), search=False, progress=False)
        assert plain["sentences"] == list(made.sentences())
        assert plain["parts"]["weights"]["verdicts"] == list(made["weights"].verdicts)
        assert ModelComparison.load(tmp_path / "kept").sentences() == made.sentences()

    def test_for_people_the_sentences_come_first(self, files):
        before, after, text = files
        code, out, _ = run("compare", before, after, "--text", text, "--parts", "outputs,transplants")
        assert code == 0
        lines = out.splitlines()
        assert lines[0].startswith("After predicts this text")
        assert lines[1].startswith("Head 0.1, moved from after into before, carries 100%")
        assert any(line.startswith("0.1 ") and "100%" in line for line in lines[2:])

    def test_a_reason_is_given_once(self, files, tmp_path):
        before, _, text = files
        other = saved(tmp_path / "other", state(seed=9))
        _, out, _ = run("compare", before, other, "--text", text, "--parts", "weights,transplants,edges")
        assert out.count("without transplants, edges") == 1


class TestThePage:
    def test_first_the_sentences_and_one_picture(self, files, tmp_path):
        before, after, text = files
        page = tmp_path / "compare.html"
        code, out, _ = run("compare", before, after, "--text", text, *QUICK[:2], "-o", page)
        assert code == 0
        assert str(page) in out
        html = page.read_text()
        assert "Both checkpoints are converted exactly" in html
        first = html[html.index('id="summary"') : html.index('id="transplants"')]
        assert "Head 0.1, moved from after into before, carries 100%" in first
        assert first.count("<figure") == 1
        assert str(tmp_path) not in html
        assert str(before.parent) not in html

    def test_the_same_arguments_give_the_same_bytes(self, files, tmp_path):
        before, after, text = files
        words = ("compare", before, after, "--text", text, "--parts", "weights")
        for name in ("one.html", "two.html"):
            run(*words, "-o", tmp_path / name)
        assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()

    def test_hostile_names_and_tokens_are_text(self, files, tmp_path):
        before, _, text = files
        evil = saved(tmp_path / "<img src=x onerror=alert(1)>", with_other_head(state(), 1, 1))
        page = tmp_path / "page.html"
        run("compare", before, evil, "--text", text, "-o", page, "--parts", "outputs,weights")
        assert "<img src=x" not in page.read_text()


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--parts", "outputz"), "no part 'outputz'"),
            (("--text", "nowhere.txt"), "nowhere.txt does not exist"),
            (("-o", "folder"), "folder is no page"),
            (("--plot", "picture.gif"), "picture.gif"),
            (("--name", "x"), "two different names"),
        ],
    )
    def test_one_sentence(self, files, words, said):
        code, _, err = run("compare", *files[:2], *words)
        assert code == 2
        assert said in err
        assert len(err.strip().splitlines()) == 1

    def test_a_checkpoint_that_is_not_there(self, files):
        code, _, err = run("compare", files[0], "nowhere/out")
        assert code == 2
        assert "nowhere/out does not exist" in err
