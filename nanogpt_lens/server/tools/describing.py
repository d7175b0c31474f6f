"""`describe`: what models are there, and what they are like."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.server.mcp_asked import Seed
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import Control, DescribeDocument, HeadNames, ModelFacts
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work
from nanogpt_lens.server.served import ServedModel

LIMIT = 300.0

CAN_BE_ASKED = {
    "run": "what comes next after a text, with and without interventions",
    "find_what_matters": "the exact effect of every head and MLP on a pair of prompts",
    "find_circuit": "the few edges that do the work, and whether that stands",
    "describe_component": "what one head or neuron is",
    "compare": "what differs between two of the models",
    "report": "one page with everything",
    "picture": "any analysis of the catalogue as an image",
}


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Describe the models",
        description=(
            "Start here. Lists the models that this server holds (small GPT-2-like transformers, as nanoGPT trains "
            "them) and says of each: shape, vocabulary, whether its conversion is proven, its loss beside that of a "
            "uniform guess, and which heads earned a name (induction, previous token, ...). Costs 10 to 60 seconds a "
            "model, 3 with with_heads=false. Control: a head's name is earned only by a score that is surely, for "
            "all heads together, above a threshold that random tokens or rotations do not reach."
        ),
    )
    async def describe(
        context: Context,
        model: Annotated[str, Field(max_length=200, description="one model's name; '' for all")] = "",
        with_heads: Annotated[bool, Field(description="also look at the heads and the loss (seconds)")] = True,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, DescribeDocument]:
        def ask(work: Work) -> Answered:
            names = [model] if model else desk.models.names
            return _described(desk, work, names, with_heads, seed), None

        return await desk.answer(context, ask, limit=LIMIT)


def _described(desk: Desk, work: Work, names: list[str], with_heads: bool, seed: int) -> DescribeDocument:
    facts: list[ModelFacts] = []
    lines: list[str] = []
    for name in names:
        served = work.model(name)
        with served.open() as model:
            script = Script(served, model, work.step)
            facts.append(_facts(desk, served, model, script, with_heads, seed))
        lines.append(script.python)
    return DescribeDocument(
        tool="describe",
        model=", ".join(names),
        finding=" ".join(map(_sentence, facts)),
        interval="95%, Student's t over the sequences" if with_heads else "",
        python="\n".join(lines),
        seed=seed,
        caveats=[desk.about_text, "certificate without edits at every hook; `nanogpt-lens check` makes those too"],
        result=facts,
        control=[
            Control(
                what=f"loss of a uniform guess over the vocabulary, {one.name}; nothing is drawn",
                n=0,
                level=one.loss_by_chance,
                level_is="mean",
            )
            for one in facts
            if with_heads
        ],
        can_be_asked=CAN_BE_ASKED,
    )


def _facts(desk: Desk, served: ServedModel, model: Any, script: Script, with_heads: bool, seed: int) -> ModelFacts:
    certificate = script.call("certificate", "ngl.check", served.path, edits=False, **served.reading.changed())
    cfg, vocabulary = model.cfg, model.nanogpt_origin.vocabulary
    characters = "".join(getattr(vocabulary, "chars", ()))
    facts: dict[str, Any] = {}
    heads: list[HeadNames] = []
    if with_heads:
        size = max(2, min(64, cfg.n_ctx))
        loss = script.call("loss", "ngl.text_loss", model, desk.corpus, seq_len=size, n=32, seed=seed)
        facts = {"loss": loss.values, "loss_low": loss.low, "loss_high": loss.high, "loss_by_chance": loss.chance}
        if cfg.n_ctx >= 4:
            named = script.call("heads", "ngl.head_taxonomy", model, desk.corpus, seq_len=size, n=32, seed=seed)
            places = [(layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
            heads = [
                HeadNames(head=f"{layer}.{head}", names=list(named.of(layer, head)))
                for layer, head in places
                if named.of(layer, head)
            ]
    facts = {name: None if facts.get(name) is None else float(facts[name]) for name in _LOSSES}
    return ModelFacts(
        name=served.name,
        n_layers=cfg.n_layers,
        n_heads=cfg.n_heads,
        d_model=cfg.d_model,
        d_mlp=cfg.d_mlp,
        n_ctx=cfg.n_ctx,
        d_vocab=cfg.d_vocab,
        n_params=served.reading.checkpoint(served.path).n_params,
        vocabulary="none" if vocabulary is None else vocabulary.kind,
        characters=characters,
        sha256=certificate.sha256 or "",
        proven=certificate.passed,
        certificate=certificate.verdict(),
        heads=heads,
        named_before=with_heads,
        **facts,
    )


_LOSSES = ("loss", "loss_low", "loss_high", "loss_by_chance")


def _sentence(one: ModelFacts) -> str:
    proven = "proven equal to its checkpoint" if one.proven else "NOT proven equal to its checkpoint"
    said = f"{one.name}: {one.n_layers} layers of {one.n_heads} heads, {one.n_params:,} parameters, {proven}"
    if one.loss is None:
        return f"{said}."
    named = ", ".join(f"{head.head} ({', '.join(head.names)})" for head in one.heads) or "none"
    return f"{said}; its loss is {one.loss:.3f} nats (a guess: {one.loss_by_chance:.3f}); heads with a name: {named}."
