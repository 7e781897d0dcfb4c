"""The fixtures: a client that answers from memory, the page that asks it, and a browser to use the page."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for the two helpers here, whatever pytest's import mode

import demo_browser
from demo_fakes import FakeClient


@pytest.fixture
def client() -> FakeClient:
    """A client whose server serves everything."""
    return FakeClient()


@pytest.fixture
def port() -> int:
    """A free port."""
    return demo_browser.free_port()


@pytest.fixture(scope="module")
def model_server() -> FakeClient:
    """The client that the page of this module's tests asks; a test changes what it answers."""
    return FakeClient()


@pytest.fixture(scope="module")
def kept_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory in which Gradio would keep files."""
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def address(model_server: FakeClient, kept_files: Path) -> Iterator[str]:
    """The page's URL, while it runs in this process."""
    from demos import cli
    from demos.app import build, web_app
    from demos.examples import load_examples
    from demos.guard import AllowedHosts
    from demos.server import running

    page = build(model_server, load_examples(None), "localhost:8500")
    app = web_app(page, AllowedHosts("127.0.0.1", ["demos.example"]))
    with cli.listen("127.0.0.1", 0, "--port") as listener, running(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser."""
    if demo_browser.executable() is None:
        pytest.skip("no Chromium on PATH; `apt-get install chromium`, or your system's package of it, provides it")
    with demo_browser.chromium() as browser:
        yield browser


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A new browser tab. When it closes, it must have asked nothing beyond this machine and met no error."""
    page = chromium.new_page(viewport={"width": 1200, "height": 800})
    foreign, errors = [], []
    page.on("request", lambda request: None if demo_browser.is_local(request.url) else foreign.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(120_000)  # the machine has other work while tests run in two processes
    yield page
    page.close()
    assert foreign == []
    assert errors == []
