"""Time and memory of reading and converting a GPT-2-sized checkpoint, against two rivals.

    python benchmarks/conversion.py [--rounds 5] [--json results.json]

A random checkpoint of 124M parameters is written as nanoGPT writes it (with AdamW's state, three
times the weights). Then, each in a process of its own and in turn:

- `torch.load`: reading the file alone, as nanoGPT's sample.py does;
- `by hand`: what people do now under TransformerLens 3.9: `torch.load`, a HookedTransformer, its
  own `convert_nanogpt_weights`, and `load_and_process_state_dict` without processing;
- `ours`: `nanogpt_lens.load`.

Time is of the work without imports; memory is the peak of the resident set above what it was
after the imports, in multiples of the weights (a tied embedding counted once). The TransformerLens
model itself holds 1.3 times the weights, because it unties the embedding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # we are not the package

SIZES = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50304, "bias": False}
SUBJECTS = ("torch.load", "by hand", "ours")


def write_checkpoint(path: Path, sizes: dict) -> int:
    """Write a checkpoint with optimizer state; return the bytes of its weights."""
    import torch

    from conversion import GPT, NanoGPTConfig

    torch.manual_seed(0)
    model = GPT(NanoGPTConfig(**sizes))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "model_args": {**sizes, "dropout": 0.0},
        "iter_num": 0,
        "best_val_loss": torch.tensor(1e9),
        "config": {},
    }
    torch.save(content, path)
    return sum(p.numel() * p.element_size() for p in model.parameters())


def memory(field: str) -> int:
    """`VmRSS` (resident now) or `VmHWM` (its peak since this program began), in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise SystemExit("this benchmark reads /proc/self/status, which only Linux has")


def run(subject: str, path: str) -> dict[str, float]:
    """Do one thing once, in this process."""
    import warnings

    warnings.simplefilter("ignore")
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_nanogpt_weights

    import nanogpt_lens

    _ = nanogpt_lens.load
    import conversion.nanogpt_to_hooked  # noqa: F401

    before, start = memory("VmRSS"), time.perf_counter()
    if subject == "torch.load":
        kept = torch.load(path, map_location="cpu", weights_only=True)
    elif subject == "ours":
        kept = nanogpt_lens.load(path)
    else:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        args = kept["model_args"]
        cfg = HookedTransformerConfig(
            n_layers=args["n_layer"],
            n_heads=args["n_head"],
            d_model=args["n_embd"],
            d_head=args["n_embd"] // args["n_head"],
            d_mlp=4 * args["n_embd"],
            n_ctx=args["block_size"],
            d_vocab=args["vocab_size"],
            act_fn="gelu",
            normalization_type="LN",
            device="cpu",
        )
        state = convert_nanogpt_weights(kept["model"], cfg)
        model = HookedTransformer(cfg)
        model.load_and_process_state_dict(
            state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
        )
    seconds = time.perf_counter() - start
    del kept
    return {"seconds": seconds, "bytes": memory("VmHWM") - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("SUBJECT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(*options.child)))
        return
    results: dict[str, list[dict[str, float]]] = {subject: [] for subject in SUBJECTS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ckpt.pt"
        weights = write_checkpoint(path, SIZES)
        print(f"weights {weights / 1e6:.0f} MB, file {path.stat().st_size / 1e6:.0f} MB, {options.rounds} rounds")
        for _ in range(options.rounds):
            for subject in SUBJECTS:
                command = [sys.executable, __file__, "--child", subject, str(path)]
                results[subject].append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    table = {}
    for subject in SUBJECTS:
        seconds = [r["seconds"] for r in results[subject]]
        ratios = [r["seconds"] / h["seconds"] for r, h in zip(results[subject], results["by hand"], strict=True)]
        table[subject] = {
            "seconds": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "time / by hand": statistics.median(ratios),
            "peak memory / weights": statistics.median(r["bytes"] / weights for r in results[subject]),
        }
    print(f"{'':12}{'seconds':>9}{'min':>8}{'max':>8}{'time / by hand':>16}{'peak memory / weights':>24}")
    for subject, row in table.items():
        numbers = (row["seconds"], row["min"], row["max"], row["time / by hand"], row["peak memory / weights"])
        print("{:12}{:9.2f}{:8.2f}{:8.2f}{:16.2f}{:24.2f}".format(subject, *numbers))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
