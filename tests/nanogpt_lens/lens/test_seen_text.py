"""A tuned lens that is measured on text it was trained on says so."""

from __future__ import annotations

import torch

from nanogpt_lens.lens.convergence import measure_convergence
from nanogpt_lens.lens.evaluation import evaluate_lens
from nanogpt_lens.lens.logit import logit_lens
from nanogpt_lens.lens.tuned import train_tuned_lens
from nanogpt_lens.reporting.blocks import picture_of
from nanogpt_lens.results.lens import LensScores, TunedLens
from tests.nanogpt_lens.patching.patching_helpers import model

CORPUS = torch.randint(13, (2000,), generator=torch.Generator().manual_seed(0))
NEW = torch.randint(13, (600,), generator=torch.Generator().manual_seed(1))


def test_the_lens_recognises_its_own_text(tmp_path):
    made = train_tuned_lens(model(), CORPUS, steps=3, evaluations=1, n_stop=4, n_test=4, progress=False)
    made.save(tmp_path / "lens")
    lens = TunedLens.load(tmp_path / "lens", model())
    assert made.seen_share is None
    trained, test = CORPUS[:1600], CORPUS[1800:]  # the last two tenths decide when to stop, and test
    for corpus, share in (
        (trained, 1),
        (trained[100:300].view(-1, 10), 1),
        (CORPUS[1600:1800], 1),
        (test, 0),
        (NEW, 0),
    ):
        scores = evaluate_lens(model(), corpus, lens, n=3, progress=False)
        assert scores.seen_share == share
        assert scores.in_sample is bool(share)
        for shown in (repr(scores).lower(), scores.plot().layout.to_json().replace("<br>", " ").lower()):
            assert ("in sample: the lens has seen 100% of this text before" in shown) == bool(share)
        assert ("in_sample" in scores.to_dataframe()) == ("in_sample" in scores.top(2)) == bool(share)
    whole = evaluate_lens(model(), CORPUS, lens, n=3, progress=False)
    assert abs(whole.seen_share - 0.9) < 0.02
    whole.save(tmp_path / "scores")
    assert LensScores.load(tmp_path / "scores").seen_share == whole.seen_share


def test_readings_with_a_lens_say_it_too():
    lens = train_tuned_lens(model(), CORPUS, steps=3, evaluations=1, n_stop=4, n_test=4, progress=False)
    warning = "IN SAMPLE: THE LENS HAS SEEN 100% OF THIS TEXT BEFORE"
    context = model().cfg.n_ctx
    for rows, expected in ((CORPUS[: 6 * context].view(6, -1), True), (NEW[: 6 * context].view(6, -1), None)):
        reading = logit_lens(model(), rows, lens=lens)
        convergence = measure_convergence(model(), rows, n=4, lens=lens, progress=False)
        for result in (reading, convergence):
            assert result.in_sample is expected
            assert (warning in repr(result)) is bool(expected)
            assert ("in sample: the lens" in result.plot().layout.to_json().replace("<br>", " ").lower()) is bool(
                expected
            )
            unknown = "unknown whether in sample; the lens may have seen the same before" in repr(result).lower()
            assert unknown is (expected is None)
            picture = picture_of(result, "a picture")  # of the report
            assert ("in sample: the lens has seen 100%" in picture.caption.lower()) is bool(expected)
        assert set(reading.table()["in_sample"]) == {True if expected else "unknown"}
    without = measure_convergence(model(), CORPUS, n=4, progress=False)
    assert without.in_sample is None
    assert logit_lens(model(), CORPUS[:8]).sample is None
