"""The comparisons of a certificate: outputs, weights, activations, gradients, greedy text, edits.

Each function takes the native side (`Bench`), a converted model and a `Judge`, and yields one
`Comparison` per quantity, in the order of the computation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.edited_runs import ConvertedSide, NativeSide, as_hook, edited_logits
from conversion.edits import KINDS, edit_for
from conversion.judge import Judge
from conversion.layout import native_tensor
from conversion.native import Edit, hook_names
from conversion.reference import ModelPyReference, NativeReference, Reference
from conversion.report import SIZES, Comparison
from conversion.stepping import Stepper
from conversion.transformerlens_to_nanogpt import hooked_layout_of

_PRESERVED = ("hook_q", "hook_k", "hook_attn_scores", "hook_pattern", "mlp.hook_pre", "mlp.hook_post", "hook_scale")
_EDITABLE_PROCESSED = ("hook_q", "hook_k", "hook_attn_scores", "mlp.hook_pre", "mlp.hook_post")

_LARGE = 5e9
"""Parameters times positions of context from which on a model is large, as GPT-2 is."""

_ON = {"usual": (2, 256), "large": (1, 128)}
"""Examples and positions of the outputs and the activations, at most, by size of the model."""

_EDITED = {"usual": (2, 24), "large": (1, 12)}
"""Examples and positions of the runs with one edit, at most."""

_PROMPT = 5
"""Tokens that greedy text begins with; that of a large model begins with a whole context."""

_GREEDY = {"usual": (2, 6), "large": (1, 2)}
"""Examples of greedy text, and tokens of it past the context."""

TOGETHER = "every hook perturbed in one run, whole context"
"""The name of the comparison whose run edits all hooks, also at the positions that runs with one edit do not reach."""

Greedy: TypeAlias = tuple[
    list[Int[Tensor, "example pos"]], Float[Tensor, "example pos d_vocab"], Float[Tensor, "example step d_vocab"]
]
"""Windows of a greedy text, the logits of the first, and the last position's logits of the others."""


class Bench:
    """The native side in each precision, and the tokens that both sides get."""

    def __init__(
        self, checkpoint: Checkpoint, model_py: str | Path | None, *, seed: int, device: str | torch.device
    ) -> None:
        self.checkpoint, self.model_py, self.seed, self.device = checkpoint, model_py, seed, device
        self.names = hook_names(checkpoint.config.n_layer)
        self._references: dict[torch.dtype, Reference] = {}
        self._exact: dict[str, Float[Tensor, "example ..."]] | None = None
        generator = torch.Generator().manual_seed(seed)
        context, vocabulary = checkpoint.config.block_size, checkpoint.config.vocab_size

        def tokens(n: int, length: int) -> Int[Tensor, "example pos"]:
            return torch.randint(vocabulary, (n, length), generator=generator).to(device)

        size = "usual" if checkpoint.n_params * context < _LARGE else "large"
        n, length = _ON[size]
        self.tokens, self.targets = tokens(n, min(context, length)), tokens(n, min(context, length))
        n, length = _EDITED[size]
        self.short = tokens(n, min(context, length))
        n, self.further = _GREEDY[size]
        self.prompt = tokens(n, min(_PROMPT, context) if size == "usual" else context)
        self.whole = tokens(1, context)
        self._windows: list[Int[Tensor, "example pos"]] = []
        self._greedy: dict[torch.dtype, Greedy] = {}

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
        """The native model's greedy text, which is written once, in the first precision that is asked for.

        Returns:
            The windows of the text, of which the first fills the context and each later one is a token further;
            the logits of the first window; and the last position's logits of each later one.
        """
        if dtype not in self._greedy:
            native, context = self.reference(dtype), self.checkpoint.config.block_size
            if not self._windows:
                self._windows.append(_filled(native, self.prompt, context))
            first = native.logits(self._windows[0])
            last = [first[:, -1:]]
            for i in range(1, 1 + self.further):
                if i == len(self._windows):
                    text = torch.cat([self._windows[-1], last[-1].argmax(-1)], dim=1)
                    self._windows.append(text[:, -context:])
                last.append(native.logits(self._windows[i])[:, -1:].clone())
            self._greedy = {dtype: (self._windows, first, torch.cat(last[1:], dim=1))}
        return self._greedy[dtype]

    def exact(self, name: str) -> Float[Tensor, "example ..."]:
        """A native activation in float64."""
        if self._exact is None:
            self._exact = self.activations(torch.float64)
        return self._exact[name]

    def notes(self, edits: bool) -> tuple[str, ...]:
        """Notes on what could not be compared, or was not to be."""
        reference = self.reference(torch.float64)
        unseen = sorted({n.rpartition(".")[2] for n in self.names if not reference.reads(n)})
        notes = (f"{reference.description} does not show {', '.join(unseen)}; not compared",) if unseen else ()
        if not edits:
            return (*notes, "edits were not compared, on request")
        return (
            *notes,
            f"{SIZES}{_said(self.short)}, all together at {_said(self.whole)}; other activations at "
            f"{_said(self.tokens)}; greedy text of {_said(self.whole.expand(len(self.prompt), -1))} and {self.further} "
            "tokens past them",
        )


def _said(tokens: Int[Tensor, "example pos"]) -> str:
    n, length = tokens.shape
    return f"{length} position{'s' if length > 1 else ''} of {n} sequence{'s' if n > 1 else ''}"


def _filled(native: Reference, text: Int[Tensor, "example begun"], length: int) -> Int[Tensor, "example pos"]:
    """A text that the native model has continued greedily to a length."""
    after = Stepper(native.model) if isinstance(native, NativeReference) else lambda seen: native.logits(seen)[:, -1]
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
        unknown = [n for n in hooked if n.rpartition(".")[2].startswith("b") and not checkpoint.config.bias]
        for name in {*unknown, "unembed.b_U"} & set(hooked):  # nanoGPT has none, so they must be zero
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


def _with_examples(one: torch.Size, other: torch.Size) -> torch.Size | None:
    """The shape with all examples, if two shapes are the same but for the first axis, which is 1 or absent in one."""
    longer, shorter = sorted((one, other), key=lambda shape: (len(shape), shape[:1]), reverse=True)
    same = shorter[1:] == longer[1:] and shorter[0] == 1 if len(shorter) == len(longer) else shorter == longer[1:]
    return longer if same else None


def compare_gradients(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the gradient of the loss with respect to every weight, brought back to nanoGPT's layout."""
    config = bench.checkpoint.config
    tokens, targets = bench.tokens[:, :64], bench.targets[:, :64]
    weights = [weight for weight in model.parameters() if weight.is_floating_point()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    with torch.enable_grad():
        expected = bench.reference(judge.dtype).gradients(tokens, targets)
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            logits = rearrange(model(tokens, return_type="logits"), "example pos d_vocab -> (example pos) d_vocab")
            loss = F.cross_entropy(logits, rearrange(targets, "example pos -> (example pos)"))
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
    by_id = {id(w): g for w, g in zip(weights, gradients, strict=True) if g is not None}
    hooked = hooked_layout_of(model, lambda weight: by_id.get(id(weight), torch.zeros_like(weight)))
    if config.tied:
        hooked["embed.W_E"] = hooked["embed.W_E"] + hooked["unembed.W_U"].T
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    exact: dict[str, Tensor] = {}

    def true(name: str) -> Tensor:
        if not exact:
            with torch.enable_grad():
                exact.update(bench.reference(torch.float64).gradients(tokens, targets))
        return exact[name]

    for name in config.shapes():
        if name == "lm_head.weight" and config.tied:
            continue  # it counts once, as the embedding
        got = native_tensor(name, hooked)
        yield judge("gradient", name, got, expected.pop(name), lambda name=name: true(name), scale=scale)


def compare_greedy(bench: Bench, model: Any, judge: Judge) -> Iterator[Comparison]:
    """Compare the logits of a whole context, and greedy text past it.

    A token may differ only where the native model is undecided.
    """
    start = bench.prompt.shape[1] - 1
    with torch.no_grad():
        windows, first, last = bench.greedy(judge.dtype)
        got_first = model(windows[0], return_type="logits")
        name = "logits, whole context" if judge.mode == "raw" else "log-probabilities, whole context"

        def true() -> Float[Tensor, "example pos d_vocab"]:
            return bench.reference(torch.float64).logits(windows[0])

        yield judge("output", name, got_first, first, true, logits=True)
        got_last = [model(window, return_type="logits")[:, -1:].clone() for window in windows[1:]]
        expected = torch.cat([first[:, start:], last], dim=1)
        got = torch.cat([got_first[:, start:], *got_last], dim=1)
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
        for kind, name, edit in edits:

            def true(name: str = name, edit: Edit = edit) -> Tensor:
                return bench.reference(torch.float64).logits(tokens, {name: edit})

            yield judge("edit", f"{kind} at {name}", next(got), next(expected), true, logits=True)
        perturbed = {name: edit for kind, name, edit in edits if kind == "perturb"}

        def together() -> Tensor:
            return bench.reference(torch.float64).logits(bench.whole, perturbed)

        logits = native.logits(bench.whole, perturbed)
        yield judge("edit", TOGETHER, converted.whole(bench.whole, perturbed), logits, together, logits=True)


def _keep(
    activations: dict[str, Float[Tensor, "example ..."]], name: str
) -> Callable[[Float[Tensor, "example ..."]], None]:
    """A function that copies the activation that it gets into `activations`."""

    def keep(value: Tensor) -> None:
        activations[name] = value.detach().clone()

    return keep
