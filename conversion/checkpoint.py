"""nanoGPT's `ckpt.pt` on disk, and the same checkpoint in memory with every key accounted for.

Reading never executes code (`weights_only=True`), never changes the file, and maps
the weights from disk, so that a checkpoint with its optimizer (three times the
weights) needs no more memory than the weights.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from jaxtyping import Float
from torch import Tensor

from conversion.atomic import replacing
from conversion.config import ActFn, NanoGPTConfig
from conversion.contents import read_contents
from conversion.errors import CheckpointError
from conversion.gelu import ACT_FN_KEY, settled_gelu
from conversion.locating import CHECKPOINT_NAME, locate
from conversion.shards import is_index, shards_of
from conversion.state import canonical_state, nanogpt_tensors, stated_arguments
from conversion.vocabulary import (
    ASKED_FOR_NONE,
    GPT2_ABSENT,
    GPT2_SIZES,
    META_NAME,
    TOKENIZER_NAME,
    Vocabulary,
    choose_vocabulary,
    doubtful_size,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
        shards: the files with the tensors, where `path` is an index that names them.
    """

    config: NanoGPTConfig
    state_dict: dict[str, Float[Tensor, " ..."]] = field(repr=False)
    vocabulary: Vocabulary | None = None
    path: Path | None = None
    iter_num: int | None = None
    best_val_loss: float | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Mapping[str, Any] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    extra_model_args: Mapping[str, Any] = field(default_factory=dict)
    no_vocabulary: str = ""
    shards: tuple[Path, ...] = ()
    _stamps: tuple[tuple[int, int, int], ...] = ()

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
        """The number of weights that the architecture has, read or not; a tied head counts once."""
        left_out = ("lm_head.weight",) if self.config.tied else ()
        return sum(math.prod(shape) for name, shape in self.config.shapes().items() if name not in left_out)

    @property
    def vocabulary_doubt(self) -> str:
        """Why the vocabulary may be another run's, which is one of the `notes` too; empty if nothing speaks for it."""
        return doubtful_size(self.vocabulary, self.config.vocab_size)

    @cached_property
    def sha256(self) -> str | None:
        """The SHA-256 of the file, and of its `shards` behind it; None for a checkpoint made in memory.

        Raises:
            CheckpointError: a file has changed since it was read.
        """
        if self.path is None:
            return None
        digest = hashlib.sha256()
        for path, stamp in zip((self.path, *self.shards), self._stamps, strict=True):
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
                if _stamp(file.fileno()) != stamp:
                    raise CheckpointError(f"{path} has changed since it was read; read it again")
        return digest.hexdigest()

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
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
    optimizer: bool = False,
) -> Checkpoint:
    """Read a checkpoint of nanoGPT, or of a project with its architecture; docs/FILES.md has the list.

    Args:
        path: a file (`torch.save`'s, safetensors, llm.c's), or a folder that holds a `ckpt.pt` (nanoGPT's `out_dir`),
            a `model.safetensors`, in one file or several with an index, or a `pytorch_model.bin`.
        meta: the vocabulary: a `meta.pkl`, a `tokenizer.json`, a folder with one of
            them, "gpt2", or "none". By default the first that can be used, beside the checkpoint, or in
            `data/<dataset>/` below the working directory or one of the checkpoint's parents; if none can,
            the checkpoint has no vocabulary and says why where text is used.
        act_fn: "gelu_new" for a checkpoint of the old nanoGPT, or of another project, with the tanh GELU; by default
            nanoGPT's exact one, unless the file says otherwise, which is an error.
        n_head: the number of heads, for a file that does not state it.
        ignore_model_args: the names of a fork's `model_args` that do not change what is computed.
        optimizer: read the optimizer's state too.

    Raises:
        CheckpointError: the file does not exist, is no nanoGPT checkpoint, is damaged or unsafe, or has
            missing, unexpected or misshapen tensors, or weights that are not finite.
        VocabularyError: the vocabulary that `meta` names does not exist, is damaged, or is too large for the model.
    """
    file = locate(path)
    ignore_model_args = tuple(ignore_model_args)
    shards = shards_of(file) if is_index(file) else ()
    stamps = tuple(map(_stamp, (file, *shards)))
    contents = read_contents(file, mapped=not optimizer)
    try:
        tensors, notes = nanogpt_tensors(contents.tensors, contents.statement)
        arguments = stated_arguments(contents, tensors, n_head)
        used, about_gelu = settled_gelu(file, contents, act_fn)
        config, state, more = canonical_state(tensors, arguments, act_fn=used, ignore=ignore_model_args)
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(message if message.startswith(str(file)) else f"{file}: {message}") from None
    run_config = contents.run_config
    vocabulary, why = choose_vocabulary(meta, _data_folders(file.parent, run_config), config.vocab_size)
    if why and why != ASKED_FOR_NONE:
        more += (f"a vocabulary was passed over: {why}",)
    if doubt := doubtful_size(vocabulary, config.vocab_size):
        more += (doubt,)
    return Checkpoint(
        config=config,
        state_dict=state,
        vocabulary=vocabulary,
        path=file,
        iter_num=contents.iter_num,
        best_val_loss=contents.best_val_loss,
        run_config=run_config,
        optimizer=contents.optimizer if optimizer else None,
        notes=contents.notes + (contents.statement.notes if contents.statement else ()) + notes + more + about_gelu,
        extra_model_args={k: v for k, v in arguments.items() if k in set(ignore_model_args)},
        no_vocabulary="" if vocabulary is not None else why,
        shards=shards,
        _stamps=stamps,
    )


def read_iteration(file: Path) -> int | None:
    """The `iter_num` of a checkpoint file, whose weights are not read; None if the file has none.

    Raises:
        CheckpointError: as for `read_checkpoint`.
    """
    return read_contents(file).iter_num


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
        content["config"][ACT_FN_KEY] = checkpoint.config.act_fn
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


def _stamp(file: Path | int) -> tuple[int, int, int]:
    """What changes when a file is written again."""
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns
