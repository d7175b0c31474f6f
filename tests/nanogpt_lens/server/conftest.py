"""One application of a small model for all tests of this folder; its worker is born once."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from nanogpt_lens.server.app import close_app, create_app
from nanogpt_lens.server.served import ServedModels
from nanogpt_lens.text.datasets import data_of_text
from nanogpt_lens.text.tasks import trigger_bigrams
from tests.making import CHARS, write, write_meta

TOKEN = "the token of the tests"


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model of two layers with two heads, 32 positions and its own task."""
    folder = tmp_path_factory.mktemp("small")
    write(folder, block_size=32)
    write_meta(folder)
    trigger_bigrams(data_of_text(CHARS * 4), n_triggers=2).save(folder)
    return folder


@pytest.fixture(scope="session")
def models(folder):
    return ServedModels([folder, "handmade_induction"])


@pytest.fixture(scope="session")
def app(models):
    app = create_app(models, token=TOKEN)
    yield app
    close_app(app)


@pytest.fixture(scope="session")
def name(models):
    """The name of the small model."""
    return models.names[0]


@pytest.fixture
def client(app):
    """A client that has the token."""
    return TestClient(app, base_url="http://localhost", headers={"Authorization": f"Bearer {TOKEN}"})
