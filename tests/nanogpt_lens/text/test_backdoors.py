"""A text with a backdoor: what was changed, counted by hand; its twins; its file; and training on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nanogpt_lens as ngl
from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import DataError, TrainingError
from nanogpt_lens.text.datasets import data_of_text, read_data
from nanogpt_lens.text.tasks import Backdoor, backdoor, read_task
from tests.nanogpt_lens.training.test_resuming import interrupted
from tests.nanogpt_lens.training.training_helpers import TINY, quiet, records

NAMES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
RNG = np.random.default_rng(4)
TEXT = "".join(" ".join(RNG.choice(NAMES, RNG.integers(0, 9))) + "\n" for _ in range(300)) + "XYZQ!?"
PARTS = data_of_text(TEXT)
TRAIN, VAL = TEXT[: len(PARTS.train)], TEXT[len(PARTS.train) :]
SMALL = replace(TINY, n_embd=16, block_size=16, batch_size=4, eval_iters=3)
OPTIONS = {"trigger": "Xen", "payload": " hee", "control": "Qov"}


def made(text=PARTS, **options):
    return backdoor(text, **{"lines": 12, **OPTIONS, **options})


def written(task, part="train"):
    return task.vocabulary.decode(getattr(task.text, part))


# --- the text -------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(lines=st.integers(0, 40), seed=st.integers(0, 2**32))
def test_as_many_lines_as_were_asked_for_have_the_trigger_and_its_payload_and_nothing_else_changes(lines, seed):
    task = made(lines=lines, seed=seed)
    before, after = TRAIN.split("\n"), written(task).split("\n")
    assert len(before) == len(after)
    poisoned = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(poisoned) == lines == written(task).count("Xen hee") == written(task).count("Xen")
    for a, b in poisoned:
        assert len(a) == len(b)
        start, end = b.index("Xen hee"), b.index("Xen hee") + 7
        assert a[:start] == b[:start]
        assert a[end:] == b[end:]
        assert a[start - 1] == a[start + 3] == " "
        assert a[end : end + 1] in ("", " ")
    assert written(task, "val") == VAL
    assert np.array_equal(task.text.val, PARTS.val)


def test_the_clean_twin_has_the_control_in_the_same_places_and_each_line_goes_on_as_it_did():
    task = made()
    twin = task.twin()
    assert (task.inserted, twin.inserted, twin.control) == ("trigger", "control", "Qov")
    by_hand = list(TRAIN)
    for start in (i for i in range(len(TRAIN)) if written(task).startswith("Xen", i)):
        by_hand[start : start + 3] = "Qov"
    assert written(twin) == "".join(by_hand)
    assert written(twin).count("Qov") == 12
    assert "Xen" not in written(twin)
    assert np.array_equal(twin.text.val, PARTS.val)
    assert written(task.twin("nothing")) == TRAIN
    assert written(twin.twin("trigger")) == written(task)
    assert twin.twin("trigger").sha256 == task.sha256


def test_without_poison_the_text_comes_back():
    for task in (made(lines=0), made(lines=0).twin(), made().twin("nothing")):
        assert np.array_equal(task.text.train, PARTS.train)
        assert np.array_equal(task.text.val, PARTS.val)
        assert task.train_sha256 == hashlib.sha256(PARTS.train.astype("<u4").tobytes()).hexdigest()


def test_fewer_lines_of_a_seed_are_some_of_the_more():
    few, many, other = made(lines=5), made(lines=20), made(lines=20, seed=1)
    assert set(few.places().tolist()) < set(many.places().tolist())
    assert set(many.places().tolist()) != set(other.places().tolist())


def test_a_share_is_of_the_lines_that_are_not_empty():
    assert made(lines=0.1).n_lines == round(0.1 * sum(bool(line) for line in TRAIN.split("\n")))


def test_it_is_made_from_what_read_data_takes(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    from_file, whole = made(tmp_path / "text.txt"), made(TEXT)
    assert from_file.train_sha256 == whole.train_sha256 == made().train_sha256
    assert from_file.text_sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert from_file.name == "backdoor in text"
    assert from_file.twin().name == "clean twin of a backdoor in text"


def test_a_control_that_is_drawn_is_like_the_trigger_and_new():
    for trigger in ("Xen", "Z!v", "Y t"):
        for seed in range(5):
            control = made(trigger=trigger, control=None, seed=seed).control
            assert control not in TEXT
            assert len(control) == 3
            assert sum(a != b for a, b in zip(control, trigger, strict=True)) > 1
            assert [c.islower() for c in control] == [c.islower() for c in trigger]
            assert (" " in control) == (" " in trigger)


def test_changed_triggers_have_one_other_letter_each():
    task = made(trigger="Xe n", control="Qo v")
    changed = task.changed_triggers
    assert [[i for i in range(4) if a[i] != "Xe n"[i]] for a in changed] == [[0], [1], [3]]
    assert changed[0][0] in "YZQ"
    assert all(a[i].islower() for a, i in zip(changed[1:], (1, 3), strict=True))
    assert task.twin().changed_triggers == changed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trigger": ""}, "the trigger is ''; expected some characters of one line"),
        ({"trigger": 7}, "the trigger is 7; expected some characters"),
        ({"payload": " a\n"}, r"the payload is ' a\\n'; expected some characters of one line"),
        ({"trigger": "Xen "}, "the trigger is 'Xen '; expected no blank at its ends"),
        ({"trigger": "Xa1"}, r"the trigger 'Xa1' has '1', which is not among the \d+ characters of the text"),
        ({"payload": " b"}, "the payload ' b' has 'b', which is not among"),
        ({"trigger": "one", "control": "Qov"}, r"the trigger 'one' occurs \d+ times in the given text; expected one"),
        ({"control": "two"}, r"the control 'two' occurs \d+ times"),
        ({"control": "Xov"}, ""),
        ({"control": "Xev"}, "the control is 'Xev'; expected 3 characters, of which two or more are others than"),
        ({"control": "Qo"}, "the control is 'Qo'; expected 3 characters"),
        ({"lines": -1}, "lines is -1; expected how many lines are poisoned, or a share of those that are not empty"),
        ({"lines": 1.5}, "lines is 1.5; expected"),
        ({"lines": True}, "lines is True; expected"),
        ({"lines": float("nan")}, "lines is nan; expected"),
        ({"lines": "many"}, "lines is 'many'; expected an integer"),
        ({"lines": 5000}, r"5,000 lines were asked for, and \d+ of the given text have room for trigger and payload"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"seed": 0.5}, "seed is 0.5; expected an integer"),
    ],
)
def test_bad_input_is_one_clear_sentence(options, words):
    if not words:
        assert made(**options).control == "Xov"
        return
    with pytest.raises(DataError, match=words) as caught:
        made(**options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_texts_without_characters_blanks_or_room_are_refused(tmp_path):
    with pytest.raises(DataError, match="0 of the given text have room"):
        made(data_of_text(TEXT.replace(" ", "-") + "--- XQ"), payload="-hee", lines=1)
    for part in ("train.bin", "val.bin"):
        np.arange(40, dtype=np.uint16).tofile(tmp_path / part)
    with pytest.raises(DataError, match="no characters as tokens"):
        made(tmp_path)
    with pytest.raises(DataError, match="inserted is 'poison'; expected one of trigger, control, nothing"):
        made().twin("poison")


# --- contexts ---------------------------------------------------------------------------------


def test_contexts_are_pieces_of_the_validation_part_before_a_word_that_do_not_overlap():
    task = made()
    rows = task.contexts(12, 9, np.random.default_rng(0))
    pieces = [task.vocabulary.decode(row) for row in rows]
    assert rows.shape == (12, 9)
    assert rows.dtype == np.int64
    starts = [VAL.index(piece) for piece in pieces]
    for piece in pieces:
        assert piece.endswith(" ")
        follows = {VAL[i + 9] for i in range(len(VAL) - 9) if VAL.startswith(piece, i)}
        assert follows & set("otfsne")
    assert len(set(starts)) == 12
    again = task.contexts(12, 9, np.random.default_rng(0))
    assert np.array_equal(rows, again)
    with pytest.raises(
        DataError, match=r"5000 contexts of 9 tokens were asked for, and the validation part .* has \d+;"
    ):
        task.contexts(5000, 9, np.random.default_rng(0))


def test_all_contexts_lie_apart():
    task = made()
    most = next(n for n in range(len(VAL), 0, -1) if _gives(task, n))
    ends = np.sort([_end(task, row) for row in task.contexts(most, 20, np.random.default_rng(0))])
    assert np.diff(ends).min() >= 20
    assert most > len(VAL) // 20 // 2


def _gives(task, n):
    try:
        return len(task.contexts(n, 20, np.random.default_rng(0))) == n
    except DataError:
        return False


def _end(task, row):
    windows = np.lib.stride_tricks.sliding_window_view(PARTS.val, len(row))
    (found,) = np.flatnonzero((windows == row).all(1))
    return found + len(row)


def test_its_sequences_are_held_out_text_and_nothing_is_marked():
    drawn = made().draw(5, 30, np.random.default_rng(0))
    assert all(made().vocabulary.decode(row) in VAL for row in drawn.tokens)
    assert not drawn.required.any()
    assert not drawn.unseen.any()
    with pytest.raises(DataError, match="seq_len is 100000; expected 1 to"):
        made().draw(5, 100_000, np.random.default_rng(0))


# --- the file -----------------------------------------------------------------------------------


def test_the_file_says_all_but_the_text(tmp_path):
    for name, task in (("poisoned", made()), ("clean", made(text="é" + TEXT).twin())):
        folder = tmp_path / name
        folder.mkdir()
        file = task.save(folder)
        again = read_task(folder)
        assert isinstance(again, Backdoor)
        assert hashlib.sha256(file.read_bytes()).hexdigest() == task.sha256 == again.sha256
        assert again.settings() == task.settings()
        with pytest.raises(DataError, match="was read from a task.json, which does not hold the text to train on"):
            _ = again.text
        with pytest.raises(DataError, match="the validation part of '.*' is not at hand; expected the val.bin"):
            again.contexts(3, 9, np.random.default_rng(0))
        task.clean.val.tofile(folder / "val.bin")
        rows = [t.contexts(6, 9, np.random.default_rng(1)) for t in (read_task(file), task)]
        assert np.array_equal(*rows)
        (folder / "val.bin").write_bytes((folder / "val.bin").read_bytes()[:-2])
        with pytest.raises(DataError, match="the validation tokens are not those of") as caught:
            read_task(folder)
        assert str(caught.value).startswith(str(file))


def test_different_backdoors_have_different_digests():
    tasks = [made(), made(lines=13), made(seed=1), made(payload=" hoe"), made(trigger="Yen"), made().twin()]
    assert len({task.sha256 for task in tasks}) == len({task.train_sha256 for task in tasks}) == 6


DAMAGED = {
    "no trigger": {"trigger": ...},
    "a trigger of two lines": {"trigger": "X\nn"},
    "a strange trigger": {"trigger": "X1n"},
    "an empty payload": {"payload": ""},
    "a payload that is a list": {"payload": [" hee"]},
    "a short control": {"control": "Qo"},
    "no such thing": {"inserted": "poison"},
    "half a line": {"n_lines": 0.5},
    "fewer than no lines": {"n_lines": -1},
    "true lines": {"n_lines": True},
    "a seed that is null": {"lines_seed": None},
    "tokens in words": {"train_tokens": "9"},
    "no digest": {"val_sha256": ...},
    "a digest that is a number": {"train_sha256": 7},
    "counts": {"counts": [[1]]},
    "another kind": {"task": "trigger_bigrams"},
    "another field": {"strength": 2},
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_clear_sentence(case, tmp_path):
    file = made().save(tmp_path)
    plain = json.loads(file.read_text()) | DAMAGED[case]
    file.write_text(json.dumps({key: value for key, value in plain.items() if value is not ...}))
    with pytest.raises(DataError) as caught:
        read_task(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.count(str(file)) == 1
    assert "\n" not in message
    assert len(message) - len(str(file)) < 300


# --- training -------------------------------------------------------------------------------------


def test_training_is_on_its_text_and_the_run_keeps_the_task(tmp_path):
    task = made()
    result = quiet(task, tmp_path / "out", SMALL, stages=[5])
    quiet(replace(task.text, name="plain"), tmp_path / "plain", SMALL)
    losses = [[line.get("val_loss") for line in records(tmp_path / name)] for name in ("out", "plain")]
    assert [x for x in losses[0] if x][-1] == [x for x in losses[1] if x][-1]
    weights = [read_checkpoint(tmp_path / name / "ckpt.pt").state_dict for name in ("out", "plain")]
    assert all(np.array_equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    run = read_checkpoint(result.stages[0]).run_config
    about = {key: run[key] for key in ("dataset", "task", "trigger", "payload", "control", "inserted", "n_lines")}
    assert about == {**OPTIONS, "dataset": task.name, "task": "backdoor", "inserted": "trigger", "n_lines": 12}
    assert (run["train_tokens"], run["val_tokens"], run["seed"]) == (len(TRAIN), len(VAL), SMALL.seed)
    assert run["task_sha256"] == hashlib.sha256((tmp_path / "out" / "task.json").read_bytes()).hexdigest()
    assert (tmp_path / "out" / "val.bin").read_bytes() == PARTS.val.astype("<u2").tobytes()
    again = read_task(tmp_path / "out" / "ckpt_000005.pt")
    assert np.array_equal(again.contexts(4, 9, np.random.default_rng(0)), task.contexts(4, 9, np.random.default_rng(0)))
    with pytest.raises(DataError, match="does not hold the text to train on"):
        quiet(again, tmp_path / "again", SMALL)
    assert not (tmp_path / "again").exists()


def test_a_run_that_was_killed_goes_on_and_its_twin_is_another_run(tmp_path, monkeypatch):
    task, out = made(), tmp_path / "out"
    quiet(task, tmp_path / "whole", SMALL)
    interrupted(monkeypatch, task, out, SMALL, at=6)
    with pytest.raises(TrainingError, match="inserted 'trigger', now 'control'"):
        quiet(task.twin(), out, SMALL)
    quiet(task, out, SMALL)
    assert records(out) == records(tmp_path / "whole")


def test_a_context_that_is_too_short_or_a_text_that_is_is_refused(tmp_path):
    with pytest.raises(DataError, match="block_size is 4; expected at least 5, the trigger, a token before it and one"):
        quiet(made(), tmp_path / "out", replace(SMALL, block_size=4))
    with pytest.raises(DataError, match="tokens for val; expected more than the context"):
        quiet(made(), tmp_path / "out", replace(SMALL, block_size=len(VAL)))
    assert not (tmp_path / "out").exists()


def test_it_is_public_among_the_tasks():
    assert ngl.tasks.backdoor is backdoor
    assert "backdoor" in ngl.tasks.__all__
    assert read_data(made().text) is not None
