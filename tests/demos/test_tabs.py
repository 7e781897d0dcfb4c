"""The event handlers of the tabs, without a browser."""

from __future__ import annotations

import re

import gradio as gr
import pytest
from demo_fakes import FakeClient

from demos.examples import load_examples
from demos.images import data_url
from demos.page import selected_sample
from demos.tabs import images, text, translation
from serving.client import ServingError


def test_images(client: FakeClient) -> None:
    image = data_url(load_examples(None).images[0])
    classes, below = images.handle(client, {"kind": "image", "data": image})
    assert classes is not None
    assert next(iter(classes)) == "seven"
    assert below == ""
    classes, below = images.handle(client, None)
    assert classes is None
    assert "pad is empty" in below


def test_text(client: FakeClient) -> None:
    shown, error = text.handle(client, "To be", 20, 0.5, 0, 1.0, 4)
    assert "<span class='prompt'>To be</span><mark>&lt;b&gt;text" in shown
    assert "of seed 4" in shown
    assert error == ""
    assert text.next_seed(4) == 5
    assert text.next_seed(None) == text.next_seed("a") == text.next_seed(float("nan")) == 1


@pytest.mark.parametrize("position", range(5))
def test_an_empty_control_is_an_error(client: FakeClient, position: int) -> None:
    controls: list[float | None] = [20, 0.5, 0, 1.0, 4]
    controls[position] = None
    _, error = text.handle(client, "To be", *controls)
    assert "A control is empty" in error
    assert client.requests == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**400, "a", True, [1]])
@pytest.mark.parametrize("position", range(4))
def test_an_invalid_control_is_an_error(client: FakeClient, position: int, value: object) -> None:
    controls: list[object] = [20, 0.5, 0, 1.0, 4]
    controls[position] = value
    _, error = text.handle(client, "To be", *controls)
    assert re.search(r"(Length|Temperature|Top-k|Top-p) must be a (whole )?number from \d+ to [\d,]+\.", error)
    assert client.requests == []


@pytest.mark.parametrize("seed", [0.5, 10**18, float("nan")])
def test_the_seed_must_be_a_whole_number(client: FakeClient, seed: float) -> None:
    assert "Seed must be a whole number" in text.handle(client, "To be", 20, 0.5, 0, 1.0, seed)[1]


def test_selected_sample() -> None:
    assert selected_sample(["a", "b"], 1) == "b"
    for index in (2, -1, None, "0", [0]):
        with pytest.raises(gr.Error, match="There are 2 examples"):
            selected_sample(["a", "b"], index)


def test_translation(client: FakeClient) -> None:
    shown, error = translation.handle(client, "a\nb")
    assert shown.count("<li>") == 2
    assert error == ""


def test_the_servers_error_is_shown(client: FakeClient) -> None:
    client.predict_error = ServingError("INVALID_ARGUMENT", "length 9999 is too large; at most 1000")
    assert "length 9999 is too large; at most 1000." in text.handle(client, "a", 9999, 1, 0, 1, 0)[1]
    assert "rejected" in translation.handle(client, "a")[1]
