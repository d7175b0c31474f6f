"""Train a checkpoint further on another text.

    python -m scripts.train_further shakespeare_char --text FILE -o out-more

`ngl.compare` then says what that changed. The optimizer starts anew, with a third of nanoGPT's learning rate for a CPU
and 20 updates of warm-up; characters that the checkpoint does not know are left out of the text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer

from conversion.checkpoint import Checkpoint, save_checkpoint
from conversion.native import GPT


def train_further(
    start: str | Path, text: str, output: str | Path, *, iterations: int = 300, seed: int = 0, rate: float = 3e-4
) -> Path:
    """The checkpoint `output/ckpt.pt` after some more iterations on a text."""
    from nanogpt_lens.model.reading import Reading
    from nanogpt_lens.text.datasets import TextData

    checkpoint = Reading().checkpoint(start)
    assert checkpoint.vocabulary is not None, "the checkpoint needs its vocabulary"
    ids = encoded(checkpoint, text)
    data = TextData(train=ids, val=ids, vocabulary=checkpoint.vocabulary, name="more")
    steps = continued(
        checkpoint, data, rate=rate, min_rate=rate / 10, iterations=iterations, every=iterations, seed=seed
    )
    trained = replace(next(steps), iter_num=(checkpoint.iter_num or 0) + iterations)
    Path(output).mkdir(parents=True, exist_ok=True)
    save_checkpoint(trained, output)
    return Path(output)


def continued(
    start: Checkpoint, data: Any, *, rate: float, min_rate: float, iterations: int, every: int, seed: int
) -> Iterator[Checkpoint]:
    """A checkpoint after every so many iterations of training on some text.

    The optimizer starts anew, with 20 iterations of warm-up to `rate`, from which a cosine leads to `min_rate`.
    """
    from nanogpt_lens.training.config import TrainConfig
    from nanogpt_lens.training.loop import Trainer

    shape = start.config
    config = TrainConfig(
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_embd=shape.n_embd,
        block_size=shape.block_size,
        bias=shape.bias,
        max_iters=iterations,
        learning_rate=rate,
        min_lr=min_rate,
        warmup_iters=min(20, iterations - 1),
        seed=seed,
    )
    model = GPT.from_checkpoint(start)
    trainer = Trainer(model, data, config)
    for iteration in range(iterations):
        trainer.step(iteration)
        if (iteration + 1) % every == 0:
            state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            yield replace(start, state_dict=state, best_val_loss=None)


def encoded(checkpoint: Checkpoint, text: str) -> Integer[np.ndarray, " token"]:
    """The text's ids, without characters that the checkpoint does not know."""
    known = getattr(checkpoint.vocabulary, "chars", None)
    kept = text if known is None else "".join(c for c in text if c in set(known))
    return np.asarray(checkpoint.tokenizer().encode(kept), dtype=np.uint16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("start")
    parser.add_argument("--text", required=True, type=Path)
    parser.add_argument("-o", "--output", required=True, type=Path)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    torch.manual_seed(chosen.seed)
    print(
        train_further(
            chosen.start, chosen.text.read_text(), chosen.output, iterations=chosen.iterations, seed=chosen.seed
        )
    )
