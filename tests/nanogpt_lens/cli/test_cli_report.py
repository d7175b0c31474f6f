"""`nanogpt-lens report`: what it writes, says, and returns."""

import json
import subprocess

import pytest
import torch
from typer.testing import CliRunner

from nanogpt_lens.cli.app import app
from nanogpt_lens.reporting.making import SECTIONS, report
from tests.making import CHARS, content, write_meta
from tests.nanogpt_lens.reporting.report_helpers import read, section, small, text


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A checkpoint and a text in the working directory."""
    small(tmp_path / "out")
    (tmp_path / "words.txt").write_text(text(3000))
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def test_it_writes_what_the_function_returns(run):
    result = run.invoke(
        app, ["report", "out", "--text", "words.txt", "--sections", "attention, loss", "-o", "new/page.html"]
    )
    assert result.exit_code == 0, result.output
    expected = report("out", corpus="words.txt", sections=["loss", "attention"], progress=False)
    with open("new/page.html", encoding="utf-8", newline="") as file:
        assert file.read() == expected.html
    assert result.stdout.strip().endswith("it opens offline")
    assert "2 of 2 sections" in result.stdout


def test_json_says_where_and_how(run):
    result = run.invoke(app, ["report", "out", "--text", "words.txt", "--sections", "certificate,loss", "--json"])
    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert content["passed"] is True
    assert content["output"] == "report.html"
    assert [(s["key"], s["status"]) for s in content["sections"]] == [("certificate", "done"), ("loss", "done")]


def test_sections_are_listed_without_a_checkpoint(run):
    result = run.invoke(app, ["report", "--list-sections"])
    assert result.exit_code == 0
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == list(SECTIONS)


def test_a_failed_section_is_a_warning(run, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.reporting.sections.loss.losses", lambda *_: 1 / 0)
    result = run.invoke(app, ["report", "out", "--sections", "loss"])
    assert result.exit_code == 2
    warning, error = result.stderr.strip().splitlines()[-2:]
    assert warning.startswith("warning: the section loss failed: this should not have")
    assert error == "error: all chosen sections failed; report.html says why"
    result = run.invoke(app, ["report", "out", "--sections", "loss,attention"])
    assert result.exit_code == 0
    assert result.stderr.strip().splitlines()[-1].startswith("warning: the section loss failed: this should not have")


def test_what_is_not_equal_is_written_in_red_and_exits_1(run, tmp_path, monkeypatch):
    from dataclasses import replace

    import nanogpt_lens.reporting.sections.certificate as made

    honest = made.check

    def doubting(*args, **options):
        found = honest(*args, **options)
        first = replace(found.comparisons[0], passed=False, max_abs=1.0, max_rel=1.0)
        return replace(found, comparisons=(first, *found.comparisons[1:]))

    monkeypatch.setattr(made, "check", doubting)
    result = run.invoke(app, ["report", "out", "--sections", "certificate,summary"])
    assert result.exit_code == 1
    assert "NOT EQUAL: 1 of" in result.stdout
    page = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    status = page.all(class_="status")[0]
    assert status.text.startswith("NOT EQUAL: 1 of")
    assert status.attributes["data-tone"] == "bad"
    assert "The conversion is not proven" in section(page, "summary").text
    assert len(section(page, "certificate").all("tr", class_="marked")) == 2


def test_a_certificate_that_cannot_be_made_proves_nothing(run, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.reporting.sections.certificate.check", lambda *_, **__: 1 / 0)
    result = run.invoke(app, ["report", "out", "--sections", "certificate,loss"])
    assert result.exit_code == 1
    with open("report.html", encoding="utf-8") as file:
        assert "NOT PROVEN: the certificate could not be made" in file.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist and is no shipped checkpoint"),
        (["out", "--text", "no.txt"], "no.txt does not exist; expected a text file"),
        (["out", "--sections", "heads,what"], "there is no section 'what'; expected some of summary"),
        (["out", "--clean", "the"], "only the clean prompt was given"),
        (["out", "--clean", "the", "--corrupted", "then"], "the clean text has 3 tokens"),
        (["out", "-o", "words.txt/page.html"], "cannot be written"),
        (["out", "-o", "out"], "out is a folder"),
        (["words.txt"], "words.txt"),
        (["out", "-o", "page.txt"], "page.txt does not end in .html"),
        (["out", "--clean", "the", "--corrupted", "the"], "are the same"),
        (["out", "--clean", "the", "--corrupted", "tha", "--sections", "loss"], "the section patching"),
        (["out", "--sections", "checkpoints"], "out is one checkpoint"),
    ],
)
def test_bad_input_exits_2_and_writes_nothing(run, tmp_path, arguments, message):
    result = run.invoke(app, ["report", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_every_command_of_a_report_runs(run, tmp_path):
    """The lines under the sections, as a reader would copy them."""
    found = report("out", corpus="words.txt", clean="the king", corrupted="the kigg", progress=False)
    lines = [line for s in found.sections for line in s.commands]
    assert len(lines) >= 12
    for line in dict.fromkeys(lines):
        if line.startswith("import"):
            exec(compile(line, "line", "exec"), {})
            continue
        parsed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True
        ).stdout.decode()
        result = run.invoke(app, parsed.split("\0")[1:-1])
        assert result.exit_code == 0, (line, result.output, result.stderr)


def test_the_commands_make_the_same_numbers(run):
    """Those under the heads and under induction, against the tables of the report."""
    found = report("out", corpus="words.txt", sections=["heads", "induction"], seed=3, progress=False)
    page = read(found.html)

    def rows(line, name):
        words = line.split("  # ")[0].split()[1:]
        return json.loads(run.invoke(app, [*words, "--json"]).stdout)[name]["rows"]

    def by_head(key):
        (found,) = [table for table in section(page, key).tables() if table[0][0] == "head"]
        return found

    scores, rise = found.sections[0].commands
    table = {row[0]: row for row in by_head("heads")}
    first = table["head"][1].replace(" ", "_")
    measured = [row for row in rows(scores, "heads") if row["score_label"] == first]
    assert len(measured) == len(table) - 2
    for row in measured:
        shown = table[f"{row['layer']}.{row['head']}"][1].replace("−", "-")
        assert float(shown) == pytest.approx(row["value"], abs=0.0051)
    for row in rows(rise, "importance"):
        shown = table[f"{row['layer']}.{row['head']}"][-3].split(" ")[0].replace("−", "-")
        assert float(shown) == pytest.approx(row["value"], abs=0.000051)
    best = max(row["value"] for row in rows(found.sections[1].commands[0], "prefix_matching"))
    assert by_head("induction")[1][1].split(" ")[0] == f"{best:.3f}"


def test_options_of_the_checkpoint_are_in_the_commands(tmp_path):
    what = content(block_size=16)
    what["model_args"]["fork"] = 1
    (tmp_path / "out").mkdir()
    torch.save(what, tmp_path / "out" / "ckpt.pt")
    meta = write_meta(tmp_path / "elsewhere", CHARS)
    found = report(
        tmp_path / "out",
        corpus=text(2000),
        meta=meta,
        ignore_model_args=["fork"],
        act_fn="gelu_new",
        clean="the",
        corrupted="tha",
        answer="a",
        wrong="b",
        sections=["loss", "patching"],
        progress=False,
    )
    assert found.sections[0].commands[0] == (
        "nanogpt-lens report out -o loss.html --sections loss --meta meta.pkl --act-fn gelu_new "
        "--ignore-model-arg fork  # and --text with a file of the text that was given"
    )
    assert "--act-fn gelu_new" in found.sections[1].commands[0] or found.failed
