"""The public names are one table, which `__all__`, the type checker and the documents share."""

import ast
from importlib import import_module
from pathlib import Path

import nanogpt_lens as ngl

SOURCE = Path(ngl.__file__).read_text()


def test_the_type_checker_sees_the_table():
    (block,) = (node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    seen = {alias.name: line.module for line in block.body for alias in line.names}
    assert seen == ngl._HOMES


def test_the_names_are_the_table():
    assert ngl.__all__ == sorted(ngl._HOMES)
    assert len(ngl._HOMES) == sum(map(len, ngl._NAMES.values()))
    assert 50 <= len(ngl.__all__) <= 72
    for name in ngl.__all__:
        thing = getattr(ngl, name)
        assert thing is getattr(import_module(ngl._HOMES[name]), name)
        assert thing.__doc__


def test_names_that_people_use_stay():
    kept = """load check generate train report trajectory activation_patching path_patching attribution_patching
    head_taxonomy prefix_matching logit_lens train_tuned_lens search_neurons find_neurons find_change_point text_loss"""
    assert set(kept.split()) <= set(ngl.__all__)


def test_the_rest_is_in_modules():
    assert ngl.metrics.loss is not ngl.text_loss
    assert not hasattr(ngl, "loss")
    assert ngl.tasks.repeated_random is not ngl.repeated_tokens
    assert not hasattr(ngl, "repeated_random")
    assert issubclass(ngl.results.Scores, ngl.results.Result)
    assert issubclass(ngl.errors.ConversionError, ngl.NanoGPTLensError)
    assert not issubclass(ngl.AnalysisError, ngl.errors.ConversionError)
    assert set(ngl._MODULES) <= set(dir(ngl))
