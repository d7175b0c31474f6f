"""How much each head and each MLP matters for the loss: ablated exactly, or estimated by gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import default_of
from nanogpt_lens.core.choices import Ablation, check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.model.access import Hooked, evaluating, loss_per_token, provenance
from nanogpt_lens.patching.attribution import attribution_patching
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.metrics import loss
from nanogpt_lens.text.corpus import Corpus, open_corpus

BATCH_TOKENS = 2048
IG_STEPS = 4
_REPLACED = {
    "zero": "zero",
    "mean": "its mean over sequences and positions",
    "resample": "its value on another sequence at the same position,",
}


def head_importance(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    source: Ablation = "mean",
    method: Literal["exact", "attribution"] = "exact",
    seq_len: int | None = None,
    n: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The rise of the loss when a head's output z is ablated at all positions.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        corpus: a text, a file, or token ids; None takes text drawn from the model itself.
        source: "zero"; "mean" over the sequences and positions of the head's batch; "resample", the
            head's output on another sequence of the batch at the same position.
        method: "exact" runs the model with each head ablated; "attribution" estimates it by integrated
            gradients on the way from intact to ablated. (The gradient at the intact model alone says
            next to nothing: training has made it small.)
        seq_len: the tokens of a sequence; None for the context, at most 128.
        n: the number of sequences, at least 2.
        seed: the seed of the choice of sequences and of "resample".
        progress: show a bar.

    Returns:
        scores [layer, head] in nats per token, with an interval over the sequences; positive
        where the head helps.

    Raises:
        AnalysisError: an unknown ablation or method, fewer than 2 sequences, or a corpus that is too short.
    """
    check_choice(Ablation, source=source)
    if method not in ("exact", "attribution"):
        raise AnalysisError(f"method is {method!r}; expected 'exact' or 'attribution'")
    asked = _AblationOfParts(
        activation="z", axes=("layer", "head"), source=source, method=method, seed=seed, progress=progress
    )
    return _measured(model, corpus, asked, seq_len, n)


def mlp_importance(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    source: Ablation = "mean",
    seq_len: int | None = None,
    n: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """The rise of the loss when an MLP's output is ablated at all positions: one exact run for each layer.

    Args:
        model, corpus, source, seq_len, n, seed, progress: as for `head_importance`; the same ones read the same
            sequences.

    Returns:
        scores [layer] in nats per token, with an interval over the sequences; positive where the MLP helps.

    Raises:
        AnalysisError: a model without MLPs; else as for `head_importance`.
    """
    check_choice(Ablation, source=source)
    if getattr(model.cfg, "attn_only", False):
        raise AnalysisError("this model has attention alone; expected one with MLPs")
    asked = _AblationOfParts(
        activation="mlp_out", axes=("layer",), source=source, method="exact", seed=seed, progress=progress
    )
    return _measured(model, corpus, asked, seq_len, n)


@dataclass(frozen=True, kw_only=True)
class _AblationOfParts:
    """What is ablated, and how."""

    activation: Literal["z", "mlp_out"]
    axes: tuple[str, ...]
    source: Ablation
    method: str
    seed: int
    progress: bool

    @property
    def words(self) -> str:
        """The output in words."""
        return "head's z" if self.activation == "z" else "MLP's output"


def _measured(model: Hooked, corpus: Corpus | None, asked: _AblationOfParts, seq_len: int | None, n: int) -> Scores:
    """The rises of all parts of a kind, with intervals over the sequences."""
    source, method, seed = asked.source, asked.method, asked.seed
    text = open_corpus(model, corpus)
    size = default_of(seq_len, 128, text.room(2))
    tokens = text.windows(seq_len=size, n=n, seed=seed)
    if len(tokens) < 2:
        raise AnalysisError(f"there are {len(tokens)} sequences of {size} tokens; expected at least 2: give more text")
    at_once = max(2, BATCH_TOKENS // size)
    batches = list(tokens.split(at_once))
    if len(batches) > 1 and len(batches[-1]) < 2:  # nothing to resample from
        batches[-2:] = [torch.cat(batches[-2:])]
    rises = torch.cat([_rises(model, batch, asked) for batch in batches], dim=-1)
    return Scores(
        **mean_fields(rises),
        axes=asked.axes,
        quantity="rise of the loss, in nats per token",
        definition=(
            f"{'by integrated gradients: ' if method == 'attribution' else ''}loss with the {asked.words} replaced by "
            f"{_REPLACED[source]} at all positions, minus the loss of the intact model; {len(tokens)} sequences of "
            f"{size} tokens {'drawn from the model' if corpus is None else 'of the corpus'}"
            f"{_reference(source, [len(batch) for batch in batches])}"
        ),
        title="rise of the loss",
        unit="nats per token",
        signed=True,
        tested="zero",
        sample=Sample(own_text=corpus is None, n=len(tokens), seq_len=size, seed=seed),
        provenance=provenance(
            model,
            source=source,
            method=method,
            seq_len=size,
            n=len(tokens),
            seed=seed,
            own_text=corpus is None,
        ),
    )


def _reference(source: str, sizes: list[int]) -> str:
    """Over which sequences the mean is taken, or from which the other one is drawn."""
    if source == "zero":
        return ""
    several = f"batch of up to {max(sizes)} of them" if len(sizes) > 1 else ""
    if source == "mean":
        return f"; the mean is taken over {f'each {several}' if several else 'all of them'}"
    return f"; the other sequence is drawn from {f'the same {several}' if several else 'all of them'}"


def _rises(
    model: Hooked, tokens: Int[Tensor, "example pos"], asked: _AblationOfParts
) -> Float[Tensor, "*part example"]:
    """The rise of each example's loss without each part."""
    options = {"activation": asked.activation, "axes": asked.axes, "source": asked.source, "seed": asked.seed}
    if asked.method == "attribution":
        estimates = attribution_patching(
            model, tokens, None, loss(), **options, ig_steps=IG_STEPS, progress=asked.progress
        ).per_example
        assert estimates is not None
        return estimates
    result = activation_patching(model, tokens, None, loss(), **options, progress=asked.progress)
    assert result.per_example is not None
    with evaluating(model):
        return result.per_example - loss_per_token(model, tokens).mean(-1).cpu()
