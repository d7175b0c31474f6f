"""Saving of converted models for programs that do not have this package.

A folder holds `model.safetensors` (the model's own `state_dict`), `config.json` (the arguments
of TransformerLens' config), the tokenizer, and `load.py`, which loads all of it strictly with
nothing but TransformerLens and safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file

from conversion.atomic import new_folder
from conversion.checkpoint import Checkpoint
from conversion.nanogpt_to_hooked import hooked_config, is_processed
from conversion.report import EquivalenceReport

_LOAD_HOOKED = '''"""Load this folder with TransformerLens 3.9: `from load import model`."""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer

here = Path(__file__).parent
config = json.loads((here / "config.json").read_text())
config["dtype"] = getattr(torch, config["dtype"])
model = HookedTransformer(HookedTransformerConfig(**config))
model.load_state_dict(load_file(here / "model.safetensors"), strict=True)
model.eval()
tokenizer = AutoTokenizer.from_pretrained(here) if (here / "tokenizer.json").exists() else None
if tokenizer is not None:
    model.set_tokenizer(tokenizer)
'''

_LOAD_BRIDGE = '''"""Load this folder with TransformerLens 4: `from load import model`.

Edits at `hook_resid_mid` and `attn.hook_attn_scores` need this project's mending:
`from conversion.mending import mend; mend(model)`.
"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens.config.transformer_bridge_config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer

here = Path(__file__).parent
config = json.loads((here / "config.json").read_text())
config["dtype"] = getattr(torch, config["dtype"])
config = TransformerBridgeConfig(**config, architecture="TransformerLensNative")
model = TransformerBridge.boot_native(config, device="cpu", dtype=config.dtype)
model.load_state_dict(load_file(here / "model.safetensors"), strict=True)
model.eval()
tokenizer = AutoTokenizer.from_pretrained(here) if (here / "tokenizer.json").exists() else None
'''


def save_transformer_lens(
    model: Any, checkpoint: Checkpoint, folder: str | Path, *, certificate: EquivalenceReport | None = None
) -> Path:
    """Save a converted model into a new folder.

    Args:
        model: a model that `to_hooked_transformer` or `to_bridge` returned.
        checkpoint: the checkpoint that the model was made from.
        folder: a folder that does not exist yet, or is empty.
        certificate: a certificate to save with the model, as `certificate.json`.

    Raises:
        CheckpointError: the folder exists and is not empty.
    """
    from conversion.saved_tokenizer import plain_tokenizer

    bridge = hasattr(model, "original_model")
    dtype = next(model.parameters()).dtype
    config = hooked_config(checkpoint.config, is_processed(model), "cpu", dtype)
    config["dtype"] = str(dtype).removeprefix("torch.")
    with new_folder(folder) as temporary:
        state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
        save_file(state, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        (temporary / "load.py").write_text(_LOAD_BRIDGE if bridge else _LOAD_HOOKED, encoding="utf-8")
        if certificate is not None:
            certificate.save(temporary / "certificate.json")
        if checkpoint.vocabulary is not None:
            plain_tokenizer(cast(Any, checkpoint.tokenizer()), beyond=True).save_pretrained(temporary)
    return Path(folder)
