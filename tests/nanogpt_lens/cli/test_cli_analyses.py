"""The commands heads, induction, patch: the numbers of the functions, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import torch

import nanogpt_lens as ngl
from conversion import save_checkpoint
from tests.handmade import VOCAB, handmade_checkpoint
from tests.making import CHARS, write, write_meta
from tests.nanogpt_lens.cli.test_cli import run

PATCH = ("--clean", "abcabca", "--corrupted", "abxabca", "--answer", "b", "--wrong", "z")


@pytest.fixture
def out(tmp_path):
    write_meta(tmp_path / "out")
    write(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def handmade(tmp_path_factory):
    """The hand-set model as a checkpoint on disk, with letters for its tokens."""
    folder = tmp_path_factory.mktemp("handmade") / "run"
    save_checkpoint(handmade_checkpoint().to(torch.float32), folder)
    write_meta(folder, chars="abcdefghijklmnopqrstuvwxyz"[:VOCAB])
    return folder


def test_heads_names_the_two_heads(handmade):
    code, text, _ = run("heads", handmade, "--n", 16, "--importance")
    assert code == 0
    lines = {line.split()[0]: line for line in text.splitlines() if line[:1].isdigit()}
    said = (
        "Head 0.1 looks at the token before and goes by position; head 1.0 does induction and copies what it looks at"
    )
    assert text.startswith(said)
    assert lines["0.1"].split("  ")[2].strip() == "previous token, positional"
    assert lines["1.0"].split("  ")[2].strip() == "induction, copying"
    assert all(lines[head].split()[1] == "broad" for head in ("0.0", "1.1"))
    assert lines["0.1"].count("*") == lines["1.0"].count("*") == 2
    assert re.search(r"^\* previous token.*: above 0.40 \(.+\)$", text, re.MULTILINE)
    assert "chance" in text
    assert "loss rise" in text


def test_heads_as_json_and_csv_hold_the_results(out, tmp_path):
    code, text, _ = run("heads", out, "--n", 8, "--json")
    assert code == 0
    expected = ngl.head_taxonomy(ngl.load(out), n=8)
    found = json.loads(text)["heads"]
    rows = {(r["score_label"], r["layer"], r["head"]): r for r in found["rows"]}
    assert rows["sink", 1, 0]["value"] == pytest.approx(float(expected.at(score="sink", layer=1, head=0)))
    assert rows["sink", 1, 0]["carries"] == bool(expected.carries[expected.labels["score"].index("sink"), 1, 0])
    assert found["provenance"]["checkpoint_sha256"] == ngl.read_checkpoint(out).sha256
    code, text, _ = run("heads", out, "--n", 8, "--csv", "--importance", "--output", tmp_path / "saved")
    assert code == 0
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["measure"] for row in table} == {"heads", "importance"}
    assert len(table) == 8 * 4 + 4
    assert torch.equal(ngl.load_result(tmp_path / "saved").values.nan_to_num(9), expected.values.nan_to_num(9))


def test_induction_reports_the_head_and_its_ablation(handmade):
    code, text, _ = run("induction", handmade, "--n", 8)
    assert code == 0
    assert text.startswith("Induction head: 1.0.\n")
    assert re.search(r"^1.0 +1.00 \[1.00, 1.00\] \*$", text, re.MULTILINE)
    assert "* an induction head: surely, for all heads together, above 0.4" in text
    assert "accuracy on clean [A][B]...[A] prompts: 1.00" in text
    assert "previous-token head 0.1 -> induction head 1.0" in text
    assert "ablation of 1.0" in text


def test_induction_as_json_and_csv(out, tmp_path):
    (tmp_path / "text.txt").write_text(CHARS * 20)
    code, text, _ = run("induction", out, "--n", 4, "--text", tmp_path / "text.txt", "--json")
    assert code == 0
    found = json.loads(text)
    assert set(found) == {
        "prefix_matching",
        "accuracy",
        "repeated_loss",
        "in_context_learning",
        "composition",
        "repeated_text_loss",
        "text_prefix_matching",
    }
    expected = ngl.prefix_matching(ngl.load(out), n=4)
    assert found["prefix_matching"]["rows"][0]["value"] == pytest.approx(float(expected.values[0, 0]))
    code, text, _ = run("induction", out, "--n", 4, "--csv", "--output", tmp_path / "saved")
    assert code == 0
    table = list(csv.DictReader(io.StringIO(text)))
    assert {row["measure"] for row in table} == set(found) - {"repeated_text_loss", "text_prefix_matching"}
    assert {row["layer"] for row in table if row["measure"] == "prefix_matching"} == {"0", "1"}
    assert ngl.load_result(tmp_path / "saved" / "accuracy").labels["prompt"] == ("clean", "corrupted")
    code, text, _ = run("induction", out, "--n", 4)
    assert "nothing to ablate" in text


def test_patch_prints_the_sweep(out):
    code, text, _ = run("patch", out, *PATCH, "--rows", 3)
    assert code == 0
    assert "2 'c|x'" in text
    expected = ngl.activation_patching(
        ngl.load(out),
        "abcabca",
        "abxabca",
        ngl.metrics.logit_diff("b", "z"),
        activation="resid_pre",
        axes=("layer", "pos"),
        progress=False,
    )
    assert f"clean {expected.clean:.3f}" in text
    assert "11 sites with smaller effects" in text
    code, text, _ = run("patch", out, *PATCH, "--json")
    found = json.loads(text)["patching"]
    assert (found["clean"], found["corrupted"]) == pytest.approx((expected.clean, expected.corrupted))
    rows = found["rows"]
    assert [r["value"] for r in rows] == pytest.approx(expected.values.flatten().tolist())
    assert [r["recovery"] for r in rows] == pytest.approx(expected.recovery.flatten().tolist())


def test_patch_takes_other_activations_directions_and_metrics(out, tmp_path):
    code, text, _ = run(
        "patch",
        out,
        *PATCH[:6],
        "--activation",
        "z",
        "--axes",
        "head, layer",
        "--direction",
        "noise",
        "--csv",
        "--output",
        tmp_path / "saved",
    )
    assert code == 0
    expected = ngl.activation_patching(
        ngl.load(out),
        "abcabca",
        "abxabca",
        ngl.metrics.answer_logprob("b"),
        activation="z",
        axes=("head", "layer"),
        direction="noise",
        progress=False,
    )
    table = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["value"]) for row in table] == pytest.approx(expected.values.flatten().tolist())
    assert torch.equal(ngl.load_result(tmp_path / "saved").values, expected.values)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("patch", "OUT", *PATCH, "--axes", "layer,head"), "resid_pre has no axis 'head'"),
        (("patch", "OUT", *PATCH, "--axes", ","), "cannot be swept over"),
        (
            ("patch", "OUT", *PATCH[:2], "--corrupted", "ab", *PATCH[4:]),
            "the clean text 'abcabca' has 7 tokens and the corrupted text 'ab' has 2 tokens; expected the same number "
            "of tokens, so that positions correspond: give the corrupted one 5 more, or the other 5 fewer",
        ),
        (("patch", "OUT", *PATCH[:4], "--answer", "bc"), "expected one token"),
        (("patch", "OUT", *PATCH[:4], "--answer", "é"), "not among the 65 characters"),
        (
            ("patch", "OUT", "--clean", "a" * 13, "--corrupted", "b" * 13, "--answer", "b"),
            "at most 12, the model's context",
        ),
        (("patch", "OUT", *PATCH, "--json", "--csv"), "expected one of them"),
        (("patch", "nowhere", *PATCH), "does not exist"),
        (("heads", "OUT", "--text", "nowhere.txt"), "does not exist"),
        (("induction", "OUT", "--seq-len", "7"), "half of the model's context"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(out, words, message):
    code, stdout, stderr = run(*(out if word == "OUT" else word for word in words))
    assert code == 2
    assert stdout == ""
    assert message in stderr
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1


def test_without_a_vocabulary_heads_and_induction_work_and_patch_says_what_to_give(tmp_path):
    write(tmp_path / "bare")
    assert run("heads", tmp_path / "bare", "--n", 4)[0] == 0
    assert run("induction", tmp_path / "bare", "--n", 4)[0] == 0
    code, _, stderr = run("patch", tmp_path / "bare", *PATCH)
    assert code == 2
    assert "meta" in stderr


def test_a_patch_between_equal_runs_is_refused(out):
    code, text, err = run(
        "patch", out, "--clean", "abcabca", "--corrupted", "abcabca", "--answer", "b", "--wrong", "z", "--json"
    )
    assert (code, text) == (2, "")
    assert "the clean and the corrupted text are the same" in err
