"""How every analysis meets a model: tokens in, activations out, nothing left behind.

A model is a HookedTransformer (TransformerLens 3.9) or a TransformerBridge (4.x). The functions use
only what both do alike, and say where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from conversion.backends import transformer_lens_version
from conversion.errors import CheckpointError
from nanogpt_lens.core.errors import AnalysisError

Hooked: TypeAlias = Any
"""A HookedTransformer or a TransformerBridge."""

Text: TypeAlias = str | Sequence[str] | Sequence[int] | Tensor
"""One text, several of one length, or token ids of shape [pos] or [example, pos]."""

Edit: TypeAlias = Callable[[Tensor], Tensor | None]
"""A function that reads an activation and returns None, or returns what takes the activation's place."""


def as_tokens(model: Hooked, source: Text, *, name: str = "the text") -> Int[Tensor, "example pos"]:
    """Token ids of a text, of several texts, or of ids themselves, on the model's device.

    Raises:
        AnalysisError: `source` has no tokens, ids outside the vocabulary, or more positions than the context.
        VocabularyError: the model's tokenizer cannot encode the text.
    """
    check_model(model)
    if isinstance(source, str) or (isinstance(source, Sequence) and source and isinstance(source[0], str)):
        texts = [source] if isinstance(source, str) else [str(text) for text in source]
        tokens = _encoded(model, texts, name)
    else:
        try:
            tokens = torch.as_tensor(source)
        except (TypeError, ValueError, RuntimeError):
            raise AnalysisError(
                f"{name} is a {type(source).__name__} that is neither text nor ids; expected texts of one "
                "length, or integer ids [pos] or [example, pos] with rows of one length"
            ) from None
    tokens = tokens[None] if tokens.dim() == 1 else tokens
    if tokens.dim() != 2 or not tokens.numel():
        raise AnalysisError(
            f"{name} has shape {list(tokens.shape)}; expected ids [pos] or [example, pos], at least one"
        )
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise AnalysisError(f"{name} is {tokens.dtype}; expected integer token ids")
    tokens = tokens.long()
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.cfg.d_vocab:
        raise AnalysisError(
            f"{name} has the token {low if low < 0 else high}; expected ids from 0 to {model.cfg.d_vocab - 1}, "
            "the model's vocabulary"
        )
    if tokens.shape[1] > model.cfg.n_ctx:
        raise AnalysisError(
            f"{name} has {tokens.shape[1]} tokens; expected at most {model.cfg.n_ctx}, the model's context: cut it"
        )
    return tokens.to(device_of(model))


def check_model(model: Hooked) -> None:
    """Raise AnalysisError unless `model` is a TransformerLens model."""
    if not (hasattr(model, "cfg") and hasattr(model, "run_with_hooks")):
        raise AnalysisError(
            f"the model is a {type(model).__name__}; expected a HookedTransformer or a TransformerBridge, as "
            "ngl.load(path) gives"
        )


def _encoded(model: Hooked, texts: list[str], name: str) -> Int[Tensor, "example pos"]:
    """The ids of texts that have one length."""
    from nanogpt_lens.model.encoding import encode_text

    rows = [encode_text(model, text) for text in texts]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) > 1:
        raise AnalysisError(
            f"{name}: the texts have {' and '.join(map(str, lengths))} tokens; expected one length, "
            "because nanoGPT has no padding token"
        )
    return torch.stack(rows)


def n_tokens(model: Hooked) -> int:
    """The number of tokens in the model's vocabulary, without nanoGPT's padding to a multiple of 64."""
    vocabulary = getattr(getattr(model, "nanogpt_origin", None), "vocabulary", None)
    return min(model.cfg.d_vocab, vocabulary.size) if vocabulary is not None else model.cfg.d_vocab


def token_labels(model: Hooked, tokens: Int[Tensor, " pos"]) -> tuple[str, ...]:
    """Each id as text if the model has a vocabulary, else as a number."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        return tuple(str(i) for i in tokens.tolist())
    return tuple(str(tokenizer.decode([i])) for i in tokens.tolist())


def single_token(model: Hooked, answer: str, name: str) -> int:
    """The id of a string that is one token.

    Raises:
        AnalysisError: the string is no token, or several.
        VocabularyError: the model's tokenizer cannot encode it.
    """
    ids = _encoded(model, [answer], name)[0].tolist() if answer else []
    if len(ids) != 1:
        raise AnalysisError(f"{name} {answer!r} is {len(ids)} tokens; expected one token of the model's vocabulary")
    return ids[0]


def device_of(model: Hooked) -> torch.device:
    """The device that the model's parameters are on."""
    return next(model.parameters()).device


@contextmanager
def evaluating(model: Hooked) -> Iterator[None]:
    """A block in which the model is in evaluation mode without gradients, also under `torch.inference_mode`.

    The model's own mode returns at the end.
    """
    check_model(model)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        model.train(training)


def run(
    model: Hooked,
    inputs: Int[Tensor, "example pos"] | Float[Tensor, "example pos d_model"],
    edits: Mapping[str, Edit] | None = None,
    *,
    start: int | None = None,
) -> Float[Tensor, "example read d_vocab"]:
    """The logits of a run in which activations are read or replaced.

    Args:
        model: the model.
        inputs: token ids, or with `start` the residual stream before that layer.
        edits: functions by the names of hook points; they are removed afterwards, also after an exception.
        start: the layer at whose `hook_resid_pre` the run begins; None to begin at the embedding.

    Returns:
        logits at every position, unless an edit has dropped some of the positions.
    """
    options: dict[str, Any] = {} if start is None else {"start_at_layer": start}
    if not edits:
        return model(inputs, return_type="logits", **options)
    with editing(model, edits):
        return model(inputs, return_type="logits", **options)


class EnoughSeenError(Exception):
    """Ends a run after the last activation that is asked for."""


def look(model: Hooked, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit]) -> None:
    """Run for what `edits` see, none of which is behind the last block: there are no logits, which cost a third."""
    end = "ln_final.hook_scale"
    if end not in model.hook_dict or end in edits:
        run(model, tokens, edits)
        return

    def ending(value: Tensor) -> None:
        raise EnoughSeenError

    with suppress(EnoughSeenError):
        run(model, tokens, {**edits, end: ending})


def editing(model: Hooked, edits: Mapping[str, Edit]) -> AbstractContextManager[Any]:
    """A context in which activations are read or replaced in every run, by functions by the names of hook points."""
    return model.hooks(fwd_hooks=[(name, _hook(edit)) for name, edit in edits.items()])


def _hook(edit: Edit) -> Callable[..., Tensor | None]:
    def hook(value: Tensor, hook: Any = None) -> Tensor | None:
        return edit(value)

    return hook


def record(model: Hooked, inputs: Int[Tensor, "example pos"], names: Iterable[str]) -> dict[str, Float[Tensor, " ..."]]:
    """Copies of the activations at `names` in one run, without gradients, and the run's logits as "logits"."""
    activations: dict[str, Float[Tensor, " ..."]] = {}

    def keep(name: str) -> Edit:
        def edit(value: Tensor) -> None:
            activations[name] = value.detach().clone()

        return edit

    logits = run(model, inputs, {name: keep(name) for name in names})
    return {**activations, "logits": logits.detach()}


def has_hooks(model: Hooked) -> bool:
    """Whether the user has attached hooks to the model, TransformerLens' or torch's.

    A bridge itself uses torch hooks, so that on a bridge only TransformerLens' hooks count.
    """
    modules = list(model.modules())
    points = [m for m in modules if hasattr(m, "fwd_hooks") and hasattr(m, "bwd_hooks")]
    if any(point.fwd_hooks or point.bwd_hooks for point in points):
        return True
    others = [] if _is_bridge(model) else [m for m in modules if not hasattr(m, "fwd_hooks")]
    return any(m._forward_hooks or m._forward_pre_hooks for m in others)


def can_start(model: Hooked) -> bool:
    """Whether the model can `start_at_layer`, as all can but the bridge of TransformerLens 3."""
    return not _is_bridge(model) or transformer_lens_version() >= (4, 0)


def _is_bridge(model: Hooked) -> bool:
    return any(cls.__name__ == "TransformerBridge" for cls in type(model).__mro__)


def loss_per_token(
    model: Hooked, tokens: Int[Tensor, "example pos"], edits: Mapping[str, Edit] | None = None
) -> Float[Tensor, "example pos-1"]:
    """The cross-entropy of each next token, in nats."""
    logits = run(model, tokens, edits)
    return next_token_loss(logits, tokens)


def next_token_loss(
    logits: Float[Tensor, "*axes pos d_vocab"], tokens: Int[Tensor, "*axes pos"]
) -> Float[Tensor, "*axes pos-1"]:
    """The cross-entropy of the token after each position, in nats, in float32 or better."""
    return cross_entropy(logits[..., :-1, :], tokens[..., 1:])


def cross_entropy(logits: Float[Tensor, "*axes d_vocab"], following: Int[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """The cross-entropy of the tokens that follow, in nats, in float32 or better."""
    return -log_probs(logits).gather(-1, following[..., None]).squeeze(-1)


def log_probs(logits: Float[Tensor, "*axes d_vocab"]) -> Float[Tensor, "*axes d_vocab"]:
    """The log-probabilities of logits, in float32 or better."""
    return (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)


def kl(reference: Float[Tensor, "... d_vocab"], other: Float[Tensor, "... d_vocab"]) -> Float[Tensor, " ..."]:
    """KL(reference || other) in nats, from log-probabilities whose other axes broadcast."""
    return (reference.exp() * (reference - other)).sum(-1)


def provenance(model: Hooked, **arguments: Any) -> dict[str, Any]:
    """What a result needs to be made again: the checkpoint, the versions of the libraries, the arguments."""
    origin = getattr(model, "nanogpt_origin", None)
    try:
        sha256 = origin.sha256 if origin is not None else None
    except (CheckpointError, OSError):  # the file has changed or is gone since the model was loaded
        sha256 = None
    return {
        "checkpoint": origin.name if origin is not None else None,
        "checkpoint_sha256": sha256,
        "model": f"{type(model).__name__}, {str(model.cfg.dtype).removeprefix('torch.')}",
        **_versions(),
        "arguments": arguments,
    }


@cache
def _versions() -> dict[str, str]:
    installed = {name.replace("-", "_"): version(name) for name in ("nanogpt-lens", "transformer-lens")}
    return {**installed, "torch": torch.__version__}
