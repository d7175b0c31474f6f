"""What notebook 04 measures, and the runs that it reads from `docs/data/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import nanogpt_lens as ngl
from scripts.replication import agreement, drawn, head_agreement, rule, smallest

DATA = Path(__file__).resolve().parent.parent / "docs" / "data"
METHODS = ("patching", "attribution", "attribution_ig", "mean_prompts")
"""Of the file: exact patching, the plain gradient, integrated gradients, mean ablation."""


class Agreement:
    """The rank correlations of ten methods, over sixteen stages of training and three seeds."""

    def __init__(self) -> None:
        self.data = json.loads((DATA / "agreement.json").read_text())
        runs = self.data["runs"].items()
        self.data["runs"] = {seed: run for seed, run in runs if len(run) == len(self.data["steps"])}
        found = agreement.summary(self.data)["correlations"].values()
        found = [np.array(list(by_step.values())) for by_step in found]  # [step, seed]
        self.plain, self.integrated, _, _, self.prefix, self.prefix_layer_1, _, self.task, _ = found
        self.steps = self.data["steps"]
        self.ranks = agreement.rank_of_previous_token(self.data)

    def of_file(self, step: int, seed: str = "1337") -> dict[str, Any]:
        """What each method gives each head of one run, in the file."""
        return self.data["runs"][seed][str(step)]

    def curves(self, *, n_heads: int = 8, **curves: np.ndarray) -> ngl.results.Scores:
        """Correlations over training: the mean of the seeds, a band over all of them, chance dashed."""
        each = torch.tensor(np.stack(list(curves.values())))
        chance = torch.full(each.shape[:2], needed(n_heads, each.shape[2]))
        return ngl.results.Scores(
            values=each.mean(-1),
            low=each.amin(-1),
            high=each.amax(-1),
            chance=chance,
            axes=("score", "step"),
            labels={
                "score": tuple(name.replace("_", " ") for name in curves),
                "step": tuple(map(str, self.steps)),
            },
            quantity="rank correlation",
            definition="mean of seeds; band: all seeds; dashed: 95% of unrelated rankings are below",
        )


def needed(n_heads: int, n_seeds: int) -> float:
    """What 95% of rankings that have nothing to do with each other stay below, mean over the seeds."""
    ranks = np.tile(np.arange(n_heads), (50_000, n_seeds, 1))
    apart = ((np.random.default_rng(0).permuted(ranks, axis=-1) - ranks) ** 2).sum(-1)
    return float(np.quantile((1 - 6 * apart / (n_heads * (n_heads**2 - 1))).mean(-1), 0.95))


def by_method(model: Any, *, seed: int = 0) -> np.ndarray:
    """What each head is worth on 64 prompts [method, head]: exactly, by two gradients, without it."""
    pair = ngl.induction_pairs(model, n=64, seed=seed)
    sites: dict[str, Any] = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    given = (model, pair.clean, pair.corrupted, ngl.metrics.logit_diff(pair.answer, pair.wrong))
    gradients = [ngl.attribution_patching(*given, ig_steps=steps, **sites).values for steps in (None, 4)]
    without = ngl.activation_patching(*given[:2], None, given[3], source="mean", **sites).effect
    exact = ngl.activation_patching(*given, **sites).effect
    return np.stack([np.ravel(values) for values in (exact, *gradients, -without)])


def correlations(runs: np.ndarray, prefix: Any) -> pd.DataFrame:
    """How rankings agree on sets of prompts [set, method, head]; `prefix` is the induction score."""
    names = ("exact / exact on the first set", "plain gradient / exact", "induction score / ablation")
    pairs = [((run[0], runs[0, 0]), (run[1], run[0]), (prefix, run[3])) for run in runs]
    found = np.array([[agreement.correlation(*pair) for pair in row] for row in pairs]).T
    return pd.DataFrame(found, names, [f"prompts {i + 1}" for i in range(len(runs))])


def moving(model: Any, shares: np.ndarray) -> pd.DataFrame:
    """Head 0.1 moved from the corrupted to the clean run: what the answer gains, where 1.0 looks."""
    pair, site = ngl.induction_pairs(model, n=64), "blocks.0.attn.hook_z"
    metric = ngl.metrics.logit_diff(pair.answer, pair.wrong)
    b_at = (pair.clean == pair.answer[:, None]).int().argmax(1)
    ends = [model.run_with_cache(tokens)[1][site][:, :, 1] for tokens in (pair.corrupted, pair.clean)]

    def at(share: float) -> tuple[float, float]:
        def move(z: torch.Tensor, hook: Any) -> torch.Tensor:
            z[:, :, 1] = torch.lerp(*ends, share)
            return z

        with torch.no_grad(), model.hooks([(site, move)]):
            logits, cache = model.run_with_cache(pair.corrupted)
        looks = cache["blocks.1.attn.hook_pattern"][torch.arange(64), 0, -1, b_at].mean()
        return float(metric(logits).mean()), float(looks)

    rise, looks = np.array([at(float(share)) for share in shares]).T
    return pd.DataFrame({"exact": rise - rise[0], "attention of head 1.0": looks}, 100 * shares)


def many_prompts() -> dict[str, dict[str, list[float]]]:
    """What is said of heads on four sets of 512 prompts: by iteration, of each seed and set."""
    found = head_agreement.summary(json.loads((DATA / "head_agreement.json").read_text()))
    pairs = found["correlations"]
    return {
        "plain gradient / exact": pairs["attribution / patching"],
        "integrated gradients / exact": pairs["attribution_ig / patching"],
        "exact / exact on other prompts": found["patching_with_itself"],
        "the plain gradient sees of the head": found["seen_of_previous_token"]["attribution"],
        "integrated gradients see of it": found["seen_of_previous_token"]["attribution_ig"],
        "attention on the task / ablation there": pairs["task_induction / mean ablation on the task"],
        "induction score / ablation": pairs[score := "prefix_matching / mean ablation on prompts"],
        "induction score / ablation, layer 1": pairs[f"{score}, layer 1"],
    }


def spread(found: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """The mean of some numbers, and the least and the largest, by iteration."""
    return pd.DataFrame(
        {
            name: {step: f"{np.mean(v):.2f} ({min(v):.2f} to {max(v):.2f})" for step, v in steps.items()}
            for name, steps in found.items()
        }
    ).T


def safe_lists() -> pd.DataFrame:
    """The share of safe lists of ten edges on 32 prompts, mean of the seeds, by iteration."""
    models = json.loads((DATA / "edge_agreement.json").read_text())["models"]
    shares = rule.safe_by_stage(models)
    names = {"exact": "exact effects", "eap": "plain gradient", "eap_ig": "integrated gradients"}
    names["eap_checked"] = "plain gradient, first 20 measured"
    found = {name: shares[way]["32"] for way, name in names.items()}
    means = {name: {s: np.mean(v) for s, v in steps.items()} for name, steps in found.items()}
    return pd.DataFrame(means).T


def shapes() -> tuple[pd.DataFrame, Any]:
    """Models of different shapes: what became of each, mean of the seeds, and a picture of all."""
    file = json.loads((DATA / "smallest_model.json").read_text())
    rows = {
        name: (
            f"{shape['induction']} of {len(shape['seeds'])}",
            shape["mean_accuracy"]["value"],
            shape["mean_lost"]["value"],
        )
        for name, shape in smallest.summary(file)["shapes"].items()
    }
    columns = ["induction head", "accuracy", "lost if shuffled"]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    return table.round(2), drawn.smallest(file)
