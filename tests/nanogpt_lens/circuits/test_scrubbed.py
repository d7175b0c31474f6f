"""Scrubbed runs: against a plain recursion, draw by draw, and against circuits run by other code."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from conversion.checkpoint import Checkpoint
from conversion.config import NanoGPTConfig
from nanogpt_lens.circuits import scrubbed as scrubbed_module
from nanogpt_lens.circuits.claims import Claim, Hypothesis
from nanogpt_lens.circuits.features import Features
from nanogpt_lens.circuits.graph import CircuitGraph
from nanogpt_lens.circuits.places import Agreements, Uniforms
from nanogpt_lens.circuits.running import run_circuit
from nanogpt_lens.circuits.scrubbed import Scrubbed, Variant
from nanogpt_lens.circuits.tree import tree_of
from nanogpt_lens.circuits.unrolled import hypothesis_of
from nanogpt_lens.running.metrics import answer_logprob
from tests.conftest import convert
from tests.making import random_state
from tests.nanogpt_lens.circuits.naive_scrubbing import Naive

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 6, "vocab_size": 3}
WORDS = ("token", "previous_token", "position", "followed_earlier", "counts", "set", "everything", "nothing", "answer")


def model():
    state = random_state(**SIZES, dtype=torch.float64)
    return convert(Checkpoint(config=NanoGPTConfig(**SIZES), state_dict=state), dtype=torch.float64)


def prompts(n=5, n_pos=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, (n, n_pos), generator=generator), torch.randint(3, (n,), generator=generator)


def scrubbed_logits(hooked, hypothesis, tokens, answer, *, seed=0, draw=0, variants=(None,)):
    tree = tree_of(hooked, hypothesis, tokens.shape[1])
    runs = Scrubbed(hooked, tree, tokens, Agreements(Features(tokens, answer, None, {}), seed))
    uniforms, some = Uniforms(seed, draw), []
    with torch.no_grad():
        for rows in torch.arange(len(tokens)).split(runs.chunk):
            uniforms.begin()
            some.append(torch.stack(runs.logits(rows, uniforms, variants)))
    return torch.cat(some, 1)


def naive_logits(hooked, hypothesis, tokens, answer, **options):
    with torch.no_grad():
        naive = Naive(hooked, tokens, answer, **{"seed": 0, "draw": 0, **options})
        return torch.stack([naive.logits(hypothesis, ref) for ref in range(len(tokens))])


class Drawn:
    """A random hypothesis about a model of two layers with two heads each."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def feature(self):
        words = self.random.sample(WORDS, self.random.choice([1, 1, 2]))
        return words[0] if len(words) == 1 else tuple(words)

    def hypothesis(self, positions):
        reads = self.senders("logits", 2, whole=False, depth=0)
        return Hypothesis(Claim("logits", self.feature(), reads=reads), positions=positions)

    def senders(self, reader, layer, *, whole, depth):
        """Claims about what a reader of the stream before a layer reads; an MLP reads its layer's heads, too."""
        before = ["embed", *(name for at in range(layer) for name in (f"{at}.0", f"{at}.1", f"mlp{at}"))]
        if reader.startswith("mlp"):
            before += [f"{reader[3:]}.0", f"{reader[3:]}.1"]
        some = self.random.sample(before, min(len(before), self.random.choice([1, 2, 3])))
        if layer == 2 and reader != "logits":
            raise AssertionError
        if layer >= 1 and self.random.random() < 0.3:  # a stream instead of all that it holds
            later = [name for name in some if name in before[1 + 3 * (layer - 1) + 2 :] and name not in before[:4]]
            return (
                self.claim("resid_mid0", whole=whole, depth=depth),
                *(self.claim(n, whole=whole, depth=depth) for n in later),
            )
        return tuple(self.claim(name, whole=whole, depth=depth) for name in some)

    def claim(self, node, *, whole, depth):
        if node == "embed" or depth > 3 or self.random.random() < 0.25:
            return Claim(node, self.feature())
        if node == "resid_mid0":
            names = self.random.sample(["embed", "0.0", "0.1"], 2)
            reads = tuple(self.claim(name, whole=whole, depth=depth + 1) for name in names)
        elif node.startswith("mlp"):
            reads = self.senders(node, int(node[3:]), whole=whole, depth=depth + 1)
        else:
            reads = self.parts(node, whole=whole, depth=depth + 1)
        return Claim(node, self.feature(), reads=reads)

    def parts(self, head, *, whole, depth):
        reads = []
        for part in self.random.sample("qkv", self.random.choice([1, 2, 3])):
            if part == "q":
                reads.append(self.part(head, part, "", whole=whole, depth=depth))
            elif not whole and self.random.random() < 0.25:
                reads += [self.part(head, part, at, whole=False, depth=depth) for at in (0, 2)]
            else:
                at = self.random.choice(["", "each", "all"] if whole else ["", "each", "all", "here"])
                reads.append(self.part(head, part, at, whole=whole, depth=depth))
        return tuple(reads)

    def part(self, head, part, at, *, whole, depth):
        inside = at == "all" or (whole and part == "q")
        reads = None
        if depth <= 3 and self.random.random() < 0.6:
            reads = self.senders(f"{head}.{part}", int(head[0]), whole=inside, depth=depth + 1)
        return Claim(part, self.feature(), at=at, reads=reads)


@pytest.mark.parametrize("seed", range(16))
def test_any_hypothesis_is_what_the_plain_recursion_gives_draw_by_draw(seed):
    hooked, (tokens, answer) = model(), prompts(seed=seed)
    positions = "same" if seed % 4 == 0 else "any"
    hypothesis = Drawn(seed).hypothesis(positions)
    expected = naive_logits(hooked, hypothesis, tokens, answer, seed=seed, draw=1, same=positions == "same")
    (got,) = scrubbed_logits(hooked, hypothesis, tokens, answer, seed=seed, draw=1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def test_the_random_hypotheses_have_every_kind_of_claim():
    kinds = set()
    for seed in range(16):
        for path, claim in Drawn(seed).hypothesis("any").walk():
            kinds |= {
                claim.node.rstrip("0123456789"),
                claim.node,
                f"at {claim.at}",
                f"opened {claim.reads is not None}",
            }
            kinds |= {path.count("/")}
    assert {
        "q",
        "k",
        "v",
        "mlp",
        "embed",
        "resid_mid0",
        "at all",
        "at each",
        "at here",
        "at 2",
        "opened False",
    } <= kinds
    assert max(kind for kind in kinds if isinstance(kind, int)) >= 5


def test_it_does_not_matter_how_many_prompts_are_scrubbed_at_once(monkeypatch):
    hooked, (tokens, answer) = model(), prompts(n=7)
    hypothesis = Drawn(3).hypothesis("any")
    whole = scrubbed_logits(hooked, hypothesis, tokens, answer)
    monkeypatch.setattr(scrubbed_module, "_NUMBERS", 1)
    monkeypatch.setattr(scrubbed_module, "_BATCH", 2)
    torch.testing.assert_close(scrubbed_logits(hooked, hypothesis, tokens, answer), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2, 6, 7])
def test_a_weakened_hypothesis_is_the_hypothesis_with_that_claim_weakened(seed):
    hooked, (tokens, answer) = model(), prompts(seed=seed)
    hypothesis = Drawn(seed).hypothesis("any")
    paths = [path for path, _ in hypothesis.walk()]
    opened = [path for path, claim in hypothesis.walk() if claim.reads is not None]
    freed = scrubbed_logits(hooked, hypothesis, tokens, answer, variants=[None, *(Variant("freed", p) for p in paths)])
    kept = scrubbed_logits(hooked, hypothesis, tokens, answer, variants=[None, *(Variant("kept", p) for p in paths)])
    for i, path in enumerate(paths, 1):
        other = hypothesis.with_claim(path, depends_on="nothing")
        torch.testing.assert_close(freed[i], scrubbed_logits(hooked, other, tokens, answer)[0], rtol=0, atol=1e-10)
        place = _itself(tokens)
        other = hypothesis.with_claim(path, depends_on=place)
        torch.testing.assert_close(kept[i], scrubbed_logits(hooked, other, tokens, answer)[0], rtol=0, atol=1e-10)
    rest = scrubbed_logits(
        hooked, hypothesis, tokens, answer, variants=[None, *(Variant("rest kept", p) for p in opened)]
    )
    for i, path in enumerate(opened, 1):
        expected = naive_logits(hooked, hypothesis, tokens, answer, rest_kept=path)
        torch.testing.assert_close(rest[i], expected, rtol=0, atol=1e-9)


def _itself(tokens):
    """A feature with a value of its own at every place."""

    def place(ids):
        return np.arange(tokens.numel()).reshape(tokens.shape)

    return place


def test_a_hypothesis_that_all_matters_changes_nothing():
    hooked, (tokens, answer) = model(), prompts()
    whole = hypothesis_of([str(edge) for edge in CircuitGraph(hooked).edges])
    with torch.no_grad():
        expected = hooked(tokens)[:, -1]
    torch.testing.assert_close(scrubbed_logits(hooked, whole, tokens, answer)[0], expected, rtol=0, atol=1e-12)
    root = Hypothesis(Claim("logits"))
    assert torch.equal(scrubbed_logits(hooked, root, tokens, answer)[0], expected) or torch.allclose(
        scrubbed_logits(hooked, root, tokens, answer)[0], expected, rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_circuit_whose_rest_is_one_prompt_is_that_circuit_run_with_this_prompt_as_the_other(seed, monkeypatch):
    """If all numbers are 0, everything that is not named comes from the first prompt: `run_circuit` by other code."""
    monkeypatch.setattr(Uniforms, "fresh", lambda self, path, n: torch.zeros(n, dtype=torch.float64))
    hooked, (tokens, answer) = model(), prompts(n=6, n_pos=5, seed=seed)
    tokens = tokens[torch.unique(tokens, dim=0, return_inverse=True)[1].argsort()].unique(dim=0)
    answer = answer[: len(tokens)]
    edges = [str(edge) for edge in CircuitGraph(hooked).edges]
    some = random.Random(seed).sample(edges, 30)
    (got,) = scrubbed_logits(hooked, hypothesis_of(some), tokens, answer)
    other = tokens[[0]].expand_as(tokens)
    log_probs = run_circuit(hooked, some, tokens, other, answer_logprob(answer.tolist()), progress=False)
    expected = log_probs.per_example[0]
    torch.testing.assert_close(got.log_softmax(-1).gather(-1, answer[:, None])[:, 0], expected, rtol=0, atol=1e-10)


def test_the_same_numbers_decide_wherever_a_claim_is_shared():
    hooked, (tokens, answer) = model(), prompts()
    one = Hypothesis(Claim("logits", reads=(Claim("embed", "token"), Claim("1.0", "set"))))
    more = Hypothesis(Claim("logits", reads=(Claim("embed", "token"), Claim("1.0", "set"), Claim("mlp1"))))
    first = scrubbed_logits(hooked, one, tokens, answer, variants=[None, Variant("rest kept", "logits")])
    second = scrubbed_logits(hooked, more, tokens, answer, variants=[None, Variant("rest kept", "logits")])
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=1e-12)  # mlp1 is its own place's in both
    assert not torch.allclose(first[0], second[0])
