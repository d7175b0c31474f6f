"""The scripts of a page: CircuitsVis, Plotly and our own runtime, each once, packed, and named by its hash.

A library goes into a page as gzip in base64, and is inflated there by the browser (DecompressionStream): 0.5 MB
instead of 1.3 for CircuitsVis, 2 MB instead of 4.8 for Plotly. The page's content policy lists the hash of every
script, also of the inflated ones, so that nothing that hides in a token or a label can run.

CircuitsVis' own Python package embeds its script anew in each widget, asks google.com whether there is a network
at each display, and puts tokens into the script unescaped; nothing of that is used here, its script alone is.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.viz.style import ACCENT, RUST, TEAL

Library = Literal["circuitsvis", "plotly"]
LIBRARIES: tuple[Library, ...] = get_args(Library)

_SCRIPTS = ("runtime.js", "attention.js", "circuit.js")  # ours, the one that mounts the others first


@cache
def script(library: Library) -> str:
    """The text of a library, as a classic script that makes one global.

    Raises:
        AnalysisError: it is not installed.
    """
    if library == "plotly":
        from plotly.offline import get_plotlyjs

        return get_plotlyjs()
    spec = find_spec("circuitsvis")  # importing it would load torch
    file = Path(spec.origin or "").parent / "dist" / "cdn" / "iife.js" if spec else None
    if file is None or not file.is_file():
        raise AnalysisError("circuitsvis is not installed, or without its script; install it: pip install circuitsvis")
    text = file.read_text("utf-8").rsplit("//# sourceMappingURL=", 1)[0]
    # its tensors are small: on the graphics card they are slower, and the console fills with warnings
    text = re.sub(r'\("webgl",\(\)=>new ([\w$]+),2\)', r'("webgl",()=>new \1,0)', text)
    # where a component has no property for its colours, the palette's; probabilities are blue; white letters stand only
    # on what is dark enough for them
    text = text.replace('function Jl(e,t,r,n="red",o="blue")', f'function Jl(e,t,r,n="{RUST}",o="{TEAL}")')
    text = text.replace('positiveColor:"red"', f'positiveColor:"{ACCENT}"')
    text = text.replace('.brightness()<.6?"white":"black"', '.brightness()<.44?"white":"black"')
    # the bundle is `var CircuitsVis=...`; as a module each widget would run it again
    return f"window.CircuitsVis=window.CircuitsVis||(function(){{{text}\nreturn CircuitsVis}})();"


@cache
def runtime() -> str:
    """Our own script, which mounts every block of a page or a notebook."""
    assets = files("nanogpt_lens.viz") / "assets"
    return _embeddable("\n".join((assets / name).read_text("utf-8") for name in _SCRIPTS))


@cache
def packed(library: Library) -> str:
    """A library as gzip in base64; the same bytes every time."""
    return base64.b64encode(gzip.compress(script(library).encode(), 9, mtime=0)).decode()


def script_hash(text: str) -> str:
    """What a content policy calls a script: 'sha256-...'."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def library_block(library: Library) -> str:
    """HTML that holds a packed library; the runtime inflates it when a block needs it."""
    return f'<script type="application/gzip" data-ngl-library="{library}">{packed(library)}</script>'


def _embeddable(text: str) -> str:
    """Text that may stand inside a <script> element, and that a browser reads as it is written."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")
