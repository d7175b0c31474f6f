"""From a checkpoint to a TransformerBridge, on TransformerLens 4, with two upstream hooks mended.

In the native bridge of 4.x an edit at `hook_resid_mid` reaches the MLP but not the skip
connection, and `attn.hook_attn_scores` fires after the attention is done, holds the pattern, and
ignores edits. `conversion.mending` puts both where TransformerLens 3 has them. It relies on names
that upstream may change, so that a self-test compares edits at both hooks with the native model
before the first model is returned, and raises BackendError if they differ.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Shaped
from torch import Tensor

from conversion.backends import importing, resolve_backend
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.errors import BackendError
from conversion.layout import HookedState, to_bridge_layout
from conversion.nanogpt_to_hooked import converted_state, hooked_config

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


def to_bridge(
    checkpoint: Checkpoint,
    *,
    process_weights: bool = False,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    consume: bool = False,
) -> TransformerBridge:
    """Convert a checkpoint into a TransformerBridge.

    Args:
        checkpoint: a checkpoint that `read_checkpoint` returned.
        process_weights: fold LayerNorms and centre (see `conversion.folding`).
        device: the device of the model.
        dtype: the precision of the model, whatever the checkpoint's is.
        consume: move the checkpoint's tensors into the model, which empties
            `checkpoint.state_dict` and saves a copy of the weights.

    Returns:
        The model in evaluation mode with its tokenizer. Its hooks have the names, the values
        and the effects of edits that those of a HookedTransformer have.

    Raises:
        BackendError: TransformerLens 3 is installed, or a version whose hooks cannot be mended.
    """
    resolve_backend("bridge")
    self_test()
    return _build(checkpoint, process_weights=process_weights, device=device, dtype=dtype, consume=consume)


@cache
def self_test() -> None:
    """Raise BackendError unless edits at the two mended hooks do what they should, on a small random model."""
    from conversion.native import GPT

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = NanoGPTConfig(n_layer=2, n_head=2, n_embd=8, block_size=6, vocab_size=11)
        native = GPT(config).double().eval()
        for parameter in native.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        tokens = torch.randint(11, (2, 6))
        noise = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    checkpoint = Checkpoint(config=config, state_dict=dict(native.state_dict()))
    try:
        bridge = _build(checkpoint, process_weights=False, device="cpu", dtype=torch.float64)
        edits = {"hook_resid_mid": lambda x: x * 0.5, "attn.hook_attn_scores": lambda x: x + noise}
        for hook, edit in edits.items():
            for layer in range(config.n_layer):
                name = f"blocks.{layer}.{hook}"
                with torch.no_grad():
                    expected = native(tokens, edits={name: edit})
                    got = cast(Any, bridge).run_with_hooks(
                        tokens, fwd_hooks=[(name, lambda x, hook, edit=edit: edit(x))]
                    )
                error = (expected - got).abs().max().item()
                if not error < 1e-9:
                    raise BackendError(f"an edit at {name} is off by {error:.1e}")
    except Exception as error:
        raise BackendError(
            f"the bridge of TransformerLens {version('transformer-lens')} could not be mended ({error}); "
            "use a version that is tested: 4.3, or 3.9 with backend='hooked'"
        ) from error


def _build(
    checkpoint: Checkpoint,
    *,
    process_weights: bool,
    device: str | torch.device,
    dtype: torch.dtype,
    consume: bool = False,
) -> TransformerBridge:
    """The bridge of a checkpoint, with its hooks mended but not tested."""
    with importing():
        from transformer_lens.config.transformer_bridge_config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

    from conversion.mending import mend

    config = TransformerBridgeConfig(
        **hooked_config(checkpoint.config, process_weights, device, dtype), architecture="TransformerLensNative"
    )
    tokenizer = checkpoint.tokenizer()
    with torch.device("meta"), cast(Any, tokenizer).probing():
        bridge = cast(Any, TransformerBridge).boot_native(config, tokenizer=tokenizer, dtype=dtype)
    state = converted_state(checkpoint, process_weights=process_weights, device=device, dtype=dtype, consume=consume)
    placeholders = {id(parameter): name for name, parameter in bridge.original_model.named_parameters()}
    bridge.original_model.to_empty(device=device)
    _assign(bridge, state)
    _point_aliases(bridge, placeholders)
    mend(bridge)
    bridge.cfg.device = str(device)
    bridge.eval()
    if process_weights:
        bridge.enable_compatibility_mode(no_processing=True)
    bridge.nanogpt_origin = checkpoint.without_weights()
    if cast(Any, tokenizer).foreign_special is not None:  # no token ends a text; see `conversion.generating`
        bridge.cfg.eos_token_id = checkpoint.config.vocab_size
    return bridge


def _point_aliases(bridge: Any, placeholders: dict[int, str]) -> None:
    """Make `ln1.w`, `mlp.b_in` and the like, which upstream sets while it builds, point to the present parameters."""
    parameters = dict(bridge.original_model.named_parameters())
    for module in bridge.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                module.__dict__[name] = parameters[placeholders[id(value)]]


def _assign(bridge: Any, state: HookedState) -> None:
    """Make the converted tensors the storage of the parameters, one by one; empties `state`.

    Upstream's `load_state_dict` would need a second copy of the weights.
    """
    targets: dict[str, Shaped[Tensor, " ..."]] = bridge.state_dict(keep_vars=True)
    for name, tensor in to_bridge_layout(state, bridge.cfg):
        target = targets.pop(name)
        assert target.shape == tensor.shape, f"{name}: {list(tensor.shape)} for {list(target.shape)}"
        target.data = tensor
    assert not targets, f"the bridge has tensors that the conversion does not know: {', '.join(targets)}"
    for block in bridge.blocks:
        mask = block.attn.original_component.causal_mask
        mask.copy_(torch.ones_like(mask).triu(1))
