"""Connections that begin to ask and do not go on are closed; those that ask are not."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from nanogpt_lens.server import connections

ASKED = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def slow(scope, receive, send):
    """An application that takes longer than headers may."""
    if scope["type"] != "http":
        return
    import asyncio

    await asyncio.sleep(0.6)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(connections, "HEADERS_WITHIN", 0.3)
    with socket.socket() as heard:
        heard.bind(("127.0.0.1", 0))
        heard.listen(64)
        configuration = uvicorn.Config(slow, http=connections.Impatient, limit_concurrency=8, lifespan="off", ws="none")
        server = uvicorn.Server(configuration)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [heard]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield heard.getsockname()
        server.should_exit = True
        thread.join(10)


def said(connection, seconds=3.0):
    """What comes until the server closes, or has answered."""
    connection.settimeout(seconds)
    heard = b""
    while not heard.endswith(b"ok") and (piece := connection.recv(4096)):
        heard += piece
    return heard


def test_half_a_request_is_closed_also_where_it_trickles(address):
    with socket.create_connection(address) as silent, socket.create_connection(address) as trickling:
        began = time.monotonic()
        trickling.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 3:
                trickling.sendall(b"a: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - began < 2
        assert said(silent) == b""


def test_a_request_that_is_there_is_answered_however_long_it_takes(address):
    with socket.create_connection(address) as connection:
        for _ in range(2):  # the second over the same connection
            connection.sendall(ASKED)
            assert said(connection).endswith(b"ok")
        connection.sendall(ASKED[:-4])
        assert said(connection) == b""


def test_many_half_requests_do_not_shut_others_out(address):
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            half = stack.enter_context(socket.create_connection(address))
            half.sendall(ASKED[:-4])
        time.sleep(0.6)
        with socket.create_connection(address) as connection:
            connection.sendall(ASKED)
            assert b"200 OK" in said(connection)
