"""What a checkpoint file holds, whatever its format: the tensors, what is said about them, and the run's own numbers.

The format is told from the first bytes, never from the name alone: a ZIP archive or a row of pickles
(`torch.save`), safetensors, or llm.c's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from conversion.errors import CheckpointError
from conversion.exported_layouts import from_hooked, hooked_statement, is_hooked
from conversion.hints import looks_like
from conversion.inert import Record
from conversion.llmc import is_llmc, read_llmc
from conversion.model_args import Statement, find_statement
from conversion.names import kind_of
from conversion.plain import as_plain
from conversion.safetensors_files import CONFIG_NAME, is_safetensors, read_config, read_safetensors
from conversion.shards import check_whole, is_index, read_shards, shards_of
from conversion.torch_files import read_torch_file

_EXPECTED = "expected nanoGPT's dictionary with 'model' and 'model_args'"
_LIKELY = ("model", "state_dict", "model_state_dict", "module", "net", "model_state", "weights")
_ITERATIONS, _LOSSES = ("iter_num", "step", "global_step", "iteration"), ("best_val_loss", "val_loss")
_GPTS = ("gpt2", "nanogpt", "gpt")
_RUNS = ("config", "hyper_parameters", "hparams", "args")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The content of a checkpoint file.

    Attributes:
        tensors: the tensors under the names of the file; they may lie on disk, and must not outlive the reading.
        statement: what the file, or the `config.json` beside it, says about the architecture; None if neither does.
        run_config: the settings of the training run, as plain data.
        iter_num, best_val_loss: the run's numbers; None if absent.
        optimizer: the optimizer's state, if there is one.
        format: "torch.save", "safetensors" or "llm.c".
        notes: what reading had to do.
        refusal: why there is no statement, as the end of a message.
    """

    tensors: Mapping[str, Any] = field(repr=False)
    statement: Statement | None
    run_config: Mapping[str, Any] = field(default_factory=dict)
    iter_num: int | None = None
    best_val_loss: float | None = None
    optimizer: Any = field(default=None, repr=False)
    format: str = "torch.save"
    notes: tuple[str, ...] = ()
    refusal: str = ""


def read_contents(file: Path, *, mapped: bool = True) -> Contents:
    """Read a checkpoint file of any format.

    Raises:
        CheckpointError: the file is no checkpoint, is damaged, or would run code.
    """
    try:
        if file.stat().st_size == 0:
            raise CheckpointError(f"{file} is empty; {_EXPECTED}")
        if is_llmc(file):
            arguments, tensors = read_llmc(file)
            return Contents(
                tensors=tensors, statement=Statement(place="the header", arguments=arguments), format="llm.c"
            )
        if is_index(file):
            return _safetensors(file, *read_shards(file), f"read from safetensors in {len(shards_of(file))} files")
        if is_safetensors(file):
            check_whole(file)
            return _safetensors(file, *read_safetensors(file), "read from safetensors")
        return _torch(file, mapped)
    except CheckpointError as error:
        message = str(error)
        if message.startswith((str(file), str(file.parent))):
            raise
        raise CheckpointError(f"{file}: {message}") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error}); {_EXPECTED}") from None


def _safetensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, Any], note: str) -> Contents:
    """The contents of safetensors, in one file or several, with the `config.json` beside them."""
    config = read_config(file.parent)
    notes = (note,)
    if is_hooked(tensors):
        if config is None:
            raise CheckpointError(f"{file} has TransformerLens' tensors and no {CONFIG_NAME} beside it; put it there")
        statement = hooked_statement(config, CONFIG_NAME)
        tensors = from_hooked(tensors, statement)
        return Contents(tensors=tensors, statement=statement, format="safetensors", notes=notes)
    statement = find_statement(metadata) or _stated_in(config)
    run = {**metadata, **(config or {})}
    return Contents(
        tensors=tensors,
        statement=statement,
        run_config=run["config"] if isinstance(run.get("config"), Mapping) else {},
        iter_num=_number(run, _ITERATIONS, int),
        best_val_loss=_number(run, _LOSSES, float),
        format="safetensors",
        notes=notes,
        refusal=f"there is no {CONFIG_NAME} beside it that states it" if statement is None else "",
    )


def _stated_in(config: Mapping[str, Any] | None) -> Statement | None:
    """What a `config.json` states: at its top, or in a node of it."""
    if config is None:
        return None
    kind = config.get("model_type", "gpt")
    if "n_head" not in config and "num_attention_heads" in config and str(kind).lower() not in _GPTS:
        raise CheckpointError(f"{CONFIG_NAME} is of a model of type {kind!r}; expected 'gpt2'")
    return find_statement(config, top=CONFIG_NAME)


def _torch(file: Path, mapped: bool) -> Contents:
    """The contents of what `torch.save` wrote."""
    read = read_torch_file(file, mapped=mapped)
    content = read.content
    modules = _module_tensors(content)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{file} holds a {kind_of(content)}; {_EXPECTED}")
    whole = [part for part in content.values() if isinstance(part, Mapping) and {"model", "model_args"} <= part.keys()]
    if "model" not in content and len(whole) == 1:  # a checkpoint in a dictionary of something else
        content = whole[0]
    tensors, place = (modules, "") if modules else _tensors_in(file, content)
    apart = {name: part for name, part in content.items() if name != place or isinstance(part, Record)}
    statement = find_statement(apart)
    beside = read_config(file.parent) if statement is None else None
    statement = statement or _stated_in(beside)
    run = as_plain(next((content[name] for name in _RUNS if isinstance(content.get(name), Mapping)), {}))
    kinds = sorted(kind for kind in read.kinds if kind)
    notes = (f"read as data, without their code: {', '.join(kinds[:4])}{', ...' * (len(kinds) > 4)}",) if kinds else ()
    keys = ", ".join(sorted(str(key) for key in content)[:6])
    return Contents(
        tensors=tensors,
        statement=statement,
        run_config={name: value for name, value in run.items() if isinstance(name, str)},
        iter_num=_number(content, _ITERATIONS, int),
        best_val_loss=_number(content, _LOSSES, float),
        optimizer=as_plain(content.get("optimizer")),
        notes=notes,
        refusal=f"the file has the keys {keys}; {_EXPECTED}" if statement is None else "",
    )


def _tensors_in(file: Path, content: Mapping[Any, Any]) -> tuple[Mapping[str, Any], str]:
    """The tensors in a file's content, and the key under which they are; "" if they are the content itself.

    Raises:
        CheckpointError: there are none, or those of several models.
    """
    model = content.get("model")
    modules = _module_tensors(model)
    if modules:
        return modules, "model"
    if isinstance(model, Mapping) and "model_args" in content:
        inner = dict(_states(model, "", set()))
        return (next(iter(inner.values())) if len(inner) == 1 and not _is_state(model) else model), "model"
    if _is_state(content):
        return {name: part for name, part in content.items() if isinstance(part, Tensor) or "." in str(name)}, ""
    found = dict(_states(content, "", set()))
    for name in _LIKELY:
        if name in found:
            return found[name], name
    if len(found) > 1:
        raise CheckpointError(f"{file} has the tensors of several models ({', '.join(list(found)[:4])}); expected one")
    if found:
        ((name, state),) = found.items()
        return state, name
    names = model if isinstance(model, Mapping) else content
    hint = looks_like(names)
    keys = ", ".join(sorted(str(key) for key in content)[:6])
    raise CheckpointError(f"{file} has the keys {keys}; {_EXPECTED}" + (f"; {hint}" if hint else ""))


def _states(content: Mapping[Any, Any], path: str, seen: set[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The mappings below a mapping that hold tensors of a GPT, and where they are."""
    for key, value in content.items():
        if not isinstance(value, Mapping) or id(value) in seen:
            continue
        seen.add(id(value))
        modules = _module_tensors(value)
        if modules or _is_state(value):
            yield f"{path}{key}", modules or value
        else:
            yield from _states(value, f"{path}{key}.", seen)


def _is_state(value: Any) -> bool:
    """Whether a value is the state dict of a GPT, by its names."""
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and name.endswith(("wte.weight", "attn.c_attn.weight")) for name in value
    )


def _module_tensors(value: Any) -> dict[str, Any]:
    """The tensors of a whole model that was saved as an object, by their names; empty if the value is none."""
    tensors: dict[str, Any] = {}
    queue, seen = [("", value)], set()
    while queue:
        prefix, module = queue.pop()
        if not isinstance(module, Record) or not isinstance(module.get("_modules"), Mapping) or id(module) in seen:
            continue
        seen.add(id(module))
        for part in ("_parameters", "_buffers"):
            named = module.get(part)
            if isinstance(named, Mapping):
                tensors |= {f"{prefix}{name}": tensor for name, tensor in named.items() if tensor is not None}
        queue += [(f"{prefix}{name}.", inner) for name, inner in module["_modules"].items()]
    return tensors


def _number(content: Mapping[Any, Any], names: tuple[str, ...], kind: type) -> Any:
    """The first of some stored numbers as an int or a float, as `kind` says; None if it is not a finite number."""
    value = next((content[name] for name in names if name in content), None)
    if isinstance(value, Tensor) and value.numel() == 1 and value.device.type == "cpu":
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:
        return None
    return kind(value)
