"""`ngl.compare`: two models side by side, in one call.

What comes out (outputs), what is inside (weights, representations, heads), and which components carry the difference
(transplants), each by an analysis of its own that can also be called alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from conversion.backends import BackendChoice
from conversion.config import ActFn
from conversion.errors import VocabularyError
from conversion.vocabulary import Vocabulary
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.compare.characters import loss_per_character
from nanogpt_lens.compare.heads import match_heads
from nanogpt_lens.compare.kinship import NoDifferenceError
from nanogpt_lens.compare.mean_difference import mean_difference_lens
from nanogpt_lens.compare.origin import shared_start
from nanogpt_lens.compare.outputs import compare_outputs
from nanogpt_lens.compare.representations import compare_representations
from nanogpt_lens.compare.subjects import Subjects, subjects_of, text_name
from nanogpt_lens.compare.transplanted_edges import transplant_edges
from nanogpt_lens.compare.transplants import transplant
from nanogpt_lens.compare.vocabularies import shared_vocabulary
from nanogpt_lens.compare.weights import compare_weights
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import did_you_mean
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.taxonomy import score_heads
from nanogpt_lens.model.access import Hooked, Text, as_tokens
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.results import ModelComparison, Origin, Result, WeightDifference
from nanogpt_lens.running.metrics import Metric
from nanogpt_lens.text.corpus import Corpus, open_corpus, path_of

Part = Literal["outputs", "weights", "representations", "difference_lens", "heads", "transplants", "edges"]
"""What a comparison has: each is a result of its own."""

PARTS: tuple[Part, ...] = get_args(Part)
_WINDOWS, _LENGTH = 32, 64
"""Sequences that transplants are measured on, and their length at most."""
_FEW = 8
"""Of these, the sequences that edges are measured on."""
_MOST_EDGES = 700


def compare(
    a: str | Path | Hooked,
    b: str | Path | Hooked,
    *,
    text: Corpus | None = None,
    prompts: Text | None = None,
    metric: Metric | None = None,
    parts: Sequence[Part] | None = None,
    search: bool = True,
    reference: str | Path | Hooked | None = None,
    names: Sequence[str] | None = None,
    seq_len: int | None = None,
    seed: int = 0,
    progress: bool = True,
    heard: Callable[[str, float, str], None] | None = None,
    backend: BackendChoice = "auto",
    meta: str | Path | Vocabulary | None = None,
    act_fn: ActFn | None = None,
    n_head: int | None = None,
    ignore_model_args: Iterable[str] = (),
) -> ModelComparison:
    """Put two models side by side: what differs, where it sits, and what carries it.

        ngl.compare("out-before", "out-after", text="input.txt").sentences()

    Differences are b minus a. What needs two models of one shape, or a start that they share, is left out where that
    is not so, and `left_out` says why.

    Args:
        a, b: the models before and after: what `ngl.load` takes, or models that it gave.
        text: what they are compared on: a text, a path, a data folder or ids, of any size; None for text that the two
            write themselves, half each.
        prompts: what transplants are measured on, in place of 32 windows of the text: texts or ids of one length.
        metric: what is measured there, such as `ngl.metrics.logit_diff("a", "b")`; None for the loss.
        parts: which parts are made, see `PARTS`; None for all that apply.
        search: look for the fewest parts that carry nine tenths of the difference, which takes most of the time.
        reference: a third model, such as another seed, whose similarity to `a` is the measure for that of `b`.
        names: what the two are called; None for the last part of their paths.
        seq_len: the tokens of a sequence; None for the shorter context, for transplants at most 64.
        seed: of everything that is drawn.
        progress: show bars.
        heard: is called as soon as a part is there, with its name, its seconds, and why it was left out, if it was.
        backend, meta, act_fn, n_head, ignore_model_args: how paths are read, see
            `nanogpt_lens.model.reading.Reading`.

    Returns:
        The parts: `comparison["outputs"]` and so on; `.sentences()`, `.plot()`, `.save(folder)`.

    Raises:
        AnalysisError: a part that does not exist, or that was asked for and cannot be made; a text or prompts that do
            not fit, names that are the same, two models of which nothing can be compared.
        ConversionError: a checkpoint that cannot be read.
    """
    chosen = _chosen(parts)
    check_whole(seed=seed)
    check_whole(2, **({} if seq_len is None else {"seq_len": seq_len}))
    reading = Reading(backend=backend, meta=meta, act_fn=act_fn, n_head=n_head, ignore_model_args=ignore_model_args)
    pair = subjects_of(a, b, names, reading)
    third = None if reference is None else subjects_of(pair.a, reference, ("a", "reference"), reading).b
    work = _Work(
        pair=pair, text=text, prompts=prompts, metric=metric, third=third, search=search, seq_len=seq_len, seed=seed
    )
    work.check()
    done: dict[str, Result] = {}
    left_out: dict[str, str] = {}
    with tqdm(total=len(chosen), desc="compare", unit="part", disable=not progress) as bar:
        for part in chosen:
            bar.set_postfix_str(part)
            began = perf_counter()
            why = work.obstacle(part)
            try:
                done |= {} if why else {part: work.make(part)}
            except NoDifferenceError as error:
                why = str(error).partition("; give")[0]
            except (AnalysisError, VocabularyError) as error:
                if parts is not None or work.is_first(part):
                    raise
                why = str(error)
            left_out |= {part: why} if why else {}
            bar.update()
            if heard is not None:
                heard(part, perf_counter() - began, why or "")
    if not done:
        raise AnalysisError(f"nothing of {' and '.join(pair.names)} can be compared: {next(iter(left_out.values()))}")
    return ModelComparison(names=pair.names, parts=done, left_out=left_out, **work.about())


def _chosen(parts: Sequence[Part] | None) -> list[Part]:
    """The parts that were asked for, in their order.

    Raises:
        AnalysisError: one that does not exist, or none.
    """
    asked = list(PARTS) if parts is None else [parts] if isinstance(parts, str) else list(parts)
    for part in asked:
        if part not in PARTS:
            raise AnalysisError(
                f"there is no part {part!r}; expected some of {', '.join(PARTS)}{did_you_mean(part, PARTS)}"
            )
    if not asked:
        raise AnalysisError(f"parts is empty; expected some of {', '.join(PARTS)}, or None for all")
    return [part for part in PARTS if part in asked]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """What the parts of a comparison are made of, and which of them cannot be made."""

    pair: Subjects
    text: Corpus | None
    prompts: Text | None
    metric: Metric | None
    third: Hooked | None
    search: bool
    seq_len: int | None
    seed: int

    @cached_property
    def origin(self) -> Origin | None:
        """Whether the two share a start; None where their shapes cannot say."""
        return None if self.pair.unlike else shared_start(self.pair.a, self.pair.b, seed=self.seed)

    @cached_property
    def weights(self) -> WeightDifference:
        """What differs between the weights."""
        return compare_weights(self.pair.a, self.pair.b, seed=self.seed)

    @cached_property
    def corpus(self) -> Corpus:
        """The text, or what the two write."""
        return self.pair.own_text(self.seed) if self.text is None else self.text

    @cached_property
    def sequences(self) -> Int[Tensor, "example pos"]:
        """What transplants are measured on."""
        if self.prompts is not None:
            return as_tokens(self.pair.a, self.prompts, name="prompts")
        opened = open_corpus(self.pair.a, self.corpus)
        contexts = [int(model.cfg.n_ctx) for model in (self.pair.a, self.pair.b)]
        length = min(self.seq_len or _LENGTH, opened.room(_FEW), *contexts)
        return opened.windows(seq_len=length, n=_WINDOWS, seed=self.seed)

    def check(self) -> None:
        """Raise AnalysisError for prompts that do not fit, or a third model that does not read the same tokens."""
        if self.prompts is not None:
            _ = self.sequences
        if self.third is not None:
            try:
                shared_vocabulary(self.pair.a, self.third)
            except AnalysisError as error:
                raise AnalysisError(f"reference does not read the same tokens as a: {error}") from None

    def is_first(self, part: Part) -> bool:
        """Whether a part is the one that all models of one vocabulary have: what fails there, fails for all."""
        return part == "outputs" and not self.pair.other_vocabulary

    def about(self) -> dict[str, Any]:
        """What is known of both, and of the text."""
        return {"text": text_name(self.text), "own_text": self.text is None, "facts": self.pair.facts()}

    def obstacle(self, part: Part) -> str:
        """Why a part cannot be made, in a sentence; "" where it can."""
        vocabulary, shape = self.pair.other_vocabulary, self.pair.unlike
        if vocabulary and not (part == "outputs" and self._is_text):
            return vocabulary
        if part in ("weights", "transplants", "edges") and shape:
            return f"that needs two models of one shape; these have {shape}"
        if part in ("heads", "difference_lens") and (apart := self._apart(part)):
            return f"that needs two models of the same {apart[0]}; these have {apart[1]} and {apart[2]}"
        if part in ("transplants", "edges", "difference_lens"):
            return self._without_start(part)
        return ""

    @property
    def _is_text(self) -> bool:
        """Whether the text is one of characters, which models of any vocabulary can read."""
        path = path_of(self.text)
        return isinstance(self.text, str | Path) and (path is None or (path.is_file() and path.suffix != ".bin"))

    def _apart(self, part: Part) -> tuple[Any, Any, Any] | None:
        """The name and the two values of what a part needs to be alike, where it is not."""
        needed = {"difference_lens": {"d_model": "width", "n_layers": "number of layers"}}.get(
            part, {"n_layers": "number of layers", "n_heads": "number of heads", "n_ctx": "context"}
        )
        for name, word in needed.items():
            one, two = (getattr(model.cfg, name) for model in (self.pair.a, self.pair.b))
            if one != two:
                return word, one, two
        return None

    def _without_start(self, part: Part) -> str:
        """Why components of the two do not correspond, or there is nothing to move; "" where they do, and there is."""
        try:
            origin = self.origin
        except AnalysisError as error:  # too few dimensions to tell
            return str(error).partition("; expected")[0]
        if origin is None:
            return f"whether they come from one start cannot be told, for they have {self.pair.unlike}"
        if origin.verdict == "separate starts":
            return origin.sentence()
        if part == "difference_lens":
            return ""
        if origin.verdict == "identical":
            return "the two have the same weights, so that there is no difference to move"
        if self.weights.same_function:
            return "the two compute the same function, written differently, so that there is no difference to move"
        if moved := self.weights.reordered_heads:
            return (
                f"the heads of layer {next(iter(moved))} stand in another order, so that a head is not where its "
                "counterpart is"
            )
        if part == "edges" and (n := len(CircuitGraph(self.pair.a).edges)) > _MOST_EDGES:
            return (
                f"the models have {n:,} edges, and a comparison measures at most {_MOST_EDGES}; call `transplant_edges`"
            )
        return ""

    def make(self, part: Part) -> Result:
        """A part."""
        a, b, names, seed = self.pair.a, self.pair.b, self.pair.names, self.seed
        quiet: dict[str, Any] = {"seed": seed, "progress": False}
        if part == "outputs" and self.pair.other_vocabulary:
            assert isinstance(self.text, str | Path)
            return loss_per_character(a, b, self.text, seed=seed)
        if part == "outputs":
            return compare_outputs(a, b, self.corpus, names=names, seq_len=self.seq_len, **quiet)
        if part == "weights":
            return self.weights
        if part == "representations":
            options: dict[str, Any] = {"names": names, "seq_len": self.seq_len, **quiet}
            return compare_representations(a, b, self.corpus, reference=self.third, **options)
        if part == "difference_lens":
            return mean_difference_lens(a, b, self.corpus, names=names, seq_len=self.seq_len, **quiet)
        if part == "heads":
            scores = [score_heads(model, self.corpus, seq_len=self.seq_len, seed=seed) for model in (a, b)]
            return match_heads(*scores, seed=seed)
        if part == "transplants":
            return transplant(a, b, self.sequences, metric=self.metric, search=self.search, **quiet)
        few = self.sequences[:_FEW] if self.metric is None else self.sequences
        return transplant_edges(a, b, few, metric=self.metric, **quiet)
