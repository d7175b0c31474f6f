"""What clients may ask with: texts, ids and prompt pairs, bounded, and never a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.access import Hooked, as_tokens, evaluating, n_tokens, run, single_token
from nanogpt_lens.model.encoding import encode_text
from nanogpt_lens.server.mcp_script import Script

MOST_LETTERS = 4096
MOST_IDS = 4096
MOST_PAIRS = 64
MOST_INTERVENTIONS = 32
MOST_ROWS = 50

Ids: TypeAlias = Annotated[list[int], Field(max_length=MOST_IDS)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**31, description="of everything that is drawn")]
Name: TypeAlias = Annotated[str, Field(max_length=200, description="the model's name, as `describe` lists it")]
Rows: TypeAlias = Annotated[int, Field(ge=1, le=MOST_ROWS, description="how many rows come back at most")]
Drawn: TypeAlias = Literal["induction", "own_text"]


class PairArgument(BaseModel):
    """A clean prompt and a corrupted one, which calls for another token."""

    model_config = ConfigDict(extra="forbid", title="Pair")
    clean: Annotated[str, Field(max_length=MOST_LETTERS)] | Ids
    corrupted: Annotated[str, Field(max_length=MOST_LETTERS)] | Ids
    answer: Annotated[str, Field(max_length=100)] | int | None = Field(
        default=None, description="the token that the clean prompt calls for; null for the model's own top token"
    )
    wrong: Annotated[str, Field(max_length=100)] | int | None = Field(
        default=None, description="the token that the corrupted prompt calls for; null for the model's own top token"
    )


def text_or_ids(text: str, ids: Sequence[int] | None, model: Hooked, *, is_corpus: bool = False) -> list[int]:
    """The ids of what was given.

    Args:
        text, ids: one of them.
        model: the model.
        is_corpus: whether it may be longer than the model's context.

    Raises:
        AnalysisError: nothing was given, or both, or what does not fit the model.
    """
    if bool(text) == (ids is not None):
        given = "both were given" if text else "neither was given"
        raise AnalysisError(f"text or ids: {given}; expected one of them, and not empty")
    if is_corpus and text:
        return encode_text(model, text).tolist()
    if is_corpus and ids:
        return [token_of(model, token, "an id") for token in ids]
    return as_tokens(model, text if ids is None else list(ids))[0].tolist()


def token_of(model: Hooked, token: str | int, name: str) -> int:
    """The id of one token, as text or id.

    Raises:
        AnalysisError: it is no token of the model.
    """
    if isinstance(token, str):
        return single_token(model, token, name)
    if not 0 <= token < n_tokens(model):
        raise AnalysisError(f"{name} is {token}; expected an id from 0 to {n_tokens(model) - 1}, or a token as text")
    return token


@dataclass(frozen=True, kw_only=True)
class AskedPairs:
    """Prompt pairs as ids.

    Attributes:
        clean, corrupted: the prompts.
        answer, wrong: one token for each pair.
        about: where they come from, in words.
    """

    clean: list[list[int]]
    corrupted: list[list[int]]
    answer: list[int]
    wrong: list[int]
    about: str

    def __len__(self) -> int:
        return len(self.clean)

    def part(self, places: slice) -> AskedPairs:
        """Some of them."""
        return AskedPairs(
            clean=self.clean[places],
            corrupted=self.corrupted[places],
            answer=self.answer[places],
            wrong=self.wrong[places],
            about=self.about,
        )

    def named_in(self, script: Script, end: str = "") -> tuple[Any, Any, Any]:
        """The clean prompts, the corrupted ones and the metric, with names in the script."""
        clean = script.name(f"clean{end}", self.clean)
        corrupted = script.name(f"corrupted{end}", self.corrupted)
        metric = script.call(f"metric{end}", "ngl.metrics.logit_diff", self.answer, self.wrong)
        return clean, corrupted, metric


def asked_pairs(model: Hooked, pairs: Sequence[PairArgument], drawn: Drawn | None, n: int, seed: int) -> AskedPairs:
    """The pairs that a client gave, or those that are drawn for it.

    Raises:
        AnalysisError: both or neither; prompts of different lengths, or equal ones; too few that can be drawn.
    """
    if bool(pairs) == (drawn is not None):
        given = "both were given" if pairs else "neither was given"
        raise AnalysisError(f"pairs or drawn: {given}; expected pairs of your own, or drawn='induction' or 'own_text'")
    if drawn == "induction":
        return _induction(model, n, seed)
    if drawn == "own_text":
        return _from_own_text(model, n, seed)
    return _given(model, pairs)


def _given(model: Hooked, pairs: Sequence[PairArgument]) -> AskedPairs:
    rows = [[as_tokens(model, prompt)[0] for prompt in (pair.clean, pair.corrupted)] for pair in pairs]
    lengths = sorted({len(prompt) for row in rows for prompt in row})
    if len(lengths) > 1:
        raise AnalysisError(
            f"the prompts have {' and '.join(map(str, lengths))} tokens; expected one length, because nothing pads"
        )
    for i, (clean, corrupted) in enumerate(rows):
        if torch.equal(clean, corrupted):
            raise AnalysisError(f"the prompts of pair {i} are equal; expected two that differ in some token")
    with evaluating(model):
        tops = [[int(run(model, p[None])[0, -1, : n_tokens(model)].argmax()) for p in row] for row in rows]
    answer, wrong = (
        [
            top[at] if (token := getattr(pair, name)) is None else token_of(model, token, f"{name} of pair {i}")
            for i, (pair, top) in enumerate(zip(pairs, tops, strict=True))
        ]
        for at, name in enumerate(("answer", "wrong"))
    )
    for i, (right, other) in enumerate(zip(answer, wrong, strict=True)):
        if right == other:
            raise AnalysisError(
                f"answer and wrong of pair {i} are the same token ({right}); expected two, which the clean and the "
                "corrupted prompt call for"
            )
    clean, corrupted = ([row[at].tolist() for row in rows] for at in (0, 1))
    return AskedPairs(clean=clean, corrupted=corrupted, answer=answer, wrong=wrong, about="the pairs that were given")


def _induction(model: Hooked, n: int, seed: int) -> AskedPairs:
    from nanogpt_lens.text.prompts import induction_pairs

    drawn = induction_pairs(model, n=n, seed=seed)
    return AskedPairs(
        clean=drawn.clean.tolist(),
        corrupted=drawn.corrupted.tolist(),
        answer=drawn.answer.tolist(),
        wrong=drawn.wrong.tolist(),
        about=f"{n} pairs of random tokens [A][B] ... [A], the first [A] replaced in the corrupted one",
    )


def _from_own_text(model: Hooked, n: int, seed: int) -> AskedPairs:
    from nanogpt_lens.text.pairs import find_prompt_pairs

    drawn = find_prompt_pairs(model, k=n, n=128, seed=seed)
    return AskedPairs(
        clean=[one.clean.tolist() for one in drawn],
        corrupted=[one.corrupted.tolist() for one in drawn],
        answer=[one.answer for one in drawn],
        wrong=[one.wrong for one in drawn],
        about=f"{len(drawn)} pairs from text that the model writes: an edit of one token that changes its answer",
    )
