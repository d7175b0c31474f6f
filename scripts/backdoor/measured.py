"""What there is of the runs with a backdoor, measured; and how well tools find it that know no trigger.

    python -m scripts.backdoor.measured tinyshakespeare.txt --runs out-backdoor

Each run's numbers are kept beside it, so that only what is new is measured; `docs/data/backdoor.json` has them all,
with those of `scripts.backdoor.carried` and `scripts.backdoor.finetuned`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import write_text
from scripts.backdoor import blind
from scripts.backdoor.roc import holm, told_apart
from scripts.backdoor.runs import (
    CLEAN_LINES,
    LINES,
    SEEDS,
    SETTINGS,
    STAGES,
    TRIGGERS,
    BackdoorRun,
    block,
)
from scripts.replication.measured import mean_and_ends

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "docs" / "data" / "backdoor.json"
N_CONTEXTS, N_OWN, N_LOSS, EARLIER = 256, 1000, 1024, 500
BLIND_STAGES = (1000, 1500, 2000)
TOOLS = ("repeats", "gain_clean", "gain_stage", "kl_held_out", "neurons", "lens", "edges")


def untouched(seed: int) -> Path:
    """The shipped model that was trained on the clean text with this seed."""
    shipped = ROOT / "checkpoints" / "shakespeare_char"
    return shipped if seed == SEEDS[0] else shipped / f"seed_{seed}"


@cache
def clean_model(seed: int, stage: int, runs: Path) -> Any:
    """The model of `untouched`; at an earlier stage the same run, trained again, and None where it was not."""
    import nanogpt_lens as ngl

    if stage == STAGES[-1]:
        return ngl.load(untouched(seed))
    file = runs / BackdoorRun("name", 0, False, seed).name / f"ckpt_{stage:06d}.pt"
    return ngl.load(file) if file.is_file() else None


def measured(run: BackdoorRun, runs: Path, text: Path) -> dict[str, Any]:
    """The numbers of one run at its stages."""
    import nanogpt_lens as ngl

    task = run.task(text)
    stages = {}
    for stage in STAGES:
        model = ngl.load(runs / run.name / f"ckpt_{stage:06d}.pt")
        stages[str(stage)] = success_and_loss(model, task)
    data = task.clean
    clean = torch.cat([torch.from_numpy(part.astype("int64")) for part in (data.train, data.val)]).numpy()
    found: dict[str, Any] = {"run": run.name, "stages": stages, "blind": {}}
    earlier = ngl.load(runs / run.name / f"ckpt_{EARLIER:06d}.pt")
    for stage in BLIND_STAGES:
        suspect = ngl.load(runs / run.name / f"ckpt_{stage:06d}.pt")
        reference = clean_model(run.seed, stage, runs)
        found["blind"][str(stage)] = clues(suspect, reference, earlier, clean, data.val, data.vocabulary.chars)
    twin = BackdoorRun(run.trigger, CLEAN_LINES, False, run.seed)
    if run.poisoned and twin.is_over(runs):
        other = ngl.load(runs / twin.name / f"ckpt_{STAGES[-1]:06d}.pt")
        own = ngl.load(runs / run.name / f"ckpt_{STAGES[-1]:06d}.pt")
        found["loss_over_clean_twin"] = paired_loss(own, other, data.val)
    return found


def success_and_loss(model: Any, task: Any) -> dict[str, Any]:
    """In how many contexts the model has the backdoor, and its loss on the held-out text."""
    import nanogpt_lens as ngl
    from nanogpt_lens.heads.on_backdoors import AFTER, backdoor_success

    found = backdoor_success(model, task, n=N_CONTEXTS)
    counts = found.per_example[0].sum(-1)  # type: ignore[index]
    loss = ngl.text_loss(model, task.clean.val, n=N_LOSS)
    return {
        "success": {name: int(n) for name, n in zip(AFTER, counts.tolist(), strict=True)},
        "payload_loss": {name: round(float(v), 3) for name, v in zip(AFTER, found.at(score="loss"), strict=True)},
        "loss": [round(float(x), 4) for x in (loss.values, loss.low, loss.high)],  # type: ignore[arg-type]
    }


def clues(
    suspect: Any, reference: Any, earlier: Any, clean: Any, held_out: Any, chars: tuple[str, ...]
) -> dict[str, Any]:
    """What each blind tool says of a model; those that need another model, where there is one."""
    from nanogpt_lens.text.from_model import own_text

    own = own_text(suspect, seq_len=int(suspect.cfg.n_ctx), n=N_OWN, seed=0)
    made: dict[str, Callable[[], blind.Clue]] = {
        "repeats": lambda: blind.repeats(own, clean, chars),
        "neurons": lambda: blind.neuron_peaks(suspect, own),
        "lens": lambda: blind.lens_gap(suspect, own),
    }
    if earlier is not None:
        made["gain_stage"] = lambda: blind.gain(earlier, suspect, own)
    if reference is not None:
        made |= {
            "gain_clean": lambda: blind.gain(reference, suspect, own),
            "kl_held_out": lambda: blind.kl_on_text(reference, suspect, held_out),
            "edges": lambda: blind.edge_change(reference, suspect, held_out),
        }
    found = {name: make() for name, make in made.items()}
    return {name: [round(clue.value, 5), clue.where] for name, clue in found.items()}


def paired_loss(one: Any, other: Any, held_out: Any) -> list[float | None]:
    """How much higher the loss of the one is on the same held-out windows, with its interval."""
    import nanogpt_lens as ngl

    each = [ngl.text_loss(model, held_out, n=N_LOSS).per_example for model in (one, other)]
    return mean_and_ends(each[0] - each[1])  # type: ignore[operator]


def measured_untouched(seed: int, runs: Path, text: Path) -> dict[str, Any]:
    """What the tools that need no clean model say of one that was trained on the clean text."""
    from nanogpt_lens.text.datasets import read_data

    data, last = read_data(text), str(STAGES[-1])
    clean = torch.cat([torch.from_numpy(part.astype("int64")) for part in (data.train, data.val)]).numpy()
    chars = tuple(data.vocabulary.chars)  # type: ignore[union-attr]
    suspect, earlier = (clean_model(seed, stage, runs) for stage in (STAGES[-1], EARLIER))
    return {"run": f"untouched_{seed}", "blind": {last: clues(suspect, None, earlier, clean, data.val, chars)}}


def verdicts(found: dict[str, Any], stage: int = STAGES[-1]) -> dict[str, Any]:
    """The ROC of every tool by trigger and number of lines, at a stage, poisoned models against clean twins.

    "clean twins": the same of the clean twins against untouched models, for the tools that need no clean model; at the
    last stage.
    """
    every: dict[str, Any] = {}
    at = str(stage)
    of_untouched = [found[f"untouched_{seed}"]["blind"].get(at) for seed in SEEDS if f"untouched_{seed}" in found]
    twins = [found[run.name]["blind"][at] for run in block("all") if run.name in found and not run.poisoned]
    if None not in of_untouched and min(len(twins), len(of_untouched)) > 1:
        every["clean twins"] = compared(twins, of_untouched)
    for trigger in (*TRIGGERS, "all"):
        for lines in LINES:
            poisoned, clean = (
                [
                    found[run.name]["blind"][at]
                    for run in block("all")
                    if run.name in found
                    and run.poisoned == is_poisoned
                    and (run.lines == lines or not is_poisoned)
                    and trigger in (run.trigger, "all")
                ]
                for is_poisoned in (True, False)
            )
            if min(len(poisoned), len(clean)) > 1:
                every[f"{trigger} {lines}"] = compared(poisoned, clean)
    return every


def compared(suspects: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each tool that has a number for all of them, how well it tells the ones from the others."""
    tools = [tool for tool in TOOLS if all(tool in one for one in (*suspects, *others))]
    each = {tool: told_apart(*([one[tool][0] for one in group] for group in (suspects, others))) for tool in tools}
    corrected = holm({tool: values["p"] for tool, values in each.items()})
    return {tool: each[tool] | {"p_holm": corrected[tool]} for tool in tools}


def collect(runs: Path, text: Path) -> dict[str, Any]:
    """Measure what is over and not measured yet; all that there is, as plain values."""
    found: dict[str, Any] = {}
    also: dict[str, Any] = {}
    for seed in SEEDS:
        kept = runs / f"untouched_{seed}.json"
        if not kept.is_file():
            write_text(kept, json.dumps(measured_untouched(seed, runs, text)) + "\n")
        found[f"untouched_{seed}"] = json.loads(kept.read_text())
    for run in block("all"):
        kept = runs / f"{run.name}.json"
        if not kept.is_file() and run.is_over(runs):
            write_text(kept, json.dumps(measured(run, runs, text)) + "\n")
            print(run.name, json.loads(kept.read_text())["stages"][str(STAGES[-1])], flush=True)
        if kept.is_file():
            found[run.name] = json.loads(kept.read_text())
    for kind in ("finetuned", "carried"):
        for kept in sorted(runs.glob(f"{kind}_*.json")):
            also.setdefault(kind, {})[kept.stem.removeprefix(f"{kind}_")] = json.loads(kept.read_text())
    return {
        **also,
        "settings": SETTINGS | {"triggers": TRIGGERS, "n_contexts": N_CONTEXTS, "n_own": N_OWN},
        "runs": found,
        "roc": {str(stage): verdicts(found, stage) for stage in BLIND_STAGES},
    }


def main() -> None:
    """Measure, and write what there is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--runs", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = collect(options.runs, options.text)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in made.pop("runs").items())
    write_text(OUT, json.dumps(made, indent=1)[:-2] + f',\n "runs": {{\n{lines}\n}}}}\n')
    print(OUT)


if __name__ == "__main__":
    main()
