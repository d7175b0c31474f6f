"""What finding (d) of `docs/RESULTS.md` says between its tables is what `docs/results.json` holds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from scripts.notebook_claims import Claims, pieces, uncovered
from tests.test_results_prose import ends, text_of

ROOT = Path(__file__).resolve().parent.parent
HEADING = "(d) Do heads attend to syntax?"


def section() -> str:
    """The prose of finding (d)."""
    return text_of("RESULTS.md").partition(HEADING)[2].partition("## (")[0]


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "docs" / "results.json").read_text(encoding="utf-8"))["syntax"]


def syntax(says, holds, defines, found):
    """Finding (d)."""
    seeds, best, attending, ends_of = found["best"], found["best"], found["attending"], found["ends"]
    line = [best[seed]["own_line_break"] for seed in seeds]
    holds("By the rule that we had written down one class holds", found["holds"] == ["own_line_break"])
    says("It gets 32% to 42% of a head's attention", *ends(one["values"] for one in line))
    says("where distance alone would give 3%", sum(one["chance"] for one in line) / 3)
    says("and 0.21 to 0.26 more than an earlier newline", *ends(one["beyond"] for one in line))
    holds("for thirteen classes of places", len(found["classes"]) == 13)
    often = {name: sum(bool(heads) for heads in by_seed.values()) for name, by_seed in attending.items()}
    holds("2 of 3 each", all(often[name] == 2 for name in ("own_word_break", "own_word_start", "word_start")))
    holds("the other letters of one's own word", often["own_word_middle"] == 1)
    holds("0 of 3 each", sum(often.values()) == 3 + 3 * 2 + 1)
    prefers = {
        name: [
            ends_of[seed][name]["preference"][int(head[0])][int(head[2])]
            for seed in seeds
            for head in attending[name][seed]
        ]
        for name in attending
    }
    says("prefer their own line's by 0.12 to 0.33 nats", *ends(prefers["own_line_break"]))
    says("(0.28 to 0.32)", *ends(max(ends_of[s]["own_line_break"]["preference"][0]) for s in seeds))
    says("prefer other spaces (by 0.8 and 2.5 nats)", *ends(-v for v in prefers["own_word_break"]))
    inside = [max(ends_of[seed]["own_word_start"]["preference"][2]) for seed in seeds]
    says("by 1.7 to 2.7 nats (5 to 16 times as much)", *ends(inside), *ends(math.exp(v) for v in inside))
    low = max(abs(v) for seed in seeds for v in ends_of[seed]["own_word_start"]["preference"][0])
    says("where layer 0 has at most 0.02", low)
    control = found["control"]
    says("head 1.0 prefers those of words by 2.6 nats", control["best"]["word_start"]["preference"])
    says("and those of lines by 4.3", control["best"]["line_start"]["preference"])
    says("head 1.0 prefers it by 0.04", control["best"]["own_word_start"]["preference"])
    drawn = {name for name, heads in control["attending"].items() if heads}
    holds("to nothing else", all(name.endswith("_start") and name != "own_word_start" for name in drawn))
    holds("three of its heads attend", len({head for heads in control["attending"].values() for head in heads}) == 3)
    cost = [found["knocked_out"][seed]["own_line_break"] for seed in seeds]
    says("rises by 0.056 to 0.076 nats", *ends(of["class"]["rise"][0] for of in cost))
    less = [of["class"]["per_attention"][0] / of["shifted"]["per_attention"][0] for of in cost]
    says("per unit of attention 3.4 to 4.9 times less", *ends(less))
    says(
        "elsewhere takes a tenth of the attention and costs 0.001 to 0.002 nats",
        *ends(o["shifted"]["rise"][0] for o in cost),
    )
    holds("takes a tenth", all(0.08 < o["shifted"]["attention"] / o["class"]["attention"] < 0.12 for o in cost))
    further = {s: max(map(max, found["ends"][s]["own_line_break"]["preference"])) for s in seeds}
    says("up to 0.49 and 0.54 in two seeds and to 1.26 in the third", further["1339"], further["1338"], further["1337"])
    predictions(says, holds, found, often)
    defines("above distance, and beyond characters by less than 0.05")
    defines("layer 0 goes beyond characters by less than 0.05")
    defines("what holds is 0.1 beyond characters between")
    defines("Left, the last line break: layers 1 and 2 rise from iteration 100 on to 0.2 or 0.3.")
    defines("layer 2 rises after iteration 300, to 0.1, 0.2 and 0.3")


def predictions(says, holds, found, often):
    """The table of verdicts."""
    seeds, best, training = found["best"], found["best"], found["training"]
    says("in the third it is 0.11 beyond characters", best["1339"]["own_word_start"]["beyond"])
    further = [s for s in seeds if best[s]["own_word_break"]["beyond"] > best[s]["own_word_start"]["beyond"]]
    holds("two of three, and further in one of them", further == ["1338"])
    per_letter = [best[s]["own_word_middle"]["beyond"] / found["classes"]["own_word_middle"]["places"] for s in seeds]
    holds(
        "less per letter than the start",
        often["own_word_middle"] < 3
        and all(v < best[s]["own_word_start"]["beyond"] for v, s in zip(per_letter, seeds, strict=True)),
    )
    says("holds: 0.17 to 0.26 above; 5% of the places", *ends(above(found, "same_name")), told(found, "same_name"))
    for name in ("word_start", "speaker_name", "vowel_after_consonant"):
        holds("above distance, 3 of 3 each", all(lowest_p(found, name, s) < 0.05 for s in seeds))
    highest = {n: max(best[s][n]["beyond"] for s in seeds) for n in ("word_start", "vowel_after_consonant")}
    says("for first letters (up to 0.17) and vowels (up to 0.12)", *highest.values())
    holds("right for names", all(best[s]["speaker_name"]["beyond"] < 0.05 for s in seeds))
    first = [v for of in found["ends"].values() for numbers in of.values() for v in numbers["beyond"][0]]
    says("holds: at most 0.04. Downwards it reaches -0.07", max(first), min(first))
    says("of whose places 4% can be told apart", told(found, "same_name"))
    line = {seed: classes["own_line_break"] for seed, classes in training.items()}
    reached = [stage_where(of, [max(by_layer) >= 0.095 for by_layer in of["beyond"]]) for of in line.values()]
    says("already at 100 to 175", *ends(reached))
    sure = [stage_where(of, [bool(heads) for heads in of["attending"]]) for of in line.values()]
    says("surely so at 800, 500 and 175", *sure)
    holds("p is below 0.05 before that, at 25", all(of["lowest_p"][2] < 0.05 for of in line.values()))


def stage_where(of, reached):
    """The first stage at which something is so."""
    return of["steps"][reached.index(True)]


def above(found, name):
    """The highest attention above distance, by seed."""
    return [
        max(
            v - c
            for row, base in zip(of[name]["values"], of[name]["chance"], strict=True)
            for v, c in zip(row, base, strict=True)
        )
        for of in found["ends"].values()
    ]


def lowest_p(found, name, seed):
    return min(min(row) for row in found["ends"][seed][name]["p_shifted"])


def told(found, name):
    return found["classes"][name]["told_apart"]


def test_the_finding_is_told_as_it_came_out(found):
    claims = Claims(section())
    syntax(claims.says, claims.holds, claims.defines, found)
    assert claims.wrong == []
    assert claims.n > 25


def test_a_number_that_is_not_so_would_be_found(found):
    claims = Claims(section().replace("0.12 to 0.33", "0.12 to 0.43"))
    syntax(claims.says, claims.holds, claims.defines, found)
    assert len(claims.wrong) == 1


def test_no_precise_number_goes_unchecked():
    source = Path(__file__).read_text(encoding="utf-8")
    assert uncovered(section(), pieces(source)) == []
