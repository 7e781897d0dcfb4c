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
def address(model_server: FakeClient) -> Iterator[str]:
    """The page's URL, while it runs in this process."""
    from demos.app import build, launch_options
    from demos.examples import load_examples

    page = build(model_server, load_examples(None), "localhost:8500")
    port = demo_browser.free_port()
    page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, **launch_options())
    yield f"http://127.0.0.1:{port}"
    page.close(verbose=False)


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
    page.set_default_timeout(180_000)  # the machine may have other work
    yield page
    page.close()
    assert foreign == []
    assert errors == []
