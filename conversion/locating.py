"""The checkpoint file that a path stands for: the file itself, or the one in a folder."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import CheckpointError

CHECKPOINT_NAME, INDEX_NAME, VAL_NAME = "ckpt.pt", "model.safetensors.index.json", "val.bin"
NAMES = (CHECKPOINT_NAME, "model.safetensors", INDEX_NAME, "pytorch_model.bin")
"""The names of a checkpoint in a folder, in the order in which they are looked for."""

_PICKLED_INDEX = "pytorch_model.bin.index.json"
_OTHERS = ("*.pt", "*.pth", "*.ckpt", "*.safetensors", "*.bin")
_DATA = {"train.bin", "val.bin", "test.bin", "training_args.bin"}


def locate(path: str | Path) -> Path:
    """The checkpoint file that `path` stands for.

    Raises:
        CheckpointError: `path` does not exist, or is a folder without a checkpoint under one of the `NAMES`.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _in_folder(place)
    if not place.exists():
        raise CheckpointError(
            f"{place} does not exist; expected a nanoGPT checkpoint or a folder that holds {CHECKPOINT_NAME}"
        )
    if not place.is_file():
        raise CheckpointError(f"{place} is no file; expected a nanoGPT checkpoint or a folder that holds one")
    return place


def _in_folder(folder: Path) -> Path:
    """The checkpoint of a folder."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    if (folder / _PICKLED_INDEX).is_file():
        raise CheckpointError(
            f"{folder} has its weights in several files ({_PICKLED_INDEX}); expected one file, or safetensors: save "
            "the model again with save_pretrained(...)"
        )
    others = sorted({p.name for pattern in _OTHERS for p in folder.glob(pattern) if p.name not in _DATA})
    if others:
        raise CheckpointError(f"{folder} has no {CHECKPOINT_NAME}, but {', '.join(others[:5])}; name the file itself")
    if any(folder.glob("*.distcp")):
        raise CheckpointError(
            f"{folder} is a distributed checkpoint (*.distcp), whose tensors are in pieces; expected one file: convert "
            "it with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch`"
        )
    if (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} has no {CHECKPOINT_NAME} but a config.json, so it may be a Hugging Face model without its "
            "model.safetensors; a GPT-2 can be brought in with conversion.from_huggingface"
        )
    raise CheckpointError(f"{folder} has no {CHECKPOINT_NAME}; expected nanoGPT's out_dir or a checkpoint file")
