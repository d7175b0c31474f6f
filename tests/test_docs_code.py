"""The code of docs/ is true: every Python block, command and line of names.md runs alone, in a fresh folder."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from conversion.backends import resolve_backend
from nanogpt_lens import catalogue
from tests.docs_pages import PAGES, blocks
from tests.nanogpt_lens.cli.test_cli import run

pytestmark = pytest.mark.slow

ELSEWHERE = {"SERVING.md", "reference/command-line.md"}
"""A page whose code has tests of its own, with a server; and one whose blocks are usages, made from the commands."""
TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\n" * 20
PYTHON = [(page, i) for page in PAGES if page not in ELSEWHERE for i in range(len(blocks(page, "python")))]
CONSOLE = [
    (page, i)
    for page in PAGES
    if page not in ELSEWHERE
    for i, block in enumerate(blocks(page, "console"))
    if "$ nanogpt-lens" in block
]
ROWS = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", PAGES["names.md"], flags=re.MULTILINE)
GIVES = {
    "NeuronPage": "`find_max_activating_examples`",
    "NeuronAblation": "`ablate_neuron`",
    "PatchingResult": "`patch_activation`|`patching.get_act_patch_resid_pre`|`direct_path_patching`",
    "InterventionResult": "`ablate_head`, `knockout_head`",
    "Widget": "`visualize_attention_pattern`, all heads|`circuitsvis.tokens.colored_tokens`",
    "Figure": "`track_attention_flow`|`visualize_prediction_evolution`|`analyze_neuron_behavior`",
    "Tensor": "`extract_attention_patterns`|`generate_repeated_tokens`|`tokenize_and_concatenate`",
    "list": "`induction_attn_detector`",
    "tuple": "`Pythia` checkpoints, `checkpoint_index`",
    "DataFrame": "`get_layer_predictions`|`cache.logit_attrs`, `cache.stack_head_results`",
    "str": "`model.generate` (past the context)",
    "Scores": "`compute_induction_score`|`attention_entropy`|`head_detector.detect_head`|`get_comp_score`",
    "Circuit": "ACDC, auto-circuit: `run_prune_algos`",
    "Scrubbing": "Redwood's causal scrubbing",
}
"""What the line of a row is worth: a kind of thing, and the names on the left that ask for it."""
SOUGHT = """get_activations patch_activation extract_attention_patterns visualize_attention_head
compute_attention_importance track_attention_flow visualize_prediction_evolution find_max_activating_examples
ablate_neuron analyze_neuron_behavior"""


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """An empty folder but for a text; a registered analysis is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "ANALYSES", dict(catalogue.ANALYSES))
    (tmp_path / "input.txt").write_text(TEXT)


def without_sae(code: str) -> bool:
    """Whether the code needs SAELens, and it is not there."""
    needed = re.search(r"\bsae\b|sae_lens", code)
    return needed is not None and (resolve_backend("auto") != "hooked" or find_spec("sae_lens") is None)


@pytest.mark.parametrize(("page", "i"), PYTHON)
def test_a_block_runs(page, i):
    code = blocks(page, "python")[i]
    if without_sae(code):
        pytest.skip("needs SAELens and TransformerLens 3.9")
    exec(compile(code, f"{page}, block {i + 1}", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("page", "i"), CONSOLE)
def test_commands_run(page, i):
    """In order within a block; a server is not started, pip installs nothing, and training is cut short."""
    for hypothesis in blocks(page, "yaml"):
        Path("hypothesis.yaml").write_text(hypothesis)
    for line in re.sub(r"\\\n", " ", blocks(page, "console")[i]).splitlines():
        words = shlex.split(line[2:], comments=True) if line.startswith("$ nanogpt-lens") else []
        if not words or words[1] in ("serve", "mcp", "--install-completion", "--show-completion"):
            continue
        if words[1] == "train" and "--max-iters" not in words:
            words += ["--max-iters", "20", "--eval-interval", "10", "--eval-iters", "2"]
        code, shown, error = run(*words[1:])
        assert code == 0, f"{line}\n{shown}{error}"


@pytest.mark.timeout(600)
def test_every_line_of_the_names_runs():
    names: dict = {"__name__": "__main__"}
    (setup,) = blocks("names.md", "python")
    exec(setup, names)
    assert len(ROWS) > 60
    kinds = {}
    for asked, line in ROWS:
        if without_sae(line):
            continue
        if re.match(r"with |import |[\w, ]+ = ", line):
            exec(compile(line, f"names.md: {line}", "exec"), names)
        else:
            kinds[asked] = type(eval(compile(line, f"names.md: {line}", "eval"), names)).__name__
    assert not {"method", "function"} & set(kinds.values())
    expected = {asked: kind for kind, several in GIVES.items() for asked in several.split("|")}
    assert {asked: kinds[asked] for asked in expected} == expected


def test_the_names_that_people_look_for_are_there():
    assert {name for name in SOUGHT.split() if f"`{name}`" not in PAGES["names.md"]} == set()
