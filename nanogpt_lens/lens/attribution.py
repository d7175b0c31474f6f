"""Direct logit attribution: a logit as the sum of what each component writes into the residual stream.

The final residual stream is the sum of the embeddings, the heads, the MLPs and their biases. The
final LayerNorm centres it, divides it by its scale in this run, and multiplies by its weight. With
the scale taken as it is, all of that is linear, so that the logit is exactly the sum of the
components' parts, plus the bias of the LayerNorm and of the unembedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens.reading import strings
from nanogpt_lens.model.access import Edit, Hooked, Text, as_tokens, evaluating, provenance, run, token_labels
from nanogpt_lens.model.identity import affine
from nanogpt_lens.results.attribution import LogitAttribution
from nanogpt_lens.running.batches import batches
from nanogpt_lens.running.metrics import Answer, Positions, answer_logprob, logit_diff

Components = Literal["heads", "layers", "neurons"]
"""The parts that a logit is split into, see `direct_logit_attribution`."""

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
_COARSE = 0.1


def direct_logit_attribution(
    model: Hooked,
    text: Text,
    answer: Answer | None = None,
    wrong: Answer | None = None,
    *,
    components: Components = "heads",
    pos: Positions = -1,
) -> LogitAttribution:
    """What each component adds to the logit of a token, or to the difference between two logits.

    Args:
        model: a HookedTransformer or a TransformerBridge, with weights processed or not.
        text: a text, several of one length, or token ids [pos] or [example, pos].
        answer: a token for all examples or one for each, as ids or strings of one token; None for the token that
            really follows each position, which leaves the last position out: pos=-1 is then the one before it.
        wrong: a token whose logit is subtracted, in the same forms; None for the logit alone.
        components: "heads" keeps heads and MLPs apart; "layers" the attention and the MLP of each layer;
            "neurons" heads and single neurons.
        pos: the positions at which the logit is read; None for all.

    Returns:
        Contributions [component, pos], or [component, example, pos] of several texts, in logits. The components
        are "embed", "pos_embed", heads such as "0.1", "attn0_bias" (b_O), "mlp0" (with its bias), for layers "attn0"
        (with its bias), for neurons "mlp0.17" and "mlp0_bias", and "ln_final_bias" (ln_final.b @ W_U + b_U).
        They sum to `total`, the logit (difference) of the run. The logits of a model with processed weights are
        centred, which shifts them all alike; only the difference of two is then that of the model as it was trained.

    Raises:
        AnalysisError: the components are unknown, the text has no such position, a string is no single token of
            the vocabulary, the text is one token and there is no answer, or the model's logits are not such a
            sum (hooks edit them, or the final norm is another).

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022 (IOI).
    """
    check_choice(Components, components=components)
    tokens = as_tokens(model, text)
    n_pos = tokens.shape[1] - (answer is None)
    if not n_pos:
        raise AnalysisError("the text is one token, which nothing follows; give an answer, or a longer text")
    reads = answer_logprob(0, pos=pos).reads(n_pos)
    right = tokens[:, [r + 1 for r in reads]] if answer is None else _ids(model, tokens, answer, "answer", len(reads))
    other = None if wrong is None else _ids(model, tokens, wrong, "wrong", len(reads))
    parts, totals, labels = [], [], ()
    with evaluating(model):
        for rows in batches(model, tokens):
            split = _Split(model, components, reads, right[rows], None if other is None else other[rows])
            values, total = split(tokens[rows])
            parts.append(values)
            totals.append(total)
            labels = tuple(split.labels)
    values, total = torch.cat(parts, 1), torch.cat(totals)
    _check_sum(model, values, total)
    single = len(tokens) == 1

    def without_example(tensor: Shaped[Tensor, " ..."], dim: int = 0) -> Shaped[Tensor, " ..."]:
        """The tensor without its axis "example" if there is one text."""
        return tensor.squeeze(dim) if single else tensor

    pos_labels = {"pos": token_labels(model, tokens[0, list(reads)])} if single else {}
    return LogitAttribution(
        values=without_example(values, 1),
        axes=("component", "pos") if single else ("component", "example", "pos"),
        labels={"component": labels, **pos_labels},
        quantity="contribution to the logit"
        + (" difference " if other is not None else " of ")
        + _token_name(model, right)
        + ("" if other is None else f" minus {_token_name(model, other)}"),
        definition=(
            "direct logit attribution: what the component writes into the residual stream, through the final "
            "LayerNorm with its scale in this run, onto the unembedding of the answer"
            + (" minus that of the wrong token" if wrong is not None else "")
        ),
        provenance=provenance(model, components=components, pos=list(reads)),
        total=without_example(total),
        positions=reads,
        answer=without_example(right),
        wrong=None if other is None else without_example(other),
        tokens=without_example(tokens),
        strings=strings(model, torch.cat([ids.flatten() for ids in (right, other) if ids is not None])),
    )


class _Split:
    """One run whose logits are split: every hook reduces its activation to contributions at once, in float64.

    The scale of the final LayerNorm is known only at the end, where the contributions are divided by it.
    """

    def __init__(
        self,
        model: Hooked,
        components: Components,
        reads: Sequence[int],
        answer: Int[Tensor, "example pos"],
        wrong: Int[Tensor, "example pos"] | None,
    ) -> None:
        self.model, self.components, self.reads, self.answer, self.wrong = model, components, list(reads), answer, wrong
        self.parts: dict[str, Float[Tensor, "_ example pos"]] = {}
        self.scale: Float[Tensor, "example pos"] | None = None
        weight, bias = (part.double() for part in affine(model.ln_final, model))
        unembed, b_unembed = model.W_U.detach(), model.b_U.detach().double()
        chosen = unembed.T[answer].double()  # [example, pos, d_model]
        self.offset = chosen @ bias + b_unembed[answer]
        if wrong is not None:
            subtracted = unembed.T[wrong].double()
            chosen, self.offset = chosen - subtracted, self.offset - (subtracted @ bias + b_unembed[wrong])
        scaled = weight * chosen
        self.direction = scaled - scaled.mean(-1, keepdim=True)

    def __call__(
        self, tokens: Int[Tensor, "example token"]
    ) -> tuple[Float[Tensor, "component example pos"], Float[Tensor, "example pos"]]:
        """The contributions, and the logit (difference) of the run, on the CPU."""
        logits = run(self.model, tokens, self._edits())[:, self.reads].double()
        total = logits.gather(-1, self.answer[..., None])[..., 0]
        if self.wrong is not None:
            total = total - logits.gather(-1, self.wrong[..., None])[..., 0]
        if self.scale is None:
            raise AnalysisError("the model's final norm has no scale; expected a LayerNorm, as nanoGPT has")
        values = torch.cat([self.parts[name] for name in self._order()]) / self.scale
        return torch.cat([values, self.offset[None]]).cpu(), total.cpu()

    @property
    def labels(self) -> list[str]:
        """The names of the components, in the order of the computation."""
        cfg, names = self.model.cfg, ["embed", "pos_embed"]
        for i in range(cfg.n_layers):
            layers, neurons = self.components == "layers", self.components == "neurons"
            names += [f"attn{i}"] if layers else [*(f"{i}.{h}" for h in range(cfg.n_heads)), f"attn{i}_bias"]
            names += [*(f"mlp{i}.{n}" for n in range(cfg.d_mlp)), f"mlp{i}_bias"] if neurons else [f"mlp{i}"]
        return [*names, "ln_final_bias"]

    def _order(self) -> list[str]:
        """The keys of `parts`, in the order of the computation."""
        ends = [f"{kind}{i}" for i in range(self.model.cfg.n_layers) for kind in ("attn", "mlp")]
        return ["embed", "pos_embed", *ends]

    def _edits(self) -> dict[str, Edit]:
        """The edits that keep every part, by hook point."""
        edits: dict[str, Edit] = {
            "hook_embed": self._whole("embed"),
            "hook_pos_embed": self._whole("pos_embed"),
            "ln_final.hook_scale": self._keep_scale,
        }
        for i in range(self.model.cfg.n_layers):
            if self.components == "layers":
                edits[f"blocks.{i}.hook_attn_out"] = self._whole(f"attn{i}")
            else:
                edits[f"blocks.{i}.attn.hook_z"] = self._heads(i)
            if self.components == "neurons":
                edits[f"blocks.{i}.mlp.hook_post"] = self._neurons(i)
            else:
                edits[f"blocks.{i}.hook_mlp_out"] = self._whole(f"mlp{i}")
        return edits

    def _keep_scale(self, value: Float[Tensor, "example token 1"]) -> None:
        self.scale = value[:, self.reads, 0].double()

    def _whole(self, name: str) -> Edit:
        """An edit that keeps what an activation of the residual stream contributes as a whole."""

        def edit(value: Float[Tensor, "... token d_model"]) -> None:
            written = value.expand(len(self.answer), -1, -1)[:, self.reads].double()
            self.parts[name] = (written * self.direction).sum(-1)[None]

        return edit

    def _heads(self, i: int) -> Edit:
        """An edit that keeps what each head of layer `i` contributes, and their bias."""

        def edit(value: Float[Tensor, "example token head d_head"]) -> None:
            weights, bias = (p.detach().double() for p in (self.model.W_O[i], self.model.b_O[i]))
            z = value[:, self.reads].double()
            onto = einsum(
                self.direction, weights, "example pos d_model, head d_head d_model -> example pos head d_head"
            )
            heads = rearrange((z * onto).sum(-1), "example pos head -> head example pos")
            self.parts[f"attn{i}"] = torch.cat([heads, (self.direction @ bias)[None]])

        return edit

    def _neurons(self, i: int) -> Edit:
        """An edit that keeps what each neuron of layer `i` contributes, and their bias."""

        def edit(value: Float[Tensor, "example token neuron"]) -> None:
            weights, bias = (p.detach().double() for p in (self.model.W_out[i], self.model.b_out[i]))
            neurons = value[:, self.reads].double() * (self.direction @ weights.T)
            neurons = rearrange(neurons, "example pos neuron -> neuron example pos")
            self.parts[f"mlp{i}"] = torch.cat([neurons, (self.direction @ bias)[None]])

        return edit


def _ids(
    model: Hooked, tokens: Int[Tensor, "example token"], answer: Answer, name: str, n_reads: int
) -> Int[Tensor, "example pos"]:
    """The ids of the answer (or of the wrong token, by `name`) at each position; AnalysisError as for `metrics`."""
    answers: dict[str, Any] = {"answer": 0, "wrong": 0, name: answer}
    metric: Any = logit_diff(**answers).resolved(model, tokens)
    return getattr(metric, name)[:, None].expand(len(tokens), n_reads)


def _token_name(model: Hooked, ids: Int[Tensor, "example pos"]) -> str:
    """The token, where it is the same everywhere."""
    different = ids.unique()
    return repr(token_labels(model, different)[0]) if len(different) == 1 else "the answers"


def _check_sum(
    model: Hooked, values: Float[Tensor, "component example pos"], total: Float[Tensor, "example pos"]
) -> None:
    """Raise AnalysisError unless the contributions sum to the logit, up to the rounding of their sizes."""
    gap, size = (values.sum(0) - total).abs(), values.abs().sum(0)
    if bool((gap > _TOLERANCE.get(model.cfg.dtype, _COARSE) * (1 + size)).any()) or not bool(torch.isfinite(gap).all()):
        raise AnalysisError(
            f"the contributions differ from the logit by up to {float(gap.max()):.3g}; expected a model as converted, "
            "with LayerNorms and without hooks that edit: reset_hooks(), or check the conversion"
        )
