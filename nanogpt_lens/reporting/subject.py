"""What a report is about: a checkpoint, its model, a text, and how it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from conversion.checkpoint import Checkpoint
from conversion.native_reference import LARGE
from conversion.token_files import TokenFile
from conversion.val_loss import ValBin
from nanogpt_lens.catalogue import find
from nanogpt_lens.circuits.claims import Hypothesis
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, n_tokens, token_labels
from nanogpt_lens.model.fingerprints import file_hash
from nanogpt_lens.model.reading import Reading
from nanogpt_lens.reporting.words import command, short_path
from nanogpt_lens.text.corpus import Corpus, name_of, open_corpus, path_of
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.from_model import OWN_TEXT, own_text
from nanogpt_lens.text.pairs import NoPairFoundError, PromptPair, find_prompt_pairs, prompt_length

OTHER_SIZES = "other sample sizes: numbers differ a little"
LOOKED_AT = 512
"""Windows of the text in which pairs of prompts are looked for."""

_PAIRS = 16  # that are kept
_LOOKED_AT = 50_000  # tokens of the text among which a passage begins
_LONGEST = 128
_WORK = 3.5e11  # parameters times tokens that a section reads at most: some ten seconds on a core
_WORK_OF_LARGE = 2.5e11  # the same of a large model, of which other things cost more
_LOOKED_AT_BY_LARGE, _TRIED_BY_LARGE = 64, 4  # windows in which pairs are looked for, and of which edits are tried


def is_large(n_params: int) -> bool:
    """Whether a model has GPT-2's size, so that a report reads less of it and has one model in memory at a time."""
    return n_params >= LARGE


@dataclass(frozen=True, kw_only=True)
class Text:
    """The text that a report reads.

    Attributes:
        data: its ids, under its name.
        sha256: of the file; None for other things.
    """

    data: TextData
    sha256: str | None = None

    @property
    def ids(self) -> Integer[np.ndarray, " token"]:
        """The ids of all tokens."""
        return self.data.val


@dataclass(frozen=True, kw_only=True)
class OwnPair:
    """A pair of prompts that the user gave, as text or ids."""

    clean: str | Sequence[int]
    corrupted: str | Sequence[int]
    answer: str | int | None = None
    wrong: str | int | None = None

    def options(self) -> dict[str, Any]:
        """The prompts and the answers that there are, by the names of their options."""
        values = {name: getattr(self, name) for name in ("clean", "corrupted", "answer", "wrong")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What the sections of a report look at.

    Attributes:
        path: as it was given.
        checkpoint: without its weights; None where only several checkpoints are compared.
        n_params: of the checkpoint.
        text: encoded; None for the model's own text.
        raw_text: as it was given, which every checkpoint that is compared encodes for itself.
        pair: the user's prompts.
        hypothesis: what the user says that the model does; None for nothing.
        hypothesis_file: the file that it was given as; None where it was none.
        stages: other checkpoints of the folder, see `checkpoints`.
        val_bin: the run's validation data, for the certificate.
        seed: of everything that is drawn.
        reading: how checkpoints are read.
    """

    path: str
    checkpoint: Checkpoint | None = None
    n_params: int = 0
    _model: Hooked | None = None
    _made_by: Callable[[], Hooked] | None = None
    text: Text | None = None
    raw_text: Corpus | None = None
    pair: OwnPair | None = None
    hypothesis: Hypothesis | None = None
    hypothesis_file: str | None = None
    stages: tuple[Path, ...] = ()
    val_bin: ValBin = None
    seed: int = 0
    reading: Reading = field(default_factory=Reading)

    @property
    def model(self) -> Hooked:
        """The model.

        Raises:
            AnalysisError: several checkpoints are compared, and none is looked into.
        """
        if self._model is not None:
            return self._model
        if self._made_by is None:
            raise AnalysisError(f"{self.path} holds several checkpoints; name one of them to look into it")
        return self._made

    @cached_property
    def _made(self) -> Hooked:
        """The model of a large checkpoint, which is made when it is asked for: its certificate needs the memory."""
        assert self._made_by is not None
        return self._made_by()

    @property
    def is_large(self) -> bool:
        """See `is_large`."""
        return is_large(self.n_params)

    @property
    def name(self) -> str:
        """What the page calls it."""
        return short_path(self.path)

    @property
    def corpus(self) -> TextData | None:
        """The text, for analyses."""
        return self.text.data if self.text else None

    @property
    def seq_len(self) -> int:
        """Tokens of a sequence of text: the context, at most 128, and at least four of them in the text."""
        most = min(int(self.model.cfg.n_ctx), _LONGEST)
        return most if self.text is None else max(2, min(most, len(self.text.ids) // 4))

    def affordable(self, tokens: int, least: int) -> int:
        """How many of so many tokens are read: fewer of a large model, whose report would take too long."""
        work = _WORK_OF_LARGE if self.is_large else _WORK
        return min(tokens, max(least, int(work / max(1, self.n_params))))

    def sequences(self, usual: int, *, least: int = 8) -> int:
        """How many sequences an analysis with several runs reads: as many as usual, fewer of a large model."""
        work = _WORK_OF_LARGE if self.is_large else _WORK
        return min(usual, max(least, int(work / max(1, self.n_params) / self.seq_len / 2)))

    @property
    def text_name(self) -> str:
        """What the text is called in a sentence."""
        return OWN_TEXT if self.raw_text is None else name_of(self.raw_text)

    @property
    def has_vocabulary(self) -> bool:
        """Whether tokens have a text."""
        tokenizer = getattr(self.model, "tokenizer", None)
        return tokenizer is not None and not getattr(tokenizer, "missing", None)

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """Folders of this machine that the page does not name."""
        file = None if self.checkpoint is None else self.checkpoint.path
        places = [
            *([] if file is None else [file.parent]),
            *(stage.parent for stage in self.stages),
            Path(self.path).expanduser(),
        ]
        known = {place for base in places for place in (base, base.resolve(), *base.resolve().parents)}
        return tuple(sorted(known))

    def strings(self, tokens: Int[Tensor, " pos"]) -> tuple[str, ...]:
        """The text of each of the ids."""
        return token_labels(self.model, tokens)

    @property
    def separator(self) -> str:
        """Between tokens: nothing between text, a space between numbers."""
        return "" if self.has_vocabulary else " "

    def passage(self, seq_len: int, *, number: int = 0) -> Int[Tensor, " pos"]:
        """A passage of the text, of at most `seq_len` tokens: from the beginning of a paragraph where there is one.

        `number` gives another one.
        """
        seq_len = min(seq_len, int(self.model.cfg.n_ctx))
        if self.text is None:
            return own_text(self.model, seq_len=seq_len, n=1, seed=self.seed + number)[0].cpu()
        ids = np.asarray(self.text.ids[:_LOOKED_AT]).astype(np.int64)
        starts = self._beginnings(ids, seq_len)
        generator = torch.Generator().manual_seed(self.seed + number)
        start = starts[int(torch.randint(len(starts), (1,), generator=generator))]
        return torch.from_numpy(ids[start : start + seq_len].copy())

    @property
    def prompt_length(self) -> int | None:
        """The length of prompts from a short text; None for the usual one."""
        return None if self.text is None else prompt_length(len(self.text.ids), int(self.model.cfg.n_ctx))

    def prompt_pairs(self, k: int) -> tuple[PromptPair, ...]:
        """The best pairs of prompts of the text, at most 16, which are searched for once for all sections.

        Raises:
            NoPairFoundError: there is none.
            AnalysisError: the text does not fit the model.
        """
        if isinstance(self._pairs_or_reason, NoPairFoundError):
            raise self._pairs_or_reason
        return self._pairs_or_reason[:k]

    @cached_property
    def _pairs_or_reason(self) -> tuple[PromptPair, ...] | NoPairFoundError:
        options: dict[str, Any] = {"seq_len": self.prompt_length, "n": LOOKED_AT, "seed": self.seed}
        if self.is_large:
            options |= {"n": _LOOKED_AT_BY_LARGE, "tried": _TRIED_BY_LARGE}
        try:
            return find_prompt_pairs(self.model, self.corpus, k=_PAIRS, **options)
        except NoPairFoundError as reason:
            return reason

    def _beginnings(self, ids: Int[np.ndarray, " token"], seq_len: int) -> Sequence[int]:
        """The places at which a passage may begin: behind an empty line, behind a line break, or anywhere."""
        last = max(0, len(ids) - seq_len)
        vocabulary = self.strings(torch.arange(n_tokens(self.model))) if self.has_vocabulary else ()
        breaks = np.isin(ids, [i for i, text in enumerate(vocabulary) if text.endswith("\n")])
        after = np.flatnonzero(breaks[:-1] & breaks[1:]) + 2
        for places in (after, np.flatnonzero(breaks) + 1):
            starts = [int(p) for p in places if p <= last and not breaks[min(p, len(ids) - 1)]]
            if starts:
                return starts
        return range(last + 1)

    def val_bin_option(self) -> list[str]:
        """The run's validation data as an option of the command line, where they were given."""
        if self.val_bin is None:
            return []
        if self.val_bin is False:
            return ["--no-val-bin"]
        file = self.val_bin if isinstance(self.val_bin, TokenFile) else TokenFile(self.val_bin)
        named = ["--val-bin", short_path(str(file.path))]
        return named if file.token_dtype is None else [*named, "--token-dtype", file.token_dtype]

    def seed_option(self) -> list[str]:
        """The seed as an option of the command line, where it is not the usual one."""
        return ["--seed", str(self.seed)] if self.seed else []

    def length_remark(self, usual: int) -> str:
        """What to say of a command that reads sequences of the context, at most `usual` tokens; often nothing."""
        return "" if self.seq_len == min(int(self.model.cfg.n_ctx), usual) else OTHER_SIZES

    def command(self, name: str, *more: str, text: bool = False, remark: str = "") -> str:
        """A line for bash: one of our commands on this checkpoint, with a remark behind it."""
        source = source_of(self.raw_text)
        source_words = ["--text", source] if text and source else []
        if source_words and isinstance(self.raw_text, TokenFile) and self.raw_text.token_dtype is not None:
            source_words += ["--token-dtype", self.raw_text.token_dtype]
        line = command(
            "nanogpt-lens",
            *name.split(),
            self.name,
            *more,
            *source_words,
            *self.reading.command_line(shorten=short_path),
        )
        unnamed = text and self.raw_text is not None and not source
        remarks = [*(["and --text with a file of the text that was given"] if unnamed else []), remark]
        said = "; ".join(words for words in remarks if words)
        return f"{line}  # {said}" if said else line

    def again(self, analysis: str, *more: str, text: bool = False, remark: str = "") -> str:
        """A line for bash that makes an analysis of the catalogue again, with a remark behind it."""
        before, behind = find(analysis).command_words()
        return self.command(" ".join(before), *behind, *more, text=text, remark=remark)

    def report_command(self, *sections: str) -> str:
        """The line that makes this report again, or some sections of it."""
        options: list[str] = []
        pair = {} if self.pair is None or (sections and "patching" not in sections) else self.pair.options()
        if not all(isinstance(value, str) for value in pair.values()):
            return self._report_in_python(pair, sections)
        scrubs = self.hypothesis is not None and (not sections or "scrubbing" in sections)
        options += ["--hypothesis", short_path(self.hypothesis_file or "hypothesis.yaml")] if scrubs else []
        for word, value in pair.items():
            options += [f"--{word}", value]
        chosen = ["--sections", ",".join(sections)] if sections else []
        output = "report.html" if len(sections) != 1 else f"{sections[0]}.html"
        options += [*self.val_bin_option(), *self.seed_option()]
        return self.command("report", "-o", output, *chosen, *options, text=True)

    def _report_in_python(self, pair: dict[str, Any], sections: Sequence[str]) -> str:
        """The same for prompts that are ids, which the command line does not take."""
        options: dict[str, Any] = self.reading.changed()
        source = source_of(self.raw_text)
        options |= {"corpus": source} if source else {}
        options |= {"sections": list(sections)} if sections else {}
        options |= {
            name: value if isinstance(value, str | int) else list(map(int, value)) for name, value in pair.items()
        }
        options |= {"seed": self.seed} if self.seed else {}
        words = "".join(f", {k}={str(v) if isinstance(v, Path) else v!r}" for k, v in options.items())
        return f"import nanogpt_lens as ngl; ngl.report({self.name!r}, output='report.html'{words})"

    def python(self, call: str) -> str:
        """A line of Python with `model` loaded."""
        changed = self.reading.changed().items()
        options = "".join(f", {k}={str(v) if isinstance(v, Path) else v!r}" for k, v in changed)
        return f"import nanogpt_lens as ngl; model = ngl.load({self.name!r}{options}); {call}"


def source_of(corpus: Corpus | None) -> str | None:
    """What names a text on the command line; None for a text or ids given in Python."""
    path = path_of(corpus)
    return None if path is None else short_path(str(path))


def text_of(model: Hooked, corpus: Corpus | None) -> Text | None:
    """A text, encoded once.

    Raises:
        AnalysisError: fewer than eight tokens, or ids outside the vocabulary.
        DataError, VocabularyError: a file that cannot be read, a text that cannot be encoded.
    """
    if corpus is None:
        return None
    opened, path = open_corpus(model, corpus), path_of(corpus)
    if opened.n_tokens < 8:
        raise AnalysisError(f"the text has {opened.n_tokens} tokens; expected at least 8: give a longer text")
    opened.check_all()
    ids = opened.ids.array()
    return Text(
        data=TextData(train=ids[:0], val=ids, vocabulary=None, name=opened.name),
        sha256=file_hash(path) if path is not None and path.is_file() else None,
    )
