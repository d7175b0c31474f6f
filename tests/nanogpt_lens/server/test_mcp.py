"""The tools in this process, by a client of the SDK: documents, controls, and that the Python says the same."""

from __future__ import annotations

import base64
import json
import math

import anyio
import jsonschema
import pytest
import torch

pytest.importorskip("mcp")

from mcp import Client

from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.mcp_app import make_server
from nanogpt_lens.viz import export
from tests.nanogpt_lens.server.mcp_helpers import CALLS, PAIRS, call, write_models

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "text.txt").write_text("the cat sat on the mat; " * 40 + "a rose is a rose, Romeo. " * 20)
    return make_server(write_models(folder), text=folder / "text.txt", output_folder=folder / "reports")


def undrawn(figure, path, **options):
    """A file in place of a picture: each picture takes a browser seconds; test_mcp_stdio.py draws them."""
    path.write_bytes(PNG)
    return path


@pytest.fixture(scope="module")
def answers(server):
    """Every answer, once, and the tools."""
    found = {}

    async def ask():
        async with Client(server) as client:
            found["tools"] = {tool.name: tool for tool in (await client.list_tools()).tools}
            for name, (tool, arguments) in CALLS.items():
                result = await client.call_tool(tool, arguments)
                assert not result.is_error, (name, result.content[0].text)
                found[name] = result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_png", undrawn)
        anyio.run(ask)
    return found


def document(answers, name):
    return answers[name].structured_content


def executed(answers, name):
    """What the lines of an answer make."""
    made: dict = {}
    exec(document(answers, name)["python"], made)
    return made


def test_every_tool_says_what_it_takes_gives_and_costs(answers):
    tools = answers["tools"]
    assert 6 <= len(tools) <= 8
    assert {tool for tool, _ in CALLS.values()} <= set(tools)
    for tool in tools.values():
        assert "Costs" in tool.description
        assert "ontrol" in tool.description
        assert tool.output_schema["type"] == "object"
        assert "context" not in tool.input_schema["properties"]
        for argument in ("seed", "model"):
            assert argument in tool.input_schema["properties"]


@pytest.mark.parametrize("name", CALLS)
def test_documents_are_as_the_schema_says(answers, name):
    tool = answers["tools"][CALLS[name][0]]
    said = document(answers, name)
    jsonschema.validate(said, tool.output_schema)
    assert json.loads(answers[name].content[0].text) == said
    assert said["schema_version"] == "1"
    assert said["tool"] == tool.name
    assert said["finding"].endswith(".")
    assert "control" in said
    json.dumps(said, allow_nan=False)


def test_describe_says_what_the_checkpoint_is(answers):
    (one,) = document(answers, "describe")["result"]
    made = executed(answers, "describe")
    assert made["certificate"].passed is one["proven"] is True
    assert one["sha256"] == made["certificate"].sha256
    assert (one["n_layers"], one["n_heads"], one["d_model"], one["n_ctx"]) == (2, 3, 24, 12)
    assert one["loss"] == pytest.approx(float(made["loss"].values))
    assert one["loss_low"] < one["loss"] < one["loss_high"]
    assert one["loss_by_chance"] == pytest.approx(math.log(65))
    assert one["heads"] == [
        {"head": f"{layer}.{head}", "names": list(names)}
        for layer in range(2)
        for head in range(3)
        if (names := made["heads"].of(layer, head))
    ]


@pytest.mark.parametrize("name", ["run", "run on ids"])
def test_run_gives_what_intervene_gives(answers, name):
    said, made = document(answers, name), executed(answers, name)
    result = made["result"]
    assert said["metric_value"] == pytest.approx(float(result.base_metric[0]))
    assert said["metric_changed"] == pytest.approx(float(result.metric[0]))
    assert said["kl_last"] == pytest.approx(float(result.kl[0, -1]))
    for field, logits in (("next_tokens", result.base), ("next_tokens_changed", result.values)):
        for row in said[field]:
            assert row["logit"] == pytest.approx(float(logits[0, -1, row["id"]]))
            assert row["probability"] == pytest.approx(float(logits[0, -1].softmax(-1)[row["id"]]), rel=1e-5)


def test_run_is_controlled_by_the_same_elsewhere(answers):
    said, made = document(answers, "run"), executed(answers, "run")
    assert said["control"]["n"] == len(made["controls"]) == len(said["control_interventions"])
    assert said["control"]["n"] == 5  # other heads, each with the one other MLP
    assert said["control"]["level_is"] == "max"
    changes = sorted((abs(float(one.change[0])) for one in made["controls"]), reverse=True)
    assert said["control"]["values"] == pytest.approx(changes)
    own = abs(float(made["result"].change[0]))
    assert said["control"]["p"] == (1 + sum(change >= own for change in changes)) / (1 + len(changes))
    for some in said["control_interventions"]:
        assert not any(one in said["interventions"] for one in some)
        assert [one["activation"] for one in some] == ["z", "mlp_out"]
        assert [one["source"] for one in some] == ["zero", {"scale": 2.0}]


NO_OTHERS = [{"place": f"{layer}.{head}", "source": "zero"} for layer in range(2) for head in (0, 1)]


def test_where_there_is_no_other_place_there_is_no_control(answers, server):
    """Of six heads, four are studied: only two others are left."""
    more = call(server, "run", {"model": "tiny", "text": "the cat", "interventions": NO_OTHERS})
    for said in (document(answers, "run on ids"), more.structured_content):
        assert said["control"]["n"] == 0
        assert said["control"]["p"] is said["control"]["level"] is said["control"]["level_is"] is None
        assert said["control"]["what"].startswith("no control")
        assert said["finding"].endswith("There is no control.")
        assert any("no control" in caveat for caveat in said["caveats"])


@pytest.mark.parametrize("name", ["find_what_matters", "find_what_matters, one pair"])
def test_effects_are_those_of_patching(answers, name):
    said, made = document(answers, name), executed(answers, name)
    heads, mlps = made["heads"], made["mlps"]
    expected = {
        f"{layer}.{head}": heads.effect[layer, head]
        for layer in range(heads.shape["layer"])
        for head in range(heads.shape["head"])
    } | {f"mlp{layer}": mlps.effect[layer] for layer in range(mlps.shape["layer"])}
    assert {row["component"]: row["effect"] for row in said["result"]} == {
        place: pytest.approx(float(effect)) for place, effect in expected.items()
    }
    largest = torch.cat([made["head_controls"].values.flatten(1), made["mlp_controls"].values], 1).abs().max(1).values
    for row in said["result"]:
        p = (1 + int((largest.double() >= abs(row["effect"])).sum())) / (1 + len(largest))
        assert row["p_control"] == pytest.approx(p)
        assert row["beats_control"] == (p <= 0.05)
        assert (row["low"] is None) == (said["n_pairs"] == 1)


def test_a_head_patched_by_hand_has_the_effect_that_is_said(answers):
    said, made = document(answers, "find_what_matters"), executed(answers, "find_what_matters")
    model, clean, corrupted = made["model"], torch.tensor(made["clean"]), torch.tensor(made["corrupted"])
    _, cache = model.run_with_cache(corrupted)

    def patch(z, hook):
        z[:, :, 2] = cache["blocks.1.attn.hook_z"][:, :, 2]
        return z

    def metric(logits):
        return (logits[range(4), -1, answer] - logits[range(4), -1, wrong]).mean()

    answer, wrong = (
        [*model.to_tokens("".join(p[n] for p in PAIRS[:3]))[0].tolist(), PAIRS[3][n]] for n in ("answer", "wrong")
    )
    patched = model.run_with_hooks(clean, fwd_hooks=[("blocks.1.attn.hook_z", patch)])
    expected = metric(patched) - metric(model(clean))
    (row,) = [row for row in said["result"] if row["component"] == "1.2"]
    assert row["effect"] == pytest.approx(expected.item(), abs=1e-5)
    assert said["clean"] == pytest.approx(float(metric(model(clean))), abs=1e-5)


def test_a_circuit_is_the_one_of_the_lines(answers):
    said, made = document(answers, "find_circuit"), executed(answers, "find_circuit")
    circuit, validation = made["circuit"], made["validation"]
    assert sorted(row["edge"] for row in said["result"]) == sorted(circuit.edges)
    assert said["faithfulness"] == pytest.approx(circuit.faithfulness)
    assert said["faithfulness_held_out"] == pytest.approx(validation.check("held_out"))
    assert (said["n_pairs"], said["n_held_out"]) == (2, 2)
    control = said["control"]
    assert (control["level_is"], control["n"]) == ("mean", 20)
    assert control["level"] == pytest.approx(validation.check("random_circuits"))
    assert control["p"] == pytest.approx(validation.p_of("random_circuits"))
    assert {row["check"] for row in said["checks"]} == set(validation.labels["check"])
    assert any("in sample" in caveat for caveat in said["caveats"])


def test_a_head_is_what_the_lines_say(answers):
    said, made = document(answers, "describe_component"), executed(answers, "describe_component")
    assert said["ablation"] == pytest.approx(float(made["losses"].values[1, 2]))
    others = [float(made["losses"].values[layer, head]) for layer in range(2) for head in range(3)]
    del others[5]
    assert said["control"]["n"] == 5
    assert said["control"]["values"] == pytest.approx(sorted(others, reverse=True))
    for row in said["result"]:
        assert row["value"] == pytest.approx(float(made["heads"].score(row["score"])[1, 2]))
        assert row["chance"] == pytest.approx(float(made["heads"].at(score=row["score"])[1, 2] * 0 + row["chance"]))
    direct = made["direct"].values[made["direct"].labels["component"].index("1.2")]
    assert said["direct_effect"] == pytest.approx(float(direct.mean()), abs=1e-6)


def test_a_neuron_is_what_the_lines_say(answers):
    said, made = document(answers, "describe_component, a neuron"), executed(answers, "describe_component, a neuron")
    page = made["search"].page(1, 5)
    assert [row["activation"] for row in said["excerpts"]] == pytest.approx([one.value for one in page.highest])
    assert [row["token"] for row in said["promotes"]] == [token for token, _ in page.promoted]
    rises = made["without"].at(score="rise")
    assert said["ablation"] == pytest.approx(float(rises[0]))
    assert said["control"]["n"] == len(rises) - 1 == 20


def test_a_comparison_is_that_of_the_lines(answers):
    said, made = document(answers, "compare"), executed(answers, "compare")
    comparison = made["comparison"]
    assert said["sentences"] == list(comparison.sentences())
    assert {row["part"] for row in said["result"]} == {"outputs", "weights", "heads"}
    outputs = comparison["outputs"]
    measures = dict(zip(outputs.labels["measure"], outputs.values.tolist(), strict=True))
    for row in said["result"]:
        if row["part"] == "outputs":
            assert row["value"] == pytest.approx(measures[row["measure_label"]])
    (origin, heads) = said["control"]
    assert (origin["p"], origin["n"]) == (pytest.approx(comparison["weights"].origin_p), 999)
    assert heads["level"] == pytest.approx(float(comparison["heads"].chance.double().nanmean()))
    assert (heads["level_is"], heads["n"]) == ("threshold", 499)


def test_a_search_is_held_against_the_random_sets_of_the_lines(answers):
    said, made = document(answers, "compare, a search"), executed(answers, "compare, a search")
    sets = made["comparison"]["transplants"]
    assert "search=True" in said["python"]
    assert set(sets.smallest_set("b into a")) <= {"mlp0", "1.0", "1.1", "1.2"}
    assert said["finding"] == " ".join(made["comparison"].sentences()[:2])
    controls = iter(said["control"][1:])
    for i, direction in enumerate(sets.labels["direction"]):
        for c in range(2):
            control, p = next(controls), float(sets.set_p[i, c])
            assert direction in control["what"]
            if math.isnan(p):
                assert control["n"] == 0
                continue
            values = sorted((v for v in sets.random_share[i, c].tolist() if not math.isnan(v)), reverse=True)
            assert control["n"] == len(values)
            assert control["values"] == pytest.approx(values)
            assert control["level"] == pytest.approx(values[(len(values) + 1) // 20 - 1])
            assert control["p"] == pytest.approx(p)
    assert next(controls, None) is None
    assert sum(control["n"] > 0 for control in said["control"]) > 1
    assert not any("search=true" in caveat for caveat in said["caveats"])


def test_without_a_search_no_set_is_spoken_of(answers):
    said, made = document(answers, "compare, alone"), executed(answers, "compare, alone")
    comparison = made["comparison"]
    assert comparison["transplants"].chosen is None
    (halves,) = said["control"]
    lens = comparison["difference_lens"]
    assert halves["level"] == pytest.approx(float(lens.control.nan_to_num(-1).max()))
    assert (halves["level_is"], halves["n"]) == ("max", 40)
    assert "40 random splits" in lens.definition
    assert any("search=true" in caveat for caveat in said["caveats"])


def test_images_are_images(answers):
    for name in ("picture", "find_what_matters"):
        assert document(answers, name)["picture"] == "png"
        (image,) = [part for part in answers[name].content if part.type == "image"]
        assert base64.b64decode(image.data) == PNG
        assert image.mime_type == "image/png"
    assert [part.type for part in answers["run"].content] == ["text"]


def test_a_picture_gives_the_values(answers):
    result = executed(answers, "picture")["result"]
    for row in document(answers, "picture")["result"]:
        place = row["layer"], row["head"], row["dest_pos"], row["src_pos"]
        assert row["value"] == pytest.approx(float(result.values[place]))
    loss = executed(answers, "picture of a corpus")["result"]
    assert document(answers, "picture of a corpus")["result"] == [{"value": pytest.approx(float(loss.values))}]


def test_a_report_is_written_where_the_start_said(answers, server, tmp_path):
    said = document(answers, "report")
    assert said["path"].endswith("reports/tiny-report.html")
    with open(said["path"]) as file:
        assert "<html" in file.read(1000)
    assert said["sections"] == {"loss": "done"}


def test_without_a_browser_the_numbers_come_alone(server, monkeypatch):
    def fail(*_, **__):
        raise AnalysisError("there is no browser to draw with")

    monkeypatch.setattr(export, "to_png", fail)
    result = call(server, *CALLS["picture"])
    assert result.structured_content["picture"] == "no image: there is no browser to draw with"
    assert [part.type for part in result.content] == ["text"]


def test_the_same_question_has_the_same_answer(answers, server):
    for name in ("run", "find_what_matters, one pair"):
        assert call(server, *CALLS[name]).structured_content == document(answers, name)
