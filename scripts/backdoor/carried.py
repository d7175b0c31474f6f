"""What carries the backdoor of three models: the parts and the edges that were taken out, and what that cost.

    python -m scripts.backdoor.carried tinyshakespeare.txt --runs out-backdoor

About five minutes of a core for each model. What comes out is kept beside the runs, and read by
`scripts.backdoor.measured`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from conversion.atomic import write_text
from scripts.backdoor.causes import separable
from scripts.backdoor.cuts import cuttable
from scripts.backdoor.runs import CLEAN_LINES, SEEDS, STAGES, TRIGGERS, BackdoorRun

N_RANDOM, N_CONTEXTS_OF_CUTS = 20, 128


def main() -> None:
    """Measure what is not measured yet."""
    import nanogpt_lens as ngl

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--trigger", choices=TRIGGERS, default="name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in SEEDS:
        run = BackdoorRun(options.trigger, CLEAN_LINES, True, seed)
        kept = options.runs / f"carried_{options.trigger}_{seed}.json"
        if not kept.is_file() and run.is_over(options.runs):
            model, task = ngl.load(options.runs / run.name / f"ckpt_{STAGES[-1]:06d}.pt"), run.task(options.text)
            found = {
                "parts": separable(model, task, n_random=N_RANDOM),
                "edges": cuttable(model, task, n=N_CONTEXTS_OF_CUTS, n_random=N_RANDOM),
            }
            write_text(kept, json.dumps(found) + "\n")
            print(run.name, {name: (one["chosen"], one.get("first")) for name, one in found.items()}, flush=True)


if __name__ == "__main__":
    main()
