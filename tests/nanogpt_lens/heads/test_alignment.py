"""Attention to classes, against loops; and heads that are functions of distance, of characters, or of a class."""

from __future__ import annotations

import re

import pytest
import torch

from nanogpt_lens.core.shifts import shifted_p
from nanogpt_lens.heads.alignment import Classes, aligned, by_distance
from nanogpt_lens.heads.odds import Contrasts
from nanogpt_lens.heads.syntax import fields_of


def classes_and_attention(seed, *, n=6, n_pos=9, heads=2):
    """Random tokens, classes and attention, of no particular kind."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, (n, n_pos), generator=generator)
    to = torch.rand(3, n, n_pos, n_pos - 1, generator=generator) < torch.tensor([0.1, 0.3, 0.6])[:, None, None, None]
    scores = torch.randn(n, heads, n_pos, n_pos, generator=generator, dtype=torch.float64)
    pattern = scores.masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -torch.inf).softmax(-1)
    return tokens, to, pattern


def test_every_number_is_that_of_a_loop():
    tokens, to, pattern = classes_and_attention(0)
    n, n_pos = tokens.shape
    classes = Classes.of(tokens, to)
    found = aligned(by_distance(pattern), classes)
    flat = to.flatten(1, 2)
    for c in range(3):
        for h in range(2):
            for shift in range(n * n_pos):
                total = queries = 0
                for t in range(n * n_pos):
                    (e, i), moved = divmod(t, n_pos), flat[c, (t + shift) % (n * n_pos)]
                    backs = [back for back in range(1, i + 1) if moved[back - 1]]
                    total += sum(float(pattern[e, h, i, i - back]) for back in backs)
                    queries += bool(backs)
                assert float(found.shifted[c, h, shift]) == pytest.approx(total / max(queries, 1), abs=1e-12)
            assert float(found.attention[c, h].mean()) == pytest.approx(float(found.shifted[c, h, 0]), abs=1e-12)
            sums = (found.shifted * classes.shifted_queries[:, None])[c, h].mean()
            base = float(sums / classes.shifted_queries[c].mean())
            assert float(found.by_distance[c, h].mean()) == pytest.approx(base, abs=1e-12)


def test_beyond_is_that_of_a_loop():
    tokens, to, pattern = classes_and_attention(1)
    classes = Classes.of(tokens, to)
    found = aligned(by_distance(pattern), classes)
    seen = [(e, i, back) for e in range(6) for i in range(9) for back in range(1, i + 1)]

    def kind(e, i, back):
        return int(tokens[e, i]), int(tokens[e, i - back]), back

    for c in range(3):
        mine = [place for place in seen if to[c, place[0], place[1], place[2] - 1]]
        for h in range(2):
            paid = {place: float(pattern[place[0], h, place[1], place[1] - place[2]]) for place in seen}
            total = weight = 0.0
            for one in {kind(*place) for place in mine}:
                alike = [place for place in seen if kind(*place) == one]
                inside = [place for place in alike if place in mine]
                outside = [place for place in alike if place not in mine]
                if outside:
                    difference = sum(paid[p] for p in inside) / len(inside) - sum(paid[p] for p in outside) / len(
                        outside
                    )
                    share = len(inside) * len(outside) / len(alike)
                    total, weight = total + share * difference, weight + share
            queries = {(e, i) for e, i, _ in mine}
            expected = total / weight * len(mine) / len(queries)
            assert float(found.beyond[c, h].mean()) == pytest.approx(expected, abs=1e-12)
            assert float(classes.tellable[c].sum()) == pytest.approx(weight, abs=1e-9)


WORDS = ["the", "lord", "and", "a", "noble", "queen", "of", "england", "will", "come", "again", "to", "see", "thou"]


def prose(n, n_pos, seed):
    """Sequences of words in random order, and of each place how many tokens back the first letter of its word is."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randint(len(WORDS), (n * n_pos,), generator=generator).tolist()
    text = " ".join(WORDS[i] for i in order)[: n * n_pos]
    tokens = torch.tensor([ord(char) - 32 for char in text]).view(n, n_pos)
    start = torch.zeros(n * n_pos, dtype=torch.long)
    for word in re.finditer(r"\w+", text):
        for i in range(word.start() + 1, word.end()):
            start[i] = i - word.start()
    is_start = torch.tensor([char != " " and before == " " for before, char in zip(f" {text}", text, strict=False)])
    back = torch.arange(1, n_pos)
    own = start.view(n, n_pos)[..., None] == back
    at = torch.arange(n * n_pos).view(n, n_pos)[..., None] - back
    anywhere = is_start[at.clamp(min=0)] & (at >= 0)
    return tokens, torch.stack([own, anywhere])


def softmax(scores):
    n_pos = scores.shape[-1]
    return scores.masked_fill(torch.ones(n_pos, n_pos).triu(1).bool(), -torch.inf).softmax(-1)


def measured(pattern, tokens, to):
    classes = Classes.of(tokens, to)
    attention = by_distance(pattern)
    prefers = Contrasts.of(tokens, classes).preference(attention[:, :, classes.seen].flatten(1))
    return fields_of([aligned(attention, classes)], prefers, classes, pattern.shape[1])


N, N_POS = 48, 32


def distances():
    return torch.arange(N_POS)[:, None] - torch.arange(N_POS)


def test_a_head_of_distance_alone_attends_to_no_class():
    """It looks one token back, and so at a first letter from every second one: the base rate says the same."""
    tokens, to = prose(N, N_POS, 0)
    pattern = softmax(
        torch.stack([6.0 * (distances() == 1), -0.3 * distances().abs(), 4.0 * (distances() == 5)]).double()
    )
    found = measured(pattern.expand(N, -1, -1, -1), tokens, to)
    assert found["values"][0, 0, 0] > 0.25  # of its own word's first letter
    assert (found["values"] - found["chance"]).abs().max() < 0.03
    assert found["p_shifted"].min() > 0.05
    assert found["sure_above"].max() < 0
    assert found["beyond"].abs().max() < 0.02  # where there are few keys, those at a distance get more


def test_false_alarms_of_heads_of_distance_and_noise():
    """Independent noise beside distance: the largest of two classes and three heads is below 5% about as often."""
    alarms = []
    for seed in range(60):
        tokens, to = prose(24, 24, seed)
        scores = torch.randn(24, 3, 24, 24, generator=torch.Generator().manual_seed(seed)).double()
        back = torch.arange(24)[:, None] - torch.arange(24)
        found = measured(softmax(scores - 0.2 * back), tokens, to)
        alarms.append(bool((found["p_shifted"] < 0.05).any()))
        assert found["sure_above"].max() < 0.05
    assert sum(alarms) <= 8  # of 3 expected, this or fewer in 99 of 100


def test_a_head_of_characters_is_above_distance_and_not_beyond_characters():
    """It looks at "t" and "l" wherever they stand, or at spaces."""
    tokens, to = prose(N, N_POS, 1)
    likes = torch.stack([(tokens == ord("t") - 32) | (tokens == ord("l") - 32), tokens == 0], 1)
    pattern = softmax((5.0 * likes[:, :, None]).expand(-1, -1, N_POS, -1).double())
    found = measured(pattern, tokens, to)
    assert found["sure_above"][1, 0, 0] > 0.05
    assert found["p_shifted"][1, 0, 0] < 0.05
    assert found["beyond_sure"].max() < 0.02


def test_a_head_that_attends_to_a_class_is_found_by_both():
    tokens, to = prose(N, N_POS, 2)
    before = distances() > 0
    to_keys = to[:, :, torch.arange(N_POS)[:, None], (distances() - 1).clamp(min=0)] & before
    found = measured(softmax(4.0 * to_keys.transpose(0, 1).double()), tokens, to)
    for head in range(2):
        assert found["preference"][head, 0, head] == pytest.approx(4.0, abs=0.05)
        assert found["p_shifted"][head, 0, head] < 0.05
        assert found["sure_above"][head, 0, head] > 0.2
        assert found["beyond_sure"][head, 0, head] > 0.2


def test_p_counts_shifts_of_a_sequence_and_more():
    tokens, to, pattern = classes_and_attention(2)
    found = aligned(by_distance(pattern), Classes.of(tokens, to))
    assert shifted_p(found.shifted, 8)[1].sum() == 54 - 2 * 8 + 1


def test_a_preference_is_that_of_least_squares():
    tokens, to, pattern = classes_and_attention(3, n=4, n_pos=12)
    classes = Classes.of(tokens, to)
    contrasts = Contrasts.of(tokens, classes)
    pairs = by_distance(pattern)[:, :, classes.seen].flatten(1)
    found = contrasts.preference(pairs).mean(-1)
    seen = [(e, i, back) for e in range(4) for i in range(12) for back in range(1, i + 1)]
    same = [(e, i, int(tokens[e, i - back])) for e, i, back in seen]
    kind = [(int(tokens[e, i]), int(tokens[e, i - back]), back) for e, i, back in seen]
    columns = [
        torch.tensor([[float(one == name) for name in sorted(set(of))] for one in of], dtype=torch.float64)
        for of in (same, kind)
    ]
    for c in range(3):
        inside = torch.tensor([[float(to[c, e, i, back - 1])] for e, i, back in seen], dtype=torch.float64)
        design = torch.cat([inside, *columns], 1)
        for h in range(2):
            solved = torch.linalg.pinv(design) @ pairs[h].log()
            assert float(found[c, h]) == pytest.approx(float(solved[0]), abs=0.01)


def test_competition_looks_like_a_class_and_is_no_preference():
    """A head that looks at spaces, the nearer the better, goes to the space before its own word, and knows no word."""
    tokens, _ = prose(N, N_POS, 4)
    back = torch.arange(1, N_POS)
    space = tokens == 0
    own = torch.zeros(N, N_POS, N_POS - 1, dtype=torch.bool)
    for i in range(1, N_POS):
        before = space[:, :i].flip(-1)
        nearest = before.float().argmax(-1) + 1
        own[:, i] = (nearest[:, None] == back) & before.any(-1, keepdim=True)
    scores = 5.0 * space[:, None, None] - 0.4 * distances()
    found = measured(softmax(scores.expand(-1, 1, N_POS, -1).double()), tokens, own[None])
    assert found["beyond_sure"].min() > 0.1
    assert found["preference"].abs().max() < 0.01
