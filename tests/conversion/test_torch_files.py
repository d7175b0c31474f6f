"""The archive of torch.save: byte orders, alignment, entries that lie about where and how large they are."""

from __future__ import annotations

import struct
import zipfile

import pytest
import torch

from conversion import CheckpointError, read_checkpoint
from tests.making import content, random_state, write


def rewritten(folder, change, compression=zipfile.ZIP_STORED):
    """The archive with its entries changed by a function of their names and bytes."""
    file = write(folder)
    with zipfile.ZipFile(file) as old:
        entries = {name: change(name, old.read(name)) for name in old.namelist()}
    with zipfile.ZipFile(file, "w", compression) as new:
        for name, data in entries.items():
            new.writestr(name, data)
    return file


def same(read):
    return all(torch.equal(read.state_dict[name], tensor) for name, tensor in random_state().items())


@pytest.mark.parametrize("optimizer", [False, True])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_numbers_of_the_other_byte_order(tmp_path, compression, optimizer):
    def big(name, data):
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" not in name:
            return data
        return struct.pack(f">{len(data) // 4}f", *struct.unpack(f"<{len(data) // 4}f", data))

    read = read_checkpoint(rewritten(tmp_path, big, compression), optimizer=optimizer)
    assert same(read)
    assert read.best_val_loss == 1.25


@pytest.mark.parametrize("optimizer", [False, True])
def test_numbers_that_are_not_aligned(tmp_path, optimizer):
    """zipfile writes without the padding that torch.save puts before its numbers."""
    assert same(read_checkpoint(rewritten(tmp_path, lambda name, data: data), optimizer=optimizer))


@pytest.mark.parametrize("new_format", [True, False])
def test_views_of_shared_storages(tmp_path, new_format):
    whole = torch.cat([tensor.flatten() for tensor in random_state().values()])
    state, start = {}, 0
    for name, tensor in random_state().items():
        state[name] = whole[start : start + tensor.numel()].view(tensor.shape)
        start += tensor.numel()
    state["transformer.wpe.weight"] = state["transformer.wpe.weight"].T.contiguous().T
    torch.save(content(state), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=new_format)
    assert same(read_checkpoint(tmp_path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x10\x86q", b"K\x11\x86q"),  # a width of 17
        (b"K\x10K\x01\x86q", b"K\x20K\x01\x86q"),  # rows that lie further apart than the numbers are many
    ],
)
def test_no_tensor_reaches_beyond_its_storage(tmp_path, old, new):
    def change(name, data):
        assert not name.endswith("data.pkl") or old in data
        return data.replace(old, new, 1) if name.endswith("data.pkl") else data

    with pytest.raises(CheckpointError, match="a tensor of shape .* in a storage of"):
        read_checkpoint(rewritten(tmp_path, change))


def test_entries_that_overlap(tmp_path):
    """Many names for one place in the file: as much memory as there are names."""
    file = write(tmp_path)
    with zipfile.ZipFile(file, "a") as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        for i in range(30):
            again = zipfile.ZipInfo(f"ckpt/data/x{i}")
            again.header_offset, again.file_size = entry.header_offset, entry.file_size
            again.compress_size, again.CRC = entry.compress_size, entry.CRC
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(CheckpointError, match="its entries say that they have"):
        read_checkpoint(file)


def test_a_pickle_that_inflates(tmp_path):
    file = rewritten(
        tmp_path, lambda n, data: b"\x80\x02" + b"}" * 3_000_000 if n.endswith("pkl") else data, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(CheckpointError, match="made to fill the memory"):
        read_checkpoint(file)


def test_a_torchscript_program(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "ckpt.pt"))
    with pytest.raises(CheckpointError, match="is a TorchScript archive, which is a program"):
        read_checkpoint(tmp_path)


class Marked(torch.Tensor):
    """A class of tensors, as several packages have one for tensors with more to them."""


def marked(tensor):
    """The tensor with an attribute, which makes torch.save write it in another way."""
    tensor.where_from = "here"
    return tensor


@pytest.mark.parametrize(
    "change",
    [marked, lambda t: t.as_subclass(Marked), torch.nn.Parameter, lambda t: marked(torch.nn.Parameter(t))],
    ids=["attribute", "class", "parameter", "parameter with an attribute"],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_with_more_to_them_are_tensors(tmp_path, new_format, change):
    state = {name: change(tensor.clone()) for name, tensor in random_state().items()}
    torch.save(content(state), tmp_path / "ckpt.pt", _use_new_zipfile_serialization=new_format)
    read = read_checkpoint(tmp_path)
    assert same(read)
    assert {type(tensor) for tensor in read.state_dict.values()} == {torch.Tensor}


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.complex64])
def test_numbers_of_every_kind_beside_the_weights(tmp_path, dtype):
    numbers = torch.tensor([[1, 2, 3], [4, 5, 6]]).to(dtype)
    write(tmp_path, content() | {"config": {"numbers": numbers.T}})
    found = read_checkpoint(tmp_path).run_config["numbers"]
    assert found.dtype == dtype
    assert found.tolist() == numbers.T.tolist()


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_weights_are_refused_and_elsewhere_they_are_data(tmp_path):
    quantised = torch.quantize_per_tensor(random_state()["transformer.wte.weight"], 0.1, 0, torch.qint8)
    read = read_checkpoint(write(tmp_path, content() | {"config": {"kept": quantised}}))
    assert same(read)
    assert any("read as data, without their code: torch._utils._rebuild_qtensor" in note for note in read.notes)
    write(tmp_path, content(random_state() | {"transformer.wte.weight": quantised}))
    with pytest.raises(CheckpointError, match=r"model\['transformer.wte.weight'\] is a .*; expected a tensor"):
        read_checkpoint(tmp_path)


def test_an_old_file_that_is_cut_or_has_a_storage_too_early(tmp_path):
    file = tmp_path / "ckpt.pt"
    torch.save(content(), file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    assert same(read_checkpoint(file))
    file.write_bytes(data[:-100])
    with pytest.raises(
        CheckpointError, match=rf"truncated: {len(data) - 100} bytes, and the storages end at {len(data)}"
    ):
        read_checkpoint(file)
    file.write_bytes(b"\x80\x02)Q." + data)
    with pytest.raises(CheckpointError, match="a storage where there is none"):
        read_checkpoint(file)
    file.write_bytes(b"\x80\x02K\x01." + data)
    with pytest.raises(CheckpointError, match="another kind of file"):
        read_checkpoint(file)


def test_more_than_fits_into_the_memory(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr("conversion.inert.Machine.run", full)
    with pytest.raises(CheckpointError, match=r"ckpt\.pt says that it holds more than fits into the memory"):
        read_checkpoint(write(tmp_path))
