"""What causes induction, where the answer appears, what carries over: a handmade model's known answers, plain loops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.heads.on_tasks import task_sequences
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.text.tasks import RepeatedRandom, trigger_bigrams
from scripts.replication import answers, causes, knockouts, measured
from tests.conftest import convert
from tests.handmade import VOCAB, handmade_model
from tests.making import CHARS, write

GIVEN = {"previous_token": "0.1", "induction": ["1.0"], "induction_on_task": ["1.0"]}


def bigrams(chars, n_triggers=3):
    vocabulary = CharVocabulary(tuple(chars))
    ids = np.random.default_rng(3).geometric(0.15, size=5000) % len(chars)  # some are frequent
    return trigger_bigrams(TextData(train=ids, val=ids, vocabulary=vocabulary, name="noise"), n_triggers=n_triggers)


@pytest.fixture(scope="module")
def known():
    return handmade_model(), bigrams(CHARS[-VOCAB:])


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    write(folder, block_size=16, n_head=4)
    return convert(read_checkpoint(folder), dtype=torch.float64), bigrams(CHARS)


def value(numbers):
    return numbers["value"]


# --- which heads --------------------------------------------------------------------------


def test_heads_of_the_handmade_model(known):
    found = causes.heads_of(*known, n=16)
    assert (found["previous_token"], found["agree"], found["previous_clear"]) == ("0.1", True, True)
    assert found["induction"] == ["1.0"]
    assert found["induction_on_task"] == ["1.0"]
    assert value(found["scores"]["1.0"]["induction_random"]) == pytest.approx(1, abs=1e-3)
    idle = found["scores"]["1.1"]["induction_random"]  # attends uniformly
    assert idle["value"] == idle["chance"]


def test_no_induction_head_is_an_error(random):
    with pytest.raises(AnalysisError, match="expected an induction head"):
        causes.k_composition(*random)
    with pytest.raises(AnalysisError, match="in a layer after 0"):
        causes.path_patching(*random, heads=GIVEN | {"induction": ["0.2"], "induction_on_task": []}, n=4)


# --- ablation -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", knockouts.MODES)
def test_only_the_two_heads_matter_in_the_handmade_model(known, mode):
    found = causes.ablation(*known, heads=GIVEN, n=32, modes=[mode])
    rows = found[mode]
    assert value(rows["nothing"]["accuracy"]) == 1
    assert value(rows["induction"]["accuracy"]) < 0.3
    assert value(rows["previous_token"]["accuracy"]) < 0.3
    assert rows["others"]["heads"] == "0.0+1.1"
    for name in ("others", "0.0", "1.1"):
        assert value(rows[name]["lost"]) == 0
        assert abs(value(rows[name]["loss_added"])) <= 1e-4
    assert rows["1.0"] == rows["induction"]
    assert rows["controls"]["sets"] == 3
    assert rows["controls"]["worst"]["heads"] == "0.1"
    assert value(rows["controls"]["mean_lost"]) == pytest.approx(value(rows["0.1"]["lost"]) / 3, abs=1e-4)
    assert rows["parts"] is None
    json.dumps(found, allow_nan=False)


def test_sets_when_half_of_the_heads_are_induction_heads(random):
    heads = GIVEN | {"induction": ["1.0", "1.1", "1.2"], "induction_on_task": ["1.2", "1.3"]}
    named, drawn = causes._sets(random[0], heads, 0)
    assert named["others"] == ((0, 0), (0, 2), (0, 3))
    assert named["induction_at_work"] == ((1, 0), (1, 1), (1, 2), (1, 3))
    assert len(drawn["parts"]) == 4  # three of four
    assert all(len(part) == 3 and {layer for layer, _ in part} == {1} for part in drawn["parts"])
    assert len(set(drawn["controls"])) == causes.MOST_SETS
    assert all(len(s) == 3 and not {(1, 0), (1, 1), (1, 2)} & set(s) for s in drawn["controls"])


@torch.no_grad()
@pytest.mark.parametrize("mode", knockouts.MODES)
def test_knockouts_against_run_with_hooks_one_sequence_at_a_time(random, mode):
    model, task = random
    n, sets = 33, [(), ((1, 2),), ((0, 0), (0, 3), (1, 1))]  # more than one piece of rows
    found = knockouts.without(model, task, sets, [mode], n, 5)[mode]
    drawn = task_sequences(model, task, n=n, seed=5)
    tokens = torch.from_numpy(drawn.tokens)
    _, cache = model.run_with_cache(tokens)
    for i, heads in enumerate(sets):
        totals = {"right": [], "loss": [], "other": []}
        for row in range(n):

            def replace(z, hook, row=row, heads=heads):
                whole = cache[hook.name]
                for layer, head in heads:
                    if layer == hook.layer():
                        new = {"mean": whole.mean((0, 1)), "resample": whole[(row - n // 2) % n], "zero": 0 * whole[0]}
                        z[:, :, head] = new[mode][..., head, :]
                return z

            names = [(f"blocks.{layer}.attn.hook_z", replace) for layer in (0, 1)]
            logp = model.run_with_hooks(tokens[row : row + 1], fwd_hooks=names)[0].log_softmax(-1)
            for p in range(tokens.shape[1] - 1):
                loss = -logp[p, tokens[row, p + 1]].item()
                if drawn.required[row, p]:
                    totals["right"].append(float(logp[p].argmax() == tokens[row, p + 1]))
                    totals["loss"].append(loss)
                elif not drawn.unseen[row, p]:
                    totals["other"].append(loss)
        expected = [np.mean(values) for values in totals.values()]
        np.testing.assert_allclose(found[i].mean(-1).numpy(), expected, rtol=1e-9)


def test_the_gain_is_lost_with_either_head_and_with_no_other(known):
    for rows in causes.induction_gain(*known, heads=GIVEN, n=8).values():
        whole = value(rows["induction"]["gain_with_all"])
        assert whole > 3
        assert value(rows["induction"]["gain_lost"]) == pytest.approx(whole, rel=0.15)
        assert value(rows["previous_token"]["gain_lost"]) == pytest.approx(whole, rel=0.15)
        assert value(rows["others"]["gain_lost"]) == pytest.approx(0, abs=1e-4)
        assert rows["induction"]["controls"]["worst"] == "control 0.1"
        assert rows["previous_token"]["controls"]["sets"] == 3


# --- paths and composition ----------------------------------------------------------------


def test_the_handmade_circuit_goes_through_the_keys(known):
    found = causes.path_patching(*known, heads=GIVEN, n=8)
    for kind in ("random", "task"):
        for direction in ("noise", "denoise"):
            rows = found[kind][direction]
            assert value(rows["gap"]) > 3
            assert value(rows["total_share"]) == pytest.approx(1, abs=0.02)
            for through in ("through", "through_frozen"):
                shares = {end: value(row["share"]) for end, row in rows[through]["0.1"].items()}
                assert shares["keys"] == pytest.approx(1, abs=0.02)
                assert shares["all_three"] == pytest.approx(1, abs=0.02)
                assert abs(shares["queries"]) < 0.02
                assert abs(shares["values"]) < 0.02
                assert abs(shares["logits"]) < 0.02
                assert abs(shares["mlp"]) < 0.02
                assert all(value(row["share"]) == 0 for row in rows[through]["0.0"].values())
    json.dumps(found, allow_nan=False)


@torch.no_grad()
def test_paths_through_keys_against_a_frozen_run_by_hand(random):
    model, task = random
    heads = GIVEN | {"induction": ["1.0", "1.3"]}
    rows = causes.path_patching(model, task, heads=heads, n=6)["task"]["noise"]
    pair = causes.task_pairs(model, task, n=6)

    def metric(logits):
        return (logits[:, -1].gather(-1, pair.answer[:, None]) - logits[:, -1].gather(-1, pair.wrong[:, None])).mean()

    logits, _ = model.run_with_cache(pair.clean)
    other, source = model.run_with_cache(pair.corrupted)
    noted = {}

    def patch(z, hook):
        z[:, :, 1] = source["blocks.0.attn.hook_z"][:, :, 1]
        return z

    model.run_with_hooks(
        pair.clean,
        fwd_hooks=[
            ("blocks.0.attn.hook_z", patch),
            ("blocks.1.attn.hook_k", lambda k, hook: noted.update(k=k.clone())),
        ],
    )

    def keys(k, hook):
        k[:, :, [0, 3]] = noted["k"][:, :, [0, 3]]
        return k

    through = model.run_with_hooks(pair.clean, fwd_hooks=[("blocks.1.attn.hook_k", keys)])
    total = model.run_with_hooks(pair.clean, fwd_hooks=[("blocks.0.attn.hook_z", patch)])
    assert value(rows["gap"]) == pytest.approx(float(metric(logits) - metric(other)), abs=1e-4)
    assert value(rows["total"]) == pytest.approx(float(metric(logits) - metric(total)), abs=1e-4)
    effect = float(metric(logits) - metric(through))
    assert abs(effect) > 1e-3
    assert value(rows["through"]["0.1"]["keys"]["effect"]) == pytest.approx(effect, abs=1e-4)
    assert value(rows["through"]["0.1"]["keys"]["share"]) == pytest.approx(
        effect / float(metric(logits) - metric(total)), abs=1e-3
    )


@pytest.mark.parametrize("kind", ["bigrams", "repeated"])
def test_task_pairs_take_away_the_reason_and_nothing_else(random, kind):
    model, task = random
    if kind == "repeated":
        task = RepeatedRandom(vocabulary=CharVocabulary(tuple(CHARS)), name="repeats", shortest=3)
    pair = causes.task_pairs(model, task, n=20)
    assert pair.clean.shape == pair.corrupted.shape == (20, 8)
    for clean, corrupted, answer, wrong in zip(
        pair.clean.tolist(), pair.corrupted.tolist(), pair.answer.tolist(), pair.wrong.tolist(), strict=True
    ):
        last = clean[-1]
        earlier = [p for p in range(7) if clean[p] == last]
        assert earlier
        assert {clean[p + 1] for p in earlier} == {answer}
        assert [p for p in range(8) if clean[p] != corrupted[p]] == earlier
        new = {corrupted[p] for p in earlier}
        assert len(new) == 1
        assert not new & {*clean, answer}
        assert wrong in clean
        assert wrong not in (last, answer)


def test_task_pairs_say_when_there_are_too_few(random):
    task = RepeatedRandom(vocabulary=CharVocabulary(tuple(CHARS)), name="repeats", shortest=8)
    with pytest.raises(AnalysisError, match="0 of 300 sequences of 'repeats' require induction at position 7"):
        causes.task_pairs(random[0], task, n=3)


def test_composition_against_the_formula(random, known):
    model, task = random
    found = causes.k_composition(model, task, heads=GIVEN, samples=20)
    first, second = model.blocks[0].ln1.w, model.blocks[1].ln1.w
    centre = torch.eye(16, dtype=torch.float64) - 1 / 16

    def composed(sender):
        ov = centre @ (first[:, None] * model.W_V[0, sender]) @ model.W_O[0, sender] @ centre
        key = centre @ (second[:, None] * model.W_K[1, 0])
        query = centre @ (second[:, None] * model.W_Q[1, 0])
        r = key @ query.T
        return ((ov @ r).norm() / (ov.norm() * r.norm())).item()

    expected = {f"0.{head}": composed(head) for head in range(4)}
    for head, score in found["1.0"]["scores"].items():
        assert score == pytest.approx(expected[head], abs=1e-3)
    order = sorted(expected, key=lambda head: -expected[head])
    assert found["1.0"]["rank"] == 1 + order.index("0.1")
    alone = causes.k_composition(*known, heads=GIVEN, samples=20)
    assert alone["1.0"]["rank"] == 1
    assert alone["1.0"]["above_random"]
    assert alone["1.0"]["scores"]["0.0"] == 0


# --- prompts, lens, carrying over ---------------------------------------------------------


def test_the_handmade_answer_appears_after_the_induction_layer(known):
    found = answers.prompts(*known, n=32)
    assert value(found["clean"]["accuracy"]) == 1
    assert value(found["corrupted"]["accuracy"]) < 0.3
    for kind in ("lens", "lens_on_task"):
        assert found[kind]["appears"] == "resid_mid 1"
        assert value(found[kind]["resid_mid 1"]["top"]) == 1
        assert value(found[kind]["resid_post 0"]["probability"]) < 0.2
        firsts = [value(found[kind][point]["first"]) for point in found[kind]["points"]]
        assert sum(firsts) == pytest.approx(1, abs=1e-3)
        assert found[kind]["points"] == ["resid_pre 0", "resid_mid 0", "resid_post 0", "resid_mid 1", "resid_post 1"]


@torch.no_grad()
def test_the_lens_at_required_positions_by_plain_loops(random):
    model, task = random
    found = answers.prompts(model, task, n=12, seed=3)["lens_on_task"]
    drawn = task_sequences(model, task, n=12, seed=3)
    tokens = torch.from_numpy(drawn.tokens)
    _, cache = model.run_with_cache(tokens)
    places = [(e, p) for e in range(12) for p in range(15) if drawn.required[e, p]]
    done = set()
    for point in found["points"]:
        where, layer = point.split()
        probability, top, first = [], 0, 0
        for e, p in places:
            logits = model.unembed(model.ln_final(cache[f"blocks.{layer}.hook_{where}"][e : e + 1, p : p + 1]))[0, 0]
            answer = int(tokens[e, p + 1])
            probability.append(float(logits.softmax(-1)[answer]))
            if int(logits.argmax()) == answer:
                top += 1
                first += (e, p) not in done
                done.add((e, p))
        assert value(found[point]["probability"]) == pytest.approx(np.mean(probability), abs=1e-4)
        assert value(found[point]["top"]) == pytest.approx(top / len(places), abs=1e-4)
        assert value(found[point]["first"]) == pytest.approx(first / len(places), abs=1e-4)


def test_the_handmade_model_carries_everything_over(known):
    found = answers.carry_over(*known, heads=causes.heads_of(*known, n=8), n=32)
    assert [key for key in found if key.isdigit()] == []  # copies of 16 tokens do not fit
    assert value(found["pairs"]["share"]) == pytest.approx(1, abs=0.02)
    assert value(found["task"]["accuracy"]) == 1


def test_permutations_by_plain_loops(random, monkeypatch):
    model, task = random
    monkeypatch.setattr(answers, "LENGTHS", (5, 8, 9))
    heads = GIVEN | {"scores": {"1.0": {"induction_task": {}}}}
    found = answers.carry_over(model, task, heads=heads, n=12, seed=2)
    assert [key for key in found if key.isdigit()] == ["5", "8"]
    drawn = task_sequences(model, task, n=12, seed=2)

    def scored(tokens, required):
        right, loss, chance = [], [], []
        logp = model(tokens).log_softmax(-1)
        for e, row in enumerate(tokens.tolist()):
            for p in range(len(row) - 1):
                if required[e][p]:
                    right.append(float(logp[e, p].argmax() == row[p + 1]))
                    loss.append(-logp[e, p, row[p + 1]].item())
                    chance.append(1 / len(set(row[: p + 1])))
        return np.mean(right), np.mean(loss), np.mean(chance)

    own = scored(torch.from_numpy(drawn.tokens), drawn.required)
    once = ngl.repeated_tokens(model, seq_len=5, n=12, seed=2)
    there = scored(once, [[p >= 5 for p in range(10)]] * 12)
    for key, expected in (("task", own), ("5", there)):
        assert value(found[key]["accuracy"]) == pytest.approx(expected[0], abs=1e-4)
        assert value(found[key]["loss"]) == pytest.approx(expected[1], abs=1e-4)
        assert found[key]["chance"] == pytest.approx(expected[2], abs=1e-4)
    share = (there[0] - there[2]) / (1 - there[2]) / ((own[0] - own[2]) / (1 - own[2]))
    assert value(found["5"]["share"]) == pytest.approx(share, abs=1e-4)
    assert there[2] == pytest.approx(1 / 5)


# --- numbers ------------------------------------------------------------------------------


def test_numbers_and_their_intervals():
    generator = torch.Generator().manual_seed(0)
    above, below = torch.randn(2, 400, generator=generator, dtype=torch.float64) + torch.tensor([[1.0], [4.0]])
    spread = above.std().item() / 20
    found = measured.mean(above, seed=1)
    assert found["value"] == round(above.mean().item(), 4)
    assert (found["n"], found["seed"]) == (400, 1)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)
    delta = (above / below.mean() - above.mean() / below.mean() ** 2 * below).std().item() / 20
    for function in (measured.ratio, measured.ratio_of_means):  # both are independent here
        shares = function(above, below, seed=1)
        assert shares["value"] == round((above.mean() / below.mean()).item(), 4)
        assert shares["high"] - shares["low"] == pytest.approx(2 * 1.96 * delta, rel=0.15)
    paired = measured.ratio(2 * below, below, seed=1)
    assert paired["low"] == paired["high"] == 2
    assert measured.ratio(above, 0 * below, seed=1)["value"] is None
