"""`describe_component`: what one head or neuron is."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.grammar import read_place
from nanogpt_lens.model.access import token_labels
from nanogpt_lens.server.mcp_asked import Name, Rows, Seed
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import ComponentDocument, Control, Example, Score, TokenPush, held_against
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 300.0
WINDOW = 16
WINDOWS = "nanogpt_lens.text.corpus.windows"


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Describe one head or neuron",
        description=(
            "Use it to learn what one head ('1.0') or neuron ('L3N33') is. Of a head: its scores (induction, "
            "previous token, copying, ...) each with its chance level, 95% interval and the threshold that a name "
            "needs, the names it earned, and where it attends most. Of a neuron: the excerpts on which it is "
            "highest and the tokens that it promotes. Of both: what taking it out (its mean in its place) costs in "
            "loss, and what it adds to the logit of the true next token. Costs 5 to 40 seconds. Control of the cost: "
            "all other heads, or 20 random other neurons of the layer; p is the share that costs as much."
        ),
    )
    async def describe_component(
        context: Context,
        model: Name,
        component: Annotated[str, Field(max_length=20, description="'1.0' or 'L1H0' a head, 'L3N33' a neuron")],
        n: Annotated[int, Field(ge=4, le=128, description="how many sequences are measured on")] = 32,
        k: Rows = 10,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, ComponentDocument]:
        def ask(work: Work) -> Answered:
            served = work.model(model)
            with served.open() as loaded:
                layer, index, is_head = _place(loaded, component)
                script = Script(served, loaded, work.step)
                one = _Component(desk, script, layer, index, n, k, seed)
                return (one.head() if is_head else one.neuron()), None

        return await desk.answer(context, ask, limit=LIMIT)


def _place(model: Any, component: str) -> tuple[int, int, bool]:
    """The layer and the number, and whether it is a head.

    Raises:
        AnalysisError: there is no such head or neuron.
    """
    place = read_place(component)
    if place is None or place.part or place.kind not in ("unit", "head", "neuron"):
        raise AnalysisError(f"component is {component!r}; expected a head such as '1.0', or a neuron such as 'L1N33'")
    is_head = place.kind != "neuron"
    width = model.cfg.n_heads if is_head else model.cfg.d_mlp
    if place.layer >= model.cfg.n_layers or place.index >= width:
        raise AnalysisError(
            f"there is no {'head' if is_head else 'neuron'} {component}; the model has {model.cfg.n_layers} layers of "
            f"{width} {'heads' if is_head else 'neurons'}, counted from 0"
        )
    return place.layer, place.index, is_head


class _Component:
    """One head or neuron, and what it is measured on."""

    def __init__(self, desk: Desk, script: Script, layer: int, index: int, n: int, k: int, seed: int) -> None:
        self.desk, self.script, self.model = desk, script, script.model
        self.layer, self.index, self.n, self.k, self.seed = layer, index, n, k, seed
        self.size = max(2, min(64, int(script.model.cfg.n_ctx)))

    def texts(self) -> Any:
        """Sequences of the start's text, or of the model's own."""
        options = {"seq_len": self.size, "n": self.n, "seed": self.seed}
        return self.script.call("texts", WINDOWS, self.model, self.desk.corpus, **options)

    def direct(self, texts: Any, components: str, name: str) -> float:
        """What it adds to the logit of the true next token, the mean over all positions."""
        split = self.script.call(
            "direct", "ngl.direct_logit_attribution", self.model, texts, components=components, pos=None
        )
        return float(split.values[split.labels["component"].index(name)].double().mean())

    def head(self) -> ComponentDocument:
        """The document of a head."""
        name = f"{self.layer}.{self.index}"
        texts = self.texts()
        options = {"seq_len": self.size, "n": self.n, "seed": self.seed}
        scores, names = [], []
        if self.model.cfg.n_ctx >= 4:
            heads = self.script.call("heads", "ngl.head_taxonomy", self.model, texts, **options)
            scores, names = self._scores(heads), list(heads.of(self.layer, self.index))
        losses = self.script.call("losses", "ngl.head_importance", self.model, texts, **options, progress=False)
        place = (self.layer, self.index)
        own, others = float(losses.values[place]), losses.values.double().flatten().tolist()
        del others[self.layer * self.model.cfg.n_heads + self.index]
        control = held_against(_elsewhere(others, "each other head of the model"), others, own)
        return self._document(
            name,
            "head",
            control,
            names=names,
            result=scores,
            excerpts=self._attended(texts),
            ablation=own,
            ablation_low=losses.low[place],
            ablation_high=losses.high[place],
            direct_effect=self.direct(texts, "heads", name),
        )

    def neuron(self) -> ComponentDocument:
        """The document of a neuron."""
        name = f"L{self.layer}N{self.index}"
        texts = self.texts()
        options = {
            "layers": [self.layer],
            "window": min(WINDOW, self.size),
            "k": min(self.k, self.n),
            "seed": self.seed,
        }
        search = self.script.call("search", "ngl.search_neurons", self.model, texts, **options, progress=False)
        page = search.page(self.layer, self.index)
        without = self.script.call(
            "without", "ngl.ablate_neurons", self.model, texts, [name], source="mean", n=None, seed=self.seed,
            progress=False,
        )  # fmt: skip
        rises = without.at(score="rise").double().tolist()
        place = without.labels["score"].index("rise")
        others = rises[1:]
        control = held_against(_elsewhere(others, "random other neurons of the layer"), others, rises[0])
        return self._document(
            name,
            "neuron",
            control,
            names=[],
            result=[],
            excerpts=[Example(text=one.text, token=one.token, activation=one.value) for one in page.highest],
            promotes=[TokenPush(token=token, logit=logit) for token, logit in page.promoted],
            suppresses=[TokenPush(token=token, logit=logit) for token, logit in page.suppressed],
            ablation=rises[0],
            ablation_low=without.low[0, place],
            ablation_high=without.high[0, place],
            direct_effect=self.direct(texts, "neurons", f"mlp{self.layer}.{self.index}"),
        )

    def _scores(self, heads: Any) -> list[Score]:
        return [
            Score(
                score=name,
                value=heads.values[place],
                chance=heads.chance[place],
                low=heads.low[place],
                high=heads.high[place],
                threshold=heads.threshold[place],
                earned=bool(heads.carries[place]),
            )
            for i, name in enumerate(heads.labels["score"])
            for place in [(i, self.layer, self.index)]
        ]

    def _attended(self, texts: Any) -> list[Example]:
        """Where the head attends most, at most one place a text; not to itself and not to the first token."""
        patterns = self.script.call("patterns", "ngl.attention_patterns", self.model, texts, layers=[self.layer])
        weights = patterns.values[:, 0, self.index].double()
        size = weights.shape[-1]
        weights = (weights * torch.ones(size, size).tril(-1))[:, :, 1:]
        if not weights.shape[-1]:
            return []
        best = weights.flatten(1).max(1)
        rows = best.values.topk(min(self.k, len(best.values)))
        found = []
        for row, weight in zip(rows.indices.tolist(), rows.values.tolist(), strict=True):
            at, to = divmod(int(best.indices[row]), size - 1)
            labels = token_labels(self.model, patterns.tokens[row])
            found.append(
                Example(text="".join(labels[max(0, to + 1 - 8) : at + 1]), token=labels[to + 1], activation=weight)
            )
        return found

    def _document(self, name: str, kind: Any, control: Control, **fields: Any) -> ComponentDocument:
        cost, p = fields["ablation"], control.p
        low, high = fields["ablation_low"], fields["ablation_high"]
        told = ", ".join(fields["names"]) or ("no name" if kind == "head" else "")
        said = f"{kind.capitalize()} {name}" + (f" earned {told}" if told else "") + ": without it the loss changes by "
        said += f"{cost:+.4f} nats per token ({float(low):+.4f} to {float(high):+.4f})"
        if p is not None:
            said += f"; p = {p:.2f} among {control.n} {'other heads' if kind == 'head' else 'random other neurons'}"
        said += f". It adds {fields['direct_effect']:+.3f} logits to the true next token on average."
        fields = {"promotes": [], "suppresses": [], **fields}
        return ComponentDocument(
            tool="describe_component",
            model=self.script.served.name,
            finding=said,
            interval="95%, Student's t or bootstrap over the sequences",
            python=self.script.python,
            seed=self.seed,
            caveats=[
                self.desk.about_text,
                f"{self.n} sequences of {self.size} tokens",
                "the cost is of this component alone; others may stand in for it",
                "excerpts show where it is highest, not what it is for",
            ],
            component=name,
            kind=kind,
            control=control,
            **fields,
        )


def _elsewhere(others: list[float], which: str) -> str:
    """What a control is, in words."""
    return f"the rise of the loss without {which}" if others else "no control: there is no other of its kind"
