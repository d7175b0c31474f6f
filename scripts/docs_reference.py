"""The pages of the reference, from the table of public names: every name has a place, or the site is not built."""

from __future__ import annotations

import ast
from pathlib import Path

from nanogpt_lens import _MODULES, _NAMES

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "models": ("Load, prove, sample, save", ("conversion", "nanogpt_lens.model")),
    "texts": ("Texts, prompts, tasks", ("nanogpt_lens.text",)),
    "training": ("Train, and follow a run", ("nanogpt_lens.training", "nanogpt_lens.runs")),
    "heads": ("Heads and attention", ("nanogpt_lens.heads",)),
    "interventions": ("Interventions and patching", ("nanogpt_lens.interventions", "nanogpt_lens.patching")),
    "circuits": ("Circuits and scrubbing", ("nanogpt_lens.circuits",)),
    "lenses": ("Lenses and losses", ("nanogpt_lens.lens", "nanogpt_lens.losses")),
    "neurons": (
        "Neurons, directions, autoencoders",
        ("nanogpt_lens.neurons", "nanogpt_lens.directions", "nanogpt_lens.sae"),
    ),
    "comparing": ("Two models", ("nanogpt_lens.compare",)),
    "pictures": ("Report, lab, pictures", ("nanogpt_lens.reporting", "nanogpt_lens.lab", "nanogpt_lens.viz")),
    "metrics": ("Metrics", ("nanogpt_lens.running",)),
    "results": ("Results", ("nanogpt_lens.results",)),
    "catalogue": ("Catalogue and errors", ("nanogpt_lens.catalogue", "nanogpt_lens.core")),
}
"""Pages, their titles, and the modules and folders whose names are on them."""
INTRODUCTIONS = {
    "results": "What all of them have stands [in one table](../ANALYSES.md#what-every-result-has).",
    "metrics": "`ngl.metrics`: what is measured of the logits. Any function from logits to a number will do.",
    "pictures": "Figures come from `result.plot()`: [Figures and widgets](../PICTURES.md).",
    "catalogue": "`ngl.catalogue` has every analysis by name, `ngl.errors` every error: one sentence each.",
    "interventions": "What can be replaced, and by what: [Interventions](../ANALYSES.md#interventions).",
    "circuits": "Definitions, and what came out: [Circuits](../CIRCUITS.md), [Causal scrubbing](../SCRUBBING.md).",
    "heads": "Definitions, conventions and chance levels: [Attention](../ANALYSES.md#attention).",
    "lenses": "Definitions: [Lenses and neurons, defined](../LENSES_AND_NEURONS.md).",
    "neurons": "Definitions: [Lenses and neurons, defined](../LENSES_AND_NEURONS.md).",
    "training": "Tasks, measures, and what formed means: [Training dynamics](../TRAINING_DYNAMICS.md).",
    "comparing": "What each part of a comparison is: [Two models side by side](../COMPARING.md).",
    "models": "Which files are read: [Files](../FILES.md). What a proof is: [The certificate](../CERTIFICATE.md).",
    "texts": "What may be given as a corpus stands [on the first page](index.md).",
}
"""A line for the top of each page."""
BARE = {"viz": ("export", "figures")}
"""Public modules whose submodules are imported by name: `from nanogpt_lens.viz.export import to_png`."""


def exported(module: str) -> list[str]:
    """The public names of a module: its `__all__`, else the functions and classes that it defines."""
    path = ROOT / (module.replace(".", "/") + ".py")
    tree = ast.parse((path if path.exists() else path.with_suffix("") / "__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
            return sorted(ast.literal_eval(node.value))
    named = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return [node.name for node in named if not node.name.startswith("_")]


def public_names() -> dict[str, str]:
    """What people type, without `ngl.`, and where it is defined: `find_circuit`, `metrics.logit_diff`."""
    names = {name: f"{module}.{name}" for module, several in _NAMES.items() for name in several}
    for short, module in _MODULES.items():
        for part in BARE.get(short, ("",)):
            place, prefix = (f"{module}.{part}", f"{short}.{part}") if part else (module, short)
            names |= {f"{prefix}.{name}": f"{place}.{name}" for name in exported(place) if name not in names}
    return names


def page_of(place: str) -> str:
    """The page on which a name of that module stands; KeyError where no page takes it."""
    for page, (_, folders) in FOLDERS.items():
        if any(place == folder or place.startswith(folder + ".") for folder in folders):
            return page
    raise KeyError(f"scripts/docs_reference.py: no page takes {place}; expected its folder in FOLDERS")


def entry(name: str, place: str) -> str:
    """What mkdocstrings is asked for one name."""
    shown = f"nanogpt_lens.{name}" if name.startswith("viz.") else f"ngl.{name}"
    return f'::: {place}\n    options:\n      heading: "{shown}"\n      toc_label: "{name}"\n'


def reference_pages() -> dict[str, str]:
    """All pages of the reference that are made from the sources, by their path in the site."""
    by_page: dict[str, list[str]] = {page: [] for page in FOLDERS}
    for name, place in sorted(public_names().items(), key=lambda item: ("." in item[0], item[0].lower())):
        by_page[page_of(place)].append(entry(name, place))
    return {
        f"reference/{page}.md": "\n\n".join([f"# {FOLDERS[page][0]}", INTRODUCTIONS[page], *entries])
        for page, entries in by_page.items()
    }
