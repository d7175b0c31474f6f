"""Execute the notebooks, and replace what only runs in a browser by small pictures, so that they read well on the web.

    python scripts/notebooks.py            # execute all and write them
    python scripts/notebooks.py --check    # execute all, write nothing
    python scripts/notebooks.py 01_induction_heads

After its last cell each notebook is asked whether its text is true of this run: `notebooks/checks/NAME.py`, see
`scripts/notebook_claims.py`. What is not so is listed, with the numbers that there are, and the exit code is 1; the
notebooks are written all the same.

Plotly figures become PNG through kaleido, widgets through Playwright; both drive a Chromium that is installed. What is
written depends on nothing but the notebook: no times, no paths, no progress bars, cell ids by number.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from conversion.atomic import write_text
from scripts.notebook_claims import prose

FOLDER = ROOT / "notebooks"
CHECKS = FOLDER / "checks"

REPOSITORY = "https://github.com/nanogpt-lens/nanogpt-lens"
"""Where Colab's first cell gets the package from; once it is on an index, `INSTALL` can name it instead."""

INSTALL = f"""import sys

if "google.colab" in sys.modules:  # the package is on no index yet: it comes from its repository
    %pip install -q "nanogpt-lens[hooked] @ git+{REPOSITORY}"
# elsewhere: pip install -c constraints.txt -e '.[hooked]' ipykernel   in a clone"""
INSTALL_CLONE = f"""import sys

if "google.colab" in sys.modules:  # the numbers of the runs are in the repository, not in the package
    !git clone -q --depth 1 {REPOSITORY}
    %cd -q nanogpt-lens
    %pip install -q -e ".[hooked]"
# elsewhere: pip install -c constraints.txt -e '.[hooked]' ipykernel   in a clone"""
NEEDS_CLONE = ("04_novel_findings",)
PLOTLY, PNG, HTML, TEXT = "application/vnd.plotly.v1+json", "image/png", "text/html", "text/plain"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # and so the same sums everywhere
    "PLOTLY_RENDERER": "plotly_mimetype",  # else each figure brings the library as HTML
    "TQDM_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
WIDTH = 760  # of a picture, in the page's pixels
LARGE = 120_000  # bytes; a larger picture is made at half the resolution
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--hide-scrollbars",
]
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
log = logging.getLogger("notebooks")

Picture = Callable[[float], bytes]
"""From a scale, 2.0 for twice the pixels, to a PNG."""


def names() -> list[str]:
    """Every notebook, in order."""
    return sorted(file.stem for file in FOLDER.glob("*.ipynb"))


def read(name: str) -> nbformat.NotebookNode:
    """A notebook as it is."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


FRAMES = "from nanogpt_lens.lab import page as _page; _page.find_spec = lambda name: None"
"""Shows the lab as a frame, which holds the page; an anywidget's page is nowhere in the notebook."""


CLAIMS = """
import json as _json, sys as _sys
_sys.path.insert(0, {root!r})
from scripts.notebook_claims import Claims as _Claims
_claims = _Claims({text!r})
says, holds, defines = _claims.says, _claims.holds, _claims.defines
{checks}
print(_json.dumps([_claims.n, _claims.wrong]))
"""
"""What runs after the last cell."""


def install(name: str) -> str:
    """The first cell of code: how Colab, and everybody else, gets the package."""
    return INSTALL_CLONE if name in NEEDS_CLONE else INSTALL


def text_of(notebook: nbformat.NotebookNode) -> str:
    """All that a notebook says outside of its code."""
    return prose(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def checks_of(name: str) -> str:
    """The code that says what a notebook's text rests on."""
    return (CHECKS / f"{name}.py").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """How a notebook's run went: its seconds, how many pieces of text were checked, and what is not so."""

    seconds: float
    n_checked: int = 0
    wrong: tuple[str, ...] = ()


def execute(notebook: nbformat.NotebookNode, *, checks: str = "", timeout: float = 600) -> Run:
    """Run every cell of a notebook in an empty folder, in this very environment, and then `checks`, without a trace.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    last = nbformat.v4.new_code_cell(CLAIMS.format(root=str(ROOT), text=text_of(notebook), checks=checks))
    with tempfile.TemporaryDirectory() as folder:
        logging.getLogger("traitlets").setLevel(logging.ERROR)
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
        )
        start = time.perf_counter()
        notebook.cells = [nbformat.v4.new_code_cell(FRAMES), *notebook.cells, *([last] if checks else [])]
        client.execute(env={**os.environ, **ENVIRONMENT})
        notebook.cells = notebook.cells[1 : -1 if checks else None]
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell.execution_count:
                cell.execution_count -= 1
        n, wrong = json.loads(last.outputs[-1].text.splitlines()[-1]) if checks else (0, [])
        return Run(time.perf_counter() - start, n, tuple(wrong))


def outputs(notebook: nbformat.NotebookNode) -> Iterator[tuple[int, nbformat.NotebookNode]]:
    """Every output and the number of its cell."""
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            yield i, output


def is_widget(data: dict[str, Any]) -> bool:
    """Whether an output is one of our widgets, which may run scripts."""
    return 'data-ngl-data="ngl-' in data.get(HTML, "")


def is_lab(data: dict[str, Any]) -> bool:
    """Whether an output is the lab in its frame."""
    return data.get(HTML, "").startswith("<iframe ") and "data-lab=" in data[HTML]


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs between two runs, and what the terminal was told."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")})
        if cell.cell_type == "code":
            kept = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
            cell.outputs = _joined(kept)


def _joined(found: Iterable[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of what was printed, in one: where they are cut depends on the clock."""
    kept: list[nbformat.NotebookNode] = []
    for output in found:
        if kept and output.output_type == kept[-1].output_type == "stream":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def still(notebook: nbformat.NotebookNode, context: Any) -> None:
    """Put pictures in the place of figures and widgets; `context` is Playwright's, for the widgets."""
    for _, output in outputs(notebook):
        data = output.get("data", {})
        if PLOTLY in data:
            _replace(output, _figure(data[PLOTLY]), _caption(data[PLOTLY]))
        elif is_widget(data):
            _replace(output, _widget(context, data[HTML]), data[TEXT])
        elif is_lab(data):
            _replace(output, _lab(context, data[HTML]), data[TEXT])
        elif "<script" in data.get(HTML, ""):
            del data[HTML]  # of `setup_notebook`: what it is, is in its text


def _replace(output: nbformat.NotebookNode, draw: Picture, text: str) -> None:
    picture, width = _small(draw)
    output.data = nbformat.from_dict({PNG: base64.b64encode(picture).decode(), TEXT: text})
    output.metadata = nbformat.from_dict({PNG: {"width": width}})


def _small(draw: Picture) -> tuple[bytes, int]:
    """A picture in 256 colours, at twice the resolution if that is small, and its width in the page's pixels."""
    from PIL import Image

    for scale in (2.0, 1.0):
        image = Image.open(io.BytesIO(draw(scale))).convert("RGB")
        few = image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        found = [few.getpalette()[i : i + 3] for i in range(0, 768, 3)]
        few.putpalette([value for colour in found for value in ([255] * 3 if min(colour) >= 252 else colour)])  # paper
        packed = io.BytesIO()
        few.save(packed, "PNG", optimize=True)
        if packed.tell() <= LARGE or scale == 1.0:
            return packed.getvalue(), round(image.width / scale)
    raise AssertionError("one of the scales is the last")


def _figure(data: dict[str, Any]) -> Picture:
    import plotly.graph_objects as go

    from nanogpt_lens.viz import style
    from nanogpt_lens.viz.export import to_png

    style.template()
    figure = go.Figure({"data": data["data"], "layout": data["layout"]})

    def draw(scale: float) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figure.png"
            return to_png(figure, file, width=figure.layout.width or WIDTH, scale=scale).read_bytes()

    return draw


def _caption(data: dict[str, Any]) -> str:
    layout = data["layout"]
    title = layout.get("title", {}).get("text", "").replace("<br>", " ")
    return f"Figure: {title}. {(layout.get('meta') or {}).get('caption', '')}".strip()


def _widget(context: Any, html: str) -> Picture:
    from nanogpt_lens.viz.widget import NotebookScript

    page = context.new_page()  # a page keeps what scripts of another content left in it
    page.set_content(
        f"<!doctype html><meta charset=utf-8><body style='margin:0;background:#fff;width:{WIDTH}px'>"
        f"{NotebookScript()._repr_html_()}<main>{html}</main></body>"
    )
    page.wait_for_selector("main [data-ngl][data-state=ready]", timeout=60_000)
    page.wait_for_timeout(400)  # charts fade in
    element = page.query_selector("main figure") or page.query_selector("main [data-ngl]")
    picture = element.screenshot(animations="disabled")
    page.close()
    return _scaled(picture)


def _lab(context: Any, html: str) -> Picture:
    """The upper part of the page in a frame, once it has proven itself."""
    page = context.new_page()
    page.set_viewport_size({"width": 1280, "height": 900})
    page.set_content(unescape(re.search(r'srcdoc="([^"]*)"', html)[1]))  # type: ignore[index]
    page.evaluate("() => window.lab.proof")
    page.wait_for_timeout(2000)  # the effects of all parts
    page.evaluate("() => [...document.querySelectorAll('.tour button')].find((b) => b.innerText === 'Close')?.click()")
    picture = page.screenshot(animations="disabled")
    page.close()
    return _scaled(picture)


def _scaled(picture: bytes) -> Picture:
    """A screenshot, which is at twice the resolution, as a picture of either."""

    def draw(scale: float) -> bytes:
        if scale == 2.0:
            return picture
        from PIL import Image

        image = Image.open(io.BytesIO(picture))
        packed = io.BytesIO()
        image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(packed, "PNG")
        return packed.getvalue()

    return draw


@contextmanager
def drawing() -> Iterator[Any]:
    """A browser without a network, at twice the resolution; and one browser for all figures.

    Raises:
        SystemExit: there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    from nanogpt_lens.viz.export import find_browser, one_browser

    found = find_browser()
    if not found:
        raise SystemExit("no Chromium here: `apt-get install chromium` (Debian), or CHROMIUM=path")
    with one_browser(), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, headless=True, args=FLAGS)
        context = browser.new_context(viewport={"width": WIDTH, "height": 900}, device_scale_factor=2, offline=True)
        yield context
        browser.close()


def refresh(chosen: Sequence[str], *, check: bool = False) -> list[str]:
    """Execute notebooks; unless `check`, write each with still pictures, in one step. Returns what of them is not so.

    A notebook of which a cell fails stays as it was, and the others go on.
    """
    wrong: list[str] = []
    with ExitStack() as stack:
        context = None if check else stack.enter_context(drawing())
        for name in chosen:
            notebook = read(name)
            for cell in notebook.cells:
                if "install" in cell.metadata.get("tags", []):
                    cell.source = install(name)
            try:
                done = execute(notebook, checks=checks_of(name))
            except CellExecutionError as error:
                log.error("%s: a cell failed\n%s", name, error)
                wrong.append(f"{name}: a cell failed")
                continue
            said = f"{name}: {done.seconds:.0f} s, {done.n_checked} statements checked"
            if not check:
                tidy(notebook)
                still(notebook, context)
                nbformat.validate(notebook)
                file = FOLDER / f"{name}.ipynb"
                write_text(file, nbformat.writes(notebook) + "\n")
                said += f", {file.stat().st_size // 1000} kB"
            log.info(said)
            for sentence in done.wrong:
                log.info("  %s", sentence)
            wrong += [f"{name}: {sentence}" for sentence in done.wrong]
    return wrong


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; all of them where none is named")
    parser.add_argument("--check", action="store_true", help="execute only, and write nothing")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    wrong = refresh([Path(name).stem for name in args.names] or names(), check=args.check)
    sys.exit(f"{len(wrong)} statements are not so, or could not be checked; see above" if wrong else 0)


if __name__ == "__main__":
    main()
