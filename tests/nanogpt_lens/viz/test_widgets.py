"""What widgets carry: the results' own numbers, tokens that cannot run, one script, and one sentence for bad input."""

from __future__ import annotations

import base64
import html.parser
import json
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import nanogpt_lens as ngl
from nanogpt_lens.core.errors import AnalysisError, ResultError
from nanogpt_lens.results import AttentionPatterns
from nanogpt_lens.viz import style, widgets
from nanogpt_lens.viz import widget as widget_module
from nanogpt_lens.viz.colours import as_bytes, css_colours, heat_map
from nanogpt_lens.viz.libraries import packed, runtime, script, script_hash
from nanogpt_lens.viz.page import document
from nanogpt_lens.viz.tokens import file_name, harmless, numbered, rounded, safe_json, visible
from tests.hostile import HOSTILE, plain
from tests.nanogpt_lens.neurons.neuron_helpers import lens_model, play

TEXT = "ROMEO:\nBut"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lens_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def attention(model):
    return ngl.attention_patterns(model, TEXT)


class Scripts(html.parser.HTMLParser):
    """The script elements of a page, and every other tag."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.tags, self._inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._inside = (dict(attrs), [])

    def handle_data(self, data):
        if self._inside:
            self._inside[1].append(data)

    def handle_endtag(self, tag):
        if tag == "script" and self._inside:
            self.scripts.append((self._inside[0], "".join(self._inside[1])))
            self._inside = None


class TestTokens:
    @pytest.mark.parametrize("token", HOSTILE)
    def test_what_is_hostile_is_shown(self, token):
        assert HOSTILE[token][:20] in plain(harmless(token))
        assert HOSTILE[token][:20] in visible(token)
        shown = harmless(token)
        assert not any(shown[i] in "<&" and shown[i + 1 : i + 2] != "\u2060" for i in range(len(shown)))

    def test_white_space_is_visible_and_a_break_can_stay(self):
        assert visible(" a\n\tb\r\u00a0") == "·a↵⇥b␍⍽"
        assert visible(" a\n", spaces=False, breaks=True) == " a↵\n"
        assert visible("x" * 50, longest=8) == "xxxxxxxx…"
        assert visible("\u0301") == "◌\u0301"
        assert visible("\u3000") == "⟨3000⟩"

    def test_axis_labels_are_distinct_and_no_numbers(self):
        labels = numbered(["7", "7", "a", ""])
        assert len(set(labels)) == 4
        for label in labels:
            with pytest.raises(ValueError):
                float(label)

    def test_json_comes_back_and_cannot_close_its_element(self):
        data = {"tokens": list(HOSTILE), "n": [0.5, None, 3]}
        text = safe_json(data)
        assert json.loads(text) == data
        assert text.isascii()
        assert not set(text) & set("<>&")
        with pytest.raises(ValueError):
            safe_json([float("nan")])
        assert [rounded(v) for v in (0.10000000149, float("nan"), float("inf"), -12345.678)] == [
            0.1,
            None,
            None,
            -12350.0,
        ]

    @pytest.mark.parametrize("token", HOSTILE)
    def test_a_file_name_stays_in_its_folder(self, token, tmp_path):
        name = file_name(f"../{token}/..")
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        assert not name.startswith(".")
        (tmp_path / name).write_text("")


class TestWhatWidgetsCarry:
    def test_attention_is_that_of_the_result(self, attention):
        carried = attention.widget(engine="circuitsvis").props
        assert carried["attentionHeadNames"] == ["0.0", "0.1", "1.0", "1.1"]
        found = torch.tensor(carried["attention"], dtype=torch.float64).view(attention.values.shape)
        assert (found - attention.values).abs().max() <= 5.1e-4
        assert carried["maskUpperTri"] is True
        assert plain("".join(carried["tokens"])) == "ROMEO:↵But"

    def test_the_canvas_has_the_same_values_as_bytes(self, attention):
        carried = attention.widget(engine="canvas").props
        data, at, n = base64.b64decode(carried["values"]), 0, carried["size"]
        for layer in range(2):
            for head in range(2):
                for dest in range(n):
                    row = np.frombuffer(data[at : at + dest + 1], np.uint8) / 255 * carried["largest"]
                    at += dest + 1
                    want = attention.values[layer, head, dest, : dest + 1].numpy()
                    assert np.abs(row - want).max() <= 1 / 510 + 1e-9
        assert at == len(data)

    def test_attention_without_a_mask_is_carried_whole(self, attention):
        values = attention.values.flip(-1)
        result = AttentionPatterns(
            values=values,
            axes=attention.axes,
            quantity="q",
            definition="d",
            labels=attention.labels,
            tokens=attention.tokens,
        )
        carried = result.widget(engine="canvas").props
        assert not carried["causal"]
        assert len(base64.b64decode(carried["values"])) == values.numel()

    def test_the_canvas_takes_over_above_the_measured_size(self):
        def component(heads, size):
            values = torch.eye(size).expand(1, heads, size, size)
            axes = ("layer", "head", "dest_pos", "src_pos")
            result = AttentionPatterns(
                values=values, axes=axes, quantity="q", definition="d", tokens=torch.arange(size)
            )
            return result.widget().component

        assert component(6, 64) == "AttentionHeads"  # 24,576
        assert component(7, 64) == "attention"

    def test_a_smaller_full_colour_leaves_the_numbers_as_they_are(self, attention):
        plain, dark = (attention.widget(engine="canvas", max_value=m).props for m in (1.0, 0.2))
        assert plain["values"] == dark["values"]
        assert plain["largest"] == dark["largest"] == pytest.approx(float(attention.values.max()))
        assert dark["max"] == 0.2

    def test_negative_numbers_count_from_the_end(self, attention):
        assert attention.widget(layer=-1, head=-2).props == attention.widget(layer=1, head=0).props

    def test_values_that_are_none_have_no_number(self):
        carried = widgets.colored_tokens(["a", "b"], [2.0, float("nan")])
        assert carried.props["values"] == [2.0, None]
        assert (carried.props["minValue"], carried.props["maxValue"]) == (-2.0, 2.0)
        assert "no number: no value" in carried.caption

    def test_heads_are_chosen_by_their_own_numbers(self, model):
        result = ngl.attention_patterns(model, TEXT, layers=[1])
        carried = result.widget(layer=1, head=1).props
        assert carried["attentionHeadNames"] == ["1.1"]
        found = torch.tensor(carried["attention"][0], dtype=torch.float64)
        assert (found - result.values[0, 1]).abs().max() <= 5.1e-4
        one = result.widget(kind="attention_pattern", layer=1, head=0).props["attention"]
        assert (torch.tensor(one, dtype=torch.float64) - result.values[0, 0]).abs().max() <= 5.1e-4

    def test_rollout_and_flow_have_widgets(self, model):
        rollout = ngl.attention_rollout(model, TEXT)
        assert rollout.widget().props["attentionHeadNames"] == ["after layer 0", "after layer 1"]
        flow = ngl.attention_flow(model, TEXT, pos=None, progress=False)
        assert flow.widget(kind="attention_heads").props["attentionHeadNames"] == ["attention flow"]

    def test_one_of_several_texts(self, model):
        result = ngl.attention_patterns(model, ["ROMEO", "JULIE"])
        carried = result.widget(example=1).props["attention"]
        assert (torch.tensor(carried[3], dtype=torch.float64) - result.values[1, 1, 1]).abs().max() <= 5.1e-4
        lens = ngl.logit_lens(model, ["ROMEO", "JULIE"])
        assert plain("".join(lens.widget(example=1).props["prompt"])) == "JULIE"
        assert lens.widget(example=1).props["correctTokenRank"] == lens.rank[-1, -1, 1, :-1].tolist()

    def test_log_probs_are_the_models_own(self, model):
        carried = ngl.widgets.token_log_probs(model, TEXT, k=3).props
        tokens = model.to_tokens(TEXT)
        logprobs = model(tokens).log_softmax(-1)[0, :-1]
        own = logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        assert np.allclose(carried["correctTokenLogProb"], own.detach().numpy(), rtol=6e-4)
        assert np.allclose(carried["topKLogProbs"], logprobs.topk(3).values.detach().numpy(), rtol=6e-4)
        assert carried["correctTokenRank"] == (logprobs > own[:, None]).sum(1).tolist()
        likeliest = [plain(row[0]) for row in carried["topKTokens"]]
        assert likeliest == [
            visible(s, spaces=False, breaks=True) for s in map(model.to_string, logprobs.argmax(1)[:, None])
        ]

    def test_the_loss_of_each_token(self, model):
        carried = ngl.widgets.colored_tokens(model, TEXT).props
        losses = model(model.to_tokens(TEXT), return_type="loss", loss_per_token=True)[0]
        assert np.allclose(carried["values"], losses.detach().numpy(), rtol=6e-4)
        points = ngl.widgets.loss_by_point(model, TEXT).props
        assert np.allclose([row[0] for row in points["values"]], losses.detach().numpy(), rtol=6e-4)
        assert points["labels"][0] == "1.resid_post"
        assert [-b for b in points["negativeBounds"]] == points["positiveBounds"]

    def test_the_lines_that_analyse_and_draw_are_the_two_steps(self, model):
        corpus = play(600)
        found = ngl.search_neurons(model, corpus, layers=[0, 1], k=2, window=5, progress=False)
        chosen = [(1, 4), (0, 9)]
        pairs = [
            (
                ngl.widgets.attention_pattern(model, TEXT, layer=1, head=0),
                ngl.attention_patterns(model, TEXT).widget(kind="attention_pattern", layer=1, head=0),
            ),
            (
                ngl.widgets.text_neuron_activations(model, TEXT, layers=1, neurons=[3, 5]),
                ngl.get_neuron_activations(model, TEXT, layers=[1], neurons=[3, 5]).widget(),
            ),
            (
                ngl.widgets.topk_tokens(model, TEXT, layers=[0], k=2),
                ngl.get_neuron_activations(model, TEXT, layers=[0]).widget(kind="topk_tokens", k=2),
            ),
            (
                ngl.widgets.topk_samples(model, corpus, neurons=chosen, k=2, window=5, progress=False),
                found.widget(neurons=chosen, k=2),
            ),
        ]
        for line, steps in pairs:
            assert line.props == steps.props
        with pytest.raises(ngl.errors.ResultError, match="head"):
            ngl.widgets.attention_pattern(model, TEXT, layer=1, head=99)

    def test_activations_and_their_extremes(self, model):
        result = ngl.get_neuron_activations(model, TEXT)
        shown = result.widget(layer=1, neuron=[3, 5]).props
        text, scale = shown["activations"]
        found = torch.tensor(text)  # [pos, layer, neuron]
        assert found.shape == (10, 1, 2)
        largest = float(result.values[1, [3, 5]].abs().max())
        assert torch.tensor(scale)[:, 0, 1].tolist() == pytest.approx([-largest, 0, largest], rel=1e-3)
        assert torch.allclose(found[:, 0, 1], result.values[1, 5].float(), rtol=1e-3, atol=1e-6)
        table = result.widget(kind="topk_tokens", k=2).props
        scale = float(result.values.abs().max())
        assert table["sampleLabels"] == ["whole text", "line 1", "line 2"]
        best = result.values[1, 7].topk(2)
        assert [row[7] for row in table["topkIdxs"][0][1]] == best.indices.tolist()
        assert np.allclose([row[7] * scale for row in table["topkVals"][0][1]], best.values, rtol=2e-3)
        line = result.values[0, 2, 7:]  # the second line begins behind the newline
        assert [row[2] for row in table["bottomkIdxs"][2][0]] == line.topk(2, largest=False).indices.flip(0).tolist()

    def test_excerpts_are_those_of_the_search(self, model):
        found = ngl.search_neurons(model, play(600), k=3, window=5, progress=False)
        carried = found.widget(neurons=[(1, 4), (0, 9)]).props
        page = found.page(1, 4)
        assert carried["firstDimensionLabels"] == ["1.4", "0.9"]
        got = ["".join(map(plain, e)) for e in carried["tokens"][0][0][:-1]]  # the last is the scale
        largest = max(abs(v) for e in (*page.highest, *page.lowest) for v in e.activations)
        assert carried["activations"][1][0][-1] == pytest.approx([-largest, 0, largest], rel=1e-3)
        assert got == ["".join(visible(t, spaces=False, breaks=True) for t in e.tokens) for e in page.highest]
        assert np.allclose(carried["activations"][1][0][0], page.lowest[0].activations, rtol=1e-3, atol=1e-6)
        assert len(found.widget().props["firstDimensionLabels"]) == 12

    def test_the_salient_neurons_stand_out_most(self, model):
        found = ngl.search_neurons(model, play(600), k=3, window=5, progress=False)
        chosen = [tuple(map(int, name.split("."))) for name in found.widget().props["firstDimensionLabels"]]
        z = {
            (i, j): (float(found.values[i, j]) - float(found.mean[i, j])) / float(found.variance[i, j]) ** 0.5
            for i in range(2)
            for j in range(found.shape["neuron"])
        }
        assert chosen == sorted(z, key=lambda pair: -z[pair])[:12]

    def test_a_model_without_a_vocabulary_shows_ids(self, tmp_path):
        from tests.nanogpt_lens.neurons.neuron_helpers import no_tokenizer, random_checkpoint

        bare = no_tokenizer(random_checkpoint(tmp_path, meta=False))
        carried = ngl.widgets.attention_heads(bare, torch.tensor([3, 60, 3])).props
        assert carried["tokens"] == ["3", "60", "3"]


class TestPictures:
    def test_the_png_is_the_bytes(self):
        """Read back by hand: filter 0, a byte a pixel, colour by palette."""
        values = torch.rand(7, 7, generator=torch.Generator().manual_seed(0)).tril()
        data = base64.b64decode(heat_map(as_bytes(values, 1.0), causal=True).split(",")[1])
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        chunks, at = {}, 8
        while at < len(data):
            (length,) = struct.unpack(">I", data[at : at + 4])
            name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
            assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(name + body)
            chunks[name], at = body, at + 12 + length
        assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (7, 7)
        rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(7, 8)
        assert (rows[:, 0] == 0).all()
        want = np.where(np.tri(7, dtype=bool), np.minimum(np.round(values.numpy() * 255), 254), 255)
        assert (rows[:, 1:] == want).all()

    def test_colours_are_white_at_zero_and_full_at_the_ends(self):
        found = [back for back, _ in css_colours([0.0, 2.0, 5.0, -1.0, float("nan")], -1.0, 2.0)]
        assert found == ["#ffffff", style.TEAL, style.TEAL, style.RUST, style.CELL]


class TestPages:
    def test_every_script_of_a_page_is_in_its_policy(self, attention):
        text = document(
            title="t", body=attention.widget().block("w"), scripts=["window.a=1"], libraries=("circuitsvis",)
        )
        parsed = Scripts(text)
        policy = next(
            a["content"] for tag, a in parsed.tags if tag == "meta" and "content" in a and "script" in a["content"]
        )
        running = [body for attrs, body in parsed.scripts if "type" not in attrs]
        assert running == [runtime(), "window.a=1"]
        for body in [*running, script("circuitsvis")]:
            assert script_hash(body) in policy
        assert "unsafe-inline" not in policy.split("style-src")[0]
        assert "http" not in policy.replace("http-equiv", "")
        assert not [a for tag, a in parsed.tags if any(name.startswith("on") for name in a)]

    def test_hostile_tokens_leave_no_tag(self):
        tokens = list(HOSTILE)
        n = len(tokens)
        result = AttentionPatterns(
            values=torch.eye(n)[None, None],
            axes=("layer", "head", "dest_pos", "src_pos"),
            quantity=tokens[0],
            definition=tokens[1],
            labels={"dest_pos": tuple(tokens), "src_pos": tuple(tokens)},
            tokens=torch.arange(n),
        )
        shown = [result.widget(engine=e).with_caption(f"w-{e}") for e in ("circuitsvis", "canvas")]
        shown.append(widgets.colored_tokens(tokens, torch.ones(n), caption=tokens[0]).with_caption("w"))
        parsed = Scripts(document(title=tokens[0], body="".join(shown)))
        assert {tag for tag, _ in parsed.tags} <= {
            "html",
            "head",
            "meta",
            "link",
            "title",
            "style",
            "body",
            "figure",
            "figcaption",
            "div",
            "img",
            "p",
            "span",
            "script",
        }
        assert [attrs.get("type") for attrs, _ in parsed.scripts] == ["application/json"] * 3 + [None]

    def test_the_same_page_twice_is_the_same_bytes(self, attention):
        def page():
            return document(title="t", body=attention.widget().block("w"), libraries=("circuitsvis", "plotly"))

        assert page() == page()
        packed.cache_clear()
        assert page() == page()

    def test_saved_pages_replace_whole(self, attention, tmp_path):
        file = attention.widget().save(tmp_path / "a.html")
        before = file.read_bytes()
        assert attention.widget().save(file).read_bytes() == before
        assert [f.name for f in tmp_path.iterdir()] == ["a.html"]
        (tmp_path / "folder").mkdir()
        with pytest.raises(AnalysisError, match=r"folder cannot be written .*choose another path"):
            attention.widget().save(tmp_path / "folder")

    def test_importing_the_page_needs_no_torch_of_circuitsvis(self):
        """CircuitsVis' package would probe the network; its script alone is read."""
        code = (
            "import sys; from nanogpt_lens.viz.libraries import packed; packed('circuitsvis'); "
            "print('circuitsvis' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "False", done.stderr


class TestNotebooks:
    def test_a_widget_alone_carries_its_script_and_a_prepared_notebook_has_it_once(self, attention, monkeypatch):
        monkeypatch.setattr(widget_module, "_prepared", [])
        alone = attention.widget(engine="circuitsvis")._repr_html_()
        assert packed("circuitsvis") in alone
        setup = ngl.setup_notebook()._repr_html_()
        after = attention.widget(engine="circuitsvis")._repr_html_()
        assert packed("circuitsvis") in setup
        assert packed("circuitsvis") not in after
        assert len(after) < 80_000
        monkeypatch.setitem(sys.modules, "google.colab", sys)
        assert packed("circuitsvis") in attention.widget(engine="circuitsvis")._repr_html_()

    def test_shown_twice_is_two_places(self, attention):
        widget = attention.widget()
        names = [
            next(a["data-ngl"] for _, a in Scripts(widget._repr_html_()).tags if "data-ngl" in a) for _ in range(2)
        ]
        assert names[0] != names[1]


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layer": 2}, "there is no layer 2; expected one of 0, 1"),
            ({"head": [0, 5]}, "there is no head 5; expected one of 0, 1"),
            ({"example": 1}, "there is one text; expected example 0, not 1"),
            ({"engine": "webgl"}, "engine is 'webgl'; expected auto, circuitsvis, canvas"),
            ({"max_value": 0.0}, "max_value 0.0; expected"),
            ({"max_value": "x"}, "max_value 'x'; expected"),
            ({"layer": 1.0}, "layer is 1.0; expected a whole number"),
            ({"kind": "topk_tokens"}, "kind is 'topk_tokens'; expected attention_heads or attention_pattern"),
            (
                {"colour": "red"},
                "attention_heads has no option colour; expected layer, head, example, engine, max_value",
            ),
        ],
    )
    def test_of_attention(self, attention, options, message):
        with pytest.raises(ResultError, match=message):
            attention.widget(**options)

    def test_of_others(self, model):
        with pytest.raises(ResultError, match="there is no widget for a Scores with the axes layer, head; draw it"):
            ngl.prefix_matching(model, seq_len=5, n=2).widget()
        result = ngl.get_neuron_activations(model, TEXT)
        with pytest.raises(ResultError, match="there is no neuron 999"):
            result.widget(neuron=999)
        with pytest.raises(ResultError, match="k is 0; expected a whole number"):
            result.widget(kind="topk_tokens", k=0)
        with pytest.raises(ResultError, match="no widget for a Result with the axes example"):
            ngl.get_neuron_activations(model, ["ROMEO", "JULIE"]).widget()
        lens = ngl.logit_lens(model, TEXT)
        with pytest.raises(
            ResultError, match="there is no point 'resid'; expected one of resid_pre, resid_mid, resid_post"
        ):
            lens.widget(point="resid")
        with pytest.raises(ResultError, match="the text has one token"):
            ngl.logit_lens(model, "R").widget()
        with pytest.raises(ResultError, match="3 values for 2 tokens"):
            widgets.colored_tokens(["a", "b"], [1, 2, 3])
        with pytest.raises(ResultError, match="low is 1 and high 2; expected low below zero and high above"):
            widgets.colored_tokens(["a"], [1.5], low=1, high=2)
        with pytest.raises(ResultError, match="value 1 is inf; expected finite numbers, or nan for none"):
            widgets.colored_tokens(["a", "b"], [1, float("inf")])
        with pytest.raises(ResultError, match="the text has values that are nan or infinite"):
            widgets.colored_tokens_multi(["a"], torch.tensor([[float("nan")]]), ["x"])
        with pytest.raises(ResultError, match=r"values of shape \[2, 1\] for 2 tokens and 2 labels"):
            widgets.colored_tokens_multi(["a", "b"], torch.zeros(2, 1), ["x", "y"])
        found = ngl.search_neurons(model, play(300), k=3, window=5, progress=False)
        with pytest.raises(ResultError, match="neuron 999"):
            found.widget(neurons=[(0, 999)])

    def test_patching_over_patterns_is_not_attention(self, model):
        metric = ngl.metrics.logit_diff(" ", "e")
        axes = ("layer", "head", "dest_pos", "src_pos")
        found = ngl.activation_patching(
            model, "ROMEO", "JULIE", metric, activation="pattern", axes=axes, progress=False
        )
        with pytest.raises(ResultError, match="no widget for a PatchingResult"):
            found.widget()
        with pytest.raises(ResultError, match=r"the values go from .* expected attention, from 0 to 1"):
            widgets.attention_heads(found)

    def test_numbers_that_cannot_be_shown_are_refused(self, model, attention):
        broken = replace(attention, values=attention.values.clone().fill_(float("nan")))
        with pytest.raises(ResultError, match="attention probability has values that are nan or infinite"):
            broken.widget(engine="canvas")
        lens = ngl.logit_lens(model, TEXT)
        impossible = lens.values.clone()
        impossible[-1, -1, 2] = -torch.inf
        for kind in ("token_log_probs", "loss_by_point"):
            with pytest.raises(ResultError, match="has values that are nan or infinite"):
                replace(lens, values=impossible).widget(kind=kind)

    def test_too_many_activations(self, model, monkeypatch):
        from nanogpt_lens.viz import neuron_widgets

        monkeypatch.setattr(neuron_widgets, "MOST", 100)
        with pytest.raises(ResultError, match="1,280 activations; expected 1 to 100: choose with layer= and neuron="):
            ngl.get_neuron_activations(model, TEXT).widget()


def test_a_widget_is_saved_as_a_page(tmp_path):
    widget = ngl.attention_patterns(lens_model(tmp_path), torch.arange(5)[None]).widget()
    with pytest.raises(AnalysisError, match=r"x\.png ends in '\.png'; a widget is a page: expected \.html"):
        widget.save(tmp_path / "x.png")
    assert widget.save(tmp_path / "x.html").read_text().startswith("<!doctype html>")
