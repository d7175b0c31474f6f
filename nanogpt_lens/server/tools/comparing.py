"""`compare`: what differs between two of the models, where it sits, and what carries it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import torch
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.compare.heads import DRAWS
from nanogpt_lens.compare.mean_difference import SPLITS
from nanogpt_lens.compare.origin import ORDERS
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.mcp_asked import Name, Rows, Seed
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import CompareDocument, Control, finite, held_against
from nanogpt_lens.server.mcp_pictures import png_of
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 900.0
ComparedPart: TypeAlias = Literal[
    "outputs", "weights", "representations", "difference_lens", "heads", "transplants", "edges"
]
"""As `nanogpt_lens.compare.comparing.PARTS`."""


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Compare two of the models",
        description=(
            "Use it where the server holds two models: what did fine-tuning change, what differs between two seeds? "
            "Compares outputs (KL, loss difference), weights, representations (CKA), heads (matched by what they do) "
            "and, where the two share a start, what differs on average inside (difference_lens) and how much of the "
            "difference moves along with each component (transplants) and edge (edges). search=true also looks for "
            "the fewest components that carry nine tenths of it. Differences are `other` minus `model`. Costs half a "
            "minute for all parts of models of 2 layers, minutes for larger ones; parts=['outputs'] a sixth of that; "
            "search twice what transplants cost. Controls: rows in random order (CKA), orders of the stream's "
            "dimensions (a shared start), halves of the texts (difference_lens), unrelated heads (heads), and with "
            "search random sets of components. Parts that do not apply are left out, and caveats say why."
        ),
    )
    async def compare(
        context: Context,
        model: Name,
        other: Annotated[str, Field(max_length=200, description="the second model's name")],
        parts: Annotated[list[ComparedPart], Field(max_length=7, description="[] for all that apply")] = [],  # noqa: B006
        search: Annotated[bool, Field(description="look for the fewest parts that carry the difference")] = False,
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
                options = {"text": desk.corpus, "parts": parts or None, "search": search, "names": names, "seed": seed}
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
        caveats=_caveats(desk, made),
        picture=said,
        sentences=sentences,
        result=rows,
        control=[control for part, result in made.parts.items() for control in _controls(part, result)],
    )
    return document, png


def _caveats(desk: Desk, made: Any) -> list[str]:
    """What the numbers do not say."""
    about = desk.about_text
    if desk.text is None:
        about = "measured on text that the two models write themselves, half each, on which they are surer"
    said = [about, *(f"without {part}: {why}" for part, why in made.left_out.items())]
    if "transplants" in made.parts and made.parts["transplants"].chosen is None:
        said.append("each part alone, without a control: search=true asks for a set, and holds it against random ones")
    if "edges" in made.parts:
        said.append("edges have no control; their intervals are over the sequences")
    return said


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
        what = "whether the two share a start: the mean cosine of their matrices, against that with the stream's "
        what += "dimensions in random orders"
        drawn = finite(result.origin_p) is not None
        what = what if drawn else "no control: the stream has too few dimensions to tell a shared start by"
        return [Control(what=what, n=ORDERS if drawn else 0, p=result.origin_p)]
    if part == "representations":
        what = "the CKA of the two with the rows of one in random order: what 95 of 100 orders stay below, the largest "
        what += "of all points"
        level = result.chance.nan_to_num(-torch.inf).max()
        return [Control(what=what, n=result.n_permutations, level=level, level_is="max")]
    if part == "difference_lens":
        what = "the same between two random halves of the texts, of the first model alone: what 95 of 100 splits stay "
        what += "below, the largest of all places"
        level = result.control.nan_to_num(-torch.inf).max()
        return [Control(what=what, n=SPLITS, level=level, level_is="max")]
    if part == "heads":
        what = "the distance below which two heads are partners, as 95 of 100 draws of unrelated heads say; the mean "
        what += "over all heads"
        level = None if result.chance is None else finite(result.chance.double().nanmean())
        if level is None:
            return [Control(what="no control: layers of one head have nothing to choose from", n=0)]
        return [Control(what=what, n=DRAWS, level=level, level_is="threshold")]
    return _of_sets(result) if part == "transplants" and result.random_share is not None else []


def _of_sets(result: Any) -> list[Control]:
    """What the sets of a search are held against, in each direction."""
    kinds = ("as many components", "about as many parameters")
    by = result.measures.index(result.by)
    found = []
    for i, direction in enumerate(result.labels["direction"]):
        own = finite(result.set_share[i, by])
        for c, kind in enumerate(kinds):
            what = f"{direction}: the share of the difference that random sets of {kind} carry"
            if own is None or finite(result.set_p[i, c]) is None:
                found.append(Control(what=f"no control: {what}; there is no other set, or no sure difference", n=0))
            else:
                control = held_against(what, result.random_share[i, c].tolist())
                found.append(control.model_copy(update={"p": finite(result.set_p[i, c])}))
    return found
