"""Models of which some components are one model's and the others another's, and what they do on a text.

The hybrid is one copy, into which parameters are written; the two models are only read. A hybrid of all components of
a model is that model, bit for bit. Hybrids are run one after the other in an order in which neighbours share their
first layers, and a run begins at the first layer that differs from the run before.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.compare.components import Component, components_of, weights_of
from nanogpt_lens.compare.sides import on_examples
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Edit, Hooked, can_start, has_hooks, kl, run
from nanogpt_lens.running.batches import batches
from nanogpt_lens.running.metrics import BoundMetric, Metric


class Hybrid:
    """A copy of `b`, whose components can be made those of `a` and back.

    Args:
        a, b: models of one shape; they are only read.

    Attributes:
        components: all of them, in the order of the computation.
        model: the copy.

    Raises:
        AnalysisError: a model has hooks attached, which would go into the copy.
    """

    def __init__(self, a: Hooked, b: Hooked) -> None:
        for name, model in (("a", a), ("b", b)):
            if has_hooks(model):
                raise AnalysisError(
                    f"the model {name} has hooks attached; expected none, for a hybrid of two models would be run with "
                    "those of one: call model.reset_hooks()"
                )
        self.components: tuple[Component, ...] = components_of(a)
        self.model: Hooked = deepcopy(b).eval()
        self._of_a = [component.of(weights_of(a)) for component in self.components]
        self._of_b = [component.of(weights_of(b)) for component in self.components]
        self._here = [component.of(weights_of(self.model)) for component in self.components]
        self._from_a = torch.zeros(len(self.components), dtype=torch.bool)

    def become(self, from_a: Bool[Tensor, " component"]) -> int | None:
        """Take these components from `a`, and the others from `b`.

        Returns:
            the first layer that has changed, -1 for the embeddings; None where nothing has.
        """
        changed = (from_a != self._from_a).nonzero()[:, 0].tolist()
        for i in changed:
            source = self._of_a[i] if bool(from_a[i]) else self._of_b[i]
            with torch.no_grad():
                for here, there in zip(self._here[i], source, strict=True):
                    here.copy_(there)
        self._from_a = from_a.clone()
        return min((self.components[i].layer for i in changed), default=None)


class HybridRuns:
    """What hybrids do on the same sequences.

    Args:
        hybrid: the copy that takes components.
        tokens: the sequences.
        metric: a metric that keeps examples apart, ready for them.
    """

    def __init__(self, hybrid: Hybrid, tokens: Int[Tensor, "example pos"], metric: BoundMetric) -> None:
        self.hybrid, self.tokens, self.metric = hybrid, tokens, metric
        self._stream: dict[int, Float[Tensor, "example pos d_model"]] = {}
        self._logits: Float[Tensor, "example pos d_vocab"] | None = None

    @property
    def components(self) -> tuple[Component, ...]:
        """The components of the models."""
        return self.hybrid.components

    def measure(
        self,
        from_a: Bool[Tensor, "set component"],
        examples: Int[Tensor, " example"] | None = None,
        *,
        label: str = "hybrids",
        progress: bool = False,
    ) -> Float[Tensor, "measure set example"]:
        """The KL divergence from a, that from b, and the metric of each hybrid, for each example, in float64.

        Args:
            from_a: the components that come from `a`; the others are those of `b`.
            examples: some of the sequences; None for all.
            label, progress: of the bar.
        """
        chosen = torch.arange(len(self.tokens)) if examples is None else examples
        ends = torch.stack([torch.ones(len(self.components)).bool(), torch.zeros(len(self.components)).bool()])
        order = sorted(range(len(from_a)), key=lambda i: from_a[i].tolist())
        out = torch.empty(3, len(from_a), len(chosen), dtype=torch.float64)
        pieces = list(batches(self.hybrid.model, self.tokens[chosen.to(self.tokens.device)]))
        total = len(pieces) * len(order)
        with tqdm(total=total, desc=label, unit="run", delay=1, disable=not progress) as bar:
            for rows in pieces:
                some = chosen[rows]
                self._forget()
                a, b = (self._logits_of(end, some).log_softmax(-1) for end in ends)
                metric = self._metric_of(some)
                for i in order:
                    logits = self._logits_of(from_a[i], some)
                    own = logits.log_softmax(-1)
                    out[0, i, rows], out[1, i, rows] = kl(a, own).mean(-1).cpu(), kl(b, own).mean(-1).cpu()
                    out[2, i, rows] = metric(logits[None])[0].cpu()
                    bar.update()
        self._forget()
        return out

    def logits(
        self, from_a: Bool[Tensor, " component"], examples: Int[Tensor, " example"]
    ) -> Float[Tensor, "example pos d_vocab"]:
        """The logits of one hybrid on some of the sequences."""
        self._forget()
        self.hybrid.become(from_a)
        return run(self.hybrid.model, self.tokens[examples.to(self.tokens.device)])

    def _forget(self) -> None:
        self._stream, self._logits = {}, None

    def _metric_of(self, examples: Int[Tensor, " example"]) -> BoundMetric:
        """The metric for some of the sequences."""
        assert isinstance(self.metric.function, Metric)
        return replace(self.metric, function=on_examples(self.metric.function, examples, len(self.tokens)))

    def _logits_of(
        self, from_a: Bool[Tensor, " component"], examples: Int[Tensor, " example"]
    ) -> Float[Tensor, "example read d_vocab"]:
        """A hybrid's logits where the metric reads, in float64; begun where it differs from the one before."""
        model = self.hybrid.model
        first = self.hybrid.become(from_a)
        n_layers = model.cfg.n_layers
        if self._logits is None or (first is not None and (min(first, n_layers - 1) < 1 or not can_start(model))):
            start, inputs = None, self.tokens[examples.to(self.tokens.device)]
        elif first is None:
            return self._read(self._logits)
        else:
            start = min(first, n_layers - 1)
            inputs = self._stream[start]
        edits = {f"blocks.{i}.hook_resid_pre": self._keeping(i) for i in range((start or 0) + 1, n_layers)}
        self._logits = run(model, inputs, edits, start=start)
        return self._read(self._logits)

    def _read(self, logits: Float[Tensor, "example pos d_vocab"]) -> Float[Tensor, "example read d_vocab"]:
        return logits[:, list(self.metric.reads)].double()

    def _keeping(self, layer: int) -> Edit:
        def keep(value: Float[Tensor, "example pos d_model"]) -> None:
            self._stream[layer] = value

        return keep
