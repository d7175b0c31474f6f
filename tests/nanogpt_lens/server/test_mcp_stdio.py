"""A client of the SDK starts `nanogpt-lens mcp` as a process, and talks to it over standard input and output."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import anyio
import jsonschema
import pytest

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from nanogpt_lens.viz.export import find_browser
from tests.nanogpt_lens.server.mcp_helpers import CALLS, write_models

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": os.environ["PATH"]}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def command(folder: Path) -> list[str]:
    return ["-m", "nanogpt_lens", "mcp", *write_models(folder), "--output-folder", str(folder / "reports")]


def check_images(result) -> None:
    """An image is a PNG of some size, and is there where the document says so."""
    images = [part for part in result.content if part.type == "image"]
    assert len(images) == (result.structured_content["picture"] == "png")
    for image in images:
        content = base64.b64decode(image.data)
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", content[16:24])
        assert width == 760 * 1.5
        assert height > 200
    if find_browser():  # else the document says why there is none
        assert result.structured_content["picture"] in ("", "png")


@pytest.mark.slow
def test_a_client_lists_and_calls_every_tool(tmp_path):
    server = StdioServerParameters(command=sys.executable, args=command(tmp_path), env=ENVIRONMENT)
    progress: list[tuple] = []

    async def note(*what) -> None:
        progress.append(what)

    async def talk() -> None:
        with open(tmp_path / "stderr", "w") as log:
            async with Client(stdio_client(server, errlog=log)) as client:
                tools = {tool.name: tool for tool in (await client.list_tools()).tools}
                called = set()
                for tool, arguments in CALLS.values():
                    result = await client.call_tool(tool, arguments, progress_callback=note)
                    assert not result.is_error, result.content[0].text
                    jsonschema.validate(result.structured_content, tools[tool].output_schema)
                    called.add(tool)
                    check_images(result)
                assert called == set(tools)
                wrong = await client.call_tool("run", {"model": str(tmp_path / "tiny"), "text": "a"})
                assert wrong.is_error
                assert "\n" not in wrong.content[0].text

    anyio.run(talk)
    assert progress
    assert all(0 <= passed <= total for passed, total, _ in progress)
    assert {message for _, _, message in progress} > {"loading"}
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.slow
def test_nothing_but_the_protocol_is_on_standard_output(tmp_path):
    """Even where a library prints, also past Python's own standard output."""
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "sitecustomize.py").write_text(
        "import builtins, os, sys\n"
        "real = builtins.__import__\n"
        "def noisy(name, *rest, **more):\n"
        "    if name.startswith('transformer_lens') and 'transformer_lens' not in sys.modules:\n"
        "        print('NOISE by print')\n"
        "        os.write(1, b'NOISE by write\\n')\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = noisy\n"
    )
    asked = [
        INITIALIZE,
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "run", "arguments": {"model": "tiny", "text": "abc"}},
        },
    ]
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path / 'noisy'}{os.pathsep}{ROOT}"}
    server = subprocess.Popen(
        [sys.executable, *command(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stderr is not None
    for message in asked:
        server.stdin.write(json.dumps(message) + "\n")
        server.stdin.flush()
    answers = []
    while not any(answer.get("id") == 2 for answer in answers):
        answers.append(json.loads(server.stdout.readline()))
    server.stdin.close()
    rest, noise = server.stdout.read(), server.stderr.read()
    assert server.wait(20) == 0
    assert not rest
    assert "NOISE by print" in noise
    assert "NOISE by write" in noise
    assert not answers[-1]["result"]["isError"]


@pytest.mark.slow
def test_a_call_that_is_cancelled_ends_and_the_next_is_right(tmp_path):
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "nanogpt_lens", "mcp", "induction"], env=ENVIRONMENT
    )

    async def talk() -> None:
        run = ("run", {"model": "induction", "text": "ABCABC"})
        async with Client(stdio_client(server)) as client:
            before = await client.call_tool(*run)
            with anyio.move_on_after(3) as waiting:
                await client.call_tool("report", {"model": "induction"})
            assert waiting.cancelled_caught
            with anyio.fail_after(20):  # the whole report takes minutes
                after = await client.call_tool(*run)
            assert after.structured_content == before.structured_content

    anyio.run(talk)
