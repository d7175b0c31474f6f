"""What differs between the weights of two models of one shape, and whether they come from one start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results.base import Result

if TYPE_CHECKING:
    import pandas as pd

OriginVerdict: TypeAlias = Literal["identical", "shared start", "separate starts", "other shape"]
"""Whether two models come from one start."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Origin(Result):
    """Whether two models come from one start: the cosine of each matrix of b with that of a, with the axis matrix.

    Attributes:
        values: the cosines.
        verdict: "identical" (every parameter is equal), "shared start", "separate starts", "other shape".
        chance_low, chance_high: the range that 95% of the orders of the residual dimensions give.
        cosine: the mean of all matrices, which decides; nan for models of other shapes.
        chance_mean, chance_deviation: the mean and the standard deviation of that over the orders.
        p: of separate starts having a mean cosine at least as large.
        level: the p from which on down the start counts as shared: the share of separate starts that is mistaken.
        different: the sizes that differ, in words; "" where none does.
    """

    verdict: OriginVerdict
    chance_low: Float[Tensor, " matrix"]
    chance_high: Float[Tensor, " matrix"]
    cosine: float
    chance_mean: float
    chance_deviation: float
    p: float
    level: float
    different: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether the two come from one start, or are equal."""
        return self.verdict in ("identical", "shared start")

    def sentence(self) -> str:
        """The verdict, with the numbers that it hangs on."""
        if self.verdict == "other shape":
            return f"a and b have other shapes: {self.different}"
        if self.verdict == "identical":
            return "a and b are identical, parameter by parameter"
        numbers = (
            f"the mean cosine of their matrices is {self.cosine:.3f}, by chance {self.chance_mean:.3f} with a "
            f"deviation of {self.chance_deviation:.3f} (p = {self.p:.2g})"
        )
        said = "come from one start" if self.is_shared else "show no common start"
        return f"a and b {said}: {numbers}"

    def _summary(self) -> list[str]:
        frame = self.to_dataframe().drop(columns="matrix") if len(self.values) else None
        return [self.sentence(), *([] if frame is None else frame.round(3).to_string(index=False).splitlines()[:12])]


Verdict: TypeAlias = Literal["identical", "same function", "changed"]
"""Of a matrix: equal bit for bit in its place; equal up to rounding after allowed changes of form; neither."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WeightDifference(Result):
    """What differs between the weights of two models of one shape, with the axis matrix.

    A matrix is compared in a form that does not hang on how it is written down, see `compare.written_forms`: "0.1.qk"
    is what head 1 of layer 0 compares, "0.1.ov" what it moves, "mlp0.in", "mlp0.out" and "mlp0.bias" what the neurons
    of an MLP read and write and what it adds; "embed", "pos_embed", "0.b_O", "0.ln1", "0.ln2", "ln_final", "unembed".

    Attributes:
        values: the Frobenius norm of the difference, b minus a, as a share of a's.
        cosine: between both; nan where one is zero.
        verdicts: of each matrix: "identical", "same function", "changed".
        effective_rank: of the difference: exp of the entropy of its singular values as shares of their sum (Roy and
            Vetterli 2007); nan where nothing differs.
        singular_values: of the difference, the largest 64; nan behind the last.
        head_order: the head of b that each head of a is.
        neuron_order: the neuron of b that each neuron of a is.
        token_moved: for the embedding and the unembedding, how far the row of each token has moved, as a share of the
            mean square of a's rows; without what all tokens of the unembedding have in common, which no softmax sees.
        token_differs: whether that is more than rounding.
        position_moved: the same of each position.
        position_differs: whether that is more than rounding.
        tokens: what each token is called.
        origin: whether the two come from one start; "" where there are too few dimensions to tell.
        origin_cosine, origin_p: what that is told by, see `Origin`.
    """

    _long: ClassVar[tuple[str, ...]] = ("tokens",)

    cosine: Float[Tensor, " matrix"]
    verdicts: tuple[Verdict, ...]
    effective_rank: Float[Tensor, " matrix"]
    singular_values: Float[Tensor, "matrix rank"]
    head_order: Int[Tensor, "layer head"]
    neuron_order: Int[Tensor, "layer neuron"]
    token_moved: Float[Tensor, "table token"]
    token_differs: Bool[Tensor, "table token"]
    position_moved: Float[Tensor, " pos"]
    position_differs: Bool[Tensor, " pos"]
    tokens: tuple[str, ...]
    origin: OriginVerdict | Literal[""]
    origin_cosine: float
    origin_p: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("verdicts", "tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists, in a file

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of the matrices."""
        return self.labels["matrix"]

    @property
    def components(self) -> dict[str, Verdict]:
        """The verdict of each component, a head's of both its matrices: the strongest of them."""
        found: dict[str, Verdict] = {}
        for matrix, verdict in zip(self.matrices, self.verdicts, strict=True):
            name = component_of(matrix)
            found[name] = max(found.get(name, "identical"), verdict, key=_STRENGTH.__getitem__)
        return found

    @property
    def changed(self) -> tuple[str, ...]:
        """The components whose function has changed."""
        return self._with("changed")

    @property
    def rewritten(self) -> tuple[str, ...]:
        """The components that are written differently and do the same."""
        return self._with("same function")

    @property
    def same_function(self) -> bool:
        """Whether the two compute the same, up to rounding."""
        return not self.changed

    @property
    def reordered_heads(self) -> dict[int, tuple[int, ...]]:
        """By layer, the head of b that each head of a is, where that is another."""
        return _moved(self.head_order)

    @property
    def reordered_neurons(self) -> dict[int, tuple[int, ...]]:
        """By layer, the neuron of b that each neuron of a is, where that is another."""
        return _moved(self.neuron_order)

    def verdict_of(self, name: str) -> Verdict:
        """The verdict of a matrix or a component.

        Raises:
            ResultError: there is none of that name.
        """
        known = dict(zip(self.matrices, self.verdicts, strict=True)) | self.components
        if name not in known:
            raise ResultError(f"there is no {name!r}; expected one of {', '.join(known)}")
        return known[name]

    def moved_tokens(self, table: Literal["embed", "unembed"] = "embed") -> tuple[str, ...]:
        """The tokens whose rows differ by more than rounding, those that moved most first.

        Raises:
            ResultError: there is no such table.
        """
        if table not in TABLES:
            raise ResultError(f"table is {table!r}; expected embed or unembed")
        i = TABLES.index(table)
        order = self.token_moved[i].argsort(descending=True, stable=True)
        return tuple(self.tokens[j] for j in order.tolist() if bool(self.token_differs[i, j]))

    def moved_positions(self) -> tuple[int, ...]:
        """The positions whose rows differ by more than rounding, those that moved most first."""
        order = self.position_moved.argsort(descending=True, stable=True)
        return tuple(j for j in order.tolist() if bool(self.position_differs[j]))

    def tokens_table(self, k: int = 10) -> pd.DataFrame:
        """The tokens whose rows moved most, in the embedding and the unembedding."""
        import pandas as pd

        frame = pd.DataFrame({"token": self.tokens})
        for i, table in enumerate(TABLES):
            frame[table] = self.token_moved[i].double().numpy()
        order = torch.maximum(self.token_moved[0], self.token_moved[1]).argsort(descending=True, stable=True)
        return frame.iloc[order[: max(0, k)].tolist()].reset_index(drop=True)

    def to_dataframe(self) -> pd.DataFrame:
        """The rows of `Result.to_dataframe`, with the verdicts."""
        frame = super().to_dataframe()
        frame["verdict"] = list(self.verdicts)
        return frame

    def sentence(self) -> str:
        """What differs, in a few sentences."""
        n = len(self.components)
        if not self.changed and not self.rewritten:
            return "a and b are identical, parameter by parameter"
        said = list[str]()
        if self.changed:
            said.append(f"{len(self.changed)} of {n} components have changed: {self._named()}")
        else:
            said.append("a and b compute the same function, written differently")
        orders = ((self.reordered_heads, "heads"), (self.reordered_neurons, "neurons"))
        for moved, what in orders:
            for layer, order in moved.items():
                how = f" ({', '.join(f'{i} is {j} in b' for i, j in enumerate(order) if i != j)})"
                said.append(f"layer {layer} has the same {what} in another order{how if len(order) <= 12 else ''}")
        others = [name for name in self.rewritten if not self._is_reordered(name)]
        if others:
            said.append(f"written differently, same function: {_listed(others)}")
        if self.origin:
            numbers = "" if self.origin == "identical" else f" (mean cosine {self.origin_cosine:.3f}, {self._p})"
            said.append(f"{self.origin}{numbers}")
        return "; ".join(said)

    @property
    def _p(self) -> str:
        return f"p = {self.origin_p:.2g}"

    def _named(self) -> str:
        """The components that have changed, the farthest first, with how far, and tokens where they are few."""
        far: dict[str, float] = {}
        for matrix, value in zip(self.matrices, self.values.tolist(), strict=True):
            name = component_of(matrix)
            far[name] = max(far.get(name, 0.0), value)
        order = sorted(self.changed, key=lambda name: -far[name])
        return _listed([f"{name} by {far[name]:.2g}{self._rows(name)}" for name in order])

    def _rows(self, name: str) -> str:
        """The tokens or positions of a table that has few moved rows; "" elsewhere."""
        moved: tuple[object, ...] = ()
        if name in TABLES:
            moved = self.moved_tokens(name)  # type: ignore[arg-type]
        elif name == "pos_embed":
            moved = self.moved_positions()
        what = "position" if name == "pos_embed" else "token"
        if not 0 < len(moved) <= 3:
            return ""
        return f" ({what}{'s' if len(moved) > 1 else ''} {', '.join(map(repr, moved))} alone)"

    def _is_reordered(self, name: str) -> bool:
        """Whether a component is a head or an MLP of which another order has been said."""
        layer, _, head = name.partition(".")
        if name.startswith("mlp"):
            return int(name[3:]) in self.reordered_neurons
        return head.isdecimal() and self.reordered_heads.get(int(layer), ())[int(head) : int(head) + 1] not in (
            (),
            (int(head),),
        )

    def _with(self, verdict: Verdict) -> tuple[str, ...]:
        return tuple(name for name, its in self.components.items() if its == verdict)

    def _summary(self) -> list[str]:
        columns = ["matrix_label", "value", "cosine", "effective_rank", "verdict"]
        shown = self.top(10, by="value")[columns]
        return [self.sentence(), *shown.round(3).to_string(index=False).splitlines()]


TABLES = ("embed", "unembed")
"""The tables that have a row for each token."""

_STRENGTH: dict[Verdict, int] = {"identical": 0, "same function": 1, "changed": 2}


def component_of(matrix: str) -> str:
    """The component that a matrix belongs to: "0.1" of "0.1.qk", "mlp0" of "mlp0.in"."""
    head, _, part = matrix.rpartition(".")
    return head if part in ("qk", "ov", "in", "out", "bias") else matrix


def _moved(orders: Int[Tensor, "layer place"]) -> dict[int, tuple[int, ...]]:
    """By layer, the orders that are none as they were."""
    plain = list(range(orders.shape[1]))
    return {layer: tuple(order) for layer, order in enumerate(orders.tolist()) if order != plain}


def _listed(names: list[str], most: int = 8) -> str:
    """Some names; how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
