"""One name is one checkpoint: a file that changes after the start is refused, by the server and by its worker."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from conversion.checkpoint import read_checkpoint
from nanogpt_lens.core.errors import AnalysisError
from nanogpt_lens.server.app import close_app, create_app
from nanogpt_lens.server.served import ServedModels
from nanogpt_lens.server.work import models_from_json, models_to_json
from tests.making import write
from tests.nanogpt_lens.server.conftest import TOKEN

CHANGED = "the checkpoint one has changed since the start; start the server again"


@pytest.fixture
def place(tmp_path):
    return write(tmp_path / "one", seed=1).parent


def test_the_hash_is_that_of_the_checkpoint(place):
    assert ServedModels([place]).named("one").sha256 == read_checkpoint(place).sha256


def test_a_file_that_has_changed_is_not_loaded(place):
    models = ServedModels([place])
    worker = models_from_json(models_to_json(models))  # as one that is born later
    with models.named("one").open() as model:
        before = model.W_E.clone()
    write(place, seed=2)
    reborn = models_from_json(models_to_json(models))
    for some in (worker, reborn):
        with pytest.raises(AnalysisError, match=CHANGED), some.named("one").open():
            pass
    with models.named("one").open() as model:  # it has the one of the start
        assert (before == model.W_E).all()
    models.named("one").forget()
    with pytest.raises(AnalysisError, match=CHANGED), models.named("one").open():
        pass
    (place / "ckpt.pt").unlink()
    with pytest.raises(AnalysisError, match=CHANGED), models.named("one").open():
        pass


def test_a_file_that_changes_while_it_is_read_is_not_loaded(place, monkeypatch):
    from nanogpt_lens.server import served

    models, load = ServedModels([place]), served.load

    def slowly(path, **options):
        write(place, seed=2)
        return load(path, **options)

    monkeypatch.setattr(served, "load", slowly)
    with pytest.raises(AnalysisError, match=CHANGED), models.named("one").open():
        pass


def test_over_http_it_is_one_sentence(place):
    app = create_app(ServedModels([place]), token=TOKEN)
    try:
        client = TestClient(app, base_url="http://localhost", headers={"Authorization": f"Bearer {TOKEN}"})
        write(place, seed=2)
        for answer in (
            client.post("/v1/models/one/run", json={"text": "a"}),
            client.get("/v1/models/one"),
            client.get("/lab/one"),
        ):
            assert answer.status_code == 422
            assert answer.json()["error"]["message"] == CHANGED
    finally:
        close_app(app)
