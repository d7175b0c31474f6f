"""Python's own containers, bytes and paths in a pickle, made by this package from what the pickle says of them."""

from __future__ import annotations

from typing import Any

from conversion.inert import Builder, as_key


def _dictionary(*pairs: Any) -> dict[Any, Any]:
    made = pairs[0] if pairs else {}
    return {as_key(k): v for k, v in (made.items() if isinstance(made, dict) else made)}


def _bytes(text: Any = b"", encoding: Any = "latin1", *_: Any) -> Any:
    """The bytes of a text; a number of them, which Python would make zeros of, is no data."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("bytes that are no text")
    return text.encode("latin-1")


def joined(parts: tuple[Any, ...], separator: str) -> str:
    """Words and numbers as one text; TypeError for lists and the like, whose text might be endless."""
    if not all(isinstance(part, str | int) for part in parts):
        raise TypeError("parts of a name that are no words")
    return separator.join(map(str, parts))


BUILDERS: dict[str, Builder] = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda *_: {},
    "collections.deque": lambda values=(), *_: list(values),
    "builtins.dict": _dictionary,
    "builtins.list": lambda values=(): list(values),
    "builtins.tuple": lambda values=(): tuple(values),
    "builtins.set": lambda values=(): set(map(as_key, values)),
    "builtins.frozenset": lambda values=(): set(map(as_key, values)),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": lambda real=0.0, imaginary=0.0: complex(real, imaginary),
    "_codecs.encode": _bytes,
    **{
        f"{module}.{name}": lambda *parts: joined(parts, "/").replace("//", "/")
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}
"""By the names in pickles, the functions that make Python's values."""
