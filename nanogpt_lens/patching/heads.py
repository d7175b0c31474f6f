"""Which heads carry the answer of [A][B]...[A] prompts: each patched, exactly."""

from __future__ import annotations

from nanogpt_lens.model.access import Hooked
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.results import Scores
from nanogpt_lens.running.metrics import logit_diff
from nanogpt_lens.text.prompts import induction_pairs


def patched_heads(model: Hooked, *, seq_len: int | None = None, n: int = 32, seed: int = 0) -> Scores:
    """What each head's output z of `[A][B]...[A]` prompts does in prompts without the first [A], exactly.

    Args:
        model: the model.
        seq_len, n, seed: as for `prompts.induction_pairs`.

    Returns:
        The rise of logit([B]) - logit(another token of the prompt) at the last position, [layer, head], when
        the head is patched at all positions (denoising), with intervals over the prompts.

    Raises:
        AnalysisError: see `prompts.induction_pairs`.
    """
    pair = induction_pairs(model, seq_len=seq_len, n=n, seed=seed)
    patched = activation_patching(
        model,
        pair.clean,
        pair.corrupted,
        logit_diff(pair.answer, pair.wrong),
        activation="z",
        axes=("layer", "head"),
        seed=seed,
        progress=False,
    )
    return Scores(
        values=patched.effect,
        axes=patched.axes,
        quantity="effect on the logit difference of [B] and another token",
        definition=f"z of {n} [A][B]...[A] prompts patched into the same without the first [A], head by head, at all "
        "positions",
        low=patched.effect_low,
        high=patched.effect_high,
        unit="logits",
        signed=True,
        sample=patched.sample,
        provenance=patched.provenance,
    )
