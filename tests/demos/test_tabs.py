"""What each tab's event gives its components, without a browser."""

from __future__ import annotations

import re

import gradio as gr
import pytest
from demo_fakes import FakeClient

from demos.examples import load_examples
from demos.page import picked_sample
from demos.pictures import data_url
from demos.tabs import images, text, translation
from serving.client import ServingError


def test_images(client: FakeClient) -> None:
    picture = data_url(load_examples(None).images[0])
    classes, below = images.answer(client, {"kind": "picture", "data": picture})
    assert classes is not None
    assert next(iter(classes)) == "seven"
    assert below == ""
    classes, below = images.answer(client, None)
    assert classes is None
    assert "pad is empty" in below


def test_text(client: FakeClient) -> None:
    shown, trouble = text.answer(client, "To be", 20, 0.5, 0, 1.0, 4)
    assert "<span class='prompt'>To be</span><mark>&lt;b&gt;text" in shown
    assert "of seed 4" in shown
    assert trouble == ""
    assert text.next_seed(4) == 5
    assert text.next_seed(None) == text.next_seed("a") == text.next_seed(float("nan")) == 1


@pytest.mark.parametrize("position", range(5))
def test_an_emptied_control_is_said(client: FakeClient, position: int) -> None:
    controls: list[float | None] = [20, 0.5, 0, 1.0, 4]
    controls[position] = None
    _, trouble = text.answer(client, "To be", *controls)
    assert "A control is empty" in trouble
    assert client.requests == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 10**400, "a", True, [1]])
@pytest.mark.parametrize("position", range(4))
def test_a_control_that_is_no_such_number_is_said(client: FakeClient, position: int, value: object) -> None:
    controls: list[object] = [20, 0.5, 0, 1.0, 4]
    controls[position] = value
    _, trouble = text.answer(client, "To be", *controls)
    assert re.search(r"(Length|Temperature|Top-k|Top-p) has to be a (whole )?number from \d+ to [\d,]+\.", trouble)
    assert client.requests == []


@pytest.mark.parametrize("seed", [0.5, 10**18, float("nan")])
def test_a_seed_is_a_whole_number(client: FakeClient, seed: float) -> None:
    assert "Seed has to be a whole number" in text.answer(client, "To be", 20, 0.5, 0, 1.0, seed)[1]


def test_an_example_is_picked_by_its_number() -> None:
    assert picked_sample(["a", "b"], 1) == "b"
    for index in (2, -1, None, "0", [0]):
        with pytest.raises(gr.Error, match="There are 2 examples"):
            picked_sample(["a", "b"], index)


def test_translation(client: FakeClient) -> None:
    shown, trouble = translation.answer(client, "a\nb")
    assert shown.count("<li>") == 2
    assert trouble == ""


def test_the_servers_words_are_shown(client: FakeClient) -> None:
    client.refusal = ServingError("INVALID_ARGUMENT", "length 9999 is too large; at most 1000")
    assert "length 9999 is too large; at most 1000." in text.answer(client, "a", 9999, 1, 0, 1, 0)[1]
    assert "refused" in translation.answer(client, "a")[1]
