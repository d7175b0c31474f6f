"""Every analysis with a model that is smaller than its defaults: they are clipped; what was asked for is refused.

A result comes back, or one sentence that says what the model lacks: none that speaks of a number nobody gave.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.catalogue import ANALYSES
from nanogpt_lens.results import Result
from tests.making import write, write_meta
from tests.nanogpt_lens.cli.test_cli import run

TOYS: dict[str, dict[str, Any]] = {
    "parity": {"chars": "01", "block_size": 3},
    "pair": {"chars": "01", "block_size": 2},
    "wide": {"chars": "01", "block_size": 64},
    "letters": {"chars": "abcdefgh", "block_size": 40},
}
OPTIONS: dict[str, dict[str, Any]] = {"train_tuned_lens": {"steps": 2}}
LACKS = {
    "score_heads": r"context is \d tokens",
    "head_taxonomy": r"context is \d tokens",
    "syntax_attention": r"sequences of \d tokens; expected at least 2 of 4|has none of",
    "prefix_matching": r"context is \d tokens",
    "repeated_sequence_loss": r"context is \d tokens",
    "find_induction_heads": r"context is \d tokens",
    "induction_accuracy": r"context is \d tokens|vocabulary has \d tokens",
    "patched_heads": r"context is \d tokens|vocabulary has \d tokens",
    "induction_composition": r"the model has 1 layer",
    "ablate_induction_heads": r"context is \d tokens|no induction head: the highest prefix matching is",
    "in_context_learning_score": r"of a context of 2;",
    "scrub": r"there is nothing to recover",
}
"""What an analysis may say that such a model lacks."""


ELSEWHERE = ("evaluate_sae", "text_quality", "evaluate_lens", "task_accuracy", "task_heads")
"""Analyses that need more than a model and a text: an autoencoder, words, a lens, a task with its own vocabulary."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each toy, with a text of twelve characters."""
    found = {}
    for name, sizes in TOYS.items():
        folder = tmp_path_factory.mktemp(name)
        write_meta(folder, sizes["chars"])
        others = {key: value for key, value in sizes.items() if key != "chars"}
        write(folder, **({"n_layer": 1, "n_head": 1, "n_embd": 4, "vocab_size": len(sizes["chars"])} | others))
        (folder / "text.txt").write_text(text_of(sizes["chars"]))
        found[name] = folder
    return found


def text_of(chars):
    return "".join(np.random.default_rng(1).permutation(list(chars) * 12)[:12])


@cache
def model_of(folder):
    return ngl.load(folder)


def arguments(name, model, text):
    """What an analysis looks at behind the model, and the options that it must have."""
    ids = model.tokenizer.encoder.encode(text)
    clean = torch.from_numpy(np.array([0, 1, 0])[: model.cfg.n_ctx].copy())
    corrupted = torch.from_numpy(np.array([1, 1, 0])[: model.cfg.n_ctx].copy())
    pair = (clean, corrupted, ngl.metrics.logit_diff(0, 1))
    direction = torch.arange(model.cfg.d_model) + 1.0
    triples = torch.cartesian_prod(*[torch.arange(2)] * 3)  # two tokens and the answer
    known: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        **dict.fromkeys(
            ("activation_patching", "attribution_patching", "screen_and_verify"),
            (pair, {"activation": "z", "axes": ("layer",)}),
        ),
        **dict.fromkeys(("edge_effects", "edge_attribution", "find_circuit", "grade_circuit_methods"), (pair, {})),
        **dict.fromkeys(("run_circuit", "validate_circuit"), ((["embed->logits"], *pair), {})),
        "scrub": (({"logits": {"reads": {"embed": {"depends_on": "token"}}}}, triples), {}),
        "path_patching": (pair, {"senders": "heads", "receivers": ["logits"]}),
        "find_neurons": ((text, np.arange(len(ids)) % 2 == 0), {}),
        "ablate_neurons": ((text, ["0.1"]), {}),
        "intervene": ((clean, [{"activation": "z", "layer": 0, "head": 0, "source": "zero"}]), {}),
        "principal_components": ((text, "resid_post"), {"layer": 0}),
        "steering_effect": ((text, direction), {"layer": 0}),
        "project_direction": ((direction,), {}),
        "direction_similarity": ((direction,), {}),
    }
    if name in known:
        return known[name]
    looks_at = ANALYSES[name].looks_at
    given = {"corpus": (text,), "text": (clean,)}.get(looks_at, ())
    return given, {}


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("name", [n for n in ANALYSES if n not in ELSEWHERE])
def test_defaults_are_clipped(folders, toy, name):
    model = model_of(folders[toy])
    given, options = arguments(name, model, text_of(TOYS[toy]["chars"]))
    result, said = None, ""
    try:
        result = ANALYSES[name].call(model, *given, progress=False, **options, **OPTIONS.get(name, {}))
    except ngl.NanoGPTLensError as error:
        said = str(error)
    if said:
        assert re.search(LACKS.get(name, "^$"), said), said
        assert not re.search(r"(?:k|n|seq_len|window|controls|held_out)(?: is |=)\d", said), said
    else:
        assert isinstance(result, Result)
        assert repr(result)
        assert result.values.numel() > 0


def test_a_lens_is_evaluated(folders):
    for folder, sizes in ((folders[name], TOYS[name]) for name in TOYS):
        text = text_of(sizes["chars"])
        lens = ngl.train_tuned_lens(model_of(folder), text, steps=2, progress=False)
        assert ngl.evaluate_lens(model_of(folder), text, lens, progress=False).values.isfinite().any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, t: ngl.logit_lens(m, t[:2], k=3), "k is 3; expected at most 2"),
        (
            lambda m, t: ngl.directions.principal_components(m, t, "resid_post", layer=0, k=5),
            "k is 5; expected at most 4",
        ),
        (lambda m, t: ngl.search_neurons(m, t, window=4, progress=False), "window is 4; expected at most 3"),
        (lambda m, t: ngl.search_neurons(m, t, k=20, progress=False), "k is 20, but .* at most 4 excerpts of 3"),
        (lambda m, t: ngl.text_loss(m, t, seq_len=4), "windows of 4 tokens were asked for; expected 1 to 3"),
        (lambda m, t: ngl.train_tuned_lens(m, t, held_out=0.1, progress=False), "expected at least 3 in each"),
        (lambda m, t: ngl.ablate_neurons(m, t, ["0.1", "0.2", *(f"0.{i}" for i in range(3, 12))], controls=3,
                                         progress=False), "too many for a control"),
        (
            lambda m, t: ngl.screen_and_verify(m, torch.tensor([0, 1]), torch.tensor([1, 1]),
                                               ngl.metrics.logit_diff(0, 1), activation="z", axes=("layer",), k=2,
                                               progress=False),
            "k is 2, but there are 1 sites",
        ),
    ],
)  # fmt: skip
def test_what_was_asked_for_is_refused(folders, call, words):
    with pytest.raises(ngl.AnalysisError, match=words):
        call(model_of(folders["parity"]), text_of("01"))


@pytest.mark.parametrize(
    "args",
    [
        ("sample", "PATH", "--max-new-tokens", 5),
        ("heads", "PATH", "--text", "TEXT", "--importance"),
        ("induction", "PATH", "--text", "TEXT"),
        ("patch", "PATH", "--clean", "010", "--corrupted", "110", "--answer", "0"),
        ("lens", "PATH", "--prompt", "01", "--answer", "1", "--text", "TEXT"),
        ("neurons", "search", "PATH", "--text", "TEXT"),
        ("neurons", "page", "PATH", "0.3", "--text", "TEXT"),
        ("neurons", "ablate", "PATH", "0.3", "--text", "TEXT"),
        ("measure", "PATH", "text_loss", "--text", "TEXT"),
    ],
)
def test_the_commands(folders, args):
    known = {"PATH": folders["wide"], "TEXT": folders["wide"] / "text.txt"}
    code, _, err = run(*(known.get(word, word) for word in args))
    assert code == 0, err


@pytest.mark.parametrize(
    ("option", "words"), [(("--window", 5), "--window is 5; expected at most 3"), (("--k", 20), "--k is 20, but")]
)
def test_a_command_refuses_what_was_asked_for(folders, option, words):
    code, _, err = run("neurons", "search", folders["parity"], "--text", folders["parity"] / "text.txt", *option)
    assert (code, words in err) == (2, True), err


def test_the_report(folders):
    chosen = ["loss", "heads", "attention", "induction", "lens", "patching", "neurons"]
    found = ngl.report(folders["parity"], corpus=folders["parity"] / "text.txt", sections=chosen, progress=False)
    assert not [(s.key, s.error) for s in found.failed]


@pytest.mark.parametrize("name", ["search_neurons", "neuron_statistics", "train_tuned_lens"])
def test_without_a_text_there_is_one_sentence(folders, name):
    """None stands for what the model writes itself, which has no ids to go through."""
    with pytest.raises(ngl.NanoGPTLensError, match=r"(give|expected) a text|is a NoneType"):
        ANALYSES[name].call(model_of(folders["letters"]), None, progress=False)
