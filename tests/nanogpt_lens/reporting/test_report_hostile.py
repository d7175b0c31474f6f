"""Hostile tokens, texts, file names and settings: nothing of them becomes an element, and all can be recognised."""

import base64
import hashlib
import json
import re

import pytest
import torch

from nanogpt_lens.reporting.making import SECTIONS, report
from nanogpt_lens.reporting.words import command, short_path
from tests.hostile import HOSTILE, plain
from tests.making import content
from tests.nanogpt_lens.reporting.report_helpers import hostile, read, section, small, text

OURS = {"text/javascript", "", "application/json", "application/gzip"}
EVIL = '"><script>window.pwned=1<'


def check_harmless(html):
    """The only scripts are ours; the content policy names each that runs; nothing else is active."""
    page = read(html)
    scripts = page.all("script")
    assert {s.attributes.get("type", "") for s in scripts} <= OURS
    running = [s.text for s in scripts if not s.attributes.get("type")]
    assert len(running) == 2 + ("data-lab" in html) + (
        "data-neurons" in html
    )  # the runtime, the report's own, and the lab's
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    for script in running:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
        assert "pwned" not in script
    for data in (s for s in scripts if s.attributes.get("type") == "application/json"):
        json.loads(data.text)
    assert not [
        t for t in ("img", "iframe", "object", "embed", "form", "base", "style[onload]") if hostile_elements(page, t)
    ]
    for element in page.all():
        assert not [name for name in element.attributes if name.startswith("on")], element.tag
        assert not element.attributes.get("href", "").lower().startswith(("javascript", "data:text"))
        assert "data:text" not in element.attributes.get("src", "")
    return page


def hostile_elements(page, tag):
    """Elements of a tag, but for pictures whose data is ours."""
    return [e for e in page.all(tag) if not e.attributes.get("src", "").startswith("data:image/png;base64,")]


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = hostile(tmp_path_factory.mktemp("bad") / "out")
    ids = torch.randint(25, (4000,), generator=torch.Generator().manual_seed(0))
    return report(
        folder,
        corpus=ids,
        sections=[s for s in SECTIONS if s not in ("certificate", "checkpoints", "scrubbing")],
        progress=False,
    )


def test_hostile_tokens_are_text(bad):
    assert {s.key for s in bad.failed} <= {"patching"}
    page = check_harmless(bad.html)
    whole = plain(page.all("main")[0].text)
    for token, shown in HOSTILE.items():
        if token and "\ud800" not in token and shown.strip():
            assert shown in whole, token


def test_nothing_invisible_is_left(bad):
    """No control characters, no line separators, no marks that turn a line around."""
    for char in "\x00\x1b\u2028\u2029\u202e\u202d\u200e\u200f\ufeff":
        assert char not in bad.html, f"{ord(char):04x}"


def test_a_hostile_folder_name_text_name_and_settings(tmp_path):
    folder = small(tmp_path / (EVIL + "\u202e$(id)`id`.x"))
    what = content(block_size=16)
    what["config"] = {EVIL: EVIL, "dataset": "</style><script>window.pwned=1</script>", "out_dir": str(tmp_path)}
    torch.save(what, folder / "ckpt.pt")
    file = tmp_path / (EVIL + "\n.txt")
    file.write_text(text(3000))
    found = report(folder, corpus=file, sections=["summary", "loss", "heads", "neurons"], progress=False)
    assert not found.failed
    page = check_harmless(found.html)
    assert EVIL in section(page, "again").text
    assert str(tmp_path) not in found.html
    assert "\u202e" not in found.html
    title = page.all("title")[0].text
    assert EVIL in title
    assert "⟨202E⟩" in title


@pytest.mark.parametrize("argument", ["it's", "a\nb", "$(id)", "`id`", "\u202e", "-x", "", "a\\nb\n'", "\x00", "😀\n"])
def test_a_command_survives_the_shell(argument):
    import subprocess

    line = command("printf", "%s|", argument, "end")
    if "\x00" in argument:  # no program can be given one
        assert "\\x00" in line
        assert line.isprintable()
        return
    assert line.isprintable()
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout.decode()
    assert said == f"{argument}|end|"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("out", "out"),
        ("runs/out", "runs/out"),
        ("/home/me/runs/out", "out"),
        ("/home/me/runs/out/ckpt.pt", "out/ckpt.pt"),
        ("/ckpt.pt", "ckpt.pt"),
    ],
)
def test_paths_lose_the_folders_of_this_machine(path, shown):
    assert short_path(path) == shown


def test_text_and_label_characters_are_visible(tmp_path):
    found = report(small(tmp_path / "out"), corpus=text(3000), sections=["loss"], progress=False)
    passage = read(found.html).all("div", class_="passage")[0]
    assert re.search(r"·", passage.text)
    assert "\t" not in passage.text
