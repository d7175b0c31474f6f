"""A measure over the stages of a run: against single evaluations, and how much memory more stages take.

    python benchmarks/trajectory.py                                  # the shipped run, else a short one is trained
    python benchmarks/trajectory.py out --pattern "ckpt_0*.pt" --measure score_heads --rounds 5 --json results.json

"single" is what each stage costs without a trajectory: the measure on a model that is loaded already, its
loading left out. "trajectory" is the whole call: finding the files, reading them, checking them, converting
them, hashing them, measuring, joining. Both take turns in one process, on one thread and the same sequences;
the ratio is the median over the rounds, of wall time and of CPU time, which other load disturbs less. Memory
is the peak resident size of processes of their own, with 4 and with all of the stages.
"""

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

import nanogpt_lens as ngl
from conversion.errors import ConversionError
from nanogpt_lens.catalogue import ANALYSES
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.model.access import provenance
from nanogpt_lens.runs.stages import PATTERN, list_stages
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.tasks import repeated_random
from nanogpt_lens.training.train import TrainConfig, train

CLOCKS = ("wall", "cpu")
STAGES, FEW = 16, 4
SEQUENCES = 128


def seconds(function):
    """Of the wall clock and of this process' CPU; and what the function gives."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def stages_of(folder, pattern):
    """At most `STAGES` stages, spread over the run."""
    found = list_stages(folder, pattern=pattern)
    kept = {round(i) for i in torch.linspace(0, len(found) - 1, min(STAGES, len(found))).tolist()}
    return [found[i] for i in sorted(kept)]


def trained(folder):
    """A run of a few iterations, of the size of the shipped one."""
    config = TrainConfig(
        n_layer=2,
        n_head=4,
        n_embd=128,
        block_size=128,
        batch_size=4,
        max_iters=STAGES - 1,
        warmup_iters=2,
        eval_interval=10**6,
        eval_iters=1,
    )
    train(repeated_random(), folder, config, stages=list(range(STAGES)), progress=False, sample=False)
    return folder


def copied(stages, folder):
    """The stages alone in a folder, with the vocabulary and the task of their run."""
    for file in [stage.path for stage in stages] + [stages[0].path.parent / n for n in ("meta.pkl", "task.json")]:
        if file.is_file():
            shutil.copy(file, folder / file.name)
    return folder


def sequences(model, folder):
    """What a trajectory without text looks at: sequences of the task, else the model's own text."""
    try:
        return torch.from_numpy(task_sequences(model, ngl.tasks.read_task(folder), n=SEQUENCES).tokens)
    except ConversionError:
        return own_text(model, seq_len=model.cfg.n_ctx, n=SEQUENCES)


def options_of(measure, n):
    return {"n": n} if n is not None and "n" in ANALYSES[measure].options() else {}


def single_function(measure, folder, model, n):
    """The measure as a function of a model, on the sequences of the trajectory."""
    analysis = ANALYSES[measure]
    second = (ngl.tasks.read_task(folder),) if analysis.looks_at == "task" else ()
    second = (sequences(model, folder),) if analysis.looks_at == "corpus" else second
    return lambda one: analysis.call(one, *second, progress=False, **options_of(measure, n))


def speed(folder, measure, rounds, n):
    models = [ngl.load(stage.path) for stage in list_stages(folder)]
    measured = single_function(measure, folder, models[-1], n)
    text = {"corpus": sequences(models[-1], folder)} if ANALYSES[measure].looks_at == "corpus" else {}
    measured(models[0])
    rows = []
    for i in range(rounds):
        sides = {
            "single": lambda: [measured(model) for model in models],
            "trajectory": lambda: ngl.trajectory(folder, measure, progress=False, **text, **options_of(measure, n)),
        }
        order = list(sides) if i % 2 else list(reversed(sides))  # who begins alternates
        found = {side: seconds(sides[side]) for side in order}
        values = torch.stack([single.values for single in found["single"][2]]).double()
        same = torch.equal(values.nan_to_num(), found["trajectory"][2].values.nan_to_num())
        rows.append({f"{side}_{clock}": found[side][at] for side in sides for at, clock in enumerate(CLOCKS)})
        shown = "; ".join(
            f"{clock}: single {rows[-1][f'single_{clock}']:.2f} s, trajectory {rows[-1][f'trajectory_{clock}']:.2f} s"
            for clock in CLOCKS
        )
        print(f"{measure}, {len(models)} stages, {shown}; values equal: {same}", flush=True)
    result = {"stages": len(models), "rounds": rows}
    for clock in CLOCKS:
        ratios = sorted(row[f"trajectory_{clock}"] / row[f"single_{clock}"] for row in rows)
        result[clock] = {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}
    return result


def peak_memory(folder, measure, n):
    """A trajectory over n stages in this process; print the peak resident size in bytes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as few:
        stages = list_stages(folder)
        copied([stages[round(i)] for i in torch.linspace(0, len(stages) - 1, n).tolist()], Path(few))
        ngl.trajectory(few, measure, progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def memory(folder, measure, n):
    peaks = {}
    for count in sorted({min(FEW, n), n}):
        command = [sys.executable, __file__, str(folder), "--measure", measure, "--peak-of", str(count)]
        peaks[count] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{count} stages: peak {peaks[count] / 2**20:.1f} MiB", flush=True)
    few, many = min(peaks), max(peaks)
    ratio = peaks[many] / peaks[few]
    print(f"peak of {many} stages over that of {few}: {ratio:.3f}")
    return {"peaks": peaks, "ratio": ratio}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="checkpoints of one run; the shipped induction, or a short run")
    parser.add_argument("--pattern", default=PATTERN)
    parser.add_argument("--measure", help="default: prefix_matching, text_loss and score_heads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n", type=int, help="sequences; the measure's own number without it")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        return peak_memory(Path(args.folder), args.measure, args.peak_of)
    torch.set_num_threads(1)
    measures = [args.measure] if args.measure else ["prefix_matching", "text_loss", "score_heads"]
    with tempfile.TemporaryDirectory() as working:
        if args.folder is None and "induction" not in ngl.shipped_checkpoints():
            run = trained(Path(working) / "run")
        else:
            run = args.folder or "induction"
        folder = Path(working) / "stages"
        folder.mkdir()
        copied(stages_of(run, args.pattern), folder)
        results = {"python": platform.python_version(), **provenance(ngl.load(list_stages(folder)[0].path))}
        results["speed"] = {measure: speed(folder, measure, args.rounds, args.n) for measure in measures}
        for measure, found in results["speed"].items():
            for clock in CLOCKS:
                print(
                    "{}, {} time: {ratio:.3f} of single (median; {low:.3f} to {high:.3f})".format(
                        measure, clock, **found[clock]
                    )
                )
        if not args.skip_memory:
            results["memory"] = memory(folder, measures[-1], results["speed"][measures[-1]]["stages"])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
