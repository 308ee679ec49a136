"""A hub on loopback for every test here; the real client talks to it and to nothing else."""

from __future__ import annotations

import socket
from contextlib import contextmanager

import pytest
from hub_server import TOKEN, serve

constants = pytest.importorskip("huggingface_hub.constants")


@contextmanager
def _running(home, monkeypatch):
    state, server = serve()
    # The client reads its variables once, when it is imported; subprocesses get the variables.
    monkeypatch.setattr(constants, "ENDPOINT", state.url)
    template = state.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Clients below version 1 keep a copy.
    copy = "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE"
    monkeypatch.setattr(copy, template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    connect = socket.socket.connect

    def only_loopback(self, address):
        assert address[0] in ("127.0.0.1", "localhost"), f"a test asked {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running server, the client pointed at it, an empty cache, and no token of the machine."""
    with _running(tmp_path / "hf", monkeypatch) as state:
        yield state


@pytest.fixture(scope="session")
def published(fitted_backbone, fitted_synth, tmp_path_factory):
    """What push_to_hub makes of the fitted objects: name -> files, published once."""
    things = {"tester/base": fitted_backbone, "tester/s": fitted_synth}
    with (
        pytest.MonkeyPatch.context() as patch,
        _running(tmp_path_factory.mktemp("hf"), patch) as state,
    ):
        for name, thing in things.items():
            thing.push_to_hub(name, license="other", private=False, token=TOKEN)
        return {name: state.files(name) for name in things}


@pytest.fixture
def cache(hub, tmp_path):
    """The cache of the client; it does not exist before the first download."""
    return tmp_path / "hf" / "hub"


@pytest.fixture
def environment(hub, tmp_path):
    """Variables with which another process reaches the same hub and cache."""
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
