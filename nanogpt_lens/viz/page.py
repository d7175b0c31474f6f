"""Blocks of a page, and the page itself: one file, offline, in which nothing but our own scripts can run."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanogpt_lens.viz.libraries import Library, library_block, runtime, script, script_hash
from nanogpt_lens.viz.style import FONT, INK, PAPER
from nanogpt_lens.viz.tokens import safe_json, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STYLE = (
    '[data-ngl] div[style*="aspect-ratio"]{width:100% !important}'  # else CircuitsVis' large chart can shrink to 30 px
    "[data-ngl]{max-width:100%}"
    '[data-ngl][data-component="TopkTokens"]{overflow-x:auto}'
    "[data-ngl] select,[data-ngl] input{font:inherit;max-width:100%}"
)
"""What every page and notebook output with a block needs."""

_PAGE_STYLE = (
    '[data-ngl] div[style*="padding-bottom: 350px"],[data-ngl] .colored-tokens{padding-bottom:8px !important}'
    '[data-component="ColoredTokensMulti"]>div>div>div{padding-bottom:8px !important}'
)
"""On a page tooltips may lie over what follows; a notebook's output would cut them."""


def block(
    identity: str,
    kind: str,
    data: Any,
    *,
    static: str = "",
    needs: Library | None = None,
    component: str = "",
    height: int = 0,
    lazy: bool = True,
) -> str:
    """HTML of one block: its static picture inside the mount point, and its data.

    Args:
        identity: its name on the page; letters, digits and dashes.
        kind: "circuitsvis", "attention" or "plotly": what mounts it.
        data: its data, for JSON.
        static: HTML shown until it is mounted, and where scripts do not run.
        needs: the library that it needs.
        component: CircuitsVis' name of the component.
        height: pixels to keep free until it is mounted.
        lazy: mount it when it comes into view.
    """
    name = html.escape(identity)
    about = "".join(
        [
            f' data-kind="{kind}"',
            f' data-needs="{needs}"' if needs else "",
            f' data-component="{component}"' if component else "",
            " data-lazy" if lazy else "",
            f' style="min-height:{height}px"' if height else "",
        ]
    )
    return (
        f'<div data-ngl="{name}"{about}>{static}</div>'
        f'<script type="application/json" data-ngl-data="{name}">{safe_json(data)}</script>'
    )


def figure_block(figure: Figure, identity: str, *, static: str = "", lazy: bool = True) -> str:
    """HTML of a Plotly figure."""
    data = json.loads(figure.to_json() or "null")
    height = int(data["layout"].get("height") or 450)
    return block(identity, "plotly", data, static=static, needs="plotly", height=height, lazy=lazy)


def document(
    *,
    title: str,
    body: str,
    style: str = "",
    scripts: Sequence[str] = (),
    libraries: Sequence[Library] = (),
    runtime_too: bool = True,
    computes: bool = False,
    connects: bool = False,
) -> str:
    """A whole page that opens offline.

    Args:
        title: text.
        body: HTML, escaped already.
        style: CSS.
        scripts: classic scripts of the page's own, run after the runtime.
        libraries: which libraries its blocks need.
        runtime_too: whether it has blocks, which the runtime mounts.
        computes: whether its scripts compute by WebAssembly, in a worker that they make themselves.
        connects: whether they may ask the server that gave the page, and nobody else.

    Returns:
        HTML whose content policy names the hash of each script and lets nothing else run or be fetched. The same
        arguments give the same text. Write it without changing its line ends, because the hashes are of them.
    """
    ours = [*([runtime()] if runtime_too else []), *scripts]
    allowed = " ".join(script_hash(text) for text in [*ours, *(script(name) for name in libraries)])
    wasm, worker = (" 'wasm-unsafe-eval'", "worker-src blob:; ") if computes else ("", "")
    asks = "connect-src 'self'; " if connects else ""
    policy = (
        f"default-src 'none'; script-src {allowed}{wasm}; {worker}{asks}style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )
    base = f"body{{font-family:{FONT};color:{INK};background:{PAPER};margin:0}}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{html.escape(visible(title, spaces=False, longest=120))}</title>",
            f"<style>{base}{STYLE}{_PAGE_STYLE}{style}</style></head><body>",
            body,
            *(library_block(name) for name in libraries),
            *(f"<script>{text}</script>" for text in ours),
            "</body></html>\n",
        ]
    )
