"""Proof that a converted model computes what the checkpoint computes.

Native and converted model get the same tokens, and everything that TransformerLens can show
is compared: outputs, every activation, the gradient of every weight, the effect of an edit
at every hook, and greedy text past the context. The proof is in float64, where rounding
leaves 1e-15 and a real difference cannot hide; float32 is compared too, since that is what
people run. What is folded and centred (`process_weights`) is compared in log-probabilities
and in the activations that folding preserves.

None of this can see a wrong `n_head` in `model_args`, because both sides would believe it.
The data can: where the run's `val.bin` is at hand, the loss on it is held against the
checkpoint's `best_val_loss`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from conversion.backends import resolve_backend
from conversion.checkpoint import Checkpoint, read_checkpoint
from conversion.comparing import (
    Bench,
    compare_activations,
    compare_edits,
    compare_gradients,
    compare_greedy,
    compare_outputs,
    compare_weights,
)
from conversion.errors import ConversionError
from conversion.judge import TOLERANCE, Judge, precision_name
from conversion.report import Comparison, EquivalenceReport, Mode
from conversion.val_loss import compare_val_loss

log = logging.getLogger(__name__)


@torch.inference_mode(False)  # gradients are compared, whatever the caller has switched off
def check_equivalence(
    checkpoint: Checkpoint | str | Path,
    model: Any = None,
    *,
    backend: str = "auto",
    model_py: str | Path | None = None,
    val_bin: str | Path | None = None,
    edits: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> EquivalenceReport:
    """Compare a checkpoint's native model with its conversion.

    Args:
        checkpoint: what `read_checkpoint` returned, or a path for it.
        model: a HookedTransformer or TransformerBridge to judge. Without it, the checkpoint
            is converted here: raw and processed, in float64 and float32 (and, where its
            weights are half precision, in that).
        backend: "auto", "hooked" or "bridge", for what is converted here.
        model_py: a nanoGPT fork's `model.py` to be the native side. THIS FILE IS EXECUTED.
        val_bin: the run's validation tokens; looked for where nanoGPT keeps them.
        edits: also compare the effect of edits at every hook, which is most of the work.
        seed: of the random tokens and perturbations.
        device: where to compute.
        progress: show a progress bar.

    Returns:
        the certificate; it never raises because of a difference, see `raise_if_failed`.

    Raises:
        ConversionError: bad input, such as a `model_py` that does not fit or a TransformerLens
            that does not have the backend.
    """
    if not 0 <= seed < 2**32:
        raise ConversionError(f"seed is {seed}; expected an integer from 0 to 2**32 - 1")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    bench = Bench(checkpoint, model_py, seed=seed, device=device)
    comparisons: list[Comparison] = []
    cases = [_given(model)] if model is not None else list(_conversions(checkpoint, backend, device))
    with tqdm(total=len(cases), disable=not progress, desc="certificate", unit="model") as bar:
        for mode, dtype, build in cases:
            bar.set_postfix_str(f"{mode} {precision_name(dtype)}")
            with _evaluating(build()) as converted:
                comparisons += _compare(bench, converted, mode, dtype, edits)
                if (mode == "raw" and dtype == torch.float32) or model is not None:
                    found = compare_val_loss(
                        checkpoint, converted, val_bin, mode=mode, precision=precision_name(dtype), seed=seed
                    )
                    comparisons += [found] if found else []
            bar.update()
    kind = resolve_backend(backend) if model is None else "bridge" if hasattr(model, "original_model") else "hooked"
    return EquivalenceReport(
        comparisons=tuple(comparisons),
        checkpoint=checkpoint.name,
        sha256=checkpoint.sha256,
        architecture=asdict(checkpoint.config) | {"dtype": precision_name(checkpoint.dtype)},
        backend={"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[kind],
        reference=bench.reference(torch.float64).description,
        versions=_versions(),
        seed=seed,
        notes=checkpoint.notes + bench.notes(edits) + _unmeasured(comparisons),
    )


def _unmeasured(comparisons: list[Comparison]) -> tuple[str, ...]:
    if any(c.kind == "val_loss" for c in comparisons):
        return ()
    return ("no val.bin with a best_val_loss was at hand, so nothing speaks for n_head and the act_fn of model_args",)


def _given(model: Any) -> tuple[Mode, torch.dtype, Callable[[], Any]]:
    if not hasattr(model, "cfg") or not hasattr(model, "run_with_hooks"):
        raise ConversionError(f"model is a {type(model).__name__}; expected a HookedTransformer or a TransformerBridge")
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ConversionError(
            "the model was loaded under torch.inference_mode, so it has no gradients; load it outside"
        )
    mode: Mode = "processed" if model.cfg.normalization_type == "LNPre" else "raw"
    return mode, next(model.parameters()).dtype, lambda: model


def _conversions(
    checkpoint: Checkpoint, backend: str, device: str | torch.device
) -> Iterator[tuple[Mode, torch.dtype, Callable[[], Any]]]:
    if resolve_backend(backend) == "hooked":
        from conversion.nanogpt_to_hooked import to_hooked_transformer as convert
    else:
        from conversion.nanogpt_to_bridge import to_bridge as convert
    dtypes = [torch.float64, torch.float32]
    if checkpoint.dtype not in dtypes:
        dtypes.append(checkpoint.dtype)
    modes: tuple[Mode, ...] = ("raw", "processed")
    for dtype in dtypes:
        for mode in modes:

            def build(mode: Mode = mode, dtype: torch.dtype = dtype) -> Any:
                return convert(checkpoint, process_weights=mode == "processed", device=device, dtype=dtype)

            yield mode, dtype, build


def _compare(bench: Bench, model: Any, mode: Mode, dtype: torch.dtype, edits: bool) -> Iterator[Comparison]:
    judge = Judge(mode, dtype)
    try:
        yield from compare_outputs(bench, model, judge)
        yield from compare_weights(bench, model, judge)
        if dtype not in TOLERANCE:
            return  # half precision: outputs only, everything else is its rounding
        yield from compare_activations(bench, model, judge)
        if mode == "raw":
            yield from compare_gradients(bench, model, judge)
        yield from compare_greedy(bench, model, judge)
        if edits:
            yield from compare_edits(bench, model, judge)
    except ConversionError:
        raise
    except Exception as error:  # a model so different that it does not even run
        log.debug("the converted model failed", exc_info=True)
        yield judge.failed("output", "the model itself", f"{type(error).__name__}: {str(error).splitlines()[0]:.120}")


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """The model in evaluation mode; each module's own mode is restored. Hooks that it carries do run."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _versions() -> dict[str, str]:
    found = {}
    for package in ("nanogpt-lens", "transformer-lens", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a package"
    return found
