"""The page in a browser, used as a person would use it; a client in this process answers."""

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
def all_is_well(model_server: FakeClient) -> Iterator[None]:
    """Each test starts with a server that serves everything."""
    model_server.__init__()  # type: ignore[misc]
    yield
    model_server.__init__()  # type: ignore[misc]


def see(tab: Any, place: str, words: str) -> None:
    """Wait until ``words`` stand in ``place``, visible."""
    tab.locator(place).get_by_text(words).first.wait_for()


def test_draw_and_clear(tab: Any, address: str, model_server: FakeClient) -> None:
    open_tab(tab, address, "Images")
    see(tab, "#banner", "localhost:8500")
    draw(tab)
    see(tab, "#classes", "seven")
    see(tab, "#classes", "90%")
    see(tab, "#below-classes", "What is sent")
    assert model_server.requests[0][2]["image_bytes"][0].startswith(b"\x89PNG")
    tab.get_by_role("button", name="Clear").click()
    tab.locator("#classes").get_by_text("seven").first.wait_for(state="detached")
    tab.get_by_role("button", name="Classify").click()
    see(tab, "#below-classes", "The pad is empty")


def test_choose_a_picture(tab: Any, address: str, model_server: FakeClient, tmp_path: Path) -> None:
    from demos.examples import drawn_digits

    (tmp_path / "digit.png").write_bytes(drawn_digits()[0])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    open_tab(tab, address, "Images")
    tab.locator("#pad input[type=file]").set_input_files(tmp_path / "digit.png")
    see(tab, "#classes", "seven")
    assert model_server.requests[0][2]["image_bytes"].tolist() == [drawn_digits()[0]]
    tab.locator("#pad input[type=file]").set_input_files(tmp_path / "broken.png")
    see(tab, "#below-classes", "This file is not a picture that can be read")
    assert len(model_server.requests) == 1


def test_click_an_example_picture(tab: Any, address: str, model_server: FakeClient) -> None:
    from demos.examples import drawn_digits

    open_tab(tab, address, "Images")
    tab.get_by_role("button", name="Example 3").press("Enter")
    see(tab, "#classes", "seven")
    assert model_server.requests[0][2]["image_bytes"].tolist() == [drawn_digits()[2]]


def test_write_on(tab: Any, address: str, model_server: FakeClient) -> None:
    open_tab(tab, address, "Text")
    tab.get_by_label("Prompt").fill("To be")
    tab.get_by_label("Seed").fill("5")
    tab.get_by_label("Prompt").press("Enter")
    see(tab, "#continuation .prompt", "To be")
    see(tab, "#continuation mark", "<b>text</b> of seed 5")
    see(tab, "#continuation .facts", "log-probability")
    tab.get_by_role("button", name="Another one").click()
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


def test_the_servers_refusal_is_one_sentence_and_the_page_lives(
    tab: Any, address: str, model_server: FakeClient
) -> None:
    model_server.refusal = ServingError("INVALID_ARGUMENT", "length 200 is past the limit of 100 [[{{node x}}]]")
    open_tab(tab, address, "Text")
    tab.get_by_label("Prompt").fill("To be")
    tab.get_by_role("button", name="Continue").click()
    see(tab, "#text-trouble", "The server refused this: length 200 is past the limit of 100.")
    model_server.refusal = None
    tab.get_by_role("button", name="Continue").click()
    see(tab, "#continuation mark", "of seed 0")
    tab.locator("#text-trouble .card").wait_for(state="detached")


def test_without_a_server_the_page_says_so_and_recovers(tab: Any, address: str, model_server: FakeClient) -> None:
    model_server.error = ServingError("UNAVAILABLE", "connection refused")
    open_tab(tab, address, "Translation")
    see(tab, "#banner", "No model server answers at")
    see(tab, "#banner", "python -m serving --models_dir=models --rest_api_port=8501")
    tab.get_by_label("Text to translate").fill("one day")
    tab.get_by_role("button", name="Translate").click()
    see(tab, "#translation-trouble", "The model server does not answer")
    model_server.error = None
    see(tab, "#banner", "version 1")  # by itself


def test_a_model_that_is_not_served_says_how_to_make_it(tab: Any, address: str, model_server: FakeClient) -> None:
    del model_server.models["translation"]
    model_server.models["text_generation"] = [Version(1, "LOADING")]
    open_tab(tab, address, "Translation")
    see(tab, "#translation-notice", "python -m kerasnets.train translation --preset quick")
    tab.get_by_role("tab", name="Text", exact=True).click()
    see(tab, "#text_generation-notice", "is loading")


def test_nothing_sticks_out_of_a_phone(tab: Any, address: str) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    for name in ("Images", "Text", "Translation"):
        open_tab(tab, address, name)
        see(tab, "#banner", "version 1")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
