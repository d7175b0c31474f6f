"""The loss per character of models whose tokens differ, against plain loops."""

from __future__ import annotations

import pytest
import torch

from nanogpt_lens.compare.characters import loss_per_character
from nanogpt_lens.compare.grouped import GroupedMeans
from nanogpt_lens.core.errors import AnalysisError, VocabularyError
from nanogpt_lens.core.intervals import ratio_per_example, t_interval
from nanogpt_lens.model.loading import load
from tests.making import CHARS, write
from tests.nanogpt_lens.compare.two_models import characters_model, subwords_model

TEXT = "The Cat sat on the Mat and on the Cat, sat the Mat: so it is.\nNo " * 6


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("characters")
    return characters_model(folder / "a"), subwords_model(folder / "b")


def by_hand(model, piece):
    """Nats and characters of what is predicted in a piece, by the model's own tokenizer."""
    ids = model.tokenizer.encode(piece, add_special_tokens=False)
    nats, length = 0.0, 0
    for i in range(0, len(ids), 12):
        part = ids[i : i + 12]
        if len(part) > 1:
            logits = model(torch.tensor([part]), return_type="logits")[0, :-1].detach().double()
            nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(part[1:]), reduction="sum"))
            length += len(model.tokenizer.decode(part[1:]))
    return nats, length


def test_equals_plain_loops(pair, tmp_path):
    found = loss_per_character(*pair, TEXT, piece=30, n=100)
    pieces = [TEXT[i : i + 30] for i in range(0, len(TEXT) - 29, 30)]
    each = []
    for model in pair:
        nats, length = zip(*(by_hand(model, piece) for piece in pieces), strict=True)
        each.append(ratio_per_example(torch.tensor(nats).double(), torch.tensor(length).double()))
        assert float(each[-1].mean()) == pytest.approx(sum(nats) / sum(length))
    each.append(each[1] - each[0])
    for i, values in enumerate(each):
        low, high = t_interval(values)
        assert float(found.values[i]) == pytest.approx(float(values.mean()), abs=1e-6)
        assert (float(found.low[i]), float(found.high[i])) == pytest.approx((float(low), float(high)), abs=1e-6)
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    for given in (file, str(file)):
        assert torch.equal(loss_per_character(*pair, given, piece=30, n=100).values, found.values)
    fewer = loss_per_character(*pair, TEXT, piece=30, n=3, seed=1)
    assert fewer.n_examples == 3


def test_copies_are_the_same(pair):
    found = loss_per_character(pair[1], pair[1], TEXT, piece=30)
    assert (float(found.score("difference")), float(found.low[2]), float(found.high[2])) == (0, 0, 0)


def test_what_has_no_loss_per_character(pair, tmp_path):
    write(tmp_path / "bare")
    bare = load(tmp_path / "bare")
    for models, given, options, error, said in (
        (pair, TEXT[:30], {"piece": 20}, AnalysisError, "the text has 30 characters; expected two pieces of 20"),
        (pair, "", {}, AnalysisError, "the text has 0 characters"),
        (pair, torch.arange(9), {}, AnalysisError, "the text is a Tensor; expected text"),
        (pair, TEXT, {"n": 1}, AnalysisError, "n is 1"),
        (pair, "é" * 300, {"piece": 40}, VocabularyError, "é"),
        ((pair[0], bare), TEXT, {}, VocabularyError, "vocabulary"),
        ((pair[0], 3), TEXT, {}, AnalysisError, "the model is a int"),
    ):
        with pytest.raises(error, match=said):
            loss_per_character(*models, given, **options)
    assert CHARS.count("é") == 0


def test_standard_errors_of_groups_cover_the_truth():
    """Means by group of sequences that share a part: the intervals hold the true mean in 95 of 100."""
    generator = torch.Generator().manual_seed(0)
    inside, every = 0, 0
    for _ in range(300):
        means = GroupedMeans(3, 1)
        for _ in range(4):  # batches
            group = torch.randint(3, (10, 6), generator=generator)
            shared = torch.randn(10, 1, 1, generator=generator, dtype=torch.float64)
            values = shared + torch.randn(10, 6, 1, generator=generator, dtype=torch.float64) + group[..., None]
            means.add(group, values)
        half = 2.023 * means.error[:, 0]  # Student's t, 39 degrees of freedom
        truth = torch.arange(3.0)
        inside += int(((means.mean[:, 0] - truth).abs() <= half).sum())
        every += 3
    assert 0.92 <= inside / every <= 0.975
