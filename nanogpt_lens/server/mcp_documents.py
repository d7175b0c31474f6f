"""What the tools answer: one document each, with the same frame.

A number that is not finite is null: JSON has no other word for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

SCHEMA_VERSION = "1"
"""Of all documents; it changes when a field changes its meaning or goes."""


LevelIs: TypeAlias = Literal["q95", "max", "mean", "threshold"]
"""What the level of a control is."""

MOST_VALUES = 200
"""The values of so many controls are listed at most."""


def finite(value: Any) -> float | None:
    """A number, or None where it is not finite."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


if TYPE_CHECKING:
    Number: TypeAlias = Any
else:
    Number = Annotated[float | None, BeforeValidator(finite)]


class Part(BaseModel):
    """A part of a document."""

    model_config = ConfigDict(extra="forbid")


class Control(Part):
    """What a result is held against."""

    what: str = Field(description="what was done in place of the thing studied; begins with 'no control' where nothing")
    n: int = Field(description="how many controls were drawn; 0 where none were, as where a level is exact")
    level: Number = Field(default=None, description="what the result is held against, in its unit; level_is says what")
    level_is: LevelIs | None = Field(
        default=None,
        description="'q95': what is above it has p <= 0.05, at most 1 control in 20 is; 'max': the largest of the "
        "controls, or of the chance levels of all places; 'mean': their mean; 'threshold': a line that a rule draws, "
        "which `what` names; null where level is",
    )
    p: Number = Field(
        default=None,
        description="(1 + controls at least as large) / (1 + controls), where one value is studied; null else",
    )
    values: list[Number] = Field(
        default_factory=list, description=f"the controls' own values, largest first, at most {MOST_VALUES}"
    )

    @model_validator(mode="after")
    def _level_has_a_name(self) -> Control:
        """A level that is not finite is none, and has no name; another has one."""
        if self.level is None:
            self.level_is = None
        elif self.level_is is None:
            raise ValueError("a level needs level_is")
        return self


def held_against(what: str, values: Sequence[float], own: float | None = None) -> Control:
    """A control whose own values are known.

    Args:
        what: what was done in place of the thing studied.
        values: of each control.
        own: the value studied; None where there are several.

    Returns:
        the control, whose level is such that exactly what is above it has p <= 0.05. With fewer than 19 controls no
        p is so small: the level is then the largest of them.
    """
    ordered = sorted((float(value) for value in values if math.isfinite(value)), reverse=True)
    n = len(ordered)
    if not n:
        return Control(what=what, n=0)
    above = (n + 1) // 20 - 1  # so many controls may be as large where p <= 0.05
    return Control(
        what=what,
        n=n,
        level=ordered[max(above, 0)],
        level_is="q95" if above >= 0 else "max",
        p=None if own is None else (1 + sum(value >= own for value in ordered)) / (1 + n),
        values=ordered[:MOST_VALUES],
    )


class Document(Part):
    """The frame of every answer."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    tool: str = Field(description="the tool that answered")
    model: str = Field(description="the name of the model that was asked")
    finding: str = Field(description="one or two sentences that name the numbers")
    interval: str = Field(description="what low and high are; '' where the answer has no interval")
    python: str = Field(description="the lines of Python that give the numbers again, in the package nanogpt_lens")
    seed: int | None = Field(description="of everything that was drawn; null where nothing was")
    caveats: list[str] = Field(description="what the numbers do not say")
    picture: str = Field(default="", description="'png' where an image follows; else why there is none, or ''")


class HeadNames(Part):
    """A head that earned a name."""

    head: str
    names: list[str]


class ModelFacts(Part):
    """A model, as a whole."""

    name: str
    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    n_params: int
    vocabulary: str = Field(description="its kind, or 'none': without one, texts must be given as ids")
    characters: str = Field(description="the characters that a text may have, where the vocabulary is of characters")
    sha256: str
    proven: bool = Field(description="whether the model here computes what the checkpoint's own code does")
    certificate: str = Field(description="the verdict in a sentence")
    loss: Number = Field(description="mean loss of the next token, nats; of the text given at the start, or its own")
    loss_low: Number
    loss_high: Number
    loss_by_chance: Number = Field(description="a uniform guess")
    heads: list[HeadNames] = Field(description="heads that earned a name, surely above the threshold for all together")
    named_before: bool = Field(description="whether heads were looked at; false where with_heads was false")


class DescribeDocument(Document):
    """What `describe` answers."""

    result: list[ModelFacts]
    control: list[Control]
    can_be_asked: dict[str, str] = Field(description="the other tools, and what each is for")


class LikelyToken(Part):
    """A token that may come next."""

    token: str
    id: int
    probability: float
    logit: float


class RunDocument(Document):
    """What `run` answers."""

    tokens: list[str]
    ids: list[int]
    next_tokens: list[LikelyToken] = Field(description="after the last token, without interventions")
    next_tokens_changed: list[LikelyToken] = Field(description="the same with the interventions; empty where none")
    metric: str
    metric_value: Number
    metric_changed: Number
    kl_last: Number = Field(description="KL(without || with) after the last token, nats")
    kl_mean: Number = Field(description="the same, mean over all positions")
    interventions: list[dict[str, Any]] = Field(description="as they were understood")
    control: Control = Field(description="of the absolute change of the metric; of kl_last where there is no metric")
    control_interventions: list[list[dict[str, Any]]]


class Effect(Part):
    """What one head or MLP does."""

    component: str
    effect: Number = Field(description="change of the metric, mean over the pairs")
    low: Number = None
    high: Number = None
    share: Number = Field(description="effect / (gap between the clean and the corrupted run); 1 is all of it")
    p_pairs: Number = Field(default=None, description="against no effect over the pairs, corrected for all components")
    p_control: Number = Field(description="against random changes of the same size, corrected for all components")
    chance: Number = Field(description="mean |effect| of random changes of the same size at this very place")
    beats_control: bool


class MattersDocument(Document):
    """What `find_what_matters` answers."""

    metric: str
    n_pairs: int
    clean: Number = Field(description="the metric of the clean run")
    corrupted: Number = Field(description="the metric of the corrupted run")
    result: list[Effect] = Field(description="largest |effect| first")
    n_components: int
    control: Control


class CircuitEdge(Part):
    """An edge of a circuit."""

    edge: str
    faithfulness_without: Number
    p: Number = Field(description="that it matters no more than a random edge, corrected by Holm")


class Check(Part):
    """One check of a circuit."""

    check: str
    value: Number
    low: Number
    high: Number
    p: Number
    ideal: Number
    means: str


class CircuitDocument(Document):
    """What `find_circuit` answers."""

    metric: str
    n_pairs: int
    n_held_out: int
    n_edges: int
    n_edges_of_model: int
    faithfulness: Number = Field(description="share of the gap; on the pairs that it was found on")
    low: Number
    high: Number
    faithfulness_held_out: Number
    minimal: bool = Field(description="whether no edge can go alone, with the faithfulness still within the tolerance")
    result: list[CircuitEdge]
    checks: list[Check]
    control: Control


class Score(Part):
    """A score of a head."""

    score: str
    value: Number
    chance: Number
    low: Number
    high: Number
    threshold: Number
    earned: bool


class Example(Part):
    """An excerpt of a text."""

    text: str
    token: str
    activation: Number


class TokenPush(Part):
    """A token whose logit is raised or lowered."""

    token: str
    logit: Number


class ComponentDocument(Document):
    """What `describe_component` answers."""

    component: str
    kind: Literal["head", "neuron"]
    names: list[str]
    result: list[Score] = Field(description="of a head; empty for a neuron")
    excerpts: list[Example] = Field(description="of a neuron, where it is highest; of a head, where it attends most")
    promotes: list[TokenPush] = Field(description="of a neuron: what a unit of activation adds to logits")
    suppresses: list[TokenPush]
    ablation: Number = Field(description="rise of the loss without it, nats per token")
    ablation_low: Number
    ablation_high: Number
    direct_effect: Number = Field(description="what it adds to the logit of the true next token, on average")
    control: Control = Field(description="of the rise of the loss: other heads, or random other neurons of the layer")


class ReportDocument(Document):
    """What `report` answers."""

    path: str
    megabytes: float
    proven: bool | None
    result: list[str] = Field(description="the findings of the first page, one a line")
    sections: dict[str, str] = Field(description="the status of each section")
    control: list[Control] = Field(default_factory=list)


class PictureDocument(Document):
    """What `picture` answers."""

    analysis: str
    quantity: str
    definition: str
    axes: list[str]
    result: list[dict[str, Any]] = Field(description="the largest values, a row each")
    control: Control


class CompareDocument(Document):
    """What `compare` answers."""

    other: str = Field(description="the name of the second model")
    sentences: list[str]
    result: list[dict[str, Any]] = Field(description="the largest differences, a row each")
    control: list[Control] = Field(default_factory=list)
