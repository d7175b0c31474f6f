"""The words that a character model writes: how varied they are, and how many of them exist.

Distinct-n falls with the length of a text, so that the sampled pieces are compared with equally long pieces of
the training and of the validation part. Invented words are varied too: distinct-n above the validation part's,
with few words that exist, is no merit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from conversion.token_files import TokenFile
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields, pseudo_values
from nanogpt_lens.model.access import Hooked, check_model, device_of, evaluating, provenance
from nanogpt_lens.model.sampling import choose_token
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.text.datasets import TextData, read_data

LENGTHS = (1, 2, 3)
"""The numbers of words of the n-grams that are counted."""

SOURCES = ("sampled", "training", "validation")

_RUN = re.compile(r"(?:[^\W\d_]|['’])+")
_PATIENCE = 100
"""The number of characters per word above which a model is said to write no words."""


def text_quality(
    model: Hooked,
    corpus: TextData | TokenFile | str | Path,
    *,
    words: int = 2000,
    pieces: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> Scores:
    """How varied text from a character model is, and how many of its words exist, beside the text it was trained on.

    The text is sampled in `pieces` pieces, each after a line break, with the context cropped as nanoGPT crops it.
    The pieces of the training and of the validation part have as many words and are drawn without overlap.
    Words are those of `words_of`; n-grams cross no border between pieces.

    Args:
        model: a model with a character vocabulary.
        corpus: the text that the model was trained on, or anything from which `read_data` makes one.
        words: the number of words of each source, rounded down to whole words per piece.
        pieces: the number of pieces.
        temperature: the number that divides the logits: 1 for the model's own distribution, 0.8 for nanoGPT's
            sample.py (whose top_k of 200 changes nothing for up to 200 characters).
        seed: the seed of the sampling, of the choice of pieces and of the intervals.
        progress: show a bar.

    Returns:
        Values [score, source]. The scores are "distinct_1", "distinct_2" and "distinct_3", the different n-grams
        over all n-grams of the source, and "dictionary_words", the share of its words that occur in the training
        part, which is 1 for "training" by construction, and for "validation" what a perfect model could reach. The
        sources are "sampled", "training" and "validation". Intervals are over pieces; `per_example`
        [score, source, example] holds a piece's share of words, and jackknife pseudo-values of distinct-n.

    Raises:
        AnalysisError: the model has no vocabulary, or its tokens are no characters; the data are no characters,
            or have fewer words; the model hardly writes words; or an option is out of range.
        DataError: there are no such data.

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
    real = [_random_pieces(*part, each, pieces, generator) for part in (("training", train), ("validation", val))]
    written = [
        words_of(text)[:each]
        for text in _sampled_texts(model, vocabulary, each, pieces, temperature, seed, progress=progress)
    ]
    per_piece = torch.stack([_scores(source, frozenset(train)) for source in (written, *real)], dim=1)
    return Scores(
        **mean_fields(per_piece),
        axes=("score", "source"),
        labels={"score": (*(f"distinct_{n}" for n in LENGTHS), "dictionary_words"), "source": SOURCES},
        quantity="share of n-grams or words",
        definition=f"of {pieces} pieces of {each} words, sampled at temperature {temperature:g}, and of as many of "
        f"the training and validation part of {data.name}: different word n-grams over all word n-grams (Li et al. "
        "2016), and words that occur in the training part over all words; words are runs of letters and apostrophes "
        "in lower case, so that a hyphen separates two words; distinct-n falls with the number of words",
        sample=Sample(corpus=data.name, seed=seed),
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

    Everything else separates words, and so do hyphens: "well-known" is two words, "o'er" is one. A typographic
    apostrophe counts as a plain one; an apostrophe before or after a word belongs to the word.
    """
    runs = (run.lower().replace("’", "'") for run in _RUN.findall(text))
    return [run for run in runs if run.strip("'")]


def distinct(texts: Sequence[Sequence[str]], n: int) -> tuple[float, Float[Tensor, " piece"]]:
    """Different word n-grams over all word n-grams: of all pieces together, and of all pieces but each one.

    Args:
        texts: at least two pieces of equal length, each a list of at least `n` words.
        n: the number of words of an n-gram; none crosses from one piece into the next.
    """
    grams = [[tuple(text[i : i + n]) for i in range(len(text) - n + 1)] for text in texts]
    n_pieces_with = Counter(gram for piece in grams for gram in set(piece))
    only_here = torch.tensor([sum(n_pieces_with[gram] == 1 for gram in set(piece)) for piece in grams])
    per_piece = len(grams[0])
    value = len(n_pieces_with) / (per_piece * len(grams))
    return value, (len(n_pieces_with) - only_here.double()) / (per_piece * (len(grams) - 1))


def _scores(texts: Sequence[Sequence[str]], known: frozenset[str]) -> Float[Tensor, "score piece"]:
    """Each piece's scores: for distinct-n the jackknife's pseudo-values, for words the share that is `known`."""
    rows = []
    for n in LENGTHS:
        value, without = distinct(texts, n)
        rows.append(pseudo_values(without, without.new_tensor(value)))
    rows.append(torch.tensor([sum(w in known for w in text) / len(text) for text in texts], dtype=torch.float64))
    return torch.stack(rows)


def _characters(model: Hooked) -> CharVocabulary:
    """The model's character vocabulary; AnalysisError if it has none."""
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


def _random_pieces(name: str, words: list[str], each: int, pieces: int, generator: torch.Generator) -> list[list[str]]:
    """Pieces of `each` words of one part, drawn at random without overlap."""
    count = len(words) // each
    if count < pieces:
        raise AnalysisError(
            f"the {name} part has {len(words)} words; expected at least {each * pieces}, {pieces} pieces of {each}: "
            "give a longer text, or fewer words"
        )
    chosen = torch.randperm(count, generator=generator)[:pieces].sort().values.tolist()
    return [words[i * each : (i + 1) * each] for i in chosen]


def _sampled_texts(
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
    counts = torch.zeros(pieces, dtype=torch.long, device=device)  # whole words of each text
    word = torch.zeros_like(counts, dtype=torch.bool)  # whether the text ends in a word that goes on
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
