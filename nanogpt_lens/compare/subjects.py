"""The two models of a comparison: loaded, named, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nanogpt_lens.compare.vocabularies import shared_vocabulary
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, check_model, device_of, provenance
from nanogpt_lens.model.loading import load
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.text.corpus import Corpus, name_of
from nanogpt_lens.text.from_model import own_text

_SHAPE = {
    "n_layers": "layers",
    "n_heads": "heads",
    "d_model": "width",
    "d_mlp": "neurons",
    "d_vocab": "vocabulary",
    "n_ctx": "context",
    "act_fn": "activation function",
}
_OWN = 32
"""Sequences that each of the two writes where no text is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subjects:
    """Two models, `a` before and `b` after.

    Attributes:
        a, b: the models.
        names: what they are called.
    """

    a: Hooked
    b: Hooked
    names: tuple[str, str]

    @property
    def unlike(self) -> str:
        """In what their shapes differ, in words; "" where they are of one shape."""
        a, b = self.a.cfg, self.b.cfg
        apart = [
            f"{word} {getattr(a, name, None)} and {getattr(b, name, None)}"
            for name, word in _SHAPE.items()
            if getattr(a, name, None) != getattr(b, name, None)
        ]
        return ", ".join(apart)

    @property
    def other_vocabulary(self) -> str:
        """In what their vocabularies differ, in a sentence; "" where the same ids are the same tokens."""
        try:
            shared_vocabulary(self.a, self.b)
        except AnalysisError as error:
            return str(error).partition("; expected")[0]
        return ""

    def facts(self) -> dict[str, tuple[str, str]]:
        """What is known of both, by name."""
        rows: dict[str, tuple[str, str]] = {}
        for name, word in _SHAPE.items():
            values = [str(getattr(model.cfg, name, None)) for model in (self.a, self.b)]
            rows[word] = (values[0], values[1])
        hashes = [str(provenance(model).get("checkpoint_sha256") or "not known") for model in (self.a, self.b)]
        rows["checkpoint's SHA-256"] = (hashes[0], hashes[1])
        return rows

    def own_text(self, seed: int) -> Int[Tensor, "example pos"]:
        """Text that the two write themselves, half of it each."""
        seq_len = min(int(self.a.cfg.n_ctx), int(self.b.cfg.n_ctx), 128)
        halves = [own_text(model, seq_len=seq_len, n=_OWN, seed=seed + i) for i, model in enumerate((self.a, self.b))]
        return torch.cat([half.to(device_of(self.a)) for half in halves])


def subjects_of(
    a: str | Path | Hooked, b: str | Path | Hooked, names: Sequence[str] | None, reading: Reading
) -> Subjects:
    """Two models from paths, shipped names or models.

    Raises:
        AnalysisError: the names are not two different ones, or something else was given.
        ConversionError: a checkpoint that cannot be read.
    """
    models = [load(one, **reading.options()) if isinstance(one, str | Path) else one for one in (a, b)]
    for model in models:
        check_model(model)
    if names is None:
        chosen = _apart([_name_of(given, model) for given, model in zip((a, b), models, strict=True)])
    else:
        chosen = [str(name) for name in names] if not isinstance(names, str) else [names]
    if len(chosen) != 2 or chosen[0] == chosen[1] or not all(chosen):
        raise AnalysisError(f"names is {names!r}; expected two different names, such as ('before', 'after')")
    return Subjects(a=models[0], b=models[1], names=(chosen[0], chosen[1]))


def text_name(corpus: Corpus | None) -> str:
    """What the text of a comparison is called."""
    return "text that the two models write themselves" if corpus is None else name_of(corpus)


def _name_of(given: Any, model: Hooked) -> str:
    """The last parts of a path; of a model, what it was loaded from."""
    if not isinstance(given, str | Path):
        given = getattr(getattr(model, "nanogpt_origin", None), "path", None)
    if given is None:
        return ""
    parts = [part for part in Path(given).parts if part not in ("/", ".", "..", "ckpt.pt")]
    return "/".join(parts[-1:]) if parts else str(given)


def _apart(names: list[str]) -> list[str]:
    """The names, told apart where they are the same or missing."""
    one, two = (name or "a model" for name in names)
    return [one, two] if one != two else [f"{one} (a)", f"{two} (b)"]
