"""A real Chromium for the tests: nothing may be written to the console, nothing fetched from anywhere.

Chromium is Debian's, driven by Playwright. Without it, tests are skipped; REQUIRE_BROWSER=1, which `.ci/run` sets,
makes that a failure instead.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = os.environ.get("REQUIRE_BROWSER") == "1"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


def chromium() -> str:
    """The path of the browser; skips or fails the test where there is none."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        missing("no Chromium here: `apt-get install chromium` (Debian), or CHROMIUM=path")
    return str(found)


def missing(reason: str) -> None:
    """Skip, or fail where a browser is required."""
    (pytest.fail if REQUIRED else pytest.skip)(reason)


@contextmanager
def launched(*, loopback: bool = False) -> Iterator[Any]:
    """A browser, which finds no host; with `loopback`, it finds this machine."""
    executable = chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright is not installed: `pip install playwright`")
        raise
    more = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"] if loopback else []  # the last one counts
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=[*FLAGS, *more])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page that is offline, and what it said and asked for."""

    def __init__(self, context: Any) -> None:
        self.page = context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("request", self._note)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.asked.append(request.url)

    def open(self, file: Path) -> Any:
        """Open a file and mount everything in it."""
        self.page.goto(file.as_uri())
        self.mount_all()
        return self.page

    def mount_all(self) -> None:
        """Mount what waits to come into view, and wait for it."""
        self.page.evaluate("window.NGL && window.NGL.all()")
        self.page.wait_for_selector("[data-ngl]:not([data-state=ready])", state="detached", timeout=60_000)

    def check_silent(self) -> None:
        """Nothing on the console, no request off the page, nothing of a hostile token run."""
        assert self.said == []
        assert self.asked == []
        assert self.page.evaluate("window.pwned") is None


@contextmanager
def watched(browser: Any, *, width: int = 1000, height: int = 900, scripts: bool = True) -> Iterator[Watched]:
    """A page without a network, looked at to the end."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        offline=True,
        java_script_enabled=scripts,
        reduced_motion="reduce",  # no smooth scrolling
    )
    page = Watched(context)
    try:
        yield page
    finally:
        context.close()


def pixels(element: Any) -> Any:
    """What an element looks like: an array [y, x, 3] of bytes."""
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def n_colours(image: Any) -> int:
    """How many colours an image has."""
    import numpy as np

    return len(np.unique(image.reshape(-1, 3), axis=0))
