"""Causal scrubbing: how much of what a model does is left if only what a hypothesis names is kept.

A hypothesis says of activations what of the input they depend on, and what they read. If it is true, nothing changes
when each is computed from another input on which its feature has the same value, and when all that is not named comes
from any input. `nanogpt_lens.circuits.claims` has the form of a hypothesis, `features` the features,
`scrubbed` how such runs are made.

Where a claim is about every position by itself (a head's keys and values), what stands in is another prompt *and*
position: "depends on the previous token" says that the position does not matter either. "position" is a feature.

Source: Chan et al. 2022, "Causal Scrubbing: a method for rigorously testing interpretability hypotheses".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.circuits.claims import Claim, Hypothesis, feature_words, read_hypothesis
from nanogpt_lens.circuits.features import DEFINITIONS, Features
from nanogpt_lens.circuits.places import Agreements, Uniforms
from nanogpt_lens.circuits.scrubbed import Scrubbed, Variant
from nanogpt_lens.circuits.tree import Branch, tree_of
from nanogpt_lens.circuits.unrolled import hypothesis_of
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.core.permutation import max_statistic_p
from nanogpt_lens.model.access import (
    Hooked,
    Text,
    as_tokens,
    check_model,
    evaluating,
    log_probs,
    n_tokens,
    provenance,
    token_labels,
)
from nanogpt_lens.patching.continuation import is_plain
from nanogpt_lens.results import Sample, Scrubbing
from nanogpt_lens.results.scrubbing import FREE, HYPOTHESIS, NOTHING, PERMUTED, UNIFORM
from nanogpt_lens.running.metrics import BoundMetric, Metric, bind
from nanogpt_lens.text.pair import Pair

FEATURES: Mapping[str, str] = DEFINITIONS
"""The features by name, and what each is."""

__all__ = ["FEATURES", "Claim", "Hypothesis", "hypothesis_of", "read_hypothesis", "scrub"]


def scrub(
    model: Hooked,
    hypothesis: Hypothesis | Mapping[str, Any] | str | Path,
    data: Pair | Text,
    metric: Metric | Callable[[Tensor], Any] | None = None,
    *,
    n_draws: int = 4,
    weaken: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Scrubbing:
    """Scrub a model by a hypothesis, with the controls that tell what the number means.

    Each prompt is scrubbed in turn: its label stays, its logits come from stand-ins among all prompts. Draws are
    uniform and with replacement. The prompts are taken for all that there are: intervals do not cover that others
    would stand in for one another.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        hypothesis: the claims, or the path of a file with them.
        data: the clean prompts of a pair with its answers; or texts of one length, whose last token is the answer.
        metric: as for `activation_patching`, of the logits at the end of the prompts; None for the loss on the answer,
            in nats.
        n_draws: how often each prompt is scrubbed.
        weaken: measure the hypothesis with each claim weakened as well, for `cost`, `need` and `rest`.
        seed: the seed of the draws.
        progress: show a bar.

    Returns:
        The recovered share of the metric, not clamped, of the hypothesis and of its controls: nothing scrubbed, which
        is 1; the logits of a random prompt, which is 0; the same claims with the values of their features permuted,
        each as frequent as before; and logits that are all the same. A model that is sure of itself is worse than
        these where its logits are of another prompt, so that to know nothing may be to recover a good part.

    Raises:
        AnalysisError: the hypothesis is none, names what the model does not have, or cannot be said of it; the prompts
            are too few, or the metric does not tell them from random ones; the model is no plain nanoGPT.
    """
    check_model(model)
    check_whole(1, n_draws=n_draws)
    check_whole(seed=seed)
    claims = read_hypothesis(hypothesis)
    tokens, answer = _prompts(model, data)
    with evaluating(model):
        if not is_plain(model) or getattr(model.cfg, "attn_only", False):
            raise AnalysisError("scrubbing needs a nanoGPT model to which no hooks are attached: load it with ngl.load")
        tree = tree_of(model, claims, tokens.shape[1])
        agreements = Agreements(Features(tokens, answer, _labels(model), claims.classes), seed)
        for branch in tree.walk():
            agreements.agreement(branch.claim.depends_on, branch.pool)  # unknown features are told before anything runs
        measure = _Measure(model, tokens, answer, metric)
        scrubbed = Scrubbed(model, tree, tokens, agreements)
        variants = [None, Variant("permuted"), *(_weaker(tree) if weaken else [])]
        with tqdm(total=n_draws * len(tokens), unit="prompt", delay=1, disable=not progress) as bar:
            draws = [
                _one_draw(scrubbed, measure, len(tokens), variants, Uniforms(seed, i), bar) for i in range(n_draws)
            ]
    return _result(model, claims, tree, agreements, measure, variants, torch.stack(draws, 1), seed)


class _Measure:
    """The metric of logits at the end of the prompts.

    Args:
        model, tokens, answer: the prompts.
        metric: the metric; None for the loss on the answer.

    Raises:
        AnalysisError: the metric reads other positions, or has no value for each prompt.
    """

    def __init__(
        self,
        model: Hooked,
        tokens: Int[Tensor, "example pos"],
        answer: Int[Tensor, " example"],
        metric: Metric | Callable[[Tensor], Any] | None,
    ) -> None:
        self.tokens, self.answer = tokens, answer
        self._bound: BoundMetric | None = None if metric is None else bind(metric, model, tokens)
        if self._bound is None:
            return
        last = tokens.shape[1] - 1
        if not self._bound.per_example or self._bound.reads != (last,):
            raise AnalysisError(
                f"the metric {self._bound.definition} reads the positions {list(self._bound.reads)[:4]}; expected one "
                f"with a value for each prompt at its end, {last}, such as ngl.metrics.logit_diff(answer, wrong)"
            )

    @property
    def is_loss(self) -> bool:
        """Whether less is better."""
        return self._bound is None

    @property
    def definition(self) -> str:
        """What is measured, in words."""
        return "loss on the answer" if self._bound is None else self._bound.definition

    def __call__(self, logits: Float[Tensor, "example d_vocab"]) -> Float[Tensor, " example"]:
        """The value of each prompt, in float64."""
        if self._bound is not None:
            return self._bound(logits[None, :, None])[0].double()
        return -log_probs(logits.double()).gather(-1, self.answer[:, None])[:, 0]


def _prompts(model: Hooked, data: Pair | Text) -> tuple[Int[Tensor, "example pos"], Int[Tensor, " example"]]:
    """The prompts and what each calls for.

    Raises:
        AnalysisError: there are fewer than two, or they have no token before the answer.
    """
    if isinstance(data, Pair):
        tokens, answer = as_tokens(model, data.clean, name="the prompts"), data.answer
    else:
        whole = data if isinstance(data, Tensor) and data.dim() == 2 else as_tokens(model, data, name="the prompts")
        tokens, answer = (as_tokens(model, some, name="the prompts") for some in (whole[:, :-1], whole[:, -1:]))
        answer = answer[:, 0]
    if len(tokens) < 2 or tokens.shape[1] < 1:
        raise AnalysisError(
            f"{len(tokens)} prompts of {tokens.shape[1]} tokens before the answer were given; expected two or more, of "
            "which each can stand in for others"
        )
    return tokens, answer.to(tokens.device)


def _labels(model: Hooked) -> tuple[str, ...] | None:
    """Every token as text; None for a model without a vocabulary."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        return None
    return token_labels(model, torch.arange(n_tokens(model)))


def _weaker(tree: Branch) -> list[Variant]:
    """The hypothesis with each claim weakened: its feature kept, freed, or what it does not name kept."""
    variants = []
    for branch in tree.walk():
        variants += [Variant("kept", branch.path), Variant("freed", branch.path)]
        variants += [Variant("rest kept", branch.path)] if branch.reads is not None else []
    return variants


def _one_draw(
    scrubbed: Scrubbed,
    measure: _Measure,
    n: int,
    variants: Sequence[Variant | None],
    uniforms: Uniforms,
    bar: Any,
) -> Float[Tensor, "condition example"]:
    """The metric of each prompt, scrubbed once: of the model, random prompts' logits, none, and each variant."""
    device = measure.tokens.device
    plain, some = [], []
    for rows in torch.arange(n, device=device).split(scrubbed.chunk):
        uniforms.begin()
        plain.append(scrubbed.plain_logits(rows))
        some.append(torch.stack(scrubbed.logits(rows, uniforms, variants)))
        bar.update(len(rows))
    own = torch.cat(plain)
    drawn = (uniforms.fresh("a random prompt", n) * n).long().clamp(max=n - 1).to(device)
    return torch.stack(
        [measure(logits) for logits in (own, own[drawn], torch.zeros_like(own), *torch.cat(some, 1))]
    ).cpu()


def _result(
    model: Hooked,
    hypothesis: Hypothesis,
    tree: Branch,
    agreements: Agreements,
    measure: _Measure,
    variants: Sequence[Variant | None],
    every: Float[Tensor, "condition draw example"],
    seed: int,
) -> Scrubbing:
    """What the metric of each condition, draw and prompt says."""
    own, free, guess, scrubbed = every[0], every[1], every[2], every[3:]
    gap = (free - own).mean(0)
    _check_gap(measure, gap, own)
    ordered = torch.stack([scrubbed[0], own, free, scrubbed[1], guess])
    recovered = ratio_per_example((free - ordered).mean(1), gap)
    low, high = t_interval(recovered) or (recovered.mean(-1), recovered.mean(-1))
    over_draws = (free - ordered).mean(-1) / (free - own).mean(-1)
    branches = list(tree.walk())
    used = [agreements.agreement(branch.claim.depends_on, branch.pool) for branch in branches]
    words = [feature_words(branch.claim.depends_on) for branch in branches]
    return Scrubbing(
        values=recovered.mean(-1),
        axes=("condition",),
        labels={"condition": (HYPOTHESIS, NOTHING, FREE, PERMUTED, UNIFORM)},
        quantity=f"recovered share of the {measure.definition}",
        definition="causal scrubbing (Chan et al. 2022): every activation computed from inputs that agree with its own "
        "in what it is said to depend on, everything not named from any input; (random prompt's logits - scrubbed) / "
        "(random prompt's logits - model), of means over prompts and draws, not clamped",
        sample=Sample(n=len(measure.tokens), seq_len=measure.tokens.shape[1], seed=seed),
        interval="t",
        provenance=provenance(
            model,
            metric=measure.definition,
            hypothesis=hypothesis.to_json(),
            n_draws=every.shape[1],
            seed=seed,
            prompts=measure.tokens.tolist(),
            answer=measure.answer.tolist(),
        ),
        low=low,
        high=high,
        metric=ordered.mean(1),
        over_draws=over_draws,
        hypothesis=hypothesis.to_json(),
        claims=tuple(branch.path for branch in branches),
        features=tuple(word if isinstance(word, str) else ", ".join(word) for word in words),
        alone=torch.tensor([agreement.alone for agreement in used]),
        n_values=torch.tensor([agreement.n_values for agreement in used]),
        **_of_claims(branches, variants, (scrubbed[0] - scrubbed).mean(1), gap, seed),
    )


def _check_gap(measure: _Measure, gap: Float[Tensor, " example"], own: Float[Tensor, "draw example"]) -> None:
    """Raise AnalysisError unless the metric surely tells the model's logits from those of random prompts."""
    low, high = (float(end) for end in t_interval(gap) or (gap.mean(), gap.mean()))
    tiny = abs(float(gap.mean())) <= 1e-9 * max(1.0, float(own.abs().mean()))
    if not (tiny or low <= 0 <= high or (measure.is_loss and high < 0)):
        return
    raise AnalysisError(
        f"the {measure.definition} of the model is {float(own.mean()):.3f}, and that of random prompts' logits differs "
        f"by {float(gap.mean()):.3f} ({low:.3f} to {high:.3f}), in which the model is not surely the better: there is "
        "nothing to recover; give prompts that it does well on, and that call for different tokens, or more of them"
    )


def _of_claims(
    branches: Sequence[Branch],
    variants: Sequence[Variant | None],
    better: Float[Tensor, "variant example"],
    gap: Float[Tensor, " example"],
    seed: int,
) -> dict[str, Any]:
    """The fields of a result about what each claim costs; none where that was not measured.

    Args:
        branches: the claims.
        variants: the weakened hypotheses.
        better: how much less of the metric each of them loses than the hypothesis.
        gap: what there is to lose.
        seed: the seed of the sign flips.
    """
    shares = {
        name: _shares(branches, variants, change, sign * better, gap)
        for name, change, sign in (("cost", "kept", 1), ("need", "freed", -1), ("rest", "rest kept", 1))
    }
    if shares["cost"].isnan().all():
        return {}
    together = max_statistic_p(torch.cat([shares["cost"], shares["rest"]]), seed=seed).split(len(branches))
    p = {"cost": together[0], "rest": together[1], "need": max_statistic_p(shares["need"], seed=seed)}
    fields: dict[str, Any] = {}
    for name, share in shares.items():
        low, high = t_interval(share) or (share.mean(-1), share.mean(-1))
        fields |= {name: share.mean(-1), f"{name}_low": low, f"{name}_high": high, f"{name}_p": p[name]}
    return fields


def _shares(
    branches: Sequence[Branch],
    variants: Sequence[Variant | None],
    change: str,
    better: Float[Tensor, "variant example"],
    gap: Float[Tensor, " example"],
) -> Float[Tensor, "claim example"]:
    """What a change to each claim makes, as a share of the gap; nan for claims that were not changed like that."""
    rows = {one.path: i for i, one in enumerate(variants) if one is not None and one.change == change}
    shares = torch.full((len(branches), len(gap)), torch.nan, dtype=torch.float64)
    for i, branch in enumerate(branches):
        if branch.path in rows:
            shares[i] = ratio_per_example(better[rows[branch.path]], gap)
    return shares
