"""A tuned lens that is measured on text it was trained on says so."""

from __future__ import annotations

import torch

from nanogpt_lens.lens.evaluation import evaluate_lens
from nanogpt_lens.lens.tuned import train_tuned_lens
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
        assert ("100% of this text the lens has seen before" in scores.definition) == bool(share)
    whole = evaluate_lens(model(), CORPUS, lens, n=3, progress=False)
    assert abs(whole.seen_share - 0.9) < 0.02
    whole.save(tmp_path / "scores")
    assert LensScores.load(tmp_path / "scores").seen_share == whole.seen_share
