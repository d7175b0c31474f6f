"""The page's scripts: one text, nothing from outside, and a kernel that is its source."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files

import pytest

from nanogpt_lens.lab import bundle
from nanogpt_lens.lab.page import standalone_script

WEB = files("nanogpt_lens.lab") / "web"
SCRIPTS = sorted(path.name for path in WEB.iterdir() if path.name.endswith(".js"))


def test_every_file_is_in_the_bundle():
    text = bundle.page_source("served")
    for name in SCRIPTS:
        assert f"const {name.removesuffix('.js')}_js = (() => {{" in text


def test_a_page_of_its_own_has_nothing_that_asks_a_server():
    text = bundle.page_source()
    assert "fetch(" not in text
    assert "remote_js" not in text
    assert bundle.page_source("served").count("fetch(") == 1


def test_modules_come_after_what_they_import():
    seen = set()
    for name, body in re.findall(
        r"^const (\w+)_js = \(\(\) => \{\n(.*?)^\}\)\(\);", bundle.bundled("main"), re.M | re.S
    ):
        assert set(re.findall(r"= (\w+)_js;", body)) <= seen, name
        seen.add(name)
    assert "main" in seen


@pytest.mark.parametrize("name", SCRIPTS)
def test_files_are_small_and_reach_nothing(name):
    text = (WEB / name).read_text("utf-8")
    assert text.startswith("/*"), "a file begins with what it is"
    assert text.count("\n") <= 400
    for word in (
        "innerHTML",
        "outerHTML =",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        *(["fetch("] if name != "remote.js" else []),  # which is in the pages of servers alone
        "XMLHttpRequest",
        "http:",
    ):
        assert word not in text, word
    assert "https:" not in text


def test_the_script_can_stand_in_a_page():
    text = standalone_script()
    assert "</script" not in text
    assert "<!--" not in text
    assert "\r" not in text


def test_the_module_is_anywidgets():
    text = bundle.module_source()
    assert text.rstrip().endswith("export default { render: main_js.render };")
    assert text.count("\nexport ") == 1
    assert "\nimport " not in text


def test_the_kernel_is_its_source(tmp_path):
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("no clang with wasm-ld here: `apt-get install clang lld`")
    source = (WEB / "kernel.c").read_text()
    command = re.search(r"clang (--target.*?)-o kernel\.wasm kernel\.c", source, re.S)
    assert command is not None
    arguments = command[1].replace("\\\n", " ").split()
    (tmp_path / "kernel.c").write_text(source)
    out = tmp_path / "kernel.wasm"
    subprocess.run(["clang", *arguments, "-o", str(out), str(tmp_path / "kernel.c")], check=True)
    version = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True).stdout
    if "version 14" in version:  # the compiler that made it gives the same bytes
        assert out.read_bytes() == bundle.kernel()
    assert out.read_bytes()[:8] == bundle.kernel()[:8] == b"\0asm\1\0\0\0"
    exported = {name for name in (b"nt", b"nn", b"norm", b"softmax", b"gelu") if name in out.read_bytes()}
    assert len(exported) == 5
