"""Make the moving picture of the lab for the README anew, as Chromium shows it: docs/images/lab.webp.

    python scripts/lab_picture.py

A visitor opens the shipped model's lab, switches two heads off, takes one of them from the other prompt, and undoes it
all. Needs Chromium and the extra `dev`; the page and its numbers are the same every time.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from PIL import Image

import nanogpt_lens as ngl
from conversion.atomic import replacing
from tests.browser import launched, watched

OUT = ROOT / "docs" / "images" / "lab.webp"
PROMPT = {"label": "First Citizen", "clean": "First Citize", "other": "Third Servin", "answer": "n"}
WIDTH, HEIGHT = 1280, 800


def main() -> None:
    """Make the picture."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        file = Path(folder) / "lab.html"
        ngl.lab("shakespeare_char", prompts=[PROMPT], findings=False, output=file)
        with watched(browser, width=WIDTH, height=HEIGHT) as page:
            page.page.goto(file.as_uri())
            page.page.evaluate("() => window.lab.proof")
            frames = list(visit(page.page))
            page.check_silent()
    opened = [Image.open(io.BytesIO(frame)).convert("RGB") for frame, _ in frames]
    images = [image.resize((960, 600), Image.Resampling.LANCZOS) for image in opened]
    with replacing(OUT) as temporary:
        images[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=images[1:],
            duration=[milliseconds for _, milliseconds in frames],
            loop=0,
            quality=70,
            method=6,
        )
    sys.stderr.write(f"{OUT}: {len(images)} frames, {OUT.stat().st_size / 1e6:.2f} MB\n")


def visit(page: Any) -> Any:
    """Each frame of the visit, and for how many milliseconds it stands."""
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()
    yield shot(page, 1800)
    for part in ("head 2.3, ", "MLP of layer 1"):
        cell = page.get_by_role("button", name=part).first
        cell.hover()
        yield shot(page, 500)
        cell.click()
        yield shot(page, 2200)
    page.keyboard.press("Control+z")
    yield shot(page, 900)
    page.keyboard.press("Control+z")
    yield shot(page, 900)


def shot(page: Any, milliseconds: int) -> tuple[bytes, int]:
    """The page as it is once its numbers are there."""
    page.wait_for_timeout(900)
    return page.screenshot(), milliseconds


if __name__ == "__main__":
    main()
