"""`find_circuit`: the few edges that do the work, and whether that stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.results.validation import IDEAL
from nanogpt_lens.server.mcp_asked import MOST_PAIRS, AskedPairs, Drawn, Name, PairArgument, Rows, Seed, asked_pairs
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import Check, CircuitDocument, CircuitEdge, Control
from nanogpt_lens.server.mcp_pictures import png_of
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 900.0
MOST_EDGES = 2000
Method: TypeAlias = Literal["exact", "greedy", "eap", "eap_ig", "acdc"]


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Find a circuit and validate it",
        description=(
            "Use it after find_what_matters, when you want the edges (what one head, MLP or the embedding gives to "
            "another) that together do what the whole model does on pairs of prompts. Finds the smallest circuit of "
            "the ranking that reaches `faithfulness`, then checks it: held-out pairs, random circuits of the same "
            "size, completeness, minimality, edge by edge. Give 4 pairs or more (half are held out), or drawn= as in "
            "find_what_matters. Costs 5 seconds (method 'eap', 2 layers) to some minutes ('greedy', 4 layers and "
            "more). Control: random circuits with as many edges; p is the share of them that come as near to all of it."
        ),
    )
    async def find_circuit(
        context: Context,
        model: Name,
        pairs: Annotated[list[PairArgument], Field(max_length=MOST_PAIRS, description="all of one length")] = [],  # noqa: B006
        drawn: Annotated[Drawn | None, Field(description="in place of pairs of your own")] = None,
        n: Annotated[int, Field(ge=2, le=MOST_PAIRS, description="how many pairs are drawn")] = 16,
        method: Annotated[Method, Field(description="how edges are ranked; the circuit is always run")] = "exact",
        faithfulness: Annotated[float, Field(gt=0, le=1, description="share of the gap that is asked for")] = 0.9,
        n_edges: Annotated[int | None, Field(ge=1, le=MOST_EDGES, description="so many edges in place of that")] = None,
        n_random: Annotated[int, Field(ge=20, le=500, description="random circuits, for the control")] = 100,
        k: Rows = 30,
        picture: Annotated[bool, Field(description="also an image of the circuit")] = False,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, CircuitDocument]:
        def ask(work: Work) -> Answered:
            served = work.model(model)
            with served.open() as loaded:
                asked = asked_pairs(loaded, pairs, drawn, n, seed)
                script = Script(served, loaded, work.step)
                search = {"method": method, "n_edges": n_edges, "faithfulness": faithfulness}
                return _circuit(script, asked, search, n_random, k, picture, seed)

        return await desk.answer(context, ask, limit=LIMIT)


def _circuit(
    script: Script, asked: AskedPairs, search: dict[str, Any], n_random: int, k: int, picture: bool, seed: int
) -> Answered:
    half = (len(asked) + 1) // 2 if len(asked) >= 4 else len(asked)
    first, rest = asked.part(slice(0, half)), asked.part(slice(half, None))
    texts = first.named_in(script)
    options: dict[str, Any] = {"seed": seed}
    circuit = script.call(
        "circuit", "ngl.find_circuit", script.model, *texts, **search, orders=0, **options, progress=False
    )
    if not circuit.n_edges:
        raise AnalysisError(_no_edge(search["n_edges"]))
    if len(rest):
        options["held_out"] = script.name("held_out", rest.named_in(script, "_held_out"))
    validation = script.call(
        "validation", "ngl.validate_circuit", script.model, circuit, *texts, n_random=n_random, **options
    )
    return _document(script, asked, len(rest), circuit, validation, k, picture, seed)


def _no_edge(n_edges: int | None) -> str:
    """Why there is no circuit, in a sentence."""
    if n_edges is None:
        return "the circuit has no edge; ask for n_edges, or pairs on which the model does something"
    return (
        f"n_edges is {n_edges}, but no edge is left: none of those that were chosen is on a path from the "
        "embeddings to the logits; ask for more edges, or another method or pairs"
    )


def _document(
    script: Script,
    asked: AskedPairs,
    held_out: int,
    circuit: Any,
    validation: Any,
    k: int,
    picture: bool,
    seed: int,
) -> Answered:
    png, said = png_of(circuit) if picture else (None, "")
    low, high = circuit.faithfulness_interval or (None, None)
    places = {name: i for i, name in enumerate(circuit.labels["edge"])}
    edges = [
        CircuitEdge(edge=name, faithfulness_without=circuit.without[places[name]], p=p)
        for name, p in zip(validation.edges, validation.edge_p.tolist(), strict=True)
    ]
    edges.sort(key=lambda edge: int(circuit.rank[places[edge.edge]]))
    document = CircuitDocument(
        tool="find_circuit",
        model=script.served.name,
        finding=_sentence(circuit, validation, held_out),
        interval="95%, Student's t over the pairs, or over what was drawn; null where a check has none",
        python=script.python,
        seed=seed,
        caveats=_caveats(asked, circuit, held_out),
        picture=said,
        metric="logit of answer minus logit of wrong after the last token",
        n_pairs=len(asked) - held_out,
        n_held_out=held_out,
        n_edges=circuit.n_edges,
        n_edges_of_model=len(circuit.kept),
        faithfulness=circuit.faithfulness,
        low=low,
        high=high,
        faithfulness_held_out=validation.check("held_out") if held_out else None,
        minimal=circuit.is_minimal,
        result=edges[:k],
        checks=_checks(validation),
        control=Control(
            what=f"random circuits of {circuit.n_edges} edges: their mean faithfulness; p is the share of them that "
            "come as near to 1",
            n=validation.provenance["arguments"]["n_random"],
            level=validation.check("random_circuits"),
            level_is="mean",
            p=validation.p_of("random_circuits"),
        ),
    )
    return document, png


def _checks(validation: Any) -> list[Check]:
    names = validation.labels["check"]
    columns = [tensor.tolist() for tensor in (validation.values, validation.low, validation.high, validation.p)]
    return [
        Check(check=name, value=value, low=low, high=high, p=p, ideal=IDEAL.get(name), means=validation.scores[name])
        for name, value, low, high, p in zip(names, *columns, strict=True)
    ]


def _sentence(circuit: Any, validation: Any, held_out: int) -> str:
    said = f"{circuit.n_edges} of {len(circuit.kept)} edges do {circuit.faithfulness:.0%} of what all do"
    if held_out:
        said += f", {validation.check('held_out'):.0%} on {held_out} held-out pairs"
    return (
        f"{said}; random circuits of that size do {validation.check('random_circuits'):.0%} "
        f"(p = {validation.p_of('random_circuits'):.3f})."
    )


def _caveats(asked: AskedPairs, circuit: Any, held_out: int) -> list[str]:
    said = [asked.about, "faithfulness is in sample: the edges were chosen on these pairs"]
    if not held_out:
        said.append(f"nothing is held out: {len(asked)} pairs are too few, give 4 or more")
    if circuit.few_examples:
        said.append(circuit.few_examples)
    if not circuit.is_minimal:
        said.append(f"not minimal: {len(circuit.removable)} edges could go, each alone")
    said.append("other circuits may do the same: this is one of them")
    return said
