"""`picture`: any analysis of the catalogue that needs no prompt pairs, as an image and as its largest values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

import torch
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens import catalogue
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.mcp_asked import MOST_LETTERS, Ids, Name, Rows, Seed, text_or_ids
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import Control, PictureDocument
from nanogpt_lens.server.mcp_pictures import png_of
from nanogpt_lens.server.mcp_script import Script, public
from nanogpt_lens.server.mcp_work import Work

LIMIT = 300.0
MOST = 4096
"""The largest whole number that an option may be."""

_NOT_ASKED = ("progress", "resume", "sae", "seed", "engine", "memory", "device")
_NOT_HERE = ("train_tuned_lens", "intervene", "train")

Value: TypeAlias = int | float | str | bool | list[int] | None


def allowed() -> list[str]:
    """The analyses that can be asked for: those that need no more than a text."""
    return [
        name
        for name, analysis in catalogue.ANALYSES.items()
        if name not in _NOT_HERE
        and analysis.looks_at in ("weights", "random tokens", "corpus", "text")
        and set(analysis.needs()) <= {"corpus", "text"}
    ]


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""
    names = allowed()

    @server.tool(
        title="A picture of an analysis",
        description=(
            "Draws one analysis as an image (PNG) and gives its largest values. Use it where numbers alone are hard "
            "to read, such as attention_patterns or logit_lens of a text. Costs 1 to 30 seconds. Needs kaleido and "
            "Chromium where the server runs; without them the values come alone, and `picture` says why. Control: "
            "the analysis' own chance level, where it has one. Analyses: " + ", ".join(names) + "."
        ),
    )
    async def picture(
        context: Context,
        model: Name,
        analysis: Annotated[str, Field(max_length=100, description="one of the analyses in the description")],
        text: Annotated[
            str, Field(max_length=MOST_LETTERS, description="for analyses of a text; others measure on it if given")
        ] = "",
        ids: Annotated[Ids | None, Field(description="token ids in place of text")] = None,
        options: Annotated[
            dict[str, Value], Field(max_length=20, description="of the analysis, such as {'n': 16}")
        ] = {},  # noqa: B006 - it is read only
        k: Rows = 10,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, PictureDocument]:
        def ask(work: Work) -> Answered:
            served = work.model(model)
            chosen = _analysis(analysis)
            asked = _options(chosen, options, seed)
            with served.open() as loaded:
                script = Script(served, loaded, work.step)
                return _drawn(desk, script, chosen, text, ids, asked, k)

        return await desk.answer(context, ask, limit=LIMIT)


def _analysis(name: str) -> Any:
    if name not in allowed():
        raise AnalysisError(f"there is no analysis {name!r} to draw; expected one of {', '.join(allowed())}")
    return catalogue.find(name)


def _options(analysis: Any, options: Mapping[str, Value], seed: int) -> dict[str, Any]:
    """The options, of which none may be a path or too large.

    Raises:
        AnalysisError: one that there is not, or that may not be asked for from outside.
    """
    known = {name: default for name, default in analysis.options().items() if name not in _NOT_ASKED}
    for name, value in options.items():
        if name not in known:
            words = ", ".join(known) or "none"
            raise AnalysisError(f"{analysis.name} has no option {name!r} that can be asked for; expected {words}")
        if isinstance(value, str) and not (len(value) <= 40 and value.replace("_", "").replace(" ", "").isalnum()):
            raise AnalysisError(f"the option {name} is {value[:40]!r}; expected a plain word")
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(one, int | float) and not -MOST <= one <= MOST for one in numbers):
            raise AnalysisError(f"the option {name} is {value!r}; expected numbers of at most {MOST}")
    if "seed" in analysis.options():
        return {**options, "seed": seed}
    return dict(options)


def _drawn(
    desk: Desk, script: Script, analysis: Any, text: str, ids: list[int] | None, options: dict[str, Any], k: int
) -> Answered:
    sources: list[Any] = []
    if analysis.looks_at == "text":
        sources = [script.name("text", text_or_ids(text, ids, script.model))]
    elif analysis.looks_at == "corpus":
        sources = [_corpus(desk, script, text, ids)]
    elif text or ids is not None:
        raise AnalysisError(f"{analysis.name} looks at {analysis.looks_at}, and takes no text; leave it out")
    if "progress" in analysis.options():
        options = {**options, "progress": False}
    public = _public(analysis)
    result = script.call("result", public, script.model, *sources, **options)
    png, said = png_of(result)
    rows = result.top(k).to_dict("records") if result.values.dim() else [{"value": float(result.values)}]
    chance = getattr(result, "chance", None)
    level = None if chance is None else chance.double().nanmean()
    return (
        PictureDocument(
            tool="picture",
            model=script.served.name,
            finding=_sentence(analysis, result, level),
            interval={"t": "95%, Student's t", "bootstrap": "95%, bootstrap"}.get(result.interval or "", ""),
            python=script.python,
            seed=options.get("seed"),
            caveats=[*([desk.about_text] if sources == [desk.corpus] else []), *filter(None, [result.few_examples])],
            picture=said,
            analysis=analysis.name,
            quantity=result.quantity,
            definition=result.definition[:2000],
            axes=list(result.axes),
            result=[{str(name): _plain(value) for name, value in row.items()} for row in rows],
            control=Control(
                what="no control: the analysis has no chance level of its own"
                if level is None
                else "chance level, the mean over all places",
                n=0,
                level=level,
                level_is="mean",
            ),
        ),
        png,
    )


def _corpus(desk: Desk, script: Script, text: str, ids: list[int] | None) -> Any:
    """Ids of what the client gave, or the text of the start: a text of a client never names a file."""
    if not text and ids is None:
        return desk.corpus
    given = text_or_ids(text, ids, script.model, is_corpus=True)
    return script.name("text", torch.tensor(given), f"torch.tensor({given})", imports="import torch")


def _public(analysis: Any) -> str:
    """The function as it is written in Python."""
    if analysis.name in public().__all__:
        return f"ngl.{analysis.name}"
    return f"{analysis.function.__module__}.{analysis.name}"


def _sentence(analysis: Any, result: Any, level: Any) -> str:
    values = result.values.double()
    finite = values[values.isfinite()] if values.dim() else values.reshape(1)
    said = f"{analysis.name}: {result.heading}"
    if len(finite):
        said += f", from {float(finite.min()):.3f} to {float(finite.max()):.3f}"
    return f"{said}{'' if level is None else f'; by chance {float(level):.3f}'}."


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, bool | str) or value is None:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
