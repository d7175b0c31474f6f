"""How well the model predicts: its loss beside simple baselines, token by token, and what it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from conversion.val_loss import VAL_NAME
from nanogpt_lens.core.intervals import few_examples, t_interval
from nanogpt_lens.lens.reading import characters
from nanogpt_lens.model.access import device_of, evaluating, n_tokens, run
from nanogpt_lens.model.plain import samples
from nanogpt_lens.model.sampling import TOP_K
from nanogpt_lens.reporting.blocks import (
    Block,
    Heading,
    Paragraph,
    Picture,
    Table,
    TextSample,
    Tokens,
    picture_of,
    spans_of,
)
from nanogpt_lens.reporting.doubts import doubt
from nanogpt_lens.reporting.section import Content, Recipe
from nanogpt_lens.reporting.subject import Subject
from nanogpt_lens.reporting.words import count, interval, measured, number, percent, quoted, share
from nanogpt_lens.results import Scores
from nanogpt_lens.running.batches import losses
from nanogpt_lens.text.corpus import path_of, windows
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.viz.tokens import visible

_TOKENS, _LEAST, _LEAST_OF_LARGE = 2**14, 2**12, 2**11
_OWN = 64  # sequences of the model's own text
_PASSAGE = 256
_SAMPLES, _WRITTEN, _WRITTEN_BY_LARGE = 2, 200, 64  # a token of a large model is a word or a part of one
_EXPECTED = 3  # tokens that pointing at one shows
_SEED = 1337  # nanoGPT's own


def _make(subject: Subject) -> Content:
    model = subject.model
    length = subject.seq_len
    n = _OWN if subject.text is None else max(2, subject.affordable(_TOKENS, _least(subject)) // length)
    tokens = windows(model, subject.corpus, seq_len=length, n=n, seed=subject.seed)
    with evaluating(model):
        per_token = losses(model, tokens).double().cpu()
    per_sequence = per_token.mean(1)
    ends = t_interval(per_sequence) or (None, None)
    per_char = _bits(subject, tokens, per_token)
    mean, uniform = float(per_token.mean()), math.log(n_tokens(model))
    trained = _trained_on(subject)
    name = "this model on the whole text" if trained else "this model on the text"
    rows = [(name, interval(mean, *ends), *_others(mean, per_char))]
    held = None if trained is None else _held_out(subject, trained, n)
    rows += _baselines(subject, tokens, held, uniform)
    unit = "character" if per_char and abs(per_char * math.log(2) - mean) < 1e-9 else "token"
    words = f"{count(len(tokens))} sequences of {length} tokens, {_origin(subject)}; 95% interval over the sequences"
    measured_here = _Loss(mean=mean, low=ends[0], high=ends[1])
    finding = _finding(subject, measured_here, held, uniform, unit)
    guess = _unigram(subject.text.ids, tokens) if subject.text is not None else None
    body: list[Block] = [
        _bars(measured_here, held, guess, uniform, unit),
        Table(
            header=("", "loss, nats per token", "perplexity", "bits per character"),
            rows=tuple(rows),
            caption=f"Mean cross-entropy of the next token: {words}. {_whether_new(subject, trained, held)}"
            + doubt(few_examples(len(tokens), "t"))
            + (doubt(few_examples(held.sequences, "t"), "Validation part") if held else ""),
            folded="These losses as numbers, and how they were measured",
        ),
        *_by_position(per_token, unit),
        *_passage(subject, uniform),
        *_samples(subject),
    ]
    if subject.text is None:
        note = (
            "This is the model's own text, so that its loss says how sure the model is of itself, not how good it is: "
            "give a text."
        )
        body.insert(1, Paragraph(text=note, tone="note"))
    return Content(body=tuple(body), commands=_commands(subject), findings=(finding,))


def _least(subject: Subject) -> int:
    """The tokens that are read at least."""
    return _LEAST_OF_LARGE if subject.is_large else _LEAST


@dataclass(frozen=True, kw_only=True)
class _Loss:
    """A mean loss and the ends of its interval."""

    mean: float
    low: Any
    high: Any

    @property
    def words(self) -> str:
        """The mean with the digits that its interval leaves."""
        return measured(self.mean, self.low, self.high)


def _finding(subject: Subject, here: _Loss, held: _HeldOut | None, uniform: float, unit: str) -> str:
    """What the model pays, beside a guess."""
    guess = f"a uniform guess pays {number(uniform, 2)}"
    if held is not None:
        return f"On text that it was not trained on, it pays {held.of.words} nats per {unit}; {guess}."
    if subject.text is None:
        return f"On text that it writes itself it pays {here.words} nats per {unit}; {guess}."
    return f"On the text {subject.text_name} it pays {here.words} nats per {unit}; {guess}."


def _bars(here: _Loss, held: _HeldOut | None, frequencies: float | None, uniform: float, unit: str) -> Picture:
    """The losses as bars, those of guesses last."""
    nan = math.nan
    bars: list[tuple[str, float, Any, Any]] = []
    if held is not None:
        bars.append(("this model, new text", held.of.mean, held.of.low, held.of.high))
    bars.append(("this model, all text" if held is not None else "this model", here.mean, here.low, here.high))
    bars += [] if frequencies is None else [("guessing by frequency", frequencies, nan, nan)]
    bars.append(("a uniform guess", uniform, nan, nan))
    numbers = torch.tensor(
        [[nan if value is None else float(value) for value in bar[1:]] for bar in bars], dtype=torch.float64
    )
    losses_as_bars = Scores(
        values=numbers[:, 0],
        axes=("score",),
        labels={"score": tuple(bar[0] for bar in bars)},
        quantity=f"loss, nats per {unit}",
        definition="mean cross-entropy of the next token; whiskers: 95% intervals over the sequences",
        low=numbers[:, 1],
        high=numbers[:, 2],
        unit=f"nats per {unit}",
    )
    best = bars[0][1]
    if best >= uniform:
        says = "It predicts no better than a uniform guess."
    elif frequencies is not None and best < frequencies:
        says = (
            f"What it learned from context is worth {number(frequencies - best, 1)} nats more than knowing how often "
        )
        says += f"each {unit} occurs."
    else:
        says = f"It pays {number(uniform - best, 1)} nats less than a uniform guess."
    return picture_of(losses_as_bars, "the model's loss beside that of guesses", says=says)


@dataclass(frozen=True, kw_only=True)
class _TrainedOn:
    """How the text that the model was trained on was divided, in tokens."""

    train: int
    val: int


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """The loss on the validation part."""

    of: _Loss
    in_words: str
    per_char: float
    sequences: int


def _baselines(
    subject: Subject, tokens: Int[Tensor, "example pos"], held: Any, uniform: float
) -> list[tuple[str, ...]]:
    """The rows below the model's own: on held-out text, simpler predictors, and what the checkpoint states."""
    size = n_tokens(subject.model)
    rows: list[tuple[str, ...]] = []
    if held is not None:
        rows.append(("this model on the validation part of it", held.in_words, *_others(held.of.mean, held.per_char)))
    if subject.text is not None:
        frequencies = _unigram(subject.text.ids, tokens)
        rows.append(("always guessing by the text's token frequencies", number(frequencies), *_others(frequencies, 0)))
    rows.append((f"a uniform guess among {count(size)} tokens", number(uniform), *_others(uniform, 0)))
    stated = subject.checkpoint.best_val_loss if subject.checkpoint else None
    if stated is not None and math.isfinite(stated) and stated < 1e8:
        words = "best_val_loss in the checkpoint, on the validation part of its own data"
        rows.append((words, number(stated), *_others(stated, 0)))
    return rows


def _trained_on(subject: Subject) -> _TrainedOn | None:
    """How the run divided the text, where the checkpoint names this very file as its own."""
    config = subject.checkpoint.run_config if subject.checkpoint else {}
    digest, train, val = (config.get(name) for name in ("text_sha256", "train_tokens", "val_tokens"))
    text = subject.text
    if text is None or text.sha256 is None or digest != text.sha256:
        return None
    if not (isinstance(train, int) and isinstance(val, int)) or min(train, val) < 0 or train + val != len(text.ids):
        return None
    return _TrainedOn(train=train, val=val)


def _is_own_validation(subject: Subject) -> bool:
    """Whether the text is the file in which the run's validation data are kept."""
    path = path_of(subject.raw_text)
    if path is None or subject.checkpoint is None:
        return False
    file = path / VAL_NAME if path.is_dir() else path
    return any(file.resolve() == (folder / VAL_NAME).resolve() for folder in subject.checkpoint.data_folders())


def _held_out(subject: Subject, trained: _TrainedOn, n: int) -> _HeldOut | None:
    """The loss on the last tokens of the text; None where they are no two sequences."""
    text = subject.text
    if text is None or trained.val < 2 * subject.seq_len:
        return None
    data = TextData(train=text.ids[:0], val=text.ids[trained.train :], vocabulary=None, name=text.data.name)
    tokens = windows(subject.model, data, seq_len=subject.seq_len, n=n, seed=subject.seed)
    with evaluating(subject.model):
        per_token = losses(subject.model, tokens).double().cpu()
    ends = t_interval(per_token.mean(1)) or (None, None)
    mean = float(per_token.mean())
    return _HeldOut(
        of=_Loss(mean=mean, low=ends[0], high=ends[1]),
        in_words=interval(mean, *ends),
        per_char=_bits(subject, tokens, per_token),
        sequences=len(tokens),
    )


def _whether_new(subject: Subject, trained: _TrainedOn | None, held: _HeldOut | None) -> str:
    """What is known of whether the text is new to the model."""
    if subject.text is None:
        return "It says nothing of new text."
    if _is_own_validation(subject):
        return "This is the validation part of the run's own data, on which the model was not trained."
    if trained is None:
        return (
            "On text that a model was trained on the loss is lower than on new text; nothing in the checkpoint says "
            "whether this is such text."
        )
    share = percent(trained.train / max(1, trained.train + trained.val))
    said = (
        f"This is the text that the model was trained on (its SHA-256 is in the checkpoint): the first {share} of it, "
        f"{count(trained.train)} tokens, is training text, on which the loss is lower than on new text"
    )
    if held is None:
        return f"{said}; the rest is too short to be measured alone."
    return (
        f"{said}; the last {count(trained.val)} are its validation part, measured on {count(held.sequences)} sequences."
    )


def _commands(subject: Subject) -> tuple[str, ...]:
    seed = ["--seed", str(_SEED + subject.seed)] if subject.seed else []
    options = ("--max-new-tokens", str(_length_written(subject)), "--num-samples", str(_SAMPLES), *seed)
    sample = subject.command("sample", *options)
    return (subject.report_command("loss"), *([sample] if subject.has_vocabulary else []))


def _origin(subject: Subject) -> str:
    """What the sequences were taken from."""
    return f"windows of {subject.text.data.name}" if subject.text else subject.text_name


def _others(nats: float, per_char: float) -> tuple[str, str]:
    """The perplexity, and the bits per character where they are known."""
    return number(math.exp(min(nats, 700)), 2), number(per_char, 2) if per_char else "–"


def _bits(subject: Subject, tokens: Int[Tensor, "example pos"], per_token: Float[Tensor, "example pos-1"]) -> float:
    """Bits per character; 0 without a vocabulary."""
    chars = characters(subject.model, tokens) if subject.has_vocabulary else None
    return 0.0 if chars is None else float(per_token.sum() / math.log(2) / chars.double().sum())


def _unigram(ids: Integer[np.ndarray, " token"], tokens: Int[Tensor, "example pos"]) -> float:
    """The loss of the text's own frequencies on what the model was measured on."""
    counts = np.bincount(np.asarray(ids[: 2**22]).astype(np.int64), minlength=int(tokens.max()) + 1).astype(float)
    logs = np.log(np.maximum(counts, 1) / counts.sum())
    return float(-logs[tokens[:, 1:].cpu().numpy()].mean())


def _by_position(per_token: Float[Tensor, "example target"], unit: str) -> list[Block]:
    """The loss in four parts of the context."""
    n = per_token.shape[1]
    if n < 8:
        return []
    parts = [range(i * n // 4, (i + 1) * n // 4) for i in range(4)]
    return [
        Table(
            header=(f"{unit}s seen before", *(f"{part.start + 1} to {part.stop}" for part in parts)),
            rows=((f"nats per {unit}", *(number(per_token[:, part.start : part.stop].mean()) for part in parts)),),
            caption="The same loss by how much of the text the model has seen before.",
            folded="Does more context help? The loss by place in the context",
        )
    ]


def _passage(subject: Subject, uniform: float) -> list[Block]:
    """A passage, each token coloured by its loss, with what the model expected in its place."""
    tokens = subject.passage(_PASSAGE)
    if len(tokens) < 2:
        return []
    with evaluating(subject.model):
        logits = run(subject.model, tokens[None].to(device_of(subject.model)))[0, :-1, : n_tokens(subject.model)]
    chances = logits.double().log_softmax(-1).cpu()
    nats = (-chances.gather(-1, tokens[1:, None].cpu())[:, 0]).tolist()
    best = chances.topk(min(_EXPECTED, chances.shape[1]))
    titles = ["the first token: nothing predicts it"]
    for loss, values, ids in zip(nats, best.values.exp().tolist(), best.indices, strict=True):
        named = [f"{quoted(t)} {share(p)}" for t, p in zip(subject.strings(ids), values, strict=True)]
        titles.append(f"{number(loss)} nats, probability {share(math.exp(-loss))}; expected: {', '.join(named)}")
    spans = spans_of(
        subject.strings(tokens), [math.nan, *nats], largest=uniform, titles=titles, separator=subject.separator
    )
    return [
        Heading(text="Where it is surprised"),
        Tokens(
            spans=spans,
            caption=f"{count(len(tokens))} tokens, {_origin(subject)}. Amber: surprise, the loss of that token. Point "
            "at a token to see what the model expected.",
            low="0 nats: expected",
            high=f"{number(uniform, 1)} nats or more: a uniform guess does as well",
            colours="cost",
        ),
    ]


def _samples(subject: Subject) -> list[Block]:
    """What the model writes, with nanoGPT's defaults."""
    seeds = [_SEED + subject.seed + i for i in range(_SAMPLES)]
    return [
        Heading(text="What it writes"),
        *(
            TextSample(
                text=text,
                caption=f"{_length_written(subject)} tokens, seed {seed}; temperature 0.8, the {TOP_K} likeliest "
                "tokens: nanoGPT's defaults.",
            )
            for seed, text in zip(seeds, _written(subject, seeds), strict=True)
        ),
    ]


def _length_written(subject: Subject) -> int:
    """The tokens that the model writes."""
    return _WRITTEN_BY_LARGE if subject.is_large else _WRITTEN


def _written(subject: Subject, seeds: Sequence[int]) -> list[str]:
    """What the model writes after a line break, of each seed."""
    model = subject.model
    names: Sequence[str] = subject.strings(torch.arange(n_tokens(model)))
    start = names.index("\n") if "\n" in names else 0
    written = samples(model, start, max_new_tokens=_length_written(subject), seeds=seeds)[:, 1:]
    texts = []
    for ids in written.cpu():
        strings = subject.strings(ids)
        texts.append(
            subject.separator.join("\n" if s == "\n" else visible(s, spaces=False, breaks=False) for s in strings)
        )
    return texts


RECIPE = Recipe(
    key="loss",
    title="Loss and samples",
    reading="Loss is what the model pays, in nats, for each token that really follows; 0 would be certainty, and each "
    "0.69 nats is a factor of two in probability. Between the model's bar and those of the guesses lies what it has "
    "learned from context.",
    make=_make,
)
