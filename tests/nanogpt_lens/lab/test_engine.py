"""The page's engine against PyTorch in float64, through the page's documented scripting interface, in Chromium."""

from __future__ import annotations

import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.interventions.sites import KINDS
from tests.browser import watched
from tests.nanogpt_lens.lab.lab_helpers import SIZES, Requests, error_of, exact, folder_of, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # a browser, pages and PyTorch in float64 take many seconds
RUN = """async (requests) => {
  const out = [];
  for (const one of requests) out.push(await window.lab.run(one));
  return out;
}"""
SAMPLE = """async ({request, between}) => {
  const sampled = window.lab.sample(request);
  for (const one of between) await window.lab.run(one);
  return Array.from((await sampled).ids);
}"""
LIMIT = 2e-5
TEXT = "document.querySelector('.nanogpt-lens-lab').shadowRoot.textContent"


class Opened:
    """A page of a checkpoint, open in a browser, beside the model in float64."""

    def __init__(self, page, model, reference) -> None:
        self.page, self.model, self.reference = page, model, reference

    def run(self, requests):
        return self.page.page.evaluate(RUN, requests)

    def expected(self, request, **options):
        return ngl.intervene(
            self.model,
            request["tokens"],
            request.get("interventions", []),
            other=request.get("other"),
            reference=self.reference,
            **options,
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The page and the checkpoint of a name, made once."""
    folder = tmp_path_factory.mktemp("labs")
    made = {}

    def of(name):
        if name not in made:
            checkpoint = folder_of(name, folder)
            page = folder / f"{name}.html"
            lab = ngl.lab(checkpoint, findings=False, output=page)
            made[name] = (page, exact(checkpoint), lab.payload["reference"])
        return made[name]

    return of


@pytest.fixture
def opened(files, browser):
    """Opens the page of a checkpoint and looks at it to the end: nothing said, nothing asked for."""
    pages = []

    def of(name, *, plain=False):
        file, model, reference = files(name)
        context = watched(browser)
        page = context.__enter__()
        pages.append((context, page))
        page.page.goto(file.as_uri() + ("?plain" if plain else ""))
        return Opened(page, model, reference)

    yield of
    for context, page in pages:
        page.check_silent()
        context.__exit__(None, None, None)


def check_random(opened, name, n, *, plain=False, seed=0):
    page = opened(name, plain=plain)
    requests = Requests(page.model, seed=seed)
    asked = [requests.request() for _ in range(n)]
    for request, got in zip(asked, page.run(asked), strict=True):
        assert error_of(got["logits"], page.expected(request).logits[0]) < LIMIT, request


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["simd", "plain"])
@pytest.mark.parametrize("name", ["odd", "one"])
def test_random_interventions(opened, name, plain):
    check_random(opened, name, 20, plain=plain, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["simd", "plain"])
@pytest.mark.parametrize("name", ["shakespeare_char", *SIZES])
def test_three_hundred_random_interventions(opened, name, plain):
    check_random(opened, name, 75, plain=plain, seed=2)


def test_every_site_from_every_source(opened):
    page = opened("odd")
    requests = Requests(page.model, seed=4)
    asked = []
    for activation in [*KINDS, "edge"]:
        for source in ("zero", "mean", "other", "scale", "add"):
            request = requests.request(0)
            request["interventions"] = [requests.intervention(len(request["tokens"]), activation, source)]
            asked.append(request)
    for request, got in zip(asked, page.run(asked), strict=True):
        assert error_of(got["logits"], page.expected(request).logits[0]) < LIMIT, request


@pytest.mark.slow
def test_activations_by_the_names_of_transformer_lens(opened):
    page = opened("odd")
    requests = Requests(page.model, seed=5)
    names = [
        *(kind.hook_name(layer) for kind in KINDS.values() for layer in range(2)),
        *(
            f"blocks.{layer}.ln{i}.hook_{part}"
            for layer in range(2)
            for i in (1, 2)
            for part in ("scale", "normalized")
        ),
        "hook_embed",
        "ln_final.hook_scale",
        "ln_final.hook_normalized",
    ]
    for request in [requests.request(0), *(requests.request() for _ in range(6))]:
        (got,) = page.run([{**request, "activations": names}])
        expected = page.expected(request, activations=names).activations
        assert set(got["activations"]) == set(names)
        for name in names:
            assert error_of(got["activations"][name], expected[name][0]) < LIMIT, (name, request)


def test_an_activation_of_all_layers(opened):
    page = opened("odd")
    (got,) = page.run([{"tokens": [1, 2, 3], "activations": ["z"]}])
    assert set(got["activations"]) == {f"blocks.{layer}.attn.hook_z" for layer in range(2)}


def test_the_unedited_run_is_not_changed_by_edits_before_it(opened):
    page = opened("odd")
    tokens = Requests(page.model).ids(9)
    plain = {"tokens": tokens}
    edited = {"tokens": tokens, "interventions": [{"activation": "resid_pre", "layer": 0, "pos": 8, "source": "zero"}]}
    longer = {"tokens": [*tokens, 3, 4]}
    first, _, again, grown, once_more = page.run([plain, edited, plain, longer, plain])
    assert first == again == once_more
    assert error_of(grown["logits"], page.expected(longer).logits[0]) < LIMIT


@pytest.mark.parametrize("off", [[], [{"activation": "z", "layer": 2, "head": 1, "source": "zero"}]], ids=["", "off"])
def test_a_sample_is_pytorchs_though_runs_come_between(opened, off):
    page = opened("shakespeare_char")
    requests = Requests(page.model, seed=4)
    prompt = requests.ids(58)  # the sample goes past the context of 64
    between = [requests.request() for _ in range(12)]
    sample = {"tokens": prompt, "interventions": off, "n": 12, "temperature": 0, "seed": 1}
    got = page.page.page.evaluate(SAMPLE, {"request": sample, "between": between})
    tokens = list(prompt)
    for _ in range(12):
        said = ngl.intervene(page.model, tokens[-64:], off).logits
        tokens.append(int(said[0, -1].argmax()))
    assert got == tokens[58:]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"tokens": []}, "tokens has no tokens"),
        ({"tokens": [99]}, "the token 99; expected whole numbers from 0 to 64"),
        ({"tokens": [1] * 14}, "at most 13, the model's context"),
        ({"tokens": [1], "interventions": [{"activation": "zz"}]}, "'zz' cannot be replaced"),
        (
            {"tokens": [1], "interventions": [{"activation": "z", "head": 3}]},
            "no head 3 in this model; expected 0 to 2",
        ),
        ({"tokens": [1], "interventions": [{"activation": "z", "neuron": 3}]}, "z has no neuron"),
        ({"tokens": [1], "interventions": [{"activation": "z", "pos": 1}]}, "no position 1 in 1 tokens"),
        ({"tokens": [1], "interventions": [{"activation": "z", "source": "other"}]}, "there is no other prompt"),
        ({"tokens": [1], "other": [1, 2], "interventions": [{"activation": "z", "source": "other"}]}, "has 2 tokens"),
        ({"tokens": [1], "interventions": [{"activation": "z", "source": "resample"}]}, "'resample' is Python's alone"),
        (
            {"tokens": [1], "interventions": [{"activation": "z", "source": {"add": [1.0]}}]},
            "expected 7, the width of z",
        ),
        ({"tokens": [1], "interventions": [{"activation": "edge", "edge": "1.0->0.0"}]}, "what was written before it"),
        ({"tokens": [1], "interventions": [{"layer": 0, "wat": 1}]}, "no field 'wat'"),
        ({"tokens": [1], "activations": ["blocks.7.hook_z"]}, "there is no activation 'blocks.7.hook_z'"),
    ],
)
def test_bad_requests_are_one_sentence(opened, request_, sentence):
    page = opened("odd")
    said = page.page.page.evaluate("(r) => window.lab.run(r).then(() => 'no error', (e) => e.message)", request_)
    assert sentence in said
    assert "undefined" not in said


def test_the_page_proves_itself(opened):
    page = opened("odd")
    proof = page.page.page.evaluate("() => window.lab.proof")
    assert proof["equal"]
    assert proof["n"] > 60
    assert 0 < proof["largest"] < 2e-6
    until(
        page.page.page,
        f"{TEXT}.includes('equal to PyTorch')",
    )


@pytest.mark.slow
def test_a_page_with_another_weight_is_not_trusted(files, browser, tmp_path):
    import base64
    import gzip
    import re

    import numpy as np

    text = files("odd")[0].read_text()
    packed = re.search(r'data-lab="weights">([^<]*)<', text)[1]
    numbers = np.frombuffer(gzip.decompress(base64.b64decode(packed)), dtype="<f4").copy()
    numbers[100] += 0.05
    file = tmp_path / "changed.html"
    file.write_text(text.replace(packed, base64.b64encode(gzip.compress(numbers.tobytes())).decode()), newline="")
    with watched(browser) as page:
        page.page.goto(file.as_uri())
        proof = page.page.evaluate("() => window.lab.proof")
        assert not proof["equal"]
        assert proof["largest"] > LIMIT
        until(page.page, f"{TEXT}.includes('NOT equal')")


def test_float64_is_what_the_proof_expects(files):
    _, model, _ = files("odd")
    assert model.cfg.dtype == torch.float64
