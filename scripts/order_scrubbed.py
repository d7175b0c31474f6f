"""What stories about the keys leave of the model at iterations 300 to 600, scrubbed: finding (e), second way.

    python -m scripts.order_scrubbed --runs out-order      # the runs of scripts.order; some minutes of a core

What comes out is `docs/data/order_scrubbed.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import nanogpt_lens as ngl
from conversion.atomic import write_text
from scripts.results import DATA, SEEDS
from scripts.scrubbing import DRAWS, MAIN, PREVIOUS, ladder, pairs_of, share_of

OUT = DATA / "order_scrubbed.json"
STAGES, PROMPTS = (300, 400, 500, 600), 256
RUNGS = (
    "keys depend on their own token alone",
    "keys read the previous-token head",
    MAIN,
    "keys depend on the previous token alone",
)


def scrubbed(model: Any, seed: str) -> dict[str, Any]:
    """What each story recovers of a model, on prompts of its task."""
    pairs, rungs = pairs_of(model, "trigger_bigrams", PROMPTS), ladder(PREVIOUS[seed])
    results = {
        name: ngl.scrub(model, {"name": name, **rungs[name]}, pairs, n_draws=DRAWS, weaken=False) for name in RUNGS
    }
    return {name: share_of(result) for name, result in results.items()}


def main() -> None:
    """Scrub every stage, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("out-order"))
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    found = {
        seed: {step: scrubbed(ngl.load(runs / seed / f"ckpt_{step:06d}.pt"), seed) for step in STAGES} for seed in SEEDS
    }
    write_text(OUT, json.dumps({"prompts": PROMPTS, "seeds": found}) + "\n")


if __name__ == "__main__":
    main()
