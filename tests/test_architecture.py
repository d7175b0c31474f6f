"""The shape of the house: the folder is the layer, nothing imports upward, files and functions stay small."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("conversion/**/*.py"), *ROOT.glob("nanogpt_lens/**/*.py")])

RANKS: dict[str, int] = {
    "conversion": 0,
    "core": 1,
    "model": 2,
    **dict.fromkeys(("text", "results"), 3),
    **dict.fromkeys(("viz", "running", "training"), 4),
    **dict.fromkeys(("interventions", "losses"), 5),
    **dict.fromkeys(("heads", "lens", "neurons", "patching", "sae"), 6),
    **dict.fromkeys(("circuits", "directions"), 7),
    **dict.fromkeys(("catalogue", "compare", "lab"), 8),
    **dict.fromkeys(("runs", "reporting"), 9),
    "server": 10,  # it makes reports and follows runs
    "cli": 11,
    **dict.fromkeys(("nanogpt_lens", "__main__"), 12),
}
"""A file may import from lower ranks and from its own folder; folders of one rank stay apart."""

EXCEPTION = ("nanogpt_lens.results.base", "viz")
"""`.plot()` and `.widget()` of a result reach up to the pictures, when they are called."""

AT_THE_ROOT = {"__init__.py", "__main__.py", "catalogue.py", "py.typed"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def room(module: str) -> str:
    """The folder of a module; a file at the root is a room of its own."""
    first, *rest = module.split(".")
    return first if first == "conversion" or not rest else rest[0]


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, wherever in the file; not for type checking alone."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names.update(name if name in MODULES else node.module for name in whole)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name for name in names if name.split(".")[0] in ("conversion", "nanogpt_lens")}


def points_down(importer: str, imported: str) -> bool:
    here, there = room(importer), room(imported)
    return here == there or RANKS[there] < RANKS[here] or (importer, there) == EXCEPTION


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_point_down(path):
    for imported in imports(path):
        assert imported in MODULES, f"{module_name(path)} imports {imported}, which is not there"
        assert points_down(module_name(path), imported), f"{module_name(path)} imports {imported}, which is not below"


def test_no_circle_inside_a_folder():
    graph = {name: {i for i in imports(path) if room(i) == room(name)} - {name} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_an_arrow_that_points_up_would_be_seen(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from nanogpt_lens.heads import attention\n")
    assert imports(bad) == {"nanogpt_lens.heads.attention"}
    assert not points_down("nanogpt_lens.text.prompts", "nanogpt_lens.heads.attention")
    assert not points_down("nanogpt_lens.lens.logit", "nanogpt_lens.heads.attention")
    assert not points_down("conversion.config", "nanogpt_lens.core.errors")
    assert not points_down("nanogpt_lens.results.lens", "nanogpt_lens.viz.page")


def test_every_file_is_in_a_room():
    assert {room(module) for module in MODULES} <= set(RANKS)
    package = ROOT / "nanogpt_lens"
    assert {path.name for path in package.iterdir() if path.is_file()} <= AT_THE_ROOT
    assert {path.name for path in package.iterdir() if path.is_dir()} <= set(RANKS) | {"__pycache__", "_checkpoints"}


def test_two_classes_never_share_a_name():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


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
