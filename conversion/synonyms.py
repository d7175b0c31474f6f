"""Other projects' names for nanoGPT's sizes, such as `n_heads` or `hidden_size`, read as nanoGPT's own.

Only names that mean one thing wherever a GPT is configured are here. Those that may also be an option of training or of
generation (`max_seq_len`, `seq_len`, `context_length`), or that need not be the model's own (`padded_vocab_size`), are
not: what they say is asked for, or read from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from conversion.errors import CheckpointError

SYNONYMS: dict[str, tuple[str, ...]] = {
    "n_layer": ("n_layers", "num_layers", "num_hidden_layers"),
    "n_head": ("n_heads", "num_heads", "num_attention_heads"),
    "n_embd": ("d_model", "hidden_size", "n_embed", "embed_dim"),
    "block_size": ("n_ctx", "n_positions", "max_position_embeddings"),
    "vocab_size": ("d_vocab", "n_vocab"),
}
"""By nanoGPT's name of a size, what others call it."""

_DERIVED: dict[str, Callable[[int, int], int]] = {
    **dict.fromkeys(("d_mlp", "d_ff", "intermediate_size", "n_inner"), lambda n_embd, n_head: 4 * n_embd),
    **dict.fromkeys(("d_head", "head_dim", "head_size"), lambda n_embd, n_head: n_embd // n_head),
    **dict.fromkeys(("n_kv_head", "n_kv_heads", "num_key_value_heads"), lambda n_embd, n_head: n_head),
}
"""Sizes that nanoGPT does not state, because it has no choice of them."""


def with_nanogpt_names(stated: Mapping[Any, Any], place: str) -> tuple[dict[Any, Any], tuple[str, ...]]:
    """What is stated, with nanoGPT's names for its sizes, and a note on the names that were read so.

    What follows from the sizes (`d_mlp`, `d_head`, ...) is left out where it is as in nanoGPT, and kept where it is
    not.

    Args:
        stated: settings by their names.
        place: where they stand, for messages.

    Raises:
        CheckpointError: two names of one size are there with different values.
    """
    renamed, said = dict(stated), []
    for name, others in SYNONYMS.items():
        present = [other for other in (name, *others) if stated.get(other) is not None]
        for other in present[1:]:
            if stated[other] != stated[present[0]]:
                raise CheckpointError(
                    f"{place} has {present[0]}={stated[present[0]]!r:.40} and {other}={stated[other]!r:.40}, which are "
                    "two names of one size; expected one value: correct the file"
                )
        for other in others:
            renamed.pop(other, None)
        if present:
            renamed[name] = stated[present[0]]
        if present and present[0] != name:
            said.append(f"{present[0]} for {name}")
    note = (f"{place} has other names than nanoGPT: read {', '.join(said)}",) if said else ()
    return _without_derived(renamed), note


def _without_derived(sizes: dict[Any, Any]) -> dict[Any, Any]:
    """The sizes without those that follow from the width and the heads, where they are nanoGPT's."""
    width, heads = sizes.get("n_embd"), sizes.get("n_head")
    if type(width) is not int or type(heads) is not int or heads < 1:
        return sizes
    return {name: v for name, v in sizes.items() if name not in _DERIVED or v != _DERIVED[name](width, heads)}
