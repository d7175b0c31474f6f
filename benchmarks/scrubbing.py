"""Causal scrubbing: the hypotheses of the ladder, in batches against a plain recursion, in one run.

    python benchmarks/scrubbing.py
    python benchmarks/scrubbing.py --rounds 5 --prompts 512

The rival is the recursion that the tests compare with: one prompt, one position and one node at a time, from caches of
plain runs. It scrubs `--rival` of the prompts and is scaled up; both draw with the same numbers, and the logits are
compared. They take turns in one process on one thread.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for `scripts` and `tests`, which are not installed

import nanogpt_lens as ngl
from nanogpt_lens.circuits.features import Features
from nanogpt_lens.circuits.places import Agreements, Uniforms
from nanogpt_lens.circuits.scrubbed import Scrubbed
from nanogpt_lens.circuits.tree import tree_of
from nanogpt_lens.text.task_pairs import pairs_by_name
from scripts.scrubbing import PREVIOUS, ladder
from tests.nanogpt_lens.circuits.naive_scrubbing import Naive

LENGTH = 32


def ours(model, hypothesis, pairs):
    """The scrubbed logits of all prompts."""
    tree = tree_of(model, hypothesis, LENGTH)
    runs = Scrubbed(model, tree, pairs.clean, Agreements(Features(pairs.clean, pairs.answer, None, {}), 0))
    uniforms, some = Uniforms(0, 0), []
    for rows in torch.arange(len(pairs.clean)).split(runs.chunk):
        uniforms.begin()
        some += runs.logits(rows, uniforms, [None])
    return torch.cat(some)


def timed(function):
    """What a function returns, and the seconds that it took."""
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def main():
    """Print a row for each hypothesis."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--rival", type=int, default=2, help="prompts that the recursion scrubs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ngl.load("induction")
    pairs = pairs_by_name(model, "trigger_bigrams", n=options.prompts, seq_len=LENGTH)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {options.prompts} prompts of {LENGTH} tokens")
    print(
        f"{'hypothesis':44} {'claims':>6} {'ours, s':>8} {'recursion, s':>12} {'times':>8} {'largest difference':>18}"
    )
    with torch.no_grad():
        for name, plain in ladder(PREVIOUS["1337"]).items():
            hypothesis = ngl.scrubbing.read_hypothesis(plain)
            rival = Naive(model, pairs.clean, pairs.answer, seed=0, draw=0)
            seconds, others, error = [], [], 0.0
            for _ in range(options.rounds):
                logits, took = timed(lambda hypothesis=hypothesis: ours(model, hypothesis, pairs))
                seconds.append(took)
                rows = range(options.rival)
                by_hand, took = timed(
                    lambda hypothesis=hypothesis, rival=rival, rows=rows: torch.stack(
                        [rival.logits(hypothesis, ref) for ref in rows]
                    )
                )
                others.append(took * options.prompts / options.rival)
                error = max(error, float((logits[: options.rival] - by_hand).abs().max()))
            mine, theirs = statistics.median(seconds), statistics.median(others)
            claims = sum(1 for _ in hypothesis.walk())
            print(f"{name:44} {claims:6} {mine:8.2f} {theirs:12.0f} {theirs / mine:8.0f} {error:18.1e}", flush=True)


if __name__ == "__main__":
    main()
