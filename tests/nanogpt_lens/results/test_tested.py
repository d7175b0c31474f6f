"""p, intervals of few examples, and what results say of both."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import nanogpt_lens as ngl
from nanogpt_lens.core.intervals import mean_fields
from nanogpt_lens.core.permutation import max_statistic_p, smallest_p
from nanogpt_lens.results import PatchingResult, Sample, Scores
from tests.nanogpt_lens.patching.patching_helpers import model, texts


def scores(n=6, **changes):
    """Six heads [layer, head] with a chance level; the first is above it in all examples, the last never differs."""
    generator = torch.Generator().manual_seed(0)
    each = torch.randn(2, 3, n, generator=generator, dtype=torch.float64) + 0.25
    each[0, 0] += 9
    each[1, 2] = 0.25
    given = {
        "axes": ("layer", "head"),
        "quantity": "score",
        "definition": "by hand",
        "chance": torch.full((2, 3), 0.25, dtype=torch.float64),
        "tested": "chance",
        "provenance": {"nanogpt_lens": "0"},
    }
    return Scores(**(mean_fields(each) | given | changes))


def test_p_of_scores_is_against_chance_and_corrected_for_all_places():
    made = scores()
    assert torch.equal(made.p, max_statistic_p(made.per_example - 0.25))
    assert made.p[0, 0] == smallest_p(6)
    assert made.p[1, 2] == 1.0
    against_zero = scores(tested="zero")
    assert torch.equal(against_zero.p, max_statistic_p(against_zero.per_example))
    assert against_zero.p[1, 2] == smallest_p(6)


def test_p_takes_each_examples_own_chance_level():
    made = scores()
    paired = replace(made, chance_per_example=made.per_example - 1.0)
    assert bool((paired.p == smallest_p(6)).all())  # 1 above its own chance level in every example


@pytest.mark.parametrize(
    "changes", [{"tested": ""}, {"per_example": None}, {"per_example": torch.ones(2, 3, 1)}, {"chance": None}]
)
def test_there_is_no_p_without_something_to_test(changes):
    made = scores(**changes)
    assert made.p is None
    assert made.p_definition == ""
    assert "p_corrected" not in made.to_dataframe()
    assert "p_corrected" not in repr(made)


def test_scores_that_do_not_vary_with_the_examples_have_no_p():
    one = scores()
    both = {name: torch.stack([getattr(one, name)] * 2) for name in ("values", "low", "high", "chance", "per_example")}
    made = replace(one, axes=("score", "layer", "head"), labels={"score": ("a", "b")}, untested=("b",), **both)
    assert made.p[1].isnan().all()
    assert torch.equal(made.p[0], one.p)  # and they do not count as places that were looked at
    assert "corrected for the 6 places" in made.p_definition


def test_tables_print_and_json_say_that_p_is_corrected(tmp_path):
    made = scores()
    sentence = "p_corrected is corrected for the 6 places that were looked at: the share of the 32 different flips"
    assert sentence in repr(made)
    assert made.to_json()["p_definition"].startswith(sentence)
    assert made.to_json()["rows"][0]["p_corrected"] == smallest_p(6)
    assert made.top(1, by="p", order="low")["p_corrected"].tolist() == [smallest_p(6)]
    assert "4,095 random flips" in scores(n=20).p_definition


def test_p_is_kept_and_results_from_before_it_still_load(tmp_path):
    made = scores(sample=Sample(seed=5), n=20)
    made.save(tmp_path / "new")
    kept = ngl.load_result(tmp_path / "new")
    assert torch.equal(kept.__dict__["p"], made.p)
    folder = made.save(tmp_path / "old")
    plain = json.loads((folder / "result.json").read_text())
    arrays = load_file(folder / plain["arrays"])
    del arrays["p_corrected"]
    save_file(arrays, folder / plain["arrays"])
    for name in ("interval", "tested", "untested", "chance_per_example"):
        plain.pop(name, None)
    (folder / "result.json").write_text(json.dumps(plain))
    old = ngl.load_result(folder)
    assert old.p is None
    assert old.few_examples == ""
    assert torch.equal(old.low, made.low)


@pytest.mark.parametrize(("n", "words"), [(2, "hardly any examples: n = 2"), (9, "few examples: n = 9"), (10, "")])
def test_an_interval_of_few_examples_is_flagged_in_print_table_and_picture(n, words):
    made = scores(n=n)
    caption = made.plot().layout.meta["caption"]
    assert made.few_examples == words
    if words:
        assert words in repr(made)
        assert set(made.top(2)["few_examples"]) == {n}
        assert made.to_json()["few_examples"] == words
        assert words.capitalize() in caption
    else:
        assert "few" not in repr(made) + caption
        assert "few_examples" not in made.to_dataframe()
    assert f"95% interval (Student's t over {n} examples)" in caption


def test_p_of_a_sweep_is_of_each_examples_effect():
    clean, corrupted = texts()
    metric = ngl.metrics.logit_diff(3, 5)
    options = {"activation": "z", "axes": ("layer", "head"), "progress": False}
    made = ngl.activation_patching(model(), clean, corrupted, metric, **options)
    assert isinstance(made, PatchingResult)
    effects = made.per_example - metric.per_example(model()(corrupted).detach())
    torch.testing.assert_close(made.p, max_statistic_p(effects))
    assert list(made.top())[-2:] == ["p_corrected", "few_examples"]
    assert "p_corrected is corrected for the" in repr(made)
    estimated = ngl.attribution_patching(model(), clean, corrupted, metric, **options)
    assert torch.equal(estimated.p, max_statistic_p(estimated.per_example))
    bare = ngl.activation_patching(model(), clean, corrupted, lambda logits: logits[:, -1, 3].mean(), **options)
    assert bare.p is None


def test_what_comes_after_all_that_is_read_has_no_effect_and_p_1():
    clean, _ = texts()
    other = clean.clone()
    other[:, -1] = (other[:, -1] + 1) % 13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ngl.activation_patching(
            model(), clean, other, ngl.metrics.logit_diff(3, 5, pos=2), activation="z", axes=("layer",), progress=False
        )
        assert made.p.tolist() == [1.0] * len(made.values)
        exact = replace(made, per_example=made.base_per_example.expand_as(made.per_example).clone())
        assert exact.p.tolist() == [1.0] * len(made.values)
    fields = mean_fields(exact.per_example - exact.base_per_example)
    assert fields["low"].tolist() == fields["high"].tolist() == [0.0] * len(made.values)


def test_heads_have_p_where_their_examples_are_kept():
    importance = ngl.head_importance(model(), n=8, seq_len=8, progress=False)
    assert torch.equal(importance.p, max_statistic_p(importance.per_example))
    matching = ngl.prefix_matching(model(), n=8)
    assert matching.p.shape == matching.values.shape
    heads = ngl.score_heads(model(), n=8, seq_len=8)
    names = heads.labels["score"]
    assert heads.p[[names.index("copying"), names.index("anti_copying")]].isnan().all()
    assert heads.p[names.index("previous_token")].isfinite().all()
    assert ngl.copying_score(model(), method="logits", n=8).p is not None
