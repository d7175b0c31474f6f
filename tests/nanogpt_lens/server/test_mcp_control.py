"""What results are held against: levels, and other places that are others."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

pytest.importorskip("mcp")

from nanogpt_lens.compare.comparing import PARTS
from nanogpt_lens.interventions.intervention import as_interventions
from nanogpt_lens.model.loading import load
from nanogpt_lens.server import mcp_desk
from nanogpt_lens.server.mcp_app import make_server
from nanogpt_lens.server.mcp_documents import Control, held_against
from nanogpt_lens.server.mcp_elsewhere import same_elsewhere
from nanogpt_lens.server.tools import finding_circuits
from nanogpt_lens.server.tools.comparing import ComparedPart
from tests.making import write
from tests.nanogpt_lens.server.mcp_helpers import PAIRS, call, sentence_of, write_models


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def model(paths):
    return load(paths[0])


@pytest.mark.parametrize("n", [1, 5, 18, 19, 20, 21, 38, 39, 40, 99, 200])
def test_what_is_above_the_level_and_nothing_else_has_a_small_p(n):
    values = [float(i) for i in range(n)]
    level = held_against("", values).level
    for i in range(-1, n):
        for own in (i, i + 0.5):
            p = (1 + sum(value >= own for value in values)) / (1 + n)
            assert held_against("", values, own).p == pytest.approx(p)
            if n >= 19:
                assert (own > level) == (p <= 0.05)
            else:
                assert p > 0.05
    assert held_against("", values).level_is == ("q95" if n >= 19 else "max")
    assert n >= 19 or level == max(values)


def test_a_level_has_a_name_and_no_level_none():
    with pytest.raises(ValidationError, match="a level needs level_is"):
        Control(what="", n=3, level=1.0)
    assert Control(what="", n=3, level=float("nan"), level_is="mean").level_is is None
    assert held_against("", [float("nan")]) == Control(what="", n=0)


EXPERIMENTS = [
    [{"place": "0.0"}, {"place": "1.0"}],
    [{"place": "0.0"}, {"place": "0.1", "source": {"scale": 2.0}}, {"place": "1.2"}],
    [{"place": "L0N1"}, {"place": "L1N1"}],
    [{"place": "0.0.k", "pos": [1, 2]}, {"place": "0.0.q"}],
    [{"place": "0.0->1.0"}, {"place": "0.1->1.1.k"}],
    [{"activation": "resid_pre", "pos": -1}, {"activation": "resid_pre", "pos": [0, 1]}],
    [{"place": "0.0->mlp1"}, {"place": "mlp0->logits"}],
    [{"activation": "z", "layer": 0, "head": [0, 1]}],
]


def touched(some) -> set:
    """What an experiment changes, every index alone: activation, edge, layer, head, neuron and position."""
    out = set()
    for one in some:
        axes = [
            [None] if at is None else [i % 7 if name == "pos" else i for i in ((at,) if isinstance(at, int) else at)]
            for name in ("layer", "head", "neuron", "pos")
            for at in [getattr(one, name)]
        ]
        edges = [f"{one.edge}.{part}" for part in "qkv"] if one.edge and one.edge[-1] not in "qkv" else [one.edge]
        out |= {
            (one.activation, edge, layer, head, neuron, pos)
            for edge in edges
            for layer in axes[0]
            for head in axes[1]
            for neuron in axes[2]
            for pos in axes[3]
        }
    return out


@pytest.mark.parametrize("plain", EXPERIMENTS)
def test_other_places_are_none_that_are_studied(model, plain):
    own = as_interventions(plain)
    sets = same_elsewhere(model, own, n=20, seed=0, n_pos=7)
    assert sets
    for moved in sets:
        assert not touched(moved) & touched(own)
        assert len(touched(moved)) == len(touched(own))
        assert [one.source for one in moved] == [one.source for one in own]
    assert sets == same_elsewhere(model, own, n=20, seed=0, n_pos=7)


def test_all_places_that_are_left_are_found_and_no_more(model):
    four = as_interventions([{"place": place} for place in ("0.0", "0.1", "1.0")])
    (only,) = same_elsewhere(model, four, n=20, seed=0, n_pos=7)
    assert {(one.layer, one.head) for one in only} == {(0, 2), (1, 1), (1, 2)}
    assert not same_elsewhere(model, as_interventions([{"place": "mlp0"}, {"place": "mlp1"}]), n=20, seed=0, n_pos=7)


def test_the_parts_of_a_comparison_are_those_of_the_package():
    assert get_args(ComparedPart) == PARTS


def test_no_folder_is_made_before_the_first_report(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(mcp_desk.tempfile, "tempdir", str(tmp_path))
    server = make_server(paths)
    assert not list(tmp_path.glob(f"{mcp_desk.TEMPORARY}*"))
    assert "secrets" in sentence_of(call(server, "report", {"model": "tiny", "sections": ["secrets"]}))
    assert not list(tmp_path.glob(f"{mcp_desk.TEMPORARY}*"))
    said = [
        call(server, "report", {"model": name, "sections": ["loss"]}).structured_content for name in ("one", "tiny")
    ]
    (folder,) = tmp_path.glob(f"{mcp_desk.TEMPORARY}*")
    assert [one["path"] for one in said] == [str(folder.resolve() / f"{name}-report.html") for name in ("one", "tiny")]


@pytest.mark.parametrize(
    ("n_edges", "said"), [(None, "ask for n_edges, or pairs"), (1, "n_edges is 1, but no edge is")]
)
def test_a_circuit_without_an_edge_says_what_was_asked(paths, n_edges, said):
    """The first edge alone, by its exact effect, does not reach from the embeddings to the logits."""
    if n_edges is None:
        assert said in finding_circuits._no_edge(None)
        return
    asked = {"model": "tiny", "pairs": PAIRS, "n_edges": n_edges, "method": "eap"}
    error = sentence_of(call(make_server(paths), "find_circuit", asked))
    assert said in error
    assert "ask for n_edges" not in error


def test_where_nothing_was_drawn_no_number_says_so(tmp_path):
    """Six dimensions have too few orders, and a layer of one head has no other."""
    for name, seed in (("a", 1), ("b", 2)):
        write(tmp_path / name, seed=seed, n_layer=1, n_head=1, n_embd=6, block_size=8)
    server = make_server([str(tmp_path / name) for name in "ab"])
    asked = {"model": "a", "other": "b", "parts": ["weights", "heads"]}
    for control in call(server, "compare", asked).structured_content["control"]:
        assert control["what"].startswith("no control")
        assert (control["n"], control["level"], control["p"]) == (0, None, None)
