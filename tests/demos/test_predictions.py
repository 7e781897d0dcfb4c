"""Requests to the server, and the conversion of its outputs and errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from demo_fakes import FakeClient

from demos.predictions import (
    MAX_CHARACTERS,
    MAX_SENTENCES,
    PageError,
    Sampling,
    classify,
    continue_text,
    decode,
    first_sentence,
    translate,
)
from serving.client import ServingError


def test_classify_sends_unchanged_bytes_and_keeps_the_order(client: FakeClient) -> None:
    classes = classify(client, b"image\0")  # NumPy's own byte strings would drop the zero
    assert list(classes) == ["seven", "one", "nine"]
    assert math.isclose(classes["seven"], 0.9, rel_tol=1e-6)
    model, signature, inputs = client.requests[0]
    assert (model, signature) == ("image_classification", "serving_default")
    assert inputs["image_bytes"].tolist() == [b"image\0"]


def test_continue_text_sends_the_dtypes_of_the_signature(client: FakeClient) -> None:
    answer = continue_text(client, "Grüße", Sampling(length=7, temperature=0.5, top_k=3, top_p=0.9, seed=2**40))
    assert answer.text == f"<b>text</b> of seed {2**40}"
    assert answer.log_probability == -12.5
    model, signature, inputs = client.requests[0]
    assert (model, signature) == ("text_generation", "generate")
    assert inputs["prompt"].tolist() == ["Grüße".encode()]
    dtypes = {
        "length": "int32",
        "temperature": "float32",
        "top_k": "int32",
        "top_p": "float32",
        "seed": "int64",
    }
    assert {name: str(inputs[name].dtype) for name in dtypes} == dtypes
    assert all(array.shape == (1,) for array in inputs.values())


def test_translate_sends_lines_as_one_batch(client: FakeClient) -> None:
    answers = translate(client, " one \n\n two\n")
    assert [(each.source, each.translation, each.score) for each in answers] == [
        ("one", "ONE", -0.25),
        ("two", "TWO", -0.25),
    ]
    assert len(client.requests) == 1


@pytest.mark.parametrize("text", ["", "  \n \t"])
def test_an_empty_text_is_an_error_without_a_request(client: FakeClient, text: str) -> None:
    with pytest.raises(PageError, match="nothing to translate"):
        translate(client, text)
    assert client.requests == []


def test_an_empty_prompt_is_an_error_without_a_request(client: FakeClient) -> None:
    with pytest.raises(PageError, match="no prompt yet"):
        continue_text(client, " ", Sampling())
    assert client.requests == []


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1])
def test_a_seed_beyond_int64_is_an_error_without_a_request(client: FakeClient, seed: int) -> None:
    with pytest.raises(PageError, match="seed is too large; it must be a whole number of at most 18 digits"):
        continue_text(client, "a", Sampling(seed=seed))
    assert client.requests == []


def test_an_unpaired_surrogate_becomes_a_question_mark(client: FakeClient) -> None:
    assert continue_text(client, "a\ud800", Sampling()).prompt == "a?"
    assert client.requests[0][2]["prompt"].tolist() == [b"a?"]
    assert translate(client, "a\ud800")[0].source == "a?"
    assert client.requests[1][2]["text"].tolist() == [b"a?"]


def test_a_long_text_is_an_error_without_a_request(client: FakeClient) -> None:
    for ask in (translate, lambda client, text: continue_text(client, text, Sampling())):
        ask(client, "a" * MAX_CHARACTERS)
        with pytest.raises(PageError, match="This text has 10,001 characters; at most 10,000 are allowed"):
            ask(client, "a" * (MAX_CHARACTERS + 1))
    assert len(client.requests) == 2


def test_too_many_lines_are_an_error(client: FakeClient) -> None:
    with pytest.raises(PageError, match=f"{MAX_SENTENCES + 1} lines; at most {MAX_SENTENCES}"):
        translate(client, "a\n" * (MAX_SENTENCES + 1))


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("UNAVAILABLE", "does not answer"),
        ("NOT_FOUND", "does not serve translation"),
        ("DEADLINE_EXCEEDED", "longer than 60 seconds"),
        ("INVALID_ARGUMENT", "The server rejected the request: text 0 is not UTF-8."),
    ],
)
def test_server_errors_become_sentences(client: FakeClient, code: str, words: str) -> None:
    client.predict_error = ServingError(code, "text 0 is not UTF-8\n\t [[{{node StatefulPartitionedCall}}]]")
    with pytest.raises(PageError, match=words) as caught:
        translate(client, "a")
    assert "node" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("assertion failed: [length 0 is 9 (from 0)] [[{{node a/b}}]]", "length 0 is 9 (from 0)."),
        (r"assertion failed: [the model\'s limit] [x = ] [5]", "the model's limit."),
        ("  Stop!\nmore", "Stop!"),
        ("", "it gave no reason."),
    ],
)
def test_first_sentence(message: str, expected: str) -> None:
    assert first_sentence(message) == expected


def test_an_incomplete_character_is_decoded_as_a_placeholder() -> None:
    assert decode("ü".encode()[:1]) == "\N{REPLACEMENT CHARACTER}"
    assert decode(np.str_("text")) == "text"
