"""Path patching: every definition step by step over the native model, and TransformerLens' own where it is exact."""

from __future__ import annotations

import itertools

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.model.access import has_hooks
from tests.handmade import handmade_model
from tests.nanogpt_lens.patching.patching_helpers import N_POS, checkpoint, model, native, native_run, texts

METRIC = ngl.metrics.logit_diff([3, 1, 4], [5, 9, 2], pos=[3, -1])
WRITTEN = ["hook_embed", *(f"blocks.{i}.{hook}" for i in range(3) for hook in ("attn.hook_z", "hook_mlp_out"))]
HEADS = [(layer, head) for layer in range(3) for head in range(2)]


def by_hand(base, source, senders, receivers, sender_pos, freeze_mlps, receiver_pos=range(N_POS)):
    """Wang et al.'s three steps, each a run of the native model; one example at a time, no chunks.

    Nodes are ("embed",), ("head", layer, head[, part]), ("mlp", layer), ("logits",).
    """
    gpt, old, new = native(), native_run(base, WRITTEN), native_run(source, WRITTEN)
    at, to = list(sender_pos), list(receiver_pos)
    edits, noted = {}, {}

    def note(name):
        def edit(value):
            noted[name] = value.clone()

        return edit

    for layer in range(3):
        z = old[f"blocks.{layer}.attn.hook_z"].clone()
        for node in senders:
            if node[0] == "head" and node[1] == layer:
                z[:, at, node[2]] = new[f"blocks.{layer}.attn.hook_z"][:, at, node[2]]
        edits[f"blocks.{layer}.attn.hook_z"] = lambda value, z=z: z
        name = f"blocks.{layer}.hook_mlp_out"

        def mlp(value, name=name, sends=("mlp", layer) in senders):
            out = old[name].clone() if freeze_mlps else value.clone()
            if sends:
                out[:, at] = new[name][:, at]
            return out

        edits[name] = mlp
        edits[f"blocks.{layer}.mlp.hook_pre"] = note(f"blocks.{layer}.mlp.hook_pre")
        for part in "qkv":
            edits[f"blocks.{layer}.attn.hook_{part}"] = note(f"blocks.{layer}.attn.hook_{part}")
    if ("embed",) in senders:

        def embed(value):
            value = value.clone()
            value[:, at] = new["hook_embed"][:, at]
            return value

        edits["hook_embed"] = embed
    final = "blocks.2.hook_resid_post"
    edits[final] = note(final)
    with torch.no_grad():
        gpt(base, edits=edits)
        plain = native_run(base, [final])[final]
        last = {}
        for node in receivers:
            if node[0] == "logits":
                name, inside = final, slice(None)
            elif node[0] == "mlp":
                name, inside = f"blocks.{node[1]}.mlp.hook_pre", slice(None)
            else:
                name, inside = f"blocks.{node[1]}.attn.hook_{node[3]}", [node[2]]
            last.setdefault(name, []).append((node[0], inside))

        def receive(name):
            def edit(value):
                value = value.clone()
                for kind, inside in last[name]:
                    for p in to:
                        if kind == "logits":
                            value[:, p] += noted[name][:, p] - plain[:, p]
                        else:
                            value[:, p, inside] = noted[name][:, p, inside]
                return value

            return edit

        return METRIC(gpt(base, edits={name: receive(name) for name in last}))


def node(word):
    if word in ("embed", "logits"):
        return [(word,)]
    if word.startswith("mlp"):
        return [("mlp", int(word[3:]))]
    layer, head, *part = word.split(".")
    return [("head", int(layer), int(head), *(part or []))]


def nodes(group):
    return [n for word in ([group] if isinstance(group, str) else group) for n in node(word)]


SENDERS = ["embed", "0.0", "0.1", "mlp0", "1.1", "mlp1", "2.0", "mlp2", ["0.1", "mlp1"], ["embed", "1.0"]]
RECEIVERS = [
    "1.0.q",
    "1.1.k",
    "2.1.v",
    "mlp0",
    "mlp2",
    "logits",
    ["2.0.q", "2.0.k", "1.0.v"],
    ["1.0.k", "mlp1", "logits"],
]


@pytest.mark.parametrize("freeze_mlps", [False, True])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_equals_the_definition_run_by_hand(direction, freeze_mlps):
    clean, corrupted = texts()
    base, source = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    result = ngl.path_patching(
        model(),
        clean,
        corrupted,
        METRIC,
        senders=SENDERS,
        receivers=RECEIVERS,
        direction=direction,
        freeze_mlps=freeze_mlps,
        progress=False,
    )
    assert result.axes == ("sender", "receiver")
    assert result.labels["sender"][-2:] == ("0.1+mlp1", "embed+1.0")
    for (i, senders), (j, receivers) in itertools.product(enumerate(SENDERS), enumerate(RECEIVERS)):
        expected = by_hand(base, source, nodes(senders), nodes(receivers), range(N_POS), freeze_mlps)
        assert abs(result.values[i, j] - expected) < 1e-10, (senders, receivers)
    assert (result.effect.abs() > 1e-3).sum() > 30


def test_each_position_and_some_receiver_positions():
    clean, corrupted = texts()
    result = ngl.path_patching(
        model(),
        clean,
        corrupted,
        METRIC,
        senders=["0.1", "mlp1"],
        receivers=["2.1.k", "logits"],
        positions="each",
        receiver_positions=[2, 3, -1],
        progress=False,
    )
    assert result.axes == ("sender", "receiver", "pos")
    for i, j, p in itertools.product(range(2), range(2), range(N_POS)):
        expected = by_hand(
            corrupted, clean, node(["0.1", "mlp1"][i]), node(["2.1.k", "logits"][j]), [p], False, [2, 3, 8]
        )
        assert abs(result.values[i, j, p] - expected) < 1e-10
    some = ngl.path_patching(
        model(), clean, corrupted, METRIC, senders=["0.1"], receivers="logits", positions=[1, 3], progress=False
    )
    assert abs(some.values[0, 0] - by_hand(corrupted, clean, node("0.1"), node("logits"), [1, 3], False)) < 1e-10


def test_senders_behind_their_receivers_have_no_effect():
    clean, corrupted = texts()
    result = ngl.path_patching(
        model(), clean, corrupted, METRIC, senders="heads", receivers=["0.0", "1.1", "mlp1"], progress=False
    )
    assert result.labels["sender"] == tuple(f"{layer}.{head}" for layer, head in HEADS)
    assert result.labels["receiver"] == ("0.0", "1.1", "mlp1")
    effect = result.effect.abs()
    assert effect[:, 0].max() == 0
    assert effect[2:, 1].max() == 0
    assert effect[4:, 2].max() == 0
    assert effect[:2, 1].min() > 1e-6
    assert effect[:4, 2].min() > 1e-6


def test_all_paths_of_the_embedding_together_are_the_other_run():
    """In a model without attention between them, embed -> logits with free MLPs is the whole effect."""
    clean, corrupted = texts()
    hooked = model()
    for block in hooked.blocks:
        block.attn.W_O.data.zero_()
    result = ngl.path_patching(hooked, clean, corrupted, METRIC, senders="embed", receivers="logits", progress=False)
    assert abs(result.recovery[0, 0] - 1) < 1e-9


def test_hooks_are_gone_also_when_the_metric_raises():
    hooked, (clean, corrupted) = model(), texts()

    def metric(logits):
        if logits.shape[0]:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ngl.path_patching(hooked, clean, corrupted, metric, senders="heads", receivers="logits", progress=False)
    assert not has_hooks(hooked)


def test_small_chunks_give_the_same():
    clean, corrupted = texts()
    options = {"senders": ["0.1"], "receivers": ["1.0.k", "logits"], "positions": "each", "progress": False}
    one = ngl.path_patching(model(), clean, corrupted, METRIC, memory=1, **options)
    many = ngl.path_patching(model(), clean, corrupted, METRIC, **options)
    assert (one.values - many.values).abs().max() < 1e-12


def test_on_the_handmade_model_the_previous_token_head_works_through_the_induction_heads_keys():
    hooked = handmade_model()
    pair = ngl.induction_pairs(hooked, seq_len=14, n=6)
    metric = ngl.metrics.logit_diff(pair.answer, pair.wrong)
    receivers = ["1.0.q", "1.0.k", "1.0.v", "1.1", "logits"]
    result = ngl.path_patching(
        hooked, pair.clean, pair.corrupted, metric, senders="heads", receivers=receivers, progress=False
    )
    expected = torch.zeros(4, 5, dtype=torch.float64)
    expected[1, 1] = 1.0  # 0.1 -> 1.0's keys
    expected[2, 4] = 1.0  # 1.0 -> logits
    assert (result.recovery - expected).abs().max() < 1e-6


@pytest.mark.bridge
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_equals_transformer_lens_direct_paths(part, tmp_path):
    """TransformerLens 4's are exact, on a bridge around the same weights as a Hugging Face model."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.patching import get_act_patch_direct_path

    from conversion import save_checkpoint
    from conversion.nanogpt_to_huggingface import to_huggingface
    from tests.making import write_meta

    clean, corrupted = texts()
    save_checkpoint(checkpoint(), tmp_path / "run")
    write_meta(tmp_path / "run", chars="abcdefghijklm")
    read = ngl.read_checkpoint(tmp_path / "run")
    huggingface = to_huggingface(read, dtype=torch.float64)
    tokenizer = read.tokenizer()
    with tokenizer.probing():
        bridge = TransformerBridge.boot_transformers(
            "gpt2", hf_model=huggingface, tokenizer=tokenizer, dtype=torch.float64
        )
    bridge.eval()
    with torch.no_grad():
        assert (bridge(clean) - model()(clean)).abs().max() < 1e-10
        _, clean_cache = bridge.run_with_cache(clean)
        _, corrupted_cache = bridge.run_with_cache(corrupted)
        theirs = get_act_patch_direct_path(
            bridge, corrupted, clean_cache, corrupted_cache, METRIC, 0, 1, component=part, verbose=False
        )
    receivers = [f"{layer}.{head}.{part}" for layer, head in HEADS]
    ours = ngl.path_patching(
        model(), clean, corrupted, METRIC, senders=["0.1"], receivers=receivers, freeze_mlps=True, progress=False
    ).values.view(3, 2)
    assert (ours[1:] - theirs[1:]).abs().max() < 1e-5  # theirs are float32
    assert (ours[1:] - ours[0, 0]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"senders": ["logits"]}, "'logits' is no sender"),
        ({"senders": ["0.1.q"]}, "'0.1.q' is no sender"),
        ({"senders": ["0.2"]}, "'0.2' is not in this model of 3 layers with 2 heads"),
        ({"senders": []}, "names no node"),
        ({"receivers": ["embed"]}, "'embed' is no receiver"),
        ({"receivers": ["mlp3"]}, "'mlp3' is not in this model"),
        ({"receivers": [[]]}, "names no node"),
        ({"positions": "some"}, "'some'; expected 'all', 'each'"),
        ({"positions": [9]}, "no position 9"),
        ({"receiver_positions": [-10]}, "no position -10"),
        ({"receiver_positions": "each"}, "no position 'e'"),
        ({"receiver_positions": []}, "no position is given"),
        ({"positions": []}, "no position is given"),
        ({"positions": [1.5]}, "no position 1.5"),
        ({"senders": None}, "names no node"),
        ({"receivers": 7}, "names no node"),
        ({"direction": "up"}, "'up'; expected"),
        ({"corrupted": None}, "needs a corrupted text"),
        ({"corrupted": texts()[1][:2]}, "expected the same number of examples"),
    ],
)
def test_bad_input_is_named(change, words):
    clean, corrupted = texts()
    given = {"clean": clean, "corrupted": corrupted, "metric": METRIC, "senders": "heads", "receivers": "logits"}
    with pytest.raises(ngl.AnalysisError, match=words):
        ngl.path_patching(model(), **(given | change), progress=False)


def test_effects_have_paired_intervals():
    clean, corrupted = texts()
    result = ngl.path_patching(model(), clean, corrupted, METRIC, senders="heads", receivers="logits", progress=False)
    base = METRIC.per_example(native_run(corrupted, [])["logits"])
    low, high = t_interval(result.per_example - base)
    assert torch.allclose(result.effect_low, low)
    assert torch.allclose(result.effect_high, high)


def test_one_position_and_all_heads_as_receivers():
    clean, corrupted = texts()
    options = {"senders": ["0.1"], "progress": False}
    one = ngl.path_patching(model(), clean, corrupted, METRIC, receivers="heads", positions=3, **options)
    same = ngl.path_patching(
        model(), clean, corrupted, METRIC, receivers=[(layer, head) for layer, head in HEADS], positions=[3], **options
    )
    assert torch.equal(one.values, same.values)
    assert one.labels["receiver"] == tuple(f"{layer}.{head}" for layer, head in HEADS)


def test_nodes_can_be_written_in_several_ways():
    clean, corrupted = texts()
    ways = [["0.1", "mlp1"], ["L0H1", "MLP 1"], [(0, 1), "m1"]]
    found = [
        ngl.path_patching(model(), clean, corrupted, METRIC, senders=way, receivers=["L2H0.K"], progress=False)
        for way in ways
    ]
    assert all(f.labels == {"sender": ("0.1", "mlp1"), "receiver": ("2.0.k",)} for f in found)
    assert torch.equal(found[0].values, found[2].values)
