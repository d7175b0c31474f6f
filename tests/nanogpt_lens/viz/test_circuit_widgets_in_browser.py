"""The circuit's widget in a real browser: what it draws and says is what the result has, by mouse and by keyboard."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nanogpt_lens.viz.style import LIGHT
from tests.browser import watched
from tests.hostile import HOSTILE
from tests.nanogpt_lens.viz.circuit_helpers import KEPT, NAMES, made
from tests.nanogpt_lens.viz.test_circuit_widgets import effects, values_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def opened(page, tmp_path, result, **options):
    page.open(result.widget(**options).save(tmp_path / "circuit.html"))
    return page.page


def rows(page):
    """The table: edges, as the page writes them, and their numbers."""
    lines = page.query_selector_all(".ngl-c tbody tr")
    return {line.query_selector("th").inner_text(): line.query_selector("td").inner_text() for line in lines}


def written(name):
    return name.replace("->", " → ")


def said(page):
    return page.inner_text(".ngl-c .said")


def node(page, name):
    return page.locator(".ngl-c .node", has=page.locator(f"text='{name}'"))


def test_the_circuit_then_the_first_by_rank_with_their_faithfulness(browser, tmp_path):
    circuit = made()
    with watched(browser) as opener:
        page = opened(opener, tmp_path, circuit)
        assert set(rows(page)) == {written(name) for name in KEPT}
        assert said(page) == f"The circuit: 3 of {len(NAMES)} edges, faithfulness 0.900"
        assert page.locator(".ngl-c .edge").count() == 3
        page.get_by_label("how many edges").focus()
        page.keyboard.press("ArrowLeft")
        assert said(page) == f"The first 2 of {len(NAMES)} edges, faithfulness −3.000"
        first = [name for _, name in sorted(zip(circuit.rank.tolist(), NAMES, strict=True))[:2]]
        assert list(rows(page)) == [written(name) for name in first]
        assert page.locator(".ngl-c .edge").count() == 2
        page.keyboard.press("End")
        assert page.locator(".ngl-c .edge").count() == len(NAMES)
        opener.check_silent()


def test_edges_that_help_are_teal(browser, tmp_path):
    """Of the circuit those without which the metric falls; of effects put in, those with which it rises."""
    colours = """() => Array.from(document.querySelectorAll('.ngl-c tbody tr'), (row) => [
        row.querySelector('td').innerText[0], getComputedStyle(row.querySelector('td')).color])"""
    teal, rust = (
        "rgb({}, {}, {})".format(*(int(LIGHT[c][i : i + 2], 16) for i in (1, 3, 5))) for c in ("teal", "rust")
    )
    put_in = replace(effects(values_of() - 2), direction="denoise")
    with watched(browser) as opener:
        opener.page.emulate_media(color_scheme="light")
        for result, helps in ((made(), "−"), (effects(values_of()), "−"), (put_in, "+")):
            found = opened(opener, tmp_path, result).evaluate(colours)
            assert {colour for sign, colour in found if sign == helps} == {teal}
            assert {colour for sign, colour in found if sign != helps} == {rust}
            lines = opener.page.evaluate(
                "Array.from(document.querySelectorAll('.ngl-c .edge'), (e) => getComputedStyle(e).stroke)"
            )
            assert sorted(lines) == sorted(colour for _, colour in found)
            assert opener.page.inner_text(".ngl-c .key").startswith("helps: ")
        opener.check_silent()


def test_a_node_shows_its_edges_by_mouse_and_stays_pinned(browser, tmp_path):
    with watched(browser) as opener:
        page = opened(opener, tmp_path, made())
        node(page, "1.0").hover()
        assert rows(page) == {"0.1 → 1.0.k": "−1", "1.0 → logits": "+0.25"}
        assert page.locator(".ngl-c .edge.on").count() == 2
        assert sorted(page.locator(".ngl-c .number").all_text_contents()) == ["+0.25", "−1"]
        page.mouse.move(2, 2)
        assert len(rows(page)) == 3
        node(page, "1.0").click()
        page.mouse.move(2, 2)
        assert len(rows(page)) == 2
        assert node(page, "1.0").get_attribute("aria-pressed") == "true"
        node(page, "1.0").click()
        page.mouse.move(2, 2)
        page.evaluate("document.activeElement.blur()")
        assert len(rows(page)) == 3
        opener.check_silent()


def test_a_walk_by_keyboard(browser, tmp_path):
    with watched(browser) as opener:
        page = opened(opener, tmp_path, made())
        page.get_by_label("number of edges").focus()
        page.keyboard.press("Tab")  # to the embedding, the first node
        for key in ("ArrowUp", "ArrowRight"):
            page.keyboard.press(key)
        assert "0.1: reads 1 edges, is read by 1" in page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert set(rows(page)) == {"embed → 0.1.v", "0.1 → 1.0.k"}
        page.keyboard.press("Enter")
        assert node(page, "0.1").get_attribute("aria-pressed") == "true"
        page.keyboard.press("Escape")
        page.keyboard.press("Tab")
        assert len(rows(page)) == 3
        opener.check_silent()


def test_a_position_is_chosen_by_its_token(browser, tmp_path):
    values = values_of(n_pos=3)
    values[5:, 2] = 0.0
    with watched(browser) as opener:
        page = opened(opener, tmp_path, effects(values, ["a", "b", "c"]), pos=0)
        for pos, token in enumerate("abc"):
            page.get_by_role("radio", name=f"position {pos}, {token}").click()
            shown = rows(page)
            order = values[:, pos].abs().argsort(descending=True).tolist()
            expected = [i for i in order if values[i, pos] != 0][: min(24, len(NAMES))]
            assert list(shown) == [written(NAMES[i]) for i in expected]
            signs = {written(NAMES[i]): "−" if values[i, pos] < 0 else "+" for i in expected}
            assert all(number[0] == signs[name] for name, number in shown.items())
            assert said(page).endswith(f"changed at position {pos} alone, {token}")
        assert said(page).startswith(f"5 of {len(NAMES)} effects are not 0")
        opener.check_silent()


def test_hostile_tokens_are_text(browser, tmp_path):
    tokens = list(HOSTILE)
    with watched(browser) as opener:
        page = opened(opener, tmp_path, effects(values_of(n_pos=len(tokens)), tokens))
        for pos in range(len(tokens)):
            page.locator(".ngl-c .strip button").nth(pos).click()
        assert page.locator(".ngl-c img, .ngl-c script, .ngl-c .strip b").count() == 0
        assert page.locator(".ngl-c .strip button").nth(3).inner_text() == "<b>bold</b>"
        opener.check_silent()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 760, 1400])
def test_it_fits_its_place_and_follows_the_theme(browser, tmp_path, width, scheme):
    with watched(browser, width=width) as opener:
        opener.page.emulate_media(color_scheme=scheme)
        page = opened(opener, tmp_path, effects(values_of(n_pos=2), ["a", "b"]))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        style = page.evaluate("(s => [s.backgroundColor, s.color])(getComputedStyle(document.querySelector('.ngl-c')))")
        dark = [sum(map(int, colour[4:-1].split(", "))) < 380 for colour in style]
        assert dark == ([True, False] if scheme == "dark" else [False, True])
        assert page.locator(".ngl-c .frame").is_visible() == (width > 500)  # a phone has the list alone
        assert page.locator(".ngl-c tbody tr").first.is_visible()
        table = "(t => t.scrollWidth <= t.parentElement.clientWidth)(document.querySelector('.ngl-c table'))"
        assert page.evaluate(table)
        opener.check_silent()


def test_a_notebooks_own_theme_is_taken(browser, tmp_path):
    with watched(browser) as opener:
        page = opened(opener, tmp_path, made())
        theme = "document.querySelector('.ngl-c').dataset.theme"
        page.evaluate("document.body.dataset.jpThemeLight = 'false'")
        page.wait_for_selector(".ngl-c[data-theme=dark]")
        page.evaluate("document.body.dataset.jpThemeLight = 'true'")
        page.wait_for_selector(".ngl-c[data-theme=light]")
        assert page.evaluate(theme) == "light"


def test_without_scripts_there_is_a_picture(browser, tmp_path):
    with watched(browser, scripts=False) as opener:
        opener.page.goto(made().widget().save(tmp_path / "circuit.html").as_uri())
        assert opener.page.locator("[data-ngl] svg path").count() == len(KEPT)


def test_values_of_zero_have_no_sign(browser, tmp_path):
    values = torch.zeros(len(NAMES), dtype=torch.float64)
    values[0] = -2.5
    with watched(browser) as opener:
        page = opened(opener, tmp_path, effects(values))
        assert rows(page) == {written(NAMES[0]): "−2.5"}
        opener.check_silent()
