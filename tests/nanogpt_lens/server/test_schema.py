"""The OpenAPI document is true: schemathesis makes requests of it, good and bad ones, and looks at every answer.

Left out is its check that what fits the schema is accepted: that a token is in the vocabulary of a model, or a text
fits its context, is more than a schema can say. What an answer is then, the other checks see.
"""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.testclient import TestClient

from tests.nanogpt_lens.server.conftest import TOKEN

load_all_checks()
HEADERS = {"Authorization": f"Bearer {TOKEN}", "Host": "localhost"}
OPERATIONS = [
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/models/{model}/run",
    "GET /v1/analyses",
    "POST /v1/models/{model}/analyses/{analysis}",
    "POST /v1/compare",
    "GET /v1/jobs",
    "GET /v1/jobs/{job}",
    "DELETE /v1/jobs/{job}",
    "GET /v1/jobs/{job}/result",
]
LONGEST_WAIT = 60  # seconds that a request may ask the server to wait for a job
QUICK = ["copying_score", "logit_lens", "text_loss", "intervene", "edge_attribution", "project_direction"]


@pytest.fixture(scope="module")
def schema(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)


@pytest.fixture(scope="module")
def job(app, name):
    """A finished job."""
    client = TestClient(app, base_url="http://localhost", headers=HEADERS)
    assert client.post(f"/v1/models/{name}/run", json={"text": "a"}).status_code == 200  # loads the model
    answer = client.post(f"/v1/models/{name}/analyses/copying_score", json={"wait": 60})
    return answer.json()["job"]


def test_all_operations_are_looked_at(schema):
    assert {operation.ok().label for operation in schema.get_all_operations()} == set(OPERATIONS)


def test_the_page_for_people_has_every_operation(app):
    answer = TestClient(app, base_url="http://localhost", headers=HEADERS).get("/docs")
    assert answer.status_code == 200
    for label in OPERATIONS:
        assert f"<code>{label.partition(' ')[2]}</code>" in answer.text


def test_a_body_without_a_name_is_shown_as_well():
    """A route of another kind must not make a 500 of the page."""
    from nanogpt_lens.server.documents import page

    body = {"content": {"application/json": {"schema": {"type": "object", "properties": {"x": {"description": "X!"}}}}}}
    document = {
        "info": {"title": "t", "description": "d"},
        "components": {"schemas": {}},
        "paths": {"/a": {"post": {"requestBody": body, "responses": {}}}, "/b": {"get": {"responses": {"200": {}}}}},
    }
    assert "X!" in page(document)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("n", [pytest.param(8, id="few"), pytest.param(150, id="many", marks=pytest.mark.slow)])
def test_every_answer_is_as_the_document_says(schema, name, job, label, mode, n):
    operation = schema.find_operation_by_label(label)
    if mode is GenerationMode.NEGATIVE and not (operation.body or list(operation.iter_parameters())):
        pytest.skip("there is nothing that could be wrong")
    real = {"model": st.just(name), "analysis": st.sampled_from(QUICK), "job": st.just(job)}

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(mode), data=st.data())
    def look(case, data):
        if case.path_parameters and mode is GenerationMode.POSITIVE and data.draw(st.integers(0, 3)):
            case.path_parameters = {key: data.draw(real[key]) for key in case.path_parameters}
        case.call_and_validate(headers=HEADERS, excluded_checks=[accepted], timeout=LONGEST_WAIT + 60)

    accepted = next(check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance")
    look()
