"""What `scripts.order` exchanges: the same characters, the outputs where they were, another character before each."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.order import exchanged


@pytest.fixture
def prompts():
    """Prompts that end at token 0, whose earlier occurrences are followed by the answer, 1."""
    rng = np.random.default_rng(0)
    rows = rng.integers(2, 12, size=(40, 24))
    for row in rows:
        for at in rng.choice(np.arange(0, 20, 2), size=3, replace=False):
            row[at : at + 2] = 0, 1
        row[-1] = 0
    return rows


def pairs(rows):
    """How often 0 is followed by 1."""
    return ((rows[:, :-1] == 0) & (rows[:, 1:] == 1)).sum(1)


@pytest.mark.parametrize("control", [False, True])
def test_the_characters_stay_and_so_do_outputs_and_the_end(prompts, control):
    other = exchanged(prompts, np.ones(len(prompts)), np.random.default_rng(1), control=control)
    assert (np.sort(other, 1) == np.sort(prompts, 1)).all()
    assert ((other == 1) == (prompts == 1)).all()
    assert (other[:, -1] == 0).all()
    assert (other != prompts).any(1).mean() > 0.9


def test_only_the_real_exchange_parts_trigger_and_output(prompts):
    answers, generator = np.ones(len(prompts)), np.random.default_rng(1)
    assert (pairs(prompts) == 3).all()
    assert (pairs(exchanged(prompts, answers, generator)) == 0).all()
    assert (pairs(exchanged(prompts, answers, generator, control=True)) == 3).all()
