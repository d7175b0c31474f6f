"""How a model guesses a trigger's output: by what followed the trigger, or by what the context holds in any order?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.heads.attention import pattern_hook
from nanogpt_lens.heads.induction import follows
from nanogpt_lens.heads.on_tasks import task_generator, task_sequences
from nanogpt_lens.model.access import evaluating, run
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.tasks import Task, TriggerBigrams


def shuffled_context(model: Any, task: Task, *, n: int = 256, seed: int = 0, places: int = 8) -> dict[str, float]:
    """Accuracy where induction is required, with the context as it is and in random order.

    The tokens before the query, which stays where it is, are put in random order. What followed the query's token
    earlier can no longer be known; which characters the context holds, and how often, can. Of each sequence up
    to `places` required positions are looked at, drawn at random.

    Returns:
        "intact" and "shuffled", shares of right predictions; "lost", their difference, with "lost_low" and
        "lost_high", a 95% interval over the sequences; "agreement", the share of positions where both
        contexts give the same prediction.
    """
    drawn = task_sequences(model, task, n=n, seed=seed)
    generator = np.random.default_rng([seed, 1])
    hits, counts = np.zeros((3, n)), np.zeros(n)
    for row, (tokens, required) in enumerate(zip(drawn.tokens, drawn.required, strict=True)):
        at = generator.permutation(np.flatnonzero(required[:-1]))[:places]
        if not len(at):
            continue
        pairs = np.stack([_both_orders(tokens, p, generator) for p in at])  # [place, 2, pos]
        guesses = _predictions(model, torch.from_numpy(pairs.reshape(-1, tokens.size)), np.repeat(at, 2)).reshape(-1, 2)
        right = guesses == tokens[at + 1][:, None]
        hits[:, row] = [right[:, 0].sum(), right[:, 1].sum(), (guesses[:, 0] == guesses[:, 1]).sum()]
        counts[row] = len(at)
    each = ratio_per_example(torch.from_numpy(hits), torch.from_numpy(counts))
    lost = each[0] - each[1]
    ends = t_interval(lost)
    assert ends is not None
    intact, shuffled, agreement = each.mean(-1).tolist()
    numbers = {
        "intact": intact,
        "shuffled": shuffled,
        "lost": float(lost.mean()),
        "lost_low": float(ends[0]),
        "lost_high": float(ends[1]),
        "agreement": agreement,
    }
    return {name: round(value, 4) for name, value in numbers.items()}


def _both_orders(tokens: np.ndarray, at: int, generator: np.random.Generator) -> np.ndarray:
    """The sequence as it is, and with the tokens before `at` in random order [2, pos]; what comes later is not read."""
    other = tokens.copy()
    other[:at] = generator.permutation(tokens[:at])
    return np.stack([tokens, other])


def _predictions(model: Any, tokens: torch.Tensor, at: np.ndarray) -> np.ndarray:
    """The likeliest token after position `at` of each row."""
    found = []
    with evaluating(model):
        for rows in batches(model, tokens):
            logits = run(model, tokens[rows])
            found.append(logits[torch.arange(len(logits)), torch.from_numpy(at[rows])].argmax(-1))
    return torch.cat(found).numpy()


def whose_outputs(model: Any, task: TriggerBigrams, *, n: int = 128, seed: int = 0) -> dict[str, Any]:
    """Where the head that attends most to the right places looks, where induction is required: at whose outputs?

    Returns:
        attention from a trigger's later occurrences, of the head with the most of it on "own" outputs, the
        characters that followed this trigger earlier: "own", "other" (what followed other triggers) and "rest",
        sums over the context; "per_own", "per_other", "per_rest", the same per position, times the number of
        positions to choose from (1 is uniform attention).
    """
    drawn, triggers, _ = task.draw_with_triggers(n, model.cfg.n_ctx, task_generator(seed))
    tokens = torch.from_numpy(drawn.tokens)
    own = follows(tokens) & torch.from_numpy(drawn.required)[:, :, None]
    after = torch.zeros_like(tokens, dtype=torch.bool)
    after[:, 1:] = (tokens[:, :-1, None] == torch.from_numpy(triggers)[:, None, :]).any(-1)
    causal = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    required = torch.from_numpy(drawn.required)[:, :, None]
    other = after[:, None, :] & ~own & causal & required
    rest = causal & required & ~own & ~other
    masks = torch.stack([own, other, rest]).double()  # [kind, example, query, key]
    found: list[torch.Tensor] = []

    def keep(pattern: torch.Tensor) -> None:
        found.append(torch.einsum("ehqk,seqk->hs", pattern.double(), masks))

    with evaluating(model):
        run(model, tokens, {pattern_hook(i): keep for i in range(model.cfg.n_layers)})
    sums = torch.cat(found)  # [layer and head, kind]
    head = int(sums[:, 0].argmax())
    share = sums[head] / required.sum()
    places = masks.sum((1, 2, 3)) / required.sum()
    lifted = share / places * places.sum()
    names = ("own", "other", "rest")
    numbers = dict(zip(names, share.tolist(), strict=True))
    numbers |= {f"per_{name}": value for name, value in zip(names, lifted.tolist(), strict=True)}
    layer, index = divmod(head, model.cfg.n_heads)
    return {"head": f"{layer}.{index}", **{k: round(v, 4) for k, v in numbers.items()}}
