"""What the page knows besides the weights: the model's sizes and vocabulary, prompts, and the proof's cases."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lab.beginnings import ids_of, token_of
from nanogpt_lens.lab.packing import Packed, config_of, pack, weights_of
from nanogpt_lens.lab.proof import Proof
from nanogpt_lens.model.access import Hooked, n_tokens, token_labels

LabPrompt: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""A prompt: a text or ids, or {"clean": ..., "other": ..., "answer": ..., "wrong": ..., "label": ...}."""

_NAMES = ("clean", "other", "answer", "wrong", "label")


def vocabulary_of(model: Hooked) -> dict[str, Any]:
    """The text of each token, and how text becomes tokens: "characters", or None where the page takes ids."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        return {"vocab": None, "encode": None}
    encoder = getattr(tokenizer, "encoder", None)
    labels = token_labels(model, torch.arange(n_tokens(model)))
    return {"vocab": list(labels), "encode": "characters" if isinstance(encoder, CharVocabulary) else None}


def prompts_of(model: Hooked, prompts: Sequence[LabPrompt] | None) -> list[dict[str, Any]] | None:
    """The prompts that a user gives, as the page has them; None for none.

    Raises:
        AnalysisError: a prompt that is none, two of different lengths, an answer that is no token.
    """
    if prompts is None:
        return None
    if isinstance(prompts, str | Mapping) or not isinstance(prompts, Sequence) or not prompts:
        raise AnalysisError(
            f"prompts is {prompts!r}; expected a list, such as ['ROMEO:', {{'clean': ..., 'other': ...}}]"
        )
    return [_prompt(model, prompt, i) for i, prompt in enumerate(prompts)]


def _prompt(model: Hooked, prompt: LabPrompt, number: int) -> dict[str, Any]:
    given: dict[str, Any] = dict(prompt) if isinstance(prompt, Mapping) else {"clean": prompt}
    name = f"prompts[{number}]"
    if unknown := [str(key) for key in given if key not in _NAMES]:
        raise AnalysisError(f"{name} has {', '.join(unknown)}; expected some of {', '.join(_NAMES)}")
    if given.get("clean") is None:
        raise AnalysisError(f"{name} has no clean prompt; expected a text or ids")
    clean = ids_of(model, given["clean"], name)
    other = None if given.get("other") is None else ids_of(model, given["other"], f"{name}, other,")
    if other is not None and len(other) != len(clean):
        raise AnalysisError(f"{name} has {len(clean)} tokens and its other one {len(other)}; expected as many")
    answers = {key: token_of(model, given.get(key), f"{name}, {key},") for key in ("answer", "wrong")}
    return {
        "label": str(given.get("label", f"prompt {number + 1}")),
        "tokens": list(clean),
        "other": None if other is None else list(other),
        **answers,
    }


def payload_of(model: Hooked, proof: Proof, about: Mapping[str, Any]) -> tuple[dict[str, Any], Packed]:
    """The page's data and its bytes: the weights, and behind them what the proof expects.

    Args:
        model: the model.
        proof: the cases that the page runs on opening.
        about: the fields that `nanogpt_lens.lab.making` adds: name, code, reference, findings, directions.
    """
    tensors: dict[str, Tensor] = dict(weights_of(model))
    packed = pack({**tensors, **{f"proof.{i}": expected for i, expected in enumerate(proof.expected)}})
    return {
        **_facts(model),
        "tensors": list(packed.index),
        "proof": {"cases": list(proof.cases)},
        "weights_sha256": hashlib.sha256(packed.bytes).hexdigest(),
        **about,
    }, packed


def payload_without_weights(model: Hooked, about: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a page whose engine is the server that gives it; `about` as for `payload_of`."""
    nothing = {"tensors": [], "proof": {"cases": []}, "weights_sha256": None}
    return {**_facts(model), **nothing, "served": True, **about}


def _facts(model: Hooked) -> dict[str, Any]:
    return {"format": 1, "config": config_of(model), **vocabulary_of(model)}
