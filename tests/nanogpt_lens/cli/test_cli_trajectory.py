"""The command `trajectory`: the numbers of the function, verdicts, pictures, and one sentence for what is wrong."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results import Trajectory
from tests.browser import chromium
from tests.making import write_meta
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.runs.stage_helpers import CHARS, TEXT, make_run, write_stage

STEPS = (0, 100, 200, 300, 400, 500, 600, 700)
FALLS = 400
"""Before this step the models of the run are sure and wrong, from here on they know nothing."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Eight stages whose logits are large in the first half, about those of stage 0, and small in the second."""
    folder = make_run(tmp_path_factory.mktemp("cli") / "run", names={})
    first = torch.load(write_stage(folder / "first.pt", 0), weights_only=True)["model"]
    (folder / "first.pt").unlink()
    for step in STEPS:
        file = write_stage(folder / f"ckpt_{step:06d}.pt", step)
        content = torch.load(file, weights_only=True)
        content["model"] = {name: 0.9 * first[name] + 0.1 * own for name, own in content["model"].items()}
        for part in ("weight", "bias"):
            content["model"][f"transformer.ln_f.{part}"] *= 1.0 if step < FALLS else 0.01
        torch.save(content, file)
    return folder


@pytest.fixture(scope="module")
def text(stages):
    file = stages.parent / "text.txt"
    file.write_text(TEXT)
    return file


def refused(*args):
    """The one sentence of a refusal."""
    code, out, error = run("trajectory", *args)
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "should not have happened" not in error
    return error


def test_a_table_of_what_changes_most(stages, text):
    code, out, _ = run("trajectory", stages, "--measure", "prefix_matching", "--n", 6, "--rows", 3)
    assert code == 0
    expected = ngl.trajectory(stages, "prefix_matching", n=6, progress=False)
    lines = out.splitlines()
    assert lines[-2].startswith("prefix matching, attention from 0 to 1: mean attention from second-half queries")
    assert lines[1].split()[:10] == ["layer", "head", *map(str, STEPS)]
    spread = expected.values.amax(0) - expected.values.amin(0)
    for line, place in zip(lines[2:5], spread.flatten().argsort(descending=True).tolist(), strict=False):
        layer, head = divmod(place, 2)
        numbers = [f"{value:.3f}" for value in expected.values[:, layer, head].tolist()]
        assert line.split()[:10] == [str(layer), str(head), *numbers]
    assert lines[-1] == (
        "8 checkpoints; columns are iterations; p of a change at most 0.05, corrected for 4 curves; 1 other places "
        "change less or were not asked for: --rows, --at, --csv"
    )
    assert lines[-3] == "few examples: n = 6"
    many = run("trajectory", stages, "--measure", "prefix_matching", "--n", 10)[1]
    assert "examples: n" not in many


def test_at_chooses_places(stages):
    args = ("trajectory", stages, "--measure", "task_heads", "--n", 5)
    code, out, _ = run(*args, "--at", "score=induction", "--at", "layer=1")
    assert code == 0
    rows = [line.split()[:3] for line in out.splitlines()[2:4]]
    assert sorted(rows) == [["induction", "1", "0"], ["induction", "1", "1"]]
    assert "6 other places" in out
    assert run(*args, "--at", "layer=-1", "--rows", 1)[1].splitlines()[2].split()[1] == "1"
    code, out, _ = run(
        "trajectory", stages, "--measure", "measure_convergence", "--n", 4, "--at", "layer=1", "--at", "score=kl"
    )
    assert code == 0
    expected = ngl.trajectory(stages, "measure_convergence", n=4, progress=False)
    first = out.splitlines()[2].split()
    assert first[:2] == ["kl", expected.labels.get("layer", ("0", "1"))[1]]
    curve = expected.at(score="kl", layer=1, point=first[2]).tolist()
    shown = [f"{value:.3f}" for value in curve]
    assert first[3:11] == shown


@pytest.mark.parametrize(
    "place", ["layer", "layer=", "=1", "layer=7", "score=induction", "step=100", "layer=x", "a=b=c"]
)
def test_a_place_that_is_not_there(stages, place):
    error = refused(stages, "--measure", "prefix_matching", "--n", 4, "--at", place)
    assert place.partition("=")[2] in error or place in error


def test_a_falling_loss_has_a_verdict_and_a_mark(stages, text, tmp_path):
    picture = tmp_path / "loss.html"
    args = ("trajectory", stages, "--measure", "text_loss", "--text", text, "--n", 8)
    code, out, error = run(*args, "--plot", picture)
    assert code == 0
    found = ngl.find_change_point(
        ngl.trajectory(stages, "text_loss", corpus=text, n=8, progress=False), least=0.1, direction="fall"
    )
    assert found.formed
    assert found.low[1] <= 300 < 400 <= found.high[1]
    step, low, high = found.mark
    assert f"half-way down at {step:,.0f} ({low:,.0f} to {high:,.0f})" in out
    assert f"picture written to {picture}" in error
    assert "picture" not in out
    page = picture.read_text()
    assert f"Dotted: step {step:,.0f} (interval {low:,.0f} to {high:,.0f})" in page
    assert "https://cdn" not in page.partition("Plotly.newPlot")[2]
    assert "not reached" in run(*args, "--least", 1000)[1]


@pytest.mark.parametrize(
    ("pattern", "n"), [("ckpt_0001*", 1), ("ckpt_000[12]*", 2), ("ckpt_000[0-4]*", 5), ("ckpt_000[0-5]*", 6)]
)
def test_fewer_stages_than_a_verdict_takes(stages, text, pattern, n):
    args = ("trajectory", stages, "--measure", "text_loss", "--text", text, "--n", 4)
    code, out, _ = run(*args, "--pattern", pattern)
    assert code == 0
    assert f"too few stages to tell ({n}; needs 7)" in out
    assert "not reached" not in out
    assert ("There is one checkpoint here, of iteration" in out) == (n == 1)
    assert f"{n} checkpoints; columns are iterations\n" in out


def test_with_seven_stages_there_is_a_verdict(stages, text):
    code, out, _ = run(
        "trajectory", stages, "--measure", "text_loss", "--text", text, "--n", 4, "--pattern", "ckpt_000[0-6]*"
    )
    assert (code, "too few" in out, "7 checkpoints" in out) == (0, False, True)


@pytest.mark.parametrize(
    ("names", "named", "pattern"),
    [
        (["model_00100.pt", "model_00200.pt"], "model_00100.pt, model_00200.pt", "model_*.pt"),
        (["step100.pth"], "step100.pth", "step*.pth"),
        (["a1.pt", "a2.pt", "a3.pt", "a4.pt"], r"a1.pt, a2.pt, a3.pt, ... (4 files)", "a*.pt"),
        (["best.pt", "last.pt"], "best.pt, last.pt", "*.pt"),
    ],
)
def test_other_names_of_checkpoints_are_named(tmp_path, names, named, pattern):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    code, _, err = run("trajectory", tmp_path)
    assert code == 2
    assert f"there are {named}: give --pattern '{pattern}'\n" in err
    assert f"give pattern={pattern!r}" in said(lambda: ngl.trajectory(tmp_path))


def said(call):
    with pytest.raises(ngl.NanoGPTLensError) as caught:
        call()
    return str(caught.value)


def test_json_and_csv_hold_the_result(stages, tmp_path):
    args = ("trajectory", stages, "--measure", "task_accuracy", "--n", 5)
    expected = ngl.trajectory(stages, "task_accuracy", n=5, progress=False)
    code, out, error = run(*args, "--json", "--output", tmp_path / "saved")
    assert code == 0
    found = json.loads(out)["task_accuracy"]
    assert found["axes"] == ["step", "score", "position"]
    assert [row["value"] for row in found["rows"]] == pytest.approx(expected.values.flatten().tolist(), nan_ok=True)
    assert [row["step_label"] for row in found["rows"]][:: expected.values[0].numel()] == list(map(str, STEPS))
    assert found["provenance"]["checkpoint_sha256"] == expected.provenance["checkpoint_sha256"]
    assert f"result saved in {tmp_path / 'saved'}" in error
    saved = ngl.load_result(tmp_path / "saved")
    assert isinstance(saved, Trajectory)
    assert torch.equal(saved.values.nan_to_num(9), expected.values.nan_to_num(9))
    code, out, _ = run(*args, "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["low"]) for row in table] == pytest.approx(expected.low.flatten().tolist())
    assert {row["measure"] for row in table} == {"task_accuracy"}


@pytest.mark.slow
@pytest.mark.browser
def test_a_picture_as_svg_has_the_mark(stages, text, tmp_path):
    chromium()
    args = ("--measure", "text_loss", "--text", text, "--n", 8, "--plot", tmp_path / "loss.svg")
    code, _, error = run("trajectory", stages, *args)
    assert code == 0, error
    assert "Dotted: step" in (tmp_path / "loss.svg").read_text()


def test_where_there_is_no_browser_it_is_one_sentence(stages, tmp_path, monkeypatch):
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "absent"))
    assert "absent is no program" in refused(stages, "--measure", "composition_scores", "--plot", tmp_path / "t.svg")


@pytest.mark.parametrize("name", ["t.pdf", "t", "t.HTML.bak"])
def test_another_ending_is_refused_before_the_work(tmp_path, name):
    error = refused(tmp_path / "absent", "--plot", tmp_path / name)
    assert "expected a picture: .html, .png, .svg" in error


def test_what_is_wrong_is_one_sentence(stages, text, tmp_path):
    assert "absent does not exist" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "has no ckpt*.pt" in refused(tmp_path / "empty")
    assert "has no none*.pt" in refused(stages, "--pattern", "none*.pt")
    assert "looks at the weights alone" in refused(stages, "--measure", "composition_scores", "--text", text)
    assert "--json and --csv were both given" in refused(stages, "--json", "--csv")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "own.txt").write_text("mine")
    assert "full" in refused(stages, "--output", tmp_path / "full")
    assert "is a file; expected a folder" in refused(
        stages, "--measure", "composition_scores", "--resume", tmp_path / "full" / "own.txt"
    )
    assert "absent.txt" in refused(stages, "--measure", "text_loss", "--text", tmp_path / "absent.txt")
    code, _, error = run("trajectory", stages, "--measure", "charm")
    assert code == 2
    assert "charm" in error
    for name in ("--n", "--rows"):
        assert run("trajectory", stages, name, 0)[0] == 2


def test_a_run_that_is_interrupted(stages, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanogpt_lens.runs.stages.Walk.at", interrupt)
    assert run("trajectory", stages, "--measure", "composition_scores")[0] == 130


def test_a_vocabulary_of_another_size_is_noted_once(tmp_path):
    folder = make_run(tmp_path / "run", names={})
    for step in (0, 100):
        write_stage(folder / f"ckpt_{step}.pt", step)
    write_meta(folder, CHARS[:8])
    code, out, err = run("trajectory", folder, "--measure", "prefix_matching", "--n", 2)
    assert (code, "vocabulary" in out) == (0, False)
    assert err.count(f"the vocabulary has 8 tokens and the model {len(CHARS)}") == 1
