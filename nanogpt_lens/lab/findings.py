"""What is known of a model before its page is opened: names of heads and neurons, prompts to begin with, a short tour.

Everything is measured here and now, by the package's own analyses and `ngl.intervene`, and follows from a seed. What a
model has none of is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from nanogpt_lens.core.checks import check_whole
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.core.head_jobs import job_of
from nanogpt_lens.heads.taxonomy import head_taxonomy
from nanogpt_lens.interventions.intervene import intervene
from nanogpt_lens.interventions.intervention import Intervention
from nanogpt_lens.lab.beginnings import Prompt, prompts_to_begin_with
from nanogpt_lens.model.access import Hooked, check_model, token_labels
from nanogpt_lens.neurons.find import find_neurons
from nanogpt_lens.results import HeadTaxonomy
from nanogpt_lens.running.metrics import answer_logprob
from nanogpt_lens.text.corpus import Corpus, open_corpus
from nanogpt_lens.text.from_model import own_text
from nanogpt_lens.text.predicates import USUAL
from nanogpt_lens.viz.tokens import visible

MOST_TELLING = (
    "induction", "previous_token", "duplicate_token", "anti_copying", "copying", "line_break", "sink", "positional",
    "broad",
)  # fmt: skip
"""The names of heads, the most telling first."""

_OWN, _OWN_LENGTH = 40, 32  # sequences of the model's own text, and their tokens
_SEQUENCES = 64  # of text and of random tokens, for the names of heads
_SAMPLE, _SHIFTS = 2**12, 50  # tokens that classes are measured on; shifts for chance
_NEURONS = 40


def findings_of(
    model: Hooked,
    *,
    corpus: Corpus | None = None,
    prompts: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """What the page of a model says of it, as plain JSON values.

    Args:
        model: a HookedTransformer or a TransformerBridge.
        corpus: the text that is measured on, and that prompts are found in; None for text that the model writes itself.
        prompts: what to begin with instead of what is found: objects with "tokens" and perhaps "other", texts or ids of
            one sequence; "answer" and "wrong", texts of one token or ids; and "label".
        seed: of everything that is drawn.
        progress: show a bar.

    Returns:
        those that there are of "heads", by name such as "1.0": label, score and sentence of each head to which
        `ngl.head_taxonomy` gives a name; "neurons": layer, neuron, label and score (AUROC on held-out text) of those
        that separate a class of characters by more than chance; "prompts": label, tokens, other, answer and wrong; and
        "tour": at most three sentences about the first prompt, a head, and the part that matters most to that prompt.

    Raises:
        AnalysisError: the corpus does not fit the model, or a prompt is not as above.
    """
    check_model(model)
    check_whole(seed=seed)
    text, name = _text(model, corpus, seed)
    found: dict[str, Any] = {}
    with tqdm(total=4, desc="findings", unit="part", delay=1, disable=not progress) as bar:

        def add(name: str, make: Callable[[], Any]) -> None:
            if value := make():
                found[name] = value
            bar.update()

        beginnings = prompts_to_begin_with(model, text, prompts, name=name, seed=seed)
        add("prompts", lambda: [prompt.to_json() for prompt in beginnings])
        add("heads", lambda: _heads(model, text, seed))
        add("neurons", lambda: _neurons(model, text, seed))
        add("tour", lambda: _tour(model, beginnings[0] if beginnings else None, found.get("heads", {})))
    return found


def _text(model: Hooked, corpus: Corpus | None, seed: int) -> tuple[Corpus, str]:
    """The text that is measured on, and its name; the model's own is drawn once."""
    name = open_corpus(model, corpus).name
    if corpus is not None:
        return corpus, name
    return own_text(model, seq_len=min(_OWN_LENGTH, int(model.cfg.n_ctx)), n=_OWN, seed=seed), name


def _heads(model: Hooked, text: Corpus, seed: int) -> dict[str, Any]:
    """The heads that have a name, in the order of the layers."""
    try:
        taxonomy = head_taxonomy(model, text, n=_SEQUENCES, seed=seed)
    except AnalysisError:  # the context or the text is too short to look for any
        return {}
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    return {f"{layer}.{head}": one for layer, head in heads if (one := _head(taxonomy, layer, head))}


def _head(taxonomy: HeadTaxonomy, layer: int, head: int) -> dict[str, Any] | None:
    """The most telling name of a head, its score, and a sentence with all of its names; None where it has none."""
    earned = taxonomy.of(layer, head)
    names = [name for name in MOST_TELLING if name in earned]
    if not names:
        return None
    scores = [float(taxonomy.score(name)[layer, head]) for name in names]
    does = [_does(name, score) for name, score in zip(names, scores, strict=True)]
    return {
        "label": label_of(names[0]),
        "score": scores[0],
        "sentence": f"Head {layer}.{head} {'; it also '.join(does)}.",
    }


def _does(name: str, score: float) -> str:
    """What a head of a name does, with its score."""
    return job_of(name).measured.format(share=percent(score), score=score)


def label_of(name: str) -> str:
    """A name of the taxonomy, as it is shown."""
    return name.replace("_", " ")


def _neurons(model: Hooked, text: Corpus, seed: int) -> list[dict[str, Any]]:
    """The neurons that separate a class by more than chance on held-out text too, each once, the best first."""
    best: dict[tuple[int, int], dict[str, Any]] = {}
    for name, words in USUAL.items():
        try:
            each = _NEURONS // len(USUAL)
            result = find_neurons(
                model, text, name, k=each, sample=_SAMPLE, permutations=_SHIFTS, seed=seed, progress=False
            )
        except AnalysisError:  # no vocabulary, no such token, or only such tokens
            continue
        for row in result.top(each).to_dict("records"):
            place = int(row["layer_label"]), int(row["neuron"])
            one = {
                "layer": place[0],
                "neuron": place[1],
                "label": f"{'high' if row['sign'] > 0 else 'low'} on {words}",
                "score": float(row["held_out"]),
            }
            if row["low"] > result.chance and one["score"] > best.get(place, one | {"score": 0.0})["score"]:
                best[place] = one
    return sorted(best.values(), key=lambda one: (-one["score"], one["layer"], one["neuron"]))


def _tour(model: Hooked, prompt: Prompt | None, heads: Mapping[str, Any]) -> list[str]:
    """A head with a name, what the model says after a prompt, and the part that changes that most."""
    telling = [label_of(name) for name in MOST_TELLING]
    sentences = []
    if heads:
        head = min(heads, key=lambda name: (telling.index(heads[name]["label"]), -heads[name]["score"]))
        name, score = MOST_TELLING[telling.index(heads[head]["label"])], heads[head]["score"]
        sentences.append(f"Head {head} {_does(name, score)}. Switch it off.")
    if prompt is None:
        return sentences
    answer = prompt.likeliest(model)
    before, without = probabilities_without(model, prompt.tokens, answer)
    said = words_of(model, [answer])
    sentences.append(
        f"After {words_of(model, prompt.tokens)} the model gives {said} a probability of {percent(before)}."
    )
    part = max(without, key=lambda name: abs(without[name] - before))
    if percent(before) != percent(without[part]):
        changes = "falls" if without[part] < before else "rises"
        sentences.append(
            f"Switch off {part_in_words(part)}, and it {changes} to {percent(without[part])}: no other head or MLP "
            "changes it more, switched off alone."
        )
    return sentences


def probabilities_without(model: Hooked, tokens: Sequence[int], answer: int) -> tuple[float, dict[str, float]]:
    """The probability of an answer after a prompt, and by head ("1.0") or MLP ("mlp0") without that part."""
    cfg = model.cfg
    parts = [f"{layer}.{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)]
    parts += [f"mlp{layer}" for layer in range(cfg.n_layers)]
    metric, ids = answer_logprob(answer), list(tokens)
    results = {part: intervene(model, ids, Intervention.at(part, "zero"), metric=metric) for part in parts}
    without = {part: _probability(result.metric) for part, result in results.items()}
    return _probability(results[parts[0]].base_metric), without


def _probability(logprob: Float[Tensor, " example"] | None) -> float:
    """The probability of the one example's answer, which was measured."""
    assert logprob is not None
    return float(logprob.double().exp())


def part_in_words(part: str) -> str:
    """A head or MLP in a sentence."""
    return f"the MLP of layer {part.removeprefix('mlp')}" if part.startswith("mlp") else f"head {part}"


def words_of(model: Hooked, tokens: Sequence[int]) -> str:
    """Tokens in a sentence: as text between quotes, every character visible; as numbers without a vocabulary."""
    ids: Int[Tensor, " pos"] = torch.tensor(list(tokens))
    labels = token_labels(model, ids)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "missing", None):
        return ("the token " if len(labels) == 1 else "the tokens ") + " ".join(labels)
    return f"“{visible(''.join(labels), spaces=False, longest=80)}”"


def percent(share: float) -> str:
    """A share of 1 in percent; what is nearly nothing or all is said to be under 1% or over 99%."""
    return "under 1%" if share < 0.01 else "over 99%" if 0.99 < share < 1 else f"{100 * share:.0f}%"
