"""The table of all neurons: what is unpacked is what the search found, whatever the model and its tokens."""

import base64
import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.reporting.blocks import LEVELS
from nanogpt_lens.reporting.making import report
from nanogpt_lens.reporting.neuron_table import HEIGHTS, deviations, packed_neurons
from nanogpt_lens.results import NeuronSearch, SeparatingNeurons
from tests.nanogpt_lens.reporting.report_helpers import read, small, text

LAYERS, WIDTH, K, WINDOW, VOCAB, TEXT = 2, 6, 3, 4, 5, 40
TOKENS = ("\n", " ", "a", "</script><script>", "\u202e")


def search_of(seed: int = 0, *, layers: int = LAYERS, width: int = WIDTH, k: int = K) -> NeuronSearch:
    """A search with random numbers, consistent with one text; the last neuron has no second excerpt."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(VOCAB, (TEXT,), generator=draw)
    fields = {}
    for which, sign in (("top", 1), ("low", -1)):
        starts = torch.randint(TEXT - WINDOW, (layers, width, k), generator=draw)
        activations = torch.randn(layers, width, k, WINDOW, generator=draw)
        tokens = text[starts[..., None] + torch.arange(WINDOW)]
        tokens[0, 0, 0, -1], activations[0, 0, 0, -1] = -1, torch.nan  # behind the end of a sequence
        values, peaks = (sign * (sign * activations).nan_to_num(-torch.inf)).sort(-1, descending=sign > 0)
        starts[-1, -1, 1:], tokens[-1, -1, 1:], values[-1, -1, 1:] = -1, -1, torch.nan
        fields |= {
            f"{which}_values": values[..., 0],
            f"{which}_positions": starts + peaks[..., 0],
            f"{which}_starts": starts,
            f"{which}_tokens": tokens,
            f"{which}_activations": activations,
        }
    shape = (layers, width)
    several = {name: torch.randint(VOCAB, (*shape, 5), generator=draw) for name in ("promoted", "suppressed")}
    several |= {f"{name}_logits": torch.randn(*shape, 5, generator=draw) for name in several}
    return NeuronSearch(
        **fields,
        **several,
        values=fields["top_values"][..., 0],
        axes=("layer", "neuron"),
        labels={"layer": tuple(map(str, range(layers)))},
        quantity="highest activation",
        definition="made by hand",
        mean=torch.randn(shape, generator=draw),
        variance=torch.rand(shape, generator=draw),
        sparsity=torch.rand(shape, generator=draw),
        quantiles=torch.randn(*shape, 3, generator=draw),
        probabilities=(0.01, 0.5, 0.99),
        histogram=torch.randint(50, (*shape, 40), generator=draw),
        bounds=torch.randn(*shape, 2, generator=draw),
        vocabulary=TOKENS,
        n_tokens=TEXT,
        sample_size=TEXT,
        unit_kind="neuron",
    )


def separating_of(seed: int) -> SeparatingNeurons:
    draw = torch.Generator().manual_seed(seed)
    shape = (LAYERS, WIDTH)
    separation, held = (0.5 + torch.rand(shape, generator=draw) / 2 for _ in range(2))
    return SeparatingNeurons(
        values=separation, axes=("layer", "neuron"), quantity="AUROC", definition="made by hand",
        separation=separation, sign=torch.where(torch.rand(shape, generator=draw) > 0.5, 1.0, -1.0), held_out=held,
        low=held, high=held, p=held, null=held.flatten(), chance=0.6, n_tokens=(9, 9), n_class=(3, 3), predicate="x",
        n_pieces=3,
    )  # fmt: skip


def unpacked(table) -> dict[str, np.ndarray]:
    """The arrays of a table, read as its script reads them."""
    data, arrays, at = gzip.decompress(base64.b64decode(table.packed)), {}, 0
    for name, each, kind, shape in table.header["arrays"]:
        n = int(np.prod(shape))
        planes = np.frombuffer(data, np.uint8, n * each, at).reshape(each, n).T
        arrays[name] = np.ascontiguousarray(planes).view(f"<{kind}{each}").reshape(shape)
        at += n * each
    assert at == len(data)
    return arrays


def shown(token: int) -> str:
    return ("↵", " ", "a", "</script><script>", "⟨202E⟩")[token]


def test_what_is_unpacked_is_what_was_found():
    search = search_of()
    table = packed_neurons(search, {}, [(1, 2, "chosen")])
    arrays, header = unpacked(table), table.header
    assert (table.n, table.total, table.excerpts) == (12, 12, K)
    assert arrays["site"].tolist() == list(range(12))
    assert header["listed"] == [[8, "chosen"]]
    for site in range(12):
        page = search.page(*divmod(site, WIDTH))
        assert arrays["peak"][site] / 100 == pytest.approx(page.highest[0].value, abs=0.0051)
        assert arrays["above"][site] / 1000 == pytest.approx(1 - page.sparsity, abs=0.00051)
        assert arrays["mean"][site] / 1000 == pytest.approx(page.mean, abs=0.00051)
        assert arrays["sd"][site] / 1000 == pytest.approx(page.variance**0.5, abs=0.00051)
        assert arrays["median"][site] / 1000 == pytest.approx(page.quantiles[0.5], abs=0.00051)
        expected = (page.highest[0].value - page.mean) / page.variance**0.5
        assert arrays["deviations"][site] / 10 == pytest.approx(expected, abs=0.051)
        for which, found in (("promoted", page.promoted), ("suppressed", page.suppressed)):
            assert [header["tokens"][i] for i in arrays[which][site]] == [
                shown(TOKENS.index(token)) for token, _ in found
            ]
            assert arrays[f"{which}_logits"][site] / 100 == pytest.approx([v for _, v in found], abs=0.0051)


def test_excerpts_are_read_from_one_text_with_their_shades():
    search = search_of(1)
    table = packed_neurons(search, {})
    arrays, header = unpacked(table), table.header
    shades = np.concatenate([[0], np.cumsum(arrays["lengths"].ravel().astype(int))]).astype(int)
    top, low = arrays["split"]
    assert (top, low) == (K, 2)
    for site in range(12):
        page = search.page(*divmod(site, WIDTH))
        largest = max(abs(page.highest[0].value), abs(page.lowest[0].value))
        for j, excerpt in enumerate([*page.highest, *page.lowest[:2]] if len(page.highest) == K else page.highest):
            start, length = arrays["starts"][site, j], arrays["lengths"][site, j]
            words = "".join(header["tokens"][i] for i in arrays["text"][start : start + length])
            assert words == "".join(shown(TOKENS.index(token)) for token in excerpt.tokens)
            assert arrays["values"][site, j] / 100 == pytest.approx(excerpt.value, abs=0.0051)
            assert arrays["peaks"][site, j] == excerpt.position - excerpt.start
            at = shades[site * (top + low) + j]
            levels = arrays["shades"][at : at + length].astype(int) - LEVELS
            expected = [LEVELS * max(-1.0, min(1.0, v / largest)) for v in excerpt.activations]
            assert levels.tolist() == pytest.approx(expected, abs=0.51)
    assert (arrays["starts"][-1, 1:K] == -1).all()
    assert len(arrays["text"]) <= TEXT


def test_the_class_is_chosen_on_one_half_and_told_on_the_other():
    by_class = {"names": separating_of(1), "breaks": separating_of(2)}
    table = packed_neurons(search_of(), by_class)
    arrays = unpacked(table)
    assert table.header["classes"] == [{"name": "names", "chance": 0.6}, {"name": "breaks", "chance": 0.6}]
    results = list(by_class.values())
    for site in range(12):
        place = divmod(site, WIDTH)
        best = max((0, 1), key=lambda c: float(results[c].separation[place]))
        assert arrays["class"][site] == best
        assert arrays["auroc"][site] / 1000 == pytest.approx(float(results[best].held_out[place]), abs=0.00051)
        assert bool(arrays["higher"][site]) == (results[best].sign[place] > 0)


def test_histograms_are_logarithms_of_counts():
    search = search_of()
    heights = unpacked(packed_neurons(search, {}))["histogram"]
    logs = np.log1p(search.histogram.reshape(12, 40).numpy())
    assert np.abs(heights - HEIGHTS * logs / logs.max(1, keepdims=True)).max() <= 0.51


def test_where_not_all_fits_details_go_first_and_then_neurons_but_never_those_that_are_listed():
    search = search_of(width=200, k=6)
    whole = packed_neurons(search, {})
    assert whole.n == 400
    fewer = packed_neurons(search, {}, budget=int(0.8 * len(whole.packed)))
    assert fewer.n == 400
    assert fewer.excerpts < whole.excerpts
    tight = packed_neurons(search, {}, [(1, 7, "chosen")], budget=int(0.15 * len(whole.packed)))
    assert len(tight.packed) <= 0.15 * len(whole.packed)
    assert 1 <= tight.n < 400 == tight.total
    sites = unpacked(tight)["site"].tolist()
    assert 207 in sites
    salient = deviations(search).flatten()
    others = [site for site in range(400) if site not in sites]
    assert min(float(salient[s]) for s in sites if s != 207) >= max(float(salient[s]) for s in others)


def test_a_constant_neuron_stands_no_deviation_above_its_mean():
    search = search_of()
    search.variance[0, 0] = 0.0
    assert float(deviations(search)[0, 0]) == 0.0
    assert unpacked(packed_neurons(search, {}))["deviations"][0] == 0


def test_tokens_run_nothing_and_the_same_input_gives_the_same_bytes():
    one, other = packed_neurons(search_of(), {}), packed_neurons(search_of(), {})
    assert one.packed == other.packed
    assert one.header == other.header
    assert "\u202e" not in "".join(one.header["tokens"])


def test_the_table_in_the_page_is_that_of_the_search(tmp_path):
    (tmp_path / "input.txt").write_text(text(4000))
    folder = small(tmp_path / "out")
    found = report(folder, corpus=tmp_path / "input.txt", sections=["neurons"], progress=False)
    page = read(found.html)
    header, data = (page.all("script", **{"data-neurons": name})[0].text for name in ("header", "data"))
    table = SimpleNamespace(header=json.loads(header), packed=data)
    arrays = unpacked(table)
    expected = ngl.search_neurons(ngl.load(folder), tmp_path / "input.txt", k=6, window=16, progress=False)
    assert len(arrays["site"]) == expected.values.numel()
    assert arrays["peak"] / 100 == pytest.approx(expected.values.flatten().numpy(), abs=0.0051)
    assert arrays["above"] / 1000 == pytest.approx(1 - expected.sparsity.flatten().numpy(), abs=0.00051)
    names = {card.attributes["id"] for card in page.all("details", class_="neuron")}
    width = table.header["width"]
    assert names == {f"neuron-{site // width}.{site % width}" for site, _ in table.header["listed"]}
