"""Time to encode a megabyte of characters, against the two obvious ways.

    python benchmarks/encoding.py [--rounds 5]

- `ours`: `nanogpt_lens.encode_text`;
- `dict`: nanoGPT's `[stoi[c] for c in text]`, made a tensor;
- `tokenizer`: the Hugging Face tokenizer on the model, as TransformerLens' `to_tokens` calls it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).resolve().parent]  # conversion.py there

import numpy as np
import torch

import nanogpt_lens as ngl
from conversion.fast_tokenizer import tokenizer_for
from conversion.vocabulary import CharVocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    chars = tuple(chr(i) for i in range(32, 97))
    text = "".join(np.array(chars)[np.random.default_rng(0).integers(65, size=2**20)])
    vocabulary = CharVocabulary(chars)
    tokenizer = tokenizer_for(vocabulary, n_ctx=64, d_vocab=65)
    stoi = {char: i for i, char in enumerate(chars)}
    subjects = {
        "ours": lambda: ngl.encode_text(tokenizer, text),
        "dict": lambda: torch.tensor([stoi[c] for c in text]),
        "tokenizer": lambda: torch.tensor(tokenizer(text)["input_ids"]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    results = {}
    for _ in range(options.rounds):
        for name, encode in subjects.items():
            start = time.perf_counter()
            results[name] = encode()
            seconds[name].append(time.perf_counter() - start)
    assert all(torch.equal(ids, results["dict"]) for ids in results.values())
    print(f"{'':12}{'seconds':>9}{'time / dict':>13}")
    for name, times in seconds.items():
        ratio = statistics.median(t / d for t, d in zip(times, seconds["dict"], strict=True))
        print(f"{name:12}{statistics.median(times):9.3f}{ratio:13.2f}")


if __name__ == "__main__":
    main()
