"""The words that a character model writes, beside those of its training text: how varied, and do they exist?

Distinct-n falls with the length of a text, so equally long pieces of the training and of the validation part
stand beside the sampled ones. Invented words are varied too: distinct-n above the validation part's, with few
words that exist, is no merit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import pseudo_values, sampled
from nanogpt_lens.model.access import Hooked, check_model, device_of, evaluating, provenance
from nanogpt_lens.model.sampling import choose_token
from nanogpt_lens.results import Scores
from nanogpt_lens.text.datasets import TextData, read_data

LENGTHS = (1, 2, 3)
"""Words of the n-grams that are counted."""

SOURCES = ("sampled", "training", "validation")

_RUN = re.compile(r"(?:[^\W\d_]|['’])+")
_PATIENCE = 100
"""Characters per word after which a model is taken to write none."""


def text_quality(
    model: Hooked,
    corpus: TextData | str | Path,
    *,
    words: int = 2000,
    pieces: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """How varied text from a character model is, and how many of its words exist, beside the text it was trained on.

    The text is sampled in `pieces` pieces, each after a line break, the context cropped as nanoGPT crops it. The
    pieces of the training and of the validation part have as many words and are drawn without overlap. A
    word is what `words_of` finds; n-grams cross no border between pieces.

    Args:
        model: with a character vocabulary.
        corpus: the text it was trained on, or what `read_data` makes one from.
        words: of each source, rounded down to whole words per piece.
        pieces: how many.
        temperature: divides the logits: 1 for the model's own distribution, 0.8 for nanoGPT's sample.py (whose
            top_k of 200 changes nothing for up to 200 characters).
        seed: of the sampling, of the choice of pieces, of the intervals.
        progress: show a bar.

    Returns:
        values [score, source]: "distinct_1", "distinct_2" and "distinct_3", the different n-grams over
        all n-grams of the source; "dictionary_words", the share of its words that occur in the training part, which
        is 1 for "training" by construction, and for "validation" what a perfect model could reach. The
        sources are "sampled", "training", "validation". Intervals are over pieces; `per_example`
        [score, source, example] are a piece's own share of words, and jackknife pseudo-values of distinct-n.

    Raises:
        AnalysisError: a model without vocabulary or whose tokens are no characters, data that are no
            characters or have fewer words, a model that hardly writes words, an option out of range.
        DataError: no such data.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models", who
        divide by the words; here by the n-grams.
    """
    check_model(model)
    check_whole(seed=seed)
    check_whole(2, pieces=pieces)
    check_whole(max(LENGTHS) * pieces, words=words)
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not number or not 1e-3 <= temperature < math.inf:
        raise AnalysisError(f"temperature is {temperature!r}; expected a number of at least 0.001, such as 0.8 or 1.0")
    vocabulary = _characters(model)
    data = read_data(corpus)
    train, val = (_part(data, name) for name in ("training", "validation"))
    each = words // pieces
    generator = torch.Generator().manual_seed(seed)
    real = [_drawn(*part, each, pieces, generator) for part in (("training", train), ("validation", val))]
    written = [
        words_of(text)[:each]
        for text in _sampled(model, vocabulary, each, pieces, temperature, seed, progress=progress)
    ]
    per_piece = torch.stack([_scores(source, frozenset(train)) for source in (written, *real)], dim=1)
    return Scores(
        **sampled(per_piece, seed=seed),
        axes=("score", "source"),
        labels={"score": (*(f"distinct_{n}" for n in LENGTHS), "dictionary_words"), "source": SOURCES},
        quantity="share of n-grams or words",
        definition=f"of {pieces} pieces of {each} words, sampled at temperature {temperature:g}, and of as many of "
        f"the training and validation part of {data.name}: different word n-grams over all word n-grams (Li et al. "
        "2016), and words that occur in the training part over all words; words are runs of letters and apostrophes "
        "in lower case, so that a hyphen separates two words; distinct-n falls with the number of words",
        provenance=provenance(
            model,
            data=data.name,
            text_sha256=data.sha256,
            words=each * pieces,
            pieces=pieces,
            temperature=float(temperature),
            seed=seed,
        ),
    )


def words_of(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters and apostrophes with at least one letter.

    Everything else separates words, hyphens too: "well-known" is two words, "o'er" is one. A typographic
    apostrophe counts as a plain one; one that stands before or after a word stays with it.
    """
    runs = (run.lower().replace("’", "'") for run in _RUN.findall(text))
    return [run for run in runs if run.strip("'")]


def distinct(texts: Sequence[Sequence[str]], n: int) -> tuple[float, Tensor]:
    """Different word n-grams over all word n-grams of some pieces, together and without each.

    Args:
        texts: pieces of equal length, each a list of at least `n` words; at least two.
        n: words of an n-gram; none crosses from one piece into the next.

    Returns:
        of all the pieces, and of all but one [piece].
    """
    grams = [[tuple(text[i : i + n]) for i in range(len(text) - n + 1)] for text in texts]
    having = Counter(gram for piece in grams for gram in set(piece))  # the pieces that have it
    own = torch.tensor([sum(having[gram] == 1 for gram in set(piece)) for piece in grams])
    per_piece = len(grams[0])
    value = len(having) / (per_piece * len(grams))
    return value, (len(having) - own.double()) / (per_piece * (len(grams) - 1))


def _scores(texts: Sequence[Sequence[str]], known: frozenset[str]) -> Tensor:
    """[score, piece]: of distinct-n the jackknife's pseudo-values, of words their share."""
    rows = []
    for n in LENGTHS:
        value, without = distinct(texts, n)
        rows.append(pseudo_values(without, without.new_tensor(value)))
    rows.append(torch.tensor([sum(w in known for w in text) / len(text) for text in texts], dtype=torch.float64))
    return torch.stack(rows)


def _characters(model: Hooked) -> CharVocabulary:
    vocabulary = getattr(getattr(model, "tokenizer", None), "encoder", None)
    if isinstance(vocabulary, CharVocabulary):
        return vocabulary
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        raise AnalysisError("the model has no vocabulary, so it writes no words; load it with meta='path/to/meta.pkl'")
    raise AnalysisError(
        "the model's tokens are not single characters; text_quality expects a character-level model, such as "
        "nanoGPT's shakespeare_char"
    )


def _part(data: TextData, name: str) -> list[str]:
    """The words of the training or validation part."""
    if not isinstance(data.vocabulary, CharVocabulary):
        raise AnalysisError(
            f"{data.name} has no character vocabulary, so its words are unknown; expected a text file, or a nanoGPT "
            "data folder of characters with its meta.pkl"
        )
    return words_of(data.vocabulary.decode(data.train if name == "training" else data.val))


def _drawn(name: str, found: list[str], each: int, pieces: int, generator: torch.Generator) -> list[list[str]]:
    """Pieces of `each` words of one part, without overlap, drawn at random."""
    count = len(found) // each
    if count < pieces:
        raise AnalysisError(
            f"the {name} part has {len(found)} words; expected at least {each * pieces}, {pieces} pieces of {each}: "
            "give a longer text, or fewer words"
        )
    chosen = torch.randperm(count, generator=generator)[:pieces].sort().values.tolist()
    return [found[i * each : (i + 1) * each] for i in chosen]


def _sampled(
    model: Hooked, vocabulary: CharVocabulary, each: int, pieces: int, temperature: float, seed: int, *, progress: bool
) -> list[str]:
    """Texts that hold at least `each` whole words, each sampled after a line break."""
    inside = torch.tensor([bool(_RUN.fullmatch(char)) for char in vocabulary.chars])
    letter = inside & torch.tensor([char not in "'’" for char in vocabulary.chars])
    if bool(inside.all()) or not bool(letter.any()):
        lacking = "letter" if not bool(letter.any()) else "character that separates words"
        raise AnalysisError(f"the vocabulary has no {lacking}, so the model writes no words; expected a text's")
    start = vocabulary.chars.index("\n") if "\n" in vocabulary.charset else int((~inside).nonzero()[0])
    device, size, limit = device_of(model), vocabulary.size, _PATIENCE * each
    inside, letter = inside.to(device), letter.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.full((pieces, 1), start, device=device)
    counts, word = (
        torch.zeros(pieces, dtype=torch.long, device=device),
        torch.zeros_like(tokens[:, 0], dtype=torch.bool),
    )
    with evaluating(model), tqdm(total=each, desc="sampling", unit="word", disable=not progress) as bar:
        while (least := int(counts.min())) < each:
            bar.update(least - bar.n)
            if tokens.shape[1] > limit:
                raise AnalysisError(
                    f"a text of {limit:,} characters from the model has {least} words; expected {each}: the model "
                    "hardly writes words, at this temperature; train it longer, or give fewer words"
                )
            logits = model(tokens[:, -model.cfg.n_ctx :], return_type="logits")[:, -1, :size]
            new = choose_token(logits, temperature, None, generator)
            tokens = torch.cat([tokens, new], dim=1)
            within = inside[new[:, 0]]
            counts += word & ~within
            word = (word | letter[new[:, 0]]) & within
        bar.update(each - bar.n)
    return [vocabulary.decode(row) for row in tokens.tolist()]
