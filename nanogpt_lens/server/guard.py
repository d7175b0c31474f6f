"""What stands between the network and the application: who may ask, and how much.

In this order: the host that the client names (a page that has rebound its name to this address names its own), the
origin (a page of another site), the token, the kind and the size of the body, which is counted while it is read.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from collections.abc import Iterable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanogpt_lens.server.refusals import Refusal, refusal_headers, refusal_of

COOKIE = "nanogpt_lens"
"""The cookie of a browser that opened the page with the one-time key; a port may follow."""

_GOES_BY = 5.0  # seconds
_MOST_GOES_BY = 2**28
_WRITES = ("POST", "PUT", "PATCH")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-resource-policy": b"same-origin",
    b"x-frame-options": b"DENY",
}
_POLICY = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


class Keys:
    """What opens a server.

    Args:
        token: that clients send as `Authorization: Bearer`.

    Attributes:
        page: opens the server for a browser, once: `/?token=` sets a cookie that scripts cannot read and other
            sites do not send; None when it is spent.
        session: the value of that cookie.
        cookie: its name, which has the port: a browser sends the cookies of a host to all of its ports.
    """

    def __init__(self, token: str, *, port: int | None = None) -> None:
        self.token = token
        self.cookie = COOKIE if port is None else f"{COOKIE}_{port}"
        self.page: str | None = secrets.token_urlsafe(24)
        self.session = secrets.token_urlsafe(32)


class Guard:
    """An ASGI application around another, which only hears what may be asked.

    Args:
        app: the application.
        keys: what opens it.
        hosts: the names by which this server may be called, without a port.
        body: the largest body in bytes.
        seconds: that a body may take to come.
    """

    def __init__(
        self, app: ASGIApp, *, keys: Keys, hosts: Iterable[str], body: int = 4 * 2**20, seconds: float = 30.0
    ) -> None:
        self.app, self.keys, self.body, self.seconds = app, keys, body, seconds
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = _Sending(send)
        try:
            headers = Headers(scope=scope)
            self._check_names(scope, headers)
            if self._opens_page(scope):
                await self._let_in(scope, answer)
                return
            self._check_token(headers)
            receive = await self._bounded(scope, headers, receive)
            await self.app(scope, receive, answer)
        except Exception as error:
            if answer.begun:
                raise
            refusal = refusal_of(error)
            if refusal.code == "internal":
                import logging

                logging.getLogger(__name__).exception("a request failed")
            await send_refusal(refusal, answer)

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else ""
        if _hostname(host) not in self.hosts:
            expected = " or ".join(sorted(self.hosts))
            raise Refusal("wrong_host", f"the host {host!r:.80} is not what this server is called; expected {expected}")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scope.get('scheme', 'http')}://{host}".lower():
            raise Refusal("wrong_origin", f"the origin {origin!r:.80} may not ask; only this server's own pages may")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refusal("wrong_origin", "a page of another site may not ask; only this server's own pages may")

    def _check_token(self, headers: Headers) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), self.keys.token):
            return
        if not kind and _same(_cookie(headers, self.keys.cookie), self.keys.session):
            return
        said = "is not this start's" if kind else "is missing"
        raise Refusal(
            "no_token", f"the token {said}; send the header 'Authorization: Bearer TOKEN' with what the server printed"
        )

    def _opens_page(self, scope: Scope) -> bool:
        given = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("token", "")
        return bool(given) and scope["method"] == "GET" and self.keys.page is not None and _same(given, self.keys.page)

    async def _let_in(self, scope: Scope, send: Send) -> None:
        """Set the cookie and lead to the same page without the key, which is spent."""
        self.keys.page = None
        rest = [(k, v) for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k != "token"]
        place = scope["raw_path"].decode("latin-1") if scope.get("raw_path") else scope["path"]
        place = "/" + place.lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
        cookie = f"{self.keys.cookie}={self.keys.session}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", place.encode("latin-1")), (b"set-cookie", cookie.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _bounded(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """The body, read up to the bound, as what the application receives.

        Raises:
            Refusal: it is too large, is no JSON, or does not come.
        """
        stated = headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit():
            raise Refusal("not_asked_rightly", f"Content-Length is {stated!r:.40}; expected a number")
        if int(stated) > self.body:
            if "expect" not in headers:  # else nothing comes before it is asked for
                await _passed_over(receive)
            raise Refusal("too_large", f"the body has {stated} bytes; expected at most {self.body}")
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return _once(message)
                    body += message.get("body", b"")
                    if len(body) > self.body:
                        body.clear()
                        await _passed_over(receive)
                        raise Refusal("too_large", f"the body has more than {self.body} bytes; expected no more")
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refusal("too_slow", f"the body did not come within {self.seconds:g} seconds; send it again") from None
        if body and scope["method"] in _WRITES:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise Refusal(
                    "wrong_type", f"the body is {kind or 'of no stated type'!r:.60}; expected application/json"
                )
        return _once({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


class _Sending:
    """A `send` that knows whether the response has begun, and adds the headers of all responses."""

    def __init__(self, send: Send) -> None:
        self.send, self.begun = send, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            there = {name.lower() for name, _ in message["headers"]}
            more = {**_HEADERS, b"content-security-policy": _POLICY}
            added = [(name, value) for name, value in more.items() if name not in there]
            message = {**message, "headers": [*message["headers"], *added]}
        await self.send(message)


async def send_refusal(refusal: Refusal, send: Send) -> None:
    """Send a refusal as a response."""
    body = json.dumps(refusal.to_json()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += refusal_headers(refusal)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _passed_over(receive: Receive) -> None:
    """Let a body that is refused go by, piece by piece and for a while, so that its sender hears why it is refused."""
    gone = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_GOES_BY):
            while gone < _MOST_GOES_BY:
                message = await receive()
                gone += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _once(first: Message, rest: Receive | None = None) -> Receive:
    """A `receive` that gives one message, and then waits for the client to leave."""
    messages = [first]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await rest() if rest is not None else {"type": "http.disconnect"}

    return receive


def _hostname(host: str) -> str:
    """A Host header's name, without the port; "" where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018 - a wrong one raises
    except ValueError:
        return ""
    plain = parts.path or parts.query or parts.fragment or parts.username is not None
    return "" if plain else (parts.hostname or "").lower()


def _cookie(headers: Headers, name: str) -> str:
    try:
        found: Any = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
