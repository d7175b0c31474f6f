"""The checkpoint that comes with the package is what its config.json says it is."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conversion.checkpoint import read_checkpoint, save_checkpoint
from conversion.native import GPT
from nanogpt_lens.model.loading import check
from nanogpt_lens.text.datasets import read_data, shakespeare, write_data
from nanogpt_lens.training.sample import sample_text
from nanogpt_lens.training.train import TrainConfig

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "checkpoints" / "shakespeare_char"
TEXT = ROOT.parent / "shared" / "data" / "tinyshakespeare.txt"
CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint(FOLDER)


def losses_by_hand(checkpoint, text):
    """Losses [window, pos] of windows without overlap: the model's logits, log-probabilities in float64."""
    stoi = {char: i for i, char in enumerate(checkpoint.vocabulary.chars)}
    ids = torch.tensor([stoi[char] for char in text])
    model, size, found = GPT.from_checkpoint(checkpoint), checkpoint.config.block_size, []
    starts = range(0, len(ids) - size, size)
    with torch.no_grad():
        for first in range(0, len(starts), 128):
            windows = torch.stack([ids[i : i + size + 1] for i in starts[first : first + 128]])
            log_probs = F.log_softmax(model(windows[:, :-1]).double(), dim=-1)
            found.append(-log_probs.gather(-1, windows[:, 1:, None]).squeeze(-1))
    return torch.cat(found)


@pytest.mark.parametrize("name", ["ckpt.pt", "meta.pkl", "metrics.jsonl"])
def test_files_are_the_ones_described(name):
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == CONFIG["sha256"][name]


def test_no_optimizer_is_shipped():
    raw = torch.load(FOLDER / "ckpt.pt", weights_only=True)
    assert set(raw) == {"model", "model_args", "iter_num", "best_val_loss", "config"}
    assert raw["config"] == CONFIG["settings"]
    assert raw["config"]["dataset"] == "shakespeare_char"


def test_it_is_nanogpts_configuration_for_a_cpu(checkpoint):
    assert checkpoint.config.to_model_args() == CONFIG["model_args"]
    assert CONFIG["model_args"] == {
        "n_layer": 4,
        "n_head": 4,
        "n_embd": 128,
        "block_size": 64,
        "vocab_size": 65,
        "bias": False,
        "dropout": 0.0,
    }
    assert checkpoint.iter_num == CONFIG["iter_num"] == 2000
    settings = TrainConfig(eval_iters=200, log_interval=10).to_dict()  # as the README's command says
    assert {name: CONFIG["settings"][name] for name in settings} == settings
    assert "--eval-iters 200 --log-interval 10 " in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert checkpoint.n_params == CONFIG["parameters"]


def test_the_recorded_loss_is_the_last_of_the_log(checkpoint):
    lines = [json.loads(line) for line in (FOLDER / "metrics.jsonl").read_text().splitlines()]
    evaluated = {line["iter"]: line["val_loss"] for line in lines if "val_loss" in line}
    assert list(evaluated) == list(range(0, 2001, 250))
    assert checkpoint.best_val_loss == min(evaluated.values()) == evaluated[2000]
    assert checkpoint.best_val_loss == CONFIG["losses"]["val_sampled"]["loss"]


def test_loss_on_the_plays_is_reproduced_without_the_training_text(checkpoint):
    """A wrong n_head, activation or tie would load without an error, and show here."""
    expected = CONFIG["losses"]["plays"]
    known = set(checkpoint.vocabulary.chars)
    text = "".join(char for char in shakespeare() if char in known)[:100_000]
    assert hashlib.sha256(text.encode()).hexdigest() == expected["sha256"]
    losses = losses_by_hand(checkpoint, text)
    assert losses.numel() == expected["predictions"]
    assert losses.mean().item() == pytest.approx(expected["loss"], abs=1e-4)
    assert losses.mean() < 2.0 < math.log(65)


@pytest.mark.slow
@pytest.mark.skipif(not TEXT.is_file(), reason="needs tinyshakespeare.txt, which is not part of the package")
def test_loss_on_the_validation_text_is_reproduced(checkpoint):
    content = TEXT.read_bytes()
    assert hashlib.sha256(content).hexdigest() == CONFIG["text"]["sha256"]
    text = content.decode()
    assert "".join(checkpoint.vocabulary.chars) == "".join(sorted(set(text)))
    expected = CONFIG["losses"]["val_whole"]
    losses = losses_by_hand(checkpoint, text[int(len(text) * 0.9) :])
    assert losses.numel() == expected["predictions"]
    assert losses.mean().item() == pytest.approx(expected["loss"], abs=1e-4)
    assert losses.mean() < 1.90
    drawn = CONFIG["settings"]["eval_iters"] * CONFIG["settings"]["batch_size"]
    error = losses.mean(1).std() / math.sqrt(drawn)  # of best_val_loss, the mean over windows drawn at random
    assert abs(checkpoint.best_val_loss - losses.mean()) < 4 * error


def test_the_readme_says_what_the_config_says(checkpoint):
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert CONFIG["sha256"]["ckpt.pt"] in readme
    assert CONFIG["text"]["sha256"] in readme
    assert CONFIG["command"] in readme
    for name, entry in CONFIG["losses"].items():
        assert f"{entry['loss']:.4f}" in readme, name
    assert sample_text(checkpoint, characters=40, seed=1337) in readme


@pytest.mark.slow
@pytest.mark.skipif(not TEXT.is_file(), reason="the training text is not in the repository")
def test_the_certificate_compares_its_loss_on_val_bin(checkpoint, tmp_path):
    """nanoGPT's layout of folders, with the run's own data: proven; with a wrong n_head: exposed."""
    write_data(read_data(TEXT), tmp_path / "data" / "shakespeare_char")
    file = save_checkpoint(replace(checkpoint, vocabulary=None), tmp_path / "out")
    report = check(file, edits=False)
    (found,) = [c for c in report.comparisons if c.kind == "val_loss"]
    assert report.passed, str(report)
    stated = CONFIG["losses"]["val_sampled"]["loss"]
    assert f"stated {stated:.4f}" in found.detail
    assert abs(float(found.detail.split()[0]) - CONFIG["losses"]["val_whole"]["loss"]) < 0.02  # a part of val.bin
    raw = torch.load(file, weights_only=True)
    raw["model_args"]["n_head"] = 2
    torch.save(raw, file)
    wrong = check(file, edits=False)
    assert {c.kind for c in wrong.failures} == {"val_loss"}
    assert "n_head" in wrong.verdict()
