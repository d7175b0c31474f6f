"""Runs that are killed, resumed, refused: the same bits, or one clear sentence."""

import random
import time
from dataclasses import replace

import pytest
import torch

from conversion.checkpoint import read_checkpoint
from conversion.errors import NanoGPTLensError
from nanogpt_lens.core.errors import DataError, TrainingError
from nanogpt_lens.training.folder import only_writer
from nanogpt_lens.training.loop import Trainer
from nanogpt_lens.training.train import TrainConfig, train
from tests.nanogpt_lens.training.training_helpers import TEXT, TINY, quiet, records, same, weights
from tests.processes import forkserver

KILLED = replace(
    TINY, max_iters=48, eval_interval=3, eval_iters=1, log_interval=2, gradient_accumulation_steps=2, n_embd=32
)
OPTIONS = {"stages": "log:12", "progress": False, "sample": False}


def lines(out):
    log = out / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bits(data, tmp_path, monkeypatch):
    """SIGKILL at random moments; the children are forked from a server that has torch loaded."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = forkserver()
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def start(out):
        process = context.Process(target=train, args=(data, out, KILLED), kwargs=OPTIONS)
        process.start()
        return process

    process = start(whole)
    process.join()
    assert process.exitcode == 0
    moments, kills, reached = random.Random(0), 0, []
    while kills < 12:
        before, more = lines(broken), moments.randint(-2, 5)  # the log is cut by a line or two when it goes on
        process = start(broken)
        while process.is_alive() and lines(broken) < before + more:
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
        for file in broken.glob("*.pt"):
            read_checkpoint(file)  # whole or absent, never in between
        if (broken / "resume.pt").exists():
            reached.append(read_checkpoint(broken / "resume.pt").iter_num)
    assert kills >= 5
    assert reached == sorted(reached)
    assert len(set(reached)) >= 3
    process = start(broken)
    process.join()
    assert process.exitcode == 0
    assert {f.name for f in broken.iterdir()} == {f.name for f in whole.iterdir()}
    assert len(list(whole.glob("ckpt*.pt"))) == 13
    for file in whole.glob("*.pt"):
        a, b = read_checkpoint(file, optimizer=True), read_checkpoint(broken / file.name, optimizer=True)
        assert same(a.state_dict, b.state_dict)
        assert (a.iter_num, a.best_val_loss, a.run_config) == (b.iter_num, b.best_val_loss, b.run_config)
        assert (a.optimizer is None) == (b.optimizer is None)
        for i, state in (a.optimizer or {"state": {}})["state"].items():
            assert all(torch.equal(state[k], b.optimizer["state"][i][k]) for k in state)
    assert records(broken) == records(whole)


class Killed(BaseException):
    pass


def interrupted(monkeypatch, data, out, config=TINY, at=9, **options):
    """A run that stops in the middle of an update."""
    with monkeypatch.context() as patched:
        step = Trainer.step

        def stopping(self, iteration):
            if iteration == at:
                raise Killed
            return step(self, iteration)

        patched.setattr(Trainer, "step", stopping)
        with pytest.raises(Killed):
            quiet(data, out, config, **options)


def test_resuming_says_from_where_and_drops_what_lies_beyond(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(monkeypatch, data, out, at=11)
    assert read_checkpoint(out / "resume.pt").iter_num == 8
    assert [r["iter"] for r in records(out)] == [0, 3, 4, 6, 8, 9]
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"iter": 10, "batch_l')  # the line that was being written
    result = quiet(data, out, resume=True)
    whole = quiet(data, tmp_path / "whole")
    assert (result.resumed_from, whole.resumed_from) == (8, None)
    assert records(out) == records(tmp_path / "whole")
    assert same(weights(result.path), weights(whole.path))


def test_a_run_that_is_over_is_returned_as_it_is(data, tmp_path):
    first = quiet(data, tmp_path / "out", stages=[3], sample=True)
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in (tmp_path / "out").iterdir()}
    again = quiet(data, tmp_path / "out", stages=[3], sample=True)
    assert {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in (tmp_path / "out").iterdir()} == before
    assert again == replace(first, resumed_from=12, tokens_per_second=None)


def test_other_settings_are_named_and_nothing_is_written(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(monkeypatch, data, out)
    before = {f: f.read_bytes() for f in out.iterdir()}
    with pytest.raises(TrainingError, match=r"other settings \(seed 1337, now 7\); nothing was written: give the same"):
        quiet(data, out, replace(TINY, seed=7))
    with pytest.raises(TrainingError, match=r"stages \[\], now \[0, 5\]"):
        quiet(data, out, stages=[0, 5])
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1])
    with pytest.raises(TrainingError, match=r"dataset 'letters', now 'other'; text_sha256 "):
        quiet(other, out)
    with pytest.raises(TrainingError, match=r"already holds ckpt\.pt, resume\.pt.*overwrite=True"):
        quiet(data, out, resume=False)
    assert {f: f.read_bytes() for f in out.iterdir()} == before
    result = quiet(data, out, replace(TINY, seed=7), overwrite=True)
    assert result.resumed_from is None
    assert read_checkpoint(result.path).run_config["seed"] == 7


def test_overwrite_leaves_nothing_of_the_old_run(data, tmp_path):
    quiet(data, tmp_path / "out", stages=[0, 5])
    (tmp_path / "out" / "notes.md").write_text("mine")
    quiet(data, tmp_path / "out", stages=[6], overwrite=True)
    names = {"ckpt.pt", "ckpt_000006.pt", "meta.pkl", "metrics.jsonl", "notes.md", "val.bin"}
    assert {f.name for f in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_writer_left_is_deleted_and_nothing_else(data, tmp_path, monkeypatch, overwrite):
    out = tmp_path / "out"
    interrupted(monkeypatch, data, out)
    left = ["ckpt.pt", "ckpt_000003.pt", "resume.pt", "metrics.jsonl", "meta.pkl", "tokenizer.json", "val.bin"]
    for name in left:
        (out / f".{name}.0123456789ab.tmp").write_bytes(b"half")
    others = {".notes.md.0123456789ab.tmp", ".meta.pkl.tmp", "meta.pkl.0123456789ab.tmp"}
    for name in others:
        (out / name).write_bytes(b"mine")
    quiet(data, out, overwrite=overwrite)
    assert {f.name for f in out.iterdir()} == {"ckpt.pt", "meta.pkl", "metrics.jsonl", "val.bin"} | others


def test_a_foreign_checkpoint_is_neither_continued_nor_overwritten(data, tmp_path):
    result = quiet(data, tmp_path / "out")
    raw = torch.load(result.path, weights_only=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    torch.save({**raw, "config": {"dataset": "x"}}, foreign / "ckpt.pt")
    content = (foreign / "ckpt.pt").read_bytes()
    with pytest.raises(TrainingError, match=r"ckpt\.pt was not written by this trainer.*nothing was written"):
        quiet(data, foreign)
    assert [f.name for f in foreign.iterdir()] == ["ckpt.pt"]
    assert (foreign / "ckpt.pt").read_bytes() == content


def test_a_lost_resume_file_is_noticed(data, tmp_path, monkeypatch):
    interrupted(monkeypatch, data, tmp_path / "out")
    (tmp_path / "out" / "resume.pt").unlink()
    with pytest.raises(TrainingError, match=r"did not reach its end, without the resume\.pt"):
        quiet(data, tmp_path / "out")


def test_one_writer_at_a_time(data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with only_writer(out), pytest.raises(TrainingError, match="another process is training into"):
        quiet(data, out)
    assert quiet(data, out).iterations == 12


def test_divergence_is_an_error_and_the_last_good_state_stays(data, tmp_path):
    config = replace(TINY, learning_rate=1e30, warmup_iters=0, grad_clip=0.0)
    with pytest.raises(
        TrainingError, match=r"the run diverged: .* at iteration \d+; start anew with a lower learning_"
    ):
        quiet(data, tmp_path / "out", config)
    for file in (tmp_path / "out").glob("*.pt"):
        read_checkpoint(file)


# --- bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_layer": 0}, "n_layer is 0; expected an integer of at least 1"),
        ({"max_iters": 2.5}, "max_iters is 2.5; expected an integer"),
        ({"seed": -1}, "seed is -1; expected an integer of at least 0"),
        ({"n_head": 3}, "n_head is 3, which does not divide n_embd 128"),
        ({"dropout": 1.0}, "dropout is 1.0; expected a number from 0 up to, not including, 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; expected a number of at least 0"),
        ({"min_lr": 1.0}, "min_lr is 1.0, above learning_rate 0.001"),
        ({"bias": 1}, "bias is 1; expected True or False"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected float32, bfloat16, float16"),
        ({"device": "gpu"}, "device is 'gpu'; expected cpu, cuda"),
    ],
)
def test_a_bad_setting_is_named(setting, message):
    with pytest.raises(NanoGPTLensError) as caught:
        TrainConfig(**setting)
    assert str(caught.value).startswith(message)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there():
    with pytest.raises(TrainingError, match="device is 'cuda', which this machine"):
        TrainConfig(device="cuda")


def test_nothing_is_made_on_bad_input(data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="more than the context of 64"):
        quiet(data, out, replace(TINY, block_size=64))
    with pytest.raises(DataError, match="does not exist"):
        quiet(tmp_path / "absent.txt", out)
    with pytest.raises(TrainingError, match="stages"):
        quiet(data, out, stages="log:")
    with pytest.raises(TrainingError, match="nothing to resume"):
        quiet(data, out, resume=True)
    with pytest.raises(TrainingError, match="contradict"):
        quiet(data, out, resume=True, overwrite=True)
    with pytest.raises(TrainingError, match="resume is 'yes'"):
        quiet(data, out, resume="yes")
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(TrainingError, match="is a file; expected a folder"):
        quiet(data, out)
    assert out.read_text() == "a file"
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"no resume\.pt to resume from"):
        quiet(data, tmp_path / "empty", resume=True)
    assert not any((tmp_path / "empty").iterdir())
