"""PNG and SVG files, drawn by a real Chromium; and clear words where there is none."""

from __future__ import annotations

import builtins
import html
import io
import os
import threading
import time
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.results import Scores
from nanogpt_lens.viz import export, style
from nanogpt_lens.viz.export import find_browser, one_browser, to_png, to_svg
from nanogpt_lens.viz.figures import figure
from tests.browser import chromium

pytestmark = pytest.mark.slow  # a browser that draws

browser = pytest.mark.browser


@pytest.fixture(scope="module")
def real_browser():
    """Skips, or fails with REQUIRE_BROWSER=1, where there is none; one for all tests."""
    chromium()
    with one_browser():
        yield


def scores() -> Scores:
    values = torch.tensor([[1.0, 0.0], [-1.0, float("nan")]])
    return Scores(values=values, axes=("layer", "head"), quantity="score, -1 to 1", definition="made by hand " * 20)


def image(path: Any) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)


def n_colours(picture: np.ndarray) -> int:
    return len(np.unique(picture.reshape(-1, 3), axis=0))


@browser
def test_cells_have_the_colours_of_their_values(real_browser, tmp_path):
    """1 is teal, -1 rust, 0 white, nan grey: at their places; and likewise in the dark."""
    made = scores()
    drawn = figure(made, width=600)
    for dark, palette in ((False, style.LIGHT), (True, style.DARK)):
        path = made.to_png(tmp_path / "deep" / f"heads{dark}.png", width=600, scale=1, dark=dark)
        picture = image(path)
        assert picture.shape[1] == 600
        assert n_colours(picture) > 50
        margin, height = drawn.layout.margin, picture.shape[0]
        bottom = height - (to_height(drawn, 600).layout.margin.b)
        left, right, top = margin.l, 600 - margin.r, margin.t
        found = {}
        for layer in (0, 1):
            for head in (0, 1):
                x = left + (right - left) * (0.5 * head + 0.1)
                y = bottom - (bottom - top) * (0.5 * layer + 0.1)
                found[layer, head] = picture[int(y), int(x)]
        for place, name in (((0, 0), "teal"), ((1, 0), "rust"), ((0, 1), "paper"), ((1, 1), "missing")):
            want = [int(palette[name][i : i + 2], 16) for i in (1, 3, 5)]
            assert np.abs(found[place] - want).max() < 4, (dark, name)


def to_height(drawn: go.Figure, width: int) -> go.Figure:
    from nanogpt_lens.viz.figures import captioned

    return captioned(go.Figure(drawn), width)


@browser
def test_size_scale_and_caption(real_browser, tmp_path):
    made = scores()
    narrow, wide = (image(to_png(made, tmp_path / f"{width}.png", width=width, scale=1)) for width in (360, 760))
    assert narrow.shape[0] > wide.shape[0], "the caption has more lines"
    twice = image(to_png(made, tmp_path / "twice.png", width=360))
    assert twice.shape[:2] == (2 * narrow.shape[0], 720)
    low = image(to_png(figure(made), tmp_path / "low.png", width=500, height=420, scale=1))
    assert low.shape[:2] == (420, 500)
    plain = image(to_png(go.Figure(go.Bar(y=[1, 2])), tmp_path / "plain.png", scale=1))
    assert plain.shape[:2] == (420, 760)


@browser
def test_svg_is_text_that_runs_nothing(real_browser, tmp_path):
    made = Scores(
        values=torch.tensor([[1.0, 2.0]]),
        axes=("layer", "head"),
        quantity="<img/src=x/onerror=alert(1)>",
        definition="</svg><script>alert(1)</script> & more",
    )
    text = to_svg(made, tmp_path / "heads.svg").read_text("utf-8")
    assert text.startswith("<svg")
    assert "<script" not in text
    assert "<img" not in text
    assert "script>alert(1)" in html.unescape(text).replace("\u2060", "")


@browser
def test_a_failed_drawing_leaves_the_old_file(real_browser, tmp_path, monkeypatch):
    path = to_png(scores(), tmp_path / "kept.png")
    before = path.read_bytes()
    monkeypatch.setattr(export._Browser, "draw", lambda *_: (_ for _ in ()).throw(AnalysisError("no")))
    with pytest.raises(AnalysisError):
        to_png(scores(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@browser
@pytest.mark.slow
def test_one_browser_is_started_once_and_ended(tmp_path, monkeypatch):
    chromium()
    if export._open is not None:  # the module's: this test wants its own
        monkeypatch.setattr(export, "_open", None)
    started = []
    original = export._Browser.__init__
    monkeypatch.setattr(export._Browser, "__init__", lambda self, t: (started.append(1), original(self, t))[1])
    with one_browser():
        opened: Any = export._open
        for i in range(3):
            to_svg(scores(), tmp_path / f"{i}.svg")
    assert len(started) == 1
    assert export._open is None
    assert opened.browser.subprocess.poll() is not None, "the browser runs on"
    assert not opened.thread.is_alive()


@pytest.mark.parametrize("options", [{"width": 0}, {"height": "tall"}, {"scale": float("nan")}, {"width": True}])
def test_sizes_out_of_range(tmp_path, options):
    with pytest.raises(AnalysisError, match="expected a number of pixels"):
        to_png(go.Figure(), tmp_path / "x.png", **{"width": 300, **options} if "width" not in options else options)


def test_what_is_no_figure_or_no_place_for_a_picture(tmp_path):
    import nanogpt_lens as ngl

    widget = ngl.attention_patterns(ngl.load("shakespeare_char"), "ROMEO:").widget()
    expected = "expected a figure of Plotly or a result"
    given: list[tuple[Any, str]] = [
        (3, f"^a int was given; {expected}$"),
        ({"data": []}, f"^a dict was given; {expected}$"),
        (
            widget,
            f"^a Widget was given; {expected}; a widget has .to_png\\(\\) itself, and .save\\(\\) for an HTML page$",
        ),
    ]
    for wrong, sentence in given:
        with pytest.raises(AnalysisError, match=sentence):
            to_png(wrong, tmp_path / "x.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(AnalysisError, match=r"folder.png is a folder; expected the path of a file"):
        to_png(scores(), tmp_path / "folder.png")
    for name in ("x.jpg", "x", "x.svg"):
        with pytest.raises(AnalysisError, match=rf"{name} does not end in .png; expected such a name"):
            to_png(scores(), tmp_path / name)
    with pytest.raises(AnalysisError, match=r"x.png does not end in .svg"):
        to_svg(scores(), tmp_path / "x.png")
    with pytest.raises(AnalysisError, match=r"^path is 5; expected the path of a .png file$"):
        to_png(scores(), 5)  # type: ignore[arg-type]
    assert [left.name for left in tmp_path.iterdir()] == ["folder.png"]


@browser
def test_a_folder_that_cannot_be_made(real_browser, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisError, match="was not written .* expected a path that can be written$"):
        to_png(scores(), tmp_path / "file" / "x.png")


@browser
def test_a_wide_picture_has_a_long_title_in_one_line(real_browser, tmp_path):
    title = "How far each head's output may be replaced before the loss rises"
    text = to_svg(figure(scores(), title=title), tmp_path / "x.svg").read_text("utf-8")
    assert title in html.unescape(text)
    narrow = to_svg(figure(scores(), title=title), tmp_path / "y.svg", width=360).read_text("utf-8")
    assert title not in html.unescape(narrow)


def test_without_kaleido(tmp_path, monkeypatch):
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "kaleido":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(export, "_open", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AnalysisError, match="need kaleido, which is not installed; `pip install kaleido`"):
        to_png(scores(), tmp_path / "x.png")


def program(folder: Any, text: str) -> str:
    file = folder / "browser"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_a_browser_that_hangs_is_given_up_and_ended(tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setattr(export, "_open", None)
    note = tmp_path / "pid"
    monkeypatch.setenv("CHROMIUM", program(tmp_path, f"echo $$ > {note}; exec sleep 600"))
    start, threads = time.monotonic(), set(threading.enumerate())
    with (
        pytest.raises(AnalysisError, match=r"did not start within 1 seconds.*apt-get install chromium"),
        one_browser(timeout=1),
    ):
        pass
    assert time.monotonic() - start < 30
    pid = int(note.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("it runs on")
    assert "nanogpt-lens pictures" not in {thread.name for thread in set(threading.enumerate()) - threads}


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_a_browser_that_ends_at_once(tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setattr(export, "_open", None)
    monkeypatch.setenv("CHROMIUM", program(tmp_path, "exit 1"))
    with pytest.raises(AnalysisError, match="did not start"):
        to_png(scores(), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_where_the_browser_is_looked_for(tmp_path, monkeypatch):
    own = program(tmp_path, "exit 0")
    monkeypatch.setenv("BROWSER_PATH", own)
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert find_browser() == own
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nowhere"))
    with pytest.raises(AnalysisError, match=r"CHROMIUM=.*nowhere is no program"):
        find_browser()
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.delenv("BROWSER_PATH")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
    (tmp_path / "browser").rename(tmp_path / "google-chrome")
    assert find_browser() == str(tmp_path / "google-chrome")


def test_options_of_a_result_are_its_plots_and_a_figure_has_none(tmp_path):
    with pytest.raises(AnalysisError, match="kind was given with a Figure"):
        to_png(figure(scores()), tmp_path / "a.png", kind="bars")
    with pytest.raises(ResultError, match="has no option 'colour'"):
        scores().to_svg(tmp_path / "a.svg", colour="red")


@browser
def test_a_widget_is_drawn_too(real_browser, tmp_path):
    from nanogpt_lens.viz.token_widgets import colored_tokens as coloured

    picture = image(
        coloured(["a", "b", "c"], [1.0, -1.0, 0.0]).to_png(tmp_path / "w.png", width=400, height=200, scale=1)
    )
    assert picture.shape == (200, 400, 3)
    teal, rust = ([int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (style.TEAL, style.RUST))
    for colour in (teal, rust):
        assert (np.abs(picture - colour).max(-1) < 4).any()


def test_a_widget_without_a_browser_says_so(tmp_path, monkeypatch):
    from nanogpt_lens.viz.token_widgets import colored_tokens as coloured

    monkeypatch.setattr(export, "find_browser", lambda: None)
    with pytest.raises(AnalysisError, match="no browser to draw with; install Chromium"):
        coloured(["a"], [1.0]).to_png(tmp_path / "w.png")
