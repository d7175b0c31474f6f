"""The page's scripts as one: our ES modules, each in a function of its own, in the order of their imports.

No build tool: a file's imports are lines such as `import { a, b } from "./x.js";`, and what it exports has the word in
front of the declaration. The engine is in the bundle twice: as a string for the worker, and beside the page for where
a page may have no worker.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files

from nanogpt_lens.viz.house import house_style

_IMPORT = re.compile(r'^import \{ ([^}]*) \} from "\./([a-z_]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)


def read(name: str) -> str:
    """The text of a file of the page."""
    return (files("nanogpt_lens.lab") / "web" / name).read_text("utf-8").replace("\r\n", "\n")


def kernel() -> bytes:
    """The WebAssembly kernel, which `kernel.c` says how to make."""
    return (files("nanogpt_lens.lab") / "web" / "kernel.wasm").read_bytes()


@cache
def bundled(start: str) -> str:
    """A file and everything that it imports, as the text of one script; what `start` exports is in `start_js`."""
    imports: dict[str, list[str]] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name not in imports:
            imports[name] = [match[1] for match in _IMPORT.findall(read(f"{name}.js"))]
            waiting += imports[name]
    return "\n".join(_wrapped(name) for name in TopologicalSorter(imports).static_order())


def _wrapped(name: str) -> str:
    """A module as a function that returns what it exports."""
    text = _IMPORT.sub(lambda match: f"const {{ {match[1]} }} = {match[2]}_js;\n", read(f"{name}.js"))
    exported = [match[1] for match in _EXPORT.findall(text)]
    body = _EXPORT.sub(r"\1 \2", text)
    if "import " in re.sub(r"/\*.*?\*/|//[^\n]*|\"[^\"\n]*\"|`[^`]*`", "", body, flags=re.DOTALL):
        raise AssertionError(f"{name}.js imports in a way that the bundle does not know")
    return f"const {name}_js = (() => {{\n{body}\nreturn {{ {', '.join(exported)} }};\n}})();"


@cache
def engine_source() -> str:
    """The worker's script."""
    return f'"use strict";\n{bundled("worker")}\nworker_js.hostInWorker();\n'


@cache
def page_source(start: str = "main") -> str:
    """Everything that the page needs, up to the call that opens it.

    Args:
        start: the file that the page begins with: "main", which asks nobody for anything, or "served", whose engine is
            the server that gave the page.
    """
    constants = {
        "ENGINE_SOURCE": engine_source(),
        "KERNEL": base64.b64encode(kernel()).decode(),
        "LAB_CSS": f"{house_style('.lab')}\n{read('lab.css')}",
    }
    lines = [f"const {name} = {_text(value)};" for name, value in constants.items()]
    return "\n".join(['"use strict";', *lines, bundled(start)])


def module_source() -> str:
    """The ES module after anywidget's contract."""
    return f"{page_source()}\nexport default {{ render: main_js.render }};\n"


def _text(value: str) -> str:
    """A string literal of JavaScript that may stand inside a <script> element."""
    return json.dumps(value, ensure_ascii=True).replace("</", "<\\/").replace("<!--", "<\\!--")
