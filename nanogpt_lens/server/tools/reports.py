"""`report`: one offline page with everything, written where the start said."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.server.mcp_asked import Name, Seed
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import ReportDocument
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 1800.0


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Write a report",
        description=(
            "Writes one offline HTML page about a model (certificate, loss, heads, attention, induction, lens, "
            "patching, circuits, neurons, a lab) into the folder that the server was started with, and gives its path "
            "and findings. Use it at the end, for people. Costs some minutes; with sections=['loss', 'heads'] less. "
            "Controls stand beside every figure of the page."
        ),
    )
    async def report(
        context: Context,
        model: Name,
        sections: Annotated[
            list[Annotated[str, Field(max_length=40)]],
            Field(max_length=30, description="certificate, loss, heads, ...; [] for all that apply"),
        ] = [],  # noqa: B006 - it is read only
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, ReportDocument]:
        def ask(work: Work) -> Answered:
            return _written(desk, work, model, sections, seed), None

        return await desk.answer(context, ask, limit=LIMIT)


def _written(desk: Desk, work: Work, name: str, sections: list[str], seed: int) -> ReportDocument:
    served = work.model(name)
    script = Script(served, None, work.step)
    options: dict[str, Any] = {"corpus": desk.corpus, "sections": sections or None, "seed": seed}
    options |= served.reading.changed()
    with desk.report_folder() as folder:
        output = folder / f"{served.name}-report.html"
        made = script.call("report", "ngl.report", served.path, **options, output=str(output), progress=False)
    findings = list(dict.fromkeys(sentence for section in made.sections for sentence in section.findings))
    size = len(made.html.encode()) / 1e6
    failed = ", ".join(section.key for section in made.failed)
    equal = {True: "proven equal", False: "NOT proven equal", None: "equality not checked"}[made.passed]
    return ReportDocument(
        tool="report",
        model=served.name,
        finding=f"The report has {len(made.sections)} sections ({equal}) and {size:.2f} MB"
        + (f"; failed: {failed}." if failed else "."),
        interval="",
        python=script.python,
        seed=seed,
        caveats=[desk.about_text],
        path=str(output),
        megabytes=size,
        proven=made.passed,
        result=findings,
        sections={section.key: section.status for section in made.sections},
    )
