"""What differs between the weights of two models of one shape, component by component.

Weights may differ and compute the same: heads of a layer, or neurons of an MLP, in another order; another basis inside
a head; LayerNorm's weight in the matrices behind it; a bias of the values in that of the output. So each component is
compared in a form that none of these changes, after its partner in b was found. Where it is equal up to rounding, it is
"written differently, same function", and where every bit is, "identical". Nothing is said of what comes of a change
further on: that is what `transplant` asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.compare.components import check_one_shape, weights_of
from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.compare.reordering import heads_of_b, neurons_of_b
from nanogpt_lens.compare.written_forms import (
    LayerForms,
    Product,
    embedding_rows,
    layer_forms,
    position_rows,
    unembedding_rows,
)
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens, provenance, token_labels
from nanogpt_lens.model.weights import rounding
from nanogpt_lens.results import Sample
from nanogpt_lens.results.weight_difference import Verdict, WeightDifference

_KEPT = 64


def compare_weights(a: Hooked, b: Hooked, *, seed: int = 0) -> WeightDifference:
    """Compare the weights of two models of one shape, whatever the way in which they are written down.

    Args:
        a, b: HookedTransformers or TransformerBridges, without processed weights: before and after. Differences are b
            minus a.
        seed: of what is drawn to tell whether they share a start.

    Returns:
        for each matrix how far it has changed, in how many directions, and the verdict; which tokens' and positions'
        rows moved; and in which order heads and neurons stand.

    Raises:
        AnalysisError: the models have other shapes or precisions, or no LayerNorms.
    """
    check_whole(seed=seed)
    check_one_shape(a, b)
    with torch.no_grad():
        comparison = _WeightComparison(a, b)
        comparison.tables()
        for layer in range(a.cfg.n_layers):
            comparison.layer(layer)
        fields = comparison.fields()
    return WeightDifference(
        **fields,
        **_origin(a, b, seed),
        axes=("matrix",),
        tokens=_token_names(b),
        quantity="norm of the difference of a matrix, as a share of its norm in a",
        definition="b minus a, with LayerNorms folded in and centred: of a head what it compares and what it moves, of "
        "an MLP its neurons, each beside its partner in b",
        title="what differs in the weights",
        sample=Sample(seed=seed),
        provenance=provenance(b, a=provenance(a), seed=seed),
    )


def _origin(a: Hooked, b: Hooked, seed: int) -> dict[str, Any]:
    """The fields about a shared start; none where there are too few dimensions to tell."""
    try:
        origin = shared_start(a, b, seed=seed)
    except AnalysisError:
        return {"origin": "", "origin_cosine": float("nan"), "origin_p": float("nan")}
    return {"origin": origin.verdict, "origin_cosine": origin.cosine, "origin_p": origin.p}


def _token_names(model: Hooked) -> tuple[str, ...]:
    """What every row of the embedding is called; its number where it stands for no token."""
    n, every = n_tokens(model), int(model.cfg.d_vocab)
    return (*token_labels(model, torch.arange(n)), *map(str, range(n, every)))


class _WeightComparison:
    """The comparison of two models, matrix by matrix, in the order of the computation.

    Args:
        a, b: models of one shape.
    """

    def __init__(self, a: Hooked, b: Hooked) -> None:
        self.a, self.b = a, b
        self._weights = weights_of(a), weights_of(b)
        self.rounding = 4 * max(rounding(a), rounding(b))
        self._rows: dict[str, tuple[float, float, float, Tensor, Verdict]] = {}
        self._orders = list[tuple[Tensor, Tensor]]()
        self._tables = dict[str, Tensor]()

    def fields(self) -> dict[str, Any]:
        """What was found, as fields of the result; in the order of the computation."""
        last = [name for name in ("ln_final", "unembed") if name in self._rows]
        names = [name for name in self._rows if name not in last] + last
        rows = [self._rows[name] for name in names]
        numbers = torch.tensor([row[:3] for row in rows], dtype=torch.float64).T
        spectra = torch.full((len(rows), _KEPT), torch.nan, dtype=torch.float64)
        for spectrum, row in zip(spectra, rows, strict=True):
            kept = row[3][:_KEPT]
            spectrum[: len(kept)] = kept.cpu()
        return {
            "values": numbers[0],
            "cosine": numbers[1],
            "effective_rank": numbers[2],
            "singular_values": spectra,
            "verdicts": tuple(row[4] for row in rows),
            "labels": {"matrix": tuple(names)},
            "head_order": torch.stack([heads for heads, _ in self._orders]),
            "neuron_order": torch.stack([neurons for _, neurons in self._orders]),
            **self._tables,
        }

    def tables(self) -> None:
        """The embeddings, the unembedding, and the LayerNorm before it."""
        (w_e, e), (w_p, p), (w_u, u) = (
            tuple(rows(model) for model in (self.a, self.b))
            for rows in (embedding_rows, position_rows, unembedding_rows)
        )
        shift = (e - w_e).mean(0)  # may have gone from the tokens to the positions
        shifted = self._rows_equal(w_e + shift, e) and self._rows_equal(w_p - shift, p)
        common = (u - w_u).median(0).values  # the same for all tokens, which no softmax sees
        same_u = self._rows_equal(w_u + common, u)
        self._matrix("embed", w_e, e, self._bits("embed.W_E"), shifted or self._rows_equal(w_e, e))
        self._matrix("pos_embed", w_p, p, self._bits("pos_embed.W_pos"), shifted or self._rows_equal(w_p, p))
        self._matrix("unembed", w_u, u, self._bits("unembed.W_U", "unembed.b_U"), same_u)
        self._norm("ln_final", same_u)
        kept = w_u if self._bits("unembed.W_U", "unembed.b_U") else u - common  # LayerNorm alone moves no token
        moved = [self._moved(w_e, e), self._moved(w_u, kept)]
        self._tables = {
            "token_moved": torch.stack([one for one, _ in moved]),
            "token_differs": torch.stack([one for _, one in moved]),
        }
        self._tables["position_moved"], self._tables["position_differs"] = self._moved(w_p, p)

    def layer(self, layer: int) -> None:
        """One layer's heads, MLP, biases and LayerNorms."""
        a, b = layer_forms(self.a, layer), layer_forms(self.b, layer)
        heads, neurons = heads_of_b(a, b), neurons_of_b(a, b)
        self._orders.append((heads, neurons))
        constant = self._equal(a.constant, b.constant, self._constant_size(a, b))
        before = list(self._rows)
        folded = [self._head(layer, head, a, b, int(heads[head]), constant) for head in range(len(heads))]
        bias_equal = self._equal(a.bias, b.bias, self._constant_size(a, b))
        self._matrix(f"{layer}.b_O", a.bias, b.bias, self._bits(f"blocks.{layer}.attn.b_O"), bias_equal or constant)
        self._norm(f"{layer}.ln1", all(folded))
        self._norm(f"{layer}.ln2", self._mlp(layer, a, b, neurons))
        self._sort(layer, before)

    def _constant_size(self, a: LayerForms, b: LayerForms) -> Float[Tensor, ""]:
        """The size by which the rounding of what the attention adds everywhere is measured."""
        return torch.stack([side.ov.size.sum() + side.bias.norm() for side in (a, b)]).amax()

    def _head(self, layer: int, head: int, a: LayerForms, b: LayerForms, partner: int, constant: bool) -> bool:
        """One head's two matrices; whether they are equal in this form, whatever the bits are."""
        equal = []
        for name, parts in (("qk", ("W_Q", "W_K", "b_Q", "b_K")), ("ov", ("W_V", "W_O", "b_V"))):
            one, two = getattr(a, name).at(head), getattr(b, name).at(partner)
            same = self._products_equal(one, two)
            if name == "ov" and not same and constant:  # a bias may have gone elsewhere
                same = self._products_equal(_without_bias(one), _without_bias(two))
            bits = partner == head and all(self._bits(f"blocks.{layer}.attn.{part}", head=head) for part in parts)
            self._product(f"{layer}.{head}.{name}", one, two, bits, same)
            equal.append(same)
        return all(equal)

    def _mlp(self, layer: int, a: LayerForms, b: LayerForms, order: Int[Tensor, " neuron"]) -> bool:
        """An MLP's neurons and bias; whether what they read is equal in this form, whatever the bits are."""
        name, plain = f"blocks.{layer}.mlp", bool((order == torch.arange(len(order), device=order.device)).all())
        reads = self._rows_equal(a.neurons_in, b.neurons_in[order])
        writes = self._rows_equal(a.neurons_out, b.neurons_out[order])
        bits = plain and self._bits(f"{name}.W_in", f"{name}.b_in")
        self._matrix(f"mlp{layer}.in", a.neurons_in, b.neurons_in[order], bits, reads)
        bits = plain and self._bits(f"{name}.W_out")
        self._matrix(f"mlp{layer}.out", a.neurons_out, b.neurons_out[order], bits, writes)
        same = self._equal(a.mlp_bias, b.mlp_bias, torch.maximum(a.mlp_bias.norm(), b.mlp_bias.norm()))
        self._matrix(f"mlp{layer}.bias", a.mlp_bias, b.mlp_bias, self._bits(f"{name}.b_out"), same)
        return reads

    def _norm(self, name: str, readers: bool) -> None:
        """A LayerNorm, which does the same where all that reads it does."""
        full = name if name == "ln_final" else f"blocks.{name}"
        one, two = (torch.cat([weights[f"{full}.{part}"].double() for part in "wb"]) for weights in self._weights)
        self._matrix(name, one, two, self._bits(f"{full}.w", f"{full}.b"), readers)

    def _sort(self, layer: int, before: Sequence[str]) -> None:
        """Put a layer's LayerNorms where they are computed."""
        mine = [name for name in self._rows if name not in before]
        heads = [name for name in mine if name.endswith(("qk", "ov"))]
        mlp = [name for name in mine if name.startswith("mlp")]
        rows = {name: self._rows.pop(name) for name in mine}
        for name in (f"{layer}.ln1", *heads, f"{layer}.b_O", f"{layer}.ln2", *mlp):
            self._rows[name] = rows[name]

    def _bits(self, *names: str, head: int | None = None) -> bool:
        """Whether parameters, or one head's, are equal bit for bit."""
        a, b = self._weights
        at: Callable[[Tensor], Tensor] = (lambda t: t) if head is None else (lambda t: t[head])
        return all(torch.equal(at(a[name]), at(b[name])) for name in names)

    def _equal(self, one: Tensor, two: Tensor, size: Float[Tensor, ""]) -> bool:
        """Whether two differ by rounding alone."""
        return bool((two - one).norm() <= self.rounding * size)

    def _rows_equal(self, one: Float[Tensor, "row column"], two: Float[Tensor, "row column"]) -> bool:
        """Whether each row differs by rounding alone."""
        return not bool(self._moved(one, two)[1].any())

    def _moved(
        self, one: Float[Tensor, "row column"], two: Float[Tensor, "row column"]
    ) -> tuple[Float[Tensor, " row"], Bool[Tensor, " row"]]:
        """How far each row has moved, as a share of the mean square of rows, and whether that is more than rounding."""
        away = (two - one).norm(dim=1)
        typical = one.square().sum(1).mean().sqrt()
        largest = torch.maximum(one.norm(dim=1), two.norm(dim=1)).clamp_min(float(typical))
        return (away / typical).nan_to_num(0.0), away > self.rounding * largest

    def _products_equal(self, one: Product, two: Product) -> bool:
        """Whether two products differ by the rounding of their factors alone."""
        return bool(two.minus(one).singular_values().norm() <= self.rounding * torch.maximum(one.size, two.size))

    def _product(self, name: str, one: Product, two: Product, bits: bool, same: bool) -> None:
        inner = ((one.left.mT @ two.left) * (one.right @ two.right.mT)).sum()
        self._add(name, two.minus(one).singular_values(), one.norm, two.norm, inner, bits=bits, same=same)

    def _matrix(self, name: str, one: Tensor, two: Tensor, bits: bool, same: bool) -> None:
        difference = (two - one).reshape(-1, one.shape[-1])
        rows, columns = difference.shape
        if bits:
            spectrum = difference.new_zeros(min(rows, columns))
        elif max(rows, columns) > 8 * min(rows, columns):  # a table: by the small Gram matrix
            gram = difference.mT @ difference if rows > columns else difference @ difference.mT
            spectrum = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0).sqrt()
        else:
            spectrum = torch.linalg.svdvals(difference)
        self._add(name, spectrum, one.norm(), two.norm(), (one * two).sum(), bits=bits, same=same)

    def _add(
        self,
        name: str,
        spectrum: Float[Tensor, " rank"],
        one: Tensor,
        two: Tensor,
        inner: Tensor,
        *,
        bits: bool,
        same: bool,
    ) -> None:
        """Note what was found of one matrix; what has equal bits differs by nothing, whatever LayerNorm makes of it."""
        if bits:
            spectrum = torch.zeros_like(spectrum)
        away = float(spectrum.norm())
        relative = away / float(one) if float(one) else (0.0 if away == 0 else float("inf"))
        cosine = 1.0 if bits and float(one) else float(inner / (one * two))
        verdict: Verdict = "identical" if bits else "same function" if same else "changed"
        self._rows[name] = (relative, cosine, effective_rank(spectrum), spectrum, verdict)


def effective_rank(spectrum: Float[Tensor, " rank"]) -> float:
    """The exponential of the entropy of singular values as shares of their sum; nan where all are zero.

    Source: Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality".
    """
    total = float(spectrum.sum())
    if not total > 0:
        return float("nan")
    shares = spectrum / total
    return float(torch.special.entr(shares).sum().exp())


def _without_bias(product: Product) -> Product:
    """What a head moves, without the last row of its left factor, the bias."""
    return Product(left=product.left[:-1], right=product.right)
