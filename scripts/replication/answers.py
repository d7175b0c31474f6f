"""Where the answer of induction appears, and how much of it carries over to other sequences (claims 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

import nanogpt_lens as ngl
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.model.access import Hooked, device_of, evaluating, n_tokens, next_token_loss, run
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.prompts import repeated_tokens
from nanogpt_lens.text.tasks import Task
from scripts.replication.causes import at_work, heads_of
from scripts.replication.measured import Numbers, entry, mean, ratio_of_means, rounded, where

LENGTHS = (16, 32, 50, 64)
"""Tokens of one copy of a random permutation."""


def prompts(model: Hooked, task: Task, *, n: int = 256, seed: int = 0) -> Numbers:
    """On [A][B]...[A] prompts: is [B] predicted, and after which part of the model is it there?

    Returns:
        "clean" and "corrupted": accuracy and probability, see `induction_accuracy`; "lens": what the logit lens
        reads at the end of the clean prompts, and "lens_on_task", where the task's sequences require induction:
        see `_lens`.
    """
    length = min(32, int(model.cfg.n_ctx) - 1, n_tokens(model))  # the answer follows, so that a lens knows it
    scores = ngl.induction_accuracy(model, seq_len=length, n=n, seed=seed)
    result: Numbers = {"prompt_length": length}
    for column, kind in enumerate(scores.labels["prompt"]):
        rows = enumerate(scores.labels["score"])
        result[kind] = {name: entry(scores, (row, column), n=n, seed=seed) for row, name in rows}
    pair = ngl.induction_pairs(model, seq_len=length, n=n, seed=seed)
    last = torch.zeros(n, length, dtype=torch.bool)
    last[:, -1] = True
    result["lens"] = _lens(model, torch.cat([pair.clean, pair.answer[:, None]], 1), last, seed)
    drawn = task_sequences(model, task, n=n, seed=seed)
    required = torch.from_numpy(drawn.required)[:, :-1]
    result["lens_on_task"] = _lens(model, torch.from_numpy(drawn.tokens).to(device_of(model)), required, seed)
    return result


def _lens(model: Hooked, tokens: Tensor, mask: Tensor, seed: int) -> Numbers:
    """What the logit lens reads of the next token at the places of a mask [example, pos - 1].

    Returns:
        by point, in the order of the computation ("resid_pre 0" is the embedding): the "probability" of the token
        that follows; "top", the share of places where it is the likeliest; "first", the share where it is so here
        and at no earlier point; and "appears": the first point where it is the likeliest at more than half of the
        places, with the whole interval, None if there is none.
    """
    probability, top = [], []
    with evaluating(model):
        for rows in batches(model, tokens):
            lens = ngl.logit_lens(model, tokens[rows], k=1)
            values = lens.values if "example" in lens.axes else lens.values[:, :, None]
            best = lens.top_tokens.reshape(*values.shape)[..., :-1]
            probability.append(values[..., :-1].exp())
            top.append(best == tokens[rows, 1:].cpu())
    names, points = [], []
    for layer in range(model.cfg.n_layers):
        for i, point in enumerate(("resid_pre", "resid_mid", "resid_post")):
            if layer == 0 or i:  # a layer's resid_pre is the resid_post before it
                names.append(f"{point} {layer}")
                points.append((layer, i))
    earlier = torch.zeros_like(top[0][0, 0]).new_zeros(mask.shape)
    result: Numbers = {"points": names, "appears": None}
    for name, (layer, i) in zip(names, points, strict=True):
        chance, hit = (torch.cat([piece[layer, i] for piece in found]) for found in (probability, top))
        first, earlier = hit & ~earlier, earlier | hit
        result[name] = {
            "probability": mean(where(chance, mask), seed=seed),
            "top": mean(where(hit, mask), seed=seed),
            "first": mean(where(first, mask), seed=seed),
        }
        if result["appears"] is None and (result[name]["top"]["low"] or 0) > 0.5:
            result["appears"] = name
    return result


def carry_over(model: Hooked, task: Task, *, heads: Numbers | None = None, n: int = 256, seed: int = 0) -> Numbers:
    """How much of the accuracy on the task there is on sequences that the model was not trained on.

    Chance is guessing one of the different tokens that came so far. The share carried over is accuracy above chance
    there, by that on the task, each as a share of what perfect accuracy is above chance; both kinds of sequences are
    resampled.

    Returns:
        "task": "accuracy" where induction is required, "loss" in nats, and "chance"; by length, of the second half
        of random permutations but for its first token, and of [A][B]...[A] prompts ("pairs"): the same and the
        "share"; for the permutations "shuffled_loss" and "unrepeated_loss" (see `repeated_sequence_loss`), and
        "prefix_matching" by induction head; "induction_on_task": its attention where the task requires induction.
    """
    found = heads_of(model, task, seed=seed) if heads is None else heads
    drawn = task_sequences(model, task, n=n, seed=seed)
    tokens = torch.from_numpy(drawn.tokens).to(device_of(model))
    own = _accuracy(model, tokens, torch.from_numpy(drawn.required)[:, :-1])
    chosen = at_work(found)
    result: Numbers = {
        "task": _numbers(own, seed),
        "induction_on_task": {head: found["scores"][head]["induction_task"] for head in chosen},
    }
    for length in (length for length in LENGTHS if 2 * length <= model.cfg.n_ctx and length <= n_tokens(model)):
        tokens = repeated_tokens(model, seq_len=length, n=n, seed=seed)
        second = torch.zeros(n, 2 * length - 1, dtype=torch.bool)
        second[:, length:] = True
        there = _accuracy(model, tokens, second)
        few = min(n, 64)
        loss = ngl.repeated_sequence_loss(model, seq_len=length, n=few, seed=seed).per_example
        matching = ngl.prefix_matching(model, seq_len=length, n=few, seed=seed)
        assert loss is not None
        kinds = ("shuffled", "unrepeated")
        result[str(length)] = {
            **_numbers(there, seed),
            "share": ratio_of_means(_lifted(there[0], there[2]), _lifted(own[0], own[2]), seed=seed),
            **{f"{kind}_loss": mean(loss[i, length:].mean(0), seed=seed) for i, kind in enumerate(kinds, 1)},
            "prefix_matching": {
                head: entry(matching, tuple(map(int, head.split("."))), n=few, seed=seed) for head in chosen
            },
        }
    pairs = ngl.induction_accuracy(model, n=n, seed=seed)
    right, chance = pairs.per_example, pairs.chance
    assert right is not None
    assert chance is not None
    result["pairs"] = {
        "accuracy": entry(pairs, (0, 0), n=n, seed=seed),
        "chance": rounded(chance[0, 0]),
        "share": ratio_of_means(_lifted(right[0, 0], chance[0, 0]), _lifted(own[0], own[2]), seed=seed),
    }
    return result


def _accuracy(model: Hooked, tokens: Tensor, mask: Tensor) -> Tensor:
    """At the places of a mask [example, pos - 1]: accuracy, loss in nats, and chance [3, example], see `where`."""
    pieces = []
    with evaluating(model):
        for rows in batches(model, tokens):
            logits = run(model, tokens[rows])
            right = logits[:, :-1].argmax(-1) == tokens[rows, 1:]
            loss = next_token_loss(logits, tokens[rows])
            pieces.append(torch.stack([right.double(), loss.double()]).cpu())
    same = tokens[:, :, None] == tokens[:, None, :]
    new = ~(same & torch.ones_like(same).tril(-1)).any(-1)  # no equal token came before
    chance = 1 / new.double().cumsum(1)[:, :-1].cpu()
    return where(torch.cat([torch.cat(pieces, 1), chance[None]]), mask)


def _lifted(accuracy: Tensor, chance: Tensor) -> Tensor:
    """Accuracy [example] above chance ([example] or one number), as a share of what is possible."""
    return (accuracy - chance) / (1 - chance.mean())


def _numbers(found: Tensor, seed: int) -> Numbers:
    return {name: mean(found[i], seed=seed) for i, name in enumerate(("accuracy", "loss"))} | {
        "chance": rounded(found[2].mean())
    }
