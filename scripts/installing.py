"""Build the wheel and the source distribution, and install each into an empty environment outside the clone.

    python scripts/installing.py [--torch "torch==2.13.0"]

Needs nothing but Python and pip. In each environment the shipped model is proven equal, from a folder that holds
nothing of the clone. The files stay in dist/.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = (
    ("nanogpt-lens", "--version"),
    ("nanogpt-lens", "info", "shakespeare_char"),
    ("nanogpt-lens", "check", "shakespeare_char", "--no-edits"),
    ("nanogpt-lens", "sample", "shakespeare_char", "--prompt", "ROMEO:", "--max-new-tokens", "40"),
    ("nanogpt-lens", "report", "shakespeare_char", "--sections", "summary,heads", "-o", "report.html"),
    ("python", "-m", "pip", "check"),
)
"""What must work in an environment that has the package alone."""


def main() -> None:
    """Build, install, and run; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch==2.13.0", help="what pip installs first, with its options")
    torch = shlex.split(parser.parse_args().torch)
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        tools = environment(Path(folder) / "tools")
        run(tools / "python", "-m", "pip", "install", "--quiet", "build")
        run(tools / "python", "-m", "build", "--outdir", dist, ROOT)  # the wheel is built from the source distribution
    for kind in ("*.whl", "*.tar.gz"):
        installed(next(dist.glob(kind)), torch)


def installed(distribution: Path, torch: list[str]) -> None:
    """Install a distribution into an empty environment, and run `COMMANDS` in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        programs = environment(Path(folder) / "env")
        work = Path(folder) / "work"
        work.mkdir()
        pip = (programs / "python", "-m", "pip", "install", "--quiet")
        run(*pip, *torch)
        run(*pip, "-c", ROOT / "constraints.txt", f"nanogpt-lens[hooked] @ {distribution.as_uri()}")
        for name, *arguments in COMMANDS:
            run(programs / name, *arguments, folder=work)
    print(f"{distribution.name}: installed into an empty environment, and it works", flush=True)


def environment(folder: Path) -> Path:
    """Make an empty virtual environment, and return the folder of its programs."""
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def run(*command: object, folder: Path | None = None) -> None:
    """Run a command, show it, and end everything where it fails."""
    words = [str(word) for word in command]
    print("$", shlex.join([Path(words[0]).name, *words[1:]]), flush=True)
    done = subprocess.run(words, cwd=folder)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}: {shlex.join(words)}")


if __name__ == "__main__":
    main()
