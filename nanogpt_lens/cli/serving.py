"""`nanogpt-lens serve`: the catalogue over HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nanogpt_lens.cli.options import JsonOption, with_reading
from nanogpt_lens.cli.output import reading_file
from nanogpt_lens.cli.waiting import WAITING
from nanogpt_lens.model.reading import Reading


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(with_reading(serve))


def serve(
    paths: Annotated[list[str], typer.Argument(help="nanoGPT's out_dir, a ckpt.pt, or a shipped checkpoint's name")],
    host: Annotated[str, typer.Option(help="the address; any other than this lets other machines ask")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for one that is free")] = 8000,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="a further name by which clients may call the server; repeatable")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="where the token is written, for scripts", show_default="a temporary file")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="a folder that keeps results", show_default="a temporary one")
    ] = None,
    queue: Annotated[int, typer.Option(min=1, max=10_000, help="jobs that may wait")] = 16,
    job_seconds: Annotated[float, typer.Option(min=1, help="after which a job is stopped")] = 600.0,
    memory: Annotated[float, typer.Option(min=0.25, help="GiB that a job may take")] = 4.0,
    as_json: JsonOption = False,
    *,
    reading: Reading,
) -> None:
    """Serve models over HTTP: facts, runs with interventions, and every analysis, as JSON or pictures.

    It hears on this machine alone, and answers who sends the token that it prints. Only the models named here can be
    asked for.
    """
    for path in paths:
        reading_file(path, for_programs=as_json)
    from nanogpt_lens.server.served import ServedModels
    from nanogpt_lens.server.serving import LOOPBACK, Started
    from nanogpt_lens.server.serving import serve as run

    models = ServedModels(paths, reading)
    if host not in LOOPBACK:
        typer.echo(
            f"warning: on {host} other machines can ask, and the token goes over the network in the clear; "
            "expected 127.0.0.1, or a proxy with TLS in front"
            + ("" if allowed_host else ". Other machines are refused until --allowed-host has the name they ask for"),
            err=True,
        )

    def started(server: Started) -> None:
        WAITING.done()
        if as_json:
            facts = {"url": server.url, "token": server.token, "token_file": str(server.token_file)}
            typer.echo(json.dumps({**facts, "page": server.page, "models": models.names, "labs": server.labs}))
            return
        typer.echo(f"models: {', '.join(models.names)}")
        typer.echo(f"url: {server.url}\ntoken: {server.token}\ntoken file: {server.token_file}")
        typer.echo(f"in a browser, once: {server.page}")
        typer.echo("".join(f"lab: {lab}\n" for lab in server.labs.values()) + "end it with Ctrl-C")

    run(
        models,
        host=host,
        port=port,
        allowed_hosts=allowed_host or (),
        token_file=token_file,
        cache=cache,
        waiting=queue,
        seconds=job_seconds,
        memory=int(memory * 2**30),
        started=started,
    )
