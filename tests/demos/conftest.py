"""Fixtures: a fake client, the page that uses it, and a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for the helper modules, in every import mode of pytest

import demo_browser
from demo_fakes import FakeClient


@pytest.fixture
def client() -> FakeClient:
    """Return a client whose server serves all models."""
    return FakeClient()


@pytest.fixture
def port() -> int:
    """Return a free port."""
    return demo_browser.free_port()


@pytest.fixture(scope="module")
def model_server() -> FakeClient:
    """Return the client of the page in this module's tests; tests change its responses."""
    return FakeClient()


@pytest.fixture(scope="module")
def gradio_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory where Gradio stores files."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def address(model_server: FakeClient, gradio_files: Path) -> Iterator[str]:
    """Run the page in this process; return its URL."""
    from demos import cli
    from demos.app import build, web_app
    from demos.examples import load_examples
    from demos.guard import AllowedHosts
    from demos.server import serve_in_thread

    page = build(model_server, load_examples(None), "localhost:8500")
    app = web_app(page, AllowedHosts("127.0.0.1", ["demos.example"]))
    with cli.listen("127.0.0.1", 0, "--port") as listener, serve_in_thread(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Return a headless browser."""
    if demo_browser.executable() is None:
        pytest.skip("no Chromium on PATH; `apt-get install chromium`, or your system's package of it, provides it")
    with demo_browser.chromium() as browser:
        yield browser


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """Return a new browser tab; at its end, check that it sent no request to other machines and had no error."""
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    foreign, errors = [], []
    page.on("request", lambda request: None if demo_browser.is_local(request.url) else foreign.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(120_000)  # tests run in two processes, so the machine is busy
    yield page
    page.close()
    assert foreign == []
    assert errors == []
