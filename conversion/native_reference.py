"""This package's nanoGPT as the native side of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from conversion.checkpoint import Checkpoint
from conversion.in_parts import InParts
from conversion.native import GPT, NO_EDITS, Edit, Edits, check_names
from conversion.stepping import Stepper
from conversion.upcasting import HeadIn, ModuleIn, compute_in

LARGE = 5e7
"""Parameters from which on weights are not copied, and two converted models at once are too many."""

_MANY = 2**24
"""Logits, from which on they are not computed all at once: 128 MiB in float64."""

_FEW = 2**22
"""Numbers of a gradient that are computed at once, at most, where whole gradients are in memory beside it."""


class NativeReference:
    """`conversion.native.GPT` with a checkpoint's weights; those of a large one are the checkpoint's own tensors."""

    description = "conversion.native.GPT"
    can_begin_at_layers = True

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: str | torch.device = "cpu") -> None:
        self.dtype, self.shares = dtype, checkpoint.n_params > LARGE
        if self.shares:
            self.model = compute_in(GPT.from_checkpoint(checkpoint, copy=False).to(device), dtype)
        else:
            self.model = GPT.from_checkpoint(checkpoint, dtype=dtype).to(device)

    def logits(
        self, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example pos d_vocab"]:
        """See `Reference`."""
        return self.model(tokens, edits=edits)

    def logits_since(
        self, start: int, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "example rest d_vocab"] | InParts:
        """See `Reference`."""
        vocabulary = self.model.config.vocab_size
        if tokens.numel() * vocabulary <= _MANY:
            return self.logits(tokens, edits)[:, start:]
        if edits:
            check_names(edits, self.model.config.n_layer)
        stream = self.model.transformer(tokens, Edits(edits) if edits else NO_EDITS)[:, start:]
        rows = rearrange(stream, "example pos d_model -> (example pos) d_model")
        return InParts(torch.Size((*stream.shape[:-1], vocabulary)), lambda some: self.model.lm_head(rows[some]))

    def next_logits(self) -> Callable[[Int[Tensor, "example pos"]], Float[Tensor, "example d_vocab"]]:
        """See `Reference`."""
        return self.model.last_logits if self.shares else Stepper(self.model)

    def rest(
        self, stream: Float[Tensor, "example pos d_model"], layer: int, edits: Mapping[str, Edit]
    ) -> Float[Tensor, "example pos d_vocab"]:
        """See `Reference`."""
        return self.model.rest(stream, layer, edits=edits)

    def reads(self, name: str) -> bool:
        """See `Reference`."""
        return True

    def edits(self, name: str) -> bool:
        """See `Reference`."""
        return True

    def gradients(
        self, tokens: Int[Tensor, "example pos"], targets: Int[Tensor, "example pos"]
    ) -> Iterator[dict[str, Float[Tensor, " ..."] | InParts]]:
        """See `Reference`. From the head down, so that only one block's weights have gradients in memory."""
        transformer, tied = self.model.transformer, self.model.config.tied
        blocks: list[Any] = list(transformer.h)
        with torch.no_grad():
            streams = [transformer.embedded(tokens, NO_EDITS)]
            for block in blocks:
                streams.append(block(streams[-1]))
            hidden = transformer.ln_f(streams[-1])
            logits = self.model.lm_head(hidden)
        of_logits = _gradient_of_loss(logits, targets)
        head, of_hidden = self._through_head(hidden, of_logits)
        del logits, of_logits
        if not tied:
            yield {"lm_head.weight": head}
        of_stream, of_weights = _through(transformer.ln_f, streams.pop(), of_hidden)
        yield {f"transformer.ln_f.{name}": gradient for name, gradient in of_weights.items()}
        for i, block in reversed(list(enumerate(blocks))):
            of_stream, of_weights = _through(block, streams.pop(), of_stream)
            yield {f"transformer.h.{i}.{name}": gradient for name, gradient in of_weights.items()}
        of_positions = torch.zeros(transformer.wpe.weight.shape, dtype=self.dtype, device=of_stream.device)
        of_positions[: tokens.shape[1]] = of_stream.sum(0)
        yield {"transformer.wpe.weight": of_positions}
        yield {"transformer.wte.weight": self._of_embedding(tokens, of_stream, head if tied else None)}

    def _through_head(
        self, hidden: Float[Tensor, "example pos d_model"], of_logits: Float[Tensor, "example pos d_vocab"]
    ) -> tuple[InParts, Float[Tensor, "example pos d_model"]]:
        """The gradient of the head's weight, and of what the head gets."""
        weight = self.model.lm_head.weight
        inputs = rearrange(hidden, "example pos d_model -> (example pos) d_model")
        outputs = rearrange(of_logits, "example pos d_vocab -> (example pos) d_vocab")
        slices = self.model.lm_head.slices() if isinstance(self.model.lm_head, HeadIn) else [slice(None)]
        of_hidden = [outputs[:, tokens] @ weight[tokens].detach().to(self.dtype) for tokens in slices]
        total = of_hidden[0]
        for part in of_hidden[1:]:
            total = total + part
        return InParts(weight.shape, lambda tokens: outputs[:, tokens].T @ inputs, _FEW), total.view_as(hidden)

    def _of_embedding(
        self,
        tokens: Int[Tensor, "example pos"],
        of_stream: Float[Tensor, "example pos d_model"],
        head: InParts | None,
    ) -> InParts:
        """The gradient of the token embedding, to which a tied head adds its own."""
        shape = self.model.transformer.wte.weight.shape
        present, places = tokens.unique(return_inverse=True)
        with torch.enable_grad():
            leaf = torch.zeros(len(present), shape[1], dtype=self.dtype, device=tokens.device, requires_grad=True)
            (of_rows,) = torch.autograd.grad(F.embedding(places, leaf), leaf, of_stream)

        def rows(some: slice) -> Float[Tensor, "row d_model"]:
            n = len(range(*some.indices(shape[0])))
            gradient = of_rows.new_zeros(n, shape[1]) if head is None else head.rows(some)
            here = (present >= some.start) & (present < some.stop)
            gradient[present[here] - some.start] += of_rows[here]
            return gradient

        return InParts(shape, rows, _FEW)


def _gradient_of_loss(
    logits: Float[Tensor, "example pos d_vocab"], targets: Int[Tensor, "example pos"]
) -> Float[Tensor, "example pos d_vocab"]:
    """The gradient of the mean cross-entropy with respect to logits."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_(True)
        rows = rearrange(leaf, "example pos d_vocab -> (example pos) d_vocab")
        loss = F.cross_entropy(rows, rearrange(targets, "example pos -> (example pos)"))
        return torch.autograd.grad(loss, leaf)[0]


def _through(
    module: nn.Module, inputs: Float[Tensor, "example pos d_model"], of_outputs: Float[Tensor, "example pos d_model"]
) -> tuple[Float[Tensor, "example pos d_model"], dict[str, Float[Tensor, " ..."]]]:
    """The gradients of a module's inputs and of its weights, given that of its outputs."""
    inner = module.module if isinstance(module, ModuleIn) else module
    weights = module.weights() if isinstance(module, ModuleIn) else dict(module.named_parameters())
    with torch.enable_grad():
        leaf = inputs.detach().requires_grad_(True)
        weights = {name: weight.detach().requires_grad_(True) for name, weight in weights.items()}
        outputs = functional_call(inner, weights, (leaf,))
        of_inputs, *of_weights = torch.autograd.grad(outputs, [leaf, *weights.values()], of_outputs)
    return of_inputs, dict(zip(weights, of_weights, strict=True))
