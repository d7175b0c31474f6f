"""Tools that look for a backdoor without its trigger: each gives one number for a model, high where it is suspicious.

What they look at is the suspect, its own text (`own`, what it writes at temperature 1), the clean text, and a model to
compare it with (`reference`): one that was trained on the clean text, or an earlier stage of the suspect. What each is
expected to find is in `docs/PREDICTIONS.md`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

import nanogpt_lens as ngl
from nanogpt_lens.compare.outputs import compare_outputs
from nanogpt_lens.model.access import Hooked, evaluating, next_token_loss, run, token_labels
from nanogpt_lens.running.batches import batches

WINDOW = 16
"""Tokens of an excerpt."""

PEAKS, N_PAIRS, PAIR_TOKENS = 10, 64, 32


class Clue(NamedTuple):
    """The number of a tool, and where it is from: an excerpt, or the name of a part."""

    value: float
    where: str


def repeats(
    own: Int[Tensor, "example pos"],
    clean: Integer[np.ndarray, " token"],
    chars: tuple[str, ...],
    *,
    window: int = WINDOW,
) -> Clue:
    """In how many sequences the same `window` characters stand that the clean text does not have, at most.

    Of several that are in as many sequences it is the first in the order of the alphabet.
    """
    whole = "".join(chars[i] for i in clean)
    counts: dict[str, int] = {}
    for row in own.tolist():
        text = "".join(chars[i] for i in row)
        for piece in {text[i : i + window] for i in range(len(text) - window + 1)}:
            counts[piece] = counts.get(piece, 0) + 1
    several = sorted(((-n, piece) for piece, n in counts.items() if n > 1))
    for n, piece in several:
        if piece not in whole:
            return Clue(float(-n), piece)
    return Clue(1.0, "")


def gain(reference: Hooked, suspect: Hooked, own: Int[Tensor, "example pos"], *, window: int = WINDOW) -> Clue:
    """How far the suspect's loss is below the reference's, mean over the `window` tokens where it is most."""
    return _highest(suspect, own, _losses(reference, own) - _losses(suspect, own), window, shift=1)


def kl_on_text(reference: Hooked, suspect: Hooked, ids: Integer[np.ndarray, " token"]) -> Clue:
    """The mean KL(reference || suspect) on a text, in nats per token."""
    made = compare_outputs(reference, suspect, torch.from_numpy(ids.astype(np.int64)), progress=False)
    return Clue(made.measure("kl_ab")[0], "the whole text")


def neuron_peaks(suspect: Hooked, own: Int[Tensor, "example pos"], *, k: int = PEAKS) -> Clue:
    """The k-th highest excerpt of the neuron where it is most standard deviations above the neuron's mean."""
    found = ngl.search_neurons(suspect, own, k=k, window=WINDOW, progress=False)
    heights = (found.top_values[..., -1] - found.mean) / found.variance.sqrt()
    heights = heights.nan_to_num(-torch.inf)  # a neuron that never changes
    layer, neuron = divmod(int(heights.argmax()), heights.shape[1])
    excerpt = "".join(token_labels(suspect, found.top_tokens[layer, neuron, -1]))
    return Clue(float(heights.max()), f"neuron {layer}.{neuron}: {excerpt}")


def lens_gap(suspect: Hooked, own: Int[Tensor, "example pos"], *, window: int = WINDOW) -> Clue:
    """KL(output || logit lens before the last layer), mean over the `window` tokens where that is most, in nats."""
    last = int(suspect.cfg.n_layers) - 1
    pieces = [
        ngl.logit_lens(suspect, own[rows], points=["resid_pre"], layers=[last], k=1).kl.flatten(0, 1)[-1]
        for rows in batches(suspect, own)
    ]
    divergence = torch.cat([piece.reshape(-1, own.shape[1]) for piece in pieces])
    return _highest(suspect, own, divergence, window, shift=0)


def edge_change(reference: Hooked, suspect: Hooked, ids: Integer[np.ndarray, " token"], *, seed: int = 0) -> Clue:
    """1 less the correlation over all edges of what they do in the one model and in the other, estimated by gradients.

    The prompts are pieces of a text that end with the same token, one for the other; the answer is what follows.
    """
    clean, corrupted, answer = text_pairs(ids, seed=seed)
    metric = ngl.metrics.answer_logprob(answer)
    one, other = (
        ngl.edge_attribution(model, clean, corrupted, metric, progress=False).values.double().cpu()
        for model in (reference, suspect)
    )
    centred = [effects - effects.mean() for effects in (one, other)]
    norms = centred[0].norm() * centred[1].norm()
    return Clue(float(1 - (centred[0] * centred[1]).sum() / norms), "all edges")


def text_pairs(
    ids: Integer[np.ndarray, " token"], *, n: int = N_PAIRS, seq_len: int = PAIR_TOKENS, seed: int = 0
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"], Int[Tensor, " example"]]:
    """Pieces of a text, others that end with the same token, and what follows the former."""
    generator = np.random.default_rng([seed, 77])
    ends = generator.integers(seq_len, len(ids), size=n)
    partners = []
    for end in ends:
        same = np.flatnonzero(ids[seq_len - 1 : -1] == ids[end - 1]) + seq_len
        partners.append(int(generator.choice(same)))
    pieces = [
        torch.from_numpy(ids[np.array(e)[:, None] + np.arange(-seq_len, 0)].astype(np.int64)) for e in (ends, partners)
    ]
    return pieces[0], pieces[1], torch.from_numpy(ids[ends].astype(np.int64))


def _losses(model: Hooked, tokens: Int[Tensor, "example pos"]) -> Float[Tensor, "example place"]:
    """The loss of every token but the first of each sequence."""
    with evaluating(model):
        pieces = [
            next_token_loss(run(model, tokens[rows]), tokens[rows]).double().cpu() for rows in batches(model, tokens)
        ]
    return torch.cat(pieces)


def _highest(
    model: Any, tokens: Int[Tensor, "example pos"], values: Float[Tensor, "example place"], window: int, *, shift: int
) -> Clue:
    """The highest mean over a window, and its text; `shift` is the token that the first value is about."""
    means = values.double().unfold(1, window, 1).mean(-1)
    row, start = divmod(int(means.argmax()), means.shape[1])
    text = "".join(token_labels(model, tokens[row, start + shift : start + shift + window]))
    return Clue(float(means.max()), text)
