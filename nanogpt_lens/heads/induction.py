"""Induction: how much, after [A][B] ... [A], the heads attend to [B] and the model predicts [B].

`prefix_matching` looks at the heads' attention; the other measures look at what the model predicts.
Random tokens take away everything but repetition; a corpus shows how much of the induction is left in text.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.choices import check_choice
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.model.access import Edit, Hooked, check_model, evaluating, look, n_tokens, provenance
from nanogpt_lens.model.plain import last_logits
from nanogpt_lens.results import Sample, Scores
from nanogpt_lens.running.batches import batches, losses
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.opened import Opened
from nanogpt_lens.text.prompts import Repeats, induction_pairs, random_tokens, repeated_tokens

Convention: TypeAlias = Literal["stripe", "olsson", "transformer_lens"]
"""The attention that counts as prefix matching, see `prefix_matching`."""

_DEFINITIONS: dict[str, str] = {
    "stripe": "mean attention from second-half queries to the token after the one they repeat (stripe)",
    "olsson": "attention from repeated tokens to all tokens that followed them earlier, summed (Olsson et al. 2022)",
    "transformer_lens": "pattern.diagonal(offset=1-seq_len).mean(), one first-half query included (TransformerLens)",
}


def prefix_matching(
    model: Hooked,
    corpus: Corpus | None = None,
    *,
    seq_len: int | None = None,
    n: int = 32,
    convention: Convention = "stripe",
    repeats: Repeats = "avoid",
    seed: int = 0,
) -> Scores:
    """How much each head attends, from a token that occurred before, to what followed it then.

    The tokens are random ids, or a window of a corpus, followed by the same ids again, with nothing in
    front: nanoGPT has no beginning-of-sequence token. A window of text has equal tokens in itself. "stripe"
    and "transformer_lens" go by position and count only the match one copy earlier, so that a head that
    shares its attention among all matches scores lower than on distinct ids; "olsson" counts all.

    "stripe": two copies of `seq_len` ids. Mean over the queries i of the second copy of the attention
    to position i - seq_len + 1. A perfect induction head scores exactly 1. (The induction stripe of
    TransformerLens' demos and ARENA, with second-half queries only.)

    "olsson": 25 ids, four copies; shorter sequences, then fewer copies, where the context or the
    vocabulary is small. Mean over the queries from the second copy on of the attention to all
    positions that directly follow an earlier occurrence of the query's token, summed. A perfect head scores 1,
    however it shares its attention among them. (Olsson et al. 2022, "Head activation evaluators". The
    key follows the earlier occurrence, as in their definition of prefix matching, "followed by" since
    the correction of 2022-09-20; the evaluator's text still says "preceded". They add a start token.)

    "transformer_lens": two copies; `pattern.diagonal(offset=1-seq_len).mean()`, as in TransformerLens'
    Main_Demo. Of its seq_len + 1 queries the first is the last of the first copy, where there is
    nothing to match: a perfect head scores seq_len / (seq_len + 1), plus 1 / (seq_len + 1) times its
    attention from there to position 0.

    Args:
        model: the model.
        corpus: held-out text of whose windows the sequences are copies, see `Corpus`; None for random ids.
        seq_len: the tokens of one copy; None for as many as context and vocabulary allow, at most 50 (25
            for "olsson").
        n: the number of sequences; of a corpus, the largest number.
        convention: see above.
        repeats: whether random ids in one copy may be equal; windows of a corpus stay as they are.
        seed: the seed of the ids, or of the choice of windows.

    Returns:
        Scores [layer, head], from 0 to 1; `chance` is uniform causal attention on the same tokens;
        intervals are over the sequences.

    Raises:
        AnalysisError: the convention is unknown, the copies do not fit the context, or the corpus does not
            fit the model; see `random_tokens`.
    """
    check_choice(Convention, convention=convention)
    check_whole(1, n=n)
    text = None if corpus is None else open_corpus(model, corpus)
    length, copies = _layout(model, seq_len, convention, seed, None if text is None else text.room())
    if text is None:
        tokens = repeated_tokens(model, seq_len=length, n=n, copies=copies, repeats=repeats, seed=seed)
        source = {"repeats": repeats}
    else:
        once = text.windows(seq_len=length, n=n, seed=seed)
        tokens = repeat(once, "example pos -> example (copy pos)", copy=copies)
        source = {"corpus": text.name}
    first = length - 1 if convention == "transformer_lens" else length
    matches = follows if convention == "olsson" else _stripe(length)
    with evaluating(model):
        scores = _attention_to_matches(model, tokens, matches, first)
    target = matches(tokens)[:, first:].double()
    uniform = 1 / torch.arange(first + 1, tokens.shape[1] + 1, dtype=torch.float64, device=tokens.device)
    chance = (target.sum(-1) * uniform).mean()
    columns = mean_fields(scores)
    return Scores(
        **columns,
        axes=("layer", "head"),
        quantity="prefix matching, attention from 0 to 1",
        definition=f"{_DEFINITIONS[convention]}; {copies} copies of {length} "
        f"{'random tokens' if text is None else f'tokens, windows of {text.name}'}; "
        "chance: uniform causal attention",
        chance=torch.full_like(columns["values"], chance.item()),
        title="prefix matching",
        tested="chance",
        unit="attention",
        sample=Sample(corpus=source.get("corpus"), n=len(tokens), seq_len=length, seed=seed),
        provenance=provenance(
            model, convention=convention, seq_len=length, copies=copies, n=len(tokens), **source, seed=seed
        ),
    )


def _layout(
    model: Hooked, seq_len: int | None, convention: Convention, seed: int, room: int | None = None
) -> tuple[int, int]:
    """The length of one copy, and the number of copies; AnalysisError unless context and seed allow them.

    What is not asked for stays below `room`, the length that a corpus has.
    """
    check_model(model)
    check_whole(seed=seed)
    n_ctx = model.cfg.n_ctx
    usual, most = (25, 4) if convention == "olsson" else (50, 2)
    if n_ctx < 4:
        raise AnalysisError(
            f"the model's context is {n_ctx} tokens; expected at least 4, because two copies of at least 2 tokens are "
            "looked at"
        )
    length = max(2, min(usual, n_tokens(model), n_ctx // most, room or usual)) if seq_len is None else seq_len
    check_whole(seq_len=length)
    if not 2 <= length <= n_ctx // 2:
        raise AnalysisError(
            f"seq_len is {length}; expected 2 to {n_ctx // 2}, half of the model's context of {n_ctx} tokens"
        )
    return length, min(most, n_ctx // length)


def _stripe(length: int) -> Callable[[Int[Tensor, "example pos"]], Bool[Tensor, "_ pos pos"]]:
    """The function from tokens to their matching keys: for each query the key after the one a copy earlier."""

    def matches(tokens: Int[Tensor, "example pos"]) -> Bool[Tensor, "1 pos pos"]:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return (place[None, :] == place[:, None] - length + 1)[None]

    return matches


def follows(tokens: Int[Tensor, "example pos"]) -> Bool[Tensor, "example pos pos"]:
    """Whether, for each query and key, the key directly follows an earlier occurrence of the query's token."""
    before = tokens.roll(1, dims=1)
    before[:, 0] = -1
    return (before[:, None, :] == tokens[:, :, None]).tril()


def _attention_to_matches(
    model: Hooked,
    tokens: Int[Tensor, "example pos"],
    matches: Callable[[Int[Tensor, "example pos"]], Bool[Tensor, "_ pos pos"]],
    first: int,
) -> Float[Tensor, "layer head example"]:
    """The attention to matching keys, the mean over queries from `first` on."""
    pieces = []
    for rows in batches(model, tokens):
        target = matches(tokens[rows])[:, None, first:]
        received: dict[int, Float[Tensor, "head example"]] = {}

        def keep(
            layer: int,
            target: Bool[Tensor, "_ 1 query key"] = target,
            received: dict[int, Float[Tensor, "head example"]] = received,
        ) -> Edit:
            def edit(pattern: Float[Tensor, "example head pos pos"]) -> None:
                wide = pattern if pattern.dtype == torch.float64 else pattern.float()
                received[layer] = (wide[:, :, first:] * target).sum(-1).mean(-1).T

            return edit

        look(model, tokens[rows], {f"blocks.{i}.attn.hook_pattern": keep(i) for i in range(model.cfg.n_layers)})
        pieces.append(torch.stack([received[layer] for layer in range(model.cfg.n_layers)]))
    return torch.cat(pieces, -1)


def repeated_and_unrepeated(
    model: Hooked, corpus: Corpus | Opened | None = None, *, seq_len: int | None = None, n: int = 32, seed: int = 0
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Sequences after themselves, and the same sequences each after another one of them.

    The second halves are the same, row by row. Where the vocabulary is small, unrepeated halves share
    tokens, and induction misleads there as it does in text.

    Args:
        model: the model, whose vocabulary and context the sequences fit.
        corpus: the text whose windows the sequences are; None for random tokens, distinct where possible.
        seq_len: the tokens of one sequence; None for as many as context and vocabulary allow, at most 50.
        n: the number of sequences, at least 2.
        seed: the seed of the choice.

    Returns:
        Two tensors of ids, of 2 * seq_len positions; the first halves of one are those of the other in other rows.

    Raises:
        AnalysisError: there are fewer than two sequences, or they do not fit the context.
    """
    check_whole(1, n=n)
    text = None if corpus is None else open_corpus(model, corpus)
    length, _ = _layout(model, seq_len, "stripe", seed, None if text is None else text.room(2))
    generator = torch.Generator().manual_seed(seed)
    if text is None:
        once = random_tokens(model, n, length, generator=generator)
    else:
        once = text.windows(seq_len=length, n=n, seed=seed)
        once = once[torch.randperm(len(once), generator=generator)]  # so that neighbours in the text are not in a row
    if len(once) < 2:
        raise AnalysisError(
            f"there is {len(once)} sequence of {length} tokens; expected at least 2: give n of 2 or more"
        )
    return torch.cat([once, once], 1), torch.cat([once.roll(1, dims=0), once], 1)


def repeated_sequence_loss(
    model: Hooked, corpus: Corpus | None = None, *, seq_len: int | None = None, n: int = 32, seed: int = 0
) -> Scores:
    """The loss of each token of sequences that are repeated, and of the same sequences after something else.

    A model with induction heads predicts the second copy from its second token on; the first token cannot
    be known. All conditions have the same second halves. After another sequence ("unrepeated") nothing is
    known of them; after their own tokens in random order ("shuffled") a model can know which tokens
    come, but not their order: what repetition gains beyond that is induction.

    Args:
        model: the model.
        corpus: the text whose windows the sequences are; None for uniform random tokens, distinct where
            possible, which are far from any text.
        seq_len: the tokens of one sequence; None for as many as context and vocabulary allow, at most 50.
        n: the number of sequences, at least 2.
        seed: the seed of the choice.

    Returns:
        Losses [condition, pos] in nats, "repeated", "shuffled" and "unrepeated", with intervals over the
        sequences; the labels of `pos` count from 0 and name the token that is predicted; `chance` is
        ln(vocabulary), a uniform guess.

    Raises:
        AnalysisError: see `repeated_and_unrepeated`.
    """
    text = None if corpus is None else open_corpus(model, corpus)
    repeated, unrepeated = repeated_and_unrepeated(model, text, seq_len=seq_len, n=n, seed=seed)
    count, length = len(repeated), repeated.shape[1] // 2
    order = torch.rand(count, length, generator=torch.Generator().manual_seed(seed)).argsort(1).to(repeated.device)
    shuffled = torch.cat([repeated.gather(1, order), repeated[:, length:]], 1)
    with evaluating(model):  # [condition, pos, example]
        loss = torch.stack([losses(model, tokens).double().T for tokens in (repeated, shuffled, unrepeated)])
    columns = mean_fields(loss)
    source = "uniform random ids" if text is None else text.name
    return Scores(
        **columns,
        axes=("condition", "pos"),
        labels={"condition": ("repeated", "shuffled", "unrepeated"), "pos": tuple(map(str, range(1, 2 * length)))},
        quantity="loss, nats per token",
        definition=f"{length} tokens of {source}, after themselves, after themselves in random order, or "
        "after another such sequence; chance: ln(vocabulary)",
        chance=torch.full_like(columns["values"], math.log(n_tokens(model))),
        title="loss",
        unit="nats per token",
        sample=Sample(corpus=None if corpus is None else source, n=count, seq_len=length, seed=seed),
        provenance=provenance(model, corpus=source, seq_len=length, n=count, seed=seed),
    )


def induction_accuracy(model: Hooked, *, seq_len: int | None = None, n: int = 256, seed: int = 0) -> Scores:
    """How often the model predicts [B] after `... [A][B] ... [A]`, and with what probability.

    The corrupted prompts are the same but for the first [A], so that nothing speaks for [B] but that it
    is in the prompt: their numbers are the control. `chance`, on the other hand, is computed: 1 over the
    number of different tokens in the prompt, which is what guessing one of its tokens gives. That is at
    least 1 / vocabulary, a uniform guess.

    Args:
        model: the model.
        seq_len: the tokens of a prompt; None for the context, the vocabulary or 32, whichever is shortest.
        n: the number of prompts.
        seed: the seed of their random tokens.

    Returns:
        Values [score, prompt], "accuracy" (the likeliest next token is [B]) and "probability"
        (of [B]) on "clean" and "corrupted" prompts, with intervals over the prompts.

    Raises:
        AnalysisError: see `prompts.induction_pairs`.
    """
    check_whole(1, n=n)
    check_whole(seed=seed, seq_len=0 if seq_len is None else seq_len)
    check_model(model)
    pair = induction_pairs(model, seq_len=0 if seq_len is None else seq_len, n=n, seed=seed)
    columns, chances = [], []
    with evaluating(model):
        for tokens in (pair.clean, pair.corrupted):
            last = torch.cat([last_logits(model, None, tokens[rows]) for rows in batches(model, tokens)])
            right = (last.argmax(-1) == pair.answer).double()
            probability = last.double().softmax(-1).gather(-1, pair.answer[:, None]).squeeze(-1)
            columns.append(torch.stack([right, probability]))
            chances.append(sum(1 / len(set(row)) for row in tokens.tolist()) / len(tokens))
    scores = torch.stack(columns, 1)  # [score, prompt, example]
    length = pair.clean.shape[1]
    return Scores(
        **mean_fields(scores),
        axes=("score", "prompt"),
        labels={"score": ("accuracy", "probability"), "prompt": ("clean", "corrupted")},
        quantity="prediction of [B], from 0 to 1",
        definition=f"[A][B]...[A] prompts of {length} random tokens; corrupted: the first [A] replaced; chance: 1 / "
        "different tokens in the prompt",
        chance=torch.tensor([chances, chances], dtype=torch.float64),
        title="prediction of [B]",
        sample=Sample(n=n, seq_len=length, seed=seed),
        provenance=provenance(model, seq_len=length, n=n, seed=seed),
    )
