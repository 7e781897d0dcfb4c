"""End to end: browser, ``python -m demos``, a model server with exported models."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from demo_browser import draw, free_port, open_tab, play

pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def running(served_models: Any) -> Iterator[str]:
    """Run ``python -m demos`` with a real model server; return its URL."""
    port = free_port()
    command = [sys.executable, "-m", "demos", f"--server={served_models.grpc}", f"--port={port}"]
    command.append(f"--models-dir={served_models.models_dir}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()  # printed when the page is ready
        yield f"http://127.0.0.1:{port}"
        program.send_signal(signal.SIGTERM)
        assert program.wait(120) == 0
    assert line.startswith("Demos: http://")


def test_images(tab: Any, running: str) -> None:
    open_tab(tab, running, "Images")
    tab.locator("#banner .chip.ready").nth(2).wait_for()
    play(tab, "Images")
    tab.get_by_role("button", name="Clear").click()
    draw(tab, ((0.5, 0.15), (0.5, 0.85)))
    tab.locator("#classes .confidence").first.wait_for()
    tab.get_by_role("button", name="Example 1", exact=True).click()
    tab.locator("#below-classes .sent").wait_for(state="detached")
    assert tab.locator("#classes").inner_text().count("%") >= 2


def test_text(tab: Any, running: str) -> None:
    open_tab(tab, running, "Text")
    play(tab, "Text")
    first = tab.locator("#continuation mark").inner_text()
    assert first
    tab.get_by_role("button", name="Another continuation").click()
    tab.wait_for_function("text => document.querySelector('#continuation mark').innerText !== text", arg=first)


def test_translation(tab: Any, running: str) -> None:
    open_tab(tab, running, "Translation")
    play(tab, "Translation")
    assert tab.locator("#translations .target").first.inner_text()
