"""Expensive results on disk: computed once for a model, arguments and version, then read back.

Off unless asked for:

    cached = ngl.results.ResultCache("cache")
    result = cached(ngl.activation_patching, model, clean, corrupted, metric, activation="z", axes=("layer", "head"))

The key holds the checkpoint's hash, a hash of the weights that the model has now (it may have been
edited since), every argument, and the versions of this package, TransformerLens and torch.
Results are stored as `Result.save` stores them; nothing is pickled, so a cache folder that somebody
sends cannot run code. (That is why this is not `joblib.Memory`.)
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import has_hooks, provenance
from nanogpt_lens.model.fingerprints import file_hash, tensor_hash, weights_hash
from nanogpt_lens.results.base import Result

_P = ParamSpec("_P")
_R = TypeVar("_R", bound=Result)
_SILENT = ("progress",)


class ResultCache:
    """Calls an analysis, or reads its result from disk.

    Args:
        folder: where the results are kept; made when needed, safe to delete.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def __call__(self, analysis: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The result of `analysis(*args, **kwargs)`, whose first argument is a model.

        Raises:
            AnalysisError: an argument that cannot be part of a key, such as a bare function, or a model
                with hooks attached.
        """
        place = self.folder / self.key(analysis, *args, **kwargs)
        if (place / "result.json").is_file():
            with suppress(ResultError):  # damaged: it is made again
                return Result.load(place)  # type: ignore[return-value]
        result = analysis(*args, **kwargs)
        if not isinstance(result, Result):
            raise AnalysisError(f"{analysis.__name__} returned a {type(result).__name__}; only results can be cached")
        result.save(place)
        return result

    def __repr__(self) -> str:
        return f"ResultCache({str(self.folder)!r}, {len(list(self.folder.glob('*/result.json')))} results)"

    def key(self, analysis: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """The name of the folder that the result has."""
        if not callable(analysis):
            raise AnalysisError(
                "the cache takes the function and its arguments, not a result: cached(ngl.f, model, ...)"
            )
        bound = inspect.signature(analysis).bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        model = arguments.pop("model", None)
        if not isinstance(model, torch.nn.Module):
            raise AnalysisError(f"{analysis.__name__} takes no model; only analyses of a model can be cached")
        if has_hooks(model):
            raise AnalysisError("the model has hooks attached, which no key can describe; reset_hooks() first")
        identity = {k: v for k, v in provenance(model).items() if k not in ("arguments", "checkpoint")}
        content = {
            "analysis": f"{analysis.__module__}.{analysis.__qualname__}",
            "model": identity,
            "weights": weights_hash(model),
            "arguments": {name: _key_part(name, value) for name, value in arguments.items() if name not in _SILENT},
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return f"{analysis.__name__}-{digest[:24]}"


def _key_part(name: str, value: Any) -> Any:
    """An argument as JSON that is equal for equal arguments alone.

    Raises:
        AnalysisError: it has no such form.
    """
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Tensor):
        return ["tensor", str(value.dtype), list(value.shape), tensor_hash(value)]
    if isinstance(value, np.ndarray):
        return ["array", _key_part(name, torch.from_numpy(np.ascontiguousarray(value)))]
    if isinstance(value, Path):
        files = [value] if value.is_file() else sorted(file for file in value.glob("*") if file.is_file())
        return ["path", str(value), [[file.name, file_hash(file)] for file in files]]
    if isinstance(value, Mapping):
        return ["mapping", [[_key_part(name, k), _key_part(name, v)] for k, v in value.items()]]
    if isinstance(value, Sequence):
        return ["sequence", [_key_part(name, item) for item in value]]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _key_part(name, getattr(value, f.name)) for f in fields(value)}
        return [type(value).__qualname__, parts]
    raise AnalysisError(
        f"{name} is a {type(value).__name__}, which cannot be part of a cache key; use a metric such as "
        "ngl.metrics.logit_diff, or call the analysis without the cache"
    )
