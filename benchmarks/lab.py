"""The model in the page, in Chromium on this machine, against PyTorch with one thread in the same run.

    python benchmarks/lab.py [--rounds 20] [--large]

- `open`: from the start of the navigation of the shipped model's file until the first logits are there, and until the
  numbers are on the page;
- `click`: from a click on a head until the sentence about the prediction has changed, at 64 tokens; median over all
  heads, on a page at rest, and on one that still sweeps and samples because of the last click;
- `edit`: one head of one layer switched off at 64 tokens: the page's own run, from the call to the logits; median over
  all heads, beside the same run in PyTorch (TransformerLens with one hook, one thread, in this process);
- `plain`: a run of 64 tokens in plain JavaScript over the same by the WebAssembly kernel;
- `sweep`: every head switched off once, at 64 tokens;
- `--large`: nanoGPT's GPU configuration with random weights (6 layers, 6 heads, 384 wide, context 256: 10.6M
  parameters), one edit at 256 tokens.

Chromium is Debian's, driven by Playwright, without a graphics card.
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

import nanogpt_lens as ngl
from tests.browser import launched, watched
from tests.making import write
from tests.nanogpt_lens.lab.lab_helpers import until

TIMED = """async ({requests, rounds}) => {
  const times = [];
  for (let i = 0; i < rounds; i++) {
    for (const one of requests) {
      const began = performance.now();
      await window.lab.run(one);
      times.push(performance.now() - began);
    }
  }
  return times;
}"""
CLICKED = """async (rest) => {
  const root = document.querySelector(".nanogpt-lens-lab").shadowRoot;
  const said = root.querySelector(".say");
  const named = (one) => (one.getAttribute("aria-label") ?? "").startsWith("head ");
  const heads = [...root.querySelectorAll("button")].filter(named);
  const anything = { childList: true, characterData: true, subtree: true };
  const times = [];
  for (const head of heads) {
    const began = performance.now();
    const changed = new Promise((done) => {
      new MutationObserver((_, watch) => { watch.disconnect(); done(); }).observe(said, anything);
    });
    head.click();
    await Promise.race([changed, new Promise((done) => setTimeout(done, 3000))]);
    times.push(performance.now() - began);
    await new Promise((done) => setTimeout(done, rest));
  }
  return times;
}"""
SWEEP = """async (request) => {
  const began = performance.now();
  await window.lab.sweep(request);
  return performance.now() - began;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        place = Path(folder)
        shipped(place, browser, options.rounds)
        if options.large:
            large(place, browser)


def shipped(folder: Path, browser, rounds: int) -> None:
    model = ngl.load("shakespeare_char")
    file = folder / "lab.html"
    ngl.lab("shakespeare_char", output=file)
    print(f"file: {file.stat().st_size / 1e6:.2f} MB")
    first, shown = zip(*(opening(browser, file) for _ in range(3)), strict=True)
    seconds = [statistics.median(times) for times in (first, shown)]
    print("open: {:.2f} s to the first logits, {:.2f} s to the numbers".format(*seconds))
    tokens = torch.randint(65, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    heads = [(layer, head) for layer in range(4) for head in range(4)]
    requests = [{"tokens": tokens, "interventions": [off(*head)]} for head in heads]
    metric = {"pos": -1, "answer": 1}
    candidates = [[off(*head)] for head in heads]
    edits, fresh, slow, sweeps, in_python = [], [], [], [], []
    with watched(browser) as page, watched(browser) as plain:
        ready(page, file)
        ready(plain, file, "?plain")
        page.page.evaluate(TIMED, {"requests": requests, "rounds": 2})
        for i in range(rounds):  # in turn, because the machine is faster at some times than at others
            edits += page.page.evaluate(TIMED, {"requests": requests, "rounds": 1})
            in_python += [in_torch(model, tokens, head) for head in heads]
            fresh += page.page.evaluate(TIMED, {"requests": texts(8, seed=i), "rounds": 1})
            slow += plain.page.evaluate(TIMED, {"requests": texts(4, seed=i), "rounds": 1})
            sweep = {"tokens": texts(1, seed=100 + i)[0]["tokens"], "candidates": candidates, "metric": metric}
            sweeps.append(page.page.evaluate(SWEEP, sweep))
        clicks, hasty = (clicked(page.page, tokens, rest) for rest in (2500, 600))
    edit, run, plainly, python = map(statistics.median, (edits, fresh, slow, in_python))
    for name, times in (("a page at rest", clicks), ("one that is still busy with the last", hasty)):
        print(f"click, {name}: {statistics.median(times):.0f} ms to the new sentence, the slowest {max(times):.0f} ms")
    print(f"edit: {edit:.1f} ms in the page, {python:.1f} ms in PyTorch: {edit / python:.2f} times")
    print(f"run: {run:.1f} ms; plain JavaScript {plainly:.1f} ms: {plainly / run:.1f} times")
    print(f"sweep: all {len(heads)} heads at 64 tokens in {statistics.median(sweeps):.0f} ms")


def clicked(page, tokens: list[int], rest: int) -> list[float]:
    """Milliseconds after a click on each head, from a page without changes; `rest` milliseconds between clicks."""
    page.evaluate("(tokens) => window.lab.set({version: 1, tokens, stacks: {}})", tokens)
    page.wait_for_timeout(2500)
    return page.evaluate(CLICKED, rest)


def large(folder: Path, browser) -> None:
    path = write(folder / "large", n_layer=6, n_head=6, n_embd=384, block_size=256, bias=False)
    file = folder / "large.html"
    ngl.lab(path, findings=False, output=file)
    tokens = torch.randint(65, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    requests = [{"tokens": tokens, "interventions": [off(layer, 0)]} for layer in range(6)]
    with watched(browser) as page:
        ready(page, file)
        page.page.evaluate(TIMED, {"requests": requests[:1], "rounds": 1})
        edits = page.page.evaluate(TIMED, {"requests": requests, "rounds": 2})
    middle, slowest = statistics.median(edits), max(edits)
    size = file.stat().st_size / 1e6
    print(f"large: {size:.0f} MB; an edit at 256 tokens {middle:.0f} ms, the slowest {slowest:.0f} ms")


def off(layer: int, head: int) -> dict[str, object]:
    return {"activation": "z", "layer": layer, "head": head, "source": "zero"}


def texts(n: int, seed: int = 2) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(seed)
    return [{"tokens": torch.randint(65, (64,), generator=generator).tolist()} for _ in range(n)]


def ready(page, file: Path, query: str = "") -> None:
    page.page.goto(file.as_uri() + query)
    page.page.evaluate("() => window.lab.proof")
    page.page.wait_for_timeout(1500)  # the page's own sweeps are done


def opening(browser, file: Path) -> tuple[float, float]:
    with watched(browser) as page:
        began = time.perf_counter()
        page.page.goto(file.as_uri())
        page.page.evaluate("() => window.lab.run({tokens: [0]})")
        first = time.perf_counter() - began
        until(page.page, "document.querySelector('.nanogpt-lens-lab').shadowRoot.textContent.includes('%')")
        return first, time.perf_counter() - began


def in_torch(model, tokens: list[int], head: tuple[int, int]) -> float:
    layer, number = head

    def switch_off(value, hook):
        value[:, :, number] = 0.0
        return value

    began = time.perf_counter()
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[(f"blocks.{layer}.attn.hook_z", switch_off)])
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
