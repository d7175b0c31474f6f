"""Metrics, which measure what a patch does: logit difference, log-probability, KL divergence, loss.

A metric takes logits [example, pos, d_vocab] and returns the mean over the examples, so it
also fits `transformer_lens.patching`. It knows the positions that it reads, so that a sweep
unembeds only those, and it has a value for each example. Any other function from logits to one
number can take its place; such a function gets the logits of all positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, as_tokens, kl, single_token
from nanogpt_lens.text.pair import Pair

Answer: TypeAlias = int | str | Sequence[int] | Sequence[str] | Tensor
"""One token for all examples, or one for each: ids, or strings of one token."""

Positions: TypeAlias = int | Sequence[int] | None
"""A position, several of them, or None for all; negative ones count from the end."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Metric(ABC):
    """A number for each example, read from the logits of some positions.

    Attributes:
        pos: the positions whose logits the metric reads, and over which it averages; None for all.
    """

    pos: Positions = -1

    @property
    @abstractmethod
    def definition(self) -> str:
        """What is computed, in words."""

    @abstractmethod
    def at_reads(
        self, logits: Float[Tensor, "*axes example read d_vocab"], reads: Sequence[int]
    ) -> Float[Tensor, "*axes example"]:
        """A value for each example, from the logits at the positions `reads` alone."""

    def resolved(self, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Metric:
        """The same metric with ids in place of strings, checked against the model and the clean tokens."""
        return self

    def to_json(self) -> dict[str, Any] | None:
        """The metric as plain data, which `metric_from_json` reads; None where it is more than tokens and positions."""
        return None

    def reads(self, n_pos: int) -> tuple[int, ...]:
        """The positions that the metric reads in a text of `n_pos` tokens, ascending.

        Raises:
            AnalysisError: the metric reads no position, or one that the text does not have.
        """
        if self.pos is None:
            return tuple(range(n_pos))
        positions = list(self.pos) if isinstance(self.pos, Sequence) else np.asarray(self.pos).flatten().tolist()
        for p in positions:
            if isinstance(p, bool) or not isinstance(p, int) or not -n_pos <= p < n_pos:
                raise AnalysisError(f"the metric reads position {p!r}; expected {-n_pos} to {n_pos - 1}")
        if not positions:
            raise AnalysisError("the metric reads no position; give pos=-1 for the last one")
        return tuple(sorted({p % n_pos for p in positions}))

    def per_example(self, logits: Tensor) -> Float[Tensor, " example"]:
        """A value for each example, from logits [example, pos, d_vocab]."""
        if logits.dim() != 3:
            raise AnalysisError(f"logits have shape {list(logits.shape)}; expected [example, pos, d_vocab]")
        reads = self.reads(logits.shape[1])
        return self.at_reads(logits[:, list(reads)], reads)

    def __call__(self, logits: Tensor) -> Float[Tensor, ""]:
        """The mean over the examples, from logits [example, pos, d_vocab]."""
        return self.per_example(logits).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitDiff(Metric):
    """See `logit_diff`."""

    answer: Answer
    wrong: Answer
    on: str = ""

    @property
    def definition(self) -> str:
        """What is computed, in words, and on which prompts where these were chosen."""
        said = f"logit({_in_words(self.answer)}) - logit({_in_words(self.wrong)}) at position {_in_words(self.pos)}"
        return f"{said}, on prompts {self.on}" if self.on else said

    def resolved(self, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Metric:
        """The same metric with ids in place of strings."""
        ids = {name: _ids(getattr(self, name), name, model, tokens) for name in ("answer", "wrong")}
        return replace(self, **ids)

    def to_json(self) -> dict[str, Any]:
        """The metric as plain data."""
        plain = {"name": "logit_diff", **{name: _plain(getattr(self, name)) for name in ("answer", "wrong", "pos")}}
        return plain | ({"on": self.on} if self.on else {})

    def at_reads(
        self, logits: Float[Tensor, "*axes example read d_vocab"], reads: Sequence[int]
    ) -> Float[Tensor, "*axes example"]:
        """The mean over the positions read, for each example."""
        return (_entries(logits, self.answer) - _entries(logits, self.wrong)).mean(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerLogprob(Metric):
    """See `answer_logprob`."""

    answer: Answer

    @property
    def definition(self) -> str:
        """What is computed, in words."""
        return f"log-probability of {_in_words(self.answer)} at position {_in_words(self.pos)}, in nats"

    def resolved(self, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Metric:
        """The same metric with an id in place of a string."""
        return replace(self, answer=_ids(self.answer, "answer", model, tokens))

    def to_json(self) -> dict[str, Any]:
        """The metric as plain data."""
        return {"name": "answer_logprob", "answer": _plain(self.answer), "pos": _plain(self.pos)}

    def at_reads(
        self, logits: Float[Tensor, "*axes example read d_vocab"], reads: Sequence[int]
    ) -> Float[Tensor, "*axes example"]:
        """The mean over the positions read, for each example."""
        return _entries(logits.log_softmax(-1), self.answer).mean(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class KL(Metric):
    """See `kl_to`."""

    clean_logits: Tensor

    @property
    def definition(self) -> str:
        """What is computed, in words."""
        return f"KL(clean || patched) at position {_in_words(self.pos)}, in nats"

    def resolved(self, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Metric:
        """The same metric; AnalysisError unless its clean logits fit the tokens."""
        expected = [*tokens.shape, model.cfg.d_vocab]
        if not isinstance(self.clean_logits, Tensor) or self.clean_logits.isnan().any():
            raise AnalysisError("kl_to has no logits, or logits with nan; expected those of the clean run")
        if list(self.clean_logits.shape) != expected:
            raise AnalysisError(f"kl_to has logits of shape {list(self.clean_logits.shape)}; expected {expected}")
        return replace(self, clean_logits=self.clean_logits.detach().to(tokens.device, copy=True))

    def at_reads(
        self, logits: Float[Tensor, "*axes example read d_vocab"], reads: Sequence[int]
    ) -> Float[Tensor, "*axes example"]:
        """The mean over the positions read, for each example."""
        clean = self.clean_logits[:, list(reads)].to(logits.dtype).log_softmax(-1)
        return kl(clean, logits.log_softmax(-1)).mean(-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss(Metric):
    """See `loss`."""

    tokens: Tensor | None = None
    pos: Positions = None

    @property
    def definition(self) -> str:
        """What is computed, in words."""
        positions = "all positions" if self.pos is None else f"position {_in_words(self.pos)}"
        return f"cross-entropy of the next token at {positions}, in nats per token"

    def resolved(self, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Metric:
        """The same metric, with the clean tokens if it has none of its own."""
        targets = tokens if self.tokens is None else as_tokens(model, self.tokens, name="the text of loss(...)")
        if targets.shape != tokens.shape:
            raise AnalysisError(f"loss has tokens of shape {list(targets.shape)}; expected {list(tokens.shape)}")
        return replace(self, tokens=targets)

    def reads(self, n_pos: int) -> tuple[int, ...]:
        """The positions that the metric reads, ascending; never the last one, which has no next token."""
        if n_pos < 2:
            raise AnalysisError(f"the text has {n_pos} token; loss needs at least 2")
        if self.pos is None:
            return tuple(range(n_pos - 1))
        reads = super().reads(n_pos)
        if n_pos - 1 in reads:
            raise AnalysisError(
                f"loss reads position {n_pos - 1}, the last, which has no next token; give earlier ones"
            )
        return reads

    def at_reads(
        self, logits: Float[Tensor, "*axes example read d_vocab"], reads: Sequence[int]
    ) -> Float[Tensor, "*axes example"]:
        """The mean over the positions read, for each example."""
        if self.tokens is None:
            raise AnalysisError("loss has no tokens; give loss(tokens)")
        target = self.tokens[:, [r + 1 for r in reads]].expand(logits.shape[:-1])[..., None]
        return -logits.log_softmax(-1).gather(-1, target).squeeze(-1).mean(-1)


_LONGEST = 300
"""Letters of what a file says of its prompts."""


def logit_diff(answer: Answer, wrong: Answer, *, pos: Positions = -1, on: str = "") -> Metric:
    """The logit of the right answer minus that of a wrong one.

    Args:
        answer, wrong: a token for all examples or one for each, as ids or as strings of one token.
        pos: the position whose logits are read; over several positions the mean is taken.
        on: how the prompts were chosen of more, in words, which results repeat; "" where they were not.
    """
    return LogitDiff(answer=answer, wrong=wrong, pos=pos, on=on)


def logit_diff_of(pairs: Pair) -> LogitDiff:
    """The logit difference of prompt pairs at their last token, which says how they were chosen, where they were.

    Args:
        pairs: of `induction_pairs` or `task_pairs`.
    """
    return LogitDiff(answer=pairs.answer, wrong=pairs.wrong, on=pairs.chosen)


def answer_logprob(answer: Answer, *, pos: Positions = -1) -> Metric:
    """The log-probability of an answer, in nats.

    Args:
        answer: a token for all examples or one for each, as ids or as strings of one token.
        pos: the position whose logits are read; over several positions the mean is taken.
    """
    return AnswerLogprob(answer=answer, pos=pos)


def kl_to(clean_logits: Tensor, *, pos: Positions = -1) -> Metric:
    """KL(clean || patched), in nats; 0 if the patched run predicts what the clean run predicts.

    Args:
        clean_logits: the logits of the clean run [example, pos, d_vocab].
        pos: the position whose logits are read; over several positions the mean is taken.
    """
    return KL(clean_logits=clean_logits, pos=pos)


def loss(tokens: Tensor | None = None, *, pos: Positions = None) -> Metric:
    """Cross-entropy of the next token, in nats, averaged over positions.

    Args:
        tokens: ids [example, pos] whose next tokens are the targets; None for the clean text.
        pos: the positions from which the next token is predicted; None for all.
    """
    return Loss(tokens=tokens, pos=pos)


def metric_from_json(plain: Any) -> Metric:
    """The metric that `Metric.to_json` wrote.

    Raises:
        AnalysisError: it is not of that form.
    """
    makers: dict[Any, Callable[..., Metric]] = {"logit_diff": logit_diff, "answer_logprob": answer_logprob}
    fields = dict(plain) if isinstance(plain, Mapping) else {}
    name, pos = fields.pop("name", None), fields.pop("pos", -1)
    on = {"on": fields.pop("on")} if name == "logit_diff" and isinstance(fields.get("on"), str) else {}
    maker = makers.get(name if isinstance(name, str) else None)
    expected = {"answer", "wrong"} if name == "logit_diff" else {"answer"}
    ids = [i for value in fields.values() for i in (value if isinstance(value, list) else [value])]
    positions = pos if isinstance(pos, list) else [] if pos is None else [pos]
    small = all(isinstance(i, str) or _is_whole(i) for i in ids) and all(map(_is_whole, positions))
    if maker is None or set(fields) != expected or not small or len(on.get("on", "")) > _LONGEST:
        raise AnalysisError(
            f"{str(plain)[:60]!r} is no metric; expected one such as {{'name': 'logit_diff', 'answer': [3], "
            "'wrong': [4], 'pos': -1}}"
        )
    return maker(**fields, **on, pos=pos)


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundMetric:
    """A metric or a bare function, ready for the logits of certain tokens.

    Attributes:
        function: the metric or the function.
        reads: the positions whose logits it reads, ascending.
        per_example: whether it has a value for each example, as metrics have and bare functions have not.
        definition: what it computes, in words.
    """

    function: Metric | Callable[[Tensor], Any]
    reads: tuple[int, ...]
    per_example: bool
    definition: str

    def __call__(self, logits: Float[Tensor, "site example read d_vocab"]) -> Shaped[Tensor, "site _"]:
        """A value for each site and example; for a bare function, one value for each site.

        Raises:
            AnalysisError: a bare function returns something else than one number.
        """
        if isinstance(self.function, Metric):
            return self.function.at_reads(logits, self.reads)
        return torch.stack([self._scalar(self.function(row)) for row in logits])[:, None]

    def of_run(self, logits: Float[Tensor, "example pos d_vocab"]) -> Shaped[Tensor, " _"]:
        """A value for each example of one run, from all its logits; for a bare function, one value."""
        return self(logits[None, :, list(self.reads)])[0]

    def _scalar(self, value: Any) -> Shaped[Tensor, ""]:
        """What a bare function returned, as a tensor; AnalysisError unless it is one number."""
        if isinstance(value, Metric):
            raise AnalysisError("the metric returned a metric; call it first, as in metric=ngl.metrics.loss()")
        try:
            value = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, int | float) else None)
        except (TypeError, ValueError, RuntimeError):
            raise AnalysisError(f"the metric returned {value!r}; expected one number") from None
        if value.dim() or value.is_complex():
            raise AnalysisError(
                f"the metric returned shape {list(value.shape)}; expected one number: average over the examples, "
                "or use logit_diff, answer_logprob, kl_to or loss, which keep them apart"
            )
        return value


def bind(metric: Metric | Callable[[Tensor], Any], model: Hooked, tokens: Int[Tensor, "example pos"]) -> BoundMetric:
    """A metric or a bare function, ready for the logits of `tokens`.

    Raises:
        AnalysisError: the metric does not fit the tokens, or is no function.
    """
    if isinstance(metric, Metric):
        fitted = metric.resolved(model, tokens)
        reads = fitted.reads(tokens.shape[1])
        return BoundMetric(function=fitted, reads=reads, per_example=True, definition=metric.definition)
    if not callable(metric):
        raise AnalysisError(f"the metric is {metric!r}; expected one like logit_diff(...), or a function of the logits")
    name = getattr(metric, "__name__", type(metric).__name__)
    reads = tuple(range(tokens.shape[1]))
    return BoundMetric(function=metric, reads=reads, per_example=False, definition=f"{name}(logits)")


def _ids(answer: Answer, name: str, model: Hooked, tokens: Int[Tensor, "example pos"]) -> Int[Tensor, " answer"]:
    """The answer as ids: one, or one for each example."""
    if isinstance(answer, Tensor | np.ndarray | np.generic):
        answer = np.asarray(answer.tolist()).flatten().tolist()
    items = [answer] if isinstance(answer, int | str) else list(answer) if isinstance(answer, Sequence) else []
    if not items or not all(isinstance(a, int | str) and not isinstance(a, bool) for a in items):
        raise AnalysisError(f"{name} is {answer!r}; expected an id or a string of one token, or one for each example")
    ids = torch.tensor([single_token(model, a, name) if isinstance(a, str) else a for a in items])
    if ids.dim() != 1 or len(ids) not in (1, len(tokens)):
        raise AnalysisError(f"{name} has {len(ids)} tokens; expected 1, or one for each of the {len(tokens)} examples")
    if int(ids.min()) < 0 or int(ids.max()) >= model.cfg.d_vocab:
        raise AnalysisError(f"{name} has ids outside 0 to {model.cfg.d_vocab - 1}, the model's vocabulary")
    return ids.to(tokens.device)


def _entries(values: Float[Tensor, "*axes read d_vocab"], answer: Answer) -> Float[Tensor, "*axes read"]:
    """The entries of the answer's token."""
    if isinstance(answer, str) or (isinstance(answer, Sequence) and answer and isinstance(answer[0], str)):
        raise AnalysisError(
            f"the answer {answer!r} is text, which needs a model's tokenizer: call metric.resolved(...)"
        )
    ids = torch.as_tensor(answer, device=values.device).reshape(-1, 1, 1)
    return values.gather(-1, ids.expand(*values.shape[:-1], 1)).squeeze(-1)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _plain(value: Any) -> Any:
    """An answer or positions as JSON has them."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _in_words(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
