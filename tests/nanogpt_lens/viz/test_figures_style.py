"""Colours that people with a colour deficiency tell apart; scales that are white at zero."""

from __future__ import annotations

import json
import re
from itertools import combinations, pairwise

import numpy as np
import pytest

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
from nanogpt_lens.viz.shades import contrast, dark, in_the_dark, letters_on, shade
from tests.hostile import HOSTILE, plain

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB
DEFICIENCIES = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", [*DEFICIENCIES, None])
def test_the_first_lines_are_told_apart(deficiency):
    """CIE76 distances: 10 is plainly another colour; the two that most figures use are far apart."""
    seen = np.eye(3) if deficiency is None else np.array(DEFICIENCIES[deficiency])
    colours = [lab(seen @ linear(colour)) for colour in style.CATEGORIES]
    distance = {(i, j): np.linalg.norm(a - b) for (i, a), (j, b) in combinations(enumerate(colours), 2)}
    assert distance[0, 1] > 45
    assert min(distance[i, i + 1] for i in range(len(colours) - 1)) > 15
    assert min(distance.values()) > 8


@pytest.mark.parametrize("colour", style.CATEGORIES)
def test_lines_are_seen_on_white(colour):
    luminance = float(XYZ[1] @ linear(colour))
    assert 1.05 / (luminance + 0.05) > 2.0


def test_more_lines_than_colours_differ_by_their_dashes():
    n = len(style.CATEGORIES) * len(style.DASHES)
    assert len({(style.colour_of(i), style.dash_of(i)) for i in range(n)}) == n
    assert style.colour_of(n) == style.CATEGORIES[0]


def test_colour_scales():
    signed = style.colours(-0.5, 2.0, signed=True)
    assert (signed["cmin"], signed["cmid"], signed["cmax"]) == (-2.0, 0.0, 2.0)
    away = style.colours(-0.5, 2.0, signed=True, falls_helps=True)
    assert away == {**signed, "colorscale": style.stops(style.DIVERGING[::-1])}
    assert away["colorscale"][0][1] == style.HELPS == style.TEAL
    blue, amber = style.stops(style.SEQUENTIAL), style.stops(style.COST)
    assert style.colours(0.2, 0.9, signed=False) == {"colorscale": blue, "cmin": 0.0, "cmax": 0.9}
    assert style.colours(0.2, 0.9, signed=False, cost=True) == {"colorscale": amber, "cmin": 0.0, "cmax": 0.9}
    assert style.colours(-5.0, -1.0, signed=False) == {"colorscale": blue, "cmin": -5.0, "cmax": 0.0}
    for nothing in (0.0, float("nan")):
        for sign in (True, False):
            scale = style.colours(nothing, nothing, signed=sign)
            assert scale["cmin"] < scale["cmax"]


@pytest.mark.parametrize(("chance", "low", "high"), [(0.02, 0, 1), (0.5, 0, 1), (0.3, 0, 1), (0.0, -1, 1), (0.9, 0, 1)])
def test_a_score_is_white_at_chance_and_as_pale_below_as_above(chance, low, high):
    axis = style.beside_chance(chance, low=low, high=high)
    assert (axis["cmin"], axis["cmax"]) == (low, high)
    places = [place for place, _ in axis["colorscale"]]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0.0, 1.0)
    assert all(colour in style.DARK_OF for _, colour in axis["colorscale"])

    def at(value: float) -> np.ndarray:
        return lab(linear(shade(axis["colorscale"], (value - low) / (high - low))))

    white = lab(np.ones(3))
    assert np.linalg.norm(at(chance) - white) < 1
    far = min(chance - low, high - chance)
    if far > 0.1:  # the same distance has about the same lightness
        assert abs(at(chance - 0.7 * far)[0] - at(chance + 0.7 * far)[0]) < 9
    assert np.linalg.norm(at(high if high - chance > chance - low else low) - white) > 45


def test_the_end_of_a_scale_without_a_bound_is_round_and_leaves_noise_pale():
    assert [style.readable_end(x) for x in (0.022, 0.05, 3.0, 0.0, float("nan"))] == [0.05, 0.05, 5.0, 1.0, 1.0]
    assert style.readable_end(0.022, noise=0.02) == 0.1


def test_scales_are_white_at_nothing_even_in_their_steps_and_missing_is_none_of_their_colours():
    grey = np.array([int(style.MISSING[i : i + 2], 16) for i in (1, 3, 5)])
    for in_dark in (False, True):
        for scale, middle in ((style.SEQUENTIAL, 0), (style.COST, 0), (style.DIVERGING, 6)):
            assert scale[middle] == "#ffffff"
            seen = [lab(linear(style.DARK_OF[c] if in_dark else c)) for c in scale]
            steps = [np.linalg.norm(a - b) for a, b in pairwise(seen)]
            assert max(steps) < 1.9 * min(steps)
            lightness = [colour[0] for colour in seen[middle:]]
            assert lightness == sorted(lightness, reverse=not in_dark)
            if not in_dark:
                shades = [shade(style.stops(scale), share) for share in np.linspace(0, 1, 101)]
                assert (
                    min(np.abs(np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) - grey).max() for c in shades) > 10
                )
    assert style.DIVERGING[0] == style.RUST
    assert style.DIVERGING[-1] == style.TEAL


@pytest.mark.parametrize("scale", [style.SEQUENTIAL, style.COST, style.DIVERGING])
def test_letters_are_read_on_every_shade_in_light_and_in_dark(scale):
    for share in np.linspace(0, 1, 301):
        cells = [shade(style.stops(scale), share, dark=in_dark) for in_dark in (False, True)]
        ink = letters_on(*cells)
        for cell, letters in zip(cells, (ink, in_the_dark(ink)), strict=True):
            a, b = sorted(float(XYZ[1] @ linear(colour)) for colour in (cell, letters))
            assert (b + 0.05) / (a + 0.05) > 4.45, (share, cell, letters)


def test_the_palette_is_whole_and_words_are_read_on_its_papers():
    assert style.LIGHT.keys() == style.DARK.keys()
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for pair in style.DARK_OF.items() for colour in pair)
    assert len(set(style.LIGHT.values())) == len(style.LIGHT)
    assert json.loads(json.dumps(style.DARK_OF)) == style.DARK_OF
    for palette in (style.LIGHT, style.DARK):
        for words in ("ink", "muted", "good", "bad", "accent"):
            for paper in ("paper", "page", "cell"):
                assert contrast(palette[words], palette[paper]) > 4.4, (words, paper)


def test_a_dark_figure_has_the_same_data_in_other_colours():
    import plotly.graph_objects as go

    style.template()
    light = go.Figure(go.Heatmap(z=[[0.0, 1.0]], x=["#ffffff", "b"], coloraxis="coloraxis", name="#1c2230"))
    light.update_layout(template=style.TEMPLATE, coloraxis=style.colours(0, 1, signed=False), plot_bgcolor="#123456")
    light.add_scatter(x=[1], y=[2], fillcolor=style.faint(style.ACCENT, 0.2), line_color=style.INK)
    made = dark(light)
    assert light.layout.coloraxis.colorscale[0][1] == "#ffffff"
    assert [c for _, c in made.layout.coloraxis.colorscale] == [style.DARK_OF[c] for c in style.SEQUENTIAL]
    assert list(made.data[0].x) == ["#ffffff", "b"]
    assert made.data[0].name == "#1c2230"
    assert made.layout.plot_bgcolor == "#123456"
    assert made.data[1].fillcolor == style.DARK["accent"] + "33"
    assert made.data[1].line.color == style.DARK["ink"]
    assert made.layout.template.layout.paper_bgcolor == style.DARK["paper"]
    assert made.layout.template.layout.font.color == style.DARK["ink"]
    assert dark(made).to_json() == made.to_json()


def test_broken_text_keeps_every_character_and_is_no_html():
    for token in HOSTILE:
        words = f"a {token} b"
        lines = style.broken(words, 20)
        assert "<img" not in lines
        assert "".join(plain(lines).replace("<br>", "").split()) == "".join(words.split())


def test_faint_colours():
    assert style.faint("#0072b2", 0.2) == "#0072b233"


def test_a_drawing_says_what_is_around_it():
    import plotly.graph_objects as go

    assert Drawing(figure=go.Figure(), title="t").definition is None
