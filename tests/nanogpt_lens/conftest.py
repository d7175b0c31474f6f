"""What the tests of the trainer and those in a browser need."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.text.datasets import read_data
from tests.browser import launched
from tests.nanogpt_lens.training.training_helpers import TEXT


@pytest.fixture(autouse=True)
def one_thread():
    """The models are so small that two threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data(tmp_path):
    file = tmp_path / "letters.txt"
    file.write_text(TEXT)
    return read_data(file)


@pytest.fixture(scope="module")
def browser():
    """Chromium; skips where there is none, fails where REQUIRE_BROWSER=1."""
    with launched() as found:
        yield found
