"""The models and the catalogue as JSON: what there is to ask, and how."""

from __future__ import annotations

from functools import cache
from inspect import signature
from typing import Any

from nanogpt_lens.catalogue import ANALYSES, Analysis
from nanogpt_lens.results.files import as_json
from nanogpt_lens.server.kinds import adapter, defaults, kind_in_words, option_kinds, why_not
from nanogpt_lens.server.served import ServedModel

_MOST_CHARACTERS = 1000


def model_facts(served: ServedModel) -> dict[str, Any]:
    """What a model is, from its file."""
    served.check()
    checkpoint = served.reading.checkpoint(served.path)
    vocabulary = checkpoint.vocabulary
    words: dict[str, Any] = {"kind": None, "size": None, "why": checkpoint.no_vocabulary or "none found"}
    if vocabulary is not None:
        words = {"kind": vocabulary.kind, "size": vocabulary.size}
        characters = getattr(vocabulary, "chars", None)
        if characters is not None and len(characters) <= _MOST_CHARACTERS:
            words["characters"] = list(characters)
    return {
        "name": served.name,
        "python": served.python,
        "sha256": checkpoint.sha256,
        "parameters": checkpoint.n_params,
        "shape": as_json(dict(checkpoint.model_args)),
        "act_fn": checkpoint.config.act_fn,
        "precision": str(checkpoint.dtype).removeprefix("torch."),
        "tied_head": checkpoint.config.tied,
        "iteration": checkpoint.iter_num,
        "best_val_loss": as_json(None if checkpoint.best_val_loss is None else float(checkpoint.best_val_loss)),
        "vocabulary": words,
        "notes": list(checkpoint.notes),
    }


def catalogue_facts() -> list[dict[str, Any]]:
    """Every analysis of the catalogue."""
    return [_facts(analysis) for analysis in ANALYSES.values()]


@cache
def _facts(analysis: Analysis) -> dict[str, Any]:
    names = list(signature(analysis.function).parameters)
    takes = {
        "corpus": "corpus" in names,
        "text": "text" in names or "data" in names,
        "prompts": "clean" in names or "data" in names,
        "task": "task" in names,
        "metric": "metric" in names,
    }
    needs = ["prompts" if name in ("clean", "corrupted", "data") else name for name in analysis.needs()]
    given = defaults(analysis)
    options = [
        {
            "name": name,
            "kind": "(not over HTTP)" if kind is None else kind_in_words(kind),
            "json_schema": None if kind is None else adapter(kind).json_schema(),
            "needed": name not in given,
            "default": as_json(given.get(name)),
        }
        for name, kind in option_kinds(analysis.function).items()
    ]
    reason = why_not(analysis)
    return {
        "name": analysis.name,
        "about": analysis.about,
        "looks_at": analysis.looks_at,
        "takes": [name for name, taken in takes.items() if taken],
        "needs": list(dict.fromkeys(needs)),
        "options": options,
        "result": analysis.result,
        "available": not reason,
        "reason": reason,
    }
