"""Damaged and hostile files for the reader of checkpoints: `make fuzz`, or `python -m scripts.fuzz --seconds 180`.

Each execution takes one of the files below (`torch.save`'s archive, deflated or old, safetensors with its config.json
in one file or two, llm.c's), changes some of its bytes, entries, pickle instructions or header fields, and reads it.
What must hold every time:

- the file is read, or there is one `CheckpointError` or `VocabularyError` of one printable sentence that names it;
- nothing is imported, opened for writing, started or connected to (an audit hook watches what Python itself reports);
- the memory of the process grows at its peak by at most MULTIPLE times the file and CONSTANT bytes.

A crash of the process would end the run with the seed of the file, which is left in `--folder`.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import random
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from conversion.checkpoint import read_checkpoint
from conversion.errors import CheckpointError, VocabularyError

MULTIPLE, CONSTANT = 40, 2**25
_SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 4, "block_size": 5, "vocab_size": 7}
_HEADER = (20240326, 3, 5, 7, 1, 2, 4, 8)
_FORBIDDEN = (
    "import",
    "exec",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "shutil.rmtree",
    "ctypes.dlopen",
    "pickle.find_class",
)
_PIECES = (
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"cposix\nmkdir\n",
    b"c__main__\nX\n",
    b"(X\x01\x00\x00\x00atR",
    b"\x81",
    b"b",
    b"R",
    b"2",
    b"0",
    b"h\x00",
    b"j\xff\xff\xff\xff",
    b"r\xff\xff\xff\x7f",
    b"\x8a\xff",
    b"]",
    b"}",
    b")",
    b"(",
    b"e",
    b"u",
    b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b"cnumpy\ndtype\n",
    b"cnumpy._core.multiarray\nscalar\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"Q",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\xff\xff\xff\x7f",
    b".",
)


def seeds() -> dict[str, tuple[bytes, dict[str, bytes]]]:
    """The files that are damaged, by name: the bytes of the checkpoint, and the files beside it."""
    from conversion.config import NanoGPTConfig

    generator = torch.Generator().manual_seed(0)
    state = {n: torch.randn(s, generator=generator) for n, s in NanoGPTConfig(**_SIZES).shapes().items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    content: dict[str, Any] = {
        "model": state,
        "model_args": {**_SIZES, "bias": True},
        "iter_num": np.int64(3),
        "best_val_loss": np.float64(1.5),
        "config": argparse.Namespace(losses=np.arange(4.0), path=Path("a"), values={1, 2}),
    }
    files: dict[str, tuple[bytes, dict[str, bytes]]] = {}
    for name, options in (
        ("zip", {}),
        ("old", {"_use_new_zipfile_serialization": False}),
        ("p4", {"pickle_protocol": 4}),
    ):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        files[f"{name}.pt"] = buffer.getvalue(), {}
    deflated = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(files["zip.pt"][0])) as old,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    files["deflated.pt"] = deflated.getvalue(), {}
    own = {name: tensor.clone() for name, tensor in state.items()}
    files["model.safetensors"] = safetensors_bytes(own), {"config.json": json.dumps(_SIZES).encode()}
    shards = {f"model-0000{i}-of-00002.safetensors": dict(list(own.items())[i - 1 :: 2]) for i in (1, 2)}
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    beside = {file: safetensors_bytes(part) for file, part in shards.items()}
    files["model.safetensors.index.json"] = json.dumps(index).encode(), {**files["model.safetensors"][1], **beside}
    head = np.zeros(256, dtype="<i4")
    head[: len(_HEADER)] = _HEADER
    n = 8 * 4 + 5 * 4 + 12 * 16 + 13 * 4 + 2 * 4  # wte with padding, wpe, one block, ln_f
    files["model.bin"] = head.tobytes() + np.arange(n, dtype="<f4").tobytes(), {}
    return files


def _flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def _insert(data: bytearray, draw: random.Random) -> None:
    place = draw.randrange(len(data))
    data[place:place] = draw.choice((draw.randbytes(draw.randrange(1, 9)), draw.choice(_PIECES)))


def _number(data: bytearray, draw: random.Random) -> None:
    """A field of four or eight bytes with an extreme value, often near an end, where headers are."""
    width = draw.choice((2, 4, 8))
    end = draw.choice((len(data), min(len(data), 1024), 64))
    place = draw.randrange(max(1, min(end, len(data)) - width))
    value = draw.choice((0, 1, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, draw.randrange(300)))
    data[place : place + width] = struct.pack("<Q", value)[:width]


def _move(data: bytearray, draw: random.Random) -> None:
    start, length, to = draw.randrange(len(data)), draw.randrange(1, 64), draw.randrange(len(data))
    piece = data[start : start + length]
    if draw.random() < 0.5:
        del data[start : start + length]
    data[to:to] = piece


def _word(data: bytearray, draw: random.Random) -> None:
    """A word of a header or a pickle becomes another."""
    words = (
        b"F32",
        b"model-00001",
        b"../",
        b"BF16",
        b"I64",
        b"data_offsets",
        b"shape",
        b"n_head",
        b"vocab_size",
        b"storage",
        b"torch",
        b"FloatStorage",
        b"model",
        b"transformer",
        b"numpy",
        b"OrderedDict",
        b"K\x04",
        b"K\x07",
        b"\x86",
        b"\x85",
    )
    old, new = draw.choice(words), draw.choice((*words, b"", b"99999999999", b"-1", b"[" * 2000))
    place = data.find(old, draw.randrange(len(data)))
    if place >= 0:
        data[place : place + len(old)] = new


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _cut, _insert, _number, _move, _word)


def damaged(name: str, data: bytes, draw: random.Random) -> bytes:
    """The file with one to three changes: anywhere, or in one entry of an archive that is written whole again."""
    if name.endswith(".pt") and name != "old.pt" and draw.random() < 0.7:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", draw.choice((0, 0, 8))) as new:
            names = old.namelist()
            target = draw.choice((*[n for n in names if n.endswith("data.pkl")] * len(names), *names))
            for entry in names:
                content = bytearray(old.read(entry))
                for _ in range(draw.randrange(1, 4) if entry == target and content else 0):
                    if content:
                        draw.choice(CHANGES)(content, draw)
                new.writestr(entry, bytes(content))
        return made.getvalue()
    changed = bytearray(data)
    if name == "model.safetensors" and draw.random() < 0.5:  # in the header, which says how long it is
        length = int.from_bytes(changed[:8], "little")
        header = changed[8 : 8 + length]
        draw.choice(CHANGES)(header, draw)
        changed[: 8 + length] = len(header).to_bytes(8, "little") + header
    for _ in range(draw.randrange(1, 4)):
        if changed:
            draw.choice(CHANGES)(changed, draw)
    return bytes(changed)


@dataclass
class Watch:
    """What Python reports of its own doing while a file is read."""

    on: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        """See `sys.addaudithook`."""
        if not self.on:
            return
        writing = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event in _FORBIDDEN or writing:
            self.seen.append(f"{event} {arguments!r:.100}")


class Memory:
    """The memory of this process in a block: what was used at most beyond what was used before (Linux only)."""

    used = 0

    def __enter__(self) -> Memory:
        Path("/proc/self/clear_refs").write_text("5")  # the highest use begins anew
        self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.used = max(0, _status("VmHWM") - self._before)


def _status(name: str) -> int:
    """A number of bytes from what Linux says of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def fuzz(
    folder: Path, *, seed: int, executions: int | None = None, seconds: float = 60.0, watch: Watch
) -> Counter[str]:
    """Read damaged files until their number or the time is reached.

    Returns:
        How many were read, how many refused, and the largest memory for a file, in percent of what is allowed.

    Raises:
        AssertionError: something that must hold did not; the file is in `folder`, and the message names its seed.
    """
    files, results, end = seeds(), Counter[str](), time.monotonic() + seconds
    for encoding in ("raw_unicode_escape", "unicode_escape", "latin-1", "ascii", "utf-16", "cp437"):
        codecs.lookup(encoding)
    for name, (data, _) in files.items():  # everything is imported and made once before anything is watched
        _write(folder, name, data, files[name][1])
        assert _read(folder / name, watch) == "read", name
        _write(folder, name, data[:-9], {})
        _read(folder / name, watch)
    while results["executions"] != executions and time.monotonic() < end:
        draw = random.Random(f"{seed}.{results['executions']}")
        name = draw.choice(list(files))
        data, beside = files[name]
        changed = damaged(name, data, draw)
        if beside and draw.random() < 0.3:
            other = draw.choice(sorted(beside))
            content = bytearray(beside[other])
            draw.choice(CHANGES)(content, draw)
            beside = {**beside, other: bytes(content)}
        _write(folder, name, changed, beside)
        place = f"seed {seed}, execution {results['executions']}, {folder / name}"
        with Memory() as memory:
            outcome = _read(folder / name, watch)
        assert not watch.seen, f"{place}: {watch.seen}"
        allowed = MULTIPLE * (len(changed) + sum(map(len, beside.values()))) + CONSTANT
        assert memory.used <= allowed, f"{place}: {memory.used:,} bytes for a file of {len(changed):,}"
        results["executions"] += 1
        results[outcome] += 1
        results[f"{name}: {outcome}"] += 1
        results["memory, percent"] = max(results["memory, percent"], 100 * memory.used // allowed)
    return results


def _write(folder: Path, name: str, data: bytes, beside: dict[str, bytes]) -> None:
    (folder / name).write_bytes(data)
    (folder / "config.json").unlink(missing_ok=True)
    for other, content in beside.items():
        (folder / other).write_bytes(content)


def _read(file: Path, watch: Watch) -> str:
    """Read a file: "read", or "refused" in one sentence; everything else is a finding."""
    optimizer = bool(file.stat().st_size % 2)
    watch.seen, watch.on = [], True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_checkpoint(file, act_fn="gelu", optimizer=optimizer)
        return "read"
    except (CheckpointError, VocabularyError) as error:
        sentence = str(error)
    finally:
        watch.on = False
    assert sentence.isprintable(), repr(sentence)
    assert str(file.parent) in sentence, f"a sentence that names no file: {sentence}"
    assert len(sentence) < 2000, f"{sentence[:200]} ..."
    return "refused"


def main() -> None:
    """Fuzz for some time, and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the file that is read lies; by default a new one"
    )
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder.mkdir(exist_ok=True)
    watch = Watch()
    sys.addaudithook(watch.hook)
    results = fuzz(folder, seed=options.seed, seconds=options.seconds, watch=watch)
    print(f"seed {options.seed}: " + ", ".join(f"{name} {count:,}" for name, count in sorted(results.items())))


if __name__ == "__main__":
    main()
