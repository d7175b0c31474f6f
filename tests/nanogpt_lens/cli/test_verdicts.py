"""What is printed does not contradict what stands beside it: digits, names, places."""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.cli.head_sentences import without_star
from nanogpt_lens.cli.tables import interval, number
from nanogpt_lens.results import Scores
from tests.making import write, write_meta
from tests.nanogpt_lens.cli.test_cli import run
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_meta(folder)
    write(folder)
    (folder / "text.txt").write_text(play(400))
    return folder


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((1.5, 1.25, 1.75), "1.50 [1.25, 1.75]"),
        ((0.00012, 0.00009, 0.00016), "0.00012 [0.00009, 0.00016]"),
        ((0.0012, 0.0011, 0.0014), "0.0012 [0.0011, 0.0014]"),
        ((0.5, 0.4999, 0.5001), "0.500 [0.500, 0.500]"),
        ((2.5e-8, 1e-8, 4e-8), "2.50e-08 [1.00e-08, 4.00e-08]"),
        ((-3e-9, -4e-9, 0.0), "-3.00e-09 [-4.00e-09, 0.0]"),
        ((0.0, 0.0, 0.0), "0.00 [0.00, 0.00]"),
        ((2e-5, math.nan, math.nan), "0.00002"),
        ((1234.5, 1234.4, 1234.6), "1234.5 [1234.4, 1234.6]"),
        ((1.0, None, None), "1.000"),
    ],
)
def test_intervals_have_as_many_digits_as_show_them(numbers, text):
    assert interval(*numbers) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0004, 3, "4.0e-04"),
        (0.0, 3, "0.000"),
        (-0.0, 2, "0.00"),
        (1.25, 2, "1.25"),
        (-3e-7, 4, "-3.0e-07"),
        (math.nan, 2, "-"),
    ],
)
def test_numbers_that_are_not_zero_are_not_written_as_zero(value, digits, text):
    assert number(value, digits) == text


def test_ablated_neurons_show_what_they_do(out):
    code, text, _ = run("neurons", "ablate", out, "0.3", "--text", out / "text.txt")
    assert code == 0
    result = ngl.ablate_neurons(ngl.load(out), out / "text.txt", ["0.3"], n=512, k=10, progress=False)
    rise = result.labels["score"].index("rise")
    said = re.search(r"Without neuron 0.3 the loss rises by (-?[\d.]+(?:e-\d+)?) \[", text)
    assert said is not None
    assert float(said[1]) == pytest.approx(float(result.values.flatten()[rise]), rel=0.05)
    assert "0.00 [0.00, 0.00]" not in text


def test_one_number_is_not_the_largest(out):
    code, text, _ = run("measure", out, "text_loss", "--text", out / "text.txt", "--option", "n=4")
    assert code == 0
    assert text.startswith("The loss, nats per token: ")
    assert run("measure", out, "composition_scores")[1].startswith("The largest ")


def test_a_star_that_no_head_has_is_said_once():
    class Unnamed:
        shape: ClassVar = {"layer": 1, "head": 2}

        def __init__(self, *heads):
            self.heads = heads

        def unnamed(self):
            return [("broad", 0, head, "0.99 is not enough, threshold none: even") for head in self.heads]

    taxonomy: Any = Unnamed(0, 1)
    assert without_star(taxonomy) == ["no star for broad at any head: even"]
    taxonomy = Unnamed(1)
    assert without_star(taxonomy) == ["no star for broad, 0.1: even"]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_one_prompt_twice_is_refused(out, n):
    code, text, err = run("patch", out, "--clean", "ROMEO"[:n], "--corrupted", "ROMEO"[:n], "--answer", "a")
    assert (code, text) == (2, "")
    assert "the clean and the corrupted text are the same" in err


class TestAttribution:
    """Contributions name the token and the position that they are about."""

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory):
        return lens_model(tmp_path_factory.mktemp("model"))

    @pytest.mark.parametrize(("pos", "positions"), [(-1, (5,)), (3, (3,)), ([1, 4], (1, 4)), (None, tuple(range(6)))])
    def test_a_position_is_that_of_the_text(self, model, pos, positions):
        text = "ROMEO:"
        result = ngl.direct_logit_attribution(model, text, "a", "e", pos=pos)
        top = result.top(1000)
        assert sorted(set(top["pos"])) == list(positions)
        assert all(text[row.pos] == row.pos_label for row in top.itertuples())
        assert [result.to_json()["rows"][0][key] for key in ("pos", "pos_label")] == [positions[0], text[positions[0]]]

    def test_of_several_texts_too(self, model):
        result = ngl.direct_logit_attribution(model, ["ROMEO:", "JULIE:"], ["a", "b"], pos=-1)
        assert set(result.top(5)["pos"]) == {5}
        assert result.quantity == "contribution to the logit of the answers"

    def test_the_answer_is_named(self, model, out):
        assert ngl.direct_logit_attribution(model, "ROMEO:", "a").quantity == "contribution to the logit of 'a'"
        two = ngl.direct_logit_attribution(model, "ROMEO:", "a", "\n")
        assert two.quantity == "contribution to the logit difference 'a' minus '\\n'"
        code, text, _ = run("lens", out, "--prompt", "ROMEO:", "--answer", "a", "--wrong", "e")
        assert code == 0
        assert "contribution to the logit difference 'a' minus 'e', read at position 5, after ':', in all" in text


def test_no_line_of_the_loss_is_hidden_under_another():
    positions = 9
    flat = torch.full((3, positions), 2.0, dtype=torch.float64)  # three lines in one place
    result = Scores(
        values=flat,
        axes=("condition", "pos"),
        labels={
            "condition": ("repeated", "shuffled", "unrepeated"),
            "pos": tuple(str(i + 1) for i in range(positions)),
        },
        quantity="loss, nats per token",
        definition="by hand",
        title="loss",
        chance=torch.full_like(flat, 3.0),
    )
    from nanogpt_lens.viz.figures.induction import losses

    lines = [trace for trace in losses(result).figure.data if trace.x is not None and trace.mode == "lines"]
    assert len({trace.yaxis for trace in lines}) == 3  # a panel for each


def test_a_folder_report_has_one_count(tmp_path):
    from nanogpt_lens.reporting.sections.checkpoints import _findings, _Summary, _verdict

    def summary(i, **more):
        return _Summary(name=f"ckpt_{i}.pt", iteration=i, proven=True, loss=3.0 - i, low=2.9 - i, high=3.1 - i, **more)

    several = [summary(i) for i in range(5)]
    assert _verdict(several, 5) == "PROVEN EQUAL: all 5 checkpoints"
    assert _findings(several)[0].startswith("Over 5 checkpoints the loss falls from 3.0 to −1.0 nats")
    several.append(summary(4, same_as="ckpt_4.pt"))
    assert _verdict(several, 6) == "PROVEN EQUAL: all 6 checkpoints"
    assert "5 of 6 checkpoints (1 with the same weights as another)" in _findings(several)[0]
    assert _verdict(several, 40) == "PROVEN EQUAL: all 6 checkpoints that were looked at, of 40"
