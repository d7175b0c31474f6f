"""Compact checkpoints: rounding against exact fractions, and files that everything still reads."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from conversion import GPT, CheckpointError, ConversionError, read_checkpoint, save_checkpoint, save_compact
from conversion.compact import compact
from tests.making import content, random_state, write, write_meta

ROOT = Path(__file__).parents[2]
BITS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


def nearest(value: float, bits: int) -> Fraction:
    """The nearest number with 5 bits of exponent and `bits` of mantissa, ties to even, without floating point."""
    exact = abs(Fraction(value))
    step = Fraction(1, 2 ** (14 + bits))  # of the subnormal numbers, and of the lowest normal ones
    while exact >= step * 2 ** (bits + 1):
        step *= 2
    return round(exact / step) * step * (-1 if value < 0 else 1)  # Python rounds fractions half to even


def with_values(tmp_path: Path, values: list[float], dtype: torch.dtype):
    """A checkpoint that holds these values in its position embedding."""
    state = random_state(dtype=dtype)
    flat = state["transformer.wpe.weight"].view(-1)
    assert len(values) <= len(flat)
    flat[: len(values)] = torch.tensor(values, dtype=dtype)
    return read_checkpoint(write(tmp_path, content(state)))


@pytest.mark.parametrize("bits", BITS)
def test_rounding_is_that_of_exact_fractions(tmp_path, bits):
    generator = np.random.default_rng(bits)
    wide = generator.normal(size=60) * 2.0 ** generator.integers(-30, 15, size=60)
    ties = [(2 * k + 1) * 2.0 ** (e - bits - 1) for e in (-14, -3, 0, 9) for k in (2**bits // 2, 2**bits - 1)]
    # just beside a tie of `bits` bits, closer to it than float16 can tell: rounding twice would go astray
    beside = [t * (1 + s * 2.0**-40) for t in ties for s in (-1, 1)]
    steps = [k * 2.0 ** -(15 + bits) for k in range(-9, 10)]
    special = [0.0, -0.0, 1.0, -1.0, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 1e-300, 5e-324, -1e-40]
    values = [*wide, *ties, *(-t for t in ties), *beside, *steps, *special]
    got = compact(with_values(tmp_path, values, torch.float64), bits=bits).state_dict["transformer.wpe.weight"]
    assert got.dtype == torch.float16
    for value, rounded in zip(values, got.view(-1).tolist(), strict=False):
        assert Fraction(rounded) == nearest(value, bits), value
        assert np.signbit(rounded) == np.signbit(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", BITS)
def test_the_error_is_bounded_and_the_mantissa_short(tmp_path, bits, dtype):
    checkpoint = read_checkpoint(write(tmp_path, dtype=dtype))
    small = compact(checkpoint, bits=bits)
    for name, rounded in small.state_dict.items():
        exact = checkpoint.state_dict[name].double()
        normal = exact.abs() >= 2.0**-14
        error = (rounded.double() - exact).abs()
        assert (error[normal] <= exact[normal].abs() * 2.0 ** -(bits + 1)).all()
        assert (error[~normal] <= 2.0 ** -(15 + bits)).all()
        patterns = rounded.numpy().view(np.uint16)
        assert not (patterns & (2 ** (10 - bits) - 1)).any()
    again = compact(small, bits=bits)
    assert all(torch.equal(again.state_dict[name], tensor) for name, tensor in small.state_dict.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_bits_are_plain_float16(tmp_path, dtype):
    checkpoint = read_checkpoint(write(tmp_path, dtype=dtype))
    plain = checkpoint.to(torch.float16)
    assert all(torch.equal(plain.state_dict[k], v) for k, v in compact(checkpoint).state_dict.items())


@pytest.mark.parametrize("bits", [4, 10])
def test_what_float16_cannot_hold_is_refused(tmp_path, bits):
    largest = (2 - 2.0**-bits) * 2.0**15
    held = compact(with_values(tmp_path, [largest], torch.float32), bits=bits)
    assert held.state_dict["transformer.wpe.weight"][0, 0] == largest
    too_large = with_values(tmp_path, [-(2 - 2.0 ** -(bits + 1)) * 2.0**15], torch.float32)
    with pytest.raises(CheckpointError, match=r"transformer\.wpe\.weight has values.*beyond 65,504.*save_checkpoint"):
        compact(too_large, bits=bits)
    too_large.state_dict["transformer.wpe.weight"][0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"transformer\.wpe\.weight has values that are not finite"):
        save_compact(too_large, tmp_path / "new.pt", bits=bits)
    assert not (tmp_path / "new.pt").exists()


@pytest.mark.parametrize("bits", [0, 11, -1, 5.0, True, "5"])
def test_bits_that_mean_nothing_are_refused(tmp_path, bits):
    checkpoint = read_checkpoint(write(tmp_path))
    with pytest.raises(ConversionError, match="bits is .*expected a whole number from 1 to 10"):
        compact(checkpoint, bits=bits)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tie_is_kept_and_nothing_else_is_tied(tmp_path, tied):
    state = random_state()
    if not tied:
        state["lm_head.weight"] = state["lm_head.weight"] * 3
    checkpoint = read_checkpoint(write(tmp_path, content(state)))
    small = compact(checkpoint, bits=5)
    assert (small.state_dict["lm_head.weight"] is small.state_dict["transformer.wte.weight"]) is tied
    read = read_checkpoint(save_compact(checkpoint, tmp_path / "new", bits=5))
    assert read.config == checkpoint.config
    assert (read.state_dict["lm_head.weight"] is read.state_dict["transformer.wte.weight"]) is tied
    assert sum(n.startswith("archive/data/") for n in zipfile.ZipFile(read.path).namelist()) == len(state) - tied


@pytest.mark.parametrize("bits", [10, 5])
def test_what_is_written_is_read(tmp_path, bits):
    write_meta(tmp_path)
    checkpoint = read_checkpoint(write(tmp_path), optimizer=True)
    before = {name: tensor.clone() for name, tensor in checkpoint.state_dict.items()}
    small = compact(checkpoint, bits=bits)
    file = save_compact(checkpoint, tmp_path / "new", bits=bits)
    assert {entry.compress_type for entry in zipfile.ZipFile(file).infolist()} == {zipfile.ZIP_DEFLATED}
    assert zipfile.ZipFile(file).testzip() is None
    raw = torch.load(file, weights_only=True)  # as nanoGPT's sample.py does
    read = read_checkpoint(file)
    for name, tensor in small.state_dict.items():
        assert torch.equal(read.state_dict[name], tensor)
        assert torch.equal(raw["model"][name], tensor)
    assert "optimizer" not in raw
    assert raw["model_args"] == checkpoint.model_args
    assert read.run_config == {**checkpoint.run_config, "stored": {"dtype": "float16", "mantissa_bits": bits}}
    assert (read.iter_num, read.best_val_loss, read.vocabulary.chars) == (7, 1.25, checkpoint.vocabulary.chars)
    assert "stored" not in checkpoint.run_config
    assert checkpoint.optimizer is not None
    assert all(torch.equal(checkpoint.state_dict[name], tensor) for name, tensor in before.items())


def test_bytes_are_the_same_in_another_process(tmp_path):
    write(tmp_path)
    code = (
        "import sys; from conversion import read_checkpoint, save_compact; "
        "save_compact(read_checkpoint(sys.argv[1]), sys.argv[2], bits=5)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, tmp_path / "theirs.pt"], check=True, cwd=ROOT)
    ours = save_compact(read_checkpoint(tmp_path), tmp_path / "ours.pt", bits=5)
    assert ours.read_bytes() == (tmp_path / "theirs.pt").read_bytes()
    assert {entry.date_time for entry in zipfile.ZipFile(ours).infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint = read_checkpoint(write(tmp_path))
    file = save_compact(checkpoint, tmp_path / "new.pt")
    before = file.read_bytes()

    def full(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(OSError, match="no space left"):
        save_compact(checkpoint, file, bits=5)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt.pt", "new.pt"]


def test_the_shipped_model_at_five_bits(tmp_path):
    """A third of the size, smaller than deflate's default strategy makes it, and nearly the same predictions."""
    checkpoint = read_checkpoint(ROOT / "checkpoints" / "shakespeare_char")
    file = save_compact(checkpoint, tmp_path / "small.pt", bits=5)
    default = tmp_path / "default.pt"
    with zipfile.ZipFile(file) as ours, zipfile.ZipFile(default, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as theirs:
        for name in ours.namelist():
            theirs.writestr(name, ours.read(name))
    assert file.stat().st_size < 0.98 * default.stat().st_size
    assert file.stat().st_size < 0.34 * checkpoint.path.stat().st_size
    text = "ROMEO:\nWhat light through yonder window breaks?\nJULIET:\nO"
    tokens = torch.from_numpy(checkpoint.vocabulary.encode(text))[None]
    with torch.no_grad():
        before, after = (
            GPT.from_checkpoint(c, dtype=torch.float64)(tokens).log_softmax(-1)
            for c in (checkpoint, read_checkpoint(file, meta=checkpoint.vocabulary))
        )
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    assert 0 < divergence < 2e-3


def test_other_ways_of_saving_are_as_they_were(tmp_path):
    """Plain float16 stays an archive that can be mapped."""
    checkpoint = read_checkpoint(write(tmp_path))
    file = save_checkpoint(compact(replace(checkpoint, vocabulary=None), bits=7), tmp_path / "plain.pt")
    assert {entry.compress_type for entry in zipfile.ZipFile(file).infolist()} == {zipfile.ZIP_STORED}
    assert torch.load(file, weights_only=True, mmap=True)["config"]["stored"]["mantissa_bits"] == 7


def deflated(file: Path, target: Path, change=lambda name, data: data) -> Path:
    """The archive as another ZIP program would compress it, its entries changed on the way."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def test_a_deflated_archive_is_read_and_mapping_it_would_not_do(tmp_path):
    file = write(tmp_path)
    expected = read_checkpoint(file)
    other = deflated(file, tmp_path / "deflated.pt")
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("ckpt/padding", bytes(file.stat().st_size))  # so that every tensor ends inside the file
    wrong = torch.load(other, weights_only=True, mmap=True)["model"]
    assert not all(torch.equal(expected.state_dict[name], wrong[name]) for name in wrong)
    for optimizer in (False, True):
        read = read_checkpoint(other, optimizer=optimizer)
        assert all(torch.equal(expected.state_dict[name], tensor) for name, tensor in read.state_dict.items())
        assert read.run_config == expected.run_config


def test_cut_deflated_archives_give_one_clear_error(tmp_path):
    data = save_compact(read_checkpoint(write(tmp_path)), tmp_path / "whole.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    for length in (4, 100, len(data) // 2, len(data) - 30, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.pt is (truncated|not a PyTorch checkpoint, or is damaged)"):
            read_checkpoint(cut)


def test_damaged_deflated_archives_are_never_misread(tmp_path):
    """Whichever byte is damaged, there is one error, or the damage is where nothing is read."""
    expected = compact(read_checkpoint(write(tmp_path)))
    data = save_compact(expected, tmp_path / "whole.pt").read_bytes()
    generator, refused = np.random.default_rng(0), 0
    damaged = tmp_path / "damaged.pt"
    headers = range(data.index(b"PK\x01\x02"), len(data), 7)  # the directory at the end, where sizes are stated
    for place in [*generator.integers(len(data), size=150).tolist(), *headers]:
        broken = bytearray(data)
        broken[place] ^= 1 << int(generator.integers(8))
        damaged.write_bytes(broken)
        try:
            read = read_checkpoint(damaged)
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(expected.state_dict[name], tensor) for name, tensor in read.state_dict.items())
    assert refused > 150


def test_an_entry_longer_or_shorter_than_its_tensor_is_refused(tmp_path):
    file = write(tmp_path)
    for change in (lambda data: data + bytes(2**20), lambda data: data[:100]):
        lying = deflated(file, tmp_path / "lying.pt", lambda n, d, c=change: c(d) if n.endswith("data/0") else d)
        with pytest.raises(CheckpointError, match=r"lying\.pt is .*damaged \(record size"):
            read_checkpoint(lying)


@pytest.mark.parametrize(("entry", "claim"), [("data/0", 2**31), ("data.pkl", 2**25)])
def test_a_bomb_is_refused_before_anything_is_inflated(tmp_path, entry, claim):
    bomb = deflated(write(tmp_path), tmp_path / "bomb.pt")
    data = bytearray(bomb.read_bytes())
    with zipfile.ZipFile(bomb) as archive:
        name = next(name for name in archive.namelist() if name.endswith(entry))
    for signature, size_at, name_at in ((b"PK\x01\x02", 24, 46), (b"PK\x03\x04", 22, 30)):
        header = re.search(re.escape(signature) + b"." * (name_at - 4) + re.escape(name.encode()), data, re.DOTALL)
        assert header
        data[header.start() + size_at : header.start() + size_at + 4] = claim.to_bytes(4, "little")
    bomb.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"bomb\.pt has .* bytes and says that .* made to fill the memory"):
        read_checkpoint(bomb)


def test_much_air_in_a_checkpoint_is_no_bomb(tmp_path):
    """A hand-made model is nearly all zeros, and compresses a hundredfold."""
    stored = content(n_embd=128)
    for tensor in stored["model"].values():
        tensor.view(-1)[3:] = 0
    file = deflated(write(tmp_path, stored), tmp_path / "air.pt")
    assert file.stat().st_size * 30 < (tmp_path / "ckpt.pt").stat().st_size
    read = read_checkpoint(file)
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in stored["model"].items())
