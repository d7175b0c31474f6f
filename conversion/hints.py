"""Hints at what a file is whose tensors are not nanoGPT's, each with the names that speak for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from conversion.names import outsiders

_ROTARY = ("rotary", "rope", "inv_freq", "freqs_cis", "cos_cached", "cos_sin", "rotary_emb")
_RMS = ("rms", "gain")


def looks_like(names: Iterable[object]) -> str:
    """A hint at what a state dict with these names is; empty if nothing is known about them."""
    keys = [str(name) for name in names]

    def some(*parts: str) -> bool:
        return any(part in key for part in parts for key in keys)

    if some("self_attn.q_proj", "model.layers."):
        return "this looks like a Llama-style model (rotary, RMSNorm), which is another architecture"
    if some("hook_", ".W_Q", "embed.W_E"):
        return "this looks like a TransformerLens state dict; it is converted already"
    if some("attn.c_q", "attn.qkv_w", "lambdas", "value_embeds", "rotary", "inv_freq", "cos_cached"):
        return "this looks like modded-nanoGPT or nanochat (rotary, RMSNorm), which is another architecture"
    if some("_flat_param", "flat_param"):
        return "these are FSDP's flat parameters; save a full state dict (StateDictType.FULL_STATE_DICT)"
    if some("lora_A", "lora_B"):
        return "these are LoRA's matrices; merge them into the weights first"
    return ""


def why_not(state: Mapping[str, Tensor]) -> str:
    """The end of a message about tensors that do not fit, after a look at them; empty if nothing is known."""
    if is_transposed(state):
        return "; c_attn.weight is transposed, as in a Hugging Face GPT-2: bring it in with conversion.from_huggingface"
    prefix, others = outsiders(state)
    if prefix and others:
        shown = ", ".join(others[:3]) + ", ..." * (len(others) > 3)
        return f"; names begin with {prefix} but for {shown}: save the tensors of the model alone"
    if "transformer.wpe.weight" not in state:
        return _without_positions(state)
    if "transformer.h.0.ln_1.weight" not in state:
        norms = [name for name in state if any(word in name.lower() for word in _RMS)]
        if norms:
            return f"; {norms[0]} speaks for RMSNorm, which is another architecture"
    hint = "" if "transformer.h.0.attn.c_attn.weight" in state else looks_like(state)
    return f"; {hint}" if hint else ""


def is_transposed(state: Mapping[str, Tensor]) -> bool:
    """Whether linear maps are stored as [in, out], as Hugging Face's Conv1D has them."""
    weight = state.get("transformer.h.0.attn.c_attn.weight")
    return weight is not None and weight.dim() == 2 and weight.shape[1] == 3 * weight.shape[0]


def _without_positions(state: Mapping[str, Tensor]) -> str:
    """What the names say about positions, where there is no `transformer.wpe.weight`."""
    known = looks_like(state)
    if known:
        return f"; {known}"
    rotary = [name for name in state if any(word in name.lower() for word in _ROTARY)]
    if rotary:
        return f"; without transformer.wpe.weight and with {rotary[0]} this is a rotary model, another architecture"
    positions = [name for name in state if "wpe" in name or "pos" in name.lower()]
    if positions:
        return f"; the positions may be {positions[0]}, which is not under nanoGPT's name: rename the tensors"
    if not any(name.startswith("transformer.h.") for name in state):
        return f"; its names begin with {', '.join(sorted(state)[:3])}, which are not nanoGPT's: rename the tensors"
    return (
        "; without transformer.wpe.weight, or any other name for positions, this is another architecture (rotary or no "
        "positions), not nanoGPT"
    )
