"""Every widget in a real browser: it draws what the numbers say, answers the mouse, and runs nothing that is hidden
in a token."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.results import AttentionPatterns
from nanogpt_lens.viz import widgets
from nanogpt_lens.viz.colours import MASKED, POSITIVE, ramp
from nanogpt_lens.viz.page import document
from nanogpt_lens.viz.style import LIGHT
from tests.browser import n_colours, pixels, watched
from tests.hostile import HOSTILE, plain
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

pytestmark = pytest.mark.slow  # a browser that draws takes minutes

TEXT = "ROMEO:\nBut"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("model"))


def patterns(values, tokens):
    size = values.shape[-1]
    return AttentionPatterns(
        values=values,
        axes=("layer", "head", "dest_pos", "src_pos"),
        quantity="attention probability",
        definition="made up",
        labels={"dest_pos": tuple(tokens), "src_pos": tuple(tokens)},
        tokens=torch.arange(size),
    )


def random_patterns(heads, size, tokens=None, seed=0):
    noise = torch.randn(1, heads, size, size, generator=torch.Generator().manual_seed(seed)) * 2
    masked = noise.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf)
    return patterns(masked.softmax(-1), tokens or [chr(97 + i % 26) for i in range(size)])


def page_of(tmp_path, shown, name="page.html"):
    body = "".join(w.with_caption(f"w-{i}") for i, w in enumerate(shown))
    file = tmp_path / name
    file.write_text(document(title="widgets", body=body, libraries=("circuitsvis",)), newline="")
    return file


def painted(page):
    """The elements with a background of their own, and what it is."""
    spans = page.query_selector_all("[data-ngl] span")
    backs = [(span, span.evaluate("e => getComputedStyle(e).backgroundColor")) for span in spans]
    return [(span, back) for span, back in backs if back.startswith("rgb(")]


def all_widgets(model):
    found = ngl.search_neurons(model, play(600), k=4, window=6, progress=False)
    activations = ngl.get_neuron_activations(model, TEXT)
    lens = ngl.logit_lens(model, TEXT)
    attention = ngl.attention_patterns(model, TEXT)
    return {
        "AttentionHeads": attention.widget(),
        "AttentionPattern": attention.widget(kind="attention_pattern", layer=1, head=1),
        "attention": attention.widget(engine="canvas"),
        "ColoredTokens": ngl.widgets.colored_tokens(model, TEXT),
        "ColoredTokensMulti": lens.widget(kind="loss_by_point"),
        "TokenLogProbs": lens.widget(),
        "TextNeuronActivations": activations.widget(),
        "TopkTokens": activations.widget(kind="topk_tokens"),
        "TopkSamples": found.widget(),
    }


class TestDrawing:
    def test_every_widget_draws_without_a_word(self, browser, model, tmp_path):
        shown = all_widgets(model)
        assert [w.component for w in shown.values()] == list(shown)
        with watched(browser, height=6000) as page:
            page.open(page_of(tmp_path, shown.values()))
            for i, name in enumerate(shown):
                block = page.page.query_selector(f"[data-ngl=w-{i}]")
                assert n_colours(pixels(block)) > 30, name
                assert block.query_selector("img") is None, name  # the static picture gave way
            page.check_silent()

    @pytest.mark.parametrize("engine", ["circuitsvis", "canvas"])
    def test_the_cells_have_the_colours_of_the_values(self, browser, tmp_path, engine):
        """Thumbnails have no axes: cell (d, s) of T is the (d, s) part of the picture."""
        theirs = engine == "circuitsvis"  # which mixes blue with white in another space, and has a grey of its own
        near, masked = (24, (200, 200, 200)) if theirs else (12, MASKED)
        result = random_patterns(3, 5, seed=3)
        with watched(browser, width=1200) as page:
            page.open(page_of(tmp_path, [result.widget(engine=engine)]))
            page.page.wait_for_timeout(300)
            thumbnails = page.page.query_selector_all("[data-ngl] canvas")
            table = ramp(POSITIVE).astype(int)
            for head in range(3):
                picture = pixels(thumbnails[head]).astype(int)
                height, width, _ = picture.shape
                for d in range(1, 5):  # the head's name lies over the upper right
                    for s in range(d + 1):
                        seen = picture[int((d + 0.5) * height / 5), int((s + 0.5) * width / 5)]
                        want = table[round(float(result.values[0, head, d, s]) * 255)]
                        assert np.abs(seen - want).max() <= near, (engine, head, d, s, seen, want)
                seen = picture[int(2.5 * height / 5), int(4.5 * width / 5)]
                assert np.abs(seen - masked).max() <= 3
            page.check_silent()

    def test_a_text_is_coloured_by_its_values(self, browser, tmp_path):
        shown = widgets.colored_tokens(["a", "b", "c", "d"], [2.0, -1.0, 0.0, 1.0])
        with watched(browser) as page:
            page.open(page_of(tmp_path, [shown]))
            backs = [back for _, back in painted(page.page)]
            colours = [tuple(map(int, re.findall(r"\d+", back)[:3])) for back in backs]
            teal, rust = (tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in (LIGHT["teal"], LIGHT["rust"]))
            half = [pytest.approx(tuple((255 + part) / 2 for part in colour), abs=16) for colour in (teal, rust)]
            assert colours == [teal, half[1], (255, 255, 255), half[0]]
            page.check_silent()

    def test_the_static_picture_is_there_without_scripts(self, browser, model, tmp_path):
        shown = all_widgets(model)
        with watched(browser, scripts=False, height=4000) as page:
            page.page.goto(page_of(tmp_path, shown.values()).as_uri())
            for i, name in enumerate(shown):
                assert n_colours(pixels(page.page.query_selector(f"[data-ngl=w-{i}]"))) > 15, name
            assert page.said == []

    def test_the_static_heat_map_has_the_values(self, browser, tmp_path):
        result = random_patterns(1, 6, seed=5)
        with watched(browser, scripts=False) as page:
            page.page.goto(page_of(tmp_path, [result.widget()]).as_uri())
            picture = pixels(page.page.query_selector("img")).astype(int)
            table, size = ramp(POSITIVE).astype(int), picture.shape[0]
            for d in range(6):
                for s in range(6):
                    seen = picture[int((d + 0.5) * size / 6), int((s + 0.5) * size / 6)]
                    want = MASKED if s > d else table[round(float(result.values[0, 0, d, s]) * 255)]
                    assert np.abs(seen - want).max() <= 4

    def test_a_phone_has_no_sideways_scroll(self, browser, model, tmp_path):
        big = random_patterns(12, 64).widget()
        with watched(browser, width=360, height=5000) as page:
            page.open(page_of(tmp_path, [*all_widgets(model).values(), big]))
            page.page.wait_for_timeout(200)
            wide = page.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360
            page.check_silent()


class TestMouse:
    @pytest.mark.parametrize("engine", ["circuitsvis", "canvas"])
    def test_hover_shows_a_head_and_click_locks_it(self, browser, tmp_path, engine):
        result = random_patterns(4, 6)
        with watched(browser) as page:
            page.open(page_of(tmp_path, [result.widget(engine=engine)]))
            heads = page.page.query_selector_all("[data-ngl] canvas")

            def zoomed():
                return page.page.locator("[data-ngl] h3").last.inner_text()

            assert zoomed() == "0.0 Zoomed"
            heads[2].hover()
            assert zoomed() == "0.2 Zoomed"
            page.page.mouse.move(2, 2)
            assert zoomed() == "0.0 Zoomed"
            heads[3].click()
            page.page.mouse.move(2, 2)
            assert zoomed() == "0.3 Zoomed"
            page.check_silent()

    def test_the_canvas_says_the_value_under_the_mouse(self, browser, tmp_path):
        result = random_patterns(2, 8, seed=9)
        with watched(browser, height=1400) as page:
            page.open(page_of(tmp_path, [result.widget(engine="canvas")]))
            page.page.query_selector_all("[data-ngl] canvas")[1].click()
            canvas = page.page.query_selector_all("[data-ngl] canvas")[-1]
            box = canvas.bounding_box()
            seen = {}
            for y in np.arange(0.02, 0.9, 0.045):
                for x in np.arange(0.08, 1, 0.045):
                    page.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
                    said = page.page.locator("[role=status]").text_content()
                    if found := re.match(r"\((\d), (\d)\)\nSrc: (.)\nDest: (.)\nVal: ([\d.]+)", said):
                        d, s = int(found[1]), int(found[2])
                        assert (found[3], found[4]) == (chr(97 + s), chr(97 + d))
                        seen[d, s] = float(found[5])
            assert len(seen) == 36  # every cell on and below the diagonal
            for (d, s), value in seen.items():
                assert value == pytest.approx(float(result.values[0, 1, d, s]), abs=0.008)
            page.check_silent()

    def test_a_focused_token_colours_the_others(self, browser, tmp_path):
        result = random_patterns(1, 6, seed=2)
        with watched(browser, height=1400) as page:
            page.open(page_of(tmp_path, [result.widget(engine="canvas")]))
            spans = page.page.query_selector_all("[data-ngl] div[style*=pre-wrap] span")
            table = ramp(POSITIVE).astype(int)

            def colours():
                backs = [span.evaluate("e => getComputedStyle(e).backgroundColor") for span in spans]
                return [[int(n) for n in re.findall(r"\d+", back)[:3]] for back in backs]

            spans[4].click()
            page.page.mouse.move(2, 2)
            values = result.values[0, 0]
            want = [table[round(float(v) * 255)] for v in values[4]]
            assert np.abs(np.array(colours()) - want).max() <= 2
            page.page.select_option("[data-ngl] select", "to")
            want = [table[round(float(v) * 255)] for v in values[:, 4]]
            assert np.abs(np.array(colours()) - want).max() <= 2
            page.check_silent()

    def test_log_probs_name_the_likeliest_tokens(self, browser, model, tmp_path):
        lens = ngl.logit_lens(model, TEXT)
        with watched(browser, height=1200) as page:
            page.open(page_of(tmp_path, [lens.widget()]))
            painted(page.page)[2][0].hover()
            page.page.wait_for_selector("[data-ngl] table")
            rows = page.page.locator("[data-ngl] table").first.inner_text()
            probability = 100 * float(lens.values[-1, -1, 2].exp())
            assert f"{probability:.2f}%" in rows
            for logprob in lens.top_logprobs[-1, -1, 2].tolist():
                assert f"{logprob:.3f}" in rows
            page.check_silent()


class TestHostileTokens:
    def test_nothing_runs_and_everything_is_recognisable(self, browser, model, tmp_path):
        tokens = list(HOSTILE)
        n = len(tokens)
        values = torch.linspace(-1, 1, n)
        attention = random_patterns(2, n, tokens)
        activations = ngl.get_neuron_activations(model, torch.arange(5))
        activations = type(activations)(
            values=torch.randn(1, 6, n),
            axes=activations.axes,
            quantity="<b>q</b>",
            definition="<i>d</i>",
            labels={"layer": ("0",), "neuron": tuple(map(str, range(6))), "pos": tuple(tokens)},
        )
        shown = [
            attention.widget(engine="circuitsvis"),
            attention.widget(engine="canvas"),
            widgets.colored_tokens(tokens, values, caption="<img/src=x/onerror=window.pwned=1>"),
            widgets.colored_tokens_multi(tokens, torch.stack([values, -values], 1), [tokens[0], tokens[1]]),
            activations.widget(),
            activations.widget(kind="topk_tokens", k=n),
            attention.widget(kind="attention_pattern"),
        ]
        with watched(browser, height=8000) as page:
            page.open(page_of(tmp_path, shown))
            for i in (1, 2, 3, 4):
                text = plain(page.page.locator(f"[data-ngl=w-{i}]").text_content())
                for token, seen in HOSTILE.items():
                    assert seen[:6] in text, (i, token)
            for span in page.page.query_selector_all("[data-ngl=w-2] span")[:6]:
                span.hover()
            page.check_silent()

    def test_without_scripts_as_well(self, browser, tmp_path):
        tokens = list(HOSTILE)
        shown = [random_patterns(2, len(tokens), tokens).widget(), widgets.colored_tokens(tokens, [1.0] * len(tokens))]
        with watched(browser, scripts=False) as page:
            page.page.goto(page_of(tmp_path, shown).as_uri())
            for i in (0, 1):
                text = page.page.locator(f"[data-ngl=w-{i}]").text_content()
                for token, seen in HOSTILE.items():
                    assert seen[:6] in text, (i, token)
            assert page.page.query_selector("[data-ngl] script, [data-ngl] svg, [data-ngl] b") is None

    def test_the_policy_is_a_second_wall(self, browser, tmp_path):
        """What escapes are for, put in on purpose: neither runs, nor fetches."""
        evil = (
            '<script>window.pwned=1</script><img src="https://example.com/x.png"><img src=x onerror="window.pwned=1">'
        )
        file = tmp_path / "evil.html"
        shown = widgets.colored_tokens(["a"], [1.0]).block("w-0")
        file.write_text(document(title="t", body=evil + shown, libraries=("circuitsvis",)), newline="")
        with watched(browser) as page:
            page.open(file)
            assert page.page.evaluate("window.pwned") is None
            assert any("Content Security Policy" in said for said in page.said)
            assert page.page.evaluate("document.images[0].naturalWidth") == 0
