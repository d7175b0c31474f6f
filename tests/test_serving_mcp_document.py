"""docs/SERVING.md, as MCP: the client runs as it stands, and the table and the bounds are those of the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

pytest.importorskip("mcp")

from mcp import Client

from nanogpt_lens.server import mcp_asked
from nanogpt_lens.server.mcp_app import make_server
from nanogpt_lens.server.tools import mattering

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "SERVING.md").read_text().partition("## As MCP")[2]
DOCUMENT = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[0]


def test_the_table_names_every_tool():
    async def names():
        async with Client(make_server(["induction"])) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    assert re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE) == anyio.run(names)


def test_the_bounds_are_those_of_the_code():
    bounds = f"{mcp_asked.MOST_LETTERS:,} letters", f"{mcp_asked.MOST_PAIRS} pairs", f"{mcp_asked.MOST_ROWS} rows"
    draws = f"{mattering.FEWEST_DRAWS} to {mattering.MOST_DRAWS}\n  random changes"
    for bound in (*bounds, draws, f"{mcp_asked.MOST_INTERVENTIONS} interventions"):
        assert bound in DOCUMENT


def test_the_seconds_are_those_of_the_code():
    from nanogpt_lens.server import tools
    from nanogpt_lens.server.tools import components, describing, experiment, finding_circuits, mattering, pictures

    longest = tools.comparing, tools.reports
    assert longest[0].LIMIT == finding_circuits.LIMIT
    assert f"run {experiment.LIMIT:.0f};" in DOCUMENT
    assert {module.LIMIT for module in (describing, mattering, components, pictures)} == {300.0}
    assert f"find_circuit and compare {finding_circuits.LIMIT:.0f}; report {longest[1].LIMIT:,.0f}" in DOCUMENT


@pytest.mark.slow
def test_the_client_runs_as_it_stands(tmp_path):
    (client,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "client.py").write_text(client)
    done = subprocess.run([sys.executable, tmp_path / "client.py"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "find_what_matters" in done.stdout
    assert "8 pairs" in done.stdout
