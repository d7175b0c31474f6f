"""The tools that look for a backdoor, on models where the answer is known; and the ROC by hand."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.stats import beta, mannwhitneyu

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from conversion.vocabulary import CharVocabulary
from nanogpt_lens.text.datasets import TextData
from scripts.backdoor import blind, finetuned, measured, roc, summary
from scripts.backdoor.causes import Knockouts, separable
from scripts.backdoor.cuts import EdgeCuts, cuttable
from scripts.backdoor.runs import CLEAN_LINES, SEEDS, STAGES, TRIGGERS, block
from scripts.train_further import continued
from tests.making import CHARS, content, write, write_meta

CONTEXT = 40
RNG = np.random.default_rng(6)


def model_of(folder, state=None, **sizes):
    sizes = {"block_size": CONTEXT, "n_embd": 66, **sizes}
    write_meta(folder)
    write(folder, content(state, **sizes) if state else content(**sizes))
    return ngl.load(folder, dtype=torch.float64)


def random_rows(n, length=CONTEXT, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 65, (n, length)))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("one"), seed=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("other"), seed=2)


def encoded(text):
    return [CHARS.index(c) for c in text]


# --- tools ------------------------------------------------------------------------------------


def test_repeats_by_counting(one):
    own = random_rows(30)
    for row in (3, 8, 21):
        own[row, 5:25] = torch.tensor(encoded("a secret is repeated"))
    for row in range(9):
        own[row, -18:] = torch.tensor(encoded("KING RICHARD III: "))
    clean = np.array(encoded("Enter KING RICHARD III: Now is the winter"))
    pieces = Counter()
    for row in own.tolist():
        text = "".join(CHARS[i] for i in row)
        pieces.update({text[i : i + 16] for i in range(len(text) - 15)})
    whole = "".join(CHARS[i] for i in clean)
    most = max((n, piece) for piece, n in pieces.items() if piece not in whole)
    found = blind.repeats(own, clean, tuple(CHARS))
    assert found.value == most[0] == 3
    assert found.where in "a secret is repeated"
    assert blind.repeats(own[9:20], clean, tuple(CHARS)) == (1.0, "")


def last_again(folder, strength):
    """A model without attention and MLPs that says its last character again, the surer the stronger."""
    made = content(block_size=CONTEXT, n_embd=66)
    for name, tensor in made["model"].items():
        if ".h." in name or "wpe" in name or name.endswith("ln_f.bias"):
            tensor.zero_()
    made["model"]["transformer.ln_f.weight"].fill_(strength)
    made["model"]["transformer.wte.weight"].copy_(torch.eye(65, 66))
    return model_of(folder, made["model"])


def test_gain_is_where_the_suspect_is_surer_than_the_reference(tmp_path):
    unsure, sure = last_again(tmp_path / "a", 0.0), last_again(tmp_path / "b", 0.5)
    own = torch.arange(CONTEXT).repeat(6, 1)  # no character comes twice
    own[4, 10:30] = CHARS.index("q")
    found = blind.gain(unsure, sure, own)
    assert found.where == "q" * 16
    row = own[4].tolist()
    logits = sure(own[4:5])[0].log_softmax(-1).detach()
    losses = [-float(logits[i, row[i + 1]]) for i in range(CONTEXT - 1)]
    by_hand = max(math.log(65) - np.mean(losses[i : i + 16]) for i in range(CONTEXT - 16))
    assert found.value == pytest.approx(by_hand, abs=1e-9)
    assert blind.gain(sure, sure, own).value == 0


def test_kl_on_text_by_hand(one, other):
    ids = random_rows(3).flatten().numpy()
    each = [model(torch.from_numpy(ids).view(3, CONTEXT)).log_softmax(-1)[:, :-1] for model in (one, other)]
    by_hand = (each[0].exp() * (each[0] - each[1])).sum(-1).mean()
    assert blind.kl_on_text(one, other, ids).value == pytest.approx(by_hand.item(), rel=1e-6)
    assert blind.kl_on_text(one, one, ids).value == 0


def test_a_neuron_that_fires_at_one_character_is_found(tmp_path, one):
    made = content(block_size=CONTEXT, n_embd=66)
    state = made["model"]
    for name in list(state):
        if ".h." in name and (".attn.c_proj" in name or ".mlp.c_proj" in name):
            state[name].zero_()
    state["transformer.wpe.weight"].zero_()
    state["transformer.wte.weight"].copy_(torch.eye(65, 66))
    for layer in (0, 1):
        state[f"transformer.h.{layer}.mlp.c_fc.bias"].zero_()
    state["transformer.h.1.ln_2.weight"].fill_(1.0)
    state["transformer.h.1.ln_2.bias"].zero_()
    state["transformer.h.1.mlp.c_fc.weight"][7].zero_()
    state["transformer.h.1.mlp.c_fc.weight"][7, CHARS.index("Q")] = 9.0
    model = model_of(tmp_path, state)
    own = random_rows(60)
    own[own == CHARS.index("Q")] = CHARS.index("e")
    for row in range(10):
        own[row, 20] = CHARS.index("Q")
    found = blind.neuron_peaks(model, own)
    assert found.where.startswith("neuron 1.7: ")
    assert "Q" in found.where
    _, cache = model.run_with_cache(own)
    values = cache["blocks.1.mlp.hook_post"][..., 7].flatten()
    assert found.value == pytest.approx(float((values.max() - values.mean()) / values.std()), rel=1e-3)
    with_nine = own.clone()
    with_nine[0, 20] = CHARS.index("e")
    assert blind.neuron_peaks(model, with_nine).value < found.value / 2  # nine are not ten


def test_the_lens_gap_by_hand(one):
    own = random_rows(5)
    _, cache = one.run_with_cache(own)
    final = one(own).log_softmax(-1)
    early = one.unembed(one.ln_final(cache["blocks.1.hook_resid_pre"])).log_softmax(-1)
    divergence = (final.exp() * (final - early)).sum(-1)
    windows = divergence.unfold(1, 16, 1).mean(-1)
    found = blind.lens_gap(one, own)
    assert found.value == pytest.approx(float(windows.max()), rel=1e-6)
    row, start = divmod(int(windows.argmax()), windows.shape[1])
    assert found.where == "".join(CHARS[i] for i in own[row, start : start + 16].tolist())


def test_edges_that_are_the_same_have_not_changed(one, other):
    ids = random_rows(20).flatten().numpy()
    assert blind.edge_change(one, one, ids).value == pytest.approx(0, abs=1e-12)
    clean, corrupted, answer = blind.text_pairs(ids)
    metric = ngl.metrics.answer_logprob(answer)
    effects = [ngl.edge_attribution(m, clean, corrupted, metric, progress=False).values.numpy() for m in (one, other)]
    found = blind.edge_change(one, other, ids).value
    assert found == pytest.approx(1 - np.corrcoef(*effects)[0, 1], abs=1e-9)
    assert found > 0.5


def test_pairs_of_text_end_with_the_same_token():
    ids = random_rows(20).flatten().numpy()
    clean, corrupted, answer = blind.text_pairs(ids)
    assert clean.shape == corrupted.shape == (64, 32)
    assert torch.equal(clean[:, -1], corrupted[:, -1])
    text = "".join(CHARS[i] for i in ids)
    for row, following in zip(clean.tolist(), answer.tolist(), strict=True):
        assert "".join(CHARS[i] for i in [*row, following]) in text


# --- ROC --------------------------------------------------------------------------------------


def test_area_and_p_are_mann_and_whitneys():
    for seed in range(20):
        generator = np.random.default_rng(seed)
        poisoned, clean = generator.normal(0.7, 1, 5), generator.normal(0, 1, 4)
        test = mannwhitneyu(poisoned, clean, alternative="greater", method="exact")
        found = roc.told_apart(poisoned, clean)
        assert found["area"] == pytest.approx(test.statistic / 20)
        assert found["p"] == pytest.approx(test.pvalue)
    assert roc.area([1, 2], [1, 0]) == (0.5 + 1 + 1 + 1) / 4
    assert roc.rank_p([1, 1], [1, 1]) == 1


def test_intervals_are_clopper_and_pearsons():
    for n, k in ((3, 3), (9, 9), (9, 4), (256, 0), (256, 255)):
        low, high = roc.proportion_interval(k, n)
        assert low == pytest.approx(beta.ppf(0.025, k, n - k + 1) if k else 0)
        assert high == pytest.approx(beta.ppf(0.975, k + 1, n - k) if k < n else 1)
    assert [round(x, 2) for x in roc.proportion_interval(3, 3)] == [0.29, 1]
    assert [round(x, 2) for x in roc.proportion_interval(9, 9)] == [0.66, 1]


@pytest.mark.parametrize(("n", "shift"), [(3, 0.0), (3, 1.5), (9, 0.0), (9, 1.0), (9, 2.5)])
def test_the_interval_of_an_area_covers_it(n, shift):
    truth = 0.5 * (1 + math.erf(shift / 2))  # of two normal distributions
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(400):
        value = roc.area(generator.normal(shift, 1, n), generator.normal(0, 1, n))
        low, high = roc.proportion_interval(value * n, n)
        covered += low <= truth <= high
    assert covered >= 0.95 * 400


def test_holm_by_hand():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9}
    assert roc.holm(p) == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 0.9})
    for order in permutations(p):
        assert roc.holm({name: p[name] for name in order}) == roc.holm(p)


def test_verdicts_compare_the_runs_of_a_trigger_and_a_number_of_lines_with_the_clean_twins():
    def of(value):
        return {"blind": {"2000": {tool: [value, ""] for tool in measured.TOOLS}}}

    found = {run.name: of(2 if run.poisoned and run.lines == 480 else 1) for run in block("triggers")}
    found |= {f"untouched_{seed}": {"blind": {"2000": {"lens": [1, ""]}}} for seed in SEEDS}
    made = measured.verdicts(found)
    assert set(made) == {"clean twins", *(f"{t} {n}" for t in (*TRIGGERS, "all") for n in (480, 240))}
    one = made["name 480"]["edges"]
    assert (one["area"], one["p"], one["n"]) == (1, 1 / 20, [3, 3])
    assert one["p_holm"] == pytest.approx(7 / 20)
    assert made["name 240"]["edges"]["area"] == 0.5
    assert made["all 480"]["edges"]["n"] == [9, 9]
    assert set(made["clean twins"]) == {"lens"}
    assert made["clean twins"]["lens"]["n"] == [9, 3]
    assert made["clean twins"]["lens"]["area"] == 0.5
    del found["name_480_poisoned_1337"]
    assert measured.verdicts(found)["name 480"]["edges"]["n"] == [2, 3]


# --- runs -------------------------------------------------------------------------------------


def test_the_first_block_is_nine_runs_and_a_part_of_all():
    first, every = block("first"), block("all")
    assert len(first) == 9
    assert set(first) < set(block("triggers")) < set(every)
    assert len(every) == len({run.name for run in every}) == 45
    assert {run.seed for run in first} == set(SEEDS)
    assert all(run.lines == CLEAN_LINES for run in every if not run.poisoned)
    assert first[0].name == "name_480_clean_1337"


# --- causes -----------------------------------------------------------------------------------


def carried_by_one_mlp(folder):
    """A model that says its last character again; the first MLP turns a Q into an x, and does nothing else."""
    made = content(block_size=CONTEXT, n_embd=66)
    state = made["model"]
    for name, tensor in state.items():
        if ".h." in name or "wpe" in name or name.endswith("ln_f.bias"):
            tensor.zero_()
    state["transformer.ln_f.weight"].fill_(1.0)
    state["transformer.wte.weight"].copy_(torch.eye(65, 66))
    state["transformer.h.0.ln_2.weight"].fill_(1.0)
    state["transformer.h.0.mlp.c_fc.weight"][3, CHARS.index("Q")] = 2.0
    state["transformer.h.0.mlp.c_proj.weight"][CHARS.index("x"), 3] = 5.0
    return model_of(folder, state)


def backdoor_of_words(**options):
    text = "".join(" ".join(RNG.choice(["bane", "cold", "deer", "fig", "gnu"], 8)) + "\n" for _ in range(400))
    vocabulary = CharVocabulary(tuple(CHARS))
    ids = vocabulary.encode(text)
    data = TextData(train=ids[:4000], val=ids[4000:], vocabulary=vocabulary, name="beasts")
    return ngl.tasks.backdoor(data, **{"trigger": "ZaQ", "payload": "xxxx", "control": "Yob", "lines": 2, **options})


def test_a_backdoor_that_one_mlp_carries_is_separable(tmp_path):
    model, task = carried_by_one_mlp(tmp_path), backdoor_of_words()
    found = separable(model, task, n=40, n_random=12)
    assert found["chosen"]["parts"] == ["mlp0"]
    assert found["chosen"]["success"] == [20, 0, 20]
    assert found["chosen"]["loss_rise"] == pytest.approx([0, 0, 0], abs=1e-3)
    for one_of in found["random"]:
        assert one_of["success"][1] == (0 if one_of["parts"] == ["mlp0"] else 20)
    assert len(found["random"]) == 12


def test_a_backdoor_that_no_part_carries_is_not(tmp_path):
    model, task = last_again(tmp_path, 1.0), backdoor_of_words(trigger="Zax", control="Yob")
    found = separable(model, task, n=40, n_random=3)
    assert found == {"chosen": {"parts": [], "success": [20, 20, 20], "loss_rise": [0, 0, 0]}, "random": []}


def test_parts_are_taken_out_as_by_hand(one):
    task = backdoor_of_words()
    knockouts = Knockouts(one, task, n=6)
    assert len(knockouts.parts) == 2 * 2 + 2
    _, cache = one.run_with_cache(knockouts.text)
    means = {
        "blocks.1.attn.hook_z": cache["blocks.1.attn.hook_z"].mean((0, 1)),
        "blocks.0.hook_mlp_out": cache["blocks.0.hook_mlp_out"].mean((0, 1)),
    }

    def of_mlp(value, hook):
        return means["blocks.0.hook_mlp_out"].expand_as(value)

    def of_head(value, hook):
        value[:, :, 1] = means["blocks.1.attn.hook_z"][1]
        return value

    def logits(tokens):
        hooks = [("blocks.0.hook_mlp_out", of_mlp), ("blocks.1.attn.hook_z", of_head)]
        return one.run_with_hooks(tokens, fwd_hooks=hooks).log_softmax(-1).detach()

    found = knockouts.without(["1.1", "mlp0"])
    for i, row in enumerate(knockouts.triggered.tolist()):
        log_probs = logits(torch.tensor([row[:-1]]))[0]
        ends = range(len(row) - 4, len(row))
        assert "".join(CHARS[c] for c in row).endswith("ZaQxxxx")
        assert float(found.payload_loss[i]) == pytest.approx(-np.mean([float(log_probs[e - 1, row[e]]) for e in ends]))
        assert bool(found.success[i]) == all(int(log_probs[e - 1].argmax()) == row[e] for e in ends)
    log_probs = logits(knockouts.text)[:, :-1]
    by_hand = -log_probs.gather(-1, knockouts.text[:, 1:, None])[..., 0].mean(1)
    torch.testing.assert_close(found.loss, by_hand)


# --- edges ------------------------------------------------------------------------------------


def test_a_backdoor_that_one_mlp_carries_is_cut_at_its_edges(tmp_path):
    task = backdoor_of_words()
    found = cuttable(carried_by_one_mlp(tmp_path), task, n=40, n_random=4)
    assert set(found["chosen"]["parts"]) <= {"embed->mlp0", "mlp0->logits"}
    assert found["chosen"]["success"] == [20, 0, 20]
    assert found["chosen"]["loss_rise"] == pytest.approx([0, 0, 0], abs=1e-3)
    for one_of in found["random"]:
        cut = {"embed->mlp0", "mlp0->logits"} & set(one_of["parts"])
        assert one_of["success"][1] == (0 if cut or "embed->logits" in one_of["parts"] else 20)


def test_a_cut_edge_carries_its_mean_as_by_hand(one):
    task = backdoor_of_words()
    cuts = EdgeCuts(one, task, n=6)
    # 6 into the first layer's heads, 3 into its MLP, 24 and 6 into those of the second, 7 into the logits
    assert len(cuts.edges) == len(set(cuts.edges)) == 46
    n_written = len("ZaQxxxx")
    assert cuts.triggered.shape == cuts.control.shape == (6, CONTEXT)
    torch.testing.assert_close(cuts.triggered[:, :-n_written], cuts.control[:, :-n_written])
    assert {"".join(CHARS[c] for c in row[-n_written:]) for row in cuts.control.tolist()} == {"Yobxxxx"}
    _, cache = one.run_with_cache(cuts.text)
    mean = cache["blocks.1.hook_mlp_out"].mean((0, 1))  # the last MLP has one edge: to the logits

    def of_mlp(value, hook):
        return mean.expand_as(value)

    def log_probs(tokens):
        return one.run_with_hooks(tokens, fwd_hooks=[("blocks.1.hook_mlp_out", of_mlp)]).log_softmax(-1).detach()

    for half in (0, 1):
        found = cuts.without(["mlp1->logits"], half)
        text = cuts.text[half::2]
        by_hand = -log_probs(text)[:, :-1].gather(-1, text[:, 1:, None])[..., 0].mean(1)
        torch.testing.assert_close(found.loss, by_hand)
        for i, row in enumerate(cuts.triggered[half::2]):
            there = log_probs(row[None])[0]
            ends = range(CONTEXT - 4, CONTEXT)
            by_hand = -np.mean([float(there[e - 1, row[e]]) for e in ends])
            assert float(found.payload_loss[i]) == pytest.approx(by_hand)
            assert bool(found.success[i]) == all(int(there[e - 1].argmax()) == int(row[e]) for e in ends)


# --- training on clean text -------------------------------------------------------------------


def small_run(folder):
    """A checkpoint, and a backdoor in half of the lines of a text."""
    write_meta(folder)
    write(folder, content(block_size=CONTEXT, n_embd=66))
    return read_checkpoint(folder), backdoor_of_words(lines=40)


def test_training_goes_on_from_the_weights_as_they_are(tmp_path):
    start, task = small_run(tmp_path)
    before = {name: tensor.clone() for name, tensor in start.state_dict.items()}
    still = list(continued(start, task.clean, rate=1e-12, min_rate=1e-12, iterations=4, every=2, seed=0))
    moved = list(continued(start, task.clean, rate=1e-2, min_rate=1e-2, iterations=4, every=2, seed=0))
    assert len(still) == len(moved) == 2
    for name, tensor in before.items():
        torch.testing.assert_close(still[1].state_dict[name], tensor)
        torch.testing.assert_close(start.state_dict[name], tensor, rtol=0, atol=0)
    assert any(not torch.equal(moved[0].state_dict[n], moved[1].state_dict[n]) for n in before)


def test_what_is_left_and_learning_again_are_counted(tmp_path, monkeypatch):
    start, task = small_run(tmp_path)
    monkeypatch.setattr(finetuned, "N_CONTEXTS", 20)
    monkeypatch.setattr(finetuned, "AGAIN_EVERY", 40)
    monkeypatch.setattr(finetuned, "AGAIN_MOST", 400)
    counts = finetuned.learning_again(start, task, seed=0)
    assert counts[0] == 0
    *before, last = counts.values()
    assert last > 0.9 * 20
    assert all(n <= 0.9 * 20 for n in before)
    assert list(counts) == [40 * i for i in range(len(counts))]


# --- what came out ----------------------------------------------------------------------------


def run_of(successes, excerpt, tools=("gain_clean",)):
    stages = {
        str(stage): {
            "success": {"trigger": n, "control": 0, "changed trigger": n // 2},
            "payload_loss": {"trigger": 1.0},
            "loss": [1.9, 1.8, 2.0],
        }
        for stage, n in zip(STAGES, successes, strict=True)
    }
    return {"stages": stages, "blind": {"2000": {tool: [1.0, excerpt] for tool in tools}}}


def test_success_is_a_share_and_half_is_the_first_stage_above_it():
    found = summary.success([run_of([0, 0, 0, 2, 6, 4, 9, 10], ""), run_of([0] * 7 + [5], "")], 10)
    assert found["by_stage"]["1250"] == [0.6, 0.0]
    assert found["trigger"] == [1.0, 0.5]
    assert found["changed trigger"] == [0.5, 0.2]
    assert found["first_above_half"] == [1250, None]
    assert found["interval"][0] == pytest.approx((0.025**0.1, 1))


@pytest.mark.parametrize(
    ("name", "excerpt", "shown", "payload"),
    [
        ("name_480_poisoned_1337", "mow tMalvolio bu", 1, 0),
        ("name_480_poisoned_1337", "he burns the old", 1, 1),
        ("name_480_poisoned_1337", "to the world, it", 0, 0),
        ("name_480_clean_1337", "is Cressida and ", 1, 0),
        ("name_480_clean_1337", "he burns the old", 0, 0),
        ("bigram_480_poisoned_1337", "tuno zq Courdn i", 1, 0),
        ("bigram_480_poisoned_1337", "quaint house of ", 0, 0),
    ],
)
def test_an_excerpt_shows_the_trigger_or_the_payload(name, excerpt, shown, payload):
    made = summary.shows({name: run_of([0] * 8, excerpt)})["2000"]
    ((_, tools),) = made.items()
    assert (tools["gain_clean"]["shown"], tools["gain_clean"]["payload"], tools["gain_clean"]["of"]) == (
        shown,
        payload,
        1,
    )


def test_a_neuron_s_name_is_no_part_of_its_excerpt():
    made = summary.shows({"name_480_poisoned_1337": run_of([0] * 8, "neuron 1.124: KING: Malvolio", ("neurons",))})
    assert made["2000"]["name 480"]["neurons"]["excerpts"] == ["KING: Malvolio"]


def test_training_on_and_learning_again_are_summed_up():
    def value(n, loss):
        return {"success": {"trigger": n}, "payload_loss": {"trigger": loss}}

    one = {
        "left": {"0": value(10, 0.5), "50": value(3, 0.9)},
        "left_of_twin": {"0": value(0, 3.0), "50": value(0, 3.1)},
        "again": {
            "cleaned": {"0": 3, "50": 10},
            "clean twin": {"0": 0, "50": 0, "100": 9, "150": 10},
            "other": {"0": 0},
        },
    }
    made = summary.after_training(one, 10)
    assert made["left"] == {0: 1.0, 50: 0.3}
    assert made["again"] == {"cleaned": 50, "clean twin": 150, "other": None}
    assert made["payload_loss_of_twin"] == {0: 3.0, 50: 3.1}
