"""The first screen and the dark in a real browser."""

from __future__ import annotations

import re
from types import SimpleNamespace

import plotly.graph_objects as go
import pytest

from nanogpt_lens.reporting.blocks import Paragraph, Picture
from nanogpt_lens.reporting.face import Face
from nanogpt_lens.reporting.looks import looks_of
from nanogpt_lens.reporting.page import page
from nanogpt_lens.reporting.section import Section
from nanogpt_lens.reporting.worth import grid_of
from nanogpt_lens.viz import style
from tests.browser import watched
from tests.nanogpt_lens.reporting.test_report_face import worth

pytestmark = pytest.mark.slow  # a browser that draws takes minutes

LONG = "It opens with a sentence that is long enough to be broken on a telephone, more than once, with no word lost."


def figure():
    """One of our figures: a heat map with a token that is called like a colour."""
    made = go.Figure(go.Heatmap(z=[[0.0, 1.0]], colorscale=style.stops(style.SEQUENTIAL), zmin=0, zmax=1))
    style.template()
    made.update_layout(template=style.TEMPLATE, title="#1c2230", height=300)
    return made


def document(n_layers, n_heads, folder):
    """A page with a grid of so many heads, and one section with a figure."""
    heads = [[0.03 * (i + j) for j in range(n_heads)] for i in range(n_layers)]
    made = worth(heads, [0.4] * n_layers)
    body = (
        Paragraph(text="#1c2230 is a text."),
        Picture(picture=figure(), caption="How.", label="a map", says="A map."),
    )
    section = Section(key="one", title="One", reading="R.", status="done", commands=("x",), body=body, findings=(LONG,))
    face = Face(picture=grid_of(made, None, "a text"), looks=looks_of(made, [section]))
    front = Section(key="summary", title="First", reading="R.", status="done", commands=("y",), body=(face,))
    html = page(
        name="a_model_with_a_long_name", title="t", status="proven", tone="good", sections=[front, section],
        size="some layers", proof=(Paragraph(text="unfolded"),),
    )  # fmt: skip
    file = folder / f"{n_layers}_{n_heads}.html"
    file.write_text(html, encoding="utf-8", newline="")
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    return SimpleNamespace(
        one=document(1, 1, folder),
        usual=document(4, 4, folder),
        large=document(12, 12, folder),
        huge=document(48, 25, folder),
    )


def colour(page, selector, what="backgroundColor"):
    return page.page.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")


def brightness(rgb):
    return sum(map(float, re.findall(r"[\d.]+", rgb)[:3])) / 3


@pytest.mark.parametrize("width", [360, 760, 1280])
@pytest.mark.parametrize("name", ["one", "usual", "large", "huge"])
def test_the_grid_fits_the_screen(browser, files, name, width):
    with watched(browser, width=width) as opened:
        opened.page.goto(getattr(files, name).as_uri())
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        inside = opened.page.evaluate(
            "[...document.querySelectorAll('.grid button')].every((b) => b.getBoundingClientRect().right <= innerWidth"
            " && b.getBoundingClientRect().width >= 4)"
        )
        assert inside
        cut = "[...document.querySelectorAll('.grid b, .grid i')].filter((e) => e.offsetParent && e.checkVisibility("
        cut += "{visibilityProperty: true}) && e.scrollWidth > e.closest('button').clientWidth).length"
        assert opened.page.evaluate(cut) == 0
        opened.check_silent()


def test_the_arrow_keys_read_every_part(browser, files):
    with watched(browser, width=1280) as opened:
        page = opened.page
        page.goto(files.usual.as_uri())
        assert page.locator(".grid button[tabindex='0']").count() == 1
        page.locator(".grid button").first.focus()
        assert page.locator(".readout").inner_text().startswith("Head 3.0: the loss rises by 0.090 (")
        page.keyboard.press("ArrowRight")
        assert page.locator(".readout").inner_text().startswith("Head 3.1")
        page.keyboard.press("ArrowDown")
        assert page.locator(".readout").inner_text().startswith("MLP 3")
        page.locator(".grid .mlp").last.hover()
        assert page.locator(".readout").inner_text().startswith("MLP 0")
        opened.check_silent()


def test_the_button_makes_it_dark_and_figures_are_drawn_again(browser, files):
    with watched(browser, width=1280) as opened:
        page = opened.page
        opened.open(files.usual)
        page.locator("[data-kind=plotly] .main-svg").first.wait_for()
        title = page.locator("[data-kind=plotly] .gtitle").first
        assert title.evaluate("(e) => getComputedStyle(e).fill") == "rgb(28, 34, 48)"
        assert brightness(colour(opened, "body")) > 200
        page.locator("#theme").click()
        assert brightness(colour(opened, "body")) < 60
        ink = tuple(int(style.DARK["ink"][i : i + 2], 16) for i in (1, 3, 5))
        page.wait_for_function(
            "(ink) => getComputedStyle(document.querySelector('[data-kind=plotly] .gtitle')).fill === ink",
            arg=f"rgb{ink}",
        )
        assert title.text_content() == "#1c2230"  # a text that looks like a colour stays
        dark = page.evaluate("document.querySelector('[data-kind=plotly]').data[0].colorscale.map((s) => s[1])")
        assert dark == [style.DARK_OF[light] for light in style.SEQUENTIAL]
        page.locator("#theme").click()
        assert brightness(colour(opened, "body")) > 200
        opened.check_silent()


def test_it_follows_the_system_with_and_without_scripts(browser, files):
    for scripts in (True, False):
        with watched(browser, width=1280, scripts=scripts) as opened:
            opened.page.emulate_media(color_scheme="dark")
            opened.page.goto(files.usual.as_uri())
            assert brightness(colour(opened, "body")) < 60
            assert brightness(colour(opened, ".say", "color")) > 180


def test_words_on_every_cell_can_be_read(browser, files):
    """At least 4.5 to 1 in both themes, as the page really paints them."""
    measure = """() => {
      const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
      const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      const luminance = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      return Math.min(...[...document.querySelectorAll('.grid button')].map((button) => {
        const { backgroundColor, color } = getComputedStyle(button);
        const [low, high] = [luminance(backgroundColor), luminance(color)].sort((p, q) => p - q);
        return (high + 0.05) / (low + 0.05);
      }));
    }"""
    with watched(browser, width=1280) as opened:
        opened.page.goto(files.large.as_uri())
        assert opened.page.evaluate(measure) >= 4.5
        opened.page.locator("#theme").click()
        assert opened.page.evaluate(measure) >= 4.5


def test_the_certificate_unfolds_and_closes(browser, files):
    for width in (1280, 360):
        with watched(browser, width=width) as opened:
            page = opened.page
            page.goto(files.usual.as_uri())
            assert not page.locator(".proof-card").is_visible()
            page.locator(".proof-frame summary").click()
            box = page.locator(".proof-card").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            page.keyboard.press("Escape")
            assert not page.locator(".proof-card").is_visible()
