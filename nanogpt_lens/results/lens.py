"""What each layer believes, as results: lens readings, their convergence, attribution, and the tuned lens.

A depth counts the half-blocks below a point: resid_pre of layer l is 2l, resid_mid 2l + 1, resid_post
2l + 2, so that equal points have equal depths. In layers, that is half of it: 0 is the embedding,
the number of layers is the model's output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.model.access import Hooked
from nanogpt_lens.model.identity import identity
from nanogpt_lens.results.base import Result
from nanogpt_lens.results.scores import Scores

if TYPE_CHECKING:
    import pandas as pd

Method: TypeAlias = Literal["logit", "tuned"]
"""Which lens: the model's own unembedding, or behind a trained translator."""

POINTS = ("resid_pre", "resid_mid", "resid_post")


def depth_of(layer: int, point: str) -> int:
    """How many half-blocks are below a point."""
    return 2 * layer + POINTS.index(point)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _OnPoints(Result):
    """A result with the axes "layer" and "point"."""

    def depths(self) -> list[list[int]]:
        """The depth of each [layer, point]."""
        layers = self.labels.get("layer") or [str(i) for i in range(self.shape["layer"])]
        return [[depth_of(int(layer), point) for point in self.labels["point"]] for layer in layers]

    def in_depth_order(self) -> list[tuple[int, int, str]]:
        """(index of layer, index of point, name) of every distinct point, from the embedding upwards."""
        places: dict[int, tuple[int, int, str]] = {}
        layers = self.labels.get("layer") or [str(i) for i in range(self.shape["layer"])]
        for i, row in enumerate(self.depths()):
            for j, depth in enumerate(row):
                places.setdefault(depth, (i, j, f"{layers[i]}.{self.labels['point'][j]}"))
        return [places[depth] for depth in sorted(places)]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensResult(_OnPoints):
    """What a lens reads at every [layer, point, pos] of a text, or [layer, point, example, pos] of several.

    Attributes:
        values: the log-probability in nats of the token that really follows; nan at the last position.
        rank: of that token: how many tokens have a larger logit; -1 at the last position.
        entropy: of the lens' distribution, in nats.
        kl: KL(final || lens), in nats, final being the model's own output.
        top_tokens: ids of the `k` most likely tokens.
        top_logprobs: their log-probabilities in nats.
        tokens: the ids of the text.
        final_tokens: the model's own most likely next token.
        depth: in layers: the first of these points from which on `final_tokens` is on top at all of them;
            the number of layers where it is so at the output alone.
        bits_per_char: bits that the lens needs for the predicted part of the text, per
            character of it; None without a vocabulary.
        strings: the text of every token id that occurs here, by the id as a string.
        method: which lens.
    """

    rank: Int[Tensor, "*axes"]
    entropy: Float[Tensor, "*axes"]
    kl: Float[Tensor, "*axes"]
    top_tokens: Int[Tensor, "*axes k"]
    top_logprobs: Float[Tensor, "*axes k"]
    tokens: Int[Tensor, "*text"]
    final_tokens: Int[Tensor, "*text"]
    depth: Float[Tensor, "*text"]
    bits_per_char: Float[Tensor, "layer point"] | None = None
    strings: Mapping[str, str] = field(default_factory=dict)
    method: Method = "logit"
    unit: str = "nats"

    def string(self, token: int) -> str:
        """The text of a token."""
        return self.strings.get(str(int(token)), str(int(token)))

    def top_strings(self) -> Shaped[np.ndarray, "*axes k"]:
        """`top_tokens` as text: an array of strings."""
        flat = [self.string(token) for token in self.top_tokens.flatten().tolist()]
        return np.array(flat, dtype=object).reshape(self.top_tokens.shape)

    def table(self, example: int = 0) -> pd.DataFrame:
        """The most likely token of each point (rows, in the order of the computation) at each position (columns)."""
        import pandas as pd

        several = "example" in self.axes
        place = self._index("example", example) if several else 0
        top = self.top_tokens[..., 0][:, :, place] if several else self.top_tokens[..., 0]
        places = self.in_depth_order()
        rows = [[repr(self.string(token)) for token in top[i, j].tolist()] for i, j, _ in places]
        tokens = (self.tokens[place] if several else self.tokens).tolist()
        columns = [f"{i} {self.string(token)!r}" for i, token in enumerate(tokens)]
        table = pd.DataFrame(rows, index=[name for _, _, name in places], columns=columns)
        for name, said in ({} if self.sample is None else self.sample.in_sample_column).items():
            table.insert(0, name, said)
        return table

    def _summary(self) -> list[str]:
        table = self.table().iloc[:, -8:]
        kl = rearrange(self.kl, "layer point ... -> layer point (...)").mean(-1)
        table.insert(0, "mean KL", [round(float(kl[i, j]), 3) for i, j, _ in self.in_depth_order()])
        return ["most likely next token at the last positions", *table.to_string().splitlines()]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConvergenceResult(_OnPoints, Scores):
    """How beliefs approach the output: scores [score, layer, point], means over sequences and positions.

    Attributes:
        depth: in layers: the first measured point from which on the final top token is on top;
            the number of layers where it is so at the output alone.
        depth_low, depth_high: 95% interval of the mean depth, over the sequences; None for one.
        tokens: the ids.
        n_layers: of the model.
        method: which lens.
    """

    _leading: ClassVar[Mapping[str, str]] = {"score": "kl"}

    depth: Float[Tensor, "example pos"]
    tokens: Int[Tensor, "example pos"]
    n_layers: int
    depth_low: float | None = None
    depth_high: float | None = None
    method: Method = "logit"

    @property
    def mean_depth(self) -> float:
        """The mean depth over all sequences and positions, in layers."""
        return float(self.depth.mean())

    @property
    def median_depth(self) -> float:
        """The median depth over all sequences and positions, in layers."""
        return float(self.depth.median())

    @property
    def depth_by_position(self) -> Float[Tensor, " pos"]:
        """The mean depth over the sequences, in layers."""
        return self.depth.mean(0)

    def converged_by_position(self) -> Float[Tensor, "layer point pos"]:
        """The share of sequences that have converged by each measured point."""
        points = torch.tensor(self.depths()) / 2
        return (self.depth <= points[..., None, None]).double().mean(-2)

    def _summary(self) -> list[str]:
        import pandas as pd

        places = self.in_depth_order()
        columns = {name: [float(self.score(name)[i, j]) for i, j, _ in places] for name in self.labels["score"]}
        frame = pd.DataFrame(columns, index=[name for _, _, name in places]).round(3)
        between = "" if self.depth_low is None else f" ({self.depth_low:.2f} to {self.depth_high:.2f})"
        return [
            f"the top token settles at a mean depth of {self.mean_depth:.2f} layers{between}, of {self.n_layers}",
            *frame.to_string().splitlines(),
        ]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LensScores(_OnPoints, Scores):
    """KL(final || lens) in nats [score, layer, point] of a tuned lens beside the logit lens, on held-out text.

    The scores are "tuned"; "logit"; "gain", logit minus tuned, each sequence against itself; and, where the
    lens was trained for another model, "home", its KL there, and "loss_of_fit", tuned minus home.

    `sample.seen_share` is the share of the text that the lens was trained on.
    """

    _leading: ClassVar[Mapping[str, str]] = {"score": "gain"}

    unit: str = "nats"

    def _summary(self) -> list[str]:
        import pandas as pd

        rows, low, high = [], self.low, self.high
        for i, j, name in self.in_depth_order():
            row: dict[str, Any] = {"point": name}
            for k, score in enumerate(self.labels["score"]):
                value = f"{float(self.values[k, i, j]):.4f}"
                interval = "" if low is None or high is None else f" ({low[k, i, j]:.4f} to {high[k, i, j]:.4f})"
                row[score] = value + interval
            rows.append(row)
        return pd.DataFrame(rows).to_string(index=False).splitlines()


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TunedLens(LensScores):
    """One affine map for each point, resid + resid @ matrix + bias, that comes before the final norm.

    Its `values` are what it reaches on held-out text, see `LensScores`.

    Attributes:
        matrices, biases: of each translator; their shapes are checked in a sentence of this class.
        translated: the depth of each translator, ascending; the model's output has none.
        n_layers: of the model.
        home: the identity of the model that it was trained for.
        host: that of another one, for which it was let in.
        curve: KL(final || lens) in nats on the text that decides when to stop.
        curve_steps: after how many steps each evaluation was.
        best_steps: the step at which each translator was best, and is kept; 0 is the logit lens.
        trace: of the text that it was trained on and stopped by, see `nanogpt_lens.text.seen`.
    """

    matrices: Float[Tensor, " ..."]
    biases: Float[Tensor, " ..."]
    translated: tuple[int, ...]
    n_layers: int
    home: str
    curve: Float[Tensor, "evaluation translator"]
    curve_steps: tuple[int, ...]
    best_steps: tuple[int, ...]
    host: str | None = None
    trace: Int[Tensor, " hash"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("translated", "curve_steps", "best_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        n, width = len(self.translated), self.biases.shape[-1]
        if self.matrices.shape != (n, width, width) or self.biases.shape != (n, width):
            raise ResultError(
                f"the tuned lens has matrices {list(self.matrices.shape)} and biases {list(self.biases.shape)} for {n} "
                "points; it is damaged: train it again"
            )

    @property
    def transferred(self) -> bool:
        """Whether it is used on another model than the one that it was trained for."""
        return self.host is not None

    def translate(
        self, layer: int, point: str, resid: Float[Tensor, "*axes d_model"]
    ) -> Float[Tensor, "*axes d_model"]:
        """The residual stream of a point, moved to where the model's output is read.

        Raises:
            AnalysisError: there is no translator for this point.
        """
        if point not in POINTS:
            raise AnalysisError(f"point is {point!r}; expected one of {', '.join(POINTS)}")
        return self.at_depth(depth_of(layer, point), resid)

    def at_depth(self, depth: int, resid: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes d_model"]:
        """The same for a point named by its depth; the model's output stays as it is."""
        if depth == 2 * self.n_layers:
            return resid
        if depth not in self.translated:
            raise AnalysisError(
                f"the tuned lens has no translator for {name_of(depth)}; expected one of "
                f"{', '.join(map(name_of, self.translated))}, or a lens trained with more points and layers"
            )
        i = self.translated.index(depth)
        matrix, bias = (part[i].to(resid.device) for part in (self.matrices, self.biases))
        return affine_step(resid, matrix, bias)

    def transfer(self, model: Hooked) -> Self:
        """The same lens, for another model of the same shape.

        Raises:
            AnalysisError: the shapes differ.
        """
        self._check_shape(model)
        host = identity(model)
        return replace(self, host=None if host == self.home else host)

    def refuse_other(self, model: Hooked) -> None:
        """Raise AnalysisError unless the lens is for this model."""
        self._check_shape(model)
        if identity(model) != (self.host or self.home):
            origin = getattr(model, "nanogpt_origin", None)
            trained_on, used_on = self.checkpoint, getattr(origin, "name", None)
            edited = used_on is not None and trained_on == used_on
            changed = ", so that its weights were edited or processed (process_weights) since" if edited else ""
            raise AnalysisError(
                f"the tuned lens was trained for {trained_on or 'another model'} (weights {self.home[:12]}), not for "
                f"{used_on or 'this model'} (weights {identity(model)[:12]}, as they are now){changed}; "
                "train one for it, or load the lens with transfer=True"
            )

    def _summary(self) -> list[str]:
        other = "on its own model; `ngl.evaluate_lens` measures it on the one that it was let in for"
        return [*([other] if self.transferred else []), *super()._summary()]

    @classmethod
    def load(cls, folder: str | Path, model: Hooked | None = None, *, transfer: bool = False) -> Self:
        """Read what `save` wrote.

        Args:
            folder: of the lens.
            model: the model that it is for; None leaves the check to those who use the lens.
            transfer: let in a model that the lens was not trained for, such as another checkpoint of
                one run; `evaluate_lens` then measures the loss of fit.

        Raises:
            ResultError: nothing there, damaged, or no tuned lens.
            AnalysisError: it was trained for another model, and `transfer` is False; or shapes differ.
        """
        lens = replace(super().load(folder), host=None)
        if transfer and model is None:
            raise AnalysisError("transfer=True needs the model that the lens is to be used on; give it as well")
        if model is None:
            return lens
        if transfer:
            return lens.transfer(model)
        lens.refuse_other(model)
        return lens

    def _check_shape(self, model: Hooked) -> None:
        """Raise AnalysisError unless the model has the lens' layers and width."""
        d_model, n_layers = int(model.cfg.d_model), int(model.cfg.n_layers)
        if (self.biases.shape[-1], self.n_layers) != (d_model, n_layers):
            raise AnalysisError(
                f"the tuned lens is for {self.n_layers} layers of width {self.biases.shape[-1]}, the model has "
                f"{n_layers} of width {d_model}; expected the same shape: train a lens for it"
            )


def affine_step(
    resid: Float[Tensor, "... d_model"],
    matrix: Float[Tensor, "... d_model d_model"],
    bias: Float[Tensor, "... d_model"],
) -> Float[Tensor, "... d_model"]:
    """Resid + resid @ matrix + bias, in the precision of the matrix; of the dtype of `resid`."""
    wide = resid.to(torch.promote_types(resid.dtype, matrix.dtype))
    return (wide + wide @ matrix.to(wide.dtype) + bias.to(wide.dtype)).to(resid.dtype)


def name_of(depth: int) -> str:
    """A depth as "resid_mid of layer 1"; a point with two names has that of the lower layer."""
    layer, point = (0, "resid_pre") if depth == 0 else ((depth - 1) // 2, POINTS[2 - depth % 2])
    return f"{point} of layer {layer}"
