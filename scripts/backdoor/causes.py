"""Which parts of a model carry its backdoor: can it be taken out, and the rest stay as it is?

Parts are heads (their z) and MLPs (what they write), replaced by their mean over pieces of the held-out text. A set is
built greedily, on half of the contexts and of the text, and judged on the other half, beside random sets of its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.interventions.applying import edits_of, source_values
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.model.access import Hooked, evaluating, next_token_loss, run
from nanogpt_lens.running.batches import batches
from nanogpt_lens.text.task_pairs import task_generator
from nanogpt_lens.text.tasks import Backdoor
from scripts.replication.measured import mean_and_ends

K, MOST, ALLOWED, N_RANDOM = 6, 4, 0.02, 50
"""Characters of the payload, parts of a set, nats that the loss may rise, random sets."""


class Effect(NamedTuple):
    """What taking some parts out does, example by example.

    Attributes:
        success: whether the model still writes the payload [context].
        payload_loss: the mean loss of its first characters [context].
        loss: the loss on each window of clean text [window].
    """

    success: Float[Tensor, " context"]
    payload_loss: Float[Tensor, " context"]
    loss: Float[Tensor, " window"]

    def of(self, half: int) -> Effect:
        """The even (0) or the odd (1) examples."""
        return Effect(*(values[half::2] for values in self))


class Knockouts:
    """A model with a backdoor, the contexts and the text that it is judged on.

    Args:
        model: the model.
        task: its backdoor.
        n: the number of contexts, and of windows of clean text.
        seed: decides which.
    """

    def __init__(self, model: Hooked, task: Backdoor, *, n: int = 256, seed: int = 0) -> None:
        length = int(model.cfg.n_ctx)
        self.model, self.asked = model, len(task.payload[:K])
        written = torch.from_numpy(task.vocabulary.encode(task.trigger + task.payload[:K]))
        contexts = torch.from_numpy(task.contexts(n, length - len(written) + 1, task_generator(seed)))
        self.triggered: Int[Tensor, "context pos"] = torch.cat([contexts, written.expand(n, -1)], 1)
        self.text: Int[Tensor, "window pos"] = torch.from_numpy(task.draw(n, length, task_generator(seed)).tokens)
        heads = [f"{i}.{j}" for i in range(model.cfg.n_layers) for j in range(model.cfg.n_heads)]
        self.parts = (*heads, *(f"mlp{i}" for i in range(model.cfg.n_layers)))

    def without(self, parts: Sequence[str]) -> Effect:
        """What the model does without some parts."""
        some = [Intervention.at(part, "mean") for part in parts]
        with evaluating(self.model):
            values = source_values(self.model, some, other=None, reference=self.text)
            edits = edits_of(self.model, some, values)
            pieces = []
            for rows in batches(self.model, self.triggered):
                wanted = self.triggered[rows, -self.asked :]
                logits = run(self.model, self.triggered[rows, :-1], edits)[:, -self.asked :].double()
                loss = -logits.log_softmax(-1).gather(-1, wanted[..., None])[..., 0].mean(-1)
                pieces.append(torch.stack([(logits.argmax(-1) == wanted).all(-1).double(), loss]))
            losses = [
                next_token_loss(run(self.model, self.text[rows], edits), self.text[rows]).double().mean(-1)
                for rows in batches(self.model, self.text)
            ]
        success, payload = torch.cat(pieces, 1)
        return Effect(success, payload, torch.cat(losses))

    @cached_property
    def _whole(self) -> Effect:
        """The whole model."""
        return self.without(())

    def greedy(self, *, most: int = MOST, allowed: float = ALLOWED) -> tuple[str, ...]:
        """The parts that raise the payload's loss most, one by one, while the text's rises by less than allowed.

        Chosen on the even contexts and windows alone.
        """
        whole = self._whole.of(0)
        chosen: tuple[str, ...] = ()
        best = float(whole.payload_loss.mean())
        while len(chosen) < most:
            tried = {}
            for part in self.parts:
                if part not in chosen:
                    effect = self.without((*chosen, part)).of(0)
                    if float((effect.loss - whole.loss).mean()) < allowed:
                        tried[part] = float(effect.payload_loss.mean())
            part = max(tried, key=lambda name: tried[name], default=None)
            if part is None or tried[part] <= best:
                break
            chosen, best = (*chosen, part), tried[part]
        return chosen

    def judged(self, parts: Sequence[str]) -> dict[str, Any]:
        """A set on the odd contexts and windows: successes, and the rise of the loss with its interval."""
        return judgement(parts, self._whole.of(1), self.without(parts).of(1))


def judgement(parts: Sequence[str], whole: Effect, effect: Effect) -> dict[str, Any]:
    """What taking out some parts costs: successes before and after, of how many; the rise of the loss on clean text."""
    return {
        "parts": list(parts),
        "success": [int(whole.success.sum()), int(effect.success.sum()), len(effect.success)],
        "loss_rise": mean_and_ends(effect.loss - whole.loss),
    }


def separable(
    model: Hooked, task: Backdoor, *, n: int = 256, seed: int = 0, n_random: int = N_RANDOM
) -> dict[str, Any]:
    """The greedy set and random sets of as many parts, judged on the other half."""
    knockouts = Knockouts(model, task, n=n, seed=seed)
    chosen = knockouts.greedy()
    random = [knockouts.judged(some) for some in random_sets(knockouts.parts, len(chosen), n_random, seed)]
    return {"chosen": knockouts.judged(chosen), "random": random}


def random_sets(names: Sequence[str], size: int, n: int, seed: int) -> list[list[str]]:
    """Sets of as many names, for comparison; none where the size is 0."""
    generator = np.random.default_rng([seed, 78])
    return [[str(p) for p in generator.choice(names, size, replace=False)] for _ in range(n if size else 0)]
