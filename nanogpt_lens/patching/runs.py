"""What every patching method begins with: the two runs, the activation, and what is patched in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.interventions.sites import Kind, kind_of, sweep_axes
from nanogpt_lens.interventions.sources import SOURCES, source_activations
from nanogpt_lens.model.access import Edit, Hooked, Text, as_tokens, can_start, provenance, record, run, token_labels
from nanogpt_lens.patching.continuation import names_needed
from nanogpt_lens.running.metrics import KL, BoundMetric, Loss, Metric, bind


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepSetup:
    """A sweep, ready to be made.

    Attributes:
        kind, axes: the activation that is patched, and the axes along which sites are told apart.
        runs: the two runs.
        patched_in: what takes the activation's place, by layer.
        source: where that comes from, in a word.
        reference: the tokens that were averaged or drawn from, None for those of the patched run.
        seed: the seed of what is drawn.
    """

    kind: Kind
    axes: tuple[str, ...]
    runs: TwoRuns
    patched_in: dict[int, Float[Tensor, "example ..."]]
    source: str
    reference: Int[Tensor, "reference pos"] | None
    seed: int

    def labels(self, model: Hooked) -> dict[str, tuple[str, ...]]:
        """Tokens for the axes that are positions."""
        return position_labels(model, self.runs.clean, self.runs.corrupted, self.axes)

    def provenance(self, model: Hooked, **more: Any) -> dict[str, Any]:
        """What is needed to make the sweep again."""
        runs = self.runs
        return provenance(
            model,
            activation=self.kind.name,
            axes=list(self.axes),
            metric=runs.metric.definition,
            direction=runs.direction,
            source=self.source,
            seed=self.seed,
            clean=runs.clean.tolist(),
            corrupted=None if runs.corrupted is None else runs.corrupted.tolist(),
            reference=None if self.reference is None else self.reference.tolist(),
            **more,
        )

    def describe(self) -> str:
        """What the sweep does, in words."""
        patched, other = {"denoise": ("corrupted", "clean"), "noise": ("clean", "corrupted")}[self.runs.direction]
        what = f"the {other} run's activation" if self.source == "other" else SOURCES[self.source]
        whole = [axis for axis in ("layer", *self.kind.axes) if axis not in self.axes]
        rest = f", whole along {', '.join(whole)}" if whole else ""
        return f"{self.kind.hook} of the {patched} run replaced by {what} at each {', '.join(self.axes)}{rest}"


def set_up(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    activation: str,
    axes: Sequence[str],
    *,
    direction: str,
    source: str,
    reference: Text | None,
    seed: int,
    differentiable: bool = False,
) -> SweepSetup:
    """A sweep that is checked, both texts run once, and what is patched in made.

    With `differentiable`, the patched run keeps its graph.

    Raises:
        AnalysisError: see `activation_patching`.
    """
    kind = kind_of(activation)
    swept = sweep_axes(kind, axes)
    runs = two_runs(model, clean, corrupted, metric, kind, direction, differentiable)
    ref = None if reference is None else reference_tokens(model, reference, runs.tokens)
    patched_in = source_activations(model, kind, source, runs.activations, other=runs.others, reference=ref, seed=seed)
    return SweepSetup(kind=kind, axes=swept, runs=runs, patched_in=patched_in, source=source, reference=ref, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoRuns:
    """A clean run, perhaps a corrupted one, and which of them is patched.

    Attributes:
        clean, corrupted: the texts as ids.
        direction: "noise" where there is no corrupted run.
        tokens: the ids of the run that is patched.
        base: its activations, by name, and its "logits".
        activations: those of the kind that is patched, by layer; `others`, the same of the other run.
        other: what was recorded of the other run, by name, and its "logits".
        graph: for gradients of the patched run, where it kept one.
    """

    clean: Int[Tensor, "example pos"]
    corrupted: Int[Tensor, "example pos"] | None
    direction: str
    tokens: Int[Tensor, "example pos"]
    base: dict[str, Float[Tensor, "example ..."]]
    activations: dict[int, Float[Tensor, "example ..."]]
    others: dict[int, Float[Tensor, "example ..."]] | None
    other: dict[str, Float[Tensor, "example ..."]] | None
    metric: BoundMetric
    graph: Graph | None = None

    def values(self) -> tuple[float, float | None]:
        """The metric of the clean and of the corrupted run."""
        patched = run_value(self.metric, self.base["logits"])
        if self.other is None:
            return patched, None
        other = run_value(self.metric, self.other["logits"])
        return (other, patched) if self.direction == "denoise" else (patched, other)


def run_value(metric: BoundMetric, logits: Float[Tensor, "example pos d_vocab"]) -> float:
    """The metric of one run, the mean over its examples."""
    return float(metric.of_run(logits).double().mean())


def fields_of_examples(
    metric: BoundMetric,
    base_logits: Float[Tensor, "example pos d_vocab"],
    per_example: Float[Tensor, "*sites value"],
) -> dict[str, Any]:
    """The fields of a `PatchingResult` that come from each example's metric, by name.

    They are the means; and for a metric that has examples these, those of the patched run, and the intervals of the
    metric and of its paired change.
    """
    lower_is_better = isinstance(metric.function, KL | Loss)
    fields: dict[str, Any] = {"values": per_example.mean(-1), "lower_is_better": lower_is_better}
    if not metric.per_example:
        return fields
    base = metric.of_run(base_logits)
    fields |= {"per_example": per_example, "base_per_example": base}
    value, change = t_interval(per_example), t_interval(per_example - base)
    if value is not None and change is not None:
        ends = {"low": value[0], "high": value[1], "effect_low": change[0], "effect_high": change[1]}
        fields |= {"interval": "t", **ends}
    return fields


def run_copies(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    base: Mapping[str, Float[Tensor, "example ..."]],
    n: int,
    edits: Mapping[str, Edit],
    *,
    layer: int | None,
) -> Float[Tensor, "copy example pos d_vocab"]:
    """The logits of `n` edited copies of the base run, on the batch axis.

    Args:
        model: the model.
        tokens: the ids of the base run.
        base: its activations by name, with `hook_resid_pre` of `layer`.
        n: the number of copies.
        edits: they see the copies one after the other on the batch axis.
        layer: the layer that the copies begin with; None, or a model in which they cannot, begins with the tokens.
    """
    begin = layer if layer is not None and can_start(model) else None
    inputs = tokens if begin is None else base[f"blocks.{begin}.hook_resid_pre"]
    logits = run(model, inputs.expand(n, *inputs.shape).flatten(0, 1), edits, start=begin)
    return logits.unflatten(0, (n, len(tokens)))


def check_direction(direction: str) -> None:
    """Raise AnalysisError unless `direction` is "denoise" or "noise"."""
    if direction not in ("denoise", "noise"):
        raise AnalysisError(f"direction is {direction!r}; expected 'denoise' or 'noise'")


def position_labels(
    model: Hooked,
    clean: Int[Tensor, "example pos"],
    corrupted: Int[Tensor, "example pos"] | None,
    axes: Sequence[str],
) -> dict[str, tuple[str, ...]]:
    """Tokens for the axes that are positions, where there is one example; `a|b` where the texts differ."""
    if len(clean) > 1:
        return {}
    names = token_labels(model, clean[0])
    if corrupted is not None:
        others = token_labels(model, corrupted[0])
        names = tuple(a if a == b else f"{a}|{b}" for a, b in zip(names, others, strict=True))
    return {axis: names for axis in axes if axis.endswith("pos")}


def two_runs(
    model: Hooked,
    clean: Text,
    corrupted: Text | None,
    metric: Metric | Callable[[Tensor], Any],
    kind: Kind,
    direction: str,
    differentiable: bool = False,
    also: Sequence[str] = (),
) -> TwoRuns:
    """Run the text that is to be patched, once, and keep what the patched runs share; and `also` of both runs.

    Raises:
        AnalysisError: see `activation_patching`.
    """
    check_direction(direction)
    clean_tokens, corrupted_tokens = pair_of(model, clean, corrupted)
    if getattr(model.cfg, "attn_only", False):
        raise AnalysisError("the model has attention alone; expected MLPs as well, which every nanoGPT model has")
    bound = bind(metric, model, clean_tokens)
    tokens, other = clean_tokens, corrupted_tokens
    if other is None:
        direction = "noise"
    elif direction == "denoise":
        tokens, other = other, clean_tokens
    hooks = [kind.hook_name(layer) for layer in range(model.cfg.n_layers)]
    names = dict.fromkeys((*names_needed(model.cfg.n_layers), *hooks, *also))
    graph = Graph(hooks) if differentiable else None
    base = record(model, tokens, names) if graph is None else graph.record(model, tokens, names)
    rest = record(model, other, [*hooks, *also]) if other is not None else None
    return TwoRuns(
        clean=clean_tokens,
        corrupted=corrupted_tokens,
        direction=direction,
        tokens=tokens,
        base=base,
        activations={layer: base[name] for layer, name in enumerate(hooks)},
        others=None if rest is None else {layer: rest[name] for layer, name in enumerate(hooks)},
        other=rest,
        metric=bound,
        graph=graph,
    )


class Graph:
    """A run whose logits can be differentiated once by the activations at some hook points.

    What is differentiated by is a zero that each hook adds, so that it makes no difference how a hook
    point is connected inside TransformerLens.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.probes: dict[str, Float[Tensor, " ..."] | None] = dict.fromkeys(names)
        self.logits: Float[Tensor, "example pos d_vocab"] | None = None

    def record(
        self, model: Hooked, tokens: Int[Tensor, "example pos"], names: Iterable[str]
    ) -> dict[str, Float[Tensor, "example ..."]]:
        """What `access.record` returns; the graph is kept."""
        kept: dict[str, Float[Tensor, "example ..."]] = {}

        def keep(name: str) -> Edit:
            def edit(value: Tensor) -> Tensor | None:
                kept[name] = value.detach().clone()
                if name not in self.probes:
                    return None
                probe = torch.zeros_like(value, requires_grad=True)
                self.probes[name] = probe
                return value + probe

            return edit

        with torch.enable_grad():
            self.logits = run(model, tokens, {name: keep(name) for name in names})
        return {**kept, "logits": self.logits.detach()}

    def gradients(self, metric: BoundMetric) -> dict[str, Float[Tensor, "example ..."]]:
        """The gradient of each example's metric by every activation; frees the graph.

        Raises:
            AnalysisError: the metric has no gradient.
        """
        assert self.logits is not None, "differentiated already"
        probes = {name: probe for name, probe in self.probes.items() if probe is not None}
        with torch.enable_grad():
            gradients = gradient(metric.of_run(self.logits).sum(), list(probes.values()))
        self.logits, self.probes = None, {}
        return dict(zip(probes, gradients, strict=True))


def gradient(total: Shaped[Tensor, ""], inputs: list[Float[Tensor, " ..."]]) -> tuple[Float[Tensor, " ..."], ...]:
    """The gradient of a scalar; zeros where it does not depend on an input.

    Raises:
        AnalysisError: there is no gradient at all.
    """
    if not total.requires_grad:
        raise AnalysisError(
            "the metric has no gradient (is it an accuracy?); give logit_diff, answer_logprob, kl_to or loss"
        )
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    return tuple(torch.zeros_like(x) if g is None else g.detach() for g, x in zip(gradients, inputs, strict=True))


def pair_of(
    model: Hooked, clean: Text, corrupted: Text | None
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"] | None]:
    """Both texts as ids.

    Raises:
        AnalysisError: they have different shapes, or are the same.
    """
    first = as_tokens(model, clean, name="the clean text")
    if corrupted is None:
        return first, None
    second = as_tokens(model, corrupted, name="the corrupted text")
    if first.shape != second.shape:
        raise AnalysisError(_unlike(("clean", _quoted(clean), first), ("corrupted", _quoted(corrupted), second)))
    if torch.equal(first, second):
        raise AnalysisError(
            "the clean and the corrupted text are the same, so that patching changes nothing; expected two that differ "
            "in some token"
        )
    return first, second


def _unlike(*sides: tuple[str, str, Int[Tensor, "_ _"]]) -> str:
    """What two texts of different shapes are, each with its name, itself in quotes and its ids; and what to do."""
    (_, _, first), (_, _, second) = sides
    if len(first) != len(second):
        counted = " and ".join(f"{len(ids)} {name} {'text' if len(ids) == 1 else 'texts'}" for name, _, ids in sides)
        return f"there are {counted}; expected the same number of examples: give each text its partner"
    said = " and ".join(f"the {name} text {quoted}has {ids.shape[1]} tokens" for name, quoted, ids in sides)
    apart = abs(first.shape[1] - second.shape[1])
    shorter = "clean" if first.shape[1] < second.shape[1] else "corrupted"
    return (
        f"{said}; expected the same number of tokens, so that positions correspond: "
        f"give the {shorter} one {apart} more, or the other {apart} fewer"
    )


def _quoted(text: Any) -> str:
    """A text that is one, quoted, with a blank behind it; "" for several and for ids."""
    one = text[0] if isinstance(text, list) and len(text) == 1 else text
    return f"{one[:60]!r} " if isinstance(one, str) else ""


def reference_tokens(
    model: Hooked, reference: Text, tokens: Int[Tensor, "example pos"]
) -> Int[Tensor, "reference pos"]:
    """The reference as ids.

    Raises:
        AnalysisError: the reference has another length than the run.
    """
    ids = as_tokens(model, reference, name="the reference")
    if ids.shape[1] != tokens.shape[1]:
        raise AnalysisError(f"the reference has {ids.shape[1]} tokens; expected {tokens.shape[1]}, as the texts have")
    return ids
