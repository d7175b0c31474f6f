"""Exact effects of edges: against plain runs, path patching, and weights that say which edges there are."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.circuits.edges import edge_effects
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.patching.paths import path_patching
from nanogpt_lens.patching.sweeps import activation_patching
from nanogpt_lens.results import load_result
from nanogpt_lens.running.metrics import logit_diff
from tests.conftest import convert
from tests.handmade import CONTEXT, handmade_model
from tests.nanogpt_lens.circuits import plain
from tests.nanogpt_lens.patching.patching_helpers import SIZES, checkpoint, model, texts

METRIC = logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])
QUIET = {"progress": False}


def plain_effects(base, other, metric):
    """The metric without each edge of `base`'s whole graph in turn, by plain lines; for each example."""
    graph = CircuitGraph(model())
    state = checkpoint().state_dict
    wrote = plain.run(state, 2, other, None, set())
    names = list(map(str, graph.edges))
    runs = [plain.run(state, 2, base, wrote, set(names) - {name})["logits"] for name in names]
    return torch.stack([metric.per_example(logits) for logits in runs])


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_every_edge_is_the_plain_run_without_it(direction):
    clean, corrupted = texts()
    hooked = model()
    result = edge_effects(hooked, clean, corrupted, METRIC, direction=direction, **QUIET)
    base, other = (clean, corrupted) if direction == "noise" else (corrupted, clean)
    expected = plain_effects(base, other, METRIC.resolved(hooked, clean))
    torch.testing.assert_close(result.per_example, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(result.effect, expected.mean(1) - result.base, rtol=0, atol=1e-10)
    assert result.labels["edge"] == tuple(map(str, CircuitGraph(hooked).edges))
    assert float(result.effect.abs().max()) > 0.01


def test_through_hook_points_it_is_the_same():
    clean, corrupted = texts()
    fast, slow = (
        edge_effects(model(), clean, corrupted, METRIC, engine=engine, **QUIET) for engine in ("auto", "hooks")
    )
    torch.testing.assert_close(fast.values, slow.values, rtol=0, atol=1e-10)
    assert fast.provenance["arguments"]["engine"] != slow.provenance["arguments"]["engine"]


@pytest.mark.parametrize("direction", ["noise", "denoise"])
def test_one_edge_is_its_path_patch(direction):
    """Wang et al.'s three runs with everything between frozen, which this package makes elsewhere."""
    clean, corrupted = texts()
    senders, receivers = ["embed", "0.1", "mlp0"], ["1.0.q", "1.1.k", "2.0.v", "mlp2", "logits"]
    paths = path_patching(
        model(), clean, corrupted, METRIC, senders=senders, receivers=receivers, direction=direction, freeze_mlps=True
    )
    names = [f"{sender}->{receiver}" for sender in senders for receiver in receivers]
    result = edge_effects(model(), clean, corrupted, METRIC, edges=names, direction=direction, **QUIET)
    by_name = dict(zip(result.labels["edge"], result.values, strict=True))
    for name, expected in zip(names, paths.values.flatten(), strict=True):  # of both texts' positions nothing differs
        torch.testing.assert_close(by_name[name], expected, rtol=0, atol=1e-10)


def test_at_one_position_alone():
    """Into the logits the positions that are read do it all; into an MLP, each is a patch of that position's input."""
    clean, corrupted = texts()
    hooked = model()
    last = logit_diff(3, 5, pos=-1)
    result = edge_effects(hooked, clean, corrupted, last, positions="each", **QUIET)
    whole = edge_effects(hooked, clean, corrupted, last, **QUIET)
    at = {name: i for i, name in enumerate(result.labels["edge"])}
    for name, i in at.items():
        if name.endswith("logits"):
            torch.testing.assert_close(result.values[i, -1], whole.values[i], rtol=0, atol=1e-10)
            assert float((result.effect[i, :-1]).abs().max()) < 1e-12
    paths = path_patching(
        hooked,
        clean,
        corrupted,
        last,
        senders=["0.1"],
        receivers=["1.0.k", "1.0.v", "mlp2"],
        direction="noise",
        positions="each",
        freeze_mlps=True,
    )
    for j, name in enumerate(("0.1->1.0.k", "0.1->1.0.v", "0.1->mlp2")):
        torch.testing.assert_close(result.values[at[name]], paths.values[0, j], rtol=0, atol=1e-10)


def test_an_edge_into_the_logits_is_a_patch_of_the_last_stream():
    """The sender's difference added to the final stream, through the real norm and unembedding."""
    clean, corrupted = texts()
    hooked = model()
    result = edge_effects(hooked, clean, corrupted, METRIC, edges="mlp1->logits", **QUIET)
    state = checkpoint().state_dict
    one, two = (plain.run(state, 2, text, None, set()) for text in (clean, corrupted))
    _, cache = hooked.run_with_cache(clean)
    stream = cache["blocks.2.hook_resid_post"] + two["mlp1"] - one["mlp1"]
    expected = METRIC.resolved(hooked, clean)(hooked.unembed(hooked.ln_final(stream)))
    torch.testing.assert_close(result.values[0], expected, rtol=0, atol=1e-10)


def test_a_head_that_writes_nothing_has_no_effect_and_reads_none():
    from dataclasses import replace

    state = {name: value.clone() for name, value in checkpoint().state_dict.items()}
    width = SIZES["n_embd"] // SIZES["n_head"]
    state["transformer.h.1.attn.c_proj.weight"][:, width:] = 0.0  # head 1.1
    dead = convert(replace(checkpoint(), state_dict=state), dtype=torch.float64)
    clean, corrupted = texts()
    result = edge_effects(dead, clean, corrupted, METRIC, **QUIET)
    silent = torch.tensor([name.startswith("1.1->") or "->1.1." in name for name in result.labels["edge"]])
    assert int(silent.sum()) == 9 + 3 * 4  # edges out of it, and into it
    assert float(result.effect[silent].abs().max()) < 1e-12
    assert float(result.effect[~silent].abs().min()) > 1e-9


def test_permuted_heads_have_permuted_effects():
    from dataclasses import replace

    state = {name: value.clone() for name, value in checkpoint().state_dict.items()}
    width = SIZES["n_embd"] // SIZES["n_head"]
    order = torch.cat([torch.arange(width, 2 * width), torch.arange(width)])
    for kind in ("weight", "bias"):
        key = f"transformer.h.1.attn.c_attn.{kind}"
        state[key] = torch.cat([part[order] for part in state[key].split(2 * width)])
    state["transformer.h.1.attn.c_proj.weight"] = state["transformer.h.1.attn.c_proj.weight"][:, order]
    clean, corrupted = texts()
    one = edge_effects(model(), clean, corrupted, METRIC, **QUIET)
    other = edge_effects(
        convert(replace(checkpoint(), state_dict=state), dtype=torch.float64), clean, corrupted, METRIC, **QUIET
    )
    swap = {"1.0": "1.1", "1.1": "1.0"}
    by_name = dict(zip(one.labels["edge"], one.values, strict=True))
    for name, value in zip(other.labels["edge"], other.values, strict=True):
        sender, receiver = name.split("->")
        renamed = swap.get(sender, sender) + "->" + swap.get(receiver[:3], receiver[:3]) + receiver[3:]
        torch.testing.assert_close(value, by_name[renamed], rtol=0, atol=1e-10)


def test_the_handmade_circuit_and_nothing_else():
    """By its weights: embed into 0.1's q, k and v, 0.1 into 1.0's k, embed into 1.0's q and v, 1.0 into the logits.

    The corrupted text has another token where the answer is copied from, and before it.
    """
    hooked = handmade_model()
    generator = torch.Generator().manual_seed(0)
    clean = torch.stack([torch.randperm(19, generator=generator)[: CONTEXT // 2] for _ in range(4)]).repeat(1, 2)
    clean = clean[:, : CONTEXT // 2 + 4]
    answer = clean[:, 4]
    corrupted = clean.clone()
    corrupted[:, 2:7] = (corrupted[:, 2:7] + 1) % 19
    metric = logit_diff(answer.tolist(), ((answer + 1) % 19).tolist())
    result = edge_effects(hooked, clean, corrupted, metric, direction="noise", **QUIET)
    strong = {name for name, e in zip(result.labels["edge"], result.effect.abs(), strict=True) if float(e) > 1e-6}
    expected = {"embed->0.1.v", "0.1->1.0.k", "embed->1.0.v", "1.0->logits"}
    # attention of 0.1 is by position alone, and the query token of 1.0 is the same in both texts
    may = {"embed->0.1.q", "embed->0.1.k", "embed->1.0.q", "0.1->1.0.q", "0.1->1.0.v", "embed->1.0.k", "embed->logits"}
    assert expected <= strong <= expected | may | {"0.1->logits"}
    effects = dict(zip(result.labels["edge"], result.effect.abs().tolist(), strict=True))
    assert min(effects[name] for name in expected) > 10 * max(effects[name] for name in effects if name not in expected)


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_without_a_corrupted_text(source):
    """All out-edges of the last MLP are one edge: its effect is that of the MLP's ablated neurons, its bias stays."""
    clean, _ = texts()
    options = {"source": source, "seed": 3, **QUIET}
    result = edge_effects(model(), clean, None, METRIC, edges="mlp2->logits", **options)
    swept = activation_patching(model(), clean, None, METRIC, activation="mlp_post", axes=("layer",), **options)
    torch.testing.assert_close(result.values[0], swept.values[2], rtol=0, atol=1e-10)


def test_a_result_names_its_edges_and_is_kept(tmp_path):
    clean, corrupted = texts()
    result = edge_effects(model(), clean, corrupted, METRIC, **QUIET)
    assert result.few_examples == f"few examples: n = {len(clean)}"
    alone = edge_effects(model(), clean[:1], corrupted[:1], logit_diff(3, 5), edges="mlp1->logits", **QUIET)
    assert (alone.interval, alone.low, alone.few_examples) == ("", None, "")
    result.save(tmp_path / "edges")
    again = load_result(tmp_path / "edges")
    assert again.labels == result.labels
    assert torch.equal(again.values, result.values)
    best = result.top(1, by="effect").iloc[0]
    assert best["edge_label"] == result.labels["edge"][int(result.effect.abs().argmax())]
    assert result.plot() is not None


def test_bad_input_is_one_sentence():
    clean, corrupted = texts()
    for options, said in (
        ({"positions": "some"}, "positions is 'some'"),
        ({"direction": "both"}, "direction is 'both'"),
        ({"source": "nothing"}, "source is 'nothing'"),
        ({"edges": []}, "no edge is given"),
        ({"edges": ["0.1->0.0.q"]}, "is no edge of this model"),
    ):
        with pytest.raises(AnalysisError, match=said):
            edge_effects(model(), clean, corrupted, METRIC, **options, **QUIET)
    with pytest.raises(AnalysisError, match="no corrupted run"):
        edge_effects(model(), clean, None, METRIC, **QUIET)
