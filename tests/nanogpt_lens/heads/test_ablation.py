from __future__ import annotations

import itertools

import pytest
import scipy.stats
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.core.simultaneous import sure_low
from nanogpt_lens.heads import chosen
from nanogpt_lens.heads.ablation import ablate_induction_heads
from nanogpt_lens.heads.induction import repeated_and_unrepeated
from nanogpt_lens.heads.induction_rule import find_induction_heads
from nanogpt_lens.heads.taxonomy import head_taxonomy
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.running import batches
from tests.conftest import convert
from tests.handmade import INDUCTION, PREVIOUS, VOCAB, handmade_model
from tests.making import content, write

MODES = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16, "vocab_size": 30}
    return read_checkpoint(write(tmp_path_factory.mktemp("ablation"), content(**sizes, seed=3, dtype=torch.float64)))


@pytest.fixture(scope="module")
def model(checkpoint):
    return convert(checkpoint, dtype=torch.float64)


@pytest.fixture(scope="module")
def handmade():
    return handmade_model()


@pytest.mark.parametrize("mode", MODES)
def test_without_the_induction_head_there_is_no_gain(handmade, mode):
    scores = ablate_induction_heads(handmade, source=mode, same_layers=False, progress=False)
    assert scores.labels["ablated"] == ("nothing", "1.0", "control 0.0", "control 0.1", "control 1.1")
    assert (
        "heads chosen on other sequences; chance: mean over the control sets, as many heads of any" in scores.definition
    )
    gain = scores.at(score="gain")
    assert gain[0] > 2
    assert scores.low[0, 2] > 2
    assert gain[1].abs() < 0.15 * gain[0]
    assert gain[3].abs() < 0.15 * gain[0]  # the previous-token head, without which there is nothing to match
    assert torch.allclose(gain[[2, 4]], gain[[0, 0]], atol=1e-12)
    assert scores.at(score="gain_lost").tolist() == pytest.approx((gain[0] - gain).tolist())
    lost = scores.at(score="gain_lost")
    assert scores.at(score="controls_as_strong")[1].item() == pytest.approx((int((lost[2:] >= lost[1]).sum()) + 1) / 4)
    assert scores.chance[1, 3].item() == pytest.approx(lost[2:].mean().item())


def test_controls_are_of_the_same_layer_where_there_are_enough(handmade, model):
    scores = ablate_induction_heads(handmade, progress=False)
    assert scores.labels["ablated"] == ("nothing", "1.0", "control 1.1")  # not 0.1, without which nothing matches
    assert "as many heads of the same layers" in scores.definition
    beyond = scores.labels["score"].index("beyond_controls")
    assert scores.values[1, beyond] > 2
    assert scores.low[1, beyond] > 2
    assert scores.at(ablated="1.0", score="controls_as_strong") == 0.5  # (0 + 1) / (1 + 1), not 0
    options = {"progress": False, "n": 2}
    both = ablate_induction_heads(model, [(0, 1), (1, 2)], controls=99, **options)
    assert set(both.labels["ablated"][2:]) == {f"control 0.{i}+1.{j}" for i in (0, 2) for j in (0, 1)}
    few = ablate_induction_heads(model, [(0, 1), (1, 2)], controls=3, **options)
    assert len(set(few.labels["ablated"][2:])) == 3
    assert set(few.labels["ablated"]) < set(both.labels["ablated"])
    most = ablate_induction_heads(model, [(0, 1), (0, 2)], controls=99, **options)  # one other is left in the layer
    assert len(most.labels["ablated"]) == 2 + 6
    assert "as many heads of any layers" in most.definition


def test_each_sequence_is_kept_and_compared_with_itself(model):
    scores = ablate_induction_heads(model, [(0, 1)], controls=99, seq_len=6, n=5, progress=False)
    each = scores.per_example
    assert each.shape == (*scores.values.shape, 5)
    torch.testing.assert_close(each.mean(-1), scores.values.index_fill(1, torch.tensor([5]), torch.nan), equal_nan=True)
    lost = each[:, scores.labels["score"].index("gain_lost")]
    contrast = lost[1] - (lost[2] + lost[3]) / 2
    torch.testing.assert_close(each[1, 4], contrast)
    mean, error = contrast.mean().item(), scipy.stats.sem(contrast.numpy()) * scipy.stats.t.ppf(0.975, 4)
    assert (scores.low[1, 4].item(), scores.high[1, 4].item()) == pytest.approx((mean - error, mean + error))
    assert scores.values[[0, 2, 3], 4].isnan().all()


def test_heads_are_not_chosen_on_the_sequences_that_are_measured(handmade, monkeypatch):
    """What `find_induction_heads` is asked about has no window, and no random sequence, of the measurement."""
    asked = []

    def recorded(model, corpus=None, **options):
        asked.append((corpus, options))
        return find_induction_heads(model, corpus, **options)

    monkeypatch.setattr(chosen, "find_induction_heads", recorded)
    corpus = torch.cat([torch.randperm(VOCAB)[:10] for _ in range(9)])
    scores = ablate_induction_heads(handmade, corpus=corpus, seq_len=10, n=50, progress=False)
    chosen_on = {tuple(row) for row in asked[0][0].tolist()}
    every = {tuple(row) for row in corpus.view(9, 10).tolist()}
    assert len(chosen_on) == 5
    assert chosen_on < every
    assert scores.provenance["arguments"]["n"] == 4
    measured = torch.tensor(sorted(every - chosen_on))
    logits = handmade(torch.cat([measured, measured], 1), return_type="logits")
    loss = torch.nn.functional.cross_entropy(logits[:, 10:19].flatten(0, 1), measured[:, 1:].flatten())
    assert scores.at(ablated="nothing", score="repeated_loss").item() == pytest.approx(loss.item(), abs=1e-9)
    ablate_induction_heads(handmade, seed=3, progress=False)
    one, other = (repeated_and_unrepeated(handmade, n=32, seed=seed)[0] for seed in (3, asked[1][1]["seed"]))
    assert not {tuple(row) for row in one.tolist()} & {tuple(row) for row in other.tolist()}


def test_the_best_of_many_noisy_heads_is_no_induction_head():
    """Forty heads whose true score is the threshold: the best of them looks like more, and is not surely more."""
    alarms = [0, 0]
    for seed in range(300):
        each = 0.4 + 0.1 * torch.randn(40, 16, generator=torch.Generator().manual_seed(seed)).double()
        low, _ = t_interval(each)
        alarms[0] += bool((low > 0.4).any())
        alarms[1] += bool((sure_low(each, looked_at=40) > 0.4).any())
    assert alarms[0] / 300 > 0.3
    assert alarms[1] / 300 <= 0.05


def test_one_rule_for_taxonomy_ablation_report_and_trajectory(handmade):
    found = find_induction_heads(handmade, n=64)
    taxonomy = head_taxonomy(handmade)
    i = taxonomy.labels["score"].index("induction")
    assert taxonomy.heads("induction") == found.heads() == [INDUCTION]
    for name in ("threshold", "sure_low", "carries"):
        torch.testing.assert_close(getattr(taxonomy, name)[i], getattr(found, name), check_dtype=False)
    assert ablate_induction_heads(handmade, progress=False).labels["ablated"][1] == "1.0"
    assert found.verdict == "induction head: 1.0"
    analysis = ngl.catalogue.find("find_induction_heads")
    assert analysis.alone  # so that `trajectory` follows it


def test_a_head_that_looks_back_by_a_fixed_number_is_not_ablated_either(model):
    """Its prefix matching is 1, by position: above 0.4, and no induction."""

    def back(value, hook):
        n = value.shape[-1]
        rows = torch.zeros(n, n, dtype=value.dtype)
        for i in range(n):
            rows[i, max(0, i - 5)] = 1
        return rows.expand(value.shape).clone()

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", back)]):
        found = find_induction_heads(model, seq_len=6)
        with pytest.raises(AnalysisError, match="no induction head: the highest prefix matching is 1.000"):
            ablate_induction_heads(model, seq_len=6, progress=False)
    assert found.values[1].tolist() == pytest.approx([1, 1, 1])
    assert found.threshold[1].tolist() == pytest.approx([1.1, 1.1, 1.1])
    assert found.heads() == []


def test_dead_heads_do_nothing(handmade):
    scores = ablate_induction_heads(handmade, [(0, 0), (1, 1)], source="mean", progress=False)
    assert scores.at(ablated="0.0+1.1", score="gain_lost").abs() < 1e-12
    assert scores.at(ablated="0.0+1.1", score="controls_as_strong") == 1  # the one control set is 0.1 + 1.0
    assert scores.at(ablated="control 0.1+1.0", score="gain_lost") > 2


def naive(model, heads, mode):
    """Losses [kind], one forward per sequence, z replaced in a private copy of the weights or by a hook."""
    both = repeated_and_unrepeated(model, seq_len=6, n=5, seed=1)
    z = {}
    with torch.no_grad():
        for kind, tokens in enumerate(both):
            _, cache = model.run_with_cache(tokens)
            for layer in range(2):
                z[kind, layer] = cache[f"blocks.{layer}.attn.hook_z"].clone()
        found = []
        for tokens in both:
            losses = []
            for i in range(5):
                hooks = []
                for layer, head in heads:
                    pooled = torch.cat([z[0, layer], z[1, layer]])[:, :, head].mean((0, 1))
                    new = {"zero": 0.0 * pooled, "mean": pooled, "resample": z[1, layer][(i - 2) % 5, :, head]}[mode]

                    def hook(value, hook=None, head=head, new=new):
                        value = value.clone()
                        value[:, :, head] = new
                        return value

                    hooks.append((f"blocks.{layer}.attn.hook_z", hook))
                logits = model.run_with_hooks(tokens[i : i + 1], fwd_hooks=hooks)[0]
                losses.append(torch.nn.functional.cross_entropy(logits[6:11], tokens[i, 7:12]))
            found.append(torch.stack(losses))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heads", [[(1, 2)], [(0, 1), (1, 0), (0, 2)]])
def test_against_one_forward_per_sequence(model, mode, heads, monkeypatch):
    monkeypatch.setattr(batches, "_NUMBERS", 2 * 12 * 96)  # two sequences at a time
    scores = ablate_induction_heads(model, heads, source=mode, controls=2, seq_len=6, n=5, seed=1, progress=False)
    sets = [[], heads]
    sets += [
        [tuple(map(int, pair.split("."))) for pair in label.removeprefix("control ").split("+")]
        for label in scores.labels["ablated"][2:]
    ]
    first_gain = None
    for row, heads_out in enumerate(sets):
        repeated, unrepeated = naive(model, heads_out, mode)
        gain = unrepeated - repeated
        first_gain = gain if first_gain is None else first_gain
        expected = [repeated, unrepeated, gain, first_gain - gain]
        assert scores.values[row, :4].tolist() == pytest.approx([x.mean().item() for x in expected], abs=1e-9)
    assert (scores.values[1:, 0] - scores.values[0, 0]).abs().min() > 1e-4  # the edits reach the loss
    assert (scores.low[:, :4] <= scores.values[:, :4] + 1e-12).all()
    assert (scores.values[:, :4] <= scores.high[:, :4] + 1e-12).all()
    assert not has_hooks(model)


def test_zeroed_heads_are_those_without_weights(checkpoint, model):
    """Zeroing z is what zeroing the head's W_O does."""
    scores = ablate_induction_heads(model, [(0, 1)], controls=0, seq_len=6, n=5, progress=False)
    without = convert(checkpoint, dtype=torch.float64)
    with torch.no_grad():
        without.blocks[0].attn.W_O[1] = 0.0
    expected = ablate_induction_heads(without, [(0, 2)], controls=0, seq_len=6, n=5, progress=False)
    assert torch.allclose(scores.values[1, :3], expected.values[0, :3], atol=1e-9)
    assert scores.chance is None
    assert scores.values[1, 4:].isnan().all()
    assert "chance" not in scores.definition


def test_mean_and_resample_do_not_see_weight_processing(checkpoint, model):
    folded = convert(checkpoint, dtype=torch.float64, process_weights=True)
    for mode in ("mean", "resample"):
        options = {"source": mode, "controls": 2, "progress": False}
        raw, processed = (ablate_induction_heads(m, [(0, 1), (1, 1)], **options) for m in (model, folded))
        assert torch.allclose(raw.values[:, :4], processed.values[:, :4], atol=1e-9)


def test_control_sets_are_different_and_of_other_heads(model):
    heads = {(0, 1), (1, 1)}
    labels = {}
    for seed in (0, 0, 1):
        scores = ablate_induction_heads(
            model, list(heads), controls=4, n=2, seed=seed, same_layers=False, progress=False
        )
        labels[seed] = [label.removeprefix("control ") for label in scores.labels["ablated"][2:]]
        assert len(set(labels[seed])) == 4
    every = {f"{a[0]}.{a[1]}" for a in itertools.product(range(2), range(3))} - {"0.1", "1.1"}
    assert {name for label in labels[0] for name in label.split("+")} <= every
    assert labels[0] != labels[1]
    few = ablate_induction_heads(model, list(heads), controls=99, n=2, same_layers=False, progress=False)
    assert len(few.labels["ablated"]) == 2 + 6  # all pairs of the four others


def test_heads_can_be_written(model):
    options = {"controls": 2, "n": 3, "progress": False}
    expected = ablate_induction_heads(model, [(0, 1), (1, 2)], **options)
    for heads in (["0.1", "1.2"], ["L0H1", "l1h2"], [[0, 1], "L1H2"]):
        scores = ablate_induction_heads(model, heads, **options)
        assert scores.labels == expected.labels
        assert torch.equal(scores.values[:, :4], expected.values[:, :4])
        assert scores.provenance["arguments"]["heads"] == [(0, 1), (1, 2)]


def test_on_a_corpus(handmade):
    """Windows of distinct tokens: the losses of windows cut by hand."""
    generator = torch.Generator().manual_seed(0)
    corpus = torch.cat([torch.randperm(VOCAB, generator=generator)[:10] for _ in range(9)])
    scores = ablate_induction_heads(handmade, [INDUCTION], corpus=corpus, seq_len=10, n=50, progress=False)
    assert scores.provenance["arguments"]["n"] == 9
    assert "10 tokens of the given corpus" in scores.definition
    rows = corpus.view(9, 10)
    logits = handmade(torch.cat([rows, rows], 1), return_type="logits")
    loss = torch.nn.functional.cross_entropy(logits[:, 10:19].flatten(0, 1), rows[:, 1:].flatten())
    assert scores.at(ablated="nothing", score="repeated_loss").item() == pytest.approx(loss.item(), abs=1e-9)
    gain = scores.at(score="gain")
    assert gain[0] > 2
    assert gain[1].abs() < 0.15 * gain[0]


def test_a_quick_call_shows_no_bar(model, capfd):
    ablate_induction_heads(model, [(0, 0)], controls=1, n=2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("heads", "options", "message"),
    [
        (None, {}, "no induction head: the highest prefix matching is 0"),
        (None, {"corpus": torch.arange(24), "seq_len": 8}, "there are 3 windows of 8 tokens; expected at least 4"),
        ([], {}, "expected at least one"),
        ([(0, 1), (0, 1)], {}, "each once"),
        ([(2, 0)], {}, r"there is no head \(2, 0\); expected \(layer, head\) from \(0, 0\) to \(1, 2\)"),
        ([(0, -1)], {}, "there is no head"),
        ([3], {}, "there is no head 3"),
        ([(0, 0)], {"source": "knockout"}, "source is 'knockout'; expected one of zero, mean, resample"),
        ([(0, 0)], {"source": "resample", "n": 3}, "there are 3 sequences; expected at least 4"),
        (
            [(0, 0)],
            {"source": "resample", "corpus": torch.arange(24), "seq_len": 8},
            "there are 3 sequences; expected at least 4",
        ),
        (3, {}, r"heads is 3; expected a list of heads, such as"),
        ("1.0", {}, "heads is '1.0'; expected a list"),
        ((1, 0), {}, "there is no head 1"),
        (["2.0"], {}, r"there is no head '2.0'; expected \(layer, head\) from .*, or \"0.0\" to \"1.2\""),
        (["1.0.q"], {}, "there is no head '1.0.q'"),
        (["1.0", (1, 0)], {}, "each once"),
        ([(0, 0)], {"seed": None}, "seed is None"),
        ([(0, 0)], {"controls": 1.5}, "controls is 1.5"),
        ([(0, 0)], {"seq_len": 3.5}, "seq_len is 3.5"),
        ([(0, 0)], {"corpus": torch.arange(10), "seq_len": 8}, "there is 1 sequence of 8 tokens"),
        ([(0, 0)], {"controls": -1}, "controls is -1"),
        ([(0, 0)], {"n": 1}, "expected at least 2"),
        (
            [(0, 0), (0, 1), (0, 2), (1, 0)],
            {"controls": 20},
            "2 are left, too few for a control set of 4; give fewer heads",
        ),
    ],
)
def test_bad_input(model, heads, options, message):
    with pytest.raises(AnalysisError, match=message):
        ablate_induction_heads(model, heads, progress=False, **options)


def test_the_handmade_circuit_is_both_heads():
    both = [PREVIOUS, INDUCTION]
    scores = ablate_induction_heads(handmade_model(dtype=torch.float32), both, progress=False)
    assert scores.at(ablated="0.1+1.0", score="controls_as_strong") == 0.5  # of one control set
    assert scores.chance[1, 3].abs() < 1e-5
