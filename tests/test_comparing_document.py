"""docs/COMPARING.md says what docs/data/compared_models.json has, and every part of a comparison is in its table."""

from __future__ import annotations

import json

import pytest

from nanogpt_lens.compare.comparing import PARTS
from scripts import compared_models

FOUND = json.loads(compared_models.OUT.read_text())
TEXT = compared_models.DOCUMENT.read_text()


@pytest.mark.parametrize("name", compared_models.TABLES)
def test_a_table_is_that_of_the_file(name):
    _, _, behind = TEXT.partition(f"<!-- table: {name} -->\n")
    assert behind.partition("\n<!-- end -->")[0] == compared_models.TABLES[name](FOUND)


def test_every_part_has_a_row():
    table = TEXT.partition("| part | question |")[2].partition("\n\n")[0]
    assert all(f"| `{part}` |" in table for part in PARTS)


def test_all_seeds_are_there():
    assert all(set(FOUND[kind]) == set(map(str, compared_models.SEEDS)) for kind in compared_models.TEXTS)


def test_what_is_said_of_capitals_is_what_was_found():
    sets = {tuple(one["parts"]) for one in FOUND["capitals"].values()}
    assert sets == {("embed", "0.0", "0.2", "mlp0", "mlp2", "mlp3", "unembed")}
    assert all(p == pytest.approx(1 / 51) for one in FOUND["capitals"].values() for p in one["p"])


def test_what_is_said_of_more_text_is_what_was_found():
    assert {len(one["parts"]) for one in FOUND["more"].values()} == {14, 15}
    beside = [one["p"][1] for one in FOUND["more"].values()]
    assert (f"{min(beside):.2f}", f"{max(beside):.2f}") == ("0.37", "0.63")
    assert all(one["loss"][2] < 0 for one in FOUND["more"].values())
