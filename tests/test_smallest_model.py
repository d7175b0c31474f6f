"""Verdicts about the smallest model, on runs made by hand, and what a killed call finds again."""

from __future__ import annotations

import json
import re

import pytest
from scipy.stats import beta, t

from scripts import smallest_model
from scripts.replication import smallest


def made(layers, heads, width, seed=1337, *, has=True, half=1000.0, accuracy=None, lost=None):
    """A run as `scripts.smallest_model` writes it."""
    accuracy = (0.9 if has else 0.5) if accuracy is None else accuracy
    return {
        "layers": layers,
        "heads": heads,
        "width": width,
        "seed": seed,
        "parameters": 100,
        "formed": has,
        "half": [half, half - 50, half + 50] if has else None,
        "prefix_matching": [0.0, 0.1, 0.2],
        "previous_token": [0.0, 0.1, 0.4],
        "required_accuracy": [0.0, 0.1, accuracy],
        "shuffled": {"shuffled": 0.1, "lost": (0.7 if has else 0.05) if lost is None else lost},
    }


def judged(runs):
    settings = {"batch_size": 32, "block_size": 128}
    return smallest.summary({"settings": settings, "runs": runs})["predictions"]


def seeds_of(*shape, **more):
    return [made(*shape, seed=seed, **more) for seed in smallest_model.SEEDS]


def test_all_predictions_hold_where_they_do():
    runs = [
        *(run for width in (16, 32, 64) for run in seeds_of(1, 4, width, has=False)),
        *(run for heads in (1, 2, 4) for run in seeds_of(2, heads, 32, half=2000.0)),
        *seeds_of(2, 1, 64, half=1500.0),
        *(run for heads in (2, 4) for run in seeds_of(2, heads, 64, half=900.0)),
        *(run for heads in (1, 2, 4) for run in seeds_of(2, heads, 16, has=False)),
        *seeds_of(2, 1, 8, has=False),
        *seeds_of(3, 1, 16, has=False),
        *(run for width in (32, 64) for run in seeds_of(3, 1, width)),
    ]
    assert len(runs) == 48
    found = judged(runs)
    assert all(verdict["holds"] for verdict in found.values())
    assert found["1"]["runs"] == 9
    assert found["1"]["high"] == pytest.approx(beta.ppf(0.975, 1, 9), abs=1e-3)  # Clopper and Pearson, 0 of 9
    assert found["4"]["later_at_32"]["1"]["each"] == [500.0] * 3
    assert found["5"]["one_later_than_four"]["64"]["value"] == 600.0
    assert found["6"]["least_width"] == {"2": 32, "3": 32}


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("1", [made(1, 4, 64, has=True)]),
        ("1", [made(1, 4, 64, has=False, accuracy=0.81)]),
        ("2", [made(2, 1, 32), made(2, 1, 32, 1338, has=False), made(2, 1, 32, 1339, accuracy=0.8)]),
        ("3", [made(2, 1, 16), made(2, 2, 16)]),
        ("3", [made(2, 1, 8)]),
        ("4", [made(2, 1, 32, half=800), made(2, 1, 64, half=900)]),
        ("5", [made(2, 1, 64, half=800), made(2, 4, 64, half=900)]),
        ("6", [*seeds_of(2, 1, 32), *seeds_of(3, 1, 16)]),
        ("7", [made(2, 1, 16, has=False, lost=0.46), made(2, 1, 32)]),
        ("7", [made(2, 1, 32, lost=0.3)]),
    ],
)
def test_a_prediction_fails_where_it_should(name, runs):
    assert not judged(runs)[name]["holds"]


def test_half_way_points_are_compared_within_a_seed_and_only_where_both_formed():
    narrow = [made(2, 1, 32, 1337, half=1000), made(2, 1, 32, 1338, half=1300), made(2, 1, 32, 1339, has=False)]
    wide = [made(2, 1, 64, 1337, half=700), made(2, 1, 64, 1338, half=900), made(2, 1, 64, 1339, half=100)]
    found = smallest.later(narrow, wide)
    assert (found["seeds"], found["each"], found["value"]) == ([1337, 1338], [300.0, 400.0], 350.0)
    half = t.ppf(0.975, 1) * 50 * 2**0.5 / 2**0.5  # the standard deviation of 300 and 400 over the root of two
    assert found["low"] == pytest.approx(350 - half, abs=1e-3)


def test_a_mean_over_one_seed_has_no_interval():
    assert smallest.mean([0.5]) == {"value": 0.5, "low": None, "high": None}


def test_a_killed_call_finds_what_is_kept(tmp_path, monkeypatch):
    """Of the file in the repository every run comes back, and collecting them writes the same file."""
    kept = smallest_model.OUT.read_text()
    copy = tmp_path / "kept.json"
    copy.write_text(kept)
    monkeypatch.setattr(smallest_model, "OUT", copy)
    smallest_model.restore(tmp_path)
    rows = json.loads(kept)["runs"]
    assert len(list(tmp_path.glob("L*.json"))) == len(rows) > 0
    smallest_model.collect(tmp_path)
    assert copy.read_text() == kept


def test_a_log_says_when_it_will_end():
    said = smallest_model.expected(40, 3.0, 2)
    assert said.startswith("40 left, about 60 minutes, until ")
    assert re.search(r"until \d\d:\d\d$", said)
