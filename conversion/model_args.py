"""The architecture that a file states, wherever it stands: `model_args`, a config object, hyperparameters, JSON.

nanoGPT writes `model_args`. Others write the `GPTConfig` itself (build-nanogpt), a namespace of all their
options, a node of their configuration (minGPT), Lightning's `hyper_parameters`, or a `config.json`. What has
an `n_head`, or where nothing has one another name for it, is such a statement; what else it needs can be read from
shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from conversion.config import LAYER_NORM_EPS, ActFn
from conversion.errors import CheckpointError
from conversion.inert import Record
from conversion.plain import as_plain
from conversion.synonyms import SYNONYMS, with_nanogpt_names

_DROPOUTS = ("dropout", "resid_pdrop")
_FIELDS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "dropout")
_PLACES = ("model_args", "model_config", "gpt_config", "config", "hyper_parameters", "hparams", "args", "cfg")
_GELUS = ("activation_function", "activation", "act_fn", "act", "hidden_act", "nonlinearity")
_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_tanh", "new_gelu", "newgelu", "tanh")
_TRAINING = frozenset(
    [
        "lr",
        "learning",
        "batch",
        "batches",
        "iters",
        "iter",
        "steps",
        "step",
        "epochs",
        "epoch",
        "seed",
        "device",
        "dtype",
        "compile",
        "wandb",
        "dir",
        "path",
        "file",
        "files",
        "dataset",
        "data",
        "optimizer",
        "optim",
        "beta",
        "beta1",
        "beta2",
        "betas",
        "clip",
        "warmup",
        "eval",
        "save",
        "workers",
        "backend",
        "project",
        "run",
        "resume",
        "grad",
        "gradient",
        "amp",
        "accumulation",
        "checkpoint",
        "ckpt",
        "checkpoints",
        "interval",
        "logging",
        "init",
        "ddp",
        "fsdp",
        "gpus",
        "nodes",
        "gpu",
        "val",
        "train",
        "training",
        "prompt",
        "temperature",
        "samples",
        "text",
    ]
)
_NO_EFFECT = frozenset(
    [
        "weight_decay",
        "decay_lr",
        "min_lr",
        "model_type",
        "name",
        "run_name",
        "model_name",
        "exp_name",
        "embd_pdrop",
        "attn_pdrop",
        "resid_pdrop",
        "embd_dropout",
        "attn_dropout",
        "resid_dropout",
        "initializer_range",
        "always_save_checkpoint",
        "log_interval",
        "tensorboard",
    ]
)
_MINGPT_HEADS = {
    "openai-gpt": 12,
    "gpt2": 12,
    "gpt2-medium": 16,
    "gpt2-large": 20,
    "gpt2-xl": 25,
    "gopher-44m": 16,
    "gpt-mini": 6,
    "gpt-micro": 4,
    "gpt-nano": 3,
}
GPT2_EXPECTED: dict[str, tuple[Any, ...]] = {
    "layer_norm_epsilon": (LAYER_NORM_EPS,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
"""The values that settings of Hugging Face's GPT-2 have in nanoGPT."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a file says about the architecture of its model.

    Attributes:
        place: where it says so, for messages.
        arguments: nanoGPT's `model_args`, and what else is there that may change what is computed.
        gelu: the GELU that it names; None if it names none.
        guess: who may have written it, if that is somebody whose code has the tanh GELU; else empty.
        transposed: whether the tensors are those of Hugging Face's GPT-2, whose linear maps are [in, out].
        notes: what reading it had to do.
    """

    place: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    gelu: ActFn | None = None
    guess: str = ""
    transposed: bool = False
    notes: tuple[str, ...] = ()


def find_statement(content: Mapping[Any, Any], *, top: str = "") -> Statement | None:
    """The statement in a file's content: `model_args` as it is, else the first mapping or object with an `n_head`.

    Where nothing has an `n_head`, other names for it are looked for.

    Args:
        content: of the file.
        top: what the content itself is called, if it may be the statement.

    Raises:
        CheckpointError: the statement is one of another architecture, or two statements differ.
    """
    if top and (own := statement_of(content, top)) is not None:
        return own
    if isinstance(content.get("model_args"), Mapping):
        arguments, notes = with_nanogpt_names(as_plain(dict(content["model_args"])), "model_args")
        return Statement(place="model_args", arguments=arguments, notes=notes)
    first = _first_statement(content, other_names=False)
    if first is None and top:
        first = statement_of(content, top, other_names=True)
    return first or _first_statement(content, other_names=True)


def _first_statement(content: Mapping[Any, Any], *, other_names: bool) -> Statement | None:
    """The first statement below a mapping; CheckpointError if another one differs from it."""
    places = _places(content)
    found = [stated for place, value in places if (stated := statement_of(value, place, other_names=other_names))]
    for other in found[1:]:
        if any(found[0].arguments.get(name) != other.arguments.get(name) for name in ("n_head", "n_layer", "n_embd")):
            raise CheckpointError(
                f"{found[0].place} and {other.place} state different architectures; expected one: save the model's own "
                "arguments as 'model_args'"
            )
    return found[0] if found else None


def _places(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The mappings below a mapping and the path to each: likely places first, nearer ones before deeper ones."""
    queue: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    seen: set[int] = set()
    while queue:
        path, value = queue.pop(0)
        names = [key for key, part in value.items() if isinstance(key, str) and isinstance(part, Mapping)]
        names.sort(key=lambda name: _PLACES.index(name) if name in _PLACES else len(_PLACES))
        for name in names:
            part = _without_nodes(value[name])
            if id(value[name]) not in seen and not (part and all(isinstance(one, Tensor) for one in part.values())):
                seen.add(id(value[name]))
                yield path + name, part
                queue.append((f"{path}{name}.", part))


def _without_nodes(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A mapping of OmegaConf's with the values in place of their nodes; any other as it is."""
    nodes = value.get("_content")
    if not isinstance(nodes, Mapping):
        return value
    return {name: node.get("_val", node) for name, node in nodes.items() if isinstance(node, Mapping)}


def statement_of(value: Mapping[Any, Any], place: str, *, other_names: bool = False) -> Statement | None:
    """The statement that a mapping makes, if it has an `n_head` or minGPT's name of a model.

    Args:
        value: the mapping.
        place: where it stands, for messages.
        other_names: whether other projects' names for `n_head` make a statement too.

    Raises:
        CheckpointError: it has settings of another architecture, or two names of one size that differ.
    """
    if not _states_heads(value, other_names):
        return None
    fields = {name: part for name, part in as_plain(dict(value)).items() if isinstance(name, str)}
    own, guess = fields, _guess(value, fields)
    huggingface = "n_positions" in own or "transformers_version" in own
    fields, notes = with_nanogpt_names(own, place)
    if huggingface:
        _check_gpt2({**own, **fields}, place)
    gelus = {name: fields.pop(name) for name in _GELUS if isinstance(fields.get(name), str)}
    if fields.get("n_head") is None:
        fields["n_head"] = _MINGPT_HEADS[fields["model_type"]]
    arguments = {name: fields[name] for name in _FIELDS if fields.get(name) is not None}
    stated = [fields[name] for name in _DROPOUTS if fields.get(name) is not None]
    if stated:
        arguments["dropout"] = stated[0]
    if not huggingface:
        arguments |= {
            name: fields[name] for name in fields if name not in arguments and _may_matter(name, fields[name])
        }
    arguments.pop("tie_word_embeddings", None)
    return Statement(
        place=place,
        arguments=arguments,
        gelu=_gelu(gelus, place),
        guess="" if gelus or huggingface else guess,
        transposed=huggingface,
        notes=() if huggingface and "n_head" in own else notes,  # of a GPT-2 these are the names that it has
    )


def _states_heads(value: Mapping[Any, Any], other_names: bool) -> bool:
    """Whether a mapping says how many heads there are, by nanoGPT's name, minGPT's name of a model, or another name."""
    if value.get("n_head") is not None or (value.get("model_type") in _MINGPT_HEADS and "block_size" in value):
        return True
    return other_names and any(value.get(name) is not None for name in SYNONYMS["n_head"])


def completed(arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments with the sizes that are not stated, read from the shapes of nanoGPT's tensors."""
    wte, wpe = state.get("transformer.wte.weight"), state.get("transformer.wpe.weight")
    sizes: dict[str, Any] = {}
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.h.")}
    if layers:
        sizes["n_layer"] = len(layers)
    if wte is not None and wte.dim() == 2:
        sizes["vocab_size"], sizes["n_embd"] = wte.shape
    if wpe is not None and wpe.dim() == 2:
        sizes["block_size"] = wpe.shape[0]
    return {**sizes, **arguments}


def _may_matter(name: str, value: Any) -> bool:
    """Whether an argument that nanoGPT does not have may change what is computed, as options of training do not."""
    if name in _FIELDS or name in _NO_EFFECT or value is None or isinstance(value, Mapping):
        return False
    return name not in _DROPOUTS and not (_TRAINING & set(name.lower().split("_")))


def _gelu(gelus: Mapping[str, str], place: str) -> ActFn | None:
    """The GELU that a statement names."""
    for name, value in gelus.items():
        if value.lower() not in ("gelu", *_TANH):
            raise CheckpointError(
                f"{place} has {name}={value!r}, which is another architecture; expected 'gelu' or 'gelu_new'"
            )
        return "gelu" if value.lower() == "gelu" else "gelu_new"
    return None


def _guess(value: Any, fields: Mapping[str, Any]) -> str:
    """Whose configuration this may be, if it is one whose code has the tanh GELU."""
    if "resid_pdrop" in fields or ("block_size" in fields and fields.get("model_type") in _MINGPT_HEADS):
        return "minGPT"
    if isinstance(value, Record) and fields.keys() == set(_FIELDS[:5]):
        return "build-nanogpt"
    return ""


def _check_gpt2(fields: Mapping[str, Any], place: str) -> None:
    """Raise CheckpointError if a Hugging Face config is of no GPT-2, or has settings that nanoGPT does not have."""
    if fields.get("model_type", "gpt2") != "gpt2":
        raise CheckpointError(f"{place} is of a model of type {fields['model_type']!r}; expected 'gpt2'")
    wide = 4 * fields["n_embd"] if type(fields.get("n_embd")) is int else None
    check_settings(fields, {**GPT2_EXPECTED, "n_inner": (None, wide)}, place)


def check_settings(settings: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]], place: str) -> None:
    """Raise CheckpointError for a setting with a value that nanoGPT does not have; one that is not stated is right."""
    for name, allowed in expected.items():
        if settings.get(name, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{place} has {name}={settings[name]!r}, which nanoGPT cannot express; "
                f"expected {' or '.join(repr(a) for a in allowed)}"
            )
