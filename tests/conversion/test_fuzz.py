"""A short slice of `make fuzz`, the same in every run: damaged files are read, or refused in one sentence."""

from __future__ import annotations

import os

import pytest

from scripts.fuzz import Watch, fuzz


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, for the memory")
def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path):
    results = fuzz(tmp_path, seed=13, executions=80, watch=Watch())
    assert results["executions"] == 80
    assert results["refused"] > 40  # the changes do damage
    assert results["read"] > 4  # and do not always
