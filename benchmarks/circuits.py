"""Exact effects of every edge: ours against one hooked TransformerLens forward for each edge, in one run.

    python benchmarks/circuits.py
    python benchmarks/circuits.py --rounds 5 --positions 40

The rival changes one edge of the clean run through TransformerLens' own hook points for the inputs of queries, keys,
values and MLPs, as one would by hand. Both sides take turns in one process on one thread; values are compared. Per
position there are so many edges that the rival runs only `--positions` of them, drawn at random, and is scaled up.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.written import names_written, written
from nanogpt_lens.model.access import record

CLEAN = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
CORRUPTED = "Second Murderer:\nWhat shall we do? and where is the Duke of York tonight, my lord?\n"
LENGTH, PROMPTS = 32, 4


def prompts(model):
    """Clean and corrupted ids [4, 32], windows of two texts."""
    ids = [ngl.encode_text(model, text) for text in (CLEAN, CORRUPTED)]
    return [torch.stack([row[i * 8 : i * 8 + LENGTH] for i in range(PROMPTS)]) for row in ids]


class Rival:
    """One forward of the hooked model for each edge."""

    def __init__(self, model, clean, corrupted, metric):
        self.model, self.clean, self.metric = model, clean, metric
        names = names_written(model.cfg.n_layers)
        one, two = (written(model, record(model, tokens, names)) for tokens in (clean, corrupted))
        self.changes = two - one
        self.senders = CircuitGraph(model).senders
        model.set_use_split_qkv_input(True)
        model.set_use_hook_mlp_in(True)

    def value(self, edge, pos=None):
        change = self.changes[self.senders.index(edge.sender)]
        place = slice(None) if pos is None else [pos]
        end = edge.receiver
        if end.kind == "logits":
            name, index = f"blocks.{self.model.cfg.n_layers - 1}.hook_resid_post", (slice(None), place)
        elif end.kind == "mlp":
            name, index = f"blocks.{end.layer}.hook_mlp_in", (slice(None), place)
        else:
            name, index = f"blocks.{end.layer}.hook_{end.part}_input", (slice(None), place, end.head)

        def hook(value, hook):
            value = value.clone()
            value[index] += change[:, place]
            return value

        return self.metric(self.model.run_with_hooks(self.clean, fwd_hooks=[(name, hook)]))

    def values(self, places):
        return torch.stack([self.value(edge, pos) for edge, pos in places])

    def close(self):
        self.model.set_use_split_qkv_input(False)
        self.model.set_use_hook_mlp_in(False)


def timed(function):
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--positions", type=int, default=300, help="edges at one position that the rival runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ngl.load("shakespeare_char")
    clean, corrupted = prompts(model)
    metric = ngl.metrics.logit_diff("e", "a")
    edges = CircuitGraph(model).edges
    generator = torch.Generator().manual_seed(0)
    some = torch.randint(len(edges) * LENGTH, (options.positions,), generator=generator).tolist()
    ratios, each_ratios, seconds = [], [], []
    with torch.no_grad():
        for _ in range(options.rounds):
            ours, our_time = timed(lambda: ngl.edge_effects(model, clean, corrupted, metric, progress=False))
            each, each_time = timed(
                lambda: ngl.edge_effects(model, clean, corrupted, metric, positions="each", progress=False)
            )
            bound = metric.resolved(model, clean)
            rival = Rival(model, clean, corrupted, bound)
            theirs, their_time = timed(partial(rival.values, [(edge, None) for edge in edges]))
            drawn, drawn_time = timed(partial(rival.values, [(edges[i // LENGTH], i % LENGTH) for i in some]))
            rival.close()
            ratios.append(their_time / our_time)
            each_ratios.append(drawn_time * len(edges) * LENGTH / options.positions / each_time)
            seconds.append((our_time, their_time, each_time))
            error = max(
                float((ours.values - theirs).abs().max()), float((each.values.flatten()[some] - drawn).abs().max())
            )
            print(f"largest difference {error:.1e}")
            assert error < 1e-4
    found = {
        "edges": len(edges),
        "seconds": statistics.median(s[0] for s in seconds),
        "rival_seconds": statistics.median(s[1] for s in seconds),
        "ratio": statistics.median(ratios),
        "position_edges": len(edges) * LENGTH,
        "position_seconds": statistics.median(s[2] for s in seconds),
        "position_ratio": statistics.median(each_ratios),
    }
    print(f"{platform.machine()}, torch {torch.__version__}, one thread; {PROMPTS} prompts of {LENGTH} characters")
    print(
        f"all {found['edges']} edges: {found['seconds']:.2f} s, {found['ratio']:.1f} times as fast as one forward each"
    )
    print(
        f"all {found['position_edges']} edges at one position: {found['position_seconds']:.1f} s, "
        f"{found['position_ratio']:.1f} times as fast"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
