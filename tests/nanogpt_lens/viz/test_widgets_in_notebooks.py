"""Widgets in a notebook that was executed and made into a page: they draw, offline, whether set up or not."""

from __future__ import annotations

import pytest

from tests.browser import n_colours, pixels, watched
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model

pytestmark = pytest.mark.slow  # a browser that draws takes minutes

nbformat = pytest.importorskip("nbformat")
BEGIN = """import nanogpt_lens as ngl, torch
model = ngl.load({folder!r}, dtype=torch.float64)"""
SETUP = "ngl.setup_notebook()"
HEADS = "ngl.widgets.attention_heads(model, 'ROMEO:')"
LOSS = "ngl.widgets.colored_tokens(model, 'ROMEO:')"
LARGE = "ngl.widgets.attention_heads(model, 'ROMEO:', engine='canvas')"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    lens_model(folder)
    return folder


def executed(folder, *cells):
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in (BEGIN.format(folder=str(folder)), *cells)]
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return notebook


def page_of(notebook, file):
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    text, _ = exporter.from_notebook_node(notebook)
    file.write_text(text)
    return file


@pytest.mark.parametrize("cells", [(SETUP, HEADS, LOSS, LARGE, HEADS), (HEADS, LOSS, LARGE)], ids=["set up", "alone"])
def test_widgets_draw_in_an_exported_notebook(browser, folder, tmp_path, cells):
    notebook = executed(folder, *cells)
    size = len(nbformat.writes(notebook))
    copies = size / 480_000
    assert (copies < 2) if SETUP in cells else (2 < copies < 3)
    with watched(browser, height=4000) as page:
        page.open(page_of(notebook, tmp_path / "notebook.html"))
        blocks = page.page.query_selector_all("[data-ngl]")
        assert len(blocks) == len(cells) - (SETUP in cells)
        for block in blocks:
            assert n_colours(pixels(block)) > 20
            assert block.query_selector("img") is None
        assert page.page.query_selector("[data-ngl-hint]") is None
        page.check_silent()


def test_without_the_setups_output_the_picture_stays_and_says_what_to_do(browser, folder, tmp_path):
    """The cell was cleared: a script is nowhere in the notebook."""
    notebook = executed(folder, SETUP, HEADS)
    notebook.cells[1].outputs = []
    with watched(browser, height=2000) as page:
        page.page.goto(page_of(notebook, tmp_path / "notebook.html").as_uri())
        page.page.wait_for_selector("[data-ngl-hint]", timeout=20_000)
        block = page.page.query_selector("[data-ngl]")
        assert "ngl.setup_notebook()" in block.inner_text()
        assert block.query_selector("img") is not None
        assert n_colours(pixels(block)) > 15
        page.check_silent()
