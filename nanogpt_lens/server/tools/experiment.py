"""`run`: what comes next after a text, with interventions and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from mcp.server.mcpserver import Context, MCPServer
from mcp.types import CallToolResult
from pydantic import Field
from torch import Tensor

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.interventions.intervention import as_interventions
from nanogpt_lens.model.access import n_tokens, token_labels
from nanogpt_lens.server.mcp_asked import (
    MOST_INTERVENTIONS,
    MOST_LETTERS,
    Ids,
    Name,
    Rows,
    Seed,
    text_or_ids,
    token_of,
)
from nanogpt_lens.server.mcp_desk import Answered, Desk
from nanogpt_lens.server.mcp_documents import Control, LikelyToken, RunDocument, held_against
from nanogpt_lens.server.mcp_elsewhere import same_elsewhere
from nanogpt_lens.server.mcp_script import Script
from nanogpt_lens.server.mcp_work import Work

LIMIT = 120.0
CONTROLS = 20


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""

    @server.tool(
        title="Run a text, with interventions",
        description=(
            "Runs one text and says what comes next; with interventions, also what they change: next tokens, "
            "KL divergence, and a metric (logit of `answer` minus logit of `wrong`). Costs under a second, some "
            "seconds with interventions. An intervention is an object: {'place': '1.0', 'source': 'zero'} takes out "
            "head 0 of layer 1; places are '0.1' (a head), '0.1.k' (its keys; q, k, v), 'mlp0', 'L3N33' (a neuron), "
            "'0.1->1.0.k' (an edge); 'pos' picks positions. source: 'zero', 'mean', 'resample' (these two over "
            "`reference` texts), 'other' (the run on `other`, of the same length), or {'scale': 2.0}. Control: the "
            "same interventions at up to 20 random places of the same kind that the experiment does not touch; p says "
            "how many of them do as much. Few places give few controls, and no small p."
        ),
    )
    async def run(
        context: Context,
        model: Name,
        text: Annotated[str, Field(max_length=MOST_LETTERS, description="what is run; or ids")] = "",
        ids: Annotated[Ids | None, Field(description="token ids in place of text")] = None,
        interventions: Annotated[
            list[dict[str, Any]], Field(max_length=MOST_INTERVENTIONS, description="made in their order")
        ] = [],  # noqa: B006 - it is read only
        answer: Annotated[str, Field(max_length=100, description="one token, or '' for the likeliest one")] = "",
        wrong: Annotated[str, Field(max_length=100, description="one token, or '' for the second likeliest")] = "",
        other: Annotated[str, Field(max_length=MOST_LETTERS, description="the text that 'other' takes from")] = "",
        reference: Annotated[
            list[Annotated[str, Field(max_length=MOST_LETTERS)]],
            Field(max_length=64, description="texts for 'mean' and 'resample', of one length"),
        ] = [],  # noqa: B006
        k: Rows = 10,
        seed: Seed = 0,
    ) -> Annotated[CallToolResult, RunDocument]:
        def ask(work: Work) -> Answered:
            served = work.model(model)
            with served.open() as loaded:
                tokens = text_or_ids(text, ids, loaded)
                script = Script(served, loaded, work.step)
                experiment = _Experiment(script, tokens, interventions, other, reference, seed)
                return experiment.answer(answer, wrong, k), None

        return await desk.answer(context, ask, limit=LIMIT)


class _Experiment:
    """A text, and what is done to it."""

    def __init__(
        self,
        script: Script,
        tokens: list[int],
        interventions: Sequence[dict[str, Any]],
        other: str,
        reference: Sequence[str],
        seed: int,
    ) -> None:
        self.script, self.model, self.tokens, self.seed = script, script.model, tokens, seed
        self.metric = ""
        self.some = as_interventions(list(interventions))
        self.options: dict[str, Any] = {"seed": seed}
        if other:
            self.options["other"] = other
        if reference:
            self.options["reference"] = list(reference)

    def answer(self, answer: str, wrong: str, k: int) -> RunDocument:
        """The document."""
        plain = [one.to_json() for one in self.some]
        tokens = self.script.name("ids", self.tokens)
        own = self.script.call("without", "ngl.intervene", self.model, tokens, [], seed=self.seed)
        best = own.base[0, -1, : n_tokens(self.model)].topk(2).indices.tolist()
        pair = [
            token_of(self.model, given, name) if given else usual
            for given, name, usual in ((answer, "answer", best[0]), (wrong, "wrong", best[1]))
        ]
        if pair[0] == pair[1]:
            raise AnalysisError(f"answer and wrong are the same token ({pair[0]}); expected two")
        labels = token_labels(self.model, torch.tensor(pair))
        self.metric = "logit of {!r} minus logit of {!r} after the last token".format(*labels)
        metric = self.script.call("metric", "ngl.metrics.logit_diff", *pair)
        options = {"metric": metric, **self.options}
        result = self.script.call("result", "ngl.intervene", self.model, tokens, plain, **options)
        control, elsewhere = self._control(result, tokens, options)
        return RunDocument(
            tool="run",
            model=self.script.served.name,
            finding=self._sentence(result, control),
            interval="",
            python=self.script.python,
            seed=self.seed,
            caveats=["one text: what holds here need not hold elsewhere", *self._caveats(control)],
            tokens=list(token_labels(self.model, torch.tensor(self.tokens))),
            ids=self.tokens,
            next_tokens=self._likeliest(result.base[0, -1], k),
            next_tokens_changed=self._likeliest(result.values[0, -1], k) if self.some else [],
            metric=self.metric,
            metric_value=result.base_metric[0],
            metric_changed=result.metric[0],
            kl_last=result.kl[0, -1],
            kl_mean=result.kl.mean(),
            interventions=plain,
            control=control,
            control_interventions=elsewhere,
        )

    def _control(self, result: Any, tokens: Any, options: dict[str, Any]) -> tuple[Control, list[list[dict[str, Any]]]]:
        """What the same does elsewhere."""
        what = "the same interventions at other places of the same kind, drawn at random: |change of the metric|"
        sets = (
            same_elsewhere(self.model, self.some, n=CONTROLS, seed=self.seed, n_pos=len(self.tokens))
            if self.some
            else []
        )
        if not sets:
            why = "no other places of this kind were found" if self.some else "nothing was changed"
            return Control(what=f"no control: {why}", n=0), []
        plain = [[one.to_json() for one in some] for some in sets]
        results = self.script.each("controls", "ngl.intervene", plain, self.model, tokens, **options)
        changes = torch.stack([one.change.abs()[0].double() for one in results])
        own = result.change.abs()[0].double()
        ordered = changes.sort(descending=True)
        control = held_against(what, changes.tolist(), float(own))
        return control, [plain[i] for i in ordered.indices.tolist()]

    def _likeliest(self, logits: Tensor, k: int) -> list[LikelyToken]:
        logits = logits[: n_tokens(self.model)].double()
        best = logits.softmax(-1).topk(min(k, len(logits)))
        labels = token_labels(self.model, best.indices)
        return [
            LikelyToken(token=label, id=i, probability=p, logit=float(logits[i]))
            for label, i, p in zip(labels, best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def _sentence(self, result: Any, control: Control) -> str:
        before, after = self._likeliest(result.base[0, -1], 1)[0], self._likeliest(result.values[0, -1], 1)[0]
        said = f"After this text {before.token!r} comes next with probability {before.probability:.3f}"
        if not self.some:
            return f"{said}."
        said += f", with the interventions {after.token!r} with {after.probability:.3f}; "
        said += f"the {self.metric} goes from {float(result.base_metric[0]):.3f} to {float(result.metric[0]):.3f}"
        said += f", KL {float(result.kl[0, -1]):.3f} nats."
        if control.p is not None:
            most = "at most" if control.level_is == "max" else "mostly at most"
            said += f" At {control.n} other places the change is {most} {control.level:.3f} (p = {control.p:.2f})."
        return said if control.n else f"{said} There is no control."

    def _caveats(self, control: Control) -> list[str]:
        if not self.some:
            return []
        if not control.n:
            return [control.what]
        own = [] if "reference" in self.options else [one for one in self.some if one.source in ("mean", "resample")]
        means = ["'mean' and 'resample' are of this text alone; give reference for others"] if own else []
        few = [f"few controls: n = {control.n}, so that p cannot be below {1 / (1 + control.n):.2f}"]
        return [*means, *(few if control.n < CONTROLS else [])]
