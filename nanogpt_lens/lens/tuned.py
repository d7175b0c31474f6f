"""The training of the tuned lens: every translator moves its point towards the model's own output.

One run of the frozen model per batch gives all points and the target. All translators are trained on it
together, but share nothing: each has its own loss and its own best step.
The corpus is cut into three consecutive parts: train, stop (decides which step is kept), and
test (measured once, at the end).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.distributed import is_first, share, sum_in_place, world
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lens.evaluation import scores_beside_logit_lens
from nanogpt_lens.lens.points import LensPoints, Point, grid, readout, residuals
from nanogpt_lens.lens.unfinished import UnfinishedLens
from nanogpt_lens.model.access import Hooked, device_of, evaluating, kl, log_probs, provenance
from nanogpt_lens.model.identity import identity
from nanogpt_lens.results.lens import POINTS, TunedLens, affine_step, name_of
from nanogpt_lens.results.sample import Sample
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import OpenedCorpus
from nanogpt_lens.text.seen import joined_traces

_NUMBERS = 2**24
_BATCH_TOKENS = 1024
_WARM_UP = 0.05
_BETAS = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """The options of `train_tuned_lens`; AnalysisError if one is out of its range."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    held_out: float
    evaluations: int
    patience: int
    n_stop: int
    n_test: int
    seq_len: int
    seed: int

    def __post_init__(self) -> None:
        check_whole(
            1,
            steps=self.steps,
            batch_size=self.batch_size,
            evaluations=self.evaluations,
            patience=self.patience,
            n_stop=self.n_stop,
            n_test=self.n_test,
        )
        check_whole(0, seed=self.seed)
        for name, low, high in (("lr", 0, math.inf), ("weight_decay", -1e-30, math.inf), ("held_out", 0, 0.5)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                most = "0 or more" if name == "weight_decay" else "above 0" + (" and below 0.5" if high == 0.5 else "")
                raise AnalysisError(f"{name} is {value!r}; expected a number {most}")

    @property
    def every(self) -> int:
        """The number of steps between two evaluations."""
        return max(1, self.steps // self.evaluations)

    def rate(self, step: int) -> float:
        """The learning rate at a step: a linear warm-up, then a cosine down to zero."""
        warm = min(1.0, (step + 1) / (_WARM_UP * self.steps + 1))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train_tuned_lens(
    model: Hooked,
    corpus: Corpus,
    *,
    points: Sequence[Point] = POINTS,
    layers: Sequence[int] | int | None = None,
    steps: int = 1000,
    batch_size: int | None = None,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    held_out: float | None = None,
    evaluations: int = 20,
    patience: int = 5,
    n_stop: int = 64,
    n_test: int = 256,
    seq_len: int | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool = True,
) -> TunedLens:
    """Train a tuned lens: for each point an affine map after which the model's own readout predicts its output best.

    Under `torchrun`, each process computes the gradients of its share of every batch; the lens is that of one
    process up to rounding.

    Args:
        model: a HookedTransformer or a TransformerBridge; it stays as it is.
        corpus: a text, a file, or token ids [tokens] or [example, pos]. (A nanoGPT data folder gives its
            validation part; a file `train.bin` is taken whole.) Its last parts are held out.
        points, layers: as in `logit_lens`; the model's output needs no translator.
        steps: the number of steps of the optimizer, AdamW.
        batch_size: the sequences of a step; None for as many as have 1,024 tokens.
        lr: the highest learning rate, after a warm-up over a twentieth of the steps; then a cosine to zero.
        weight_decay: the decay of the weights towards the identity, that is, the logit lens.
        held_out: the share that decides when to stop; the test part has as much. None for 0.1, at least a sequence.
        evaluations: how often the stop part is measured; the best step of each translator is kept, and step 0,
            the logit lens, is one of them.
        patience: the number of evaluations without a better translator after which training stops.
        n_stop, n_test: the largest numbers of sequences to measure on in the two parts.
        seq_len: the tokens of a sequence; None for the context.
        seed: the seed of the batches and of the sequences to measure on.
        resume: a folder for the state of an unfinished run, saved every ten seconds; a killed run goes on from there
            to the same lens. The state is deleted at the end.
        progress: show a bar.

    Returns:
        The lens; its values [score, layer, point] are KL(final || lens) in nats on the test part, "tuned", "logit"
        and "gain", with 95% intervals over its sequences.

    Raises:
        AnalysisError: an option is out of its range, there is no such point or layer, the only point is the
            model's output, the corpus is too short for its parts, the loss is not finite, or the resume folder
            has the state of another run.

    Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens": the maps, their
    start at the identity, the loss. They take SGD with Nesterov momentum and 65 million tokens; the optimizer,
    the three parts and the best step of each translator are chosen here for small models and small data.
    """
    places = grid(model, points, layers)
    translated = tuple(depth for depth in places.depths if depth < 2 * places.n_layers)
    if not translated:
        raise AnalysisError("the only point asked for is the model's output, which needs no translator; give others")
    whole = open_corpus(model, corpus)
    seq_len = whole.room(3) if seq_len is None else seq_len
    check_whole(2, seq_len=seq_len)
    options = Tuning(
        steps=steps,
        batch_size=max(1, _BATCH_TOKENS // seq_len) if batch_size is None else batch_size,
        lr=lr,
        weight_decay=weight_decay,
        held_out=whole.share_held_out(seq_len) if held_out is None else held_out,
        evaluations=evaluations,
        patience=patience,
        n_stop=n_stop,
        n_test=n_test,
        seq_len=seq_len,
        seed=seed,
    )
    if options.batch_size < world()[1]:
        raise AnalysisError(
            f"batch_size is {options.batch_size} sequences for {world()[1]} processes; give more, or start fewer"
        )
    parts = split(whole, options)
    run = _TuningRun(model, translated, parts, options)
    description = {**asdict(options), "points": translated, "model": identity(model)}
    texts = [part.fingerprint for part in parts.values()]
    saved = None if resume is None else UnfinishedLens(resume, description, texts)
    with evaluating(model):
        run.go(saved, progress=progress and is_first())
    lens = run.lens(places)
    if saved is not None:
        saved.delete()
    return lens


def split(whole: OpenedCorpus, options: Tuning) -> dict[str, OpenedCorpus]:
    """The parts "train", "stop" and "test" of a corpus, one after the other.

    Raises:
        AnalysisError: a part is shorter than a sequence, or a sequence is longer than the context.
    """
    rows = whole.row_length is not None
    n, least = (whole.n_rows, 1) if rows else (whole.n_tokens, options.seq_len)
    held = int(n * options.held_out)
    whole.check_all()
    if held < least or n - 2 * held < least:
        raise AnalysisError(
            f"{whole.title} has {n} {'sequences' if rows else 'tokens'}, of which {held_text(held, n)}; expected at "
            f"least {least} in each of the three parts: give more text, a smaller seq_len, or a larger held_out"
        )
    ends = {"train": (0, n - 2 * held), "stop": (n - 2 * held, n - held), "test": (n - held, n)}
    parts = {name: whole.between(*part) for name, part in ends.items()}
    parts["train"].windows(seq_len=options.seq_len, n=1)  # raises AnalysisError if the length does not fit
    return parts


def held_text(held: int, n: int) -> str:
    """The lengths of the three parts, in words."""
    return f"{n - 2 * held} are to train, {held} to stop and {held} to test"


class _TuningRun:
    """The translators in training, and the best of each so far."""

    def __init__(
        self, model: Hooked, translated: Sequence[int], parts: Mapping[str, OpenedCorpus], options: Tuning
    ) -> None:
        self.model, self.translated, self.options, self.train = model, tuple(translated), options, parts["train"]
        self.stop_part, self.test_part = (
            parts[part].windows(seq_len=options.seq_len, n=n, seed=options.seed)
            for part, n in (("stop", options.n_stop), ("test", options.n_test))
        )
        self.trace = joined_traces(parts[part].trace() for part in ("train", "stop"))
        width, device = int(model.cfg.d_model), device_of(model)
        dtype = torch.promote_types(model.cfg.dtype, torch.float32)
        shape = (len(self.translated), width)
        self.matrices = torch.zeros(*shape, width, dtype=dtype, device=device, requires_grad=True)
        self.biases = torch.zeros(*shape, dtype=dtype, device=device, requires_grad=True)
        self.optimizer = torch.optim.AdamW(
            [self.matrices, self.biases], lr=options.lr, betas=_BETAS, weight_decay=options.weight_decay
        )
        self.best = {name: value.detach().clone() for name, value in self._weights().items()}
        self.best_kl = torch.full(shape[:1], torch.inf, dtype=torch.float64)
        self.best_steps = torch.zeros(shape[0], dtype=torch.int64)
        self.curve: list[Float[Tensor, " translator"]] = []
        self.curve_steps: list[int] = []
        self.step = 0

    def go(self, saved: UnfinishedLens | None, *, progress: bool) -> None:
        """Train to the end, or until nothing becomes better."""
        state = saved.restore() if saved is not None else None
        if state is not None:
            self.hold(state)
        else:
            self.evaluate()
        with tqdm(total=self.options.steps, initial=self.step, desc="tuned lens", disable=not progress) as bar:
            while self.step < self.options.steps and not self._done():
                loss = self.update()
                self.step += 1
                bar.update()
                if self.step % self.options.every == 0 or self.step == self.options.steps:
                    self.evaluate()
                    bar.set_postfix_str(f"mean KL {float(self.best_kl.mean()):.4f}")
                self._check_finite(loss, "training")
                if saved is not None:
                    saved.keep(self.state)

    def update(self) -> Float[Tensor, " translator"]:
        """Take one step of the optimizer; return the mean KL before it."""
        tokens = self._batch()
        rows = share(len(tokens))
        mine = tokens[rows.start : rows.stop]
        loss, gradients = self._gradients(mine, tokens.numel())
        sum_in_place([loss, *gradients])
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(self.step)
        self.matrices.grad, self.biases.grad = gradients
        self.optimizer.step()
        return loss

    def _batch(self) -> Int[Tensor, "example pos"]:
        """Random windows, the same in every process."""
        seq_len = self.options.seq_len
        n = self.options.batch_size
        generator = np.random.default_rng([self.options.seed, self.step])
        if self.train.row_length is not None:
            starts = generator.integers(self.train.n_rows, size=n) * self.train.row_length
        else:
            starts = generator.integers(self.train.n_tokens - seq_len + 1, size=n)
        return self.train.at(starts.tolist(), seq_len)

    def _gradients(
        self, tokens: Int[Tensor, "example pos"], n: int
    ) -> tuple[Float[Tensor, " translator"], list[Float[Tensor, "translator ..."]]]:
        """The sum of KL over these tokens, divided by `n`, and its gradients by matrices and biases."""
        weights = [self.matrices, self.biases]
        total, gradients = self.biases.new_zeros(len(self.translated)), [torch.zeros_like(w) for w in weights]
        for streams, final in self._streams(tokens):
            with torch.enable_grad():
                moved = affine_step(streams, self.matrices, self.biases[:, None])
                loss = kl(final, log_probs(readout(self.model, moved))).sum(-1) / n
                gradients_of_piece = torch.autograd.grad(loss.sum(), weights)
            total += loss.detach()
            for gradient, more in zip(gradients, gradients_of_piece, strict=True):
                gradient += more
        return total, gradients

    def _streams(self, tokens: Int[Tensor, "example pos"]) -> Any:
        """Pieces of a batch: residual streams [translator, row, d_model], final log-probabilities [row, d_vocab]."""
        streams, logits = residuals(self.model, tokens, self.translated)
        logits = logits.flatten(0, 1)
        step = max(1, _NUMBERS // (len(self.translated) * logits.shape[-1]))
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            yield torch.stack([streams[d].flatten(0, 1)[rows] for d in self.translated]), log_probs(logits[rows])

    def evaluate(self) -> None:
        """Measure on the stop part, and keep the translators that are better there than before."""
        values = torch.zeros(len(self.translated), dtype=torch.float64)
        for tokens in self.stop_part.split(self.options.batch_size):
            for streams, final in self._streams(tokens):
                moved = affine_step(streams, self.matrices, self.biases[:, None])
                values += kl(final, log_probs(readout(self.model, moved.detach()))).double().sum(-1).cpu()
        values /= self.stop_part.numel()
        self._check_finite(values, "the stop part")
        better = values < self.best_kl
        self.best_kl = torch.where(better, values, self.best_kl)
        self.best_steps[better] = self.step
        for name, value in self._weights().items():
            self.best[name][better.to(value.device)] = value.detach()[better.to(value.device)]
        self.curve.append(values)
        self.curve_steps.append(self.step)

    def _done(self) -> bool:
        """Whether no translator has become better for `patience` evaluations."""
        last = int(self.best_steps.max())
        return sum(step > last for step in self.curve_steps) >= self.options.patience

    def _check_finite(self, values: Float[Tensor, " translator"], part: str) -> None:
        """Raise AnalysisError unless the KL of every translator is finite; `part` names the text it was measured on."""
        wrong = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if wrong:
            raise AnalysisError(
                f"KL of {name_of(self.translated[wrong[0]])} is {float(values[wrong[0]])} on {part} after step "
                f"{self.step}; expected a finite number: give a smaller lr than {self.options.lr}"
                + ("" if self.step else ", or check the model, whose own activations are not finite")
            )

    def _weights(self) -> dict[str, Float[Tensor, "translator ..."]]:
        """The translators' weights, by name."""
        return {"matrices": self.matrices, "biases": self.biases}

    def state(self) -> dict[str, Shaped[Tensor, " ..."]]:
        """All that the rest of the run depends on, as tensors."""
        moments = {
            f"{kind}.{name}": self.optimizer.state[weight][kind]
            for name, weight in self._weights().items()
            for kind in ("exp_avg", "exp_avg_sq", "step")
        }
        return {
            **{name: weight.detach() for name, weight in self._weights().items()},
            **{f"best.{name}": weight for name, weight in self.best.items()},
            **moments,
            "best_kl": self.best_kl,
            "best_steps": self.best_steps,
            "curve": torch.stack(self.curve),
            "curve_steps": torch.tensor(self.curve_steps),
            "done": torch.tensor(self.step),
        }

    def hold(self, state: Mapping[str, Shaped[Tensor, " ..."]]) -> None:
        """Take over a saved state, so that the run goes on from there."""
        for name, weight in self._weights().items():
            weight.data.copy_(state[name])
            self.best[name].copy_(state[f"best.{name}"])
            kinds = {kind: state[f"{kind}.{name}"].clone() for kind in ("exp_avg", "exp_avg_sq", "step")}
            self.optimizer.state[weight].update(
                {kind: value if kind == "step" else value.to(weight.device) for kind, value in kinds.items()}
            )
        self.best_kl, self.best_steps = state["best_kl"].clone(), state["best_steps"].clone()
        self.curve, self.curve_steps = list(state["curve"].unbind()), state["curve_steps"].tolist()
        self.step = int(state["done"])

    def lens(self, places: LensPoints) -> TunedLens:
        """The lens of the best translators, measured on the test part."""
        options = self.options
        common: dict[str, Any] = {
            **{name: value.cpu() for name, value in self.best.items()},
            "translated": self.translated,
            "n_layers": places.n_layers,
            "home": identity(self.model),
            "curve": torch.stack(self.curve),
            "curve_steps": tuple(self.curve_steps),
            "best_steps": tuple(self.best_steps.tolist()),
            "trace": self.trace,
            "axes": ("score", "layer", "point"),
            "quantity": "KL(final || lens), in nats",
            "definition": (
                f"tuned lens (Belrose et al. 2023) beside the logit lens on {len(self.test_part)} sequences of "
                f"{options.seq_len} tokens of the test part: the last {options.held_out:.0%} of the corpus, of which "
                "neither training nor the choice of the step has seen anything"
            ),
            "title": "KL(final || lens)",
            "sample": Sample(n=len(self.test_part), seed=options.seed),
            "provenance": provenance(
                self.model, **asdict(options), points=places.points, layers=places.layers, trained=self.step
            ),
        }
        blank = torch.zeros(1, len(places.layers), len(places.points))
        unmeasured = TunedLens(**common, values=blank, labels=places.labels)
        scores = scores_beside_logit_lens(self.model, self.test_part, places, unmeasured, progress=False)
        return TunedLens(**common, **scores)
