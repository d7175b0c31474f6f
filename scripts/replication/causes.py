"""What causes induction in a trained model: ablation, paths, composition (claim 4).

Every function takes a model and the task that it was trained on, and gives numbers as plain dictionaries. Heads
are written as "1.0", head 0 of layer 1. Which of them are meant is decided by `heads_of`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.on_tasks import task_accuracy, task_heads, task_sequences
from nanogpt_lens.model.access import Hooked, device_of, evaluating, run
from nanogpt_lens.text.pair import Pair
from nanogpt_lens.text.tasks import Task
from scripts.replication.formation import random_heads
from scripts.replication.knockouts import Head, Heads, without
from scripts.replication.measured import Numbers, entry, mean, ratio, rounded

MARGIN = 0.1
"""How far above chance the whole interval of an induction head's score is."""

MOST_SETS = 6
"""Sets of heads that are drawn where there are more."""

_GAIN = {"gain": 2, "gain_lost": 3}  # columns of `ablate_induction_heads`


def heads_of(model: Hooked, task: Task, *, n: int = 64, seed: int = 0) -> Numbers:
    """Which head attends to the previous token, and which are induction heads.

    Returns:
        "scores", of every head: attention to the previous token and prefix matching on repeated random tokens
        ("previous_random", "induction_random"), and the same on the task's own sequences ("previous_task",
        "induction_task", see `task_heads`). "previous_token": the head with the most attention to the previous
        token on the task; "agree": whether it has the most on random tokens too; "previous_clear": whether both
        intervals are `MARGIN` above chance. "induction": heads whose prefix matching on random permutations is,
        with its whole interval, `MARGIN` above chance; "induction_on_task": the same of the task's sequences.
    """
    random, own = random_heads(model, n=n, seed=seed), task_heads(model, task, n=n, seed=seed)
    places = list(itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    scores = {
        _name([place]): {
            name: entry(found, index, n=n, seed=seed)
            for name, found, index in (
                ("previous_random", random, (0, *place)),
                ("previous_task", own, (0, *place)),
                ("induction_random", random, (1, *place)),
                ("induction_task", own, (1, *place)),
            )
        }
        for place in places
    }
    best = {
        kind: max(scores, key=lambda head: scores[head][f"previous_{kind}"]["value"]) for kind in ("random", "task")
    }
    head = best["task"]
    return {
        "previous_token": head,
        "previous_on_random": best["random"],
        "agree": best["random"] == head,
        "previous_clear": all(_clear(scores[head][f"previous_{kind}"]) for kind in best),
        "induction": [name for name, found in scores.items() if _clear(found["induction_random"])],
        "induction_on_task": [name for name, found in scores.items() if _clear(found["induction_task"])],
        "scores": scores,
    }


def ablation(
    model: Hooked,
    task: Task,
    *,
    heads: Numbers | None = None,
    n: int = 256,
    seed: int = 0,
    modes: Sequence[str] = ("mean", "resample"),
) -> Numbers:
    """Predictions where induction is required, on the task's own sequences, without some heads.

    Later layers see the change. The sets of heads, each taken out together: none; all induction heads; the
    previous-token head; "others", all heads that are neither; each head alone; "controls", sets of as many
    other heads as there are induction heads; "parts", sets of as many induction heads as there are others,
    where these are fewer. With half of all heads being induction heads, the only control set is the other half,
    the previous-token head among them: then "others" against "parts" is the fair comparison.

    Returns:
        by mode and set: "accuracy" and "loss" in nats where induction is required, "lost" and "loss_added"
        against the whole model, sequence by sequence, and "other_loss_added" where nothing requires induction;
        "controls" and "parts" by set, with the mean over sets and the worst ("least" of the parts). "guess"
        is the accuracy where the same kind of answer cannot be known.

    Raises:
        AnalysisError: there is no induction head.
    """
    found = with_induction(model, task, heads, seed)
    named, drawn = _sets(model, found, seed)
    every = list(dict.fromkeys(itertools.chain(((),), named.values(), *drawn.values())))
    guess = task_accuracy(model, task, n=n, seed=seed)
    result: Numbers = {
        "induction": found["induction"],
        "previous_token": found["previous_token"],
        "guess": entry(guess, (0, 1), n=n, seed=seed),
    }
    for mode, values in without(model, task, every, modes, n, seed).items():
        whole = values[every.index(())]
        rows = {heads: _row(values[i], whole, heads, seed) for i, heads in enumerate(every)}
        result[mode] = {name: rows[heads] for name, heads in named.items()}
        for name, sets in drawn.items():
            lost = {heads: whole[0] - values[every.index(heads)][0] for heads in sets}
            result[mode][name] = _summary(rows, lost, least=name == "parts", seed=seed) if sets else None
    return result


def induction_gain(model: Hooked, task: Task, *, heads: Numbers | None = None, n: int = 32, seed: int = 0) -> Numbers:
    """The gain by repetition of random permutations, without the induction heads, the previous-token head, or others.

    Returns:
        by mode and set: "gain" and "gain_lost" in nats, see `ablate_induction_heads`, and of control sets of as
        many other heads the mean and the largest "gain_lost".

    Raises:
        AnalysisError: there is no induction head.
    """
    found = with_induction(model, task, heads, seed)
    named, _ = _sets(model, found, seed)
    total = model.cfg.n_layers * model.cfg.n_heads
    result: Numbers = {}
    for mode in ("mean", "resample"):
        result[mode] = {}
        for name in ("induction", "previous_token", "others"):
            chosen = named.get(name)
            if not chosen:
                continue
            controls = MOST_SETS + 1 if name != "others" and len(chosen) * 2 <= total else 0
            scores = ngl.ablate_induction_heads(
                model,
                [_name([head]) for head in chosen],
                source=mode,
                controls=controls,
                same_layers=False,
                n=n,
                seed=seed,
                progress=False,
            )
            row = {"heads": _name(chosen), **{s: entry(scores, (1, i), n=n, seed=seed) for s, i in _GAIN.items()}}
            row["gain_with_all"] = entry(scores, (0, _GAIN["gain"]), n=n, seed=seed)
            if len(scores.values) > 2:
                lost = scores.values[2:, _GAIN["gain_lost"]]
                worst = 2 + int(lost.argmax())
                row["controls"] = {
                    "sets": len(lost),
                    "mean_lost": rounded(lost.mean()),
                    "worst": scores.labels["ablated"][worst],
                    "worst_lost": entry(scores, (worst, _GAIN["gain_lost"]), n=n, seed=seed),
                }
            result[mode][name] = row
    return result


def path_patching(model: Hooked, task: Task, *, heads: Numbers | None = None, n: int = 64, seed: int = 0) -> Numbers:
    """Through what the previous-token head's effect on the prediction of [B] after [A][B]...[A] goes.

    The metric is the logit of [B] minus that of another token of the prompt. The total effect is that of
    patching the head's output, all else computed anew. The effect through the keys of all later induction heads
    is that of the direct paths there; MLPs on the way are computed anew, or frozen. The same through their
    queries, their values, all three, through the same layer's MLP ("mlp", whose readers see the change), and
    into the logits without any of these heads; and of the other heads of the same layer. What is lost when MLPs are
    frozen goes through an MLP first, where `k_composition` does not see it.

    Returns:
        for "random" prompts (see `induction_pairs`) and the "task"'s own (see `task_pairs`), by direction, "noise"
        (the corrupted run's output in the clean run) and "denoise" (the reverse): "gap", clean minus corrupted;
        "total", the effect, positive where it works as expected, and "total_share", of the gap; "through" and
        "through_frozen", by sender and receivers, "effect" and "share", of the previous-token head's total effect.

    Raises:
        AnalysisError: there is no induction head in a later layer.
    """
    found = with_induction(model, task, heads, seed)
    layer, _ = _place(found["previous_token"])
    later = [head for head in at_work(found) if _place(head)[0] > layer]
    if not later:
        raise AnalysisError(f"no induction head is in a layer after {layer}; expected one, so that it can read from it")
    receivers: dict[str, Any] = {
        name: [f"{head}.{part}" for head in later for part in parts]
        for name, parts in {"keys": "k", "queries": "q", "values": "v", "all_three": "qkv"}.items()
    } | {"mlp": f"mlp{layer}", "logits": "logits"}
    result: Numbers = {"previous_token": found["previous_token"], "receivers": later}
    for kind, pair in (
        ("random", ngl.induction_pairs(model, n=n, seed=seed)),
        ("task", task_pairs(model, task, n=n, seed=seed)),
    ):
        both = {direction: _paths(model, pair, found, receivers, direction, seed) for direction in ("noise", "denoise")}
        result[kind] = {"prompt_length": pair.clean.shape[1], **both}
    return result


def _paths(model: Hooked, pair: Pair, found: Numbers, receivers: dict[str, Any], direction: Any, seed: int) -> Numbers:
    """The effects in one direction, see `path_patching`."""
    layer, index = _place(found["previous_token"])
    senders = [f"{layer}.{head}" for head in range(model.cfg.n_heads)]
    metric = ngl.metrics.logit_diff(pair.answer, pair.wrong)
    with evaluating(model):
        clean, corrupted = (metric.per_example(run(model, tokens)) for tokens in (pair.clean, pair.corrupted))
    base, sign = (clean, -1) if direction == "noise" else (corrupted, 1)
    texts: Any = (model, pair.clean, pair.corrupted, metric)
    options: dict[str, Any] = {"direction": direction, "progress": False, "seed": seed}
    whole = ngl.activation_patching(*texts, activation="z", axes=("layer", "head"), **options).per_example
    assert whole is not None
    total = sign * (whole[layer, index] - base)
    result: Numbers = {
        "gap": mean(clean - corrupted, seed=seed),
        "total": mean(total, seed=seed),
        "total_share": ratio(total, clean - corrupted, seed=seed),
    }
    for name, frozen in (("through", False), ("through_frozen", True)):
        paths = ngl.path_patching(
            *texts, senders=senders, receivers=list(receivers.values()), freeze_mlps=frozen, **options
        ).per_example
        assert paths is not None
        effects = sign * (paths - base)  # [sender, receiver, example]
        result[name] = {
            sender: {
                end: {"effect": mean(effects[i, j], seed=seed), "share": ratio(effects[i, j], total, seed=seed)}
                for j, end in enumerate(receivers)
            }
            for i, sender in enumerate(senders)
        }
    return result


def task_pairs(model: Hooked, task: Task, *, n: int, seed: int = 0) -> Pair:
    """The first halves of a task's sequences that end where induction is required, and the same without its reason.

    In the corrupted prompts every earlier occurrence of the last token is replaced by one token that the prompt
    does not have. `wrong` is another token of the prompt, neither the last nor the answer.

    Raises:
        AnalysisError: fewer than `n` of 100 n sequences are of that kind.
    """
    generator = np.random.default_rng([seed, 2])
    length = int(model.cfg.n_ctx) // 2
    rows: list[tuple[np.ndarray, np.ndarray, int, int]] = []
    for attempt in range(20):
        drawn = task_sequences(model, task, n=5 * n, seed=seed + 1000 * attempt)
        for tokens in drawn.tokens[drawn.required[:, length - 1]][:, : length + 1]:
            prompt, last, answer = tokens[:-1], tokens[-2], tokens[-1]
            absent = np.setdiff1d(np.arange(task.vocab_size), tokens)
            wrong = np.setdiff1d(prompt, [last, answer])
            if len(absent) and len(wrong):
                corrupted = np.where(prompt == last, generator.choice(absent), prompt)
                corrupted[-1] = last
                rows.append((prompt, corrupted, int(answer), int(generator.choice(wrong))))
        if len(rows) >= n:
            parts = [torch.from_numpy(np.array(part)).to(device_of(model)) for part in zip(*rows[:n], strict=True)]
            return Pair(clean=parts[0], corrupted=parts[1], answer=parts[2], wrong=parts[3])
    raise AnalysisError(
        f"{len(rows)} of {100 * n} sequences of '{task.name}' require induction at position {length - 1} and have "
        f"other tokens; expected {n}: give a smaller n"
    )


def k_composition(
    model: Hooked, task: Task, *, heads: Numbers | None = None, samples: int = 500, seed: int = 0
) -> Numbers:
    """K-composition of every head of the previous-token head's layer with every later induction head.

    The scores are of the weights alone, so that there is nothing to draw examples of: what they are compared with
    is the range of random heads, and one another.

    Returns:
        "random": mean, and the ends of the range that holds 95% of `samples` random pairs; by receiver:
        "scores" by sender, "rank" of the previous-token head among the senders (1 is the highest), whether it
        is "above_random"; and its "q" and "v" composition with the same head.

    Raises:
        AnalysisError: there is no induction head.
    """
    found = with_induction(model, task, heads, seed)
    layer, index = _place(found["previous_token"])
    k, q, v = (ngl.composition_scores(model, mode=mode, samples=samples, seed=seed) for mode in ("K", "Q", "V"))
    random = k.provenance["random"]
    result: Numbers = {
        "previous_token": found["previous_token"],
        "random": {name: rounded(random[name]) for name in ("mean", "low", "high")} | {"n": samples, "seed": seed},
    }
    for head in at_work(found):
        place = _place(head)
        if place[0] <= layer:
            continue
        scores = k.values[layer, :, place[0], place[1]]
        result[head] = {
            "scores": {f"{layer}.{i}": rounded(score) for i, score in enumerate(scores)},
            "rank": 1 + int((scores > scores[index]).sum()),
            "above_random": bool(scores[index] > random["high"]),
            **{name: rounded(s.values[layer, index, place[0], place[1]]) for name, s in (("q", q), ("v", v))},
        }
    return result


def with_induction(model: Hooked, task: Task, heads: Numbers | None, seed: int) -> Numbers:
    """The heads given, or those of `heads_of`.

    Raises:
        AnalysisError: none of them is an induction head.
    """
    found = heads_of(model, task, seed=seed) if heads is None else heads
    if not found["induction"]:
        raise AnalysisError(
            f"no head has prefix matching {MARGIN} above chance; expected an induction head: use a later checkpoint"
        )
    return found


def at_work(found: Numbers) -> list[str]:
    """The induction heads, and those that are weak on random permutations but not on the task."""
    return sorted({*found["induction"], *found["induction_on_task"]}, key=_place)


def _clear(score: Numbers) -> bool:
    return score["low"] > score["chance"] + MARGIN


def _place(head: str) -> Head:
    layer, index = head.split(".")
    return int(layer), int(index)


def _name(heads: Sequence[Head]) -> str:
    return "+".join(f"{layer}.{head}" for layer, head in heads)


def _sets(model: Hooked, found: Numbers, seed: int) -> tuple[dict[str, Heads], dict[str, list[Heads]]]:
    """The sets of heads of `ablation` by name, and its "controls" and "parts"."""
    every = list(itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)))
    induction = tuple(map(_place, found["induction"]))
    working = tuple(map(_place, at_work(found)))
    previous = _place(found["previous_token"])
    others = tuple(head for head in every if head not in {*working, previous})
    named: dict[str, Heads] = {"nothing": (), "induction": induction, "previous_token": (previous,)}
    if others:
        named["others"] = others
    if len(working) > len(induction):
        named["induction_at_work"] = working
    named |= {_name([head]): (head,) for head in every}
    rest = [head for head in every if head not in induction]
    parts = _some(working, len(others), seed) if 0 < len(others) < len(working) else []
    return named, {"controls": _some(rest, len(induction), seed), "parts": parts}


def _some(heads: Sequence[Head], size: int, seed: int) -> list[Heads]:
    """All sets of so many heads, or `MOST_SETS` of them, drawn at random."""
    every = list(itertools.combinations(heads, size))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:MOST_SETS]
    return [every[i] for i in sorted(order.tolist())]


def _row(values: Tensor, whole: Tensor, heads: Heads, seed: int) -> Numbers:
    return {
        "heads": _name(heads),
        "accuracy": mean(values[0], seed=seed),
        "loss": mean(values[1], seed=seed),
        "lost": mean(whole[0] - values[0], seed=seed),
        "loss_added": mean(values[1] - whole[1], seed=seed),
        "other_loss_added": mean(values[2] - whole[2], seed=seed),
    }


def _summary(rows: dict[Heads, Numbers], lost: dict[Heads, Tensor], *, least: bool, seed: int) -> Numbers:
    """The mean over sets of heads of the accuracy lost, and the set that loses most, or least."""
    extreme = (min if least else max)(lost, key=lambda heads: float(lost[heads].mean()))
    return {
        "sets": len(lost),
        "mean_lost": mean(torch.stack(list(lost.values())).mean(0), seed=seed),
        "least" if least else "worst": rows[extreme],
    }
