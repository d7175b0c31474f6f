"""The optimizer's state that nanoGPT's `train.py --init_from=resume` reads from a checkpoint, and cannot do without.

nanoGPT gives AdamW two groups of parameters: first those with two axes, which decay, then the others; in each, the
parameters have the order of the model. A state names them by their place, so that one of another order would be taken
for it without any error: the shapes are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from conversion.config import NanoGPTConfig

_DEFAULTS = {"learning_rate": 6e-4, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1}
"""The defaults of nanoGPT's `train.py`."""


def fresh_optimizer(config: NanoGPTConfig, run_config: Mapping[str, Any]) -> dict[str, Any]:
    """The state of nanoGPT's AdamW before its first step.

    Args:
        config: the architecture.
        run_config: the settings of the run, of which the learning rate, the betas and the weight decay are taken.
    """
    setting = {name: _number(run_config.get(name), default) for name, default in _DEFAULTS.items()}
    shapes = _shapes(config)
    decaying = sum(len(shape) >= 2 for shape in shapes)
    parameters = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes]
    groups = [
        {"params": parameters[:decaying], "weight_decay": setting["weight_decay"]},
        {"params": parameters[decaying:], "weight_decay": 0.0},
    ]
    betas = (setting["beta1"], setting["beta2"])
    return torch.optim.AdamW(groups, lr=setting["learning_rate"], betas=betas).state_dict()


def misfit(optimizer: Any, config: NanoGPTConfig) -> str:
    """Why nanoGPT could not go on with an optimizer's state; empty if it could."""
    groups = optimizer.get("param_groups") if isinstance(optimizer, Mapping) else None
    state = optimizer.get("state") if isinstance(optimizer, Mapping) else None
    if not isinstance(groups, list) or not isinstance(state, Mapping):
        return "it is no state of a PyTorch optimizer"
    shapes = _shapes(config)
    decaying = sum(len(shape) >= 2 for shape in shapes)
    sizes = [len(group.get("params", ())) if isinstance(group, Mapping) else -1 for group in groups]
    if sizes != [decaying, len(shapes) - decaying]:
        return f"it has groups of {sizes} parameters, where nanoGPT has {[decaying, len(shapes) - decaying]}"
    for place, shape in zip((place for group in groups for place in group["params"]), shapes, strict=True):
        moments = state.get(place)
        if moments is None:
            continue
        average = moments.get("exp_avg") if isinstance(moments, Mapping) else None
        if not isinstance(average, torch.Tensor) or tuple(average.shape) != shape:
            return f"its parameter {place} is not one of {list(shape)} with AdamW's moments, which nanoGPT has there"
    return ""


def _shapes(config: NanoGPTConfig) -> list[tuple[int, ...]]:
    """The shapes of the parameters in the order of nanoGPT's optimizer; nanoGPT ties the head."""
    shapes = [shape for name, shape in config.shapes().items() if name != "lm_head.weight"]
    return [s for s in shapes if len(s) >= 2] + [s for s in shapes if len(s) < 2]


def _number(value: Any, default: float) -> float:
    """A setting, if it is one that AdamW takes."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
    return float(value) if number else default
