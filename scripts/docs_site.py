"""What `make docs` adds to the pages of docs/: the reference, the notebooks, the models' pages, and links that hold.

MkDocs loads this file as a hook (mkdocs.yml), in an environment without PyTorch: sources are read, never run. Links in
our files are those of the repository; here each is made one of the site, or plain text where the site has no such page.
"""

from __future__ import annotations

import logging
import posixpath
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.docs_reference import reference_pages

log = logging.getLogger("mkdocs.hooks.docs_site")
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
MODELS = ("shakespeare_char", "induction", "induction_control", "handmade_induction", "backdoor", "backdoor_control")
NO_CHANGES = "# Changelog\n\nNothing was released yet.\n"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^ *```.*?^ *```[^\n]*$|`[^`\n]+`)", flags=re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4}.*\n)+", flags=re.MULTILINE)

PLACES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "notebooks": "tutorials/index.md",
    "notebooks/README.md": "tutorials/index.md",
    **{f"notebooks/{name}.ipynb": f"tutorials/{name}.md" for name in NOTEBOOKS},
    **{f"checkpoints/{name}/README.md": f"models/{name}.md" for name in MODELS},
}
"""Files of the repository outside docs/, and the page of the site that each becomes."""
ORIGINS = {page: source for source, page in PLACES.items() if page != "index.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/ and the pages that are made of other files."""
    from mkdocs.structure.files import File

    pages: dict[str, str | bytes] = {**reference_pages()}
    for source, page in PLACES.items():
        if page == "index.md" or source == "notebooks":
            continue
        if source.endswith(".ipynb"):
            pages |= notebook_pages(source, page)
        elif (ROOT / source).exists():
            pages[page] = (ROOT / source).read_text()
    pages.setdefault("changelog.md", NO_CHANGES)
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page's Markdown with links of the site, and without diagrams that only a script from elsewhere could draw."""
    markdown = re.sub(r"^```mermaid\n.*?^```\n", "", markdown, flags=re.MULTILINE | re.DOTALL)
    source = ORIGINS.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return outside_of_code(markdown, lambda prose: with_links_of_the_site(prose, source, page.file.src_uri))


def outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """The Markdown with all but its code changed."""
    return "".join(part if i % 2 else change(part) for i, part in enumerate(CODE.split(markdown)))


def with_links_of_the_site(markdown: str, source: str, page: str) -> str:
    """Links relative to `source`, a file of the repository, become links relative to `page`, a page of the site."""

    def mended(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        place, hash_mark, anchor = target.partition("#")
        if not place or ":" in place:
            return match.group()
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(source), place))
        in_site = PLACES.get(in_repository) or in_repository.removeprefix("docs/")
        if not (ROOT / in_repository).exists() and in_repository not in PLACES:
            return match.group()  # a page made here, or a broken link, of which MkDocs warns
        if in_site == in_repository or in_site.startswith("data/"):
            return text  # the site has no such page
        return f"{mark}[{text}]({posixpath.relpath(in_site, posixpath.dirname(page) or '.')}{hash_mark}{anchor})"

    return LINK.sub(mended, markdown).replace("][", "]&#91;")  # [A][B] is a prompt, and no link


@cache
def exporter() -> Any:
    """The converter of notebooks; of a cell's outputs it takes the still picture, else the text."""
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    kinds = ["image/svg+xml", "image/png", "text/markdown", "text/plain"]
    return MarkdownExporter(config=Config({"NbConvertBase": {"display_data_priority": kinds}}))


def printed(indented: re.Match[str]) -> str:
    """What a cell printed, as a block of its own; nothing where it is blank."""
    return f"\n```text\n{dedent(indented.group())}```\n" if indented.group().strip() else ""


def notebook_pages(source: str, page: str) -> dict[str, str | bytes]:
    """A notebook as a page, with its pictures as files beside it."""
    name = Path(source).stem
    body, resources = exporter().from_filename(
        str(ROOT / source), resources={"unique_key": name, "output_files_dir": name}
    )
    body = outside_of_code(body, lambda prose: INDENTED.sub(printed, prose))
    body = body.replace("![png](", f"![a picture of {name}](").replace("\x1b", "")
    pictures = {posixpath.join(posixpath.dirname(page), path): data for path, data in resources["outputs"].items()}
    return {page: body, **pictures}
