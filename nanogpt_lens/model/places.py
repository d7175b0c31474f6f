"""The file that a path, or the name of a checkpoint that comes with the package, stands for."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from conversion.errors import CheckpointError
from conversion.locating import CHECKPOINT_NAME, VAL_NAME, locate
from nanogpt_lens.core.choices import did_you_mean

SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
"""Of a checkpoint's file."""
_PACKAGE = Path(__file__).resolve().parent.parent


def find_checkpoint(path: str | Path) -> Path:
    """The file that a path or a shipped name stands for.

    Raises:
        CheckpointError: there is no such path and no such shipped checkpoint.
    """
    place = Path(path).expanduser()
    if place.exists():
        return locate(place)
    name = Path(*place.parts[1:]) if place.parts[:1] == ("checkpoints",) else place
    folder = _shipped_folder()
    if folder is not None and not name.is_absolute() and ".." not in name.parts and (folder / name).exists():
        return locate(folder / name)
    shipped = shipped_checkpoints()
    beside = _beside(place)
    meant = did_you_mean(name.as_posix(), shipped) or (f": did you mean {beside!r}?" if beside else "")
    raise CheckpointError(
        f"{path} does not exist and is no shipped checkpoint ({', '.join(shipped) or 'none'}); "
        f"expected nanoGPT's out_dir, a {CHECKPOINT_NAME}, or one of those names" + meant
    )


def _beside(place: Path) -> str:
    """The path most like one that does not exist, in the folder that it would be in; "" where there is none."""
    try:
        names = [path.name for path in place.parent.iterdir() if path.is_dir() or path.suffix in SUFFIXES]
    except OSError:
        return ""
    return "".join(str(place.parent / name) for name in get_close_matches(place.name, names, n=1, cutoff=0.75))


def find_folder(path: str | Path) -> Path:
    """The folder that a path or a shipped name stands for; for a file, the folder that holds it.

    Raises:
        CheckpointError: there is no such path and no such shipped checkpoint.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return place
    return find_checkpoint(path).parent


def shipped_checkpoints() -> list[str]:
    """The names of the checkpoints that come with the package; other seeds look like "induction/seed_1338"."""
    folder = _shipped_folder()
    files = folder.glob(f"**/{CHECKPOINT_NAME}") if folder else ()
    return sorted(file.parent.relative_to(folder).as_posix() for file in files if folder)


def shipped_text(name: str) -> Path | None:
    """The folder of a shipped checkpoint that has text beside it, held out from training; None for any other name."""
    folder = _shipped_folder()
    if folder is None or name not in shipped_checkpoints():
        return None
    return folder / name if (folder / name / VAL_NAME).is_file() else None


def _shipped_folder() -> Path | None:
    """The folder of the shipped checkpoints: in the installed package, or at the top of a checkout; None if neither."""
    if (_PACKAGE / "_checkpoints").is_dir():
        return _PACKAGE / "_checkpoints"
    root = _PACKAGE.parent
    return root / "checkpoints" if (root / "pyproject.toml").is_file() else None
