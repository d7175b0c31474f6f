"""One call for one experiment: run a text with interventions and without, and say what changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import edits_of, source_values
from nanogpt_lens.interventions.fitting import as_tuple, check_fits, positions_from_start
from nanogpt_lens.interventions.intervention import AXES, Intervention, Interventions, as_interventions
from nanogpt_lens.interventions.sites import KINDS, plain_name
from nanogpt_lens.model.access import Hooked, Text, as_tokens, editing, evaluating, provenance, record, token_labels
from nanogpt_lens.results import InterventionResult
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.running.metrics import Metric, bind


def intervene(
    model: Hooked,
    text: Text,
    interventions: Interventions,
    *,
    other: Text | None = None,
    reference: Text | None = None,
    metric: Metric | Callable[[Tensor], Any] | None = None,
    activations: Sequence[str] = (),
    seed: int = 0,
) -> InterventionResult:
    """Run a text with interventions, and without.

        ngl.intervene(model, "ROMEO:", {"place": "1.0", "source": "zero"}, metric=ngl.metrics.loss()).change

    Args:
        model: a HookedTransformer or a TransformerBridge.
        text: one text, several of one length, or ids [example, pos].
        interventions: one `Intervention`, several, made in their order, or their JSON.
        other: the text of the run that "other" takes activations from, of the same length; one example or as many.
        reference: the texts that "mean" averages and "resample" draws from; None for the examples of `text`, none of
            which is then drawn for itself. Either way in the model as it is, without the interventions. Longer texts
            have means as well; that of a pattern is cut to the length of `text`, exact because attention is causal.
        metric: what is measured on the logits of both runs, such as `ngl.metrics.logit_diff(" Mary", " John")`.
        activations: which are kept of both runs: hook points ("blocks.0.attn.hook_z"), or names of activations ("z"),
            which are kept of all layers.
        seed: the seed of "resample".

    Raises:
        AnalysisError: an intervention that does not fit the model or the text, no run to take its source from, an
            unknown activation, a metric that does not fit.
    """
    some = as_interventions(interventions)
    check_whole(seed=seed)
    tokens = as_tokens(model, text)
    for one in some:
        check_fits(model, one)
        for axis in AXES[3:]:
            positions_from_start(as_tuple(getattr(one, axis)), tokens.shape[1], axis)
    names = hook_points(model, activations)
    others = None if other is None else as_tokens(model, other, name="other")
    rows = tokens if reference is None else as_tokens(model, reference, name="reference")
    with evaluating(model):
        bound = None if metric is None else bind(metric, model, tokens)
        values = source_values(model, some, other=others, reference=rows, same_run=reference is None, seed=seed)
        base = record(model, tokens, names)
        with editing(model, edits_of(model, some, values)):
            edited = record(model, tokens, names)
        metrics = [None if bound is None else bound.of_run(logits["logits"]) for logits in (edited, base)]
    labels = token_labels(model, tokens[0]) if len(tokens) == 1 else ()
    return InterventionResult(
        values=edited["logits"],
        base=base["logits"],
        axes=("example", "pos", "token"),
        labels={"pos": labels} if labels else {},
        quantity="logit of each next token",
        definition="; ".join(map(_in_words, some)) or "no intervention",
        interventions=tuple(one.to_json() for one in some),
        activations={name: edited[name] for name in names},
        base_activations={name: base[name] for name in names},
        metric=metrics[0],
        base_metric=metrics[1],
        metric_name=None if bound is None else bound.definition,
        sample=Sample(n=len(tokens), seq_len=tokens.shape[1], seed=seed),
        provenance=provenance(
            model,
            text=tokens.tolist(),
            other=None if others is None else others.tolist(),
            reference=None if reference is None else rows.tolist(),
            interventions=[one.to_json() for one in some],
            metric=None if bound is None else bound.definition,
            activations=names,
            seed=seed,
        ),
    )


def hook_points(model: Hooked, activations: Sequence[str]) -> list[str]:
    """The hook points that activations mean, in their order.

    Raises:
        AnalysisError: the model has no activation of a name.
    """
    if isinstance(activations, str) or not isinstance(activations, Iterable):
        raise AnalysisError(f"activations is {activations!r}; expected a list of names, such as ['z']")
    names: dict[str, None] = {}
    for activation in activations:
        kind = KINDS.get(plain_name(activation))
        if activation in model.hook_dict:
            names[activation] = None
        elif kind is not None:
            names |= dict.fromkeys(kind.hook_name(layer) for layer in range(model.cfg.n_layers))
        else:
            raise AnalysisError(
                f"there is no activation {activation!r}; expected a hook point such as 'blocks.0.attn.hook_z', or one "
                f"of {', '.join(KINDS)}"
            )
    return list(names)


def _in_words(one: Intervention) -> str:
    """An intervention in words."""
    places = [f"{axis} {getattr(one, axis)}" for axis in AXES if getattr(one, axis) is not None]
    if isinstance(one.source, str):
        change = f"replaced by {one.source}"
    elif "add" in one.source:
        change = f"plus {one.source['scale']:g} * direction"
    else:
        change = f"times {one.source['scale']:g}"
    what = f"edge {one.edge}" if one.edge else one.activation
    return " ".join([what, *([f"({', '.join(places)})"] if places else []), change])
