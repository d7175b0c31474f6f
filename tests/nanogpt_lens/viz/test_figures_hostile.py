"""Tokens and names that try something: they are text, recognisable and apart, in every place of a figure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from nanogpt_lens.results import AttentionPatterns, Result, Scores, SeparatingNeurons
from nanogpt_lens.viz.figures import figure, uncaptioned
from tests.hostile import HOSTILE, plain
from tests.nanogpt_lens.viz.figure_helpers import result, texts

TOKENS = tuple(HOSTILE)
LONG = "x" * 200
PREDICATE = "re:</script><script>window.pwned=1</script>"


def check(drawn: Any) -> str:
    """Nothing of the figure's text can begin a tag, an entity or a variable of ours; returns all of it."""
    whole = drawn.to_dict()
    whole["layout"].pop("meta")  # plain text, for a page that escapes it
    every = list(texts(whole))
    for text in every:
        ours = text.replace("<br>", "").replace("<extra></extra>", "")
        assert not re.search(r"<(?!\u2060)", ours), text
        assert not re.search(r"&(?!\u2060)", ours), text
        assert not re.search(r"[\x00-\x1f\u2028\u202e\ud800-\udfff]", ours), ascii(text)
    json.loads(drawn.to_json().encode("utf-8"))
    return plain("\n".join(every))


def distinct(labels: Any) -> bool:
    return len(set(labels)) == len(labels)


def patterns() -> AttentionPatterns:
    n = len(TOKENS)
    values = torch.rand(2, 2, n, n, generator=torch.Generator().manual_seed(0)).tril()
    return AttentionPatterns(
        values=values / values.sum(-1, keepdim=True),
        axes=("layer", "head", "dest_pos", "src_pos"),
        labels={"dest_pos": TOKENS, "src_pos": TOKENS},
        quantity="attention probability",
        definition="made up",
        tokens=torch.arange(n),
    )


def test_axes_of_a_heat_map():
    drawn = figure(patterns(), layer=1, head=0)
    shown = check(drawn)
    trace = drawn.data[0]
    assert distinct(trace.x)
    assert distinct(trace.y)
    for i, token in enumerate(TOKENS):
        recognised = HOSTILE[token][:6] if len(token) > 12 else HOSTILE[token]
        assert recognised in shown, ascii(token)
        assert plain(trace.x[i]).startswith(f"{i} "), "a number in front keeps equal tokens apart and numbers text"


def test_nodes_of_a_sankey():
    drawn = figure(patterns(), kind="rollout", links=400)
    check(drawn)
    assert "2060" not in drawn.layout.title.text, "escaped once"
    assert any("script>" in plain(label) for label in drawn.data[0].node.label)
    flow = Result(
        values=torch.rand(len(TOKENS)),
        axes=("src_pos",),
        labels={"src_pos": TOKENS},
        quantity="attention flow",
        definition="maximum flow from position 1",
    )
    assert "img/src=x/" in check(figure(flow))


def test_repeated_tokens_and_numbers_stay_apart():
    tokens = ("7", "7", "7.0", "", "", " ", "\n", "a", "a")
    n = len(tokens)
    made = Result(
        values=torch.rand(2, n, n),
        axes=("layer", "dest_pos", "src_pos"),
        quantity="attention rollout",
        labels={"dest_pos": tokens, "src_pos": tokens},
        definition="made up",
    )
    drawn = figure(made)
    assert list(drawn.data[0].x) == ["0 7", "1 7", "2 7.0", "3 ∅", "4 ∅", "5 ·", "6 ↵", "7 a", "8 a"]
    assert drawn.layout.xaxis.type == "category"


def test_long_tokens_are_cut():
    made = replace(patterns(), labels={"dest_pos": (LONG,) * len(TOKENS), "src_pos": (LONG,) * len(TOKENS)})
    drawn = figure(made, layer=0, head=0)
    assert distinct(drawn.data[0].x)
    assert max(map(len, drawn.data[0].x)) < 20
    assert drawn.layout.margin.l < 160


def test_cells_of_the_lens_table():
    made = result("logit_lens")
    ids = sorted(map(int, made.strings))
    strings = {str(token): TOKENS[i % len(TOKENS)] for i, token in enumerate(ids)}
    shown = check(figure(replace(made, strings=strings)))
    assert "img/s" in shown
    cells = figure(replace(made, strings={str(token): LONG for token in ids})).data[0].text
    assert max(len(plain(cell)) for row in cells for cell in row) <= 7


def test_bars_of_tokens():
    n = len(TOKENS)
    made = Scores(
        values=torch.linspace(-1, 1, n),
        chance=torch.full((n,), 0.1),
        axes=("token",),
        labels={"token": TOKENS},
        quantity="logit, mean-free",
        definition="made up",
    )
    drawn = figure(made, k=100)
    assert "img/src=x/" in check(drawn)
    assert distinct(drawn.data[0].y)
    assert len(drawn.data[0].y) == n
    same = figure(replace(made, labels={"token": ("a",) * n}), k=100)
    assert distinct(same.data[0].y)


def test_what_precedes_a_hit():
    made = result("ablate_neurons")
    hits = tuple((before, TOKENS[i % len(TOKENS)]) for i, (before, _) in enumerate(made.hit_texts))
    hostile = replace(made, hit_texts=tuple((f"{before}<img/src=x>", token) for before, token in hits))
    drawn = figure(hostile, kind="hits", k=20)
    assert "img/src=x>" in check(drawn)
    assert distinct(drawn.data[0].y)


def test_similar_directions():
    made = result("direction_similarity")
    hostile = replace(made, texts=tuple(TOKENS[i % len(TOKENS)] for i in range(len(made.texts))))
    check(figure(hostile, which="embedding", k=40))


def test_names_of_scores_in_legends_panels_and_hover_texts():
    names = ("<b>bold</b>", "%{x}", "&lt;")
    values = torch.rand(3, 2, 2)
    made = Scores(values=values, axes=("score", "layer", "head"), labels={"score": names}, quantity="q", definition="d")
    drawn = figure(made)
    assert "<b>bold</b>" in check(drawn)
    assert not any("%{x}:" in (trace.hovertemplate or "").replace("%{y}.%{x}:", "") for trace in drawn.data)
    steps = Scores(
        values=torch.rand(4, 3),
        axes=("step", "score"),
        quantity="<i>score</i>",
        definition="d",
        labels={"step": ("0", "1", "2", "3"), "score": names},
    )
    drawn = figure(steps)
    assert "<b>bold</b>" in check(drawn)
    hover = next(trace.hovertemplate for trace in drawn.data if "x}" in trace.name)
    assert "%\u2060{x}" in hover


def test_steering_scores_with_hostile_tokens():
    made = result("steering_effect")
    labels = list(made.labels["score"])
    names = {label: label.replace("'e'", "'<img/src=x/onerror=window.pwned=1>'") for label in labels}
    hostile = replace(made, labels={**made.labels, "score": tuple(names.values())})
    assert "img/src=x/onerror" in check(figure(hostile))


@pytest.mark.parametrize(
    "name", ["activation_patching", "find_neurons", "prefix_matching", "search_neurons", "five axes"]
)
def test_definitions_quantities_titles_and_checkpoints(name):
    made = result(name)
    called = {"predicate": PREDICATE} if isinstance(made, SeparatingNeurons) else {}
    origin = {"checkpoint": "/home/<b>me</b>/&lt;\u202e.pt", "checkpoint_sha256": "ab" * 32}
    hostile = replace(
        made,
        definition=f"{made.definition}; {' '.join(TOKENS)}",
        quantity=f"{made.quantity} <b>&lt;\x00",
        provenance={**made.provenance, **origin},
        **called,
    )
    drawn = figure(hostile)
    shown = check(drawn)
    assert "window.pwned=1" in shown
    bare, caption = uncaptioned(drawn)
    check(bare)
    assert "<img/src=x/onerror=window.pwned=1>" in caption, "plain text: the page escapes it"
    assert "/home" not in caption
    assert "\x00" not in caption
    assert "\u202e" not in caption
    titled = figure(hostile, title="<script>window.pwned=1</script> & more")
    check(titled)
