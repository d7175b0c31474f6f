"""Finding circuits: what a test of ACDC costs against a plain forward, grading, and a model of 12 layers.

    python benchmarks/finding_circuits.py
    python benchmarks/finding_circuits.py --large

The rival is the hooked model's own plain forward on the same prompts, in the same run, on one thread, in CPU time. A
test of ACDC asks one edge; tests of edges that go are made ahead, and those that were made for nothing are counted too.
`--large` also takes all exact effects of one pair of prompts on a random model of 12 layers with 12 heads (32,491
edges).
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.nanogpt_to_hooked import to_hooked_transformer
from nanogpt_lens.circuits.elimination import acdc
from nanogpt_lens.circuits.prepared import prepare
from nanogpt_lens.circuits.search import Search
from nanogpt_lens.model.access import evaluating

CLEAN = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"
CORRUPTED = "Second Murderer:\nWhat shall we do? and where is the Duke of York tonight, my lord?\n"
LENGTH, PROMPTS = 32, 4


def prompts(model):
    """Clean and corrupted ids [4, 32], windows of two texts, and the metric: what the model says after each."""
    ids = [ngl.encode_text(model, text) for text in (CLEAN, CORRUPTED)]
    clean, corrupted = (torch.stack([row[i * 8 : i * 8 + LENGTH] for i in range(PROMPTS)]) for row in ids)
    answer, wrong = (model(tokens)[:, -1, :65].argmax(-1) for tokens in (clean, corrupted))
    return clean, corrupted, ngl.metrics.logit_diff(answer, wrong)


def seconds(function):
    start = time.process_time()
    function()
    return time.process_time() - start


def of_acdc(model, clean, corrupted, metric, rounds):
    """Seconds of a test of ACDC over those of a plain forward, per round, and how many edges stay."""
    ratios = []
    with evaluating(model), torch.no_grad():
        ready = prepare(model, clean, corrupted, metric, source="other", reference=None, seed=0)
        search = Search(ready, tolerance=0.1, memory=2**28)
        gap = float((search.full.mean() - search.empty.mean()).abs())
        for _ in range(rounds):
            plain = statistics.median(seconds(lambda: model(clean)) for _ in range(20))
            kept = []
            took = seconds(lambda: kept.append(acdc(search, search.metric_distance, 0.01 * gap, progress=False)[0]))  # noqa: B023
            ratios.append(took / len(search.everything) / plain)
    return ratios, int(kept[0].sum())


def large(metric):
    """Seconds and peak memory in MiB of all exact effects on a random model of 12 layers with 12 heads."""
    config = NanoGPTConfig(n_layer=12, n_head=12, n_embd=384, block_size=64, vocab_size=65)
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in config.shapes().items()}
    model = to_hooked_transformer(Checkpoint(config=config, state_dict=state))
    clean, corrupted = torch.randint(65, (2, 1, 32), generator=generator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    found = ngl.edge_effects(model, clean, corrupted, metric, progress=False)
    took = time.perf_counter() - start
    return len(found.values), took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ngl.load("shakespeare_char")
    clean, corrupted, metric = prompts(model)
    print(f"{platform.machine()}, torch {torch.__version__}, one thread; {PROMPTS} prompts of {LENGTH} characters")
    ratios, kept = of_acdc(model, clean, corrupted, metric, options.rounds)
    found = {"acdc_per_test": statistics.median(ratios), "acdc_kept": kept}
    print(
        f"ACDC: a test of an edge costs {found['acdc_per_test']:.2f} plain forwards "
        f"({min(ratios):.2f} to {max(ratios):.2f}); {kept} of 479 edges stay"
    )
    start, cpu = time.perf_counter(), time.process_time()
    grades = ngl.grade_circuit_methods(model, clean, corrupted, metric, progress=False)
    found["grading_seconds"] = time.perf_counter() - start
    found["grading_cpu_seconds"] = time.process_time() - cpu
    print(
        f"grading of {len(grades.methods)} methods at all sizes: {found['grading_seconds']:.0f} s, "
        f"{found['grading_cpu_seconds']:.0f} s of CPU"
    )
    if options.large:
        n_edges, took, memory = large(ngl.metrics.logit_diff(1, 2))
        found |= {"large_edges": n_edges, "large_seconds": took, "large_mib": memory}
        print(f"12 layers with 12 heads, one pair: {n_edges} edges in {took:.0f} s, {memory:.0f} MiB more than before")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
