"""What every command prints holds in terminals of 60, 80 and 120 columns, and no name is cut."""

from __future__ import annotations

import importlib
import io
import pkgutil
from contextlib import redirect_stdout

import pytest

from nanogpt_lens import cli
from nanogpt_lens.cli import analyses, tables
from nanogpt_lens.cli.tables import print_table, say
from tests.nanogpt_lens.cli.test_cli import run

WIDTHS = (60, 80, 120)
MODEL = "handmade_induction"
TASK = ("--task", "induction", "--n", 4, "--seq-len", 8)
SCRUBBED = "logits:\n  reads:\n    '1.0': {depends_on: token, reads: {k: {depends_on: previous_token}}}\n"
TEXT = "thequickbrownfoxjumpsoverthelazydog" * 40


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A text of the model's letters, a hypothesis, a saved circuit."""
    folder = tmp_path_factory.mktemp("widths")
    (folder / "text.txt").write_text("".join(c for c in TEXT if c in "abcdefghijklmnopqrst"))
    (folder / "hypothesis.yaml").write_text(SCRUBBED)
    assert run("circuit", "find", MODEL, *TASK, "--orders", 0, "-o", folder / "kept")[0] == 0
    return folder


@pytest.fixture
def printed(monkeypatch):
    """What each printer of the commands prints, by width: every result is made once, and printed at each width."""
    texts = dict.fromkeys(WIDTHS, "")

    def at_every_width(printer):
        def again(*args, **kwargs):
            for width in WIDTHS:
                with monkeypatch.context() as patch, redirect_stdout(io.StringIO()) as text:
                    patch.setenv("COLUMNS", str(width))
                    printer(*args, **kwargs)
                texts[width] += text.getvalue()

        return again

    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(cli.__path__, "nanogpt_lens.cli.")]
    for module in [module for module in modules if module is not tables]:
        for name in [n for n in vars(module) if n.startswith("_print") and n != "_print_version"]:
            monkeypatch.setattr(module, name, at_every_width(getattr(module, name)))
    monkeypatch.setattr(analyses, "print_induction", at_every_width(analyses.print_induction))
    return texts


COMMANDS = {
    "check": ("check", MODEL, "--no-edits"),
    "heads": ("heads", MODEL, "--n", 4, "--importance"),
    "induction": ("induction", MODEL, "--n", 4),
    "patch": ("patch", MODEL, "--clean", "abcabca", "--corrupted", "abfabca", "--answer", "b"),
    "lens": ("lens", MODEL, "--prompt", "abcdefabcdef", "--answer", "a"),
    "lens on text": ("lens", MODEL, "--n", 4),
    "tune-lens": ("tune-lens", MODEL, "--text", "TEXT", "--steps", 1, "-o", "NEW"),
    "neurons search": ("neurons", "search", MODEL, "--text", "TEXT", "--k", 1),
    "neurons page": ("neurons", "page", MODEL, "0.3", "--text", "TEXT"),
    "neurons find": ("neurons", "find", MODEL, "vowel", "--text", "TEXT", "--layer", 0),
    "neurons ablate": ("neurons", "ablate", MODEL, "0.1", "--text", "TEXT", "--n", 4, "--controls", 1),
    "measure": ("measure", MODEL, "composition_scores"),
    "circuit edges": ("circuit", "edges", MODEL, *TASK),
    "circuit find": ("circuit", "find", MODEL, *TASK, "--orders", 1),
    "circuit grade": ("circuit", "grade", MODEL, *TASK, "--methods", "exact,eap"),
    "circuit validate": ("circuit", "validate", MODEL, "KEPT", "--n-random", 4),
    "circuit compare": ("circuit", "compare", "KEPT", "KEPT", "--model", MODEL, "--n-random", 3, "--splits", 0),
    "circuit atlas": ("circuit", "atlas", "induction", "--pattern", "ckpt_000[0245]*", "--n", 4, "--seq-len", 16),
    "scrub": ("scrub", MODEL, "HYPOTHESIS", *TASK),
    "trajectory": ("trajectory", "induction", "--measure", "copying_score", "--pattern", "ckpt_00[01][0-4]*"),
    "compare": ("compare", MODEL, MODEL, "--parts", "outputs"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_holds_at_every_width(command, files, printed, tmp_path):
    paths = {"TEXT": files / "text.txt", "HYPOTHESIS": files / "hypothesis.yaml", "KEPT": files / "kept"}
    paths["NEW"] = tmp_path / "new"
    names = ("--name", "one", "--name", "two") if "compare" in command else ()
    code, _, err = run(*(paths.get(word, word) for word in COMMANDS[command]), *names)
    assert code == 0, err
    for width, text in printed.items():
        assert text
        assert "…" not in text
        for line in text.splitlines():
            assert len(line) <= width or len(line.split()) == 1, (width, line)  # a path or a hash is one word


@pytest.mark.parametrize("width", WIDTHS)
def test_lists_hold_at_every_width(width):
    for words in (("analyses",), ("info", MODEL)):
        code, text, _ = run(*words, width=width)
        assert code == 0
        assert "…" not in text
        assert all(len(line) <= width or len(line.split()) <= 2 for line in text.splitlines())
        assert words != ("analyses",) or "induction_composition" in text


def table(width, monkeypatch, capsys, *args, **options):
    monkeypatch.setenv("COLUMNS", str(width))
    print_table(*args, **options)
    return capsys.readouterr().out


class TestATableThatIsTooWide:
    HEADER = ("name", "first score", "second score", "in words")
    ROWS = (
        ("a_long_name_of_a_thing", "0.123", "0.5 *", "some words about the thing, not few"),
        ("b", "-1", "2", ""),
    )

    def test_it_wraps_words_then_leaves_columns_out_and_says_so(self, monkeypatch, capsys):
        wide = table(120, monkeypatch, capsys, self.HEADER, self.ROWS, drop=["first score"], wrap=["in words"])
        assert len(wide.splitlines()) == 3
        middle = table(60, monkeypatch, capsys, self.HEADER, self.ROWS, drop=["first score"], wrap=["in words"])
        assert "0.123" in middle
        assert len(middle.splitlines()) > 4
        narrow = table(48, monkeypatch, capsys, self.HEADER, self.ROWS, drop=["first score"], wrap=["in words"])
        assert "0.123" not in narrow
        assert "left out for want of room: first score (--csv has them" in " ".join(narrow.split())

    def test_it_continues_below_or_turns_into_lists(self, monkeypatch, capsys):
        header, rows = ("point", "a", "b"), (("0.resid_pre", "1.00 [0.90, 1.10]", "2.00 [1.90, 2.10]"),)
        folded = table(40, monkeypatch, capsys, header, rows, fold=True)
        assert folded.count("0.resid_pre") == 2
        assert "2.00 [1.90, 2.10]" in folded
        lists = table(24, monkeypatch, capsys, header, rows)
        assert [line.split()[0] for line in lists.splitlines()][:2] == ["0.resid_pre", "a"]
        assert "…" not in folded + lists

    def test_nothing_is_a_table_of_nothing(self, monkeypatch, capsys):
        assert table(80, monkeypatch, capsys, ("a", "b"), ()) == ""

    def test_what_a_checkpoint_says_is_text(self, monkeypatch, capsys):
        text = table(80, monkeypatch, capsys, ("a", "b"), (("[bold red]x[/nonsense]", "y\nz"),))
        assert "[bold red]x[/nonsense]" in text
        assert "y z" in text


def test_a_path_is_never_broken(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    say("saved in /a/very/long/path/of/a/file.json: look")
    assert capsys.readouterr().out.splitlines() == ["saved in", "/a/very/long/path/of/a/file.json:", "look"]
