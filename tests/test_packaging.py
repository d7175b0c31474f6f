"""What is installed: the wheel carries both packages, their types, and the checkpoints."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


SHIPPED = ("backdoor", "backdoor_control", "handmade_induction", "induction", "induction_control", "shakespeare_char")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_has_what_it_must(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for checkpoint in SHIPPED:
        for name in ("ckpt.pt", "meta.pkl", "config.json", "README.md"):
            assert f"nanogpt_lens/_checkpoints/{checkpoint}/{name}" in names
    for name in (
        "viz/assets/runtime.js",
        "viz/assets/attention.js",
        "viz/assets/circuit.js",
        "reporting/page.html",
        "reporting/report.css",
        "reporting/face.html",
        "reporting/theme.js",
        "viz/web/house.css",
    ):
        assert f"nanogpt_lens/{name}" in names
    for name in (
        "nanogpt_lens/py.typed",
        "conversion/py.typed",
        "conversion/equivalence.py",
        "nanogpt_lens/cli/app.py",
    ):
        assert name in names
    assert not [n for n in names if n.startswith(("tests", "benchmarks", "checkpoints"))]


def test_hints_name_packages_and_not_this_one():
    """It is on no index, so that `pip install 'nanogpt-lens[...]'` would find nothing."""
    files = [file for folder in ("nanogpt_lens", "conversion", "docs") for file in (ROOT / folder).rglob("*.[pm][yd]")]
    assert len(files) > 300
    assert not [file for file in files if "nanogpt-lens[" in file.read_text(encoding="utf-8")]


@pytest.mark.slow
def test_a_plain_install_knows_the_shipped_checkpoint(wheel, tmp_path):
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(tmp_path / "site"),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import nanogpt_lens as ngl\n"
        "assert ngl.__file__.startswith(sys.argv[1]), ngl.__file__\n"
        "print(len(ngl.list_stages('induction')), ngl.tasks.read_task('induction').n_triggers)\n"
        "print(ngl.shipped_checkpoints(), ngl.load('shakespeare_char').cfg.n_layers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("4")
    assert done.stdout.startswith("16 5\n")
    others = [
        f"{name}/seed_{seed}"
        for name in ("backdoor", "backdoor_control", "induction", "shakespeare_char")
        for seed in (1338, 1339)
    ]
    assert str(sorted([*SHIPPED, *others])) in done.stdout


def test_both_constraints_agree():
    def pins(name):
        lines = (ROOT / name).read_text().splitlines()
        return dict(line.split("==") for line in lines if line and not line.startswith("#"))

    three, four = pins("constraints.txt"), pins("constraints-tl4.txt")
    assert three["transformer-lens"].startswith("3.9")
    assert four["transformer-lens"].startswith("4.3")
    assert three["torch"] == four["torch"] == "2.13.0"
    common = set(three) & set(four) - {"transformer-lens"}
    assert {k: three[k] for k in common} == {k: four[k] for k in common}
