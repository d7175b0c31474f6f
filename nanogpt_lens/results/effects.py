"""What neurons have in common, what they separate, what they and directions do: as results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd

Order = Literal["abs", "high", "low"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NeuronStatistics(Result):
    """Means, variances and correlations of neurons, from `neuron_statistics`.

    Attributes:
        values: the mean activation [layer, neuron].
        variance: divided by n.
        within: correlations within each layer; nan where a neuron never changes.
        across: correlations of the first layer's neurons with the second layer's, for each of `pairs`; None for none.
        pairs: the two layers of each pair.
        chance_within, chance_across: the largest magnitude in the control; None without one.
        n_tokens: how many were read.
    """

    variance: Float[Tensor, "layer neuron"]
    within: Float[Tensor, "layer neuron neuron"]
    pairs: tuple[tuple[int, int], ...]
    n_tokens: int
    across: Float[Tensor, "pair neuron neuron"] | None = None
    chance_within: Float[Tensor, " layer"] | None = None
    chance_across: Float[Tensor, " pair"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pairs", tuple((int(a), int(b)) for a, b in self.pairs))

    def top(self, k: int = 10, *, by: str | None = None, order: Order = "abs") -> pd.DataFrame:
        """The `k` most correlated pairs of neurons; with `by`, the top neurons by "value" or "variance".

        `chance` is the largest magnitude in the control of the same two layers.
        """
        if by is not None:
            return super().top(k, by=by, order=order)
        if k < 0 or order not in ("abs", "high", "low"):
            raise ResultError(f"k={k}, order={order!r}; expected k >= 0, and abs, high or low")
        import pandas as pd

        layers = [int(label) for label in self.labels["layer"]]
        tables = [
            _best_pairs(self.within[i], (layer, layer), k, order, self.chance_within, i)
            for i, layer in enumerate(layers)
        ]
        if self.across is not None:
            for i, pair in enumerate(self.pairs):
                tables.append(_best_pairs(self.across[i], pair, k, order, self.chance_across, i))
        frame = pd.concat(tables, ignore_index=True)
        numbers = np.array([int(label) for label in self.labels["neuron"]])
        for column in ("neuron_a", "neuron_b"):
            frame[column] = numbers[frame[column].to_numpy(dtype=np.int64)]
        key = frame["correlation"].abs() if order == "abs" else frame["correlation"]
        ranked = frame.assign(key=key).sort_values("key", ascending=order == "low", kind="stable")
        return ranked.head(k).drop(columns="key").reset_index(drop=True)

    def _summary(self) -> list[str]:
        return [f"{self.n_tokens} tokens", *super()._summary()]


def _best_pairs(
    matrix: Float[Tensor, "neuron neuron"],
    layers: tuple[int, int],
    k: int,
    order: Order,
    chance: Float[Tensor, " _"] | None,
    i: int,
) -> pd.DataFrame:
    """The best pairs of one matrix; of a layer with itself each pair once, and none of a neuron with itself."""
    import pandas as pd

    values = matrix.double()
    left_out = values.isnan()
    if layers[0] == layers[1]:
        left_out = left_out | torch.ones_like(left_out).tril()
    sign = -1.0 if order == "low" else 1.0
    key = (sign * (values.abs() if order == "abs" else values)).masked_fill(left_out, -torch.inf).flatten()
    best = key.topk(min(k, int((~left_out).sum()))).indices
    width = matrix.shape[1]
    return pd.DataFrame(
        {
            "layer_a": layers[0],
            "neuron_a": (best // width).numpy(),
            "layer_b": layers[1],
            "neuron_b": (best % width).numpy(),
            "correlation": values.flatten()[best].numpy(),
            "chance": torch.nan if chance is None else float(chance[i]),
        }
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SeparatingNeurons(Result):
    """How well each neuron separates a class of tokens, from `find_neurons`.

    Attributes:
        values: AUROC [layer, neuron] on the first part of the tokens: the probability that the neuron is higher on a
            random token of the class than on a random other one; ties count half.
        separation: the larger of AUROC and 1 - AUROC, both of the first part.
        sign: 1 where the neuron is higher on the class, -1 where it is lower.
        held_out: the same direction's AUROC on the held-out part; nan without one.
        low, high: 95% interval, over pieces of text, of the `k` best neurons' held-out AUROC (of `separation`, where
            nothing is held out); nan elsewhere, and where fewer than two pieces hold the class. Without a held-out
            part it is too optimistic, because the best were chosen on the same tokens.
        p: family-wise, against the largest separation of any neuron under each shift.
        null: that largest separation.
        chance: 95% of the shifts stay at or below it.
        n_tokens, n_class: tokens of the first part and the held-out part, and those of the class among them.
        trace: of the corpus, see `nanogpt_lens.text.seen`.
        predicate: what the class is called; "" where it has no name.
        n_pieces: how many pieces of that text hold the class (or anything else, if those are fewer): sequences, of
            which those count as one that a clump of the class goes through; None if an earlier version made the result.
    """

    separation: Float[Tensor, "*axes"]
    sign: Shaped[Tensor, "*axes"]
    held_out: Float[Tensor, "*axes"]
    low: Float[Tensor, "*axes"]
    high: Float[Tensor, "*axes"]
    p: Float[Tensor, "*axes"]
    null: Float[Tensor, " permutation"]
    chance: float
    n_tokens: tuple[int, int]
    n_class: tuple[int, int]
    trace: Int[Tensor, " hash"] | None = None
    predicate: str = ""
    n_pieces: int | None = None

    @property
    def n_examples(self) -> int | None:
        """`n_pieces`."""
        return self.n_pieces

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_tokens", "n_class"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def top(self, k: int = 10, *, by: str | None = None, order: Order = "abs") -> pd.DataFrame:
        """The `k` neurons that separate the class best, see `Result.top`."""
        return super().top(k, by=by or "separation", order=order)

    def best(self, k: int = 10) -> list[tuple[int, int]]:
        """The `k` best (layer, neuron) pairs, by the layers' own numbers, as `ablate_neurons` takes them."""
        order = self.separation.flatten().argsort(descending=True, stable=True)[:k].tolist()
        layers, width = self.labels["layer"], self.separation.shape[1]
        return [(int(layers[i // width]), i % width) for i in order]

    def _summary(self) -> list[str]:
        counts = f"{self.n_class[0]} of {self.n_tokens[0]} tokens in the class"
        held = f"; held out {self.n_class[1]} of {self.n_tokens[1]}" if self.n_tokens[1] else ""
        return [f"{counts}{held}; 95% of shifts stay at or below {self.chance:.4f}", *super()._summary()]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NeuronAblation(Scores):
    """Scores [ablated, score] of a model without some neurons, and the tokens that are hit hardest.

    Attributes:
        controls_as_strong: the share of control sets whose score is at least that of the first row,
            the neurons taken out together; nan without controls.
        hit_values: how much the loss on these tokens rises, the most first.
        hit_losses: the loss before and after.
        hit_positions: the corpus index of the token.
        hit_texts: what precedes it in its sequence, and the token itself.
        n_class: how many losses there are at positions of the class ("token", "next"); none without a predicate.
    """

    _leading: ClassVar[Mapping[str, str]] = {"score": "rise"}

    controls_as_strong: Float[Tensor, " score"]
    hit_values: Float[Tensor, " hit"]
    hit_losses: Float[Tensor, "hit 2"]
    hit_positions: Int[Tensor, " hit"]
    hit_texts: tuple[tuple[str, str], ...]
    n_class: tuple[int, ...] = ()
    quantity: str = "loss, nats per token"
    title: str = "loss"
    unit: str = "nats per token"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "hit_texts", tuple((str(before), str(token)) for before, token in self.hit_texts))
        object.__setattr__(self, "n_class", tuple(self.n_class))

    def hits(self) -> pd.DataFrame:
        """The tokens that are hit hardest, a row each: rise, loss before and after, position, what precedes, token."""
        import pandas as pd

        return pd.DataFrame(
            {
                "rise": self.hit_values.numpy(),
                "before": self.hit_losses[:, 0].numpy(),
                "after": self.hit_losses[:, 1].numpy(),
                "position": self.hit_positions.numpy(),
                "preceding": [text for text, _ in self.hit_texts],
                "token": [token for _, token in self.hit_texts],
            }
        )

    def table(self) -> pd.DataFrame:
        """The neurons' scores, a row each: value, interval, mean of the controls, and the share as strong."""
        import pandas as pd

        ends = {name: t[0].numpy() for name in ("low", "high", "chance") if (t := getattr(self, name)) is not None}
        columns: dict[str, Any] = {"score": self.labels["score"], "value": self.values[0].numpy(), **ends}
        columns |= {} if self.sample is None else self.sample.in_sample_column
        return pd.DataFrame({**columns, "controls_as_strong": self.controls_as_strong.numpy()})

    def _summary(self) -> list[str]:
        return self.table().round(5).to_string(index=False).splitlines()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PrincipalComponents(Result):
    """The directions along which an activation varies most, from `principal_components`.

    Attributes:
        values: orthonormal directions [component, unit], the largest variance first; the entry of largest magnitude
            of each is positive.
        variance: along each component, divided by n.
        ratio: its share of the whole variance.
        mean: of the activation.
        n_tokens: how many were read.
    """

    variance: Float[Tensor, " component"]
    ratio: Float[Tensor, " component"]
    mean: Float[Tensor, " unit"]
    n_tokens: int

    def project(self, activations: Float[Tensor, "*axes unit"]) -> Float[Tensor, "*axes component"]:
        """The coordinates of activations about the mean."""
        return (activations.to(self.values) - self.mean) @ self.values.T

    def _summary(self) -> list[str]:
        shares = ", ".join(f"{100 * share:.1f}%" for share in self.ratio[:10].tolist())
        return [f"{self.n_tokens} tokens; share of the variance: {shares}"]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SimilarDirections(Scores):
    """Cosines [vector] of a direction with every neuron's input and output and every token's vectors.

    Labels are "input 0.5" and "output 0.5" (layer, neuron), "embedding 7" and "unembedding 7" (token id).

    Attributes:
        chance: 95% of random directions have a cosine with that vector of at most this magnitude.
        chance_of_largest: by kind, 95% of random directions have no cosine beyond this magnitude.
        texts: each token as text.
        layers: how many layers the neurons are of.
    """

    chance_of_largest: dict[str, float]
    texts: tuple[str, ...]
    layers: int
    unit: str = "cosine"
    signed: bool = True

    _long: ClassVar[tuple[str, ...]] = ("texts",)

    def kind(self, name: str) -> Float[Tensor, " ..."]:
        """Cosines with "input" or "output" [layer, neuron], "embedding" or "unembedding" [token].

        Raises:
            ResultError: another word.
        """
        if name not in self.chance_of_largest:
            raise ResultError(f"there is no kind {name!r}; expected one of {', '.join(self.chance_of_largest)}")
        places = [i for i, label in enumerate(self.labels["vector"]) if label.startswith(f"{name} ")]
        cosines = self.values[places]
        if name.endswith("embedding"):
            return cosines
        return rearrange(cosines, "(layer neuron) -> layer neuron", layer=self.layers)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows of `Result.to_dataframe`, with the tokens' text and the level of the kind's largest cosine."""
        frame = super().to_dataframe()
        kinds, names = zip(*(label.split(" ") for label in self.labels["vector"]), strict=True)
        tokens = [self.texts[int(n)] if k.endswith("embedding") else "" for k, n in zip(kinds, names, strict=True)]
        return frame.assign(text=tokens, chance_of_largest=[self.chance_of_largest[kind] for kind in kinds])

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "texts", tuple(self.texts))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SteeringEffect(Scores):
    """Scores [scale, score] of a steered model.

    Attributes:
        scales: what the direction is multiplied by.
        controls: the same scores with random directions of the same length.
        chance: their mean; `chance_low` and `chance_high` their extremes.
    """

    _leading: ClassVar[Mapping[str, str]] = {"score": "kl"}

    scales: tuple[float, ...]
    unit: str = "nats"
    controls: Float[Tensor, "control scale score"] | None = None
    chance_low: Float[Tensor, "scale score"] | None = None
    chance_high: Float[Tensor, "scale score"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scales", tuple(self.scales))
