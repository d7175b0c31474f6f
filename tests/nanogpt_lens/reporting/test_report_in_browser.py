"""The report in a real browser, without a network: everything draws, nothing is said or fetched, contents and search
work, a phone needs no sideways scroll, and hostile tokens run nothing."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from tests.browser import n_colours, pixels, watched
from tests.hostile import HOSTILE, plain
from tests.nanogpt_lens.reporting.report_helpers import hostile, small, text

pytestmark = pytest.mark.slow  # a browser that draws takes minutes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of a small random model."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "input.txt").write_text(text(4000))
    pair = {"clean": "ROMEO: w", "corrupted": "ROMEA: w", "answer": "h", "wrong": "a"}  # random weights need one
    report = ngl.report(small(folder / "model"), corpus=folder / "input.txt", progress=False, **pair)
    assert {s.key for s in report.failed} <= {"patching"}
    return report.save(folder / "report.html")


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A report of a model whose tokens, folder and text try to run something."""
    folder = tmp_path_factory.mktemp("evil")
    model = hostile(folder / "<img src=x onerror=window.pwned=1>")
    ids = torch.randint(25, (4000,), generator=torch.Generator().manual_seed(0))
    report = ngl.report(model, corpus=ids, progress=False)
    assert {s.key for s in report.failed} <= {"patching"}
    return report.save(folder / "report.html")


def test_every_figure_and_widget_draws(browser, made):
    with watched(browser, width=1280) as page:
        page.page.goto(made.as_uri())
        page.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        page.mount_all()
        blocks = page.page.query_selector_all("[data-ngl]")
        assert len(blocks) >= 10
        for block in blocks:
            block.scroll_into_view_if_needed()
            assert n_colours(pixels(block)) > 12, block.get_attribute("data-ngl")
            box = block.bounding_box()
            assert box["width"] > 300
            assert box["height"] > 30
        page.check_silent()


def test_only_what_comes_into_view_is_mounted_until_it_is_printed(browser, made):
    with watched(browser, width=1280, height=700) as page:
        page.page.goto(made.as_uri())
        page.page.wait_for_timeout(1500)
        waiting = page.page.locator("[data-ngl]:not([data-state])").count()
        assert waiting > 3
        page.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        page.page.wait_for_selector("[data-ngl]:not([data-state=ready])", state="detached", timeout=60_000)
        assert page.page.locator("details:not([open])").count() == 0
        page.check_silent()


def test_the_contents_lead_to_every_section(browser, made):
    with watched(browser, width=1280) as page:
        page.open(made)
        links = page.page.query_selector_all(".toc a")
        assert len(links) == page.page.locator("main section[id]").count() >= 9
        for link in links:
            link.click()
            page.page.wait_for_timeout(250)
            target = page.page.query_selector(link.get_attribute("href"))
            top = target.bounding_box()["y"]
            at_end = page.page.evaluate("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
            assert -5 <= top < 120 or at_end
        page.check_silent()


@pytest.mark.parametrize("width", [1280, 360])
def test_the_table_of_neurons_searches_sorts_and_opens_with_the_keyboard_alone(browser, made, width):
    with watched(browser, width=width) as page:
        page.open(made)
        rows, count = page.page.locator(".neuron-table .all .row"), page.page.locator("#neuron-count")
        rows.first.wait_for()
        assert count.inner_text() == "128 neurons"
        assert 5 < rows.count() < 60, "rows are drawn where one looks"
        assert page.page.locator(".neurons").is_hidden()
        apart = [text.split(" ")[0] for text in rows.locator("[role=gridcell].class").all_text_contents()]
        assert all(text == "–" or 0.5 < float(text) <= 1 for text in apart)
        keys = page.page.keyboard
        keys.press("/")
        keys.type("1.3")
        names = [name.removeprefix("▸").strip() for name in rows.locator(".name").all_inner_texts()]
        assert names
        assert all(name.startswith("1.3") for name in names)
        assert count.inner_text() == f"{len(names)} of 128 neurons by that number"
        keys.press("Enter")
        card = page.page.locator("#neuron-open")
        card.wait_for()
        assert "Where it is highest" in card.inner_text()
        box = card.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        keys.press("Escape")
        assert page.page.locator("#neuron-open").count() == 0
        page.page.locator("#neuron-search").fill("romeo")
        assert "have that in an excerpt" in count.inner_text()
        page.page.locator("#neuron-search").fill("no such text anywhere")
        assert rows.count() == 0
        page.page.locator("#neuron-search").press("Escape")
        assert count.inner_text() == "128 neurons"
        page.page.locator("#neuron-sort").evaluate("(e) => { e.value = 'peak'; e.dispatchEvent(new Event('change')); }")
        peaks = [float(text.replace("−", "-")) for text in rows.locator("[role=gridcell].peak").all_text_contents()]
        assert peaks == sorted(peaks, reverse=True)
        assert len(set(peaks)) > 5
        page.page.locator(".neuron-table .rows").focus()
        keys.press("End")
        page.page.wait_for_function("document.querySelector('.neuron-table .row.active').dataset.at === '127'")
        page.check_silent()


def test_hover_says_the_value_of_a_cell(browser, made):
    with watched(browser, width=1280) as page:
        page.open(made)
        plot = page.page.locator("[data-kind=plotly]:has(.heatmaplayer)").first
        plot.scroll_into_view_if_needed()
        cell = plot.locator(".nsewdrag").first
        box = cell.bounding_box()
        page.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.6)
        page.page.mouse.move(box["x"] + box["width"] * 0.31, box["y"] + box["height"] * 0.6)
        page.page.wait_for_selector(".hoverlayer text", timeout=5000)
        assert any(c.isdigit() for c in plot.locator(".hoverlayer").first.text_content())
        page.check_silent()


@pytest.mark.parametrize("width", [360, 768])
def test_no_sideways_scroll_on_a_small_screen(browser, made, width):
    with watched(browser, width=width, height=760) as page:
        page.open(made)
        page.page.wait_for_timeout(300)
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        if width == 360:
            assert page.page.locator(".toc details").get_attribute("open") is None
            page.page.locator(".toc summary").click()
            page.page.locator(".toc a").nth(3).click()
            assert page.page.evaluate("scrollY") > 100
        page.check_silent()


def test_it_reads_without_scripts(browser, made):
    with watched(browser, scripts=False) as page:
        page.page.goto(made.as_uri())
        words = page.page.locator("main").inner_text()
        for title in ("Certificate of equality", "Induction", "Neurons"):
            assert title in words
        assert page.page.locator("details.proof-frame summary").is_visible()
        assert page.page.locator(".noscript").is_visible()
        assert page.said == []


def test_hostile_tokens_run_nothing_and_are_recognisable(browser, evil):
    with watched(browser, width=1280) as page:
        page.open(evil)
        for plot in page.page.query_selector_all("[data-kind=plotly] .nsewdrag"):
            plot.scroll_into_view_if_needed()
            box = plot.bounding_box()
            for share in (0.2, 0.8):
                page.page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])
        shown = plain(page.page.locator("body").inner_text())
        assert "<img src=x onerror=window.pwned=1>" in shown
        seen = sum(piece[:8] in shown for piece in HOSTILE.values())
        assert seen >= len(HOSTILE) - 4  # the empty token and the lone surrogate are in no vocabulary
        assert page.page.locator("main b:text('bold'), main svg[onload], main img[onerror]").count() == 0
        page.check_silent()
