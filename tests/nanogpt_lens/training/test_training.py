"""The trainer against a hand-written loop and nanoGPT's formulas."""

import functools
import math
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from conversion.checkpoint import read_checkpoint
from conversion.native import GPT
from nanogpt_lens.core.errors import TrainingError
from nanogpt_lens.text.datasets import TextData
from nanogpt_lens.training.config import parse_stages
from nanogpt_lens.training.loop import Trainer, draw_batch, learning_rate, make_model, make_optimizer
from nanogpt_lens.training.train import TrainConfig, train
from tests.nanogpt_lens.training.training_helpers import TEXT, TINY, quiet, records, same, weights


def test_the_defaults_are_nanogpts_readme_for_a_cpu():
    config = TrainConfig()
    assert (config.n_layer, config.n_head, config.n_embd, config.block_size, config.batch_size) == (4, 4, 128, 64, 12)
    assert (config.max_iters, config.decay_iters, config.warmup_iters) == (2000, 2000, 100)
    assert config.to_dict()["lr_decay_iters"] == 2000
    assert replace(config, max_iters=5).decay_iters == 5
    assert (config.learning_rate, config.min_lr, config.beta1, config.beta2) == (1e-3, 1e-4, 0.9, 0.99)
    assert (config.weight_decay, config.grad_clip, config.dropout, config.bias) == (0.1, 1.0, 0.0, False)
    assert (config.eval_interval, config.eval_iters, config.log_interval) == (
        250,
        20,
        1,
    )  # --eval_iters=20 --log_interval=1
    assert (config.gradient_accumulation_steps, config.seed, config.device, config.compile) == (1, 1337, "cpu", False)


def test_learning_rate_by_hand():
    config = TrainConfig(learning_rate=1.0, min_lr=0.2, warmup_iters=4, lr_decay_iters=12, max_iters=20)
    assert [learning_rate(i, config) for i in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert learning_rate(4, config) == pytest.approx(1.0)
    assert learning_rate(6, config) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert learning_rate(8, config) == pytest.approx(0.6)
    assert learning_rate(10, config) == pytest.approx(0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2)
    assert [learning_rate(i, config) for i in (12, 13, 20)] == [0.2, 0.2, 0.2]
    early = replace(config, warmup_iters=12)  # nanoGPT would divide by zero at 12
    assert learning_rate(12, early) == 0.2


def test_parameter_groups_are_nanogpts():
    config = replace(TINY, bias=True)
    model = make_model(10, config)
    decayed, kept = make_optimizer(model, config).param_groups
    by_id = {id(p): name for name, p in model.named_parameters()}
    names = [by_id[id(p)] for p in decayed["params"]]
    assert names == [
        "transformer.wte.weight",  # tied to lm_head: once, and first, as nanoGPT orders its optimizer's state
        "transformer.wpe.weight",
        "transformer.h.0.attn.c_attn.weight",
        "transformer.h.0.attn.c_proj.weight",
        "transformer.h.0.mlp.c_fc.weight",
        "transformer.h.0.mlp.c_proj.weight",
    ]
    assert all("ln" in by_id[id(p)] or by_id[id(p)].endswith("bias") for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(by_id)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == kept["betas"] == (0.9, 0.99)


def plain_adamw(model, moments, windows, *, iteration, config):
    """nanoGPT's step written out: accumulate, clip by the global norm, decay and update by the formulas."""
    model.zero_grad()
    total = 0.0
    for window in windows:
        logits = model(window[:, :-1])
        loss = -logits.log_softmax(-1).gather(-1, window[:, 1:, None]).mean()
        (loss / len(windows)).backward()
        total += loss.item() / len(windows)
    parameters = dict(model.named_parameters())
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters.values()))
    scale = min(1.0, config.grad_clip / (norm + 1e-6))
    lr, t = learning_rate(iteration, config), iteration + 1
    with torch.no_grad():
        for name, p in parameters.items():
            gradient = p.grad.double() * scale
            m, v = moments.get(name, (torch.zeros_like(gradient), torch.zeros_like(gradient)))
            m = config.beta1 * m + (1 - config.beta1) * gradient
            v = config.beta2 * v + (1 - config.beta2) * gradient**2
            moments[name] = m, v
            decay = config.weight_decay if p.dim() >= 2 else 0.0
            step = (m / (1 - config.beta1**t)) / ((v / (1 - config.beta2**t)).sqrt() + 1e-8)
            p.copy_(p.double() * (1 - lr * decay) - lr * step)
    return total


@pytest.mark.parametrize(("accumulation", "grad_clip"), [(1, 1.0), (3, 0.05)])
def test_steps_equal_a_hand_written_loop(data, accumulation, grad_clip):
    config = replace(TINY, dropout=0.0, bias=True, gradient_accumulation_steps=accumulation, grad_clip=grad_clip)
    trainer = Trainer(make_model(data.vocab_size, config), data, config)
    plain, moments = make_model(data.vocab_size, config), {}
    start = {name: p.detach().clone() for name, p in plain.named_parameters()}
    for i in range(5):
        windows = [draw_batch(data.train, config, i, "train", part) for part in range(accumulation)]
        loss = trainer.step(i)
        assert float(loss) == pytest.approx(plain_adamw(plain, moments, windows, iteration=i, config=config), rel=1e-5)
    for name, p in trainer.model.named_parameters():
        other = dict(plain.named_parameters())[name]
        assert (other - start[name]).abs().max() > 5e-4
        torch.testing.assert_close(p, other, rtol=0, atol=2e-6)


def test_batches_are_windows_of_the_text_and_their_shift(data):
    batch = draw_batch(data.train, TINY, 5, "train")
    assert batch.shape == (3, 9)
    assert batch.dtype == torch.int64
    text = data.vocabulary.decode(data.train)
    starts = [text.find(data.vocabulary.decode(row)) for row in batch.numpy()]
    assert min(starts) >= 0
    assert len(set(starts)) > 1


def test_batches_follow_from_seed_iteration_purpose_and_place_alone(data):
    torch.manual_seed(1)
    first = draw_batch(data.train, TINY, 5, "train", 1)
    torch.manual_seed(2)
    assert torch.equal(first, draw_batch(data.train, TINY, 5, "train", 1))
    others = [
        draw_batch(data.train, TINY, 6, "train", 1),
        draw_batch(data.train, TINY, 5, "eval_train", 1),
        draw_batch(data.train, TINY, 5, "train", 0),
        draw_batch(data.train, replace(TINY, seed=1), 5, "train", 1),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_every_window_can_be_drawn(data):
    short = data.val[:12]  # 4 starting places for windows of 9
    config = replace(TINY, batch_size=200)
    found = {tuple(row) for row in draw_batch(short, config, 0, "train").tolist()}
    assert found == {tuple(short[i : i + 9].tolist()) for i in range(4)}


def test_the_evaluation_is_the_mean_over_its_batches(data):
    config = replace(TINY, eval_iters=4, dropout=0.5)
    trainer = Trainer(make_model(data.vocab_size, config), data, config)
    losses = trainer.evaluate(7)
    model = GPT(replace(trainer.model.config, dropout=0.0))
    model.load_state_dict(trainer.model.state_dict(), strict=True)
    assert list(losses) == ["train_loss", "val_loss"]
    for found, ids, purpose in zip(losses.values(), (data.train, data.val), ("eval_train", "eval_val"), strict=True):
        batches = [draw_batch(ids, config, 7, purpose, k) for k in range(4)]
        tokens = torch.cat(batches)
        expected = F.nll_loss(model(tokens[:, :-1]).log_softmax(-1).flatten(0, 1), tokens[:, 1:].flatten())
        assert found == pytest.approx(expected.item(), abs=1e-6)
    assert trainer.model.training


def test_training_learns_and_leaves_the_random_state_alone(tmp_path):
    file = tmp_path / "cycle.txt"
    file.write_text("abcd" * 100)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    config = replace(TINY, dropout=0.0, n_embd=16, max_iters=150, learning_rate=3e-2, eval_interval=50)
    result = quiet(file, tmp_path / "out", config)
    assert torch.equal(torch.rand(1), expected)
    assert records(tmp_path / "out")[0]["val_loss"] == pytest.approx(math.log(4), abs=0.1)  # it starts at chance
    assert result.val_loss < 0.05  # what follows a letter is certain


def test_dropout_differs_between_iterations_and_is_off_in_evaluation(data):
    config = replace(TINY, dropout=0.5, learning_rate=1e-9, min_lr=0.0)
    trainer = Trainer(make_model(data.vocab_size, config), data, config)
    same_batch = draw_batch(data.train, config, 0, "train")
    trainer.data = replace_train(data, same_batch[0])
    assert float(trainer.step(0)) != float(trainer.step(1))
    assert trainer.evaluate(0) == trainer.evaluate(0)


def replace_train(data, row):
    """A text with one window only, so that every batch is the same."""
    return TextData(train=row.numpy(), val=data.val, vocabulary=data.vocabulary, name="one")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_training_writes_the_same_names(data, tmp_path, monkeypatch, backend):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    config = replace(TINY, compile=True, max_iters=2, dropout=0.0)
    result = quiet(data, tmp_path / "compiled", config, stages=[2])
    plain = quiet(data, tmp_path / "plain", replace(config, compile=False), stages=[2])
    raw = torch.load(result.path, weights_only=True)
    assert not any("_orig_mod" in key for key in raw["model"])
    for key, tensor in weights(result.stages[0]).items():
        torch.testing.assert_close(tensor, weights(plain.stages[0])[key], rtol=0, atol=1e-4)


# --- what is written ----------------------------------------------------------------------


class PlainBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.attn = nn.ModuleDict(
            {"c_attn": nn.Linear(width, 3 * width, bias=False), "c_proj": nn.Linear(width, width, bias=False)}
        )
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=False), "c_proj": nn.Linear(4 * width, width, bias=False)}
        )


class PlainGPT(nn.Module):
    """nanoGPT's names with PyTorch's own modules."""

    def __init__(self, n_layer, n_embd, block_size, vocab_size):
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(PlainBlock(n_embd) for _ in range(n_layer)),
                "ln_f": nn.LayerNorm(n_embd, bias=False),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)


def test_checkpoints_are_nanogpts(data, tmp_path):
    result = quiet(data, tmp_path / "out", stages=[0, 5, 12])
    raw = torch.load(result.path, weights_only=True)
    assert set(raw) == {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"}
    assert raw["model_args"] == {
        "n_layer": 1,
        "n_head": 2,
        "n_embd": 8,
        "block_size": 8,
        "bias": False,
        "vocab_size": 10,
        "dropout": 0.1,
    }
    assert {"dataset": "letters", "batch_size": 3, "eval_iters": 2, "seed": 1337}.items() <= raw["config"].items()
    args = raw["model_args"]
    plain = PlainGPT(args["n_layer"], args["n_embd"], args["block_size"], args["vocab_size"])
    plain.load_state_dict(raw["model"], strict=True)
    torch.optim.AdamW(plain_groups(plain)).load_state_dict(raw["optimizer"])
    assert torch.equal(raw["model"]["lm_head.weight"], raw["model"]["transformer.wte.weight"])
    for file, iteration in zip(result.stages, (0, 5, 12), strict=True):
        stage = torch.load(file, weights_only=True)
        assert "optimizer" not in stage
        assert stage["iter_num"] == iteration
        plain.load_state_dict(stage["model"], strict=True)
        assert read_checkpoint(file).vocabulary.chars == data.vocabulary.chars
    meta = pickle.loads((tmp_path / "out" / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == 10


def plain_groups(model):
    model.lm_head.weight = model.transformer["wte"].weight
    return [
        {"params": [p for p in model.parameters() if p.dim() >= 2]},
        {"params": [p for p in model.parameters() if p.dim() < 2]},
    ]


def test_the_best_checkpoint_and_its_loss(data, tmp_path):
    result = quiet(data, tmp_path / "out")
    evaluated = {r["iter"]: r["val_loss"] for r in records(tmp_path / "out") if "val_loss" in r}
    assert list(evaluated) == [0, 4, 8, 12]
    best = min((i for i in evaluated if i), key=evaluated.__getitem__)
    checkpoint = read_checkpoint(result.path)
    assert (checkpoint.iter_num, checkpoint.best_val_loss) == (best, evaluated[best])
    assert (result.best_iteration, result.best_val_loss) == (best, evaluated[best])
    assert result.val_loss == evaluated[12]
    model = GPT.from_checkpoint(checkpoint)
    windows = torch.cat([draw_batch(data.val, TINY, best, "eval_val", k) for k in range(2)])
    with torch.no_grad():
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    assert loss.item() == pytest.approx(evaluated[best], abs=1e-6)
    assert not (tmp_path / "out" / "resume.pt").exists()


def test_always_save_checkpoint_keeps_the_last(data, tmp_path):
    config = replace(TINY, always_save_checkpoint=True, learning_rate=0.0, min_lr=0.0, weight_decay=0.0)
    result = quiet(data, tmp_path / "out", config)
    assert result.best_iteration == 12
    assert result.best_val_loss == result.val_loss


def test_the_log_has_each_iteration_once(data, tmp_path):
    quiet(data, tmp_path / "out", stages=[5])
    lines = records(tmp_path / "out", timing=True)
    assert [line["iter"] for line in lines] == [0, 3, 4, 5, 6, 8, 9, 12]
    assert [line["iter"] for line in lines if "batch_loss" in line] == [0, 3, 6, 9]
    assert [line["iter"] for line in lines if "val_loss" in line] == [0, 4, 5, 8, 12]
    assert all(line["lr"] == learning_rate(line["iter"], TINY) for line in lines)
    assert all(line["tokens_per_second"] > 0 for line in lines)
    assert sorted(line["elapsed"] for line in lines) == [line["elapsed"] for line in lines]


def test_stages_change_nothing_else(data, tmp_path):
    with_stages = quiet(data, tmp_path / "a", stages="log:5")
    without = quiet(data, tmp_path / "b")
    assert [file.name for file in with_stages.stages] == [f"ckpt_{i:06d}.pt" for i in (0, 1, 2, 5, 12)]
    assert same(weights(with_stages.path), weights(without.path))
    by_iter = {r["iter"]: r for r in records(tmp_path / "a")}
    assert all(by_iter[r["iter"]] == r for r in records(tmp_path / "b"))
    first = make_model(data.vocab_size, TINY).state_dict()
    assert same(weights(with_stages.stages[0]), first)
    stage = read_checkpoint(with_stages.stages[3])
    assert stage.best_val_loss == by_iter[5]["val_loss"]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (None, ()),
        ("log:2", (0, 2000)),
        ("log:5", (0, 1, 13, 159, 2000)),
        ("log:8", (0, 1, 4, 13, 45, 159, 563, 2000)),
        ("0, 100,7", (0, 7, 100)),
        ([2000, 0, 5, 5], (0, 5, 2000)),
    ],
)
def test_stages_by_hand(stages, expected):
    assert parse_stages(stages, 2000) == expected


def test_log_stages_are_as_many_as_asked_for():
    for max_iters in (1, 2, 7, 50, 3000):
        for count in range(2, min(max_iters + 1, 60) + 1):
            found = parse_stages(f"log:{count}", max_iters)
            assert len(set(found)) == count
            assert (found[0], found[-1]) == (0, max_iters)
            assert list(found) == sorted(found)


@pytest.mark.parametrize("stages", ["log:x", "log:1", "log:99", "1,b", "13", [-1], [1.5], "", [], 5, [True]])
def test_bad_stages_are_one_clear_sentence(stages):
    with pytest.raises(TrainingError, match=r"stages (is|has|asks).*expected"):
        parse_stages(stages, 12)


def test_the_sample_is_seeded_text(data, tmp_path):
    result = quiet(data, tmp_path / "out", sample=True)
    assert len(result.sample) == 300
    assert set(result.sample) <= set(TEXT)
    assert quiet(data, tmp_path / "again", sample=True).sample == result.sample


def test_progress_false_is_silent(data, tmp_path, capfd):
    quiet(data, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    quiet(data, tmp_path / "loud", progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "loss=" in err
    assert "tok/s=" in err


def test_settings_are_keywords_too(tmp_path):
    text = "to be or not to be, that is the question; " * 40
    small = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "max_iters": 3, "eval_iters": 1}
    silent = {"progress": False, "sample": False}
    one = train(text, tmp_path / "a", TrainConfig(**small), **silent)
    two = train(text, tmp_path / "b", **small, **silent)
    three = train(text, tmp_path / "c", TrainConfig(**{**small, "n_embd": 16}), n_embd=8, **silent)
    states = [read_checkpoint(result.path).state_dict for result in (one, two, three)]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name])
        assert torch.equal(tensor, states[2][name])


def test_a_setting_that_there_is_not_has_a_near_one(tmp_path):
    with pytest.raises(TrainingError, match="there is no setting 'max_iter'.*did you mean 'max_iters'"):
        train("abc" * 99, tmp_path / "out", max_iter=3)
    assert not (tmp_path / "out").exists()
