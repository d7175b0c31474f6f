"""Which heads are induction heads: the report, the taxonomy and `find_induction_heads` say the same."""

import pytest
import torch

import nanogpt_lens as ngl
from conversion import save_checkpoint
from nanogpt_lens.reporting.making import report
from tests.handmade import CONTEXT, INDUCTION, VOCAB, handmade_checkpoint
from tests.making import content
from tests.nanogpt_lens.reporting.report_helpers import read, section

SEED, N = 3, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with an induction head, and two with random weights, of one vocabulary and context."""
    out = tmp_path_factory.mktemp("out")
    save_checkpoint(handmade_checkpoint().to(torch.float32), out / "handmade")
    for name, sizes in (("random", {"seed": 1}), ("wide", {"seed": 2, "n_layer": 3, "n_head": 4})):
        (out / name).mkdir()
        torch.save(content(block_size=CONTEXT, vocab_size=VOCAB, **sizes), out / name / "ckpt.pt")
    return out


@pytest.fixture(scope="module")
def rows(folder):
    """The rows of the section's table of heads, by name of the file."""
    page = read(report(folder, sections=["checkpoints"], seed=SEED, progress=False).html)
    header, *rest = section(page, "checkpoints").tables()[1]
    assert header[-1] == "induction heads"
    return {row[0]: row for row in rest}


@pytest.mark.parametrize("name", ["handmade", "random", "wide"])
def test_the_section_on_checkpoints_follows_the_one_rule(folder, rows, name):
    model = ngl.load(folder / name)
    found = ngl.find_induction_heads(model, seed=SEED)
    assert found.n_examples == N
    expected = ", ".join(f"{layer}.{head}" for layer, head in found.heads()) or "none"
    assert rows[f"{name}/ckpt.pt"][-1] == expected == ("1.0" if name == "handmade" else "none")
    assert ngl.head_taxonomy(model, n=N, seed=SEED).heads("induction") == found.heads()
    assert found.heads() == ([INDUCTION] if name == "handmade" else [])


def test_the_section_on_induction_and_that_on_heads_name_the_same_heads(folder):
    for name, said, labelled in (
        ("handmade", "induction head: 1.0", "head 1.0 does induction"),
        ("wide", "no induction head: the highest", ""),
    ):
        page = read(report(folder / name, sections=["induction", "heads"], seed=SEED, progress=False).html)
        assert said in section(page, "induction").text
        assert ("head 1.0 does induction" in section(page, "heads").text) == bool(labelled)
        assert labelled in section(page, "heads").text
