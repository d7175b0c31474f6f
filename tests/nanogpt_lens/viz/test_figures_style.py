"""Colours that people with a colour deficiency tell apart; scales that are white at zero."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures.drawing import Drawing
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
    assert style.colours(0.2, 0.9, signed=False) == {"colorscale": style.SEQUENTIAL, "cmin": 0.0, "cmax": 0.9}
    assert style.colours(-5.0, -1.0, signed=False) == {"colorscale": style.SEQUENTIAL, "cmin": -5.0, "cmax": 0.0}
    for nothing in (0.0, float("nan")):
        for sign in (True, False):
            scale = style.colours(nothing, nothing, signed=sign)
            assert scale["cmin"] < scale["cmax"]


def test_the_ends_of_the_scales_are_pale_at_zero_and_missing_is_none_of_their_colours():
    from plotly.colors import get_colorscale, sample_colorscale

    def rgb(text: str) -> np.ndarray:
        return np.array([float(part) for part in text[4:-1].split(",")])

    grey = np.array([int(style.MISSING[i : i + 2], 16) for i in (1, 3, 5)])
    assert rgb(sample_colorscale(style.SEQUENTIAL, [0.0])[0]).min() > 245
    assert rgb(sample_colorscale(style.DIVERGING, [0.5])[0]).min() > 245
    for name in (style.SEQUENTIAL, style.DIVERGING):
        assert get_colorscale(name)
        shades = [rgb(text) for text in sample_colorscale(name, np.linspace(0, 1, 201).tolist())]
        assert min(np.abs(shade - grey).max() for shade in shades) > 10
    negative, positive = (rgb(sample_colorscale(style.DIVERGING, [end])[0]) for end in (0.0, 1.0))
    assert negative.argmax() == 0
    assert positive.argmax() == 2


def test_broken_text_keeps_every_character_and_is_no_html():
    for token in HOSTILE:
        words = f"a {token} b"
        lines = style.broken(words, 20)
        assert "<img" not in lines
        assert "".join(plain(lines).replace("<br>", "").split()) == "".join(words.split())


def test_faint_colours():
    assert style.faint("#0072b2", 0.2) == "rgba(0,114,178,0.2)"


def test_a_drawing_says_what_is_around_it():
    import plotly.graph_objects as go

    assert Drawing(figure=go.Figure(), title="t").definition is None
