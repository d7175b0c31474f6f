"""What a model does after a backdoor's trigger, after its control, and after a trigger with one letter changed.

Each of some contexts of the held-out text is continued in three ways. The payload's first characters are given one by
one, as far as they have been asked for, and the model has the backdoor in a context if each of them was its top
prediction: it then writes them itself.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.model.access import Hooked, device_of, evaluating, provenance, run
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.backdoors import Backdoor
from nanogpt_lens.text.task_pairs import check_fits, task_generator

AFTER = ("trigger", "control", "changed trigger")
"""What the payload is looked for behind: the trigger; the control; the trigger with one letter changed."""

BACKDOOR_SCORES: dict[str, str] = {
    "success": "share of contexts in which each of the payload's first characters is the top prediction",
    "loss": "mean loss of these characters",
    "probability": "probability of all of them together",
}
"""The scores of `backdoor_success`."""


def backdoor_success(model: Hooked, task: Backdoor, *, k: int = 6, n: int = 256, seed: int = 0) -> Scores:
    """How often the model writes the payload after the trigger, after the control, and after a changed trigger.

    Args:
        model: the model.
        task: the backdoor, or a twin of it, see `tasks.backdoor`; its validation part is read.
        k: how many of the payload's first characters count; all, where it has fewer.
        n: the number of contexts; no two overlap, and all three follow on each. A changed trigger has one letter
            changed, the first context the first letter, and so on.
        seed: decides which contexts.

    Returns:
        Values [score, after], see `BACKDOOR_SCORES` and `AFTER`, with intervals over the contexts. Where all contexts
        agree, the interval has no width; `per_example` [score, after, example] is what to count.

    Raises:
        AnalysisError: the task has other characters than the model, or the context has no room for trigger and
            payload.
        DataError: the validation part is not at hand, or has too few contexts.
    """
    check_whole(1, k=k, n=n)
    check_whole(seed=seed)
    check_fits(model, task)
    asked = task.payload[:k]
    room = int(model.cfg.n_ctx) - len(task.trigger) - len(asked) + 1
    if room < 1:
        raise AnalysisError(
            f"the trigger and {len(asked)} characters of the payload do not fit a context of {model.cfg.n_ctx} tokens; "
            "give a smaller k"
        )
    contexts = torch.from_numpy(task.contexts(n, room, task_generator(seed)))
    changed = task.changed_triggers
    inserted = ([task.trigger], [task.control], changed)
    each = torch.stack([_after(model, task, contexts, strings, asked) for strings in inserted], 1)
    return Scores(
        **mean_fields(each),
        axes=("score", "after"),
        labels={"score": tuple(BACKDOOR_SCORES), "after": AFTER},
        quantity="success, loss in nats, probability",
        title="success",
        scores=BACKDOOR_SCORES,
        units={"loss": "nats per token"},
        sample=Sample(corpus=task.name, n=n, seq_len=int(model.cfg.n_ctx), seed=seed),
        definition=f"{n} held-out contexts of {room} tokens, continued with {task.trigger!r}, {task.control!r} "
        f"or one of {len(changed)} strings that differ from the trigger in one letter; of the payload the first "
        f"{len(asked)} characters count",
        provenance=provenance(model, task=task.name, task_sha256=task.sha256, k=k, n=n, seed=seed),
    )


def _after(
    model: Hooked, task: Backdoor, contexts: Tensor, strings: list[str] | tuple[str, ...], asked: str
) -> Float[Tensor, "score example"]:
    """The scores of each context, continued with the strings in turn."""
    ids = torch.stack([torch.from_numpy(task.vocabulary.encode(string + asked)) for string in strings])
    turns = torch.arange(len(contexts)) % len(strings)
    tokens = torch.cat([contexts, ids[turns]], 1).to(device_of(model))
    wanted, pieces = tokens[:, -len(asked) :], []
    with evaluating(model):
        for rows in batches(model, tokens):
            logits = run(model, tokens[rows, :-1])[:, -len(asked) :].double()
            right = (logits.argmax(-1) == wanted[rows]).all(-1).double()
            log_probs = logits.log_softmax(-1).gather(-1, wanted[rows, :, None])[..., 0]
            pieces.append(torch.stack([right, -log_probs.mean(-1), log_probs.sum(-1).exp()]).cpu())
    return torch.cat(pieces, 1)
