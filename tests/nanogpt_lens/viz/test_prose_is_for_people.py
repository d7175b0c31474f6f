"""Other prose, the same picture: quantity, definition and provenance are for people, and nothing reads them as data.

Every word of a result's prose is replaced letter by letter (a by z, b by y, and so on). A figure of it may then differ
only in such words: each string has as many words as before, and each word is the same or the other alphabet's. Numbers,
colours and the number and order of everything are the same; only what the width of words decides may differ: where
lines are broken, and how much room they take.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import Result
from nanogpt_lens.viz.figures import figure
from tests.nanogpt_lens.viz.figure_helpers import RESULTS, result

pytestmark = pytest.mark.slow  # every figure twice

OTHER = str.maketrans(string.ascii_letters, string.ascii_lowercase[::-1] + string.ascii_uppercase[::-1])
ROOM = ("height", "margin", "pad", "yshift", "ay", "y", "domain")
"""What the width of words decides in a layout."""


def in_other_words(value: Any) -> Any:
    """Every string in a value in the other alphabet; keys and numbers as they are."""
    if isinstance(value, str):
        return value.translate(OTHER)
    if isinstance(value, Mapping):
        return {key: in_other_words(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [in_other_words(part) for part in value]
    return value


def with_other_prose(made: Result) -> Result:
    """The same result in other words; the checkpoint is a path, not prose, and stays."""
    kept = {key: made.provenance[key] for key in ("checkpoint", "checkpoint_sha256") if key in made.provenance}
    return replace(
        made,
        quantity=in_other_words(made.quantity),
        definition=in_other_words(made.definition),
        provenance={**in_other_words(made.provenance), **kept},
    )


def same_but_for_words(one: str, other: str) -> bool:
    """Whether two strings have the same words, some of them in the other alphabet."""
    pairs = [text.replace("<br>", " ").split() for text in (one, other)]
    return len(pairs[0]) == len(pairs[1]) and all(a == b or _translated(a, b) for a, b in zip(*pairs, strict=True))


def _translated(one: str, other: str) -> bool:
    """Whether each letter is the same or the other alphabet's: a word may be glued to one of ours, as in "(a)"."""
    return len(one) == len(other) and all(a == b or a.translate(OTHER) == b for a, b in zip(one, other, strict=True))


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """The places where two figures differ in more than words and the room that these take."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            yield f"{place}: {sorted(one.keys() ^ other.keys())}"
        for key in one.keys() & other.keys():
            if not (place.startswith("/layout") and key in ROOM):
                yield from differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{place}: {len(one)} and {len(other)} entries"
        for i, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{place}/{i}")
    elif isinstance(one, str) and isinstance(other, str):
        if not same_but_for_words(one, other):
            yield f"{place}: {one!r} and {other!r}"
    elif one != other:
        yield f"{place}: {one!r} and {other!r}"


def options_of(made: Result) -> list[dict[str, Any]]:
    """Several ways to draw a result; a figure refuses those that it does not have."""
    every = [{}, *({"kind": kind} for kind in ("bars", "curves", "heatmap", "table", "all", "depth", "distribution"))]
    return every + [{"score": score} for score in made.labels.get("score", ())]


@pytest.mark.parametrize("name", RESULTS)
def test_the_figure_hangs_on_no_word(name):
    made = result(name)
    other = with_other_prose(made)
    drawn = 0
    for options in options_of(made):
        try:
            expected = figure(made, **options)
        except ResultError:
            with pytest.raises(ResultError):
                figure(other, **options)
            continue
        drawn += 1
        one, two = (json.loads(each.to_json(engine="json")) for each in (expected, figure(other, **options)))
        assert not list(differences(one, two)), (name, options)
    assert drawn


@pytest.mark.parametrize("name", RESULTS)
def test_tables_summaries_and_verdicts_hang_on_no_word(name):
    made = result(name)
    other = with_other_prose(made)
    assert made.to_dataframe().equals(other.to_dataframe())
    assert made.top(5).equals(other.top(5))
    assert made._summary() == other._summary()
    for verdict in ("verdict", "mark", "carries", "formed"):
        one, two = getattr(made, verdict, None), getattr(other, verdict, None)
        one, two = (said() if callable(said) else said for said in (one, two))
        assert str(one) == str(two)


@pytest.mark.parametrize("name", ["attention_rollout", "attention_flow, all", "attention_patterns", "logit_lens"])
def test_the_widget_hangs_on_no_word(name):
    one, two = (made.widget() for made in (result(name), with_other_prose(result(name))))
    assert (one.component, one.height) == (two.component, two.height)
    assert same_but_for_words(one.caption, two.caption)
    assert not list(differences(one.props, two.props))


def test_the_test_sees_a_word_that_is_read():
    """The old rules, each on a result that they read, would be found."""
    made = result("attention_flow")
    one, two = (figure(each).to_dict() for each in (made, replace(made, pos=None)))
    assert list(differences(json.loads(json.dumps(one, default=str)), json.loads(json.dumps(two, default=str))))
    assert same_but_for_words("Rise of the loss", "Irhv lu gsv loss")
    assert not same_but_for_words("Tuned lens", "Logit lens")
