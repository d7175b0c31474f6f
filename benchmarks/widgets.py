"""Time until attention of many heads is on the screen, against CircuitsVis' own widget, side by side in one browser.

    python benchmarks/widgets.py [--heads 12] [--tokens 128] [--rounds 3]

Both pages are opened from a file, offline, in turn. A page is ready when every canvas on it has been drawn (it has
more than ten colours) and a frame has passed after that; seconds are counted from the start of the navigation, so that
reading and running the scripts is in them. `hover` is the time of moving the mouse onto another head until the next
frame. Chromium is Debian's, driven by Playwright, without a graphics card.

- `ours`: `widgets.attention_heads`, which takes the canvas at this size;
- `circuitsvis`: `circuitsvis.attention.attention_heads`, as the package writes it (`local_src`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # conversion.py there
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from circuitsvis.attention import attention_heads

from nanogpt_lens.results import AttentionPatterns
from tests.browser import launched, watched

DRAWN = """() => new Promise((done) => {
  const drawn = (canvas) => {
    const copy = document.createElement("canvas");
    copy.width = copy.height = 64;
    const context = copy.getContext("2d");
    if (!canvas.width || !canvas.height) return false;
    context.drawImage(canvas, 0, 0, 64, 64);
    const data = context.getImageData(0, 0, 64, 64).data, seen = new Set();
    for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
    return seen.size > 10;
  };
  const look = () => {
    const all = [...document.querySelectorAll("canvas")];
    if (all.length > HEADS && all.every(drawn)) requestAnimationFrame(() => done(performance.now()));
    else setTimeout(look, 20);
  };
  look();
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    heads, size = options.heads, options.tokens
    noise = torch.randn(1, heads, size, size, generator=torch.Generator().manual_seed(0))
    values = noise.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf).softmax(-1)
    tokens = [f"t{i}" for i in range(size)]
    result = AttentionPatterns(
        values=values,
        axes=("layer", "head", "dest_pos", "src_pos"),
        quantity="attention probability",
        definition="random",
        labels={"src_pos": tuple(tokens), "dest_pos": tuple(tokens)},
        tokens=torch.arange(size),
    )
    with tempfile.TemporaryDirectory() as folder:
        pages = {"ours": Path(folder) / "ours.html", "circuitsvis": Path(folder) / "circuitsvis.html"}
        widget = result.widget()
        assert widget.component == "attention"
        widget.save(pages["ours"])
        theirs = attention_heads(attention=values[0], tokens=tokens).local_src
        pages["circuitsvis"].write_text(f"<!doctype html><meta charset=utf-8><body>{theirs}</body>")
        _report(pages, options.rounds, heads)


def _report(pages: dict[str, Path], rounds: int, heads: int) -> None:
    ready: dict[str, list[float]] = {name: [] for name in pages}
    hover: dict[str, list[float]] = {name: [] for name in pages}
    with launched() as browser:
        for _ in range(rounds):
            for name, file in pages.items():
                with watched(browser) as page:
                    page.page.set_default_timeout(300_000)
                    page.page.goto(file.as_uri(), wait_until="commit")
                    ready[name].append(page.page.evaluate(DRAWN.replace("HEADS", str(heads))) / 1000)
                    second = page.page.query_selector_all("canvas")[1]
                    start = time.perf_counter()
                    second.hover()
                    page.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => done()))")
                    hover[name].append(time.perf_counter() - start)
    print(f"{'':12}{'ready, s':>22}{'hover, s':>22}{'size, MB':>10}")
    for name, file in pages.items():
        shown = [f"{statistics.median(t):.2f} ({min(t):.2f}-{max(t):.2f})" for t in (ready[name], hover[name])]
        print(f"{name:12}{shown[0]:>22}{shown[1]:>22}{file.stat().st_size / 1e6:10.2f}")
    ratios = [theirs / ours for ours, theirs in zip(ready["ours"], ready["circuitsvis"], strict=True)]
    print(f"ready, circuitsvis / ours: {statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f})")


if __name__ == "__main__":
    main()
