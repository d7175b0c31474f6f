"""The shape of the house: imports point down, files and functions stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("conversion/**/*.py"), *ROOT.glob("nanogpt_lens/**/*.py")])

# Lowest first. A module may import from the levels before its own, and from its own level
# only where a pair says so.
LEVELS = [
    {"conversion.errors"},
    {"conversion.archives", "conversion.atomic", "conversion.backends", "conversion.config"},
    {"conversion.vocabulary", "conversion.fast_tokenizer", "conversion.state"},
    {"conversion.checkpoint"},
    {"conversion.compact", "conversion.native", "conversion.layout"},
    {"conversion.folding"},
    {"conversion.nanogpt_to_hooked", "conversion.nanogpt_to_huggingface", "conversion.transformerlens_to_nanogpt"},
    {"conversion.mending", "conversion.reloading"},
    {"conversion.nanogpt_to_bridge"},
    {"conversion.report", "conversion.edits"},
    {"conversion.saving"},
    {"conversion.judge", "conversion.reference", "conversion.val_loss"},
    {"conversion.comparing"},
    {"conversion.equivalence"},
    {"conversion"},
    {"nanogpt_lens.datasets", "nanogpt_lens.loading", "nanogpt_lens.sampling", "nanogpt_lens.training_config"},
    {"nanogpt_lens.tasks"},
    {"nanogpt_lens.exporting", "nanogpt_lens.training_loop", "nanogpt_lens.training_sample"},
    {"nanogpt_lens.training_folder"},
    {"nanogpt_lens.training"},
    {"nanogpt_lens.errors"},
    {"nanogpt_lens.access", "nanogpt_lens.intervals", "nanogpt_lens.result_files", "nanogpt_lens.whole_numbers"},
    {"nanogpt_lens.fingerprints", "nanogpt_lens.identity", "nanogpt_lens.unfinished"},
    {"nanogpt_lens.results.base", "nanogpt_lens.distributed"},
    {
        "nanogpt_lens.results.effects",
        "nanogpt_lens.results.heads",
        "nanogpt_lens.results.patching",
        "nanogpt_lens.results.lens",
        "nanogpt_lens.results.neurons",
        "nanogpt_lens.results.sae",
        "nanogpt_lens.results.trajectory",
    },
    {"nanogpt_lens.results", "nanogpt_lens.metrics", "nanogpt_lens.prompts"},
    {"nanogpt_lens.head_weights", "nanogpt_lens.batches", "nanogpt_lens.sequences", "nanogpt_lens.units"},
    {"nanogpt_lens.reading"},
    {"nanogpt_lens.streaming"},
    {"nanogpt_lens.patching.sites", "nanogpt_lens.patching.nodes"},
    {"nanogpt_lens.patching.continuation", "nanogpt_lens.patching.sources"},
    {"nanogpt_lens.patching.first_block"},
    {"nanogpt_lens.patching.runs"},
    {"nanogpt_lens.patching.runner"},
    {"nanogpt_lens.patching.sweeps"},
    {"nanogpt_lens.patching.paths", "nanogpt_lens.patching.attribution"},
    {"nanogpt_lens.patching.screening", "nanogpt_lens.patching.importance", "nanogpt_lens.pairs"},
    {"nanogpt_lens.patching"},
    {
        "nanogpt_lens.attention",
        "nanogpt_lens.change_points",
        "nanogpt_lens.composition",
        "nanogpt_lens.copying",
    },
    {"nanogpt_lens.flow"},
    {
        "nanogpt_lens.in_context",
        "nanogpt_lens.induction",
        "nanogpt_lens.matching",
        "nanogpt_lens.word_scores",
    },
    {"nanogpt_lens.task_scores"},
    {"nanogpt_lens.induction_ablation"},
    {"nanogpt_lens.taxonomy"},
    {"nanogpt_lens.induction_circuit"},
    {"nanogpt_lens.lens"},
    {"nanogpt_lens.lens.points", "nanogpt_lens.lens.unfinished"},
    {"nanogpt_lens.lens.reading"},
    {
        "nanogpt_lens.lens.logit",
        "nanogpt_lens.lens.convergence",
        "nanogpt_lens.lens.evaluation",
        "nanogpt_lens.lens.attribution",
    },
    {"nanogpt_lens.lens.tuned"},
    {"nanogpt_lens.stages", "nanogpt_lens.trajectory_measures"},
    {"nanogpt_lens.trajectories"},
    {"nanogpt_lens.neurons"},
    {
        "nanogpt_lens.neurons.activations",
        "nanogpt_lens.neurons.comoments",
        "nanogpt_lens.neurons.drawing",
        "nanogpt_lens.neurons.moments",
        "nanogpt_lens.neurons.peaks",
        "nanogpt_lens.neurons.predicates",
    },
    {"nanogpt_lens.neurons.search", "nanogpt_lens.neurons.find", "nanogpt_lens.neurons.ablation"},
    {"nanogpt_lens.neurons.statistics"},
    {"nanogpt_lens.directions"},
    {"nanogpt_lens.steering"},
    {"nanogpt_lens.sae_unfinished"},
    {"nanogpt_lens.sae"},
    {"nanogpt_lens.sae_evaluation"},
    {"nanogpt_lens.caching"},
    {"nanogpt_lens.viz"},
    {"nanogpt_lens.viz.tokens", "nanogpt_lens.viz.colours", "nanogpt_lens.viz.choosing"},
    {"nanogpt_lens.viz.style"},
    {
        "nanogpt_lens.viz.figures.choices",
        "nanogpt_lens.viz.figures.captions",
        "nanogpt_lens.viz.figures.numbers",
        "nanogpt_lens.viz.figures.drawing",
    },
    {"nanogpt_lens.viz.figures.labels"},
    {"nanogpt_lens.viz.figures.grids", "nanogpt_lens.viz.figures.heatmaps", "nanogpt_lens.viz.figures.lines"},
    {
        "nanogpt_lens.viz.figures.bars",
        "nanogpt_lens.viz.figures.flow",
        "nanogpt_lens.viz.figures.composition",
        "nanogpt_lens.viz.figures.heads",
        "nanogpt_lens.viz.figures.patching",
        "nanogpt_lens.viz.figures.generic",
        "nanogpt_lens.viz.figures.attribution",
        "nanogpt_lens.viz.figures.lens",
        "nanogpt_lens.viz.figures.neurons",
        "nanogpt_lens.viz.figures.separating",
        "nanogpt_lens.viz.figures.trajectories",
    },
    {
        "nanogpt_lens.viz.figures.attention",
        "nanogpt_lens.viz.figures.directions",
        "nanogpt_lens.viz.figures.induction",
        "nanogpt_lens.viz.figures.sae",
        "nanogpt_lens.viz.figures.tuned",
    },
    {"nanogpt_lens.viz.figures.dispatch"},
    {"nanogpt_lens.viz.figures"},
    {"nanogpt_lens.viz.export"},
    {"nanogpt_lens.viz.libraries"},
    {"nanogpt_lens.viz.page"},
    {"nanogpt_lens.viz.widget"},
    {"nanogpt_lens.viz.attention_widgets", "nanogpt_lens.viz.token_widgets"},
    {"nanogpt_lens.viz.neuron_widgets"},
    {"nanogpt_lens.viz.widgets"},
    {"nanogpt_lens.widgets"},
    {"nanogpt_lens.reporting"},
    {"nanogpt_lens.reporting.words"},
    {"nanogpt_lens.reporting.blocks", "nanogpt_lens.reporting.subject"},
    {"nanogpt_lens.reporting.section"},
    {"nanogpt_lens.reporting.page", "nanogpt_lens.reporting.sections"},
    {
        "nanogpt_lens.reporting.sections.attention",
        "nanogpt_lens.reporting.sections.certificate",
        "nanogpt_lens.reporting.sections.checkpoints",
        "nanogpt_lens.reporting.sections.heads",
        "nanogpt_lens.reporting.sections.induction",
        "nanogpt_lens.reporting.sections.lens",
        "nanogpt_lens.reporting.sections.loss",
        "nanogpt_lens.reporting.sections.neurons",
        "nanogpt_lens.reporting.sections.patching",
        "nanogpt_lens.reporting.sections.summary",
    },
    {"nanogpt_lens.reporting.making"},
    {"nanogpt_lens.cli_options"},
    {"nanogpt_lens.cli_output"},
    {"nanogpt_lens.cli_analyses", "nanogpt_lens.cli_neurons", "nanogpt_lens.cli_lenses", "nanogpt_lens.cli_report"},
    {"nanogpt_lens.cli_trajectory"},
    {"nanogpt_lens", "nanogpt_lens.cli"},
    {"nanogpt_lens.__main__"},
]
SIDEWAYS = {
    ("nanogpt_lens.results.base", "nanogpt_lens.viz.figures"),  # `.plot()`, when it is called
    ("nanogpt_lens.results.base", "nanogpt_lens.viz.widgets"),  # `.widget()`
    ("conversion.vocabulary", "conversion.fast_tokenizer"),
    ("conversion.fast_tokenizer", "conversion.vocabulary"),
}
LEVEL = {module: height for height, modules in enumerate(LEVELS) for module in modules}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, wherever in the file; not for type checking alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] in ("conversion", "nanogpt_lens")}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path):
    mine = module_name(path)
    assert mine in LEVEL, f"{mine} has no place in LEVELS"
    for imported in imports(path):
        assert LEVEL[imported] < LEVEL[mine] or (mine, imported) in SIDEWAYS, (
            f"{mine} imports {imported}, which is not below it"
        )
        assert not (mine.startswith("conversion") and imported.startswith("nanogpt_lens"))


def test_an_arrow_that_points_up_would_be_found(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from conversion.equivalence import check_equivalence\n")
    assert imports(bad) == {"conversion.equivalence"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 50, f"{node.name} is too long"
    assert path.stem != "utils"


def test_nothing_dangerous_is_written():
    words = ("weights_only=" + "False", "strict=" + "False", "pickle." + "load(", "NotImplemented" + "Error")
    for path in FILES:
        for word in words:
            assert word not in path.read_text(), f"{path} has {word}"
