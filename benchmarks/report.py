"""What a report and a certificate cost: CPU seconds and peak memory of every section, for three sizes of model.

    python benchmarks/report.py                        # shakespeare_char
    python benchmarks/report.py gpu --only check       # nanoGPT's GPU configuration: 10.6 million parameters
    python benchmarks/report.py gpt2 --json gpt2.json  # GPT-2's size: 124 million parameters, a vocabulary of 50,304
    python benchmarks/report.py gpt2 --words           # the same with text, of which a report asks more

Each command is a process of its own: `import` (what `ngl.load` and `ngl.report` import), `load`, `check`, `report`. The
two larger models are written by this script, with random weights (seed 0) three times as large as nanoGPT begins with,
so that attention is not uniform. The report reads the held-out text that comes with `shakespeare_char`; the largest
model has no vocabulary and reads as many random ids. With `--words` it has made-up words, nanoGPT's first weights and
an embedding ten times as large. Such a model expects the last word again, which its text has half of the time, so that
pairs of prompts are found, and neurons are asked about classes of words. CPU seconds are those of all threads, which
other work on the machine disturbs less than it does wall time; `--threads` says how many there are. With more than one
a second process makes some sections of a small model's report (`nanogpt_lens.reporting.beside`), which are left out
here: `wall` is what counts then.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

SIZES = {
    "gpu": {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65, "bias": False},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50304, "bias": False},
}
COMMANDS = ("import", "load", "check", "report")
SHIPPED = "shakespeare_char"
SCALE = 3.0
LOUD = 10.0  # times as large as at first is an embedding that the blocks do not drown
TOKENS = 111_540  # of random ids, as many as the shipped text has


def write_model(folder: Path, size: str, words: bool) -> None:
    """Write a checkpoint of random weights, its vocabulary or ids beside it."""
    import numpy as np
    import torch

    from conversion import GPT, NanoGPTConfig
    from nanogpt_lens.model.places import find_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    sizes = SIZES[size]
    torch.manual_seed(0)
    model = GPT(NanoGPTConfig(**sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and (not words or name == "transformer.wte.weight"):
                parameter.mul_(LOUD if words else SCALE)
    content = {"model": model.state_dict(), "model_args": {**sizes, "dropout": 0.2}, "iter_num": 0, "config": {}}
    torch.save(content | {"best_val_loss": torch.tensor(1e9)}, folder / "ckpt.pt")
    meta = find_checkpoint(SHIPPED).parent / "meta.pkl"
    if sizes["vocab_size"] == len(pickle.loads(meta.read_bytes())["itos"]):
        (folder / "meta.pkl").write_bytes(meta.read_bytes())
    else:
        generator = np.random.default_rng(0)
        ids = generator.integers(0, sizes["vocab_size"], TOKENS)
        if words:
            again = generator.random(TOKENS) < 0.5
            ids = ids[np.maximum.accumulate(np.where(again, 0, np.arange(TOKENS)))]
            texts = ["\n", *(f"{' ' * (i % 2)}{'Abcd'[i % 4]}{i}" for i in range(1, sizes["vocab_size"]))]
            vocabulary = {"itos": dict(enumerate(texts)), "stoi": {text: i for i, text in enumerate(texts)}}
            (folder / "meta.pkl").write_bytes(pickle.dumps(vocabulary))
        ids.astype(np.uint16).tofile(folder / "text.bin")


def measure(command: str, path: str, text: str) -> dict:
    """Do one thing once, in this process, and what it cost."""
    import warnings

    warnings.simplefilter("ignore")
    began, wall = time.process_time(), time.perf_counter()
    import nanogpt_lens as ngl

    result: dict = {}
    if command == "import":
        import transformer_lens  # noqa: F401

        _ = ngl.load, ngl.report
    elif command == "load":
        ngl.load(path)
    elif command == "check":
        certificate = ngl.check(path)
        result = {"comparisons": len(certificate.comparisons), "passed": certificate.passed}
    else:
        result = measured_report(ngl, path, text)
    return {
        "cpu": time.process_time() - began,
        "wall": time.perf_counter() - wall,
        **result,
        "peak": max([peak(), *result.get("peaks", {}).values()]),
    }


def peak() -> int:
    """The largest memory of this process so far, or since `forget_peak`, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> None:
    """Begin to look for the largest memory anew, where the system (Linux) can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def measured_report(ngl, path: str, text: str) -> dict:
    """A report, and of each of its sections CPU seconds and the largest memory while it was made."""
    from nanogpt_lens.reporting import making

    seconds, peaks, make = {}, {}, making.section_of

    def timed(recipe, subject):
        began = time.process_time()
        peaks["between"] = max(peaks.get("between", 0), peak())
        forget_peak()
        section = make(recipe, subject)
        seconds[recipe.key], peaks[recipe.key] = time.process_time() - began, peak()
        return section

    making.section_of = timed
    began = time.process_time()
    made = ngl.report(path, corpus=text, progress=False)
    seconds["the rest (reading, summary, page)"] = time.process_time() - began - sum(seconds.values())
    return {
        "sections": seconds,
        "peaks": peaks,
        "MB": len(made.html.encode()) / 1e6,
        "sha256": hashlib.sha256(made.html.encode()).hexdigest(),
        "failed": {s.key: s.error for s in made.sections if s.status == "failed"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=SHIPPED, choices=(SHIPPED, *SIZES))
    parser.add_argument("--only", choices=COMMANDS, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--words", action="store_true", help="of gpt2: with a vocabulary, and a text that it expects")
    parser.add_argument("--folder", type=Path, help="where the model is kept, or is already")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, metavar=("COMMAND", "PATH", "TEXT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        import torch

        torch.set_num_threads(options.threads)
        print(json.dumps(measure(*options.child)))
        return
    table = {}
    with tempfile.TemporaryDirectory() as temporary:
        path, text = SHIPPED, SHIPPED
        if options.model != SHIPPED:
            folder = options.folder or Path(temporary) / options.model
            if not (folder / "ckpt.pt").is_file():
                write_model(folder, options.model, options.words)
            path = str(folder)
            text = str(folder / "text.bin") if (folder / "text.bin").is_file() else SHIPPED
        for command in options.only or COMMANDS:
            line = [sys.executable, __file__, "--threads", str(options.threads), "--child", command, path, text]
            ran = subprocess.run(line, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"{command} failed:\n{ran.stderr}")
            table[command] = row = json.loads(ran.stdout.splitlines()[-1])
            print(f"{command:36}{row['cpu']:9.1f} s CPU{row['wall']:9.1f} s{row['peak'] / 2**20:9.0f} MiB", flush=True)
            peaks = row.pop("peaks", {})
            for key, seconds in row.pop("sections", {}).items():
                memory = f"{peaks[key] / 2**20:29.0f} MiB" if key in peaks else ""
                print(f"  {key:34}{seconds:9.1f}{memory}", flush=True)
                row[key] = seconds
            rest = {k: row[k] for k in ("comparisons", "passed", "MB", "sha256", "failed") if k in row}
            print(f"  {rest}" if rest else "", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
