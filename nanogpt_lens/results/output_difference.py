"""What comes out of two models on the same text: how far apart, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import stdtrit
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.core.intervals import LEVEL
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.files import as_json
from nanogpt_lens.results.neurons import Excerpt

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("kl_ab", "kl_ba", "js", "loss_a", "loss_b", "loss_difference", "agreement")
"""What is measured at each place."""

By: TypeAlias = Literal["answer", "context", "kind"]
"""What places are put together by: the token that follows, the last token before it, or the kind of what follows."""

Extreme: TypeAlias = Literal["differing", "worse", "better"]
"""Excerpts: where KL(a || b) is largest, where b's loss is most above a's, and where it is most below."""

Order: TypeAlias = Literal["high", "low", "abs"]
"""Which means come first: the highest, the lowest, or the largest in magnitude."""

_ROUNDING = 1e-9
"""Nats: a smaller mean KL is rounding of float32."""

LEAST = 20
"""How many places a token must have to be ranked, where nothing is said."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OutputDifference(Result):
    """How far the predictions of two models are apart, [measure], a before and b after.

    "kl_ab" is KL(a || b), "kl_ba" KL(b || a), "js" the Jensen-Shannon divergence, at most ln 2; "loss_a" and "loss_b"
    the cross-entropy of the next token, "loss_difference" b's less a's; "agreement" the share of places where both
    have the same likeliest token. All are means over the places that have a next token.

    Attributes:
        low, high: 95% intervals of the means, Student's t over the sequences; of the difference they are paired.
        names: what a and b are called.
        n_places: how many next tokens were predicted.
        answers: by the token that follows: "count", "sequences" it occurs in [token]; "mean" and "error", its standard
            error over these sequences [token, measure].
        contexts: the same by the last token before the prediction.
        kinds: the same by the kind of the token that follows, see `kind_names`.
        kind_names: such as "upper case"; empty where ids have no text.
        probability: how much each token gets whatever follows [token]: "mean_a" in a, "difference" b's less a's, and
            its "error".
        differing, worse, better: excerpts: "value" at the peak, "start" and "position" of it in the text [excerpt]; the
            "tokens", and "each" of them its own value, that of its prediction from those before it [excerpt, window].
            -1 and nan where there is none.
        vocabulary: the text of every id.
    """

    low: Float[Tensor, " measure"] | None
    high: Float[Tensor, " measure"] | None
    names: tuple[str, str]
    n_places: int
    answers: Mapping[str, Shaped[Tensor, "token ..."]]
    contexts: Mapping[str, Shaped[Tensor, "token ..."]]
    kinds: Mapping[str, Shaped[Tensor, "kind ..."]]
    kind_names: tuple[str, ...]
    probability: Mapping[str, Float[Tensor, " token"]]
    differing: Mapping[str, Shaped[Tensor, "excerpt ..."]]
    worse: Mapping[str, Shaped[Tensor, "excerpt ..."]]
    better: Mapping[str, Shaped[Tensor, "excerpt ..."]]
    vocabulary: tuple[str, ...]

    _long: ClassVar[tuple[str, ...]] = (
        *("vocabulary", "answers", "contexts", "kinds", "probability"),
        *("differing", "worse", "better"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("names", "kind_names", "vocabulary"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, in a file

    def measure(self, name: str) -> tuple[float, float, float]:
        """The mean of a measure, and the ends of its interval; nan where there is none.

        Raises:
            ResultError: there is no such measure.
        """
        i = self._index("measure", name)
        ends = [np.nan if end is None else float(end[i]) for end in (self.low, self.high)]
        return float(self.values[i]), ends[0], ends[1]

    def where(
        self,
        by: By = "answer",
        *,
        measure: str = "kl_ab",
        k: int | None = 10,
        least: int = LEAST,
        order: Order = "high",
    ) -> pd.DataFrame:
        """The groups with the largest means of a measure, a row each.

        The best of many look better than they are. So there are two intervals: "low" and "high" hold for one group
        that was chosen beforehand, "low_all" and "high_all" for all groups of the ranking together (Bonferroni), and
        therefore for the ones at its top.

        Args:
            by: "answer", the token that follows; "context", the last token before it; "kind", the kind of the answer.
            measure: one of `MEASURES`.
            k: how many rows; None for all.
            least: how many places a group must have; it must also be in two sequences.
            order: "high" for the largest first, "low" for the smallest, "abs" by magnitude.

        Returns:
            "token", "count", "sequences", "mean", the intervals, and "share", the group's part of the measure's sum
            over all places.

        Raises:
            ResultError: there is no such group or measure, or another order.
        """
        import pandas as pd

        groups = self._groups(by)
        i = self._index("measure", measure)
        if order not in ("high", "low", "abs") or isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ResultError(f"order={order!r}, least={least!r}; expected high, low or abs, and a whole number from 1")
        count, sequences = groups["count"].numpy(), groups["sequences"].numpy()
        ranked = np.flatnonzero((count >= least) & (sequences >= 2))
        mean, error = (groups[name][:, i].numpy()[ranked] for name in ("mean", "error"))
        total = float(self.values[i]) * self.n_places
        names = self.kind_names if by == "kind" else self.vocabulary
        frame = pd.DataFrame(
            {
                "token" if by != "kind" else "kind": _column([names[j] for j in ranked]),
                "count": count[ranked],
                "sequences": sequences[ranked],
                "mean": mean,
                **_ends(mean, error, sequences[ranked] - 1, len(ranked)),
                "share": mean * count[ranked] / total if total else np.full(len(ranked), np.nan),
            }
        )
        return _sorted(frame, "mean", order).head(len(frame) if k is None else k).reset_index(drop=True)

    def gains(self, k: int | None = 10, *, order: Order = "high") -> pd.DataFrame:
        """The tokens that b gives more probability than a does, averaged over all places, whatever follows there.

        Args:
            k: how many rows; None for all.
            order: "high" for what gains most, "low" for what loses most, "abs" by magnitude.

        Returns:
            "token", its mean probability "mean_a" and "mean_b", the "difference", and intervals as in `where`.

        Raises:
            ResultError: another order.
        """
        import pandas as pd

        if order not in ("high", "low", "abs"):
            raise ResultError(f"order is {order!r}; expected high, low or abs")
        mean, difference, error = (self.probability[n].numpy() for n in ("mean_a", "difference", "error"))
        frame = pd.DataFrame(
            {
                "token": _column(self.vocabulary),
                "mean_a": mean,
                "mean_b": mean + difference,
                "difference": difference,
                **_ends(difference, error, np.full(len(mean), (self.n_examples or 1) - 1), len(mean)),
            }
        )
        return _sorted(frame, "difference", order).head(len(frame) if k is None else k).reset_index(drop=True)

    def excerpts(self, which: Extreme = "differing") -> tuple[Excerpt, ...]:
        """The excerpts of one kind, the most extreme first; each token's value is that of its own prediction.

        Raises:
            ResultError: there is no such kind.
        """
        if which not in ("differing", "worse", "better"):
            raise ResultError(f"{which!r} are no excerpts; expected differing, worse or better")
        kept = getattr(self, which)
        found = []
        for i in range(len(kept["value"])):
            if int(kept["start"][i]) < 0:
                continue
            inside = kept["tokens"][i] >= 0  # the sequence does not end before
            found.append(
                Excerpt(
                    value=float(kept["value"][i]),
                    position=int(kept["position"][i]),
                    start=int(kept["start"][i]),
                    tokens=tuple(self.vocabulary[t] for t in kept["tokens"][i][inside].tolist()),
                    activations=tuple(kept["each"][i][inside].tolist()),
                    separator="" if self.kind_names else " ",
                )
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The means, the sentence, and the tops of all tables and excerpts, as plain values."""
        tables = {
            "answers": self.where("answer"),
            "contexts": self.where("context"),
            "kinds": self.where("kind", k=None, least=1),
            "gains": self.gains(),
            "losses": self.gains(order="low"),
        }
        return {
            **super().to_json(),
            "sentence": self.sentence(),
            **{name: as_json([*table.to_dict("records")]) for name, table in tables.items()},
            "excerpts": {
                which: as_json([asdict(excerpt) for excerpt in self.excerpts(which)]) for which in get_args(Extreme)
            },
        }

    @property
    def same(self) -> bool:
        """Whether the two predict exactly the same everywhere."""
        return all(self.measure(name)[0] == 0 for name in ("kl_ab", "kl_ba", "js", "loss_difference"))

    def sentence(self) -> str:
        """What differs most, in one sentence."""
        a, b = self.names
        if self.same:
            return f"{a} and {b} predict exactly the same at all {self.n_places:,} places"
        (kl, low, high), loss = self.measure("kl_ab"), self.measure("loss_difference")
        if kl < _ROUNDING:
            return f"{a} and {b} predict the same but for rounding (KL of {kl:.1e} nats per token)"
        said = f"KL({a} || {b}) is {kl:.3g}{_between(low, high)} nats per token"
        if np.isnan(loss[1]):
            said += f", the loss of {b} less that of {a} is {loss[0]:+.3g}; of one sequence there are no intervals"
        elif loss[1] <= 0 <= loss[2]:
            said += f", their losses do not surely differ ({loss[0]:+.3g}{_between(*loss[1:], sign=True)})"
        else:
            side = "above" if loss[0] > 0 else "below"
            ends = sorted(abs(end) for end in loss[1:])
            said += f", {b}'s loss is {abs(loss[0]):.3g}{_between(*ends)} {side} {a}'s"
        top = self.where(k=1)
        if len(top):
            row = top.to_dict("records")[0]
            said += (
                f"; of the tokens that follow {LEAST} times and more they differ most on {row['token']!r} "
                f"({row['mean']:.3g}, n = {row['count']:,})"
            )
        return said

    def _groups(self, by: str) -> Mapping[str, Shaped[Tensor, "group ..."]]:
        groups = {"answer": self.answers, "context": self.contexts, "kind": self.kinds}
        if by not in groups:
            raise ResultError(f"by is {by!r}; expected one of {', '.join(groups)}")
        return groups[by]

    def _summary(self) -> list[str]:
        table = self.where().round(4)
        return [self.sentence(), *(table.to_string(index=False).splitlines() if len(table) else [])]


def _ends(
    mean: Float[np.ndarray, " group"],
    error: Float[np.ndarray, " group"],
    degrees: Shaped[np.ndarray, " group"],
    n_ranked: int,
) -> dict[str, Float[np.ndarray, " group"]]:
    """Student's 95% interval of each mean, and the one that holds for all means together."""
    columns = {}
    for end, looked_at in (("", 1), ("_all", max(1, n_ranked))):
        half = stdtrit(np.maximum(degrees, 1), 1 - (1 - LEVEL) / 2 / looked_at) * error
        columns |= {f"low{end}": mean - half, f"high{end}": mean + half}
    return columns


def _column(tokens: Iterable[str]) -> pd.Series:
    """A column of texts as they are, halves of surrogate pairs included."""
    import pandas as pd

    return pd.Series(list(tokens), dtype=object)


def _sorted(frame: pd.DataFrame, column: str, order: str) -> pd.DataFrame:
    """The rows in order; equal ones stay as they are."""
    key = frame[column].abs() if order == "abs" else frame[column]
    return frame.iloc[np.argsort(key.to_numpy() * (1 if order == "low" else -1), kind="stable")]


def _between(low: float, high: float, *, sign: bool = False) -> str:
    """The ends of an interval in brackets; "" where there is none."""
    form = "+.3g" if sign else ".3g"
    return "" if np.isnan(low) else f", {low:{form}} to {high:{form}}" if sign else f" ({low:{form}} to {high:{form}})"
