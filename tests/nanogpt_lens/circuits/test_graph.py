"""The graph: how many edges there are, how they are called, and what is no edge."""

from __future__ import annotations

import pytest

from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.errors import AnalysisError
from tests.conftest import convert
from tests.nanogpt_lens.circuits.plain import before
from tests.nanogpt_lens.patching.patching_helpers import model


def test_the_shipped_size_has_479_edges():
    """The count of Hanna et al.'s graph at 4 layers and 4 heads: 408 enter heads, 50 MLPs, 21 the logits."""
    import nanogpt_lens as ngl

    graph = CircuitGraph(ngl.load("shakespeare_char"))
    kinds = [edge.receiver.kind for edge in graph.edges]
    assert [kinds.count(kind) for kind in ("head", "mlp", "logits")] == [408, 50, 21]
    assert len(set(map(str, graph.edges))) == 479
    assert int(graph.all_edges.sum()) == 479


def test_edges_are_those_of_a_plain_list():
    graph = CircuitGraph(model())
    expected = {f"{sender}->{end}" for end in map(str, graph.receivers) for sender in before(end, 3, 2)}
    assert set(map(str, graph.edges)) == expected
    assert [str(edge) for edge in graph.read(list(map(str, graph.edges)))] == [str(edge) for edge in graph.edges]


def test_a_mask_has_the_edges_and_no_others():
    graph = CircuitGraph(model())
    some = graph.read(["mlp2->logits", "embed->0.1.v", "0.1->mlp0"])
    mask = graph.mask(some)
    names = [
        f"{graph.senders[j]}->{graph.receivers[i]}" for i, j in mask.nonzero().tolist()
    ]  # by receiver, then by sender
    assert names == ["embed->0.1.v", "0.1->mlp0", "mlp2->logits"] == [str(edge) for edge in some]


def test_a_head_stands_for_its_three_inputs():
    graph = CircuitGraph(model())
    assert [str(e) for e in graph.read("0.1->1.0")] == ["0.1->1.0.q", "0.1->1.0.k", "0.1->1.0.v"]
    assert graph.read(["0.1->1.0", "0.1->1.0.k"]) == graph.read("0.1 -> 1.0")
    assert str(graph.read("L0H1->logits")[0]) == "0.1->logits"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0.1", "expected sender->receiver"),
        ("0.1->0.0.k", "a receiver reads what was written before it"),
        ("mlp0->mlp0", "a receiver reads what was written before it"),
        ("0.7->logits", "is not in this model"),
        ("logits->mlp1", "is no sender"),
        ("0.1->embed", "is no receiver"),
        ("0.1.k->logits", "is no sender"),
    ],
)
def test_what_is_no_edge_is_named(name, said):
    with pytest.raises(AnalysisError, match=said) as caught:
        CircuitGraph(model()).read(["embed->logits", name])
    assert name.split("->")[0] in str(caught.value) or name.split("->")[-1] in str(caught.value)


def test_one_layer_one_head():
    from conversion.checkpoint import Checkpoint
    from conversion.config import NanoGPTConfig
    from tests.making import random_state

    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "vocab_size": 3}
    small = convert(Checkpoint(config=NanoGPTConfig(**sizes), state_dict=random_state(**sizes)))
    assert list(map(str, CircuitGraph(small).edges)) == [
        "embed->0.0.q",
        "embed->0.0.k",
        "embed->0.0.v",
        "embed->mlp0",
        "0.0->mlp0",
        "embed->logits",
        "0.0->logits",
        "mlp0->logits",
    ]
