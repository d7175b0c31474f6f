"""Pickles by instruction: plain data is what Python's own reader makes of it, all else is a record or is refused.

Where a pickle is harmless, `pickle.loads` is the independent second reader.
"""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversion import CheckpointError
from conversion.inert import Record
from conversion.torch_files import read_torch_file

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(folder: Path, pickled: bytes, numbers: bytes = b"") -> Any:
    """The content of an archive of torch.save with this pickle, and with these numbers as its one storage."""
    with zipfile.ZipFile(folder / "ckpt.pt", "w") as archive:
        archive.writestr("ckpt/data.pkl", pickled)
        if numbers:
            archive.writestr("ckpt/data/0", numbers)
    return read_torch_file(folder / "ckpt.pt", mapped=False).content


def refusal(folder: Path, pickled: bytes, numbers: bytes = b"") -> str:
    """The sentence with which such an archive is refused."""
    with pytest.raises(CheckpointError) as caught:
        read(folder, pickled, numbers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


shared = ["twice"]
PLAIN = {
    "numbers": [0, 255, 65535, -1, 2**31, -(2**70), 2**2100, 1.5, float("inf"), True, False, None],
    "texts": ["", "a\nb\\", "ü", "\u2028", "x" * 300, b"", b"\x00\xff", b"y" * 300, bytearray(b"z")],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "sets": [set(), {1, "a"}, frozenset({2.5, None})],
    "again": [shared, shared, {"inside": shared}],
    (1, "key"): {None: {}, 2.5: [[]], b"k": complex(1, -2)},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_what_python_reads(tmp_path, protocol):
    pickled = pickle.dumps(PLAIN, protocol)
    assert read(tmp_path, pickled) == pickle.loads(pickled) == PLAIN
    again = read(tmp_path, pickled)["again"]
    assert again[0] is again[1] is again[2]["inside"]


@pytest.mark.parametrize(
    "pickled",
    [
        b"I7\nN0.",  # POP
        b"I7\n(0.",  # POP of a mark
        b"I7\n(I8\nI9\n1.",  # POP_MARK
        b"I7\n2\x86.",  # DUP
        b"(I1\n(lI2\nl.",  # MARK, LIST
        b"(I1\n(dI2\n]d.",  # DICT
        b"]I1\na(I2\nI3\ne.",  # APPEND, APPENDS
        b"\x80\x04\x8f(K\x01K\x02\x90.",  # EMPTY_SET, ADDITEMS
        b"\x80\x04(K\x01K\x02\x91.",  # FROZENSET
        b"I01\nI00\n\x86.",  # protocol 0's True and False
        b"L7L\nF1.5\nS'a'\n\x87.",
        b"U\x01aT\x01\x00\x00\x00b\x86.",  # Python 2's strings
        b"\x8b\x02\x00\x00\x00\x00\x01\x8a\x01\x07\x86.",  # LONG4, LONG1
        b"\x8d\x01\x00\x00\x00\x00\x00\x00\x00a\x8e\x01\x00\x00\x00\x00\x00\x00\x00b\x86.",
        b"]p5\nI1\nag5\n\x86.",  # PUT, GET
        b"]r\x00\x01\x00\x00j\x00\x01\x00\x00\x86.",  # LONG_BINPUT, LONG_BINGET
        b"c__builtin__\nset\n(lp0\nI1\na\x85R.",  # Python 2's name of a module
        b"(K\x01K\x02i__builtin__\ncomplex\n.",  # INST
        b"(cbuiltins\ncomplex\nK\x01K\x02o.",  # OBJ
        b"\x80\x04ccollections\nOrderedDict\n)}\x92.",  # NEWOBJ_EX
    ],
    ids=repr,
)
def test_every_instruction_for_data_does_what_it_does_in_python(tmp_path, pickled):
    assert read(tmp_path, pickled) == pickle.loads(pickled)


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"Pname\n.", "the instruction PERSID is not for data"),
        (b"\x80\x02\x82\x01.", "the instruction EXT1 is not for data"),
        (b"\x80\x05\x97.", "the instruction NEXT_BUFFER is not for data"),
        (b"cmath\nsqrt\n]R.", "arguments that are no tuple"),
        (b"I7\n)R.", "a call of a int"),
        (b"I7\nI8\na.", "elements of a int"),
        (b"I7\nI8\nI9\ns.", "items of a int"),
        (b"}(I8\nu.", "items of a dict"),
        (b"}]I1\ns.", "a list as a key"),
        (b"}]\x85I1\ns.", "a tuple as a key"),
        (b"\x80\x04I1\nI2\n\x93.", "a name that is no string"),
        (b"\x80\x02]Q.", "not a PyTorch checkpoint"),
        (b"\x80\x02(U\x05otherctorch\nFloatStorage\nU\x010U\x03cpuK\x01tQ.", "a reference that is no storage"),
        (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuU\x01xtQ.", "a reference that is no storage"),
        (b"\x80\x02(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x01tQ.", "no ckpt/data/0"),
        (b"g7\n.", "not a PyTorch checkpoint"),
        (b"0.", "not a PyTorch checkpoint"),
        (b"I7\n", "not a PyTorch checkpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_for_data_is_named(tmp_path, pickled, words):
    assert words in refusal(tmp_path, pickled)


class Bag(list):
    """A list that has a name too."""

    name = ""


class Table(dict):
    """A dictionary that has a name too."""

    name = ""


class Options:
    """An object that is made with names."""

    def __init__(self, **entries: Any) -> None:
        self.__dict__.update(entries)

    def __getnewargs_ex__(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return (3,), {"named": 4}

    def __new__(cls, *_: int, **__: int) -> Options:
        return super().__new__(cls)

    class Inner:
        """A class inside a class."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_of_all_protocols_become_records_of_their_content(tmp_path, protocol):
    bag, table = Bag([1, 2]), Table(a=3)
    bag.name, table.name = "b", "t"
    things = [argparse.Namespace(lr=0.1), bag, table, Options.Inner(), {argparse.Namespace: 1}]
    namespace, bag, table, inner, by_class = read(tmp_path, pickle.dumps(things, protocol))
    assert (namespace.kind, namespace) == ("argparse.Namespace", {"lr": 0.1})
    assert (bag.kind, bag.elements, bag) == (f"{__name__}.Bag", [1, 2], {"name": "b"})
    assert (table.kind, table) == (f"{__name__}.Table", {"a": 3, "name": "t"})
    assert (inner.kind, inner) == (f"{__name__}.Options.Inner", {})
    assert by_class == {"argparse.Namespace": 1}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_an_object_was_made_with_stays(tmp_path, protocol):
    made = read(tmp_path, pickle.dumps(Options(seed=1), protocol))
    assert made["seed"] == 1
    if protocol >= 4:  # earlier ones wrap class and names in functools.partial
        assert (made.kind, made.arguments, made["named"]) == (f"{__name__}.Options", (3,), 4)


def test_the_old_instructions_for_objects_make_records(tmp_path):
    for pickled in (b"(I1\niargparse\nNamespace\n.", b"(cargparse\nNamespace\nI1\no."):
        made = read(tmp_path, pickled)
        assert isinstance(made, Record)
        assert (made.kind, made.arguments) == ("argparse.Namespace", (1,))
    called = read(tmp_path, b"cargparse\nNamespace\n)R(I5\ntR.")  # the call of an object
    assert (called.kind, called.arguments) == ("argparse.Namespace", (5,))
    filled = read(tmp_path, b"\x80\x04cargparse\nNamespace\n)R(K\x01K\x02\x90.")  # ADDITEMS
    assert (filled.kind, filled.elements) == ("argparse.Namespace", [1, 2])
    of_number = read(tmp_path, b"cbuiltins\ngetattr\n(I1\nS'real'\ntR.")  # an attribute of no class
    assert (of_number.kind, of_number.arguments) == ("builtins.getattr", (1, "real"))


@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",
        b"\x80\x04cos\nsystem\nU\x04true\x85}\x92.",
        b"ccopyreg\n__newobj__\n(cos\nsystem\nS'true'\ntR.",
        b"ccopy_reg\n_reconstructor\n(cos\nsystem\nS'true'\nNtR.",
        b"cbuiltins\ngetattr\n(cos\npath\nS'x'\ntR)R.",
    ],
    ids=["INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "__newobj__", "_reconstructor", "getattr"],
)
def test_no_way_of_calling_runs_anything(tmp_path, pickled):
    assert "would run as code; nothing was executed" in refusal(tmp_path, pickled)


def test_an_array_whose_bytes_are_not_as_many_as_its_numbers(tmp_path):
    pickled = pickle.dumps(np.arange(3, dtype=np.int64), 2)
    assert read(tmp_path, pickled).tolist() == [0, 1, 2]
    assert pickled.count(b"K\x03\x85") == 1
    message = refusal(tmp_path, pickled.replace(b"K\x03\x85", b"K\x04\x85"))
    assert "24 bytes for 4 numbers of NumPy's int64" in message


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (b"K\x02\x85", ""),
        (b"K\x02", "sizes of a tensor that are no sizes"),
        (b"N\x85", "sizes of a tensor that are no sizes"),
        (b"J\xff\xff\xff\xff\x85", "sizes of a tensor that are no sizes"),
        (b"K\x01K\x02\x86", "a tensor with other strides than sizes"),
    ],
)
def test_sizes_of_a_tensor(tmp_path, size, words):
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x02tQ"
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + b"K\x01\x85\x89}tR."
    numbers = np.array([3, 4], dtype=np.float32).tobytes()
    if words:
        assert words in refusal(tmp_path, pickled, numbers)
    else:
        assert torch.equal(read(tmp_path, pickled, numbers), torch.tensor([3.0, 4.0]))


def nested(levels: int) -> Any:
    """A list of twice the same list, and so on: small in a file, endless where it is printed."""
    value: Any = []
    for _ in range(levels):
        value = [value, value]
    return value


def test_a_value_that_is_endless_where_it_is_printed(tmp_path):
    pickled = pickle.dumps({"model_args": {"n_head": nested(40)}}, 2)
    assert len(pickled) < 1000
    assert "repeats its own content again and again" in refusal(tmp_path, pickled)
    assert read(tmp_path, pickle.dumps(nested(10), 2)) == nested(10)
    circle: list[Any] = [1]
    circle.append(circle)
    read_circle = read(tmp_path, pickle.dumps(circle, 2))
    assert read_circle[1] is read_circle


def test_a_circle_through_an_object_is_read_once(tmp_path):
    child, parent = argparse.Namespace(), argparse.Namespace()
    child.parent, parent.children = parent, [child, child]
    made = read(tmp_path, pickle.dumps(parent, 2))
    assert made["children"][0]["parent"] is made
    assert made["children"][0] is made["children"][1]


@pytest.mark.parametrize("name", ["pathlib\nPath", "torch\ndevice"])
def test_a_name_that_would_be_endless(tmp_path, name):
    value = pickle.dumps(nested(40), 2).removeprefix(b"\x80\x02").removesuffix(b".")
    pickled = b"\x80\x02c" + name.encode() + b"\n" + value + b"\x85R."
    assert "parts of a name that are no words" in refusal(tmp_path, pickled)


BIG = b"}(" + b"".join(b"K%cK\x00" % i for i in range(256)) + b"u"
"""A dictionary of 256 numbers."""


@pytest.mark.parametrize(
    "again",
    [
        b"cm\nK\n)Rh\x00b0",
        b"cm\nK\n)R}U\x08__dict__h\x00sb0",
        b"cm\nK\n)Rh\x00h\x00\x86b0",
        b"cm\nK\n)h\x00\x920",
        b"ccopyreg\n_reconstructor\n(cm\nK\nNh\x00tR0",
        b"ccollections\nOrderedDict\nh\x00\x85R0",
    ],
    ids=["BUILD", "BUILD of an inner one", "BUILD of two", "NEWOBJ_EX", "_reconstructor", "a known class"],
)
def test_a_dictionary_that_is_copied_into_thousands_of_objects(tmp_path, again):
    read(tmp_path, b"\x80\x04" + BIG + b"q\x00" + again * 20 + b".")
    message = refusal(tmp_path, b"\x80\x04" + BIG + b"q\x00" + again * 5000 + b".")
    assert "copies its own content again and again" in message
