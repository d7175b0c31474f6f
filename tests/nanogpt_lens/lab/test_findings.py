"""What is said of a model on its page: true by measurement, and missing where there is nothing."""

from __future__ import annotations

import json
import re

import pytest
import torch

import nanogpt_lens as ngl
from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.head_jobs import JOBS
from nanogpt_lens.heads.taxonomy import SCORES
from nanogpt_lens.lab.findings import MOST_TELLING, findings_of, percent
from nanogpt_lens.model.access import has_hooks
from tests.conftest import convert
from tests.handmade import INDUCTION, PREVIOUS, handmade_checkpoint, handmade_model
from tests.making import random_state

pytestmark = pytest.mark.slow  # a trained model

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 20, "vocab_size": 11}


def random_model(**sizes):
    sizes = SIZES | sizes
    return convert(Checkpoint(config=NanoGPTConfig(**sizes), state_dict=random_state(**sizes, dtype=torch.float64)))


@pytest.fixture(scope="module")
def handmade():
    model = handmade_model()
    return model, findings_of(model)


def probability(model, tokens, answer, one=()):
    """The probability of a token after a prompt, under an intervention."""
    return float(ngl.intervene(model, tokens, one).logits[0, -1].double().softmax(-1)[answer])


def check_tour(model, found):
    """The last two sentences of a tour, against the interventions that they speak of."""
    prompt, said = found["prompts"][0], found["tour"][-1]
    tokens, cfg = prompt["tokens"], model.cfg
    answer = prompt["answer"]
    if answer is None:
        answer = int(model(torch.tensor([tokens]), return_type="logits")[0, -1].argmax())
    before = probability(model, tokens, answer)
    place = re.match(r"Switch off (?:head (\d+\.\d+)|the MLP of layer (\d+)), and it (falls|rises) to (.+?): no", said)
    whole = next(one for one in found["tour"] if one.startswith("After"))
    assert whole.endswith(f"a probability of {percent(before)}.")
    without = {
        f"{layer}.{head}": probability(model, tokens, answer, ngl.Intervention("z", layer=layer, head=head))
        for layer in range(cfg.n_layers)
        for head in range(cfg.n_heads)
    }
    without |= {
        f"mlp{layer}": probability(model, tokens, answer, ngl.Intervention("mlp_out", layer=layer))
        for layer in range(cfg.n_layers)
    }
    changes = {name: abs(p - before) for name, p in without.items()}
    if place is None:
        assert max(changes.values()) < 0.02
        return
    name = place[1] or f"mlp{place[2]}"
    assert changes[name] == max(changes.values())
    assert place[3] == ("falls" if without[name] < before else "rises")
    assert place[4] == percent(without[name])


def test_a_handmade_model_is_named_and_told(handmade):
    model, found = handmade
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    names = {place: one["label"] for place, one in found["heads"].items()}
    assert names["{}.{}".format(*INDUCTION)] == "induction"
    assert names["{}.{}".format(*PREVIOUS)] == "previous token"
    taxonomy = ngl.head_taxonomy(model)
    assert {name for name in names if any(taxonomy.of(*map(int, name.split("."))))} == set(names)
    assert found["tour"][0] == (
        "Head 1.0 gives 100% of its attention to what followed the last time this token stood here, on random tokens "
        "that are repeated. Switch it off."
    )
    assert len(found["tour"]) == 3
    assert "neurons" not in found
    check_tour(model, found)
    assert not has_hooks(model)


def test_its_prompt_calls_for_induction(handmade):
    """No text of its own has an edit that changes its mind; random tokens that are repeated do."""
    model, found = handmade
    (prompt,) = found["prompts"]
    tokens, other = prompt["tokens"], prompt["other"]
    assert sum(a != b for a, b in zip(tokens, other, strict=True)) == 1
    tops = [int(model(torch.tensor([ids]), return_type="logits")[0, -1].argmax()) for ids in (tokens, other)]
    assert tops == [prompt["answer"], prompt["wrong"]]
    first = tokens.index(tokens[-1])
    assert tokens[first + 1] == prompt["answer"]
    assert other[first] != tokens[first]


@pytest.mark.parametrize(
    "sizes", [{}, {"n_layer": 1, "n_head": 1}, {"block_size": 4}, {"block_size": 2}, {"vocab_size": 2}, {"bias": False}]
)
def test_random_models_without_vocabulary(sizes):
    model = random_model(**sizes)
    found = findings_of(model, seed=1)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == findings_of(model, seed=1)
    assert set(found) <= {"prompts", "heads", "tour"}
    assert "the token" in " ".join(found["tour"])
    for prompt in found["prompts"]:
        assert len(prompt["tokens"]) <= model.cfg.n_ctx
        assert prompt["other"] is None or len(prompt["other"]) == len(prompt["tokens"])
        logits = [model(torch.tensor([prompt[name]]), return_type="logits")[0, -1] for name in ("tokens", "other")[:1]]
        assert prompt["answer"] in (None, int(logits[0].argmax()))
    check_tour(model, found)


def test_a_model_of_zeros_has_nothing_to_tell():
    """It says everything with the same probability, whatever is taken out, and none of its heads looks anywhere."""
    checkpoint = handmade_checkpoint()
    checkpoint.state_dict.update({name: torch.zeros_like(value) for name, value in checkpoint.state_dict.items()})
    model = convert(checkpoint, dtype=torch.float64)
    found = findings_of(model)
    assert "neurons" not in found
    assert all(one["label"] == "broad" for one in found.get("heads", {}).values())
    assert found["tour"][-1].startswith("After the tokens ")
    assert found["tour"][-1].endswith("a probability of 5%.")


def test_prompts_that_are_given():
    model = random_model()
    given = [
        {"label": "mine", "tokens": [1, 2, 3], "other": torch.tensor([[1, 4, 3]]), "answer": 5, "wrong": 6},
        {"tokens": [7, 8]},
    ]
    found = findings_of(model, prompts=given)
    assert found["prompts"] == [
        {"label": "mine", "tokens": [1, 2, 3], "other": [1, 4, 3], "answer": 5, "wrong": 6},
        {"label": "prompt 2", "tokens": [7, 8], "other": None, "answer": None, "wrong": None},
    ]
    assert "the token 5 a probability of" in " ".join(found["tour"])
    check_tour(model, found)
    assert "prompts" not in findings_of(model, prompts=[])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ROMEO", "prompts is 'ROMEO'; expected a list of objects"),
        ([{"other": [1]}], "expected an object with 'tokens'"),
        ([{"tokens": [1], "right": 2}], "expected an object with 'tokens'"),
        ([{"tokens": [1, 99]}], "tokens of prompt 1 has the token 99"),
        ([{"tokens": [[1], [2]]}], "tokens of prompt 1 are 2 texts; expected one"),
        ([{"tokens": [1], "answer": 11}], "answer of prompt 1 is 11; expected one token, or an id from 0 to 10"),
        ([{"tokens": [1], "wrong": True}], "wrong of prompt 1 is True"),
    ],
)
def test_what_is_no_prompt(given, message):
    with pytest.raises(AnalysisError, match=re.escape(message)):
        findings_of(random_model(), prompts=given)


def test_a_corpus_that_does_not_fit():
    with pytest.raises(AnalysisError):
        findings_of(random_model(), corpus=torch.full((40, 20), 99))


@pytest.fixture(scope="module")
def induction():
    model = ngl.load("induction")
    return model, findings_of(model)


@pytest.mark.slow
def test_a_trained_model(induction):
    """The prompt of its task is answered by the model, and the other one otherwise; text is text."""
    model, found = induction
    automatic, of_task = found["prompts"]
    assert automatic["label"] == "found in the model's own text"
    assert of_task["label"] == "trigger bigrams of tinyshakespeare"
    for prompt in (automatic, of_task):
        tops = [
            int(model(torch.tensor([prompt[name]]), return_type="logits")[0, -1].argmax())
            for name in ("tokens", "other")
        ]
        assert tops == [prompt["answer"], prompt["wrong"]]
    tokens, other, trigger = of_task["tokens"], of_task["other"], of_task["tokens"][-1]
    assert trigger == other[-1]
    behind = [(tokens[i + 1], other[i + 1]) for i, token in enumerate(tokens[:-1]) if token == trigger]
    assert behind
    assert set(behind) == {(of_task["answer"], of_task["wrong"])}
    assert {one["label"] for one in found["heads"].values()} >= {"induction", "previous token"}
    assert "“" in found["tour"][1]
    check_tour(model, found)


@pytest.mark.slow
def test_neurons_of_classes(induction):
    _, found = induction
    neurons = found["neurons"]
    assert 0 < len(neurons) <= 40
    assert len({(one["layer"], one["neuron"]) for one in neurons}) == len(neurons)
    assert all(
        re.fullmatch(r"(high|low) on (speakers' names|line breaks|upper-case letters)", one["label"]) for one in neurons
    )
    assert [one["score"] for one in neurons] == sorted((one["score"] for one in neurons), reverse=True)
    assert neurons[-1]["score"] > 0.5


def test_every_name_of_the_taxonomy_has_its_words():
    assert set(MOST_TELLING) == set(JOBS) == {*SCORES, "line_break"}


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "under 1%"), (0.0099, "under 1%"), (0.01, "1%"), (0.5, "50%"), (0.995, "over 99%"), (1, "100%")],
)
def test_percent(share, words):
    assert percent(share) == words
