"""The page in a browser, with a fake client in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from demo_browser import draw, open_tab
from demo_fakes import FakeClient, Version

from serving.client import ServingError

pytest.importorskip("playwright.sync_api")


@pytest.fixture(autouse=True)
def reset_model_server(model_server: FakeClient) -> Iterator[None]:
    """Start each test with a server that serves all models."""
    model_server.__init__()  # type: ignore[misc]
    yield
    model_server.__init__()  # type: ignore[misc]


def see(tab: Any, selector: str, text: str) -> None:
    """Wait until an element shows a text."""
    tab.locator(selector).get_by_text(text).first.wait_for()


def test_draw_and_clear(tab: Any, address: str, model_server: FakeClient) -> None:
    open_tab(tab, address, "Images")
    see(tab, "#banner", "localhost:8500")
    draw(tab)
    see(tab, "#classes", "seven")
    see(tab, "#classes", "90%")
    see(tab, "#below-classes", "Image sent")
    assert model_server.requests[0][2]["image_bytes"][0].startswith(b"\x89PNG")
    tab.get_by_role("button", name="Clear").click()
    tab.locator("#classes").get_by_text("seven").first.wait_for(state="detached")
    tab.get_by_role("button", name="Classify").click()
    see(tab, "#below-classes", "The pad is empty")


def test_choose_an_image(tab: Any, address: str, model_server: FakeClient, tmp_path: Path) -> None:
    from demos.examples import draw_digits

    (tmp_path / "digit.png").write_bytes(draw_digits()[0])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    open_tab(tab, address, "Images")
    tab.locator("#pad input[type=file]").set_input_files(tmp_path / "digit.png")
    see(tab, "#classes", "seven")
    assert model_server.requests[0][2]["image_bytes"].tolist() == [draw_digits()[0]]
    tab.locator("#pad input[type=file]").set_input_files(tmp_path / "broken.png")
    see(tab, "#below-classes", "This file is not a readable image")
    assert len(model_server.requests) == 1


def test_click_an_example_image(tab: Any, address: str, model_server: FakeClient) -> None:
    from demos.examples import draw_digits

    open_tab(tab, address, "Images")
    tab.get_by_role("button", name="Example 3").press("Enter")
    see(tab, "#classes", "seven")
    assert model_server.requests[0][2]["image_bytes"].tolist() == [draw_digits()[2]]


def test_continue_text(tab: Any, address: str, model_server: FakeClient) -> None:
    open_tab(tab, address, "Text")
    tab.get_by_label("Prompt").fill("To be")
    tab.get_by_label("Seed").fill("5")
    tab.get_by_label("Prompt").press("Enter")
    see(tab, "#continuation .prompt", "To be")
    see(tab, "#continuation mark", "<b>text</b> of seed 5")
    see(tab, "#continuation .facts", "log-probability")
    tab.get_by_role("button", name="Another continuation").click()
    see(tab, "#continuation mark", "of seed 6")
    tab.get_by_role("button", name="To be, or not").click()
    see(tab, "#continuation .prompt", "To be, or not")
    assert model_server.requests[-1][2]["length"].tolist() == [200]


def test_translate(tab: Any, address: str) -> None:
    open_tab(tab, address, "Translation")
    tab.get_by_label("Text to translate").fill("one day\ntwo days")
    tab.get_by_label("Text to translate").press("Shift+Enter")
    see(tab, "#translations", "ONE DAY")
    see(tab, "#translations", "TWO DAYS")
    see(tab, "#translations", "score −0.25")
    tab.get_by_role("button", name="Good morning.").click()
    see(tab, "#translations", "GOOD MORNING.")


def test_a_server_error_is_one_sentence_and_the_page_recovers(tab: Any, address: str, model_server: FakeClient) -> None:
    model_server.predict_error = ServingError("INVALID_ARGUMENT", "length 200 is past the limit of 100 [[{{node x}}]]")
    open_tab(tab, address, "Text")
    tab.get_by_label("Prompt").fill("To be")
    tab.get_by_role("button", name="Continue").click()
    see(tab, "#text-error", "The server rejected the request: length 200 is past the limit of 100.")
    model_server.predict_error = None
    tab.get_by_role("button", name="Continue").click()
    see(tab, "#continuation mark", "of seed 0")
    tab.locator("#text-error .card").wait_for(state="detached")


def test_the_page_recovers_when_the_server_starts(tab: Any, address: str, model_server: FakeClient) -> None:
    model_server.error = ServingError("UNAVAILABLE", "connection refused")
    open_tab(tab, address, "Translation")
    see(tab, "#banner", "No model server answers at")
    see(tab, "#banner", "python -m serving --models_dir=models --rest_api_port=8501")
    tab.get_by_label("Text to translate").fill("one day")
    tab.get_by_role("button", name="Translate").click()
    see(tab, "#translation-error", "The model server does not answer")
    model_server.error = None
    see(tab, "#banner", "version 1")  # without a reload


def test_the_notice_of_a_missing_model_says_how_to_train_it(tab: Any, address: str, model_server: FakeClient) -> None:
    del model_server.models["translation"]
    model_server.models["text_generation"] = [Version(1, "LOADING")]
    open_tab(tab, address, "Translation")
    see(tab, "#translation-notice", "python -m kerasnets.train translation --preset quick")
    tab.get_by_role("tab", name="Text", exact=True).click()
    see(tab, "#text_generation-notice", "is loading")


def test_the_page_fits_on_a_phone(tab: Any, address: str) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    for name in ("Images", "Text", "Translation"):
        open_tab(tab, address, name)
        see(tab, "#banner", "version 1")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
