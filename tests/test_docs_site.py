"""The documentation site: links, names, navigation; built (slow), it is complete and asks nobody for anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import nanogpt_lens as ngl
from scripts import cli_reference, docs_reference, docs_site
from tests.browser import launched, watched
from tests.docs_pages import DOCS, PAGES, ROOT, anchors, blocks, links

MADE = {*docs_reference.reference_pages(), *docs_site.ORIGINS}
"""Pages of the site that are no files of docs/."""


class Plain(yaml.SafeLoader):
    """Reads mkdocs.yml."""


def navigation(part) -> list[str]:
    """All pages below an entry of the navigation."""
    if isinstance(part, str):
        return [part]
    return [page for each in (part.values() if isinstance(part, dict) else part) for page in navigation(each)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for place, anchor in links(PAGES[page]):
        target = os.path.normpath((Path("docs") / page).parent / place) if place else f"docs/{page}"
        in_docs = target.removeprefix("docs/")
        assert (ROOT / target).exists() or in_docs in MADE, f"{page}: {place}"
        if anchor and in_docs in PAGES:
            assert anchor in anchors(PAGES[in_docs]), f"{page}: {place}#{anchor}"


def test_every_page_is_in_the_navigation_once():
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=Plain)
    pages = navigation(config["nav"])
    assert len(pages) == len(set(pages))
    assert set(pages) == {*PAGES, *MADE}


def test_every_public_name_has_a_place_in_the_reference():
    told = docs_reference.reference_pages()
    named = re.findall(r'heading: "(?:ngl|nanogpt_lens)\.([\w.]+)"', "".join(told.values()))
    assert len(named) == len(set(named))
    assert set(ngl.__all__) <= set(named)
    assert {name.partition(".")[0] for name in named if "." in name} == set(ngl._MODULES)
    assert f"tasks.{ngl.tasks.trigger_bigrams.__name__}" in named
    assert "results.TunedLens" in named


def test_every_public_name_is_explained():
    for name, place in docs_reference.public_names().items():
        module, _, last = place.rpartition(".")
        thing = getattr(import_module(module), last)
        assert not callable(thing) or thing.__doc__, f"{name} has no docstring"


def test_a_name_without_a_page_is_an_error():
    with pytest.raises(KeyError, match="no page takes nanogpt_lens.weather"):
        docs_reference.page_of("nanogpt_lens.weather.forecast")


def test_the_command_line_is_told_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cli_reference", "--check"])
    assert cli_reference.main() == 0, "run `python -m scripts.cli_reference`"


@pytest.mark.parametrize("page", [page for page in PAGES if re.match(r"how-to/(?!index)", page)])
def test_a_how_to_has_a_picture_and_a_block(page):
    assert re.search(r"^!\[[^\]]{10,}\]\(\.\./images/", PAGES[page], flags=re.MULTILINE)
    assert blocks(page, "python")


@pytest.mark.parametrize("page", [page for page in PAGES if re.match(r"how-to/|start/|index|names", page)])
def test_code_is_as_wide_as_the_page(page):
    for language in ("python", "console", "text", "bash", "json"):
        for code in blocks(page, language):
            assert max(map(len, code.splitlines())) <= 84, code


def test_links_become_those_of_the_site():
    text = "[a](../notebooks/05_circuits.ipynb) [b](FILES.md#x) [c](../tests/handmade.py) ![d](images/lens.png) [e](#f)"
    mended = docs_site.with_links_of_the_site(text, "docs/CIRCUITS.md", "CIRCUITS.md")
    assert mended == "[a](tutorials/05_circuits.md) [b](FILES.md#x) c ![d](images/lens.png) [e](#f)"
    back = docs_site.with_links_of_the_site("[a](../docs/FILES.md)", "notebooks/README.md", "tutorials/index.md")
    assert back == "[a](../FILES.md)"
    assert docs_site.with_links_of_the_site("[a](gone.md)", "docs/CIRCUITS.md", "CIRCUITS.md") == "[a](gone.md)"


def test_colours_are_those_of_the_lab_and_the_figures():
    ours = set(re.findall(r"#[0-9a-f]{6}", (DOCS / "stylesheets" / "site.css").read_text()))
    package = ROOT / "nanogpt_lens"
    theirs = (package / "lab" / "web" / "lab.css").read_text() + (package / "viz" / "style.py").read_text()
    assert ours <= set(re.findall(r"#[0-9a-f]{6}", theirs.lower())) | {"#ffffff"}


def mkdocs() -> str:
    """The program: of this environment, or of the one that `make docs` makes."""
    beside = (Path(sys.executable).parent / "mkdocs", ROOT / ".venv-docs" / "bin" / "mkdocs")
    program = next((str(path) for path in beside if path.exists()), None) or shutil.which("mkdocs")
    if program is None and not os.environ.get("REQUIRE_DOCS"):
        pytest.skip("needs MkDocs Material (`make docs` installs it into .venv-docs)")
    assert program, "no mkdocs; expected the extra `docs`"
    return program


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a broken link, anchor or reference ends it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [mkdocs(), "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_has_every_public_name(site):
    headings = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    for name, place in docs_reference.public_names().items():
        assert f'id="{place}"' in headings, name


@pytest.mark.slow
def test_the_site_asks_nobody_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source|video)\b[^>]*?\bsrc=[\"']?([^\"' >]+)", text)
        for tag in re.findall(r"<link\b[^>]*>", text):
            if not re.search(r"rel=[\"']?(?:canonical|next|prev)", tag):
                loaded += re.findall(r"\bhref=[\"']?([^\"' >]+)", tag)
        assert not [each for each in loaded if re.match(r"(?:https?:)?//", each)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1280])
def test_a_page_opened_as_a_file_searches_and_asks_nobody(site, width):
    with launched() as browser, watched(browser, width=width) as shown:
        shown.page.goto((site / "how-to" / "patching.html").as_uri())
        assert shown.page.evaluate("document.documentElement.scrollWidth") == width
        shown.page.keyboard.press("/")
        shown.page.keyboard.type("patch_activation")
        found = shown.page.locator(".md-search-result__item").first
        found.wait_for(timeout=30_000)
        assert "What is it called here?" in shown.page.locator(".md-search-result").inner_text()
        # the theme's overlay is wider than the page while it grows
        shown.page.wait_for_function(f"document.documentElement.scrollWidth === {width}", timeout=30_000)
        assert shown.asked == []


@pytest.mark.slow
def test_the_search_has_our_names(site):
    index = (site / "search" / "search_index.js").read_text()
    assert index.startswith("var __index = ")
    for word in ("find_induction_heads", "get_activations", "patch_activation"):
        assert word in index
