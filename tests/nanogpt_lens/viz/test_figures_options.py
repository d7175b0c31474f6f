"""What a user may get wrong is refused in a sentence; captions say what is known, and nothing more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import ResultError
from nanogpt_lens.results import LogitAttribution, Scores
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures import captioned, figure, retitled
from tests.making import write, write_meta
from tests.nanogpt_lens.viz.figure_helpers import CLEAN, CORRUPTED, TEXT, bars, corpus, model, named, result, shown

LONG = "How far each head's output may be replaced before the loss rises by a tenth"


def caption(made: Any, **options: Any) -> str:
    return figure(made, **options).layout.meta["caption"]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("head_importance", {"k": "many"}, r"^k is 'many'; expected a whole number, 1 or more$"),
        ("head_importance", {"k": 3}, r"^k=3 was given, but a heat map .* expected kind='bars' as well$"),
        ("activation_patching", {"k": 0}, r"^k is 0; expected a whole number"),
        ("attention_patterns", {"links": 2.5}, r"^links is 2.5; expected a whole number"),
        ("logit_lens", {"example": 3}, r"^there is no example 3; expected 0: the result is of one text$"),
        ("attention_rollout", {"example": True}, r"^there is no example True; expected 0"),
        ("logit_lens", {"pos": (0, 99)}, rf"^pos is \(0, 99\), but there are {len(TEXT)}; expected .* \(0, 44\)$"),
        ("logit_lens", {"pos": (-99, 3)}, r"^pos is \(-99, 3\), but there are"),
        ("head_taxonomy", {"k": 3}, r"^k=3 was given without score=: .* expected score= one of previous_token, "),
        ("head_taxonomy", {"kind": "bars"}, r"^kind='bars' was given without score=: .* expected score= one of prev"),
        ("attention_patterns", {"layer": "1", "head": 2}, r"^layer is '1', but .* no labels; expected .* from 0 to 3$"),
        ("head_importance", {"title": 5}, r"^title is 5; expected text$"),
        ("attention_patterns", {"kind": "paths"}, r"^kind is 'paths'; expected one of heads, rollout$"),
    ],
)
def test_what_is_wrong_is_refused(name, options, sentence):
    with pytest.raises(ResultError, match=sentence):
        figure(result(name), **options)


def test_what_is_right_is_not():
    lens = result("logit_lens")
    assert len({column for _, column in shown(figure(lens, pos=(0, len(TEXT))))}) == len(TEXT)
    assert list(dict.fromkeys(column for _, column in shown(figure(lens, pos=(-4, -1))))) == [
        f"{i} {TEXT[i]}".replace(" ", "·").replace("·", " ", 1) for i in range(len(TEXT) - 4, len(TEXT) - 1)
    ]
    assert figure(lens, example=-1).to_json() == figure(lens).to_json()
    assert len(bars(figure(result("head_taxonomy"), score="induction", kind="bars", k=3))) == 3
    assert len(bars(figure(result("head_importance"), kind="bars"))) == 16


def test_rollout_has_its_own_name_and_the_old_one_is_taken():
    drawn = figure(result("attention_patterns"), kind="rollout", pos=4)
    assert drawn.layout.title.text.startswith("Rollout to position 4 t: ")
    assert figure(result("attention_patterns"), kind="flow", pos=4).to_json() == drawn.to_json()


def test_the_answer_is_named_by_its_text_where_the_result_has_it():
    text = "First First"
    made = ngl.direct_logit_attribution(model(), text, "r", " ", pos=list(range(11)))
    assert isinstance(made, LogitAttribution)
    assert caption(made, pos=3).startswith("Answer: “r”, minus that of “·”. ")
    elsewhere = ngl.direct_logit_attribution(model(), text, "z")
    assert "Answer: “z”. " in caption(elsewhere)
    without = replace(elsewhere, strings={})  # as of a model without a vocabulary
    assert f"Answer: token id {int(elsewhere.answer[0])}. " in caption(without)


def test_lists_of_many_examples_are_short():
    ids = torch.tensor([2, 7, 17, 21])
    made = ngl.path_patching(
        model(),
        CLEAN,
        CORRUPTED,
        ngl.metrics.answer_logprob(ids),
        senders="heads",
        receivers=["logits"],
        progress=False,
    )
    assert "[2, 7, 17, 21]" in made.quantity
    assert caption(made).startswith("log-probability of [2, 7, ... (4 in all)] at position -1")
    plain = Scores(values=torch.ones(2), axes=("score",), quantity="score", definition="")
    for definition, said in (
        ("of ['a', 'it\\'s, [1]', \"b\", 'c'] here", "Of ['a', 'it\\'s, [1]', ... (4 in all)] here."),
        ("of [1, 2, 3] and [A][B]", "Of [1, 2, 3] and [A][B]."),
        (f"of {list(range(32))}", "Of [0, 1, ... (32 in all)]."),
    ):
        assert said in caption(replace(plain, definition=definition))


def test_an_interval_that_is_not_ours_is_as_given():
    ours = result("head_importance")
    assert "Intervals: 95% interval (Student's t over " in caption(ours)
    theirs = Scores(
        values=ours.values, low=ours.low, high=ours.high, axes=ours.axes, quantity=ours.quantity, definition="mine"
    )
    assert caption(theirs) == "Mine. Intervals: low to high as given."
    for kind in ("heatmap", "bars"):
        assert "95%" in str(figure(ours, kind=kind).to_json())
        assert "95%" not in str(figure(theirs, kind=kind).to_json())
    line = Scores(
        values=torch.rand(2, 6),
        axes=("condition", "pos"),
        quantity="loss",
        definition="mine",
        low=torch.zeros(2, 6),
        high=torch.ones(2, 6),
        labels={"condition": ("one", "two")},
    )
    assert caption(line) == "Dotted: the second half begins. Bands: low to high as given. Mine."
    assert named(figure(line), "one, low to high").fill == "toself"


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("n", "batches"), [(5, 1), (33, 1), (40, 2)])
def test_importance_says_over_what_the_mean_is(tmp_path, ablation, n, batches):
    """2,048 tokens at a time are 32 sequences of 64; a last one alone goes to those before it."""
    write_meta(tmp_path)
    small = ngl.load(write(tmp_path, block_size=64))
    made = ngl.head_importance(small, corpus(), source=ablation, seq_len=64, n=n, progress=False)
    assert f"{n} sequences of 64 tokens of the corpus" in made.definition
    end = made.definition.split("of the corpus")[1]
    of = "{} batch of up to 32 of them" if batches == 2 else "all of them"
    expected = {
        "zero": "",
        "mean": f"; the mean is taken over {of.format('each')}",
        "resample": f"; the other sequence is drawn from {of.format('the same')}",
    }
    assert end == expected[ablation]


def test_of_a_corpus_only_the_name_of_its_file(tmp_path: Path):
    file = tmp_path / "my texts (old)" / "play.txt"
    file.parent.mkdir()
    file.write_text(corpus(), encoding="utf-8")
    made = ngl.directions.principal_components(model(), file, "resid_post", layer=1, progress=False)
    assert str(file) in made.definition
    assert "tokens of play.txt, read in" in caption(made)
    assert "my texts" not in caption(made)


def test_a_score_without_values_has_no_panel():
    made = result("measure_convergence")
    values = made.values.clone()
    values[made.labels["score"].index("bits_per_char")] = torch.nan
    bare = replace(made, values=values)

    def panels(drawn: go.Figure) -> list[str]:
        return [note.text for note in drawn.layout.annotations if note.name != "caption"]

    assert "bits per character" in panels(figure(made))
    assert panels(figure(bare)) == [text for text in panels(figure(made)) if text != "bits per character"]
    with pytest.raises(ResultError, match=r"^bits_per_char has no value here; expected"):
        figure(bare, score="bits_per_char")
    lens = replace(result("logit_lens"), bits_per_char=torch.full_like(result("logit_lens").bits_per_char, torch.nan))
    assert "bits per character" not in panels(figure(lens, kind="curves"))


def test_titles_take_the_width_that_there_is():
    made = result("head_importance")
    lines = {w: figure(made, title=LONG, width=w).layout.title.text.split("<br>") for w in (None, 360, 500, 760)}
    assert [len(lines[w]) for w in (760, 500, 360)] == [1, 2, 2]
    assert len(lines[None]) == 2
    assert all(" ".join(found) == LONG for found in lines.values())
    for width in (360, 500, 760):
        assert all(dejavu(line) <= width - 20 for line in lines[width])
    own = "Loss without the head, by layer and by head"
    assert len(own) == 43
    assert figure(made, title=own).layout.title.text == own


def test_a_picture_of_a_known_width_has_its_title_in_lines_for_it():
    made = result("head_importance")
    for width, before in ((760, None), (360, None), (760, 360), (360, 760)):
        drawn = figure(made, title=LONG, width=before)
        directly = figure(made, title=LONG, width=width)
        again = captioned(retitled(drawn, width), width).update_layout(width=width)
        assert json.loads(str(again.to_json())) == json.loads(str(directly.to_json()))
    mine = figure(made).update_layout(title={"text": "one<br><i>two</i>"})
    assert json.loads(str(retitled(go.Figure(mine), 360).to_json())) == json.loads(str(mine.to_json()))


def test_a_word_wider_than_the_line_is_broken():
    text = "W" * 50 + " " + "<" * 3
    lines = style.fitted(text, 300, 15).replace("\u2060", "").split("<br>")
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(dejavu(line) <= 300 for line in lines)
    assert style.fitted("", 300) == ""


def dejavu(text: str) -> float:
    """Pixels of a title in DejaVu Sans itself."""
    from PIL import ImageFont

    try:
        font = ImageFont.truetype("DejaVuSans.ttf", 100)
    except OSError:
        pytest.skip("DejaVu Sans is not installed")
    return font.getlength(text) * 15 / 100
