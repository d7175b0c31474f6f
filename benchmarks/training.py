"""Training throughput: our trainer against a plain nanoGPT loop over the same model and batches.

    python benchmarks/training.py
    python benchmarks/training.py --n-embd 256 --block-size 128 --batch-size 32 --json results.json

Both sides train `conversion.native.GPT` at the same size on random tokens, take turns in
one process, and write a line of log every ten iterations. The plain side is nanoGPT's
`train.py` on a CPU, loop and `get_batch` alike. What is compared is the time of an
iteration with all that surrounds it, evaluations and checkpoints left out; a ratio below
1 means that ours is faster.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

# the folder of this script holds a conversion.py, which is not the package
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]

from conversion.native import GPT
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.training.train import TrainConfig, train

VOCAB_SIZE, LOG_INTERVAL = 65, 10


def plain_seconds(data: TextData, config: TrainConfig, log: Path) -> float:
    """Seconds per iteration of nanoGPT's loop, the first and last `LOG_INTERVAL` left out."""
    torch.manual_seed(config.seed)
    model = GPT(config.architecture(VOCAB_SIZE)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    tokens = data.train

    def get_batch() -> tuple[torch.Tensor, torch.Tensor]:
        ix = torch.randint(len(tokens) - config.block_size, (config.batch_size,))
        x = torch.stack([torch.from_numpy(tokens[i : i + config.block_size].astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy(tokens[i + 1 : i + 1 + config.block_size].astype(np.int64)) for i in ix])
        return x, y

    def get_lr(it: int) -> float:
        if it < config.warmup_iters:
            return config.learning_rate * (it + 1) / (config.warmup_iters + 1)
        ratio = (it - config.warmup_iters) / (config.max_iters - config.warmup_iters)
        return config.min_lr + 0.5 * (1 + math.cos(math.pi * ratio)) * (config.learning_rate - config.min_lr)

    x, y = get_batch()
    marks = {}
    for it in range(config.max_iters):
        for group in optimizer.param_groups:
            group["lr"] = get_lr(it)
        loss = model.loss(x, y)
        x, y = get_batch()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if it % LOG_INTERVAL == 0:
            with log.open("a") as file:
                file.write(f"iter {it}: loss {loss.item():.4f}\n")
            marks[it] = time.perf_counter()
    return seconds_per_iteration(marks)


def our_seconds(data: TextData, config: TrainConfig, out: Path) -> float:
    """Seconds per iteration of `train`, by its own log."""
    result = train(data, out, config, progress=True, sample=False)
    lines = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    return seconds_per_iteration({r["iter"]: r["elapsed"] for r in lines if "val_loss" not in r})


def seconds_per_iteration(marks: dict[int, float]) -> float:
    first, last = min(i for i in marks if i), max(marks)
    return (marks[last] - marks[first]) / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"n-layer": 4, "n-head": 4, "n-embd": 128, "block-size": 64, "batch-size": 12}
    for name, default in {**sizes, "rounds": 15, "iters": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", nargs="?", const="-", help="write JSON to a file, or print it instead of the table")
    args = parser.parse_args()
    size = {name.replace("-", "_"): getattr(args, name.replace("-", "_")) for name in sizes}
    config = TrainConfig(
        **size,
        max_iters=max(args.iters, 4 * LOG_INTERVAL),
        warmup_iters=LOG_INTERVAL,
        eval_interval=10**9,
        eval_iters=1,
        log_interval=LOG_INTERVAL,
    )
    ids = np.random.default_rng(0).integers(VOCAB_SIZE, size=1_000_000).astype(np.uint16)
    vocabulary = CharVocabulary(tuple(chr(48 + i) for i in range(VOCAB_SIZE)))
    data = TextData(train=ids, val=ids[:10_000], vocabulary=vocabulary, name="random")
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "plain": lambda i: plain_seconds(data, config, Path(folder, f"plain{i}.log")),
            "ours": lambda i: our_seconds(data, config, Path(folder, f"ours{i}")),
        }
        for i in range(args.rounds + 1):  # the first round warms up; who begins alternates
            order = ("plain", "ours") if i % 2 else ("ours", "plain")
            found = {side: sides[side](i) for side in order}
            if i:
                pairs.append((found["plain"], found["ours"]))
    report(pairs, size, target=args.json)


def report(pairs: list[tuple[float, float]], size: dict[str, int], *, target: str | None) -> None:
    plain, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    tokens = size["batch_size"] * size["block_size"]
    result = {
        **size,
        "rounds": len(pairs),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "plain_ms": round(plain * 1e3, 3),
        "ours_ms": round(ours * 1e3, 3),
        "plain_tokens_per_second": round(tokens / plain),
        "ours_tokens_per_second": round(tokens / ours),
        "ratio": round(statistics.median(ratios), 4),
        "ratio_low": round(ratios[0], 4),
        "ratio_high": round(ratios[-1], 4),
        "ratio_of_fastest": round(min(b for _, b in pairs) / min(a for a, _ in pairs), 4),
    }
    if target == "-":
        print(json.dumps(result, indent=2))
        return
    if target is not None:
        Path(target).write_text(json.dumps(result, indent=2) + "\n")
    print(f"{size}, {len(pairs)} rounds, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"{'':8}{'ms / iteration':>16}{'tokens / s':>14}")
    for name in ("plain", "ours"):
        print(f"{name:8}{result[f'{name}_ms']:>16.2f}{result[f'{name}_tokens_per_second']:>14,}")
    print(f"\nours / plain: {result['ratio']} (median of rounds; {result['ratio_low']} to {result['ratio_high']})")
    print(f"fastest round of each: {result['ratio_of_fastest']} (what other load on the machine disturbs least)")


if __name__ == "__main__":
    main()
