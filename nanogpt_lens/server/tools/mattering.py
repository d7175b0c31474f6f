"""`find_what_matters`: the exact effect of every head and MLP on pairs of prompts."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field
from torch import Tensor

from nanogpt_lens.core.choices import Direction
from nanogpt_lens.server.mcp_asked import MOST_PAIRS, Drawn, Name, PairArgument, Rows, Seed, asked_pairs
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import Control, Effect, MattersDocument, held_against
from nanogpt_lens.server.mcp_pictures import png_of
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 300.0
FEWEST_DRAWS, MOST_DRAWS = 19, 200
"""With fewer no p can be 0.05."""

SAME_SIZE = "nanogpt_lens.patching.same_size.same_size_changes"


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Find what matters for a prompt pair",
        description=(
            "Use it when you have two prompts that differ and are answered differently, and want to know which heads "
            "and MLPs make the difference. Gives the exact effect of each: its output in one run is replaced by that "
            "of the other run, and the logit difference (answer minus wrong) is measured again. direction 'noise' "
            "puts the corrupted run's output into the clean run (what is needed), 'denoise' the reverse (what is "
            "enough). Costs 2 to 20 seconds on models of some million parameters. Give `pairs` of one length, or "
            "drawn='induction' (random tokens [A][B]...[A]) or drawn='own_text' (edits found in text that the model "
            "writes). Control: at the same place a random change of exactly the same size, `draws` times (with fewer "
            "than 19 no p could be 0.05); an effect beats it where p <= 0.05 against the largest random one of any "
            "place (so corrected for all places). With two or more pairs there are intervals and a p over pairs too."
        ),
    )
    async def find_what_matters(
        context: Context,
        model: Name,
        pairs: Annotated[list[PairArgument], Field(max_length=MOST_PAIRS, description="all of one length")] = [],  # noqa: B006
        drawn: Annotated[Drawn | None, Field(description="in place of pairs of your own")] = None,
        n: Annotated[int, Field(ge=1, le=MOST_PAIRS, description="how many pairs are drawn")] = 16,
        direction: Direction = "noise",
        draws: Annotated[int, Field(ge=FEWEST_DRAWS, le=MOST_DRAWS, description="random changes of each place")] = 39,
        k: Rows = 20,
        picture: Annotated[bool, Field(description="also an image of all heads")] = False,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, MattersDocument]:
        def ask(work: Work) -> Answered:
            served = work.model(model)
            with served.open() as loaded:
                asked = asked_pairs(loaded, pairs, drawn, n, seed)
                script = Script(served, loaded, work.step)
                return _effects(script, asked, direction, draws, k, picture, seed)

        return await desk.answer(context, ask, limit=LIMIT)


def _effects(
    script: Script, asked: Any, direction: Direction, draws: int, k: int, picture: bool, seed: int
) -> Answered:
    texts = asked.named_in(script)
    options: dict[str, Any] = {"direction": direction, "seed": seed}
    model = script.model
    sweep = "ngl.activation_patching"
    heads = script.call(
        "heads", sweep, model, *texts, activation="z", axes=["layer", "head"], **options, progress=False
    )
    mlps = script.call("mlps", sweep, model, *texts, activation="mlp_out", axes=["layer"], **options, progress=False)
    of_heads = script.call("head_controls", SAME_SIZE, model, *texts, activation="z", **options, draws=draws)
    of_mlps = script.call("mlp_controls", SAME_SIZE, model, *texts, activation="mlp_out", **options, draws=draws)
    random = torch.cat([of_heads.values.flatten(1), of_mlps.values], 1).abs().double()
    largest = random.max(1).values
    rows = [*_rows(heads, heads.clean - (heads.corrupted or 0)), *_rows(mlps, mlps.clean - (mlps.corrupted or 0))]
    for row, chance in zip(rows, random.mean(0).tolist(), strict=True):
        p = (1 + int((largest >= abs(row["effect"])).sum())) / (1 + draws)
        row |= {"chance": chance, "p_control": p, "beats_control": p <= 0.05}
    effects = sorted((Effect(**row) for row in rows), key=lambda row: -abs(row.effect or 0))
    control = held_against(
        f"at each place {draws} changes of the same size in random directions: the largest |effect| of any place",
        largest.tolist(),
    )
    png, said = png_of(heads) if picture else (None, "")
    document = MattersDocument(
        tool="find_what_matters",
        model=script.served.name,
        finding=_sentence(effects, heads, control, direction, len(asked)),
        interval="95%, Student's t over the pairs, each against itself" if len(asked) > 1 else "",
        python=script.python,
        seed=seed,
        caveats=_caveats(asked, direction, draws),
        picture=said,
        metric="logit of answer minus logit of wrong after the last token",
        n_pairs=len(asked),
        clean=heads.clean,
        corrupted=heads.corrupted,
        result=effects[:k],
        n_components=len(effects),
        control=control,
    )
    return document, png


def _rows(result: Any, gap: float) -> list[dict[str, Any]]:
    """A row for each place of a sweep, heads in their order or MLPs."""

    def flat(values: Tensor | None) -> list[float | None]:
        return [None] * result.values.numel() if values is None else values.flatten().tolist()

    if "head" in result.axes:
        layers, width = result.values.shape
        names = [f"{layer}.{head}" for layer in range(layers) for head in range(width)]
    else:
        names = [f"mlp{layer}" for layer in range(len(result.values))]
    effects = result.effect.double().flatten().tolist()
    toward = gap if result.direction == "denoise" else -gap
    return [
        {
            "component": name,
            "effect": effect,
            "low": low,
            "high": high,
            "share": effect / toward if toward else None,
            "p_pairs": None if p is None else min(1.0, 2 * p),  # two sweeps
        }
        for name, effect, low, high, p in zip(
            names, effects, flat(result.effect_low), flat(result.effect_high), flat(result.p), strict=True
        )
    ]


def _sentence(effects: list[Effect], heads: Any, control: Control, direction: str, n: int) -> str:
    strong = [row for row in effects if row.beats_control]
    gap = heads.clean - heads.corrupted
    named = ", ".join(f"{row.component} ({row.effect:+.2f}{_of_gap(row)})" for row in strong[:5])
    first = (
        f"The logit difference is {heads.clean:.2f} on the clean and {heads.corrupted:.2f} on the corrupted prompts "
        f"({n} pair{'s' if n > 1 else ''}, a gap of {gap:.2f})."
    )
    what = f"{len(strong)} of {len(effects)} heads and MLPs"
    above = f"than 95% of the largest random changes of the same size ({control.level:.2f})"
    if not strong:
        return f"{first} No head and no MLP does more {above}, {direction}."
    return f"{first} {what} do more {above}: {named}{', ...' if len(strong) > 5 else ''}."


def _of_gap(row: Effect) -> str:
    return "" if row.share is None else f", {row.share:.0%} of the gap"


def _caveats(asked: Any, direction: str, draws: int) -> list[str]:
    said = [
        asked.about,
        "each component alone: two that stand in for each other can both look small",
        "needed is not the same as enough: ask for the other direction too",
        f"p_control cannot be below {1 / (1 + draws):.3f}; it is about these pairs, not about others",
    ]
    if len(asked) < 2:
        said.append("one pair: no interval, and what holds here need not hold elsewhere")
    elif len(asked) < 8:
        said.append(f"few pairs: n = {len(asked)}")
    return said
