"""Proof that a converted model computes what the checkpoint computes.

Native and converted model get the same tokens, and everything that TransformerLens can show
is compared: outputs, every activation, the gradient of every weight, the effect of an edit
at every hook, and greedy text past the context. The proof is in float64, where rounding
leaves 1e-15 and a real difference cannot hide; float32 is compared too, since that is what
people run. Models with folded and centred weights (`process_weights`) are compared in
log-probabilities and in the activations that folding preserves.

None of these comparisons can show a wrong `n_head` in `model_args`, because both sides would
use it. The data can: if the run's `val.bin` is there, the loss on it is compared with the
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
from conversion.freeing import give_back, trim
from conversion.judge import TOLERANCE, Judge, precision_name
from conversion.native_reference import LARGE
from conversion.report import Comparison, EquivalenceReport, Mode
from conversion.val_loss import ValBin, compare_val_loss

log = logging.getLogger(__name__)


@torch.inference_mode(False)  # gradients are compared, whatever the caller has switched off
def check_equivalence(
    checkpoint: Checkpoint | str | Path,
    model: Any = None,
    *,
    backend: str = "auto",
    model_py: str | Path | None = None,
    val_bin: ValBin = None,
    edits: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> EquivalenceReport:
    """Compare a checkpoint's native model with its conversion.

    Args:
        checkpoint: a checkpoint that `read_checkpoint` returned, or its path.
        model: a HookedTransformer or TransformerBridge to judge. Without it, the function
            converts the checkpoint: raw and processed, in float64 and float32 (and, if its
            weights are in half precision, in that).
        backend: "auto", "hooked" or "bridge", for the models that the function converts.
        model_py: a nanoGPT fork's `model.py` to be the native side. THIS FILE IS EXECUTED.
        val_bin: the run's validation tokens, a path or a `TokenFile`; by default the file that nanoGPT keeps them
            in, if it is there; False for none.
        edits: also compare the effect of edits at every hook, which is most of the work.
        seed: the seed of the random tokens and perturbations.
        device: the device to compute on.
        progress: show a progress bar.

    Returns:
        The certificate. A difference raises no error here; see `raise_if_failed`.

    Raises:
        ConversionError: the input is bad, such as a `model_py` that does not fit or a backend that the installed
            TransformerLens does not have.
    """
    if not 0 <= seed < 2**32:
        raise ConversionError(f"seed is {seed}; expected an integer from 0 to 2**32 - 1")
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    bench = Bench(checkpoint, model_py, seed=seed, device=device, float64=model is None)
    comparisons: list[Comparison] = []
    cases = [_case_of(model)] if model is not None else list(_conversions(checkpoint, backend, device))
    with tqdm(total=len(cases), disable=not progress, desc="certificate", unit="model") as bar:
        for mode, dtype, build in cases:
            bar.set_postfix_str(f"{mode} {precision_name(dtype)}")
            with _evaluating(build()) as converted:
                comparisons += _compare(bench, converted, mode, dtype, edits)
                if (mode == "raw" and dtype == torch.float32) or model is not None:
                    comparison = compare_val_loss(
                        checkpoint, converted, val_bin, mode=mode, precision=precision_name(dtype), seed=seed
                    )
                    comparisons += [comparison] if comparison else []
            del converted
            if checkpoint.n_params > LARGE:
                give_back()  # a TransformerLens model knows itself, and would wait for the next one in memory
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
        notes=checkpoint.notes + bench.notes(edits) + _note_on_val_loss(comparisons, val_bin),
    )


def _note_on_val_loss(comparisons: list[Comparison], val_bin: ValBin) -> tuple[str, ...]:
    """What a certificate says of the loss on validation data: how far it may be off and why, or that there is none."""
    found = next((c for c in comparisons if c.kind == "val_loss"), None)
    if found is not None:
        return (f"{found.name}: {found.detail}",) if found.passed else ()
    why = "val.bin was not to be used" if val_bin is False else "no val.bin with a best_val_loss was at hand"
    return (f"{why}, so nothing speaks for n_head and the act_fn of model_args",)


def _case_of(model: Any) -> tuple[Mode, torch.dtype, Callable[[], Any]]:
    """The mode and precision of the caller's model, and a function that returns it."""
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
    """The modes and precisions in which a checkpoint is converted, each with a function that converts it."""
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
    """All comparisons with one converted model."""
    judge = Judge(mode, dtype)
    comparing = [compare_outputs, compare_weights]
    if dtype in TOLERANCE:  # in half precision everything but the outputs would only show rounding
        comparing += [compare_activations, *([compare_gradients] if mode == "raw" else []), compare_greedy]
        comparing += [compare_edits] if edits else []
    try:
        for compare in comparing:
            yield from compare(bench, model, judge)
            if bench.is_large:
                trim()
    except ConversionError:
        raise
    except Exception as error:  # a model so different that it does not even run
        log.debug("the converted model failed", exc_info=True)
        yield judge.failed("output", "the model itself", f"{type(error).__name__}: {str(error).splitlines()[0]:.120}")


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """A block in which the model is in evaluation mode; each module's mode returns at the end. Its hooks do run."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("nanogpt-lens", "transformer-lens", "torch", "transformers"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed as a package"
    versions["torch"] = torch.__version__  # with its build, such as 2.13.0+cu130, which a package's may lack
    return versions
