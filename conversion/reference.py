"""The native side of a comparison: this package's nanoGPT (`native_reference`), or the `model.py` of a user's fork.

Both give the same four things: the logits under some edits, which activations can be
read, which can be edited, and the gradient of the loss with respect to every weight.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from conversion.errors import CheckpointError
from conversion.in_parts import InParts
from conversion.native import Edit, hook_names


class Reference(Protocol):
    """The questions that a native model must answer."""

    description: str
    can_begin_at_layers: bool

    def logits(
        self, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example pos d_vocab"]:
        """The logits at all positions under `edits`."""
        ...

    def logits_since(
        self, start: int, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example rest d_vocab"] | InParts:
        """The same from a position on; they may be computed when they are compared, where they are many."""
        ...

    def next_logits(self) -> Callable[[Int[Tensor, "example pos"]], Float[Tensor, "example d_vocab"]]:
        """A function that gives the logits after texts that grow, at most as long as the context."""
        ...

    def rest(
        self, stream: Float[Tensor, "example pos d_model"], layer: int, edits: Mapping[str, Edit]
    ) -> Float[Tensor, "example pos d_vocab"]:
        """The same from the residual stream before a layer on, of a model that can begin there."""
        ...

    def reads(self, name: str) -> bool:
        """Whether the activation of this hook can be read."""
        ...

    def edits(self, name: str) -> bool:
        """Whether the activation of this hook can be replaced."""
        ...

    def gradients(
        self, tokens: Int[Tensor, "example pos"], targets: Int[Tensor, "example pos"]
    ) -> Iterator[dict[str, Float[Tensor, " ..."] | InParts]]:
        """The gradient of the mean cross-entropy with respect to every weight, by nanoGPT's names, some at a time.

        A tied weight counts once, as the embedding.
        """
        ...


def gradients_of(
    module: nn.Module, logits: Float[Tensor, "example pos d_vocab"], targets: Int[Tensor, "example pos"]
) -> dict[str, Float[Tensor, " ..."]]:
    """The gradients of the mean cross-entropy by nanoGPT's names; a tied weight counts once, as the embedding."""
    named = dict(module.named_parameters())
    rows = rearrange(logits, "example pos d_vocab -> (example pos) d_vocab")
    loss = F.cross_entropy(rows, rearrange(targets, "example pos -> (example pos)"))
    gradients = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
    if "transformer.wte.weight" not in gradients:
        gradients["transformer.wte.weight"] = gradients.pop("lm_head.weight")
    return gradients


class ModelPyReference:
    """The model of the user's own `model.py`, which is executed, with hooks on the modules that nanoGPT names.

    Attention scores, patterns and the inside of a LayerNorm are no modules there and cannot be
    read; `hook_resid_mid` can be read but not edited.
    """

    can_begin_at_layers = False

    def __init__(
        self, path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> None:
        file = self.file = Path(path)
        self.config: NanoGPTConfig = checkpoint.config
        self.model = _executed(file, checkpoint).to(device=device, dtype=dtype).eval()
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self.description = f"{file} (sha256 {digest[:12]})"
        self._device = device
        self._seen: set[str] | None = None

    def logits(
        self, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example pos d_vocab"]:
        """See `Reference`."""
        tokens = tokens.contiguous()  # nanoGPT views its targets
        try:
            with self._hooked(edits or {}):
                output = self.model(tokens, tokens)  # with targets, nanoGPT gives the logits of all positions
        except (Exception, SystemExit) as error:  # whatever the user's file raises
            reason = str(error).strip().replace("\n", " ")[:200]
            raise CheckpointError(f"{self.file} failed on tokens ({type(error).__name__}: {reason})") from error
        logits = output[0] if isinstance(output, tuple) else output
        expected = (*tokens.shape, self.config.vocab_size)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise CheckpointError(f"model.py returned {got}; expected (logits, loss) with logits of {list(expected)}")
        return logits

    def logits_since(
        self, start: int, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example rest d_vocab"] | InParts:
        """See `Reference`."""
        return self.logits(tokens, edits)[:, start:]

    def next_logits(self) -> Callable[[Int[Tensor, "example pos"]], Float[Tensor, "example d_vocab"]]:
        """See `Reference`."""
        return lambda tokens: self.logits(tokens)[:, -1]

    def rest(
        self, stream: Float[Tensor, "example pos d_model"], layer: int, edits: Mapping[str, Edit]
    ) -> Float[Tensor, "example pos d_vocab"]:
        """See `Reference`; nobody knows how the user's model goes on from a layer."""
        raise AssertionError("the user's model cannot begin at a layer")

    def reads(self, name: str) -> bool:
        """See `Reference`."""
        if self._seen is None:
            self._seen = self._visible()
        return name in self._seen

    def edits(self, name: str) -> bool:
        """See `Reference`."""
        return self.reads(name) and not name.endswith("hook_resid_mid")

    def gradients(
        self, tokens: Int[Tensor, "example pos"], targets: Int[Tensor, "example pos"]
    ) -> Iterator[dict[str, Float[Tensor, " ..."] | InParts]]:
        """See `Reference`. All of them at once."""
        with torch.enable_grad():
            gradients = gradients_of(self.model, self.logits(tokens), targets)
        yield dict(gradients)

    def _visible(self) -> set[str]:
        """The hooks whose modules the model calls, and with a tensor: a fork may compute with weights alone."""
        seen: set[str] = set()

        def look(name: str, module: nn.Module, arguments: tuple[Any, ...], *output: Any) -> None:
            value = (*output, *arguments, None)[0]
            if isinstance(value, Tensor) and value.is_floating_point():
                seen.add(name)

        handles = []
        for name in hook_names(self.config.n_layer):
            if (place := self._place(name)) is None:
                continue
            module, side, _ = place
            register = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
            handles.append(register(partial(look, name)))
        try:
            with torch.no_grad():
                self.logits(torch.zeros(1, min(2, self.config.block_size), dtype=torch.long, device=self._device))
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _place(self, name: str) -> tuple[nn.Module, str, Callable[[Edit, Tensor], Tensor]] | None:
        """The module of a hook, whether the activation is its input or output, and a function that edits it there."""
        block, _, rest = name.removeprefix("blocks.").partition(".") if name.startswith("blocks.") else ("", "", name)
        prefix = f"transformer.h.{block}." if block else ""
        heads, width = self.config.n_head, self.config.n_embd

        def whole(edit: Edit, x: Tensor) -> Tensor:
            return _edited(edit, x)

        def per_head(edit: Edit, x: Tensor) -> Tensor:
            z = rearrange(x, "... (head d_head) -> ... head d_head", head=heads)
            return rearrange(_edited(edit, z), "... head d_head -> ... (head d_head)")

        def part_of_qkv(index: int) -> Callable[[Edit, Tensor], Tensor]:
            def edit_part(edit: Edit, x: Tensor) -> Tensor:
                parts = list(x.split(width, dim=-1))
                parts[index] = per_head(edit, parts[index])
                return torch.cat(parts, dim=-1)

            return edit_part

        places = {
            "hook_embed": ("transformer.wte", "output", whole),
            "hook_pos_embed": ("transformer.wpe", "output", whole),
            "hook_resid_pre": ("", "input", whole),
            "attn.hook_q": ("attn.c_attn", "output", part_of_qkv(0)),
            "attn.hook_k": ("attn.c_attn", "output", part_of_qkv(1)),
            "attn.hook_v": ("attn.c_attn", "output", part_of_qkv(2)),
            "attn.hook_z": ("attn.c_proj", "input", per_head),
            "hook_attn_out": ("attn", "output", whole),
            "hook_resid_mid": ("ln_2", "input", whole),
            "mlp.hook_pre": ("mlp.c_fc", "output", whole),
            "mlp.hook_post": ("mlp.c_proj", "input", whole),
            "hook_mlp_out": ("mlp", "output", whole),
            "hook_resid_post": ("", "output", whole),
        }
        if rest not in places:
            return None
        path, side, function = places[rest]
        try:
            return self.model.get_submodule((prefix + path).rstrip(".")), side, function
        except AttributeError:
            return None

    @contextmanager
    def _hooked(self, edits: Mapping[str, Edit]) -> Iterator[None]:
        """A block in which the model's modules make the edits."""
        handles, batch = [], [0]
        handles.append(self.model.register_forward_pre_hook(lambda m, args: batch.__setitem__(0, len(args[0]))))
        try:
            for name, edit in edits.items():
                place = self._place(name)
                if place is None:
                    raise ValueError(f"{name} cannot be seen in {self.description}")
                module, side, apply = place
                change = partial(apply, edit)
                if name == "hook_pos_embed":  # TransformerLens has a batch axis here
                    change = partial(_with_examples, change, batch)
                if side == "input":
                    handles.append(module.register_forward_pre_hook(partial(_on_input, change)))
                else:
                    handles.append(module.register_forward_hook(partial(_on_output, change)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _with_examples(
    change: Callable[[Float[Tensor, "example pos d_model"]], Float[Tensor, "example pos d_model"]],
    batch: list[int],
    x: Float[Tensor, "*_ pos d_model"],
) -> Float[Tensor, "example pos d_model"]:
    shared = x.dim() == 2 or (x.dim() == 3 and x.shape[0] == 1)  # nanoGPT before 17 May 2023 has an axis of one example
    return change(x.expand(batch[0], *x.shape[-2:]) if shared else x)


def _on_input(change: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (change(args[0]), *args[1:])


def _on_output(change: Callable[[Tensor], Tensor], module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return change(output)


def _edited(edit: Edit, x: Float[Tensor, "example ..."]) -> Float[Tensor, "example ..."]:
    """What an edit makes of an activation."""
    changed = edit(x)
    return x if changed is None else changed


def _accepted(config_class: Any, model_args: Mapping[str, Any]) -> dict[str, Any]:
    """The `model_args` without `bias` and `dropout` if the user's config has no such fields; all others must fit."""
    known = {f.name for f in fields(config_class)} if is_dataclass(config_class) else set(model_args)
    return {name: value for name, value in model_args.items() if name in known or name not in ("bias", "dropout")}


def _executed(file: Path, checkpoint: Checkpoint) -> nn.Module:
    """Run the file, build its `GPT(GPTConfig(**model_args))`, load the weights strictly, and return the model."""
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist; expected the model.py of a nanoGPT fork")
    spec = importlib.util.spec_from_file_location("nanogpt_lens_users_model", file)
    if spec is None or spec.loader is None:
        raise CheckpointError(f"{file} is not a Python file; expected the model.py of a nanoGPT fork")
    module: Any = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        model = module.GPT(module.GPTConfig(**_accepted(module.GPTConfig, checkpoint.model_args)))
        masks = {k: v for k, v in model.state_dict().items() if k.endswith((".attn.bias", ".attn.mask"))}
        model.load_state_dict({**masks, **checkpoint.state_dict}, strict=True)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        reason = str(error).strip().replace("\n", " ").replace("\t", "")[:400]
        raise CheckpointError(
            f"{file} could not be used as the native side ({type(error).__name__}: {reason}); expected a GPT and a "
            "GPTConfig that take this checkpoint's model_args and tensors"
        ) from error
    finally:
        sys.path.remove(str(file.parent.resolve()))
        sys.modules.pop(spec.name, None)
    return model
