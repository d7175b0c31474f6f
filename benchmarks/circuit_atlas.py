"""A circuit atlas of a run against single runs: loading each stage and asking it for its edge effects, in one run.

    python benchmarks/circuit_atlas.py                       # the shipped induction, sixteen stages
    python benchmarks/circuit_atlas.py out --rounds 5 --n 32 --json results.json

"single" is `ngl.load` and `ngl.edge_effects` for each stage; "atlas" is `ngl.trajectory(path, "edge_effects")` and
`circuit_atlas`, which also says when each edge appears. Both take turns in one process, on one thread and the same
prompts; values are compared. The ratio is the median over the rounds, of wall time and of CPU time.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from nanogpt_lens.model.access import provenance
from nanogpt_lens.running.metrics import logit_diff_of
from nanogpt_lens.runs.atlas import circuit_atlas
from nanogpt_lens.runs.stages import list_stages

CLOCKS = ("wall", "cpu")


def seconds(function):
    """Of the wall clock and of this process' CPU; and what the function gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return (time.perf_counter() - wall, time.process_time() - cpu), result


def single(path, pairs):
    metric = logit_diff_of(pairs)
    models = (ngl.load(stage.path) for stage in list_stages(path))
    found = [ngl.edge_effects(model, pairs.clean, pairs.corrupted, metric, progress=False) for model in models]
    return torch.stack([one.effect for one in found])


def atlas(path, pairs):
    return circuit_atlas(ngl.trajectory(path, "edge_effects", pairs=pairs, progress=False)).values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="induction", help="checkpoints of one run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=32, help="prompts")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stages = list_stages(args.folder)
    model = ngl.load(stages[-1].path)
    pairs = ngl.induction_pairs(model, n=args.n)
    sides, rows = {"single": single, "atlas": atlas}, []
    atlas(args.folder, pairs)  # what is imported and cached once
    for i in range(args.rounds):
        order = list(sides) if i % 2 else list(reversed(sides))  # who begins alternates
        found = {side: seconds(lambda side=side: sides[side](args.folder, pairs)) for side in order}
        error = float((found["single"][1] - found["atlas"][1]).abs().max())
        rows.append({side: dict(zip(CLOCKS, found[side][0], strict=True)) for side in sides} | {"error": error})
        print(f"{len(stages)} stages, largest difference {error:.1e}: {rows[-1]}", flush=True)
    result = {"stages": len(stages), "prompts": args.n, "rounds": rows, **provenance(model)}
    for clock in CLOCKS:
        ratios = sorted(row["atlas"][clock] / row["single"][clock] for row in rows)
        result[clock] = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}
        print(f"{clock}: {result[clock]['ratio']:.3f} of single ({ratios[0]:.3f} to {ratios[-1]:.3f})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
