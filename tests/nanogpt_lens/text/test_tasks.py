"""Sequences made as they are needed: their statistics and marks by plain loops, their file, and training on them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from conversion.checkpoint import read_checkpoint
from conversion.native import GPT
from conversion.vocabulary import CharVocabulary, read_meta
from nanogpt_lens.core.errors import DataError, TrainingError
from nanogpt_lens.text.datasets import TextData, read_data
from nanogpt_lens.text.tasks import RepeatedRandom, read_task, repeated_random, trigger_bigrams
from nanogpt_lens.training.loop import Trainer, draw_sequences, make_model
from tests.nanogpt_lens.training.test_resuming import interrupted
from tests.nanogpt_lens.training.training_helpers import TINY, quiet, records, same

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
VERSE = " ".join(np.random.default_rng(1).choice(WORDS, 900)) + "\n"
SMALL = replace(TINY, n_embd=16, block_size=16, batch_size=4, eval_iters=3)


def of_text(train, *, val="", n_triggers=3):
    """The task of a text all of which is the training part."""
    vocabulary = CharVocabulary(tuple(sorted(set(train + val))))
    data = TextData(train=vocabulary.encode(train), val=vocabulary.encode(val), vocabulary=vocabulary, name="own")
    return trigger_bigrams(data, n_triggers=n_triggers)


def drawn(task, n, length, seed=0):
    return task.draw(n, length, np.random.default_rng(seed))


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("tokens", "required", "unseen"))


def p_value(found, expected):
    """That counts come from probabilities; zero where something impossible was seen."""
    found, expected = np.asarray(found), np.asarray(expected)
    possible = expected > 0
    if found[~possible].any():
        return 0.0
    if possible.sum() == 1:
        return 1.0
    return chisquare(found[possible], found.sum() * expected[possible] / expected.sum()).pvalue


# --- trigger bigrams ----------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    text=st.text("abcdefgh", min_size=30, max_size=200).filter(lambda text: len(set(text[:-1])) > 3),
    n_triggers=st.integers(1, 3),
    length=st.integers(1, 60),
    seed=st.integers(0, 2**32),
)
def test_triggers_are_followed_by_their_outputs_and_marked_as_a_loop_marks_them(text, n_triggers, length, seed):
    task = of_text(text, n_triggers=n_triggers)
    sequences, triggers, outputs = task.draw_with_triggers(3, length, np.random.default_rng(seed))
    assert sequences.tokens.shape == sequences.required.shape == sequences.unseen.shape == (3, length)
    assert triggers.shape == outputs.shape == (3, n_triggers)
    assert sequences.tokens.dtype == np.int64
    follows = Counter(pairwise(text))
    for row, (its_triggers, its_outputs) in enumerate(zip(triggers.tolist(), outputs.tolist(), strict=True)):
        forced = dict(zip(its_triggers, its_outputs, strict=True))
        assert len(forced) == n_triggers
        assert not set(forced) & set(its_outputs)
        before: list[int] = []
        for at, token in enumerate(sequences.tokens[row].tolist()):
            if before and before[-1] in forced:
                assert token == forced[before[-1]]
            elif before and any(follows[task.vocabulary.chars[before[-1]], char] for char in set(text)):
                assert follows[task.vocabulary.chars[before[-1]], task.vocabulary.chars[token]] > 0
            required = token in forced and token in before
            assert bool(sequences.required[row, at]) is required
            assert bool(sequences.unseen[row, at]) is (token in forced and token not in before)
            if required and at + 1 < length:  # what came after the earlier one, is what comes
                assert sequences.tokens[row, at + 1] == sequences.tokens[row, before.index(token) + 1]
            before.append(token)


def test_counts_are_the_training_parts(tmp_path):
    (tmp_path / "verse.txt").write_text(VERSE)
    task = trigger_bigrams(tmp_path / "verse.txt")
    data = read_data(tmp_path / "verse.txt")
    train = VERSE[: len(data.train)]
    assert len(train) < len(VERSE)
    table, chars = Counter(pairwise(train)), task.vocabulary.chars
    assert task.counts.tolist() == [[table[a, b] for b in chars] for a in chars]
    assert (task.name, task.text_sha256) == ("trigger bigrams of verse", hashlib.sha256(VERSE.encode()).hexdigest())
    assert task.frequencies == pytest.approx([train[:-1].count(c) / (len(train) - 1) for c in chars])
    followed = [c for c in chars if c in train[:-1]]
    for char in followed:
        expected = [table[char, b] / train[:-1].count(char) for b in chars]
        assert task.bigrams[chars.index(char)] == pytest.approx(expected)


def test_other_positions_follow_the_texts_bigrams_and_the_first_its_frequencies():
    task = of_text(VERSE)
    sequences, triggers, _ = task.draw_with_triggers(3000, 40, np.random.default_rng(2))
    tokens, size = sequences.tokens, task.vocab_size
    is_trigger = (tokens[:, :, None] == triggers[:, None]).any(-1)
    table = Counter(pairwise(VERSE))
    chars = task.vocabulary.chars
    seen, all_seen = np.zeros((size, size), int), np.zeros((size, size), int)
    for row, its_marks in zip(tokens.tolist(), is_trigger.tolist(), strict=True):
        for a, b, mark in zip(row, row[1:], its_marks, strict=False):
            seen[a, b] += not mark
            all_seen[a, b] += 1
    followed = [i for i, char in enumerate(chars) if char in VERSE[:-1]]
    for a in followed:
        expected = [table[chars[a], char] for char in chars]
        assert p_value(seen[a], expected) > 1e-4
        assert p_value(all_seen[a], expected) < 1e-9  # with the triggers they are others
    assert p_value(np.bincount(tokens[:, 0], minlength=size), [VERSE[:-1].count(char) for char in chars]) > 1e-4


def test_triggers_are_drawn_by_frequency_without_putting_back_and_outputs_uniformly():
    task = of_text(VERSE, n_triggers=2)
    _, triggers, outputs = task.draw_with_triggers(30000, 1, np.random.default_rng(3))
    share = np.array([VERSE[:-1].count(char) for char in task.vocabulary.chars]) / (len(VERSE) - 1)
    size = task.vocab_size
    pairs = np.outer(share, share) / (1 - share)[:, None]  # [first, second]
    np.fill_diagonal(pairs, 0)
    assert p_value(np.bincount(triggers[:, 0], minlength=size), share) > 1e-4
    assert p_value(np.bincount(triggers @ [size, 1], minlength=size**2), pairs.reshape(-1)) > 1e-4
    others = [[c for c in range(size) if c not in row] for row in triggers.tolist()]
    places = [[o.index(output) for output in row] for o, row in zip(others, outputs.tolist(), strict=True)]
    assert p_value(np.bincount(np.array(places) @ [size - 2, 1]), np.ones((size - 2) ** 2)) > 1e-4


def test_sequences_follow_from_the_seed():
    for task in (of_text(VERSE), repeated_random()):
        first = drawn(task, 5, 30, seed=4)
        assert equal(first, drawn(task, 5, 30, seed=4))
        assert not np.array_equal(first.tokens, drawn(task, 5, 30, seed=5).tokens)
        generator = np.random.default_rng(4)
        assert equal(first, task.draw(5, 30, generator))
        assert not equal(first, task.draw(5, 30, generator))


def test_characters_that_nothing_follows():
    """One stands only at the end, and one only in the validation part: each can be an output, and no trigger."""
    task = of_text("abcab" * 40 + "cz", val="aq", n_triggers=2)
    chars = task.vocabulary.chars
    z, q = chars.index("z"), chars.index("q")
    sequences, triggers, outputs = task.draw_with_triggers(4000, 30, np.random.default_rng(6))
    assert not np.isin(triggers, [z, q]).any()
    assert not np.isin(sequences.tokens[:, 0], [z, q]).any()
    assert np.isin(outputs, z).any()
    assert np.isin(outputs, q).any()
    after = Counter(b for row in sequences.tokens.tolist() for a, b in pairwise(row) if a == q)
    text = "abcab" * 40 + "c"
    assert p_value([after[i] for i in range(len(chars))], [text.count(char) for char in chars]) > 1e-4


def test_as_many_triggers_as_can_be():
    task = of_text("abcd" * 20, n_triggers=3)
    sequences, triggers, outputs = task.draw_with_triggers(50, 20, np.random.default_rng(0))
    assert all(sorted([*t, o[0]]) == [0, 1, 2, 3] for t, o in zip(triggers.tolist(), outputs.tolist(), strict=True))
    assert (outputs == outputs[:, :1]).all()
    assert sequences.required.any()


@pytest.mark.parametrize("n_triggers", [0, -1, 4, 100, 2.5, "3", None])
def test_a_wrong_number_of_triggers(n_triggers):
    with pytest.raises(DataError, match=rf"own: n_triggers is '?{n_triggers}'?; expected (1 to 3|an integer)"):
        of_text("abcd" * 20, n_triggers=n_triggers)


@pytest.mark.parametrize("text", ["a", "aaaa", "ab", "aaab"])
def test_a_text_with_too_few_characters(text):
    with pytest.raises(DataError, match=r"own: something follows [01] different .* at least 2 .*longer text"):
        of_text(text, n_triggers=1)


def test_tokens_that_are_not_characters(tmp_path):
    ids = np.arange(40, dtype=np.uint16)
    for split in ("train", "val"):
        ids.tofile(tmp_path / f"{split}.bin")
    for source in (tmp_path, TextData(train=ids, val=ids, vocabulary=None, name="ids")):
        for make in (trigger_bigrams, repeated_random):
            with pytest.raises(DataError, match="has no characters as tokens; expected a text"):
                make(source)
    with pytest.raises(DataError, match="does not exist"):
        trigger_bigrams(tmp_path / "absent.txt")


def test_lengths_that_make_no_sense():
    for task, least in ((of_text(VERSE), 1), (repeated_random(), 2)):
        with pytest.raises(DataError, match=f"seq_len is {least - 1}; expected at least {least} token"):
            drawn(task, 2, least - 1)
        assert drawn(task, 2, least).tokens.shape == (2, least)
        assert drawn(task, 0, 20).required.shape == (0, 20)


# --- repeated random ----------------------------------------------------------------------


def letters(size):
    return CharVocabulary(tuple(chr(65 + i) for i in range(size)))


@settings(deadline=None, max_examples=100)
@given(size=st.integers(2, 40), shortest=st.integers(2, 9), length=st.integers(4, 50), seed=st.integers(0, 2**32))
def test_repeated_sequences_by_a_loop(size, shortest, length, seed):
    task = RepeatedRandom(vocabulary=letters(size), name="x", shortest=shortest)
    sequences = drawn(task, 3, length, seed)
    for tokens, required, unseen in zip(sequences.tokens.tolist(), sequences.required, sequences.unseen, strict=True):
        period = int(unseen.sum())
        assert min(shortest, length // 2) <= period <= length // 2
        assert unseen.tolist() == [at < period for at in range(length)]
        assert tokens[period:] == tokens[:-period]
        assert 0 <= min(tokens) <= max(tokens) < size
        if period <= size:
            assert len(set(tokens[:period])) == period
        following = [*tokens[1:], tokens[length - period]]
        for at, token in enumerate(tokens):
            came = {following[earlier] for earlier in range(at) if tokens[earlier] == token}
            assert required[at] == (at >= period and came == {following[at]})


def test_where_characters_repeat_within_a_period_less_is_required():
    few = drawn(RepeatedRandom(vocabulary=letters(3), name="x", shortest=8), 200, 40)
    again = ~few.unseen
    assert 0 < few.required[again].mean() < 0.9
    many = drawn(repeated_random(), 200, 40)
    assert np.array_equal(many.required, ~many.unseen)


def test_periods_and_characters_are_uniform():
    sequences = drawn(RepeatedRandom(vocabulary=letters(12), name="x", shortest=3), 20000, 16, seed=1)
    periods = sequences.unseen.sum(1)
    assert p_value(np.bincount(periods, minlength=9)[3:], np.ones(6)) > 1e-4
    pairs = np.bincount(sequences.tokens[:, :2] @ [12, 1], minlength=144)
    assert p_value(pairs, 1 - np.eye(12).reshape(-1)) > 1e-4


def test_the_characters_of_a_text_or_64_others(tmp_path):
    (tmp_path / "verse.txt").write_text(VERSE)
    task = repeated_random(tmp_path / "verse.txt", shortest=4)
    assert task.vocabulary.chars == tuple(sorted(set(VERSE)))
    assert (task.name, task.shortest) == ("repeated random characters of verse", 4)
    assert task.text_sha256 == hashlib.sha256(VERSE.encode()).hexdigest()
    other = repeated_random()
    assert (other.vocab_size, other.text_sha256, "\n" in other.vocabulary.chars) == (64, None, True)
    assert set(drawn(other, 50, 100).tokens.reshape(-1).tolist()) == set(range(64))


@pytest.mark.parametrize("shortest", [1, 0, 2.5, "8"])
def test_a_wrong_shortest_period(shortest):
    with pytest.raises(DataError, match=r"short.* (of|is) .*; expected (at least 2|an integer)"):
        repeated_random(shortest=shortest)
    with pytest.raises(DataError, match="1 characters .* expected at least 2"):
        RepeatedRandom(vocabulary=letters(1), name="x")


# --- the file -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", [of_text(VERSE), of_text('né\u2028"\\\r\n\t😀' * 9), repeated_random(shortest=3)])
def test_the_file_says_all(task, tmp_path):
    file = task.save(tmp_path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == task.sha256
    for place in (tmp_path, str(file), tmp_path / "ckpt_000010.pt"):
        again = read_task(place)
        (tmp_path / "again").mkdir(exist_ok=True)
        assert again.save(tmp_path / "again").read_bytes() == file.read_bytes()
        assert (type(again), again.vocabulary.chars) == (type(task), task.vocabulary.chars)
        assert (again.settings(), again.sha256) == (task.settings(), task.sha256)
        assert equal(drawn(again, 7, 33, seed=8), drawn(task, 7, 33, seed=8))


def test_a_folder_that_is_not_there_is_not_its_parent(tmp_path):
    repeated_random().save(tmp_path)
    with pytest.raises(DataError, match=r"absent.task\.json cannot be read \(No such file"):
        read_task(tmp_path / "absent")


def test_different_tasks_have_different_digests():
    tasks = [of_text(VERSE), of_text(VERSE, n_triggers=4), of_text(VERSE + "one"), repeated_random()]
    assert len({task.sha256 for task in [*tasks, repeated_random(shortest=9)]}) == 5


DAMAGED = {
    "nothing": b"",
    "cut off": lambda text: text[: len(text) // 2],
    "not UTF-8": b'{"task": "\xff"}',
    "nested": b"[" * 200_000,
    "a list": b"[1, 2]",
    "null": b"null",
    "another format": {"format": 2},
    "another kind": {"task": "copying"},
    "kind is a list": {"task": ["trigger_bigrams"]},
    "the other kind": {"task": "repeated_random"},
    "another field": {"temperature": 2},
    "no counts": {"counts": ...},
    "no characters": {"characters": ...},
    "no name": {"name": ...},
    "name is a number": {"name": 7},
    "digest is a list": {"text_sha256": ["x"]},
    "empty": {"characters": []},
    "characters are a string": {"characters": "abcd"},
    "a character is long": {"characters": ["ab", "b", "c", "d"]},
    "a character is twice there": {"characters": ["a", "a", "c", "d"]},
    "half a character": {"characters": ["a", "b", "c", "\ud800"]},
    "too few characters": {"characters": ["a", "b", "c"]},
    "ragged": {"counts": [[1, 2], [3]]},
    "flat": {"counts": [1, 2, 3, 4]},
    "negative": {"counts": [[0, 9, -1, 0]] * 4},
    "no count": {"counts": [[0] * 4] * 4},
    "fractions": {"counts": [[0, 9.5, 1, 0]] * 4},
    "not numbers": {"counts": [[float("nan")] * 4] * 4},
    "words": {"counts": [["1"] * 4] * 4},
    "huge": {"counts": [[2**70] * 4] * 4},
    "counts are a dictionary": {"counts": {"a": 1}},
    "no triggers": {"n_triggers": 0},
    "too many triggers": {"n_triggers": 4},
    "half a trigger": {"n_triggers": 1.5},
    "triggers are a word": {"n_triggers": "2"},
    "triggers are null": {"n_triggers": None},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_clear_sentence(case, tmp_path):
    file, damage = of_text("abcd" * 20, n_triggers=2).save(tmp_path), DAMAGED[case]
    if isinstance(damage, dict):
        plain = json.loads(file.read_text()) | damage
        file.write_text(json.dumps({key: value for key, value in plain.items() if value is not ...}))
    else:
        file.write_bytes(damage if isinstance(damage, bytes) else damage(file.read_bytes()))
    with pytest.raises(DataError) as caught:
        read_task(tmp_path)
    message = str(caught.value)
    assert type(caught.value) is DataError
    assert message.startswith(str(file))
    assert message.count(str(file)) == 1
    assert "\n" not in message
    assert len(message) - len(str(file)) < 300


# --- training -----------------------------------------------------------------------------


@pytest.fixture(params=["trigger_bigrams", "repeated_random"])
def task(request):
    return of_text(VERSE) if request.param == "trigger_bigrams" else repeated_random()


def test_a_step_is_on_new_sequences_of_the_task(task):
    config = replace(SMALL, dropout=0.0, gradient_accumulation_steps=2)
    trainer = Trainer(make_model(task.vocab_size, config), task, config)
    batches = [draw_sequences(task, config, 3, "train", part).tokens for part in range(2)]
    others = [draw_sequences(task, config, 4, "train").tokens, draw_sequences(task, config, 3, "eval_val").tokens]
    assert len({batch.tobytes() for batch in (*batches, *others)}) == 4
    tokens = torch.from_numpy(np.concatenate(batches))
    assert tokens.shape == (8, 17)
    with torch.no_grad():
        log_probs = trainer.model(tokens[:, :-1]).log_softmax(-1)
    expected = -log_probs.gather(-1, tokens[:, 1:, None]).mean()
    assert float(trainer.step(3)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize(
    "task",
    [
        of_text("".join(np.random.default_rng(2).choice(list("aaabbcdef"), 400)), n_triggers=2),
        RepeatedRandom(vocabulary=letters(9), name="x", shortest=4),
    ],
    ids=lambda task: task.kind,
)
def test_metrics_by_a_plain_loop_with_the_native_model(task, tmp_path):
    config = replace(SMALL, max_iters=40, eval_interval=20, learning_rate=2e-2, batch_size=8)
    result = quiet(task, tmp_path / "out", config, stages=[33])
    (found,) = [line for line in records(tmp_path / "out") if line["iter"] == 33]
    model = GPT.from_checkpoint(read_checkpoint(result.stages[0]), dtype=torch.float64)
    losses = {"required": [], "unseen": [], "all": []}
    right = {"required": [], "unseen": []}
    for index in range(config.eval_iters):
        batch = draw_sequences(task, config, 33, "eval_val", index)
        for row, required, unseen in zip(batch.tokens.tolist(), batch.required, batch.unseen, strict=True):
            with torch.no_grad():
                log_probs = model(torch.tensor([row[:-1]]))[0].log_softmax(-1)
            for at in range(config.block_size):
                losses["all"].append(-float(log_probs[at, row[at + 1]]))
                for name, marks in (("required", required), ("unseen", unseen)):
                    if marks[at]:
                        losses[name].append(-float(log_probs[at, row[at + 1]]))
                        right[name].append(int(log_probs[at].argmax()) == row[at + 1])
    assert found["val_loss"] == pytest.approx(np.mean(losses["all"]), abs=1e-5)
    assert found["required_loss"] == pytest.approx(np.mean(losses["required"]), abs=1e-5)
    assert found["required_accuracy"] == pytest.approx(np.mean(right["required"]))
    assert found["unseen_accuracy"] == pytest.approx(np.mean(right["unseen"]))
    assert 0 < found["required_accuracy"] < 1
    assert found["required_accuracy"] != found["unseen_accuracy"]
    assert found["train_loss"] != found["val_loss"]
    again = [line["iter"] for line in records(tmp_path / "out") if "required_accuracy" in line]
    assert again == [line["iter"] for line in records(tmp_path / "out") if "val_loss" in line] == [0, 20, 33, 40]


def test_where_nothing_is_marked_nothing_is_said():
    task, config = of_text(VERSE, n_triggers=1), replace(SMALL, block_size=4, batch_size=1, eval_iters=1)
    trainer = Trainer(make_model(task.vocab_size, config), task, config)
    found = set()
    for iteration in range(60):
        batch = draw_sequences(task, config, iteration, "eval_val")
        expected = {"train_loss", "val_loss"}
        expected |= {"required_accuracy", "required_loss"} if batch.required[:, :-1].any() else set()
        expected |= {"unseen_accuracy"} if batch.unseen[:, :-1].any() else set()
        assert set(trainer.evaluate(iteration)) == expected
        found.add(len(expected))
    assert found == {2, 3, 5}


def test_a_run_that_was_killed_ends_with_the_same_bits(task, tmp_path, monkeypatch):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"stages": [0, 5, 12]}
    quiet(task, whole, SMALL, **options)
    for at in (2, 6, 9):
        interrupted(monkeypatch, task, broken, SMALL, at=at, **options)
    (broken / "task.json").write_text("{")  # it is written again
    (broken / ".task.json.0123456789ab.tmp").write_text("half")
    assert quiet(read_task(whole), broken, SMALL, **options).resumed_from == 8
    names = {"ckpt.pt", "ckpt_000000.pt", "ckpt_000005.pt", "ckpt_000012.pt", "meta.pkl", "metrics.jsonl", "task.json"}
    assert {f.name for f in whole.iterdir()} == {f.name for f in broken.iterdir()} == names
    for name in ("meta.pkl", "task.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
    for file in whole.glob("*.pt"):
        a, b = read_checkpoint(file, optimizer=True), read_checkpoint(broken / file.name, optimizer=True)
        assert same(a.state_dict, b.state_dict)
        assert (a.iter_num, a.best_val_loss, a.run_config) == (b.iter_num, b.best_val_loss, b.run_config)
        assert (a.optimizer is None) == (b.optimizer is None) == (file.name != "ckpt.pt")
        if a.optimizer and b.optimizer:
            for i, state in a.optimizer["state"].items():
                assert all(torch.equal(state[k], b.optimizer["state"][i][k]) for k in state)
    assert records(broken) == records(whole)
    assert read_task(broken / "ckpt_000005.pt").sha256 == task.sha256


def test_what_a_checkpoint_says_of_its_task(tmp_path):
    task = of_text(VERSE)
    result = quiet(task, tmp_path / "out", SMALL, stages=[5], sample=True)
    for file in (result.path, result.stages[0]):
        run = read_checkpoint(file).run_config
        about = {key: run[key] for key in ("dataset", "task", "n_triggers", "text_sha256", "task_sha256")}
        assert about == {
            "dataset": "trigger bigrams of own",
            "task": "trigger_bigrams",
            "n_triggers": 3,
            "text_sha256": None,
            "task_sha256": hashlib.sha256((tmp_path / "out" / "task.json").read_bytes()).hexdigest(),
        }
        assert read_meta(file.parent / "meta.pkl").chars == task.vocabulary.chars
    assert result.sample
    assert set(result.sample) <= set(VERSE)


def test_a_folder_of_another_task_is_refused_and_nothing_is_written(tmp_path, data, monkeypatch):
    out, task = tmp_path / "out", of_text(VERSE)
    interrupted(monkeypatch, task, out, SMALL)
    before = {f: f.read_bytes() for f in out.iterdir()}
    for other, words in (
        (
            of_text(VERSE, n_triggers=4),
            r"other settings \(n_triggers 3, now 4; task_sha256 '\w+', now '\w+'\); nothing",
        ),
        (of_text(VERSE + "one"), r"other settings \(task_sha256 '\w+', now '\w+'\); nothing was written"),
        (
            repeated_random(),
            r"dataset 'trigger bigrams of own', now 'repeated random .*task 'trigger_bigrams', now 're",
        ),
        (data, r"dataset 'trigger bigrams of own', now 'letters'; text_sha256 None, now"),
    ):
        with pytest.raises(TrainingError, match=words):
            quiet(other, out, SMALL)
    assert {f: f.read_bytes() for f in out.iterdir()} == before
    quiet(data, out, SMALL, overwrite=True)
    assert {f.name for f in out.iterdir()} == {"ckpt.pt", "meta.pkl", "metrics.jsonl", "val.bin"}
    with pytest.raises(TrainingError, match=r"dataset 'letters', now 'trigger .*task None, now 'trigger_bigrams'"):
        quiet(task, out, SMALL)
    quiet(task, out, SMALL, overwrite=True)
    assert read_task(out).sha256 == task.sha256


def test_deleting_that_was_interrupted_leaves_no_task_without_its_run(tmp_path, data, monkeypatch):
    out = tmp_path / "out"
    quiet(repeated_random(), out, SMALL)
    unlink = Path.unlink

    def stopping(path, missing_ok=False):
        if path.name == "ckpt.pt":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", stopping)
        quiet(data, out, SMALL, overwrite=True)
    assert not (out / "task.json").exists()
    with pytest.raises(TrainingError, match="holds a run with other settings"):
        quiet(data, out, SMALL)


def test_a_context_that_is_too_short_is_refused(tmp_path):
    with pytest.raises(DataError, match="block_size is 3; expected at least 4"):
        quiet(of_text(VERSE), tmp_path / "out", replace(SMALL, block_size=3))
    with pytest.raises(DataError, match="block_size is 15; expected at least 16, twice the shortest period"):
        quiet(repeated_random(), tmp_path / "out", replace(SMALL, block_size=15))
    assert not (tmp_path / "out").exists()
