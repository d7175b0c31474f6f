"""What a model does where a task requires induction: its predictions there, and where its heads look.

Random repeated tokens are far from what a model was trained on. A task's own sequences are not, and they say
at which positions nothing but an earlier occurrence tells what comes next (see `tasks`).
"""

from __future__ import annotations

import torch
from einops import einsum, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields, ratio_per_example
from nanogpt_lens.heads.attention import pattern_hook
from nanogpt_lens.heads.induction import follows
from nanogpt_lens.heads.on_backdoors import backdoor_success
from nanogpt_lens.model.access import (
    Edit,
    Hooked,
    device_of,
    evaluating,
    next_token_loss,
    provenance,
    run,
)
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.task_pairs import check_fits, task_generator
from nanogpt_lens.text.tasks import Backdoor, Task, TaskSequences

POSITIONS = ("required", "unseen", "other")
"""The kinds of positions: the task requires induction; it would, but nothing like it came earlier; all others."""

HEAD_SCORES: dict[str, str] = {
    "previous_token": "attention to the position before, mean over all queries but the first",
    "induction": "attention to what followed earlier occurrences of the query's token, summed over them, mean over "
    "the queries where induction is required",
}
"""The scores of `task_heads`."""


def task_sequences(model: Hooked, task: Task, *, n: int = 256, seed: int = 0) -> TaskSequences:
    """New sequences of a task, as long as the model's context.

    Args:
        model: the model.
        task: the task that the model was trained on, see `tasks.read_task`.
        n: the number of sequences.
        seed: the seed of the sequences; no training run draws the same ones.

    Raises:
        AnalysisError: the task has other characters than the model.
    """
    check_whole(1, n=n)
    check_whole(seed=seed)
    check_fits(model, task)
    return task.draw(n, model.cfg.n_ctx, task_generator(seed))


def task_accuracy(model: Hooked, task: Task, *, n: int = 256, seed: int = 0) -> Scores:
    """How well the model predicts a task's next tokens, at the positions that require induction and elsewhere.

    Of a backdoor (see `tasks.backdoor`), in which nothing requires induction, it is
    `nanogpt_lens.heads.on_backdoors.backdoor_success` instead.

    Accuracy is the share of positions whose likeliest next token is the one that comes. "unseen" is the
    control: there the answer cannot be known, and no model is right more often than it can guess.

    Args:
        model: the model.
        task: the task that the model was trained on.
        n: the number of sequences.
        seed: the seed of the sequences.

    Returns:
        Values [score, position]: "accuracy", "loss" in nats, and "probability" of the right token, each
        a mean over all positions of that kind, with intervals over the sequences (`per_example` is linearised:
        the ratio and each sequence's deviation from it, by the mean number of positions).

    Raises:
        AnalysisError: see `task_sequences`.
    """
    if isinstance(task, Backdoor):
        return backdoor_success(model, task, n=n, seed=seed)
    sequences = task_sequences(model, task, n=n, seed=seed)
    tokens = torch.from_numpy(sequences.tokens).to(device_of(model))
    pieces = []
    with evaluating(model):
        for rows in batches(model, tokens):
            logits = run(model, tokens[rows])
            loss = next_token_loss(logits, tokens[rows]).double()
            right = logits[:, :-1].argmax(-1) == tokens[rows, 1:]
            pieces.append(torch.stack([right.double(), loss, (-loss).exp()]).cpu())
    scores = torch.cat(pieces, 1)  # [score, example, pos]
    kinds = torch.stack([mask[:, :-1] for mask in _kinds(sequences)])  # [position, example, pos]
    each = ratio_per_example(
        einsum(scores, kinds.double(), "score example pos, position example pos -> score position example"),
        kinds.sum(-1).double(),
    )
    return Scores(
        **mean_fields(each),
        axes=("score", "position"),
        labels={"score": ("accuracy", "loss", "probability"), "position": POSITIONS},
        quantity="accuracy, loss in nats, probability",
        title="accuracy",
        units={"loss": "nats per token"},
        sample=Sample(corpus=task.name, n=len(tokens), seed=seed),
        definition=f"{len(tokens)} sequences of '{task.name}', at positions where induction is required, where "
        "nothing like it came earlier, and all others",
        provenance=provenance(model, task=task.name, task_sha256=task.sha256, n=len(tokens), seed=seed),
    )


def task_heads(model: Hooked, task: Task, *, n: int = 64, seed: int = 0) -> Scores:
    """How much each head does its part of induction, on the task's own sequences.

    Args:
        model: the model.
        task: the task that the model was trained on.
        n: the number of sequences.
        seed: the seed of the sequences.

    Returns:
        Scores [score, layer, head], from 0 to 1, see `HEAD_SCORES`; `chance` is uniform causal
        attention on the same tokens; intervals are over the sequences.

    Raises:
        AnalysisError: see `task_sequences`.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads" (previous token and prefix matching,
    there on random repeated tokens).
    """
    sequences = task_sequences(model, task, n=n, seed=seed)
    tokens = torch.from_numpy(sequences.tokens).to(device_of(model))
    required = torch.from_numpy(sequences.required).to(tokens.device)
    if not required.any():
        raise AnalysisError(
            f"nothing in {len(tokens)} sequences of '{task.name}' requires induction; expected a task in which "
            "something does, or a larger n"
        )
    sums, uniform = _attention_sums(model, tokens, required)
    counts = torch.stack([torch.full((len(tokens),), tokens.shape[1] - 1.0), required.sum(-1).cpu()]).double()
    each = ratio_per_example(sums, counts[:, None, None])
    chance = uniform.sum(-1) / counts.sum(-1)
    return Scores(
        **mean_fields(each),
        axes=("score", "layer", "head"),
        labels={"score": tuple(HEAD_SCORES)},
        quantity="attention, from 0 to 1",
        definition=f"{len(tokens)} sequences of '{task.name}'; chance: uniform causal attention",
        title="attention",
        unit="attention",
        scores=HEAD_SCORES,
        tested="chance",
        chance_per_example=ratio_per_example(uniform, counts)[:, None, None],
        sample=Sample(corpus=task.name, n=len(tokens), seed=seed),
        chance=repeat(chance, "score -> score layer head", layer=each.shape[1], head=each.shape[2]).clone(),
        provenance=provenance(model, task=task.name, task_sha256=task.sha256, n=len(tokens), seed=seed),
    )


def _kinds(sequences: TaskSequences) -> list[Bool[Tensor, "example pos"]]:
    """The positions of each kind, in the order of `POSITIONS`."""
    required, unseen = torch.from_numpy(sequences.required), torch.from_numpy(sequences.unseen)
    return [required, unseen, ~required & ~unseen]


def _attention_sums(
    model: Hooked, tokens: Int[Tensor, "example pos"], required: Bool[Tensor, "example pos"]
) -> tuple[Float[Tensor, "score layer head example"], Float[Tensor, "score example"]]:
    """The sums over queries of the attention that counts, and the same sums for uniform attention."""
    seq_len, layers = tokens.shape[1], range(model.cfg.n_layers)
    uniform = 1 / torch.arange(1, seq_len + 1, dtype=torch.float64, device=tokens.device)
    pieces: list[Float[Tensor, "score layer head _"]] = []
    even: list[Float[Tensor, "score _"]] = []
    for rows in batches(model, tokens):
        before = torch.eye(seq_len, device=tokens.device, dtype=torch.float64).roll(-1, dims=1).tril(-1)
        matches = follows(tokens[rows]) & required[rows][:, :, None]
        targets = torch.stack([before.expand(matches.shape), matches.double()])  # [score, example, query, key]
        received: dict[int, Float[Tensor, "score head example"]] = {}

        def keep(
            layer: int,
            targets: Float[Tensor, "score example query key"] = targets,
            received: dict[int, Float[Tensor, "score head example"]] = received,
        ) -> Edit:
            def edit(pattern: Float[Tensor, "example head query key"]) -> None:
                received[layer] = torch.einsum("ehqk,seqk->she", pattern.double(), targets).cpu()

            return edit

        with evaluating(model):
            run(model, tokens[rows], {pattern_hook(layer): keep(layer) for layer in layers})
        pieces.append(torch.stack([received[layer] for layer in layers], 1))
        even.append((targets.sum(-1) * uniform).sum(-1).cpu())
    return torch.cat(pieces, -1), torch.cat(even, -1)
