"""What a server says instead of an answer: a status, a code for programs, one sentence for people."""

from __future__ import annotations

import json
from typing import Any

from nanogpt_lens.core.errors import NanoGPTLensError

SCHEMA_VERSION = 1
"""The version of every answer's form; it goes up when a field changes its meaning or goes."""

STATUSES: dict[str, int] = {
    "not_asked_rightly": 400,
    "no_token": 401,
    "wrong_host": 403,
    "wrong_origin": 403,
    "not_found": 404,
    "no_such_model": 404,
    "no_such_analysis": 404,
    "no_such_job": 404,
    "wrong_method": 405,
    "not_done": 409,
    "cancelled": 409,
    "too_slow": 408,
    "too_large": 413,
    "wrong_type": 415,
    "wrong_option": 422,
    "not_available": 422,
    "refused": 422,
    "no_picture": 422,
    "queue_full": 429,
    "too_long": 422,
    "worker_died": 500,
    "internal": 500,
}
"""Every code, and the HTTP status that it goes with."""


_ALLOWED = "the server allows a job beside its model (--memory of `nanogpt-lens serve`)"


class Refusal(Exception):
    """What is said instead of an answer.

    Attributes:
        code: one of `STATUSES`.
        sentence: what was wrong, what was expected, what to do.
        retry_after: after how many seconds it is worth asking again; None where it is not.
    """

    def __init__(self, code: str, sentence: str, *, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.code = code if code in STATUSES else "internal"
        self.sentence = one_sentence(sentence)
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUSES[self.code]

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        return {"error": {"code": self.code, "message": self.sentence}}


def one_sentence(text: str, longest: int = 600) -> str:
    """Text on one line, of bounded length, without halves of characters that UTF-8 does not have."""
    line = " ".join(str(text).split()) or "no reason was given"
    line = line.encode("utf-8", "backslashreplace").decode()
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def refusal_of(error: BaseException) -> Refusal:
    """What is said of an exception: its own words where it is ours, else no more than its kind."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, NanoGPTLensError):
        return Refusal("refused", str(error))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Refusal("too_large", f"this needs more memory than {_ALLOWED}; ask for less, such as a smaller n")
    kind = type(error).__name__
    return Refusal("internal", f"this should not have happened ({kind}); the server's own output has more, report it")


def refusal_headers(refusal: Refusal) -> list[tuple[bytes, bytes]]:
    """The headers that go with a refusal."""
    headers = [(b"www-authenticate", b"Bearer")] if refusal.status == 401 else []
    headers += [(b"connection", b"close")] if refusal.status in (408, 413) else []
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    return headers


def refusal_response(refusal: Refusal) -> Any:
    """A refusal as Starlette's response."""
    from starlette.responses import Response

    headers = {name.decode(): value.decode() for name, value in refusal_headers(refusal)}
    if allow := getattr(refusal, "allow", None):
        headers["allow"] = allow
    return Response(json.dumps(refusal.to_json()), refusal.status, headers=headers, media_type="application/json")
