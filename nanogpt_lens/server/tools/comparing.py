"""`compare`: what differs between two of the models, where it sits, and what carries it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.mcp_asked import Name, Rows, Seed
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import CompareDocument, Control, finite
from nanogpt_lens.server.mcp_pictures import png_of
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 900.0
ComparedPart: TypeAlias = Literal["outputs", "weights", "representations", "difference_lens", "heads", "transplants"]


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Compare two of the models",
        description=(
            "Use it where the server holds two models: what did fine-tuning change, what differs between two seeds? "
            "Compares outputs (KL, loss difference), weights, representations (CKA), heads (matched by what they do) "
            "and, where the two share a start, transplants: how much of the difference moves along with each "
            "component. Differences are `other` minus `model`. Costs 10 seconds to some minutes; parts=['outputs'] "
            "less. Controls: rows in random order (CKA), orders of the stream's dimensions (a shared start), random "
            "sets of components (transplants), heads that have no partner. Parts that do not apply are left out, and "
            "caveats say why."
        ),
    )
    async def compare(
        context: Context,
        model: Name,
        other: Annotated[str, Field(max_length=200, description="the second model's name")],
        parts: Annotated[list[ComparedPart], Field(max_length=6, description="[] for all that apply")] = [],  # noqa: B006
        k: Rows = 10,
        picture: Annotated[bool, Field(description="also an image of the part that says most")] = False,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, CompareDocument]:
        def ask(work: Work) -> Answered:
            first, second = work.model(model), work.model(other)
            if first is second:
                raise AnalysisError(
                    f"model and other are both {model!r}; expected two of {', '.join(desk.models.names)}"
                )
            with first.open() as loaded, second.open() as beside:
                script = Script(first, loaded, work.step)
                script.name("other", beside, second.python)
                names = [first.name, second.name]
                options = {"text": desk.corpus, "parts": parts or None, "names": names, "seed": seed}
                made = script.call("comparison", "ngl.compare", loaded, beside, **options, progress=False)
                return _document(desk, script, names, made, k, picture, seed)

        return await desk.answer(context, ask, limit=LIMIT)


def _document(desk: Desk, script: Script, names: list[str], made: Any, k: int, picture: bool, seed: int) -> Answered:
    if not made.parts:
        raise AnalysisError(f"nothing can be compared: {'; '.join(made.left_out.values())}")
    png, said = png_of(made.plot()) if picture else (None, "")
    sentences = list(made.sentences())
    rows = [{"part": part, **row} for part, result in made.parts.items() for row in _rows(result, k)]
    intervals = sorted({result.interval for result in made.parts.values() if result.interval})
    document = CompareDocument(
        tool="compare",
        model=names[0],
        other=names[1],
        finding=" ".join(sentences[:2]),
        interval=f"95%, of {', '.join(intervals)}" if intervals else "",
        python=script.python,
        seed=seed,
        caveats=[desk.about_text, *(f"without {part}: {why}" for part, why in made.left_out.items())],
        picture=said,
        sentences=sentences,
        result=rows,
        control=[control for part, result in made.parts.items() for control in _controls(part, result)],
    )
    return document, png


def _rows(result: Any, k: int) -> list[dict[str, Any]]:
    """The largest values of a part."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in result.top(k).to_dict("records")]


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bool | str) or value is None:
        return value
    try:
        number = finite(value)
    except (TypeError, ValueError):
        return str(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else number


def _controls(part: str, result: Any) -> list[Control]:
    """What a part is held against."""
    if part == "weights":
        return [
            Control(
                what="whether the two share a start: the mean cosine of their matrices, against that with the stream's "
                "dimensions in random orders",
                n=999,
                level=None,
                p=None if result.origin == "identical" else result.origin_p,
            )
        ]
    if part == "representations":
        what = "the CKA of the two with the rows of one in random order; the largest of all points"
        return [Control(what=what, n=result.n_permutations, level=result.chance.max())]
    if part == "heads":
        what = "the distance below which two heads are taken for partners; the mean over all heads"
        level = None if result.chance is None else result.chance.double().nanmean()
        return [Control(what=what, n=0, level=level)]
    if part == "transplants" and result.random_share is not None:
        return [
            Control(
                what=f"{direction}: the share of the difference that random sets of as many components carry",
                n=result.random_share.shape[-1],
                level=result.random_share[i, 0].double().nanquantile(0.95),
                p=None if result.set_p is None else result.set_p[i, 0],
            )
            for i, direction in enumerate(result.labels["direction"])
        ]
    return []
