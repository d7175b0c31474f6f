"""The model itself in the report: the lab, where anybody can switch parts off and see what changes."""

from __future__ import annotations

from typing import Any

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.lab.making import lab
from nanogpt_lens.reporting.blocks import LabBlock
from nanogpt_lens.reporting.section import Content, DoesNotApply, Recipe
from nanogpt_lens.reporting.subject import Subject

MOST_PARAMS = 1_500_000
"""A larger model would make the report a file that nobody sends: about 6 MB for 1.1 million parameters."""

_SAYS = "The model is in this page and computes here: click a part to switch it off, and see what follows."
_CAPTION = (
    "Click a head or an MLP to switch it off, change the prompts, set an attention, "
    "add a direction: the predictions below are the model's own, with and without your changes."
)


def _make(subject: Subject) -> Content:
    again = subject.command("lab", "-o", "lab.html", text=True)
    if subject.n_params > MOST_PARAMS:
        raise DoesNotApply(
            f"The model has {subject.n_params:,} parameters, and the report carries at most {MOST_PARAMS:,} inside it: "
            f"`{again}` writes a page of its own."
        )
    made = lab(subject.model, text=subject.corpus, prompts=_prompts(subject), findings=False, seed=subject.seed)
    checks = len(made.payload["proof"]["cases"])
    about = f"It is checked against PyTorch on opening: {checks} runs with interventions of every kind."
    payload = {**made.payload, "name": subject.name, "code": f"ngl.load({subject.name!r})"}
    block = LabBlock(payload=payload, weights=made.weights, caption=f"{_CAPTION} {about}")
    return Content(body=(block,), commands=(again,), findings=(_SAYS,), glance="switch parts off, see what follows")


def _prompts(subject: Subject) -> list[dict[str, Any]] | None:
    """The user's own prompts, or the pair that was found in the text; None where there is none."""
    if subject.pair is not None:
        given = subject.pair.options()
        return [{"other": given["corrupted"], **{key: given.get(key) for key in ("clean", "answer", "wrong")}}]
    try:
        (pair,) = subject.prompt_pairs(1)
    except AnalysisError:
        return None
    return [{"clean": pair.clean, "other": pair.corrupted, "answer": pair.answer, "wrong": pair.wrong}]


RECIPE = Recipe(
    key="lab",
    title="Try it yourself",
    reading="The model is in this page and computes here. The grid shows what each part does for the expected token; a "
    "click switches the part off, and everything else follows.",
    make=_make,
)
