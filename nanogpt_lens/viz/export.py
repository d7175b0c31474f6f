"""Figures as PNG and SVG files: drawn by Plotly itself, in a Chromium without a window and without a network.

Plotly's `kaleido` (the extra `pictures`) talks to the browser. Here its asynchronous calls run in a thread of their
own, so that they work in a notebook too, and no call waits for ever.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.basedatatypes import BaseFigure

from conversion.atomic import replacing
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results.base import Result
from nanogpt_lens.viz import style
from nanogpt_lens.viz.figures import captioned, retitled
from nanogpt_lens.viz.shades import dark as in_dark

TIMEOUT = 60.0
"""Seconds that the browser has to start, and for each picture."""

_NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
    "brave-browser",
)
_INSTALL = "install Chromium or Google Chrome (Debian: `apt-get install chromium`), or name one by CHROMIUM=path"


def to_png(
    figure: go.Figure | Result,
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    scale: float = 2.0,
    dark: bool = False,
    **options: Any,
) -> Path:
    """Write a figure as a PNG file, in place of one that is there.

    Args:
        figure: a figure, or a result, whose `plot()` is taken.
        path: of the file; it ends in .png.
        width: in pixels; None for the figure's own, else 760. Title and caption are wrapped to it.
        height: in pixels; None for what the figure needs.
        scale: pixels of the file for each pixel of the figure.
        dark: whether on dark paper.
        options: of a result's `plot()`.

    Returns:
        the path.

    Raises:
        AnalysisError: it is no figure, the path is a folder or has another ending, kaleido or a browser is missing,
            the browser fails or does not answer, or a size is out of range.
    """
    return _write(_copy_of(figure, options), path, "png", width, height, scale, dark=dark)


def to_svg(
    figure: go.Figure | Result,
    path: str | Path,
    *,
    width: int | None = None,
    height: int | None = None,
    dark: bool = False,
    **options: Any,
) -> Path:
    """Write a figure as an SVG file, whose name ends in .svg; see `to_png`."""
    return _write(_copy_of(figure, options), path, "svg", width, height, 1.0, dark=dark)


@contextmanager
def one_browser(*, timeout: float = TIMEOUT) -> Iterator[None]:
    """A context in which one browser draws all pictures: it starts once, each then takes a fraction of a second.

    Args:
        timeout: seconds that the browser has to start, and for each picture.

    Raises:
        AnalysisError: as for `to_png`.
    """
    global _open
    with _drawing:
        if _open is not None:
            yield
            return
        _open = _Browser(timeout)
        try:
            yield
        finally:
            browser, _open = _open, None
            browser.close()


def find_browser() -> str | None:
    """The path of a Chromium: CHROMIUM or BROWSER_PATH from the environment, else one that is installed; None for none.

    Raises:
        AnalysisError: the environment names a file that cannot be run.
    """
    for variable in ("CHROMIUM", "BROWSER_PATH"):
        named = os.environ.get(variable)
        if named:
            path = shutil.which(named)
            if path is None:
                raise AnalysisError(f"{variable}={named} is no program that can be run; expected a path of Chromium")
            return path
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class _Browser:
    """A running Chromium, and the thread in which kaleido talks to it."""

    def __init__(self, timeout: float) -> None:
        kaleido, path = _kaleido(), find_browser()
        self.timeout = timeout
        try:
            # MathJax would come from a remote host; kaleido switches the sandbox off, so that it works as root
            self.browser = kaleido.Kaleido(n=1, timeout=timeout, mathjax=False, path=path)
        except Exception as error:
            raise AnalysisError(f"there is no browser to draw with ({error}); {_INSTALL}") from None
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda *_: None)  # what a killed browser leaves behind
        self.thread = threading.Thread(target=self.loop.run_forever, name="nanogpt-lens pictures", daemon=True)
        self.thread.start()
        try:
            self._wait(self.browser.open(), f"{path} did not start")
        except BaseException:
            self._end()
            raise

    def draw(self, figure: go.Figure, options: dict[str, Any]) -> bytes:
        """The file's content.

        Raises:
            AnalysisError: the browser fails or does not answer.
        """
        return self._wait(self.browser.calc_fig(figure, opts=options), "the figure was not drawn")

    def close(self) -> None:
        """End the browser and the thread."""
        with suppress(AnalysisError):
            self._wait(self.browser.close(), "the browser did not close")
        self._end()

    def _wait(self, call: Coroutine[Any, Any, Any], failure: str) -> Any:
        future = asyncio.run_coroutine_threadsafe(call, self.loop)
        try:
            return future.result(self.timeout)
        except TimeoutError:
            future.cancel()
            raise AnalysisError(f"{failure} within {self.timeout:g} seconds; try again, or {_INSTALL}") from None
        except Exception as error:  # whatever kaleido, choreographer or Plotly's own script raise
            said = " ".join(str(error.args[0] if error.args else type(error).__name__).split())[:300]
            raise AnalysisError(f"{failure} ({said}); try again, or {_INSTALL}") from None

    def _end(self) -> None:
        process = getattr(self.browser, "subprocess", None)
        if process is not None:
            _kill(process)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


def _kill(process: Any) -> None:
    """End the browser that we started, with its own processes where they are a group of their own."""
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg") and os.getpgid(process.pid) != os.getpgid(0):
            os.killpg(os.getpgid(process.pid), signal.SIGKILL)
    if process.poll() is None:
        process.kill()
        with suppress(Exception):
            process.wait(5)


_open: _Browser | None = None
_drawing = threading.RLock()  # one thread at a time has the browser


def _kaleido() -> Any:
    """The module, or AnalysisError where it is not installed."""
    try:
        import kaleido
    except ImportError:
        raise AnalysisError("PNG and SVG files need kaleido, which is not installed; `pip install kaleido`") from None
    return kaleido


def _write(
    picture: go.Figure,
    path: str | Path,
    kind: Literal["png", "svg"],
    width: int | None,
    height: int | None,
    scale: float,
    *,
    dark: bool,
) -> Path:
    file = _file(path, kind)
    layout: Any = picture.layout
    size = {
        "width": width if width is not None else layout.width or style.WIDTH,
        "height": height if height is not None else layout.height or style.HEIGHT,
    }
    for name, value in {**size, "scale": scale}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= 20_000:
            raise AnalysisError(f"{name} is {value!r}; expected a number of pixels, or for scale a factor such as 2")
    if any(note.name == "caption" for note in layout.annotations):
        picture = captioned(retitled(picture, int(size["width"])), int(size["width"]), height)
        layout = picture.layout
        size["height"] = layout.height
    picture = in_dark(picture) if dark else picture
    with one_browser():
        assert _open is not None  # by `one_browser`
        content = _open.draw(picture, {"format": kind, **size, "scale": scale})
    return _kept(file, content)


def _kept(file: Path, content: bytes) -> Path:
    """Write a file, or raise AnalysisError."""
    try:
        with replacing(file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise AnalysisError(f"{file} was not written ({error}); expected a path that can be written") from None
    return file


def page_to_png(
    page: Path, path: str | Path, *, width: int, height: int, scale: float = 2.0, dark: bool = False
) -> Path:
    """Write a page, as Chromium shows it, as a PNG file.

    Args:
        page: an HTML file.
        path: of the PNG file.
        width, height: of the window, in pixels.
        scale, dark: see `to_png`.

    Raises:
        AnalysisError: as for `to_png`; kaleido is not needed.
    """
    file, browser = _file(path, "png"), find_browser()
    if browser is None:
        raise AnalysisError(f"there is no browser to draw with; {_INSTALL}")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "page.png"
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [
            f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}",
            "--virtual-time-budget=20000",
        ]
        command += [f"--force-device-scale-factor={scale:g}", f"--screenshot={made}"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        try:
            subprocess.run([*command, page.resolve().as_uri()], capture_output=True, timeout=TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise AnalysisError(f"the page was not drawn ({error}); try again, or {_INSTALL}") from None
        if not made.is_file():
            raise AnalysisError(f"{browser} drew no picture of the page; try again, or {_INSTALL}")
        return _kept(file, made.read_bytes())


def _copy_of(figure: Any, options: dict[str, Any]) -> go.Figure:
    """A copy of a figure, or the figure of a result."""
    if isinstance(figure, Result):
        return figure.plot(**options)
    if options:
        raise AnalysisError(
            f"{next(iter(options))} was given with a {type(figure).__name__}; expected a result, or none"
        )
    if isinstance(figure, BaseFigure):
        return go.Figure(figure)
    widget = (
        "; a widget has .to_png() itself, and .save() for an HTML page"
        if hasattr(figure, "block") and hasattr(figure, "save")
        else ""
    )
    raise AnalysisError(f"a {type(figure).__name__} was given; expected a figure of Plotly or a result{widget}")


def _file(path: Any, kind: str) -> Path:
    """The path, if a picture of this kind may be written there."""
    if not isinstance(path, str | os.PathLike):
        raise AnalysisError(f"path is {path!r}; expected the path of a .{kind} file")
    file = Path(path)
    if file.is_dir():
        raise AnalysisError(f"{file} is a folder; expected the path of a file, such as {file / f'figure.{kind}'}")
    if file.suffix.lower() != f".{kind}":
        raise AnalysisError(f"{file} does not end in .{kind}; expected such a name: to_{kind} writes no other format")
    return file
