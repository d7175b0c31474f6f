"""What excites each unit, as a result; and the page of one unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """Some consecutive tokens of a corpus, and one unit's activation on each.

    Attributes:
        value: what the excerpt was ranked by.
        position: the corpus index of the token with the extreme activation.
        start: the corpus index of the first token.
        tokens: the tokens as text.
        activations: one for each token.
        separator: between tokens: nothing between text, a space between ids.
    """

    value: float
    position: int
    start: int
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    separator: str = ""

    @property
    def text(self) -> str:
        """All tokens."""
        return self.separator.join(self.tokens)

    @property
    def token(self) -> str:
        """The token with the extreme activation."""
        return self.tokens[self.position - self.start]

    def __str__(self) -> str:
        at = self.position - self.start
        before, after = (self.separator.join(part) for part in (self.tokens[:at], self.tokens[at + 1 :]))
        return f"{self.value:8.3f}  {before!r}[{self.token!r}]{after!r}"


@dataclass(frozen=True, kw_only=True, repr=False)
class NeuronPage:
    """Everything that a search knows of one unit.

    Attributes:
        layer, neuron: which one.
        mean, variance, sparsity: over the whole corpus; sparsity is the share of tokens on which it is not above 0.
        quantiles: from the sample, by probability.
        highest, lowest: excerpts, the most extreme first.
        promoted, suppressed: tokens and what a unit of activation adds to their logits; none where nobody asked.
    """

    layer: int
    neuron: int
    kind: str
    mean: float
    variance: float
    sparsity: float
    quantiles: dict[float, float]
    highest: tuple[Excerpt, ...]
    lowest: tuple[Excerpt, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        def list_of(pairs: tuple[tuple[str, float], ...]) -> str:
            return ", ".join(f"{token!r} {value:+.3f}" for token, value in pairs)

        quantiles = ", ".join(f"{p:g}: {q:.3f}" for p, q in self.quantiles.items())
        return "\n".join(
            [
                f"{self.kind} {self.layer}.{self.neuron}",
                f"mean {self.mean:.4f}, standard deviation {self.variance**0.5:.4f}, sparsity {self.sparsity:.3f}",
                f"quantiles  {quantiles} (of a sample)",
                *([f"promotes   {list_of(self.promoted)}"] if self.promoted else []),
                *([f"suppresses {list_of(self.suppressed)}"] if self.suppressed else []),
                "highest:",
                *map(str, self.highest),
                "lowest:",
                *map(str, self.lowest),
            ]
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NeuronSearch(Result):
    """What excites each unit in a corpus, from `search_neurons`.

    Attributes:
        values: the highest activation [layer, neuron].
        mean, variance, sparsity: over all tokens of the corpus. Variance is divided by n;
            sparsity is the share of tokens on which the unit is not above zero.
        quantiles: from the sample, at `probabilities`.
        histogram: counts of the sample, in equal bins between `bounds`.
        bounds: the least and largest activation of the sample.
        top_values, low_values: what the excerpts are ranked by, most extreme first; nan
            where a unit has fewer excerpts.
        top_positions, low_positions: corpus index of the extreme token; -1 for none.
        top_starts, low_starts: corpus index of the excerpt's first token; -1 for none.
        top_tokens, low_tokens: ids; -1 behind the end of a sequence.
        top_activations, low_activations: the unit's, on each of these tokens; nan behind the end of a sequence.
        promoted, suppressed: the tokens whose logits the unit's output direction raises
            (lowers) most, by `promoted_logits` and `suppressed_logits` per unit of activation; -1 and nan where
            nobody asked for them.
        vocabulary: the text of every id.
        probabilities: of the quantiles.
        n_tokens: of the corpus.
        sample_size: tokens of the sample.
        unit_kind: "neuron", "feature" or "unit".
        ranked_by: what an excerpt is ranked by, and `values` with it: its highest activation ("max") or its mean.
        trace: of the corpus, see `nanogpt_lens.text.seen`.
    """

    mean: Float[Tensor, "layer neuron"]
    variance: Float[Tensor, "layer neuron"]
    sparsity: Float[Tensor, "layer neuron"]
    quantiles: Float[Tensor, "layer neuron probability"]
    histogram: Shaped[Tensor, "layer neuron bin"]
    bounds: Float[Tensor, "layer neuron 2"]
    top_values: Float[Tensor, "layer neuron k"]
    top_positions: Int[Tensor, "layer neuron k"]
    top_starts: Int[Tensor, "layer neuron k"]
    top_tokens: Int[Tensor, "layer neuron k window"]
    top_activations: Float[Tensor, "layer neuron k window"]
    low_values: Float[Tensor, "layer neuron k"]
    low_positions: Int[Tensor, "layer neuron k"]
    low_starts: Int[Tensor, "layer neuron k"]
    low_tokens: Int[Tensor, "layer neuron k window"]
    low_activations: Float[Tensor, "layer neuron k window"]
    promoted: Int[Tensor, "layer neuron token"]
    promoted_logits: Float[Tensor, "layer neuron token"]
    suppressed: Int[Tensor, "layer neuron token"]
    suppressed_logits: Float[Tensor, "layer neuron token"]
    vocabulary: tuple[str, ...]
    probabilities: tuple[float, ...]
    n_tokens: int
    sample_size: int
    unit_kind: str
    ranked_by: Literal["max", "mean"] = "max"
    trace: Int[Tensor, " hash"] | None = None

    _long: ClassVar[tuple[str, ...]] = ("vocabulary",)

    def page(self, layer: int, neuron: int) -> NeuronPage:
        """Everything about one unit; `layer` is the layer's own number.

        Raises:
            ResultError: it was not searched.
        """
        place = self._index("layer", layer), self._index("neuron", neuron)
        quantiles = zip(self.probabilities, self.quantiles[place].tolist(), strict=True)
        return NeuronPage(
            layer=int(self.labels["layer"][place[0]]),
            neuron=place[1] % self.shape["neuron"],
            kind=self.unit_kind,
            mean=float(self.mean[place]),
            variance=float(self.variance[place]),
            sparsity=float(self.sparsity[place]),
            quantiles=dict(quantiles),
            highest=self._excerpts("top", place),
            lowest=self._excerpts("low", place),
            promoted=self._texts_with_logits(self.promoted[place], self.promoted_logits[place]),
            suppressed=self._texts_with_logits(self.suppressed[place], self.suppressed_logits[place]),
        )

    def windows(self, layer: int, neuron: int, *, lowest: bool = False) -> pd.DataFrame:
        """The excerpts of one unit, a row each: value, position, token, text.

        Raises:
            ResultError: it was not searched.
        """
        import pandas as pd

        page = self.page(layer, neuron)
        rows = [
            {"value": e.value, "position": e.position, "token": e.token, "text": e.text}
            for e in (page.lowest if lowest else page.highest)
        ]
        return pd.DataFrame(rows, columns=["value", "position", "token", "text"])

    def _excerpts(self, which: str, place: tuple[int, int]) -> tuple[Excerpt, ...]:
        """The highest ("top") or lowest ("low") excerpts of the unit at an index of layer and neuron."""
        values, positions, starts, tokens, activations = (
            getattr(self, f"{which}_{name}")[place]
            for name in ("values", "positions", "starts", "tokens", "activations")
        )
        excerpts = []
        for i in range(len(values)):
            if starts[i] < 0:
                continue
            inside = tokens[i] >= 0  # the sequence does not end before
            excerpts.append(
                Excerpt(
                    value=float(values[i]),
                    position=int(positions[i]),
                    start=int(starts[i]),
                    tokens=tuple(self.vocabulary[t] for t in tokens[i][inside].tolist()),
                    activations=tuple(activations[i][inside].tolist()),
                    separator=" " if self.vocabulary == tuple(map(str, range(len(self.vocabulary)))) else "",
                )
            )
        return tuple(excerpts)

    def _texts_with_logits(
        self, tokens: Int[Tensor, " token"], logits: Float[Tensor, " token"]
    ) -> tuple[tuple[str, float], ...]:
        pairs = zip(tokens.tolist(), logits.tolist(), strict=True)
        return tuple((self.vocabulary[t], value) for t, value in pairs if t >= 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        object.__setattr__(self, "probabilities", tuple(self.probabilities))
