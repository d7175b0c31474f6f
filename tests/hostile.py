"""Tokens that try something, each with a piece of text that a reader must still recognise."""

from __future__ import annotations

HOSTILE = {
    "</script><script>window.pwned=1</script>": "script>window.pwned=1",
    "<img/src=x/onerror=window.pwned=1>": "img/src=x/onerror=window.pwned=1>",
    '"><svg/onload=window.pwned=1>': "svg/onload=window.pwned=1>",
    "<b>bold</b>": "b>bold",
    "&lt;": "lt;",
    "'\"`": "'\"`",
    "\u2028": "⟨2028⟩",
    "\u202eright": "⟨202E⟩right",
    "\u05d0\u05d1": "\u05d0\u05d1",
    "\U0001f600": "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\x00": "⟨0000⟩",
    "\ud800": "⟨D800⟩",
    "\x1b[31m": "⟨001B⟩[31m",
    "{{7*7}}": "{{7*7}}",
    "${window.pwned=1}": "${window.pwned=1}",
    "javascript:window.pwned=1": "javascript:window.pwned=1",
    "": "∅",
    "\n": "↵",
    "\t": "⇥",
    "7": "7",
    "7.0": "7.0",
    "--><!--": "-->",
}
"""By token: what is shown of it, word joiners left out."""


def plain(text: str) -> str:
    """Text as it is read: without the joiners."""
    return text.replace("\u2060", "")
