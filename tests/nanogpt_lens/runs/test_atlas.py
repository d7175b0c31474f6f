"""When edges appear: on curves whose onset is known, and against the change points of single curves."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.core.intervals import t_interval
from nanogpt_lens.results import CircuitAtlas, Trajectory, load_result
from nanogpt_lens.runs.atlas import circuit_atlas, fewest_moments
from nanogpt_lens.runs.change_points import find_change_point

STEPS = tuple(range(0, 3200, 200))
NAN = float("nan")


def effects(curves, *, n=24, noise=0.05, seed=0):
    """A trajectory of edges with these mean effects; each prompt has them with noise, and more or less of them."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.stack([curves[name] for name in curves], 1).double()
    shape = (*mean.shape, n)
    scale = 1 + 0.2 * torch.randn(n, generator=generator, dtype=torch.float64)
    each = mean[..., None] * scale + noise * torch.randn(shape, generator=generator, dtype=torch.float64)
    low, high = t_interval(each)
    return Trajectory(
        values=each.mean(-1),
        axes=("step", "edge"),
        labels={"step": tuple(map(str, STEPS)), "edge": tuple(curves)},
        quantity="effect on the logit difference",
        definition="made by hand",
        per_example=each,
        low=low,
        high=high,
        files=tuple(f"ckpt_{step}.pt" for step in STEPS),
    )


def rise(half, height=1.0, width=60.0):
    return height * torch.sigmoid((torch.tensor(STEPS).double() - half) / width)


ZERO = torch.zeros(len(STEPS))
CURVES = {
    "embed->0.0.v": rise(700),
    "0.0->mlp0": rise(750, -2.0),
    "embed->0.1.v": ZERO,
    "0.1->mlp0": rise(1700, -1.5),
    "mlp0->1.0.k": rise(1750, 0.8),
    "1.0->logits": rise(2250, 3.0),
    "mlp0->logits": rise(400) - rise(1400),  # comes and goes
    "embed->logits": 1.0 - rise(1500),  # only goes
}
TRUE = {"embed->0.0.v": 700, "0.0->mlp0": 750, "0.1->mlp0": 1700, "mlp0->1.0.k": 1750, "1.0->logits": 2250}


@pytest.fixture(scope="module")
def made():
    return effects(CURVES)


@pytest.fixture(scope="module")
def atlas(made):
    return circuit_atlas(made)


def test_the_edges_that_appear_are_those_that_rise_or_fall_for_good(atlas):
    assert isinstance(atlas, CircuitAtlas)
    assert atlas.order == tuple(sorted(TRUE, key=TRUE.__getitem__))
    assert set(atlas.order_of_changes) == set(TRUE)
    assert atlas.faded == ("mlp0->logits",)
    assert atlas.diminished == ("embed->logits",)
    assert atlas.p_value[atlas.formed].max() < 0.05 < atlas.p_value[2]


def test_intervals_hold_the_half_way_points(atlas):
    for edge, true in TRUE.items():
        half, low, high = atlas.half_of(edge)
        assert low <= true <= high
        assert abs(half - true) < 100
        onset = float(atlas.onset[atlas.edges.index(edge)])
        assert onset < half
    assert torch.isnan(atlas.half[2])


def test_an_edge_is_its_own_change_point(atlas, made):
    """Against the change point of the single curve, which is another call, towards the side that is known here."""
    for edge in TRUE:
        i = made.labels["edge"].index(edge)
        direction = "fall" if CURVES[edge][-1] < 0 else "rise"
        alone = find_change_point(made, edge=edge, direction=direction, looked_at=(), permutations=20_000)
        assert (float(atlas.half[i]), float(atlas.onset[i])) == (float(alone.values[1]), float(alone.values[0]))
        assert (float(atlas.half_low[i]), float(atlas.half_high[i])) == (float(alone.low[1]), float(alone.high[1]))
        n = atlas.n_curves
        assert float(atlas.p_drift[i]) == pytest.approx(1 - (1 - alone.p_drift) ** n, rel=1e-6)
        assert float(atlas.p_noise[i]) == pytest.approx(1 - (1 - alone.p_noise) ** n, rel=1e-6)


def test_the_curves_looked_at_are_those_that_could_appear(made):
    spread = made.values.amax(0) - made.values.amin(0)
    for least in (0.1, 0.9, 2.5):
        assert circuit_atlas(made, least=least).n_curves == 2 * int((spread >= least).sum())
    assert circuit_atlas(made, least=50.0).order == ()


def test_the_order_of_the_edges_does_not_matter(atlas, made):
    names = list(CURVES)[::-1]
    other = circuit_atlas(_reversed(made, names))
    assert other.order == atlas.order
    assert other.groups == atlas.groups


def _reversed(found, names):
    flipped = {name: getattr(found, name).flip(1) for name in ("values", "low", "high", "per_example")}
    return replace(found, **flipped, labels={**found.labels, "edge": tuple(names)})


def test_edges_come_together_by_their_intervals(atlas):
    early, late = atlas.groups[0], atlas.groups[-1]
    assert set(early) == {"embed->0.0.v", "0.0->mlp0"}
    assert "1.0->logits" in late
    assert atlas.surely_before("embed->0.0.v", "1.0->logits")
    assert not atlas.surely_before("embed->0.0.v", "0.0->mlp0")
    assert not atlas.surely_before("embed->0.1.v", "0.0->mlp0")  # has not appeared
    i, j, k = (atlas.edges.index(edge) for edge in ("embed->0.0.v", "0.0->mlp0", "1.0->logits"))
    assert atlas.moving_together[i, j] > 0.9 > 0.5 > atlas.moving_together[i, k]
    same, different = atlas.togetherness()
    assert same > different


def test_moving_together_by_hand(atlas):
    i, j = (atlas.edges.index(edge) for edge in ("0.0->mlp0", "mlp0->1.0.k"))
    one, other = -atlas.values[:, i].diff(), atlas.values[:, j].diff()
    assert float(atlas.moving_together[i, j]) == pytest.approx(float(torch.corrcoef(torch.stack([one, other]))[0, 1]))


def in_common(low, high, places):
    return max(low[i] for i in places) < min(high[i] for i in places) or len(places) == 1


SHRINKING = {
    "embed->0.0.v": 2.0 - rise(700, 2.0),  # gone
    "embed->0.1.v": 2.0 - rise(700, 1.5),  # smaller
    "0.0->mlp0": rise(700, 1.5) - 2.0,
    "embed->logits": 2.0 - rise(700, 2.05),  # gone, and a little beyond
    "0.1->mlp0": 2.0 - rise(700, 0.09),  # by less than counts
    "mlp0->1.0.k": 2.0 - rise(700, 1.5) + rise(2000, 1.5),  # back again
    "mlp0->mlp1": 2.0 - rise(700, 2.0) + rise(2950, 1.9, width=10.0),  # back again at the last stage
    "mlp0->logits": 0.2 + rise(400, 1.8) - rise(1400, 1.9),  # comes and goes
    "1.0->logits": 2.0 - rise(700, 4.0),  # to the other side
}


def test_what_shrinks_for_good_has_shrunk_and_has_not_come():
    """Against what was drawn, and the verdict of each single curve towards zero."""
    made = effects(SHRINKING)
    atlas = circuit_atlas(made)
    names = tuple(SHRINKING)
    assert atlas.diminished == names[:4]
    assert atlas.faded == ("mlp0->logits",)
    assert atlas.order_of_changes == ("1.0->logits",)
    for edge in names[:7]:
        direction = "rise" if SHRINKING[edge][0] < 0 else "fall"
        alone = find_change_point(made, edge=edge, direction=direction, looked_at=(), permutations=2000)
        assert alone.formed == (edge in atlas.diminished)
    assert "; 4 shrank for good; 1 came and went" in atlas.sentence()
    assert atlas.table().set_index("edge")["shrunk"].sum() == 4


def test_what_is_not_sure_has_not_shrunk():
    """Half of the prompts shrink by much, and half grow by a little less."""
    made = effects({"embed->0.0.v": 2.0 - rise(700, 0.2), "0.0->mlp0": ZERO})
    assert circuit_atlas(made).diminished == ("embed->0.0.v",)
    way = rise(700)[:, None] * torch.tensor([1.0, -1.0]).repeat(12)
    each = made.per_example.clone()
    each[:, 0] += way
    low, high = t_interval(each)
    spread = replace(made, per_example=each, low=low, high=high, values=each.mean(-1))
    assert circuit_atlas(spread).diminished == ()


@pytest.mark.parametrize("seed", range(20))
def test_no_fewer_moments_are_enough(seed):
    """Against all ways of giving six intervals to fewer groups, and the disjoint intervals that forbid it."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 12, (6,), generator=generator).double()
    high = low + torch.randint(1, 6, (6,), generator=generator)
    group, spans = fewest_moments(low, high)
    n = len(spans)
    for i in range(n):
        members = (group == i).nonzero()[:, 0].tolist()
        assert in_common(low, high, members)
        assert (float(low[members].max()), float(high[members].min())) == tuple(spans[i].tolist())
    for ways in product(range(n - 1), repeat=6):
        sets = [[i for i in range(6) if ways[i] == g] for g in range(n - 1)]
        assert not all(in_common(low, high, places) for places in sets if places)
    assert any(
        all(not in_common(low, high, pair) for pair in combinations(some, 2)) for some in combinations(range(6), n)
    )


def test_moments_of_none_and_of_touching_intervals():
    group, spans = fewest_moments(torch.tensor([NAN, NAN]), torch.tensor([NAN, NAN]))
    assert (group.tolist(), list(spans.shape)) == ([-1, -1], [0, 2])
    group, spans = fewest_moments(torch.tensor([0.0, NAN, 5.0, 3.0]), torch.tensor([5.0, NAN, 9.0, 5.0]))
    assert (group.tolist(), spans.tolist()) == ([0, -1, 1, 0], [[3.0, 5.0], [5.0, 9.0]])


@pytest.mark.slow
def test_noise_and_drift_do_not_appear():
    """40 sets of 20 edges of noise, and of random walks, that have nothing else in them."""
    generator = torch.Generator().manual_seed(5)
    found = 0
    for i in range(40):
        steps = torch.randn(len(STEPS), 20, generator=generator, dtype=torch.float64)
        curves = steps if i % 2 else steps.cumsum(0)
        made = effects({f"0.{e}->mlp0": curves[:, e] for e in range(20)}, n=4, noise=0.01, seed=i)
        found += bool(circuit_atlas(made, permutations=2000).formed.any())
    assert found <= 6  # 2 are expected at a level of 5%


def test_it_is_kept_and_read(atlas, tmp_path):
    again = load_result(atlas.save(tmp_path / "atlas"))
    assert isinstance(again, CircuitAtlas)
    assert again.table().equals(atlas.table())
    assert (again.sentence(), again.files) == (atlas.sentence(), atlas.files)
    table = atlas.table()
    assert list(table["edge"][: len(TRUE)]) == list(atlas.order)
    assert len(atlas.to_dataframe()) == len(STEPS) * len(CURVES)


def test_sentences(atlas, made):
    assert "of 8 edges 5 change for good, 5 in a transition: first embed->0.0.v, half-way at" in atlas.sentence()
    assert atlas.sentence().endswith("moments; 1 shrank for good; 1 came and went")
    assert circuit_atlas(made, least=50.0).sentence() == "of 8 edges 0 change for good, and none in a transition"
    assert atlas.sentence() in repr(atlas)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"per_example": None}, "not known prompt by prompt"),
        ({"axes": ("step", "head")}, "with the axes step, head was given; expected the effects of every edge"),
    ],
)
def test_what_is_no_trajectory_of_edges_is_refused(made, change, said):
    labels = {"labels": {"step": made.labels["step"]}} if "axes" in change else {}
    with pytest.raises(AnalysisError, match=said):
        circuit_atlas(replace(made, **change, **labels))
    with pytest.raises(AnalysisError, match="a str was given"):
        circuit_atlas("induction")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": 2}, "level is 2; expected a probability"),
        ({"permutations": 100}, "permutations is 100, too few to tell among"),
        ({"level": 0}, "level is 0; expected a probability"),
        ({"least": -1}, "least is -1; expected a number, 0 or more"),
        ({"least": NAN}, "least is nan; expected a number, 0 or more"),
    ],
)
def test_bad_options(made, options, said, monkeypatch):
    monkeypatch.setattr("nanogpt_lens.runs.atlas.find_change_point", None)  # before any of it
    with pytest.raises(AnalysisError, match=said):
        circuit_atlas(made, **options)


def test_no_such_edge(atlas):
    with pytest.raises(ResultError, match="the label '9.9->mlp0' of the axis 'edge' is not there"):
        atlas.half_of("9.9->mlp0")
