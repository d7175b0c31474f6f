"""The application on a port: a token for this start, a socket, and an end that leaves nothing."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.served import ServedModels

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that no other machine reaches."""


@dataclass(frozen=True, kw_only=True)
class Started:
    """A server that hears.

    Attributes:
        url: where it is.
        token: what clients send.
        token_file: the file that has it, for scripts.
        page: the address for a browser, which works once.
        labs: the addresses of the models' labs, by name, for a browser that has been let in.
    """

    url: str
    token: str
    token_file: Path
    page: str
    labs: Mapping[str, str]


def serve(
    models: ServedModels,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allowed_hosts: Sequence[str] = (),
    token_file: Path | None = None,
    cache: Path | None = None,
    waiting: int = 16,
    seconds: float = 600.0,
    memory: int | None = 4 * 2**30,
    started: Callable[[Started], None] = lambda _: None,
) -> None:
    """Serve models until the process is told to end.

    Args:
        models: what can be asked for.
        host, port: where; port 0 for one that is free.
        allowed_hosts: further names by which clients may call the server.
        token_file: where the token is written, readable by its owner alone; None for a temporary file. It is deleted
            at the end.
        cache: the folder of results; None for a temporary one.
        waiting, seconds, memory: of jobs, see `create_app`.
        started: is called when the server hears.

    Raises:
        AnalysisError: FastAPI or uvicorn is missing, or the address or the file cannot be had.
    """
    try:
        import uvicorn

        from nanogpt_lens.server.app import close_app, create_app
        from nanogpt_lens.server.listing import catalogue_facts
    except ImportError as error:
        raise AnalysisError(
            f"serving needs {error.name}, which is not installed; `pip install fastapi uvicorn`"
        ) from None
    heard = _socket(host, port)
    token = secrets.token_urlsafe(32)
    file = _write_token(token, token_file)
    hosts = [*LOOPBACK, *([] if host in ("0.0.0.0", "::") else [host]), *allowed_hosts]
    try:
        app = create_app(
            models,
            token=token,
            hosts=hosts,
            cache=cache,
            waiting=waiting,
            seconds=seconds,
            memory=memory,
            delete=[file],
            port=heard.getsockname()[1],
        )
        app.state.workshop.open()
        app.state.runs.pool.submit(import_module, "transformer_lens")  # seconds, which the first requests would take
        app.state.facts.pool.submit(catalogue_facts)
        url = _url(host, heard.getsockname()[1])
        page = f"{url}/?token={app.state.keys.page}"
        labs = {name: f"{url}/lab/{quote(name)}" for name in models.names}
        started(Started(url=url, token=token, token_file=file, page=page, labs=labs))
        try:
            _hear(uvicorn, app, heard)
        finally:
            close_app(app)
    finally:
        heard.close()
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _url(host: str, port: int) -> str:
    """Where this machine can ask: an address that stands for all of its own is none that a client can name."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _hear(uvicorn: Any, app: Any, heard: socket.socket) -> None:
    """Answer what comes to a socket until the process is told to end."""
    from nanogpt_lens.server.connections import Impatient

    configuration = uvicorn.Config(
        app,
        http=Impatient,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        limit_concurrency=512,
        ws="none",
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _end)  # uvicorn sends itself the signal again when it has ended
    uvicorn.Server(configuration).run(sockets=[heard])


def _end(*_: object) -> None:
    raise SystemExit(143)


def _socket(host: str, port: int) -> socket.socket:
    """A socket that listens; AnalysisError where the address cannot be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        heard = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # which asyncio sends at once for
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.bind((host, port))
        heard.listen(256)
    except (OSError, OverflowError) as error:
        raise AnalysisError(
            f"{host}:{port} cannot be had ({error.strerror if isinstance(error, OSError) else error}); expected a free "
            "port of this machine: give another --port, or 0 for any"
        ) from None
    return heard


def _write_token(token: str, path: Path | None) -> Path:
    """The file that has the token, readable by its owner alone."""
    if path is None:
        handle, name = tempfile.mkstemp(prefix="nanogpt-lens-token-")
        path = Path(name)
    else:
        path = path.expanduser().absolute()
        try:
            path.unlink(missing_ok=True)  # it may have been readable by others
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise AnalysisError(f"{path} cannot be written ({error.strerror}); give another --token-file") from None
    with os.fdopen(handle, "w") as out:
        out.write(token + "\n")
    return path
