"""nanoGPT's `ckpt.pt` on disk, and the same checkpoint in memory with every key accounted for.

Reading never executes code (`weights_only=True`), never changes the file, and maps
the weights from disk, so that a checkpoint with its optimizer (three times the
weights) needs no more memory than the weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from conversion.archives import is_stored
from conversion.atomic import replacing
from conversion.config import ActFn, NanoGPTConfig
from conversion.errors import CheckpointError
from conversion.state import canonical_state, looks_like
from conversion.vocabulary import (
    ASKED_FOR_NONE,
    GPT2_ABSENT,
    GPT2_SIZES,
    META_NAME,
    TOKENIZER_NAME,
    Vocabulary,
    choose_vocabulary,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHECKPOINT_NAME = "ckpt.pt"
_ACT_FN_KEY = "nanogpt_lens_activation"
_EXPECTED = "expected nanoGPT's dictionary with 'model' and 'model_args'"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A validated nanoGPT checkpoint.

    Attributes:
        config: the architecture.
        state_dict: all tensors under nanoGPT's own names and with its shapes (`config.shapes()`),
            in the precision of the file; a tied `lm_head.weight` is the very tensor
            of `transformer.wte.weight`.
        vocabulary: the vocabulary that turns text into tokens; None if there is none.
        path: the file that was read; None for a checkpoint made in memory.
        iter_num, best_val_loss: the numbers that nanoGPT stores; None if absent.
        run_config: nanoGPT's `config`, the settings of the training run.
        optimizer: the optimizer's state; None unless it was asked for.
        notes: what reading had to do (prefixes stripped, masks dropped, ...).
        extra_model_args: a fork's `model_args` that were ignored on request.
        no_vocabulary: why there is no vocabulary, where there is more to say than that no file was found.
    """

    config: NanoGPTConfig
    state_dict: dict[str, Tensor] = field(repr=False)
    vocabulary: Vocabulary | None = None
    path: Path | None = None
    iter_num: int | None = None
    best_val_loss: float | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    extra_model_args: Mapping[str, Any] = field(default_factory=dict)
    no_vocabulary: str = ""
    _stamp: tuple[int, int, int] | None = None

    @property
    def name(self) -> str:
        """The checkpoint's name in messages: its path, or 'the checkpoint'."""
        return str(self.path) if self.path else "the checkpoint"

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; if they are mixed, the highest one."""
        dtypes = {tensor.dtype for tensor in self.state_dict.values()}
        return max(dtypes, key=lambda dtype: torch.finfo(dtype).bits)

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments of the original code's `GPTConfig(**model_args)`."""
        return {**self.config.to_model_args(), **self.extra_model_args}

    @property
    def n_params(self) -> int:
        """The number of weights; a tied head counts once."""
        tied = self.config.tied
        return sum(t.numel() for k, t in self.state_dict.items() if not (tied and k == "lm_head.weight"))

    @cached_property
    def sha256(self) -> str | None:
        """The SHA-256 of the file; None for a checkpoint made in memory.

        Raises:
            CheckpointError: the file has changed since it was read.
        """
        if self.path is None:
            return None
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if _stamp(file.fileno()) != self._stamp:
                raise CheckpointError(f"{self.path} has changed since it was read; read it again")
        return digest

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A new tokenizer for a model; without a vocabulary, one that says on first use what to give."""
        from conversion.fast_tokenizer import missing_tokenizer, tokenizer_for

        sizes = {"n_ctx": self.config.block_size, "d_vocab": self.config.vocab_size}
        if self.vocabulary is not None:
            return tokenizer_for(self.vocabulary, **sizes)
        gpt2 = f", or meta='gpt2' ({GPT2_ABSENT})" if self.config.vocab_size in GPT2_SIZES else ""
        why = self.no_vocabulary or "no meta.pkl or tokenizer.json beside it or in data/<dataset>/"
        reason = (
            f"{self.name} has no vocabulary ({why}); load it "
            f"with meta='path/to/meta.pkl' or a tokenizer.json{gpt2}; token ids work without one"
        )
        return missing_tokenizer(reason, **sizes)

    def data_folders(self) -> Iterator[Path]:
        """The folders in which nanoGPT keeps this run's `meta.pkl` and `val.bin`, nearest first."""
        if self.path is not None:
            yield from _data_folders(self.path.parent, self.run_config)

    def without_weights(self) -> Checkpoint:
        """The checkpoint without its tensors, which is what a converted model remembers of it."""
        return replace(self, state_dict={}, optimizer=None)

    def to(self, dtype: torch.dtype) -> Checkpoint:
        """The same checkpoint with weights of another precision; a tied head stays tied.

        Raises:
            CheckpointError: a weight is beyond the range of `dtype`.
        """
        state = {key: tensor.to(dtype) for key, tensor in self.state_dict.items()}
        for key, tensor in state.items():
            if not bool(tensor.isfinite().all()):
                raise CheckpointError(
                    f"{self.name}: {key} has values beyond {str(dtype).removeprefix('torch.')}'s range; "
                    "choose bfloat16 or float32"
                )
        if self.config.tied:
            state["lm_head.weight"] = state["transformer.wte.weight"]
        return replace(self, state_dict=state)


def read_checkpoint(
    path: str | Path,
    *,
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn = "gelu",
    ignore_model_args: Iterable[str] = (),
    optimizer: bool = False,
) -> Checkpoint:
    """Read a nanoGPT checkpoint.

    Args:
        path: a `ckpt.pt`, or a folder that holds one (nanoGPT's `out_dir`).
        meta: the vocabulary: a `meta.pkl`, a `tokenizer.json`, a folder with one of
            them, "gpt2", or "none". By default the first that can be used, beside the checkpoint, or in
            `data/<dataset>/` below the working directory or one of the checkpoint's parents; if none can,
            the checkpoint has no vocabulary and says why where text is used.
        act_fn: "gelu_new" for a checkpoint of the old nanoGPT with its tanh GELU.
        ignore_model_args: the names of a fork's `model_args` that do not change what is computed.
        optimizer: read the optimizer's state too.

    Raises:
        CheckpointError: the file does not exist, is no nanoGPT checkpoint, is damaged or unsafe, or has
            missing, unexpected or misshapen tensors, or weights that are not finite.
        VocabularyError: the vocabulary that `meta` names does not exist, is damaged, or is too large for the model.
    """
    file = locate(path)
    ignore_model_args = tuple(ignore_model_args)
    stamp = _stamp(file)
    content = _load(file, mapped=not optimizer)
    model_args, raw = _parts(file, content)
    try:
        config, state, notes = canonical_state(raw, model_args, act_fn=act_fn, ignore=ignore_model_args)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    run_config = content.get("config")
    run_config = dict(run_config) if isinstance(run_config, Mapping) else {}
    stated = run_config.get(_ACT_FN_KEY, act_fn)
    if stated != act_fn:
        raise CheckpointError(
            f"{file} was saved with act_fn {stated!r}, and {act_fn!r} was asked for; "
            f"give act_fn={stated!r} (--act-fn {stated})"
        )
    vocabulary, why = choose_vocabulary(meta, _data_folders(file.parent, run_config), config.vocab_size)
    if why and why != ASKED_FOR_NONE:
        notes += (f"a vocabulary was passed over: {why}",)
    return Checkpoint(
        config=config,
        state_dict=state,
        vocabulary=vocabulary,
        path=file,
        iter_num=_number(content.get("iter_num"), int),
        best_val_loss=_number(content.get("best_val_loss"), float),
        run_config=run_config,
        optimizer=content.get("optimizer") if optimizer else None,
        notes=notes,
        extra_model_args={k: v for k, v in model_args.items() if k in set(ignore_model_args)},
        no_vocabulary="" if vocabulary is not None else why,
        _stamp=stamp,
    )


def read_iteration(file: Path) -> int | None:
    """The `iter_num` of a checkpoint file, whose weights are not read; None if the file has none.

    Raises:
        CheckpointError: as for `read_checkpoint`.
    """
    content = _load(file, mapped=True)
    _parts(file, content)
    return _number(content.get("iter_num"), int)


def save_checkpoint(
    checkpoint: Checkpoint, path: str | Path, *, write: Callable[[Any, BinaryIO], object] = torch.save
) -> Path:
    """Write a checkpoint in nanoGPT's format, readable by the original `sample.py`.

    Args:
        checkpoint: the checkpoint to write, with its optimizer if it has one.
        path: a file name ending in `.pt`, or a folder, which gets `ckpt.pt` and, for a
            character vocabulary, `meta.pkl`.
        write: the function that writes nanoGPT's dictionary into an open file.

    Returns:
        The checkpoint file. It is replaced in one step: a killed run leaves the old
        file or the new one.

    Raises:
        CheckpointError: the folder has a vocabulary, and the checkpoint has none.
    """
    target = Path(path)
    folder = None if target.suffix == ".pt" and not target.is_dir() else target
    file = target if folder is None else folder / CHECKPOINT_NAME
    content: dict[str, Any] = {
        "model": dict(checkpoint.state_dict),
        "model_args": checkpoint.model_args,
        "iter_num": checkpoint.iter_num or 0,
        "best_val_loss": 1e9 if checkpoint.best_val_loss is None else checkpoint.best_val_loss,
        "config": dict(checkpoint.run_config),
    }
    if checkpoint.config.act_fn != "gelu":  # nanoGPT has no place for it, and would compute with another GELU
        content["config"][_ACT_FN_KEY] = checkpoint.config.act_fn
    if checkpoint.optimizer is not None:
        content["optimizer"] = checkpoint.optimizer
    if folder is not None:
        _save_vocabulary(checkpoint.vocabulary, folder)
    with replacing(file) as temporary, temporary.open("wb") as opened:
        write(content, opened)  # given a path, it would write the temporary file's random name into the archive
    return file


def _save_vocabulary(vocabulary: Vocabulary | None, folder: Path) -> None:
    """Save the vocabulary into the folder, and delete any other one, which reading would take for it."""
    others = {META_NAME, TOKENIZER_NAME}
    if vocabulary is not None:
        others -= {vocabulary.save(folder).name}
    for name in sorted(others):
        if vocabulary is not None:
            (folder / name).unlink(missing_ok=True)
        elif (folder / name).exists():
            raise CheckpointError(
                f"{folder} has a {name}, which would be taken for this checkpoint's vocabulary, and it has none; "
                "choose another folder, or name a .pt file"
            )


def locate(path: str | Path) -> Path:
    """The checkpoint file that `path` stands for.

    Raises:
        CheckpointError: `path` does not exist, or is a folder without a `ckpt.pt`.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        file = place / CHECKPOINT_NAME
        if file.is_file():
            return file
        others = sorted(p.name for p in place.glob("*.pt"))
        if others:
            raise CheckpointError(
                f"{place} has no {CHECKPOINT_NAME}, but {', '.join(others[:5])}; name the file itself"
            )
        if (place / "config.json").is_file():
            raise CheckpointError(
                f"{place} has no {CHECKPOINT_NAME} but a config.json, so it may be a Hugging Face model; "
                "a GPT-2 can be brought in with conversion.from_huggingface"
            )
        raise CheckpointError(f"{place} has no {CHECKPOINT_NAME}; expected nanoGPT's out_dir or a checkpoint file")
    if not place.exists():
        raise CheckpointError(
            f"{place} does not exist; expected a nanoGPT checkpoint or a folder that holds {CHECKPOINT_NAME}"
        )
    return place


def _load(file: Path, *, mapped: bool) -> dict[str, Any]:
    """The dictionary in the file, unpickled without executing anything; mapped tensors must not outlive the reading."""
    with file.open("rb") as opened:
        head = opened.read(4)
    zipped = zipfile.is_zipfile(file)
    if not head:
        raise CheckpointError(f"{file} is empty; {_EXPECTED}")
    if head.startswith(b"PK") and not zipped:
        raise CheckpointError(f"{file} is truncated ({file.stat().st_size:,} bytes); copy it again, or save it anew")
    stored = head.startswith(b"PK") and is_stored(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle protocol; what matters raises below
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and stored)
    except pickle.UnpicklingError as error:
        unsafe = re.search(
            r"(?:GLOBAL|global) ([\w.]+)|(?:Trying to (?:call|instantiate)[^`']*)[`']?([\w.]+)", str(error)
        )
        if unsafe and not re.match(r"Invalid magic|pickle data was truncated", str(error)):
            culprit = unsafe.group(1) or unsafe.group(2)
            raise CheckpointError(
                f"{file} holds an object that is not plain data ({culprit}), which unpickling would run as code; "
                "nothing was executed; save it again with nothing but tensors, numbers and strings"
            ) from None
        raise CheckpointError(f"{file} is not a PyTorch checkpoint, or is damaged; {_EXPECTED}") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, IndexError, TypeError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{file} is not a PyTorch checkpoint, or is damaged ({reason}); {_EXPECTED}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}; {_EXPECTED}")
    return content


def _parts(file: Path, content: dict[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The `model_args` and the tensors of a checkpoint's dictionary; CheckpointError if it does not have them."""
    model_args, raw = content.get("model_args"), content.get("model")
    if not isinstance(raw, Mapping) or not isinstance(model_args, Mapping):
        names = raw if isinstance(raw, Mapping) else content
        hint = looks_like(names)
        keys = ", ".join(sorted(str(key) for key in content)[:6])
        raise CheckpointError(f"{file} has the keys {keys}; {_EXPECTED}" + (f"; {hint}" if hint else ""))
    return model_args, raw


def _data_folders(folder: Path, run_config: Mapping[str, Any]) -> Iterator[Path]:
    """The checkpoint's folder, and the folders `data/<dataset>` near it and near the working directory."""
    folder = folder.resolve()
    yield folder
    dataset = run_config.get("dataset")
    if not isinstance(dataset, str) or not dataset or os.path.isabs(dataset) or ".." in Path(dataset).parts:
        return
    seen = set()
    for root in (Path.cwd(), folder, *folder.parents):
        place = root / "data" / dataset
        if place not in seen:
            seen.add(place)
            yield place


def _number(value: Any, kind: type) -> Any:
    """A stored number as an int or a float, as `kind` says; None if it is not a finite number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return kind(value) if number else None


def _stamp(file: Path | int) -> tuple[int, int, int]:
    """What changes when a file is written again."""
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns
