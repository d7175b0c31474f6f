"""A checkpoint saved as something else, after the conversion has been proven."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from conversion.atomic import new_folder
from conversion.backends import Backend
from conversion.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from conversion.equivalence import check_equivalence
from conversion.errors import ConversionError, EquivalenceError
from conversion.native import GPT
from conversion.optimizer_state import fresh_optimizer, misfit
from conversion.saving import save_transformer_lens
from conversion.val_loss import ValBin
from conversion.vocabulary import TokenizerVocabulary
from nanogpt_lens.core.choices import ExportFormat

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        folder: the folder that holds it.
        proof: one line on what was compared.
        how_to_load: one line of code.
        notes: what a reader of the folder has to know, one sentence each.
    """

    folder: Path
    proof: str
    how_to_load: str
    notes: tuple[str, ...] = ()


def export(
    checkpoint: Checkpoint,
    to: ExportFormat,
    folder: str | Path,
    *,
    process_weights: bool = False,
    dtype: str | None = None,
    val_bin: ValBin = None,
) -> Exported:
    """Convert a checkpoint, prove the conversion, and save the result into a new folder.

    Nothing is written if the proof fails.

    Args:
        checkpoint: a checkpoint that `read_checkpoint` returned; read it with `optimizer=True` for "nanogpt", if
            training is to go on with its optimizer.
        to: "hooked", "bridge", "hf" or "nanogpt".
        folder: a folder that does not exist yet, or is empty.
        process_weights: for "hooked" and "bridge", fold LayerNorms and centre.
        dtype: the name of a precision; by default float32 for TransformerLens, else the checkpoint's own.
        val_bin: for "hooked" and "bridge", whose certificate reads it: as for `ngl.check`.

    Raises:
        BackendError: the installed TransformerLens does not have that kind of model.
        CheckpointError: the folder holds something already.
        EquivalenceError: the conversion is not proven.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise ConversionError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}")
    if process_weights and to not in ("hooked", "bridge"):
        raise ConversionError(f"process_weights is for hooked and bridge; {to} keeps the weights as they are")
    if val_bin and to not in ("hooked", "bridge"):
        raise ConversionError(f"val_bin='PATH' is for hooked and bridge; {to} is compared without data: leave it out")
    precision = None if dtype is None else _DTYPES[dtype]
    if to in ("hooked", "bridge"):
        return _to_transformer_lens(checkpoint, to, Path(folder), process_weights, precision or torch.float32, val_bin)
    if to == "hf":
        return _to_huggingface(checkpoint, Path(folder), precision)
    if to == "nanogpt":
        return _to_nanogpt(checkpoint, Path(folder), precision)
    raise ConversionError(f"to is {to!r}; expected hooked, bridge, hf or nanogpt")


def _to_transformer_lens(
    checkpoint: Checkpoint, backend: Backend, folder: Path, process_weights: bool, dtype: torch.dtype, val_bin: ValBin
) -> Exported:
    from nanogpt_lens.model.loading import convert

    checkpoint.to(dtype)  # raises if a weight would overflow
    check_equivalence(checkpoint, backend=backend, val_bin=val_bin).raise_if_failed()
    model = convert(checkpoint, backend=backend, process_weights=process_weights, dtype=dtype)
    report = check_equivalence(checkpoint, model, val_bin=val_bin).raise_if_failed()  # the very model that is saved
    save_transformer_lens(model, checkpoint, folder, certificate=report)
    return Exported(folder, report.verdict(), f"run `from load import model` in {folder}")


def _to_huggingface(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None) -> Exported:
    from conversion.nanogpt_to_huggingface import to_huggingface

    checkpoint = checkpoint if dtype is None else checkpoint.to(dtype)
    error = _logit_error(checkpoint, to_huggingface(checkpoint, dtype=torch.float64))
    if not error < 1e-9:
        raise EquivalenceError(
            f"{checkpoint.name}: the Hugging Face model's logits differ by {error:.1e}; nothing saved"
        )
    to_huggingface(checkpoint, folder, dtype=dtype)
    proof = f"PROVEN EQUAL: logits in float64, largest error {error:.1e}"
    load = f"from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    return Exported(folder, proof, load)


def _logit_error(checkpoint: Checkpoint, model: Any) -> float:
    """The largest difference of a Hugging Face model's logits from the native model's, in float64."""
    generator = torch.Generator().manual_seed(0)
    config = checkpoint.config
    tokens = torch.randint(config.vocab_size, (2, min(config.block_size, 256)), generator=generator)
    with torch.no_grad():
        native = GPT.from_checkpoint(checkpoint, dtype=torch.float64)(tokens)
        return float((model(tokens).logits - native).abs().max())


def _to_nanogpt(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None) -> Exported:
    """A checkpoint that nanoGPT's `sample.py` and `train.py --init_from=resume` read."""
    written = replace(checkpoint if dtype is None else checkpoint.to(dtype), extra_model_args={})
    notes = tuple(_notes_for_nanogpt(checkpoint))
    if misfit(written.optimizer, written.config):
        written = replace(written, optimizer=fresh_optimizer(written.config, written.run_config))
    act_fn = checkpoint.config.act_fn
    with new_folder(folder) as temporary:
        again = read_checkpoint(save_checkpoint(written, temporary), act_fn=act_fn)
        same = all(torch.equal(tensor, again.state_dict[name]) for name, tensor in written.state_dict.items())
        if not same or again.config != written.config:
            raise EquivalenceError(f"{checkpoint.name}: what was written does not read back; nothing saved")
    options = "" if act_fn == "gelu" else f", act_fn={act_fn!r}"
    load = f"import nanogpt_lens; nanogpt_lens.load({str(folder)!r}{options})"
    return Exported(folder, "PROVEN EQUAL: every tensor reads back bit for bit", load, notes)


def _notes_for_nanogpt(checkpoint: Checkpoint) -> Iterator[str]:
    """What is lost on the way to nanoGPT, or what nanoGPT would do otherwise."""
    config = checkpoint.config
    if config.act_fn != "gelu":
        yield (
            "the model computes with the tanh GELU (gelu_new), and nanoGPT's model.py has the exact one since 2023: "
            "under sample.py and train.py it would be another model unless model.py says nn.GELU(approximate='tanh')"
        )
    if not config.tied:
        yield "lm_head.weight is not the token embedding, and nanoGPT's model.py ties them: it would lose one"
    if checkpoint.extra_model_args:
        names = ", ".join(sorted(map(str, checkpoint.extra_model_args)))
        yield f"model_args has no {names}, which were ignored and which nanoGPT's GPTConfig does not have"
    why = "the source has none" if checkpoint.optimizer is None else misfit(checkpoint.optimizer, config)
    if why:
        yield f"the optimizer was not taken along ({why}): train.py --init_from=resume begins with a fresh AdamW"
    if not isinstance(checkpoint.run_config.get("dataset"), str):
        yield "its config names no dataset, so that sample.py would take the tokens for GPT-2's"
    elif isinstance(checkpoint.vocabulary, TokenizerVocabulary) and checkpoint.vocabulary.kind != "gpt2":
        yield "sample.py does not read tokenizer.json, and would take the tokens for GPT-2's"
