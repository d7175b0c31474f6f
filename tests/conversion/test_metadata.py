"""What stands beside the weights: NumPy's values are read, other objects become records, and nothing is run."""

from __future__ import annotations

import argparse
import collections
import enum
import os
import pathlib
import pickle
import types
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from conversion import CheckpointError, read_checkpoint, save_checkpoint
from tests.making import content, random_state, write

SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 12, "vocab_size": 65}


class Phase(enum.Enum):
    TRAINING = 1


class EasyDict(dict):
    """A dictionary whose entries are attributes too, as several packages have it."""

    def __init__(self, **entries):
        super().__init__(entries)
        self.__dict__.update(entries)


@dataclass
class GPTConfig:
    block_size: int = 12
    vocab_size: int = 65
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 16


@dataclass(slots=True)
class SlottedConfig:
    block_size: int = 12
    vocab_size: int = 65
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 16
    dropout: float = 0.1
    bias: bool = True


class CfgNode:
    """minGPT's."""

    def __init__(self, **entries):
        self.__dict__.update(entries)


@dataclass
class Module:
    """A configuration with another one inside."""

    model: GPTConfig = field(default_factory=GPTConfig)
    lr: float = 1e-3


def saved(folder, what, **options):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(what, folder / "ckpt.pt", **options)
    return folder / "ckpt.pt"


FORMATS = [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}]


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy", "protocol 4"])
@pytest.mark.parametrize("loss", [np.mean([3.1, 3.2]), np.float32(3.125), np.array(3.25), np.longlong(3)])
def test_numbers_of_numpy(tmp_path, options, loss):
    read = read_checkpoint(saved(tmp_path, content() | {"best_val_loss": loss, "iter_num": np.int64(9)}, **options))
    assert read.best_val_loss == float(loss)
    assert read.iter_num == 9


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.array([True, False]),
        np.zeros((0, 3), dtype=np.float16),
        np.array(["a", "bc"]),
    ],
    ids=str,
)
def test_arrays_of_numpy(tmp_path, array, protocol):
    read = read_checkpoint(saved(tmp_path, content() | {"config": {"losses": array}}, pickle_protocol=protocol))
    got = read.run_config["losses"]
    assert (got.tolist() if isinstance(got, torch.Tensor) else got) == array.tolist()


def test_weights_of_numpy_are_weights(tmp_path):
    state = random_state()
    write(tmp_path, content({name: tensor.numpy() for name, tensor in state.items()}))
    read = read_checkpoint(tmp_path)
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    "value", [np.datetime64("2023-01-01"), np.array([{"a": 1}, None]), np.array([(1, 2.5)], "i4,f8")]
)
def test_what_numpy_has_no_numbers_for_is_left_as_its_bytes(tmp_path, value):
    read = read_checkpoint(saved(tmp_path, content() | {"config": {"value": value, "after": 3}}))
    assert read.run_config["after"] == 3
    assert list(read.run_config["value"]) == ["arguments"]
    assert read_checkpoint(save_checkpoint(read, tmp_path / "again.pt")).run_config == read.run_config


def test_other_objects_become_plain_data(tmp_path):
    config = {
        "type": np.dtype("float16"),
        "namespace": argparse.Namespace(lr=0.1, betas=(0.9, 0.95)),
        "simple": types.SimpleNamespace(a=np.float64(2.0)),
        "easy": EasyDict(x=1),
        "path": pathlib.Path("/runs/a"),
        "phase": Phase.TRAINING,
        "default": collections.defaultdict(list, {"k": [1]}),
        "ordered": collections.OrderedDict(b=1, a=2),
        "queue": collections.deque([1, 2], 3),
        "dtype": torch.bfloat16,
        "device": torch.device("cuda", 0),
        "size": torch.Size([2, 3]),
        "set": {1, 2},
        "raw": b"\x00\xff",
        "big": 2**90,
        "keys": {Phase.TRAINING: 1, (1, 2): 3},
    }
    read = read_checkpoint(write(tmp_path, content() | {"config": config}))
    got = read.run_config
    assert got["type"] == "f2"
    assert got["namespace"] == {"lr": 0.1, "betas": (0.9, 0.95)}
    assert (got["simple"], got["easy"], got["path"]) == ({"a": 2.0}, {"x": 1}, "/runs/a")
    assert got["phase"] == {"arguments": (1,)}
    assert (got["default"], got["ordered"], got["queue"]) == ({"k": [1]}, {"b": 1, "a": 2}, [1, 2])
    assert (got["dtype"], got["device"], got["size"], got["set"]) == (torch.bfloat16, "cuda:0", (2, 3), {1, 2})
    assert (got["raw"], got["big"]) == (b"\x00\xff", 2**90)
    assert list(got["keys"].values()) == [1, 3]
    assert any("read as data, without their code: " in note and "argparse.Namespace" in note for note in read.notes)
    again = read_checkpoint(save_checkpoint(read, tmp_path / "again.pt"))  # all of it can be written and read again
    assert again.run_config == got


@pytest.mark.parametrize(
    ("place", "config"),
    [
        ("config", GPTConfig()),
        ("config", SlottedConfig()),
        ("model_config", SIZES),
        ("hyper_parameters", EasyDict(**SIZES)),
        ("hyper_parameters", {"config": GPTConfig(), "learning_rate": 1e-3}),
        ("args", argparse.Namespace(**SIZES, lr=1e-3, batch_size=8, out_dir="x", weight_decay=0.1, seed=1)),
        ("gpt", types.SimpleNamespace(**SIZES, bias=True)),
        ("config", CfgNode(model=CfgNode(model_type=None, **SIZES), trainer=CfgNode(max_iters=5))),
        ("config", Module()),
        ("config", {"n_layer": 2, "n_head": 4, "n_embd": 16, "dropout": 0.0, "bias": True, "batch_size": 3}),
        ("config", {"n_head": 4}),
        ("model_args", argparse.Namespace(**SIZES, dropout=0.0, bias=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:.*tanh GELU")
def test_a_config_is_the_model_args_wherever_it_stands(tmp_path, place, config):
    write(tmp_path, {"model": random_state(), place: config, "step": 250, "val_loss": 3.25})
    read = read_checkpoint(tmp_path)
    assert {name: getattr(read.config, name) for name in SIZES} == SIZES
    assert (read.iter_num, read.best_val_loss) == (250, 3.25)


def test_what_a_config_says_beyond_gptconfig_is_not_passed_over(tmp_path):
    write(tmp_path, {"model": random_state(), "config": argparse.Namespace(**SIZES, lr=0.1, qk_norm=True)})
    with pytest.raises(CheckpointError, match=r"qk_norm=True.*another\s+architecture.*ignore_model_args=\['qk_norm'\]"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path, ignore_model_args=["qk_norm"]).config.n_head == 4


def test_two_configs_that_differ(tmp_path):
    write(tmp_path, {"model": random_state(), "config": GPTConfig(), "args": {**SIZES, "n_head": 2}})
    with pytest.raises(CheckpointError, match="config and args state different architectures"):
        read_checkpoint(tmp_path)


class Holder(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.config = SlottedConfig()
        for name, tensor in state.items():
            module, parts = self, name.split(".")
            for part in parts[:-1]:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(parts[-1], nn.Parameter(tensor))


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy", "protocol 4"])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"model": model}, lambda m: {"net": m, "step": 3}])
def test_a_whole_model_that_was_saved_as_an_object(tmp_path, wrap, options):
    state = random_state()
    saved(tmp_path, wrap(Holder(state)), **options)
    read = read_checkpoint(tmp_path)
    assert all(torch.equal(read.state_dict[name], tensor) for name, tensor in state.items())
    assert read.config.n_head == 4


class Runs:
    """Unpickling this calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(folder):
    """Objects that create `folder/pwned` when a pickle with code is loaded, by what they are."""
    target = str(folder / "pwned")
    write_it = f"open({target!r}, 'w').close()"
    return {
        "os.system": Runs(os.system, f"touch {target}"),
        "eval": Runs(eval, write_it),
        "exec": Runs(exec, write_it),
        "nested": {"a": [({"b": Runs(eval, write_it)},)]},
        "getattr": Runs(getattr, Runs(__import__, "os"), "system"),
        "mkdir": Runs(os.mkdir, target),
        "in a config": argparse.Namespace(**SIZES, hook=Runs(exec, write_it)),
        "as a state": types.SimpleNamespace(a=Runs(os.system, f"touch {target}")),
        "path": Runs(pathlib.Path.touch, pathlib.Path(target)),
        "numpy": Runs(np.save, target, np.zeros(1)),
        "open": Runs(open, target, "w"),
        "torch": Runs(torch.save, 1, target),
    }


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "legacy", "protocol 4"])
def test_nothing_in_a_hostile_pickle_is_run(tmp_path, options):
    refused, whole = [], content(n_layer=1)
    for name, thing in hostile(tmp_path).items():
        for place in ("config", "optimizer", "model"):
            file = saved(tmp_path, whole | {place: thing}, **options)
            try:
                read_checkpoint(file, optimizer=True)
            except CheckpointError as error:
                refused += [name] * str(error).isprintable()
            assert not list(tmp_path.glob("pwned*")), (name, place)
    for name in ("os.system", "eval", "exec", "nested", "in a config", "as a state", "open"):
        assert refused.count(name) == 3, name  # what can only run something is refused wherever it stands
    file.write_bytes(pickle.dumps(content() | {"config": Runs(os.mkdir, str(tmp_path / "pwned"))}))
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert not list(tmp_path.glob("pwned*"))


def test_the_hostile_objects_are_hostile(tmp_path):
    pickle.loads(pickle.dumps(hostile(tmp_path)["eval"]))
    assert (tmp_path / "pwned").exists()


TEXT = b"X\x00\x00\x04\x00" + b"a" * 2**18 + b"q\x00"


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "nested"),
        (b"\x80\x02" + b"N" + b"\x85" * 20_000 + b"N}q\x00h\x00s.", "damaged"),
        (b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "bytes"),
        (
            b"\x80\x02X\x00\x00\x04\x00" + b"a" * 2**18 + b"q\x00" + b"c__builtin__\nlist\nh\x00\x85R" * 1000 + b".",
            "copies",
        ),
        (b"\x80\x02U\xffabc", "damaged"),
        (b"\x80\x02\x8a\xff", "damaged"),
    ],
    ids=["nested", "nested key", "zeros", "copies", "cut string", "cut number"],
)
def test_pickles_made_to_exhaust_the_reader(tmp_path, pickled, words):
    import zipfile

    with zipfile.ZipFile(tmp_path / "ckpt.pt", "w") as archive:
        archive.writestr("ckpt/data.pkl", pickled)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


class AnyNode:
    """OmegaConf's node of one value."""

    def __init__(self, value):
        self._val, self._parent = value, None


class DictConfig:
    """OmegaConf's dictionary, as it pickles itself."""

    def __init__(self, **entries):
        self._metadata, self._parent = {"ref_type": None}, None
        self._content = {
            name: value if isinstance(value, DictConfig) else AnyNode(value) for name, value in entries.items()
        }
        for node in self._content.values():
            node._parent = self


@pytest.mark.parametrize("wrap", [lambda config: config, lambda config: DictConfig(lr=0.1, model=config)])
def test_a_config_of_omegaconf(tmp_path, wrap):
    write(tmp_path, {"model": random_state(), "config": wrap(DictConfig(**SIZES, dropout=0.25, bias=True))})
    read = read_checkpoint(tmp_path)
    assert {name: getattr(read.config, name) for name in SIZES} == SIZES
    assert read.config.dropout == 0.25
    write(tmp_path, {"model": random_state(), "config": wrap(DictConfig(**SIZES, qk_norm=True))})
    with pytest.raises(CheckpointError, match="qk_norm=True"):
        read_checkpoint(tmp_path)


def test_two_configs_that_agree_are_one(tmp_path):
    write(tmp_path, {"model": random_state(), "config": {**SIZES, "lr": 0.1}, "args": {**SIZES, "seed": 3}})
    assert read_checkpoint(tmp_path).config.n_head == 4


def test_sizes_that_neither_the_config_nor_a_tensor_shows(tmp_path):
    state = random_state()
    del state["lm_head.weight"], state["transformer.wte.weight"]
    write(tmp_path, {"model": state, "config": {"n_head": 4}})
    with pytest.raises(CheckpointError, match="model_args has no n_embd, vocab_size; expected all of"):
        read_checkpoint(tmp_path)
