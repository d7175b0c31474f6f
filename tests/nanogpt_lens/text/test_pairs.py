"""Automatic pairs: against brute force on small models, and against plain forward passes."""

import numpy as np
import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.model.loading import load
from nanogpt_lens.text.datasets import shakespeare
from nanogpt_lens.text.pairs import AWAY, NoPairFoundError, find_prompt_pair, find_prompt_pairs
from tests.handmade import CONTEXT, VOCAB, handmade_model
from tests.making import CHARS, write

N = 300  # windows of the random texts


def small_model(folder, seed, *, vocab=9):
    """With nine tokens all others are tried at each position."""
    return load(write(folder, vocab_size=vocab, block_size=12, n_embd=16, seed=seed))


def last_logits_of(model, rows):
    with torch.no_grad():
        return model(torch.tensor(rows), return_type="logits")[:, -1].double()


def last_logits(model, row):
    return last_logits_of(model, [row])[0]


def by_hand(model, ids, length):
    """Every edit of every window after which the model is sure and right; the best of the farthest class."""
    windows = [ids[i : i + length + 1].tolist() for i in range(0, len(ids) - length, length + 1)]
    right = []
    for window in windows:
        logits = last_logits(model, window[:-1])
        if int(logits.argmax()) == window[-1]:
            right.append((window, float(logits.softmax(-1)[window[-1]])))
    least = min(0.5, max(p for _, p in right))
    sure = [window for window, p in right if p >= least]
    best, present = None, sorted(set(ids.tolist()))
    for window in sure:
        clean, answer = last_logits(model, window[:-1]), window[-1]
        edits = [(place, token) for place in range(length) for token in present if token != window[place]]
        rows = [[*window[:place], token, *window[place + 1 : -1]] for place, token in edits]
        for (place, _), row, logits in zip(edits, rows, last_logits_of(model, rows), strict=True):
            kind = 0 if place < length - AWAY else 1 if place < length - 1 else 2
            wrong = int(logits.argmax())
            if wrong != answer:
                diffs = float(clean[answer] - clean[wrong]), float(logits[answer] - logits[wrong])
                key = (kind, -min(diffs[0], -diffs[1]))
                if best is None or key < best[0]:
                    best = (key, window[:-1], row, answer, wrong, diffs, place)
    return best, len(sure)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_it_is_the_best_edit_of_all(tmp_path, seed):
    model = small_model(tmp_path, seed)
    ids = np.random.default_rng(seed).integers(0, 9, size=7 * N)
    best, tried = by_hand(model, ids, 6)
    assert 5 <= tried <= 48
    assert best is not None
    found = find_prompt_pair(model, torch.from_numpy(ids), seq_len=6, n=N)
    _, clean, corrupted, answer, wrong, diffs, place = best
    assert (found.clean.tolist(), found.corrupted.tolist()) == (clean, corrupted)
    assert (found.answer, found.wrong, found.positions) == (answer, wrong, (place,))
    assert (found.clean_logit_diff, found.corrupted_logit_diff) == pytest.approx(diffs, abs=1e-5)
    assert found.strength == pytest.approx(min(diffs[0], -diffs[1]), abs=1e-5)


@pytest.mark.parametrize("source", ["text", "own"])
def test_the_shipped_model_says_so_itself(source):
    model = load("shakespeare_char")
    text = "".join(c for c in shakespeare()[20_000:22_000] if c in CHARS) if source == "text" else None
    found = find_prompt_pair(model, text, n=64)
    clean, corrupted = (last_logits(model, row.tolist()) for row in (found.clean, found.corrupted))
    assert (int(clean.argmax()), int(corrupted.argmax())) == (found.answer, found.wrong)
    assert found.clean_logit_diff == pytest.approx(float(clean[found.answer] - clean[found.wrong]), abs=1e-4)
    assert found.corrupted_logit_diff == pytest.approx(
        float(corrupted[found.answer] - corrupted[found.wrong]), abs=1e-4
    )
    assert found.clean_logit_diff > 0 > found.corrupted_logit_diff
    assert (found.clean != found.corrupted).nonzero().flatten().tolist() == list(found.positions)
    assert "".join(found.clean_strings) == model.tokenizer.decode(found.clean.tolist())
    if text is not None:  # what it answers is what really follows
        assert "".join(found.clean_strings) + found.answer_string in text
        assert found.corrupted_strings[found.positions[0]] in text


def test_on_repeated_tokens_an_induction_model_is_moved_from_afar():
    """After ... [A][B] ... [A] the handmade model says [B]: only the first [A] or [B] decides, far from the end."""
    model = handmade_model()
    generator = torch.Generator().manual_seed(0)
    half = CONTEXT // 2
    once = torch.stack([torch.randperm(VOCAB, generator=generator)[:half] for _ in range(40)])
    rows = torch.cat([once, once], 1)
    length = half + 3  # the prompt ends with the third token of the second copy
    pairs = find_prompt_pairs(model, rows[:, : length + 1], k=5, seq_len=length, n=40)
    assert len(pairs) == 5
    for pair in pairs:
        first = pair.clean.tolist().index(int(pair.clean[-1]))
        assert pair.positions[0] in (first, first + 1)
        assert pair.answer == int(pair.clean[first + 1])


def test_pairs_come_from_different_windows_the_best_first(tmp_path):
    model = small_model(tmp_path, 0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 9, size=7 * N))
    pairs = find_prompt_pairs(model, ids, k=4, seq_len=6, n=N)
    assert len({tuple(pair.clean.tolist()) for pair in pairs}) == len(pairs) > 1

    def remoteness(pair):
        return 0 if pair.positions[0] < 6 - AWAY else 1 if pair.positions[0] < 5 else 2

    keys = [(remoteness(pair), -pair.strength) for pair in pairs]
    assert keys == sorted(keys)
    one = find_prompt_pair(model, ids, seq_len=6, n=N)
    assert one.how == pairs[0].how
    assert torch.equal(one.corrupted, pairs[0].corrupted)


def test_the_same_call_finds_the_same(tmp_path):
    model = small_model(tmp_path, 1)
    ids = torch.from_numpy(np.random.default_rng(5).integers(0, 9, size=3000))
    first, again = (find_prompt_pair(model, ids, seq_len=5, n=100, seed=4) for _ in range(2))
    assert torch.equal(first.corrupted, again.corrupted)
    assert first.strength == again.strength


def constant(folder):
    """A model that says token 3 whatever comes: its final norm has no weight, only a bias."""
    model = small_model(folder, 0)
    with torch.no_grad():
        model.ln_final.w.zero_()
        model.ln_final.b.copy_(10 * model.W_U[:, 3])
    assert int(last_logits(model, [0, 1]).argmax()) == 3
    return model


@pytest.mark.hooked
def test_where_nothing_changes_its_mind(tmp_path):
    model = constant(tmp_path)
    with pytest.raises(
        AnalysisError, match="no edit of one token changes the model's top prediction.*pair of your own"
    ):
        find_prompt_pair(model, torch.tensor([3, 1, 2, 3] * 40), seq_len=3)


@pytest.mark.hooked
def test_where_it_is_never_right(tmp_path):
    model = constant(tmp_path)
    with pytest.raises(NoPairFoundError, match="after none of 40 windows is the true next token") as caught:
        find_prompt_pair(model, torch.tensor([0, 1, 2, 4] * 40), seq_len=3)
    assert "n=" not in caught.value.reason
    with pytest.raises(AnalysisError, match="after none of 1 window is the true next token"):
        find_prompt_pair(model, torch.tensor([0, 1, 2, 4]), seq_len=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 1}, "seq_len is 1; expected 2 to 11"),
        ({"seq_len": 12}, "seq_len is 12; expected 2 to 11"),
        ({"seq_len": 4, "away": 4}, "away is 4; expected less than the prompt's 4"),
        ({"n": 0}, "n is 0"),
        (
            {"seq_len": 11, "corpus": torch.tensor([1, 2, 3])},
            "the corpus has 3 tokens; expected at least one window of 12",
        ),
        ({"corpus": torch.tensor([1, 2, 99] * 30)}, "token 99; expected ids from 0 to 8"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, options, message):
    model = small_model(tmp_path, 0)
    given = {"corpus": torch.arange(90) % 9} | options
    with pytest.raises(AnalysisError, match=message):
        find_prompt_pair(model, given.pop("corpus"), **given)
