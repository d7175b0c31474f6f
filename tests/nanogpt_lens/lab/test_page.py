"""The lab's page in Chromium, as a visitor uses it: by mouse, by keyboard, by link, in a notebook's cell."""

from __future__ import annotations

import base64
import json

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.lab.bundle import module_source
from tests.browser import watched
from tests.hostile import HOSTILE
from tests.making import CHARS, content, write, write_meta
from tests.nanogpt_lens.lab.lab_helpers import exact, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TEXT = "document.querySelector('.nanogpt-lens-lab').shadowRoot.textContent"
SIZES = {"n_layer": 2, "n_head": 3, "n_embd": 21, "block_size": 13}
PROMPT = {"clean": "the king", "other": "the duke", "answer": "s"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a model")
    write(folder, seed=5, **SIZES)
    write_meta(folder)
    return folder


@pytest.fixture(scope="module")
def file(folder):
    return ngl.lab(folder, findings=False, prompts=[PROMPT]).save(folder / "lab.html")


@pytest.fixture
def page(browser, file):
    with watched(browser, width=1280) as opened:
        opened.page.goto(file.as_uri())
        opened.page.evaluate("() => window.lab.proof")
        close = opened.page.get_by_role("button", name="Close")
        if close.count():
            close.first.click()
        yield opened.page
        opened.check_silent()


def part(page, name):
    return page.get_by_role("button", name=name).first


def stack(page):
    state = page.evaluate("() => window.lab.state()")
    return [item["intervention"] for item in state["stacks"][state["active"]] if item["on"]]


def percent(logits, token):
    return f"{100 * float(logits.softmax(-1)[token]):.0f}%"


def test_a_click_switches_a_head_off_and_the_numbers_are_pytorchs(page, folder):
    model, answer = exact(folder), CHARS.index("s")
    part(page, "head 1.2, ").click()
    assert stack(page) == [{"activation": "z", "layer": 1, "head": 2, "source": "zero"}]
    expected = ngl.intervene(model, "the king", stack(page))
    before, after = (percent(logits[0, -1], answer) for logits in (expected.base, expected.logits))
    until(page, f"{TEXT}.includes('{before}') && {TEXT}.includes('{after}')")


def test_a_part_goes_round_its_states_and_undo_goes_back(page):
    sources = []
    for _ in range(5):
        part(page, "head 0.1, ").click()
        sources.append([one["source"] for one in stack(page)])
    assert sources == [["zero"], ["mean"], ["other"], [{"scale": 2}], []]
    page.keyboard.press("Control+z")
    assert [one["source"] for one in stack(page)] == [{"scale": 2}]
    page.keyboard.press("Control+Shift+z")
    assert stack(page) == []


def test_every_cell_shows_what_pytorch_measures(page, folder):
    model, answer = exact(folder), CHARS.index("s")
    metric = ngl.metrics.answer_logprob(answer)
    page.wait_for_timeout(1000)
    hues = set()
    for layer in range(2):
        for head in range(3):
            off = {"activation": "z", "layer": layer, "head": head, "source": "zero"}
            change = float(ngl.intervene(model, "the king", off, metric=metric).change)
            label = part(page, f"head {layer}.{head}, ").get_attribute("aria-label")
            shown = float(label.rsplit(" ", 1)[1].replace("−", "-"))
            assert shown == pytest.approx(change, abs=0.0051), label
            if abs(change) > 0.01:  # what helps the answer is teal: the answer is less likely without it
                drawn = part(page, f"head {layer}.{head}, ").get_attribute("style")
                assert ("--pos" in drawn, "--neg" in drawn) == (change < 0, change > 0), label
                hues.add(change < 0)
    assert hues


def test_a_walk_by_keyboard(page):
    """Tab reaches the model's grid, arrows move in it, Enter changes a part; nothing needs the mouse."""
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        label = page.evaluate(
            "() => { const a = document.querySelector('.nanogpt-lens-lab').shadowRoot.activeElement;"
            " return a ? (a.getAttribute('aria-label') || a.textContent || '') : ''; }"
        )
        reached.append(label)
        if label.startswith(("head ", "MLP of layer")):
            break
    assert reached[-1].startswith(("head ", "MLP of layer")), reached
    page.keyboard.press("Enter")
    assert len(stack(page)) == 1
    before = stack(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert len(stack(page)) == 2
    assert stack(page)[0] == before[0]


def test_the_link_holds_the_state(browser, page, file):
    part(page, "MLP of layer 1").click()
    until(page, "location.hash.length > 10")
    page.wait_for_timeout(600)
    link, state = page.url, page.evaluate("() => window.lab.state()")
    with watched(browser) as again:
        again.page.goto(link)
        assert again.page.evaluate("() => window.lab.state()") == state
        again.check_silent()


BEYOND = base64.urlsafe_b64encode(b'{"version":1,"tokens":[9999]}').decode().rstrip("=")


@pytest.mark.parametrize("fragment", ["lab=!!!", f"lab={BEYOND}", "lab=", "x" * 5000])
def test_a_hostile_link_is_ignored(browser, file, fragment):
    with watched(browser) as opened:
        opened.page.goto(f"{file.as_uri()}#{fragment}")
        assert opened.page.evaluate("() => window.lab.proof.then((p) => p.equal)")
        assert len(opened.page.evaluate("() => window.lab.state().tokens")) == 8
        opened.check_silent()


def test_what_is_typed_and_what_is_no_character(page):
    page.get_by_role("button", name="Edit").first.click()
    field = page.get_by_role("textbox").first
    field.fill("the kiñg")
    until(page, f"{TEXT}.includes('ñ')")
    field.fill("the kings")
    field.press("Control+Enter")
    page.wait_for_timeout(300)
    assert page.evaluate("() => window.lab.state().tokens.length") == 9


def test_a_saved_file_opens_where_it_stopped(browser, page, tmp_path):
    part(page, "head 0.0, ").click()
    page.get_by_role("button", name="Share").click()
    with page.expect_download() as download:
        page.get_by_text("Save this file").first.click()
    saved = tmp_path / "saved.html"
    download.value.save_as(saved)
    with watched(browser) as again:
        again.page.goto(saved.as_uri())
        assert again.page.evaluate("() => window.lab.proof.then((p) => p.equal)")
        assert stack(again.page) == [{"activation": "z", "layer": 0, "head": 0, "source": "zero"}]
        again.check_silent()


def test_a_hostile_vocabulary_is_harmless(browser, tmp_path):
    tokens = [token for token in HOSTILE if token != "\ud800"][:20]
    made = content(vocab_size=len(tokens), n_layer=1, n_head=2)
    lab = ngl.lab(ngl.load(write(tmp_path, made), meta="none"), findings=False, prompts=[list(range(8))])
    hostile = type(lab)(payload={**lab.payload, "vocab": tokens, "name": tokens[0]}, weights=lab.weights)
    with watched(browser) as opened:
        opened.page.goto(hostile.save(tmp_path / "hostile.html").as_uri())
        assert opened.page.evaluate("() => window.lab.proof.then((p) => p.equal)")
        part(opened.page, "head 0.1, ").click()
        opened.page.wait_for_timeout(800)
        until(opened.page, f"{TEXT}.includes('window.pwned=1')")
        opened.check_silent()


@pytest.mark.parametrize("width", [360, 768, 1280, 1920])
def test_it_fits_the_window(browser, file, width):
    with watched(browser, width=width) as opened:
        opened.page.goto(file.as_uri())
        opened.page.evaluate("() => window.lab.proof")
        opened.page.wait_for_timeout(500)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.check_silent()


HOST = """<!doctype html><meta charset="utf-8"><div id="a"></div><div id="b"></div>
<script type="application/json" id="payload">PAYLOAD</script>
<script type="module">MODULE
const payload = JSON.parse(document.getElementById("payload").textContent);
const bytes = Uint8Array.from(atob("WEIGHTS"), (c) => c.charCodeAt(0));
const values = { payload, weights: new DataView(bytes.buffer), state: null };
const set = (name, value) => { values[name] = value; };
const model = { get: (name) => values[name], set, on() {}, off() {}, save_changes() {} };
window.closing = ["a", "b"].map((id) => widget.render({ model, el: document.getElementById(id) }));
</script>"""


def test_a_cell_of_a_notebook(browser, folder, tmp_path):
    """The module after anywidget's contract, mounted twice by a host that has nothing but `get` and `on`."""
    lab = ngl.lab(folder, findings=False, prompts=[PROMPT])
    module = module_source().replace("export default", "const widget =").replace("</script", "<\\/script")
    page = tmp_path / "cell.html"
    host = HOST.replace("PAYLOAD", json.dumps(dict(lab.payload)).replace("<", "\\u003c"))
    page.write_text(host.replace("WEIGHTS", base64.b64encode(lab.weights).decode()).replace("MODULE", module))
    with watched(browser, width=1400) as opened:
        opened.page.goto(page.as_uri())
        for name in "ab":
            place = f"document.querySelector('#{name} .nanogpt-lens-lab')"
            until(opened.page, f"{place}?.shadowRoot.textContent.includes('equal to PyTorch')")
        opened.page.evaluate("async () => { for (const one of window.closing) (await one)(); }")
        assert opened.page.evaluate("document.querySelectorAll('.nanogpt-lens-lab').length") == 0
        opened.check_silent()


def test_the_lab_in_a_report(browser, folder, tmp_path):
    made = ngl.report(folder, sections=["summary", "lab"], progress=False)
    assert [section.status for section in made.sections] == ["done", "done"]
    with watched(browser) as opened:
        opened.page.goto(made.save(tmp_path / "report.html").as_uri())
        opened.page.evaluate("document.getElementById('lab').scrollIntoView()")
        until(opened.page, "window.lab && window.lab.proof")
        assert opened.page.evaluate("() => window.lab.proof.then((p) => p.equal)")
        assert opened.page.evaluate("location.hash") == ""
        opened.check_silent()


def test_a_model_that_is_too_large_for_a_report(folder, monkeypatch):
    from nanogpt_lens.reporting.sections import lab

    monkeypatch.setattr(lab, "MOST_PARAMS", 100)
    made = ngl.report(folder, sections=["lab"], progress=False)
    assert made.sections[0].status == "does not apply"
    assert "nanogpt-lens lab" in made.sections[0].error


def test_a_model_in_float64_is_stored_as_float32(folder):
    lab = ngl.lab(ngl.load(folder, dtype=torch.float64), findings=False)
    assert {entry["dtype"] for entry in lab.payload["tensors"] if not entry["name"].startswith("proof")} == {"float32"}
