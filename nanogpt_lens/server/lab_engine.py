"""The lab's engine in Python: the tasks of the page's own engine (`nanogpt_lens/lab/web/tasks.js`), with its results.

For models that are too large for a page. What takes an activation's place, and where, is `nanogpt_lens.interventions`;
the page's engine is tested to agree with it, and so is this.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.applying import edits_of, source_values
from nanogpt_lens.interventions.fitting import as_tuple, check_fits, positions_from_start
from nanogpt_lens.interventions.intervention import AXES, Intervention
from nanogpt_lens.interventions.sites import KINDS, plain_name
from nanogpt_lens.interventions.values import SourceValues
from nanogpt_lens.lab.proof import proof_of
from nanogpt_lens.model.access import Hooked, as_tokens, editing, evaluating, log_probs, n_tokens, record
from nanogpt_lens.model.identity import affine
from nanogpt_lens.server.lab_calls import check_stopped
from nanogpt_lens.server.lab_directions import with_numbers
from nanogpt_lens.server.lab_metric import LabMetric, metric_of
from nanogpt_lens.server.lab_sampling import sample
from nanogpt_lens.server.sizes import numbers_of

MOST_INTERVENTIONS = 256
MOST_CANDIDATES = 512
MOST_REFERENCE = 64
MOST_NUMBERS = 50_000_000
"""The most numbers that an answer may hold: 200 MB."""

_EQUAL = 2e-5
"""Of the largest logit, as in the page."""
_ASKED = re.compile(r"hook_(pos_)?embed|ln_final\.hook_(scale|normalized)|blocks\.\d+\.(ln[12]|attn|mlp|hook)[\w.]*")


@dataclass(frozen=True)
class Setting:
    """What a request asks for, held against the model.

    Attributes:
        tokens: the prompt.
        some: the interventions.
        values: what their sources put in place.
    """

    tokens: Int[Tensor, "example pos"]
    some: tuple[Intervention, ...]
    values: SourceValues

    @property
    def n(self) -> int:
        """How many tokens the prompt has."""
        return self.tokens.shape[1]


class LabEngine:
    """Answers to the tasks of a page, from a model.

    Args:
        model: the model.
        reference: the sequences that "mean" averages over where a request names none.
        directions: stored ones, by name.
    """

    def __init__(
        self,
        model: Hooked,
        reference: Sequence[Sequence[int]],
        directions: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.model, self.reference, self.directions = model, [list(row) for row in reference], dict(directions or {})
        self._proof: dict[str, Any] | None = None

    def answer(self, task: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The result of a task: numbers, words and numpy arrays, with the names that the page reads.

        Raises:
            AnalysisError: there is no such task, or the request does not fit the model.
        """
        tasks: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "run": self.run,
            "sweep": self.sweep,
            "lens": self.lens,
            "contributions": self.contributions,
            "sample": lambda asked: sample(self, asked),
            "prove": lambda _: self.prove(),
        }
        if task not in tasks:
            raise AnalysisError(f"there is no task {task!r:.40}; expected one of {', '.join(tasks)}")
        if not isinstance(request, Mapping):
            raise AnalysisError(f"the request is a {type(request).__name__}; expected an object")
        with evaluating(self.model):
            return tasks[task](request)

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The logits of a run, and activations by name: {logits, activations, ms}."""
        began = time.perf_counter()
        setting = self.setting(request)
        names = self._names(request.get("activations") or [])
        if numbers_of(self.model, names, n_examples=1, n_pos=setting.n) > MOST_NUMBERS:
            raise AnalysisError(f"the answer would have more than {MOST_NUMBERS:,} numbers; ask for fewer activations")
        kept = self.recorded(setting, setting.some, names)
        return {
            "logits": array(kept["logits"][0]),
            "activations": {name: array(kept[name][0]) for name in names},
            "ms": 1000 * (time.perf_counter() - began),
        }

    def sweep(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The metric without and with each of many candidates, beside the interventions: {values, base, ms}."""
        began = time.perf_counter()
        given = request.get("candidates")
        if not isinstance(given, list) or len(given) > MOST_CANDIDATES:
            raise AnalysisError(f"candidates is no list of at most {MOST_CANDIDATES}; expected lists of changes")
        several = [self._interventions(request, candidate, "a candidate") for candidate in given]
        setting = self.setting(request, also=[one for some in several for one in some])
        metric = metric_of(self.model, request.get("metric"), setting.n)
        base = metric.of(self.recorded(setting, setting.some, [])["logits"][0])
        values = [metric.of(self.recorded(setting, (*setting.some, *some), [])["logits"][0]) for some in several]
        return {
            "values": flat(np.array(values, dtype=np.float64)),
            "base": base,
            "ms": 1000 * (time.perf_counter() - began),
        }

    def lens(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What each layer would predict: {rows, top, prob, answer, shape}."""
        setting, n_layers, known = self.setting(request), int(self.model.cfg.n_layers), n_tokens(self.model)
        points = [(site, layer) for layer in range(n_layers) for site in ("resid_mid", "resid_post")]
        names = [KINDS[site].hook_name(layer) for site, layer in points]
        kept = self.recorded(setting, setting.some, names)
        logits = torch.stack([self.read(kept[name][0]) for name in names])
        probability = log_probs(logits.double()).exp()[..., :known]
        best = probability.max(-1)
        answer = request.get("answer")
        watched = None
        if answer is not None:
            watched = flat(probability[..., _token(answer, known)].flatten().float().cpu().numpy())
        return {
            "rows": [f"{layer} {'attn' if site == 'resid_mid' else 'mlp'}" for site, layer in points],
            "top": flat(best.indices.flatten().int().cpu().numpy()),
            "prob": flat(best.values.flatten().float().cpu().numpy()),
            "answer": watched,
            "shape": [len(names), setting.n],
        }

    def contributions(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What each part adds to a difference of logits at one position: {embed, heads, mlps, biases, total}."""
        setting, model = self.setting(request), self.model
        given = request.get("metric") or {}
        metric = metric_of(model, {**given, "contrast": True} if isinstance(given, Mapping) else given, setting.n)
        layers = range(int(model.cfg.n_layers))
        z, post = ([KINDS[site].hook_name(layer) for layer in layers] for site in ("z", "mlp_post"))
        first, scale = KINDS["resid_pre"].hook_name(0), "ln_final.hook_scale"
        kept = self.recorded(setting, setting.some, [*z, *post, first, scale])
        row = metric.row
        read = self._reading(metric) / kept[scale][0, row].double()
        heads = [
            torch.einsum("hd,hdm,m->h", kept[z[layer]][0, row].double(), model.W_O[layer].double(), read).tolist()
            for layer in layers
        ]
        mlps = [float(kept[post[layer]][0, row].double() @ model.W_out[layer].double() @ read) for layer in layers]
        embed = float(kept[first][0, row].double() @ read)
        total = metric.of(kept["logits"][0])
        parts = embed + sum(map(sum, heads)) + sum(mlps)
        return {"embed": embed, "heads": heads, "mlps": mlps, "biases": total - parts, "total": total}

    def prove(self) -> dict[str, Any]:
        """Whether the model here computes what it computes in float64: {equal, n, largest, worst, seconds}.

        The cases are those that a page with the engine inside runs on opening.
        """
        if self._proof is None:
            began, largest, worst = time.perf_counter(), 0.0, ""
            proof = proof_of(self.model)
            for case, expected in zip(proof.cases, proof.expected, strict=True):
                setting = self.setting(case)
                logits = self.recorded(setting, setting.some, [])["logits"][0]
                got = logits[case["rows"]][:, case["columns"]].double()
                error = float((got - expected.to(got)).abs().max() / expected.abs().max().clamp_min(1e-30))
                if not error <= largest:
                    largest, worst = error, case["words"]
            equal = bool(proof.cases) and largest <= _EQUAL
            seconds = time.perf_counter() - began
            self._proof = {
                "equal": equal,
                "n": len(proof.cases),
                "largest": largest,
                "worst": worst,
                "seconds": seconds,
            }
        return self._proof

    def setting(self, request: Mapping[str, Any], *, also: Sequence[Intervention] = ()) -> Setting:
        """What a request asks for.

        Args:
            request: with tokens, interventions, other and reference.
            also: further interventions, whose sources are got ready as well.

        Raises:
            AnalysisError: it does not fit the model.
        """
        tokens = _ids(self.model, request.get("tokens"), "tokens")
        some = self._interventions(request, request.get("interventions") or [], "interventions")
        every = [*some, *also]
        for one in every:
            check_fits(self.model, one)
            for axis in AXES[3:]:
                positions_from_start(as_tuple(getattr(one, axis)), tokens.shape[1], axis)
        other = _ids(self.model, request["other"], "other") if request.get("other") else None
        if other is not None and other.shape != tokens.shape and any(one.source == "other" for one in every):
            raise AnalysisError(
                f"the other prompt has {other.shape[1]} tokens and this one {tokens.shape[1]}; 'other' needs as many"
            )
        means = any(one.source == "mean" for one in every)
        values = source_values(self.model, every, other=other, reference=self._reference(request) if means else None)
        return Setting(tokens, tuple(some), values)

    def recorded(self, setting: Setting, some: Sequence[Intervention], names: Sequence[str]) -> dict[str, Tensor]:
        """Activations by name, and the logits, of a run with interventions; Refusal where nobody waits for it."""
        check_stopped()
        with editing(self.model, edits_of(self.model, some, setting.values)):
            return record(self.model, setting.tokens, names)

    def read(self, stream: Float[Tensor, "*axes d_model"]) -> Float[Tensor, "*axes token"]:
        """The logits that the final LayerNorm and the unembedding make of a stream."""
        gain, bias = affine(self.model.ln_final, self.model)
        centred = stream - stream.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + self.model.cfg.eps).sqrt()
        return (centred / scale * gain + bias) @ self.model.W_U + self.model.b_U

    def _reading(self, metric: LabMetric) -> Float[Tensor, " d_model"]:
        """The direction of the stream that a difference of logits reads, through the LayerNorm."""
        unembedding = self.model.W_U.double()
        against = unembedding.mean(1) if metric.wrong is None else unembedding[:, metric.wrong]
        read = affine(self.model.ln_final, self.model)[0].double() * (unembedding[:, metric.answer] - against)
        return read - read.mean()

    def _reference(self, request: Mapping[str, Any]) -> Int[Tensor, "example pos"]:
        rows = request.get("reference") or self.reference
        if not isinstance(rows, list) or not 0 < len(rows) <= MOST_REFERENCE:
            raise AnalysisError(f"the reference is no list of 1 to {MOST_REFERENCE} sequences of ids")
        return _ids(self.model, rows, "the reference")

    def _interventions(self, request: Mapping[str, Any], given: Any, what: str) -> list[Intervention]:
        if not isinstance(given, list) or len(given) > MOST_INTERVENTIONS:
            raise AnalysisError(f"{what} is no list of at most {MOST_INTERVENTIONS} changes")
        some = [Intervention.from_json(with_numbers(self, request, one)) for one in given]
        if any(one.source == "resample" for one in some):
            raise AnalysisError("the lab does not draw other examples; take 'mean' or 'other' in place of 'resample'")
        return some

    def _names(self, names: Any) -> list[str]:
        """Names of hook points; "z" and the like stand for those of all layers."""
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AnalysisError(f"activations is {names!r:.60}; expected a list of names")
        found: dict[str, None] = {}
        for name in names:
            kind = KINDS.get(plain_name(name))
            if kind is not None and name not in self.model.hook_dict:
                found |= dict.fromkeys(kind.hook_name(layer) for layer in range(self.model.cfg.n_layers))
            elif name in self.model.hook_dict and _ASKED.fullmatch(name):
                found[name] = None
            else:
                raise AnalysisError(
                    f"there is no activation {name!r:.60}; expected TransformerLens' name of a hook point, such as "
                    "'blocks.0.attn.hook_z'"
                )
        return list(found)


def array(values: Tensor) -> dict[str, Any]:
    """A tensor as the page has arrays: the numbers in float32, and their shape."""
    return {"data": np.ascontiguousarray(values.detach().float().cpu().numpy())}


def flat(values: np.ndarray) -> np.ndarray:
    """An array without a shape."""
    return np.ascontiguousarray(values)


def _ids(model: Hooked, given: Any, name: str) -> Int[Tensor, "example pos"]:
    if not isinstance(given, list):
        raise AnalysisError(f"{name} is {given!r:.60}; expected a list of ids")
    if name != "the reference" and given and isinstance(given[0], list):
        raise AnalysisError(f"{name} is a list of lists; expected the ids of one prompt")
    return as_tokens(model, given, name=name)


def _token(given: Any, size: int) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < size:
        raise AnalysisError(f"the answer {given!r:.40} is no token; expected 0 to {size - 1}")
    return given
