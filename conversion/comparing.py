"""The comparisons of a certificate: outputs, weights, activations, gradients, greedy text, edits.

Each function takes the native side (`Bench`), a converted model and a `Judge`, and yields one
`Comparison` per quantity, in the order of the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.comparing_gradients import compared_gradients
from conversion.edited_runs import ConvertedSide, ExactEdits, NativeSide, as_hook, edited_logits
from conversion.edits import KINDS, edit_for
from conversion.in_parts import InParts, since
from conversion.judge import Judge
from conversion.layout import native_tensor
from conversion.native import Edit, hook_names
from conversion.native_reference import NativeReference
from conversion.reference import ModelPyReference, Reference
from conversion.report import SIZES, Comparison
from conversion.transformerlens_to_nanogpt import hooked_layout_of

_PRESERVED = ("hook_q", "hook_k", "hook_attn_scores", "hook_pattern", "mlp.hook_pre", "mlp.hook_post", "hook_scale")
_EDITABLE_PROCESSED = ("hook_q", "hook_k", "hook_attn_scores", "mlp.hook_pre", "mlp.hook_post")

_LARGE = 5e9
"""Parameters times positions of context from which on a model is large, as GPT-2 is."""

_ON = {"usual": (2, 256), "large": (1, 128)}
"""Examples and positions of the outputs and the activations, at most, by size of the model."""

_EDITED = {"usual": (2, 24), "large": (1, 4)}
"""Examples and positions of the runs with one edit, at most."""

_PROMPT = 5
"""Tokens that greedy text begins with; that of a large model begins with all of a context but its last token."""

_GREEDY = {"usual": (2, 6), "large": (1, 0)}
"""Examples of greedy text, and the tokens past the context after which one more is chosen."""

_TOGETHER_IN_FLOAT32 = 256
"""Positions of a large model's run in which all hooks are edited, in float32, where float64 is compared too and has all
of them."""

TOGETHER = "every hook perturbed in one run"
"""The name of the comparison whose run edits all hooks, also at the positions that runs with one edit do not reach."""

Logits: TypeAlias = Float[Tensor, "example pos d_vocab"] | InParts


@dataclass(frozen=True)
class Greedy:
    """A greedy text, and what the native model computed of it.

    Attributes:
        windows: of the text, of which the first fills the context and each later one is a token further.
        whole: the logits of the first window.
        chosen_from: the logits from which each token of the text was chosen, and of one more.
    """

    windows: list[Int[Tensor, "example pos"]]
    whole: Logits
    chosen_from: Float[Tensor, "example step d_vocab"]


class Bench:
    """The native side in each precision, and the tokens that both sides get.

    Args:
        checkpoint, model_py, seed, device: as for `check_equivalence`.
        float64: whether float64 is among the precisions that are compared, so that others may read less.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        model_py: str | Path | None,
        *,
        seed: int,
        device: str | torch.device,
        float64: bool = True,
    ) -> None:
        self.checkpoint, self.model_py, self.seed, self.device = checkpoint, model_py, seed, device
        self.names = hook_names(checkpoint.config.n_layer)
        self._references: dict[torch.dtype, Reference] = {}
        self._exact: dict[str, Float[Tensor, "example ..."]] = {}
        generator = torch.Generator().manual_seed(seed)
        context, vocabulary = checkpoint.config.block_size, checkpoint.config.vocab_size

        def tokens(n: int, length: int) -> Int[Tensor, "example pos"]:
            return torch.randint(vocabulary, (n, length), generator=generator).to(device)

        size = self._size = "usual" if checkpoint.n_params * context < _LARGE else "large"
        n, length = _ON[size]
        self.tokens, self.targets = tokens(n, min(context, length)), tokens(n, min(context, length))
        n, length = _EDITED[size]
        self.short = tokens(n, min(context, length))
        n, self.further = _GREEDY[size]
        self.prompt = tokens(n, min(_PROMPT, context) if size == "usual" else max(1, context - 1))
        self.whole = tokens(1, context)
        self._less_in_float32 = size == "large" and float64
        self._windows: list[Int[Tensor, "example pos"]] = []
        self._greedy: dict[torch.dtype, Greedy] = {}
        self._together: dict[tuple[frozenset[str], int], Logits] = {}

    def reference(self, dtype: torch.dtype) -> Reference:
        """The native model in a precision."""
        if dtype not in self._references:
            if self.model_py is None:
                self._references[dtype] = NativeReference(self.checkpoint, dtype, self.device)
            else:
                self._references[dtype] = ModelPyReference(self.model_py, self.checkpoint, dtype, self.device)
        return self._references[dtype]

    def activations(self, dtype: torch.dtype) -> dict[str, Float[Tensor, "example ..."]]:
        """Every native activation that can be read, and the logits as "logits"."""
        reference = self.reference(dtype)
        activations: dict[str, Float[Tensor, "example ..."]] = {}
        readers = {name: _keep(activations, name) for name in self.names if reference.reads(name)}
        with torch.no_grad():
            activations["logits"] = reference.logits(self.tokens, readers)
        return activations

    def greedy(self, dtype: torch.dtype) -> Greedy:
        """The native model's greedy text, which is written once, in the first precision that is asked for."""
        if dtype not in self._greedy:
            native, context, start = self.reference(dtype), self.checkpoint.config.block_size, self.prompt.shape[1] - 1
            if not self._windows:
                self._windows.append(_filled(native, self.prompt, context))
            whole = native.logits_since(0, self._windows[0])
            parts = [since(whole, start)]
            for i in range(1, 1 + self.further):
                if i == len(self._windows):
                    text = torch.cat([self._windows[-1], parts[-1][:, -1:].argmax(-1)], dim=1)
                    self._windows.append(text[:, -context:])
                parts.append(since(native.logits_since(context - 1, self._windows[i]), 0).clone())
            self._greedy[dtype] = Greedy(self._windows, whole, torch.cat(parts, dim=1))
        return self._greedy[dtype]

    def exact_whole(self) -> Logits:
        """The native logits of the first window of the greedy text, in float64."""
        if torch.float64 in self._greedy:
            return self._greedy[torch.float64].whole
        return self.reference(torch.float64).logits_since(0, self._windows[0])

    def edited_together(self, dtype: torch.dtype) -> Int[Tensor, "1 pos"]:
        """The tokens of the run in which all hooks are edited, in a precision."""
        less = self._less_in_float32 and dtype == torch.float32
        return self.whole[:, :_TOGETHER_IN_FLOAT32] if less else self.whole

    def together(
        self, dtype: torch.dtype, tokens: Int[Tensor, "1 pos"], edits: Mapping[str, Edit]
    ) -> Float[Tensor, "1 pos d_vocab"] | InParts:
        """The native logits of that run under some edits; those in float64 are computed once."""
        if dtype != torch.float64:
            return self.reference(dtype).logits_since(0, tokens, edits)
        key = frozenset(edits), tokens.shape[1]
        if key not in self._together:
            self._together[key] = self.reference(dtype).logits_since(0, tokens, edits)
        return self._together[key]

    def exact(self, name: str) -> Float[Tensor, "example ..."]:
        """A native activation in float64, or the logits; all are computed at once and kept for the next question."""
        if name not in self._exact:
            self._exact = self.activations(torch.float64)
        return self._exact[name]

    @property
    def is_large(self) -> bool:
        """Whether the model has GPT-2's size."""
        return self._size == "large"

    def forget_exact(self) -> None:
        """Keep no activations of a large model, but the logits."""
        if self.is_large:
            self._exact = {name: value for name, value in self._exact.items() if name == "logits"}

    def notes(self, edits: bool) -> tuple[str, ...]:
        """Notes on what could not be compared, or was not to be."""
        reference = self.reference(torch.float64)
        unseen = sorted({n.rpartition(".")[2] for n in self.names if not reference.reads(n)})
        notes = (f"{reference.description} does not show {', '.join(unseen)}; not compared",) if unseen else ()
        if not edits:
            return (*notes, "edits were not compared, on request")
        return (
            *notes,
            f"{SIZES}{_said(self.short)}, all together at {self._together_said()}; other activations at "
            f"{_said(self.tokens)}; greedy text {self._greedy_said()}",
        )

    def _together_said(self) -> str:
        """Where all hooks are edited in one run, in words."""
        fewer = self.edited_together(torch.float32)
        return _said(self.whole) + (f" (in float32 at {fewer.shape[1]})" if fewer.shape != self.whole.shape else "")

    def _greedy_said(self) -> str:
        """Where the greedy text is, in words."""
        context = _said(self.whole.expand(len(self.prompt), -1))
        if not self.further:
            n = 1 + self.whole.shape[1] - self.prompt.shape[1]
            return f"at the end of {context}: {n} token{'s' if n > 1 else ''}"
        return f"of {context} and {self.further} tokens past them"


def _said(tokens: Int[Tensor, "example pos"]) -> str:
    n, length = tokens.shape
    return f"{length} position{'s' if length > 1 else ''} of {n} sequence{'s' if n > 1 else ''}"


def _filled(native: Reference, text: Int[Tensor, "example begun"], length: int) -> Int[Tensor, "example pos"]:
    """A text that the native model has continued greedily to a length."""
    after = native.next_logits()
    while text.shape[1] < length:
        text = torch.cat([text, after(text).argmax(-1, keepdim=True)], dim=1)
    return text


def compare_outputs(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare logits (or log-probabilities), loss, and Kullback-Leibler divergence in nats."""
    native = bench.reference(judge.dtype)
    targets = rearrange(bench.targets, "example pos -> (example pos)")
    with torch.no_grad():
        expected, got = native.logits(bench.tokens), model(bench.tokens, return_type="logits")
        true = bench.exact("logits")
        bench.forget_exact()
        name = "logits" if judge.mode == "raw" else "log-probabilities"
        yield judge("output", name, got, expected, lambda: true, logits=True)

        def loss(logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, ""]:
            return F.cross_entropy(rearrange(logits, "example pos d_vocab -> (example pos) d_vocab"), targets)

        if got.shape == expected.shape:
            yield judge("output", "loss", loss(got), loss(expected), lambda: loss(true))
            p, q = expected.double().log_softmax(-1), got.double().log_softmax(-1)
            kl = (p.exp() * (p - q)).sum(-1).abs().mean()
            noise = (p.exp() * (p - true.double().log_softmax(-1))).sum(-1).abs().mean()
            yield judge("output", "KL(native || converted)", kl, torch.zeros_like(kl), lambda: noise, scale=1.0)


def compare_weights(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare every weight, brought back to nanoGPT's layout, bit for bit; of processed weights, the embeddings.

    Random tokens reach only some rows of an embedding; this comparison reaches all of them.
    """
    checkpoint, hooked = bench.checkpoint, hooked_layout_of(model)
    if judge.mode == "raw":
        for name, stored in checkpoint.state_dict.items():
            yield judge.identical("weight", name, native_tensor(name, hooked).cpu(), stored.to(judge.dtype))
        for name in hooked:
            bias = name.rpartition(".")[2].startswith("b")
            if not bias or (checkpoint.config.bias and name != "unembed.b_U"):
                continue
            # nanoGPT has none, so it must be zero
            yield judge.identical("weight", name, hooked[name].cpu(), torch.zeros_like(hooked[name]).cpu())
    else:
        for name, key in (("embed.W_E", "transformer.wte.weight"), ("pos_embed.W_pos", "transformer.wpe.weight")):
            exact = checkpoint.state_dict[key].double()
            yield judge("weight", name, hooked[name].cpu(), (exact - exact.mean(-1, keepdim=True)).to(judge.dtype))
    for name, expected in (("act_fn", checkpoint.config.act_fn), ("n_heads", checkpoint.config.n_head)):
        if getattr(model.cfg, name) != expected:
            yield judge.failed("weight", f"cfg.{name}", f"{getattr(model.cfg, name)!r}, expected {expected!r}")


def compare_activations(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the value at every hook, or at those hooks whose values the processing of weights preserves."""
    expected = bench.activations(judge.dtype)
    names = [n for n in bench.names if n in expected and (judge.mode == "raw" or n.endswith(_PRESERVED))]
    activations: dict[str, Tensor] = {}
    keepers = [(name, as_hook(_keep(activations, name))) for name in names]
    with torch.no_grad():
        model.run_with_hooks(bench.tokens, fwd_hooks=keepers, return_type=None)
    for name in names:
        got, native = activations.pop(name, None), expected.pop(name)
        shape = native.shape if got is None else _with_examples(got.shape, native.shape)
        got = got if got is None or shape is None else got.expand(shape)
        native = native if shape is None else native.expand(shape)

        def true(name: str = name, shape: torch.Size | None = shape) -> Tensor:
            return bench.exact(name) if shape is None else bench.exact(name).expand(shape)

        yield judge("activation", name, got, native, true)
    bench.forget_exact()


def _with_examples(one: torch.Size, other: torch.Size) -> torch.Size | None:
    """The shape with all examples, if two shapes are the same but for the first axis, which is 1 or absent in one."""
    longer, shorter = sorted((one, other), key=lambda shape: (len(shape), shape[:1]), reverse=True)
    same = shorter[1:] == longer[1:] and shorter[0] == 1 if len(shorter) == len(longer) else shorter == longer[1:]
    return longer if same else None


def compare_gradients(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the gradient of the loss with respect to every weight, brought back to nanoGPT's layout."""
    tokens, targets = bench.tokens[:, :64], bench.targets[:, :64]
    yield from compared_gradients(bench.reference, model, bench.checkpoint.config, judge, tokens, targets)


def compare_greedy(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the logits of a whole context, and greedy text past it.

    A token may differ only where the native model is undecided.
    """
    start = bench.prompt.shape[1] - 1
    with torch.no_grad():
        greedy = bench.greedy(judge.dtype)
        got = model(greedy.windows[0], return_type="logits")
        name = "logits, whole context" if judge.mode == "raw" else "log-probabilities, whole context"
        yield judge("output", name, got, greedy.whole, bench.exact_whole, logits=True)
        parts = [got[:, start:].clone()]
        del got
        parts += [model(window, return_type="logits")[:, -1:].clone() for window in greedy.windows[1:]]
        expected, got = greedy.chosen_from, torch.cat(parts, dim=1)
    chosen, taken = expected.argmax(-1), got.argmax(-1)
    gap = expected.amax(-1) - expected.gather(-1, taken[..., None]).squeeze(-1)
    undecided = gap <= 10 * judge.base * expected.abs().amax(-1)
    differing = chosen != taken
    ties = int((differing & undecided).sum())
    yield judge.greedy(int((differing & ~undecided).sum()), chosen.numel(), ties)


def compare_edits(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the logits after the same edit at the same hook on both sides, and after edits at all hooks together."""
    native, tokens = bench.reference(judge.dtype), bench.short
    names = [
        name
        for name in bench.names
        if native.edits(name) and (judge.mode == "raw" or name.endswith(_EDITABLE_PROCESSED))
    ]
    edits = [(kind, name, edit_for(kind, name, bench.seed)) for name in names for kind in KINDS]
    named = [(name, edit) for _, name, edit in edits]
    n_layers = bench.checkpoint.config.n_layer
    with torch.no_grad():
        converted = ConvertedSide(model, n_layers)
        expected = edited_logits(NativeSide(native, n_layers), tokens, named)
        got = edited_logits(converted, tokens, named)
        exact = ExactEdits(lambda: NativeSide(bench.reference(torch.float64), n_layers), tokens, named)
        for i, (kind, name, _) in enumerate(edits):
            true = partial(exact, i)
            yield judge("edit", f"{kind} at {name}", next(got), next(expected), true, logits=True)
        del expected, got, exact
        perturbed = {name: edit for kind, name, edit in edits if kind == "perturb"}
        tokens = bench.edited_together(judge.dtype)
        logits, true = (partial(bench.together, dtype, tokens, perturbed) for dtype in (judge.dtype, torch.float64))
        yield judge("edit", TOGETHER, converted.whole(tokens, perturbed), logits(), true, logits=True)


def _keep(
    activations: dict[str, Float[Tensor, "example ..."]], name: str
) -> Callable[[Float[Tensor, "example ..."]], None]:
    """A function that copies the activation that it gets into `activations`."""

    def keep(value: Tensor) -> None:
        activations[name] = value.detach().clone()

    return keep
