"""The tuned lens: it learns what can be learnt, belongs to its model, and is the same however it was trained."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.core import unfinished
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.lens import tuned
from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.lens.evaluation import evaluate_lens
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.lens.tuned import Tuning, split, train_tuned_lens
from nanogpt_lens.model.access import has_hooks
from nanogpt_lens.results.lens import TunedLens, name_of
from nanogpt_lens.text.corpus import open_corpus, windows
from tests.conftest import convert
from tests.making import random_state
from tests.nanogpt_lens.neurons.stream_helpers import corpus, small_model
from tests.nanogpt_lens.patching.patching_helpers import checkpoint, model, native, texts
from tests.processes import run_in_two_processes

CORPUS = torch.randint(13, (2000,), generator=torch.Generator().manual_seed(0))
QUICK = {"steps": 40, "batch_size": 8, "evaluations": 4, "n_stop": 10, "n_test": 20, "progress": False}


@cache
def lens():
    return train_tuned_lens(model(), CORPUS, **QUICK)


def differs(a, b):
    return max(float((a.matrices - b.matrices).abs().max()), float((a.biases - b.biases).abs().max()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("processed", [False, True])
def test_is_closer_to_the_output_than_the_logit_lens_at_every_point_but_the_last(bias, processed):
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, "vocab_size": 16, "bias": bias}
    state = random_state(**sizes, seed=6, dtype=torch.float64)
    own = convert(Checkpoint(config=NanoGPTConfig(**sizes), state_dict=state), process_weights=processed)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    corpus = torch.randint(16, (3000,), generator=torch.Generator().manual_seed(0))
    found = train_tuned_lens(own, corpus, **{**QUICK, "steps": 80})
    assert found.translated == (0, 1, 2, 3)
    assert (found.score("gain").flatten()[[0, 1, 2, 3, 4]] > 0).all()
    assert found.values[:, -1, -1].abs().max() < 1e-6  # the last point is the output
    interval = found.low[2].flatten()[:5]
    assert (interval > 0).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    assert all(parameter.grad is None for parameter in own.parameters())
    assert not has_hooks(own)
    assert not own.training


def test_held_out_kl_is_that_of_a_plain_loop():
    parts = split(
        open_corpus(model(), CORPUS),
        Tuning(
            **{k: v for k, v in QUICK.items() if k != "progress"},
            lr=0.01,
            weight_decay=0,
            held_out=0.1,
            patience=5,
            seq_len=10,
            seed=0,
        ),
    )
    assert [parts[name].n_tokens for name in ("train", "stop", "test")] == [1600, 200, 200]
    assert torch.equal(torch.cat([parts[name].tokens(0, 10**6) for name in ("train", "stop", "test")]), CORPUS)
    tokens, gpt = windows(model(), CORPUS[1800:], seq_len=10, n=20), native()
    for layer, point, hook in [
        (0, "resid_pre", "blocks.0.hook_resid_pre"),
        (1, "resid_mid", "blocks.1.hook_resid_mid"),
        (0, "resid_post", "blocks.1.hook_resid_pre"),
    ]:
        kept = {}
        with torch.no_grad():
            final = gpt(tokens, edits={hook: lambda x, kept=kept: kept.update(x=x.clone())}).log_softmax(-1)
            i = lens().translated.index(2 * layer + ("resid_pre", "resid_mid", "resid_post").index(point))
            moved = kept["x"] + kept["x"] @ lens().matrices[i] + lens().biases[i]
            assert torch.allclose(lens().translate(layer, point, kept["x"]), moved)
            for score, resid in (("tuned", moved), ("logit", kept["x"])):
                logp = gpt.lm_head(gpt.transformer.ln_f(resid)).log_softmax(-1)
                expected = (final.exp() * (final - logp)).sum(-1).mean()
                found = lens().at(score=score, layer=layer, point=point)
                assert found == pytest.approx(float(expected), abs=1e-10)


def test_gradients_are_the_derivatives_of_the_mean_kl():
    """One step of plain gradient descent per entry, by a central difference of the lens' own KL."""
    options = Tuning(
        **{k: v for k, v in QUICK.items() if k != "progress"},
        lr=0.01,
        weight_decay=0,
        held_out=0.1,
        patience=5,
        seq_len=10,
        seed=0,
    )
    run = tuned._TuningRun(model(), (0, 3), split(open_corpus(model(), CORPUS), options), options)
    tokens = run._batch()
    with torch.no_grad():
        run.matrices += 0.1 * torch.randn(run.matrices.shape, dtype=torch.float64)
        loss, (matrices, biases) = run._gradients(tokens, tokens.numel())
        for place in [(0, 3, 5), (1, 0, 15)]:
            moved = []
            for step in (1e-5, -1e-5):
                run.matrices[place] += step
                moved.append(run._gradients(tokens, tokens.numel())[0].sum())
                run.matrices[place] -= step
            assert matrices[place] == pytest.approx(float(moved[0] - moved[1]) / 2e-5, abs=1e-8)
        run.biases[1, 4] += 1e-5
        higher = run._gradients(tokens, tokens.numel())[0]
        assert biases[1, 4] == pytest.approx(float((higher - loss)[1]) / 1e-5, abs=1e-4)
        assert higher[0] == loss[0]  # each translator has a loss of its own


def test_small_pieces_change_nothing(monkeypatch):
    monkeypatch.setattr(tuned, "_NUMBERS", 6 * 13 * 7)
    assert differs(train_tuned_lens(model(), CORPUS, **QUICK), lens()) < 1e-9


def test_the_same_seed_gives_the_same_lens_and_another_another():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert differs(train_tuned_lens(model(), CORPUS, **QUICK), lens()) == 0
    assert differs(train_tuned_lens(model(), CORPUS, **QUICK, seed=1), lens()) > 1e-4
    assert torch.equal(torch.get_rng_state(), before)


def test_the_best_step_is_kept_and_step_0_is_the_logit_lens():
    """A learning rate that is far too high, near the output."""
    far = {**QUICK, "steps": 1000, "evaluations": 500, "patience": 3, "layers": 2, "points": "resid_mid"}
    found = train_tuned_lens(model(), CORPUS, **far, lr=30.0)
    assert found.best_steps == (0,)
    assert not found.matrices.any()
    assert found.curve_steps == (0, 2, 4, 6)  # and patience has ended it
    assert torch.allclose(found.score("tuned"), found.score("logit"))
    best = lens().curve.min(0)
    assert lens().best_steps == tuple(lens().curve_steps[i] for i in best.indices.tolist())


def test_points_layers_and_rows_of_ids():
    found = train_tuned_lens(model(), CORPUS.view(100, 20), **QUICK, points="resid_mid", layers=[2, 1], seq_len=8)
    assert found.labels == {"score": ("tuned", "logit", "gain"), "layer": ("1", "2"), "point": ("resid_mid",)}
    assert found.translated == (3, 5)
    assert "1.resid_mid" in repr(found)
    tokens, _ = texts()
    logit_lens(model(), tokens, points="resid_mid", layers=[1, 2], lens=found)
    with pytest.raises(AnalysisError, match="no translator for resid_mid of layer 0; expected one of resid_mid of la"):
        logit_lens(model(), tokens, points="resid_mid", lens=found)
    assert [name_of(depth) for depth in (0, 1, 2, 3)] == [
        "resid_pre of layer 0",
        "resid_mid of layer 0",
        "resid_post of layer 0",
        "resid_mid of layer 1",
    ]


def test_logit_lens_and_convergence_use_it():
    tokens, _ = texts()
    plain, tuned = logit_lens(model(), tokens), logit_lens(model(), tokens, lens=lens())
    gpt, kept = native(), {}
    with torch.no_grad():
        gpt(tokens, edits={"blocks.1.hook_resid_pre": lambda x: kept.update(x=x.clone())})
        logp = gpt.lm_head(gpt.transformer.ln_f(lens().translate(1, "resid_pre", kept["x"]))).log_softmax(-1)
    assert torch.allclose(tuned.top_logprobs[1, 0, ..., 0], logp.max(-1).values, atol=1e-10)
    assert torch.equal(tuned.kl[2, 2], plain.kl[2, 2])
    assert tuned.kl.mean() < plain.kl.mean()
    found = measure_convergence(model(), CORPUS, n=5, lens=lens(), progress=False)
    assert torch.allclose(found.score("kl"), logit_lens(model(), found.tokens, lens=lens()).kl.mean((2, 3)))


def test_saved_and_loaded(tmp_path):
    lens().save(tmp_path / "lens")
    for again in (TunedLens.load(tmp_path / "lens", model()), ngl.load_result(tmp_path / "lens")):
        assert isinstance(again, TunedLens)
        assert differs(again, lens()) == 0
        assert repr(again) == repr(lens())
        assert (again.translated, again.best_steps, again.home) == (lens().translated, lens().best_steps, lens().home)
    TunedLens.load(tmp_path / "lens", model(dtype=torch.float32))  # the same weights
    with pytest.raises(ResultError, match="cannot be read"):
        TunedLens.load(tmp_path / "other", model())


def other_model(scale=1.0):
    state = {name: tensor.clone() for name, tensor in checkpoint().state_dict.items()}
    state["transformer.h.1.mlp.c_proj.weight"] *= scale
    return convert(replace(checkpoint(), state_dict=state), dtype=torch.float64)


def test_another_models_lens_is_refused_unless_it_is_transferred(tmp_path):
    lens().save(tmp_path)
    TunedLens.load(tmp_path, other_model())
    other, (tokens, _) = other_model(scale=1.5), texts()
    for use in (
        lambda: TunedLens.load(tmp_path, other),
        lambda: logit_lens(other, tokens, lens=lens()),
        lambda: measure_convergence(other, CORPUS, lens=lens()),
        lambda: evaluate_lens(other, CORPUS, lens()),
        lambda: logit_lens(model(process_weights=True), tokens, lens=lens()),
    ):
        with pytest.raises(AnalysisError, match=r"was trained for .* not for .*load the lens with transfer=True"):
            use()
    moved = TunedLens.load(tmp_path, other, transfer=True)
    assert moved.transferred
    assert not TunedLens.load(tmp_path, model(), transfer=True).transferred
    result = evaluate_lens(other, CORPUS[1800:], moved, n=20, progress=False)
    assert result.labels["score"] == ("tuned", "logit", "gain", "home", "loss_of_fit")
    assert torch.allclose(result.score("home"), lens().score("tuned"))
    assert torch.allclose(result.score("loss_of_fit"), result.score("tuned") - lens().score("tuned"))
    assert (result.score("loss_of_fit").flatten()[:3] > 0).all()
    lens_kl = logit_lens(other, windows(other, CORPUS[1800:], seq_len=10, n=20), lens=moved).kl.mean((2, 3))
    assert torch.allclose(result.score("tuned"), lens_kl)
    assert (result.low <= result.values + 1e-12).all()
    assert (result.values <= result.high + 1e-12).all()
    with pytest.raises(AnalysisError, match="not for"):
        logit_lens(model(), tokens, lens=moved)
    own = evaluate_lens(model(), CORPUS[1800:], lens(), n=20, progress=False)
    assert torch.allclose(own.values, lens().values)
    some = evaluate_lens(other, CORPUS, moved, points="resid_mid", layers=1, n=3, progress=False)
    assert torch.equal(some.score("home")[0], lens().score("tuned")[1, 1:2])


def test_a_lens_of_another_shape_is_refused_even_for_transfer(tmp_path):
    lens().save(tmp_path)
    sizes = {"n_layer": 3, "n_head": 2, "n_embd": 8, "block_size": 10, "vocab_size": 13}
    small = convert(Checkpoint(config=NanoGPTConfig(**sizes), state_dict=random_state(**sizes)))
    for transfer in (False, True):
        with pytest.raises(AnalysisError, match="for 3 layers of width 16, the model has 3 of width 8"):
            TunedLens.load(tmp_path, small, transfer=transfer)
    with pytest.raises(AnalysisError, match="transfer=True needs the model"):
        TunedLens.load(tmp_path, transfer=True)


class Killed(Exception):
    pass


def killed(monkeypatch, folder, after, **options):
    """A run that dies in the step after so many."""
    update, count = tuned._TuningRun.update, iter(range(after))

    def dying(self):
        if next(count, None) is None:
            raise Killed
        return update(self)

    monkeypatch.setattr(tuned._TuningRun, "update", dying)
    with pytest.raises(Killed):
        train_tuned_lens(model(), CORPUS, **{**QUICK, **options}, resume=folder)
    monkeypatch.setattr(tuned._TuningRun, "update", update)


@pytest.mark.parametrize("after", [7, 20, 33])
def test_a_killed_run_goes_on_to_the_same_lens(tmp_path, monkeypatch, after):
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    killed(monkeypatch, tmp_path / "run", after)
    assert (tmp_path / "run").is_dir()
    steps = []
    update = tuned._TuningRun.update
    monkeypatch.setattr(tuned._TuningRun, "update", lambda self: (steps.append(self.step), update(self))[1])
    found = train_tuned_lens(model(), CORPUS, **QUICK, resume=tmp_path / "run")
    assert steps == list(range(after, 40))
    assert differs(found, lens()) == 0
    assert torch.equal(found.curve, lens().curve)
    assert (found.curve_steps, found.best_steps) == (lens().curve_steps, lens().best_steps)
    assert torch.equal(found.values, lens().values)
    assert not (tmp_path / "run").exists()


def test_the_state_is_saved_by_the_clock(tmp_path, monkeypatch):
    assert unfinished.SAVE_EVERY <= 60
    killed(monkeypatch, tmp_path / "run", 5)
    assert not (tmp_path / "run").exists()


def test_another_runs_state_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    killed(monkeypatch, tmp_path, 3)
    (file,) = tmp_path.iterdir()
    for own, ids, options in (
        (model(), CORPUS, {"lr": 0.02}),
        (model(), CORPUS.flip(0), {}),
        (model(process_weights=True), CORPUS, {}),
        (model(), CORPUS, {"layers": 1}),
    ):
        with pytest.raises(AnalysisError, match="the unfinished run of another model, corpus or set of options"):
            train_tuned_lens(own, ids, **QUICK, **options, resume=tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AnalysisError, match="cannot be read .* delete it"):
        train_tuned_lens(model(), CORPUS, **QUICK, resume=tmp_path)
    with pytest.raises(AnalysisError, match="is a file; expected a folder"):
        train_tuned_lens(model(), CORPUS, **QUICK, resume=file)


SCRIPT = """
import sys, torch
from nanogpt_lens.core.distributed import is_first
from nanogpt_lens.lens.tuned import train_tuned_lens
from tests.nanogpt_lens.lens.test_tuned_lens import CORPUS, QUICK, model
lens = train_tuned_lens(model(), CORPUS, **{**QUICK, "batch_size": 7}, resume=sys.argv[1] + "/run")
if is_first():
    lens.save(sys.argv[1] + "/lens")
"""


@pytest.mark.slow  # two processes import everything
def test_two_processes_give_the_lens_of_one(tmp_path):
    """70 tokens are 7 sequences: the shares are unequal."""
    done = run_in_two_processes(SCRIPT, tmp_path)
    assert done.codes == (0, 0), done.printed[-3000:]
    found = TunedLens.load(tmp_path / "lens", model())
    alone = train_tuned_lens(model(), CORPUS, **{**QUICK, "batch_size": 7})
    assert differs(found, alone) < 1e-9
    assert torch.allclose(found.values, alone.values, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number, 1 or more"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"evaluations": 0}, "evaluations is 0"),
        ({"patience": 0}, "patience is 0"),
        ({"n_stop": 0}, "n_stop is 0"),
        ({"n_test": "all"}, "n_test is 'all'"),
        ({"seed": -1}, "seed is -1"),
        ({"seq_len": 1}, "seq_len is 1; expected a whole number, 2 or more"),
        ({"seq_len": 11}, "windows of 11 tokens were asked for; expected 1 to 10"),
        ({"lr": 0}, "lr is 0; expected a number above 0"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"weight_decay": -1}, "weight_decay is -1; expected a number 0 or more"),
        ({"held_out": 0.5}, "held_out is 0.5; expected a number above 0 and below 0.5"),
        ({"held_out": 0.004}, "of which 1984 are to train, 8 to stop and 8 to test; expected at least 10"),
        ({"points": "resid"}, "points is 'resid'"),
        ({"layers": 3}, "there is no layer 3"),
        ({"layers": 2, "points": "resid_post"}, "the model's output, which needs no translator"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(AnalysisError, match=message):
        train_tuned_lens(model(), CORPUS, **{**QUICK, **options})


def test_bad_corpora_lenses_and_losses():
    with pytest.raises(AnalysisError, match="the corpus has 40 tokens, of which 32 are to train"):
        train_tuned_lens(model(), CORPUS[:40], **QUICK, held_out=0.1)
    with pytest.raises(AnalysisError, match="the corpus has 5 sequences, of which 5 are to train"):
        train_tuned_lens(model(), CORPUS[:50].view(5, 10), **QUICK, held_out=0.1)
    with pytest.raises(AnalysisError, match="lens is a NoneType; expected a TunedLens"):
        evaluate_lens(model(), CORPUS, None)
    with pytest.raises(AnalysisError, match="point is 'resid'; expected one of"):
        lens().translate(0, "resid", torch.zeros(16))
    with pytest.raises(AnalysisError, match=r"after step \d+; expected a finite number: give a smaller lr than 3e\+"):
        train_tuned_lens(model(dtype=torch.float32), CORPUS, **QUICK, lr=3e37)
    broken = model()
    with torch.no_grad():
        next(iter(broken.parameters())).fill_(torch.nan)
    with pytest.raises(AnalysisError, match="check the model, whose own activations are not finite"):
        train_tuned_lens(broken, CORPUS, **QUICK)


@pytest.mark.parametrize("place", [50, 1700, 1950])
def test_ids_beyond_the_vocabulary_are_refused_wherever_they_are(place, tmp_path):
    ids = corpus(2000)
    ids[place] = 65
    with pytest.raises(AnalysisError, match="has the token 65; expected ids from 0 to 64"):
        train_tuned_lens(small_model(tmp_path), ids, steps=3, progress=False)


def test_a_resumed_run_needs_the_same_held_out_text(tmp_path, monkeypatch):
    own, ids, options = small_model(tmp_path), corpus(2000), {"steps": 20, "batch_size": 4, "progress": False}
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    update, done = tuned._TuningRun.update, []

    def failing(self):
        done.append(1)
        if len(done) == 6:
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(tuned._TuningRun, "update", failing)
    with pytest.raises(KeyboardInterrupt):
        train_tuned_lens(own, ids, resume=tmp_path / "state", **options)
    for place in (10, 1700, 1950):  # train, stop, test
        other = ids.clone()
        other[place] = (other[place] + 1) % 65
        with pytest.raises(AnalysisError, match="unfinished run of another model, corpus"):
            train_tuned_lens(own, other, resume=tmp_path / "state", **options)
    assert train_tuned_lens(own, ids, resume=tmp_path / "state", **options).values.isfinite().all()


def test_a_damaged_lens_is_refused(tmp_path):
    lens = train_tuned_lens(small_model(tmp_path), corpus(2000), steps=2, progress=False)
    with pytest.raises(ResultError, match="is damaged: train it again"):
        replace(lens, matrices=lens.matrices[:-1])
