"""Requests of the tabs to the model server. Every function takes the client, so tests can pass their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from demos.tasks import IMAGES, TEXT, TRANSLATION
from serving.client import ServingError

TIMEOUT = 60.0  # seconds; a long text takes a few on a busy laptop
MAX_SENTENCES = 64  # in one request: more would block the server for other users
MAX_CHARACTERS = 10_000  # in a text; the networks read only a part of it


class PageError(Exception):
    """An error whose message is one sentence for the user of the page."""


class ModelClient(Protocol):
    """The part of ``serving.client.Client`` that the demos use."""

    def predict(
        self, model: str, inputs: Mapping[str, np.ndarray], *, signature: str = ..., timeout: float = ...
    ) -> dict[str, np.ndarray]:
        """Run one signature of a model."""

    def status(self, model: str, *, timeout: float = ...) -> Sequence[Any]:
        """Return the model's versions, each with ``version``, ``state``, ``code`` and ``message``."""


@dataclass(frozen=True)
class Sampling:
    """Sampling of characters. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 mean no limit."""

    length: int = 200
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """A prompt and the text that the network generated after it."""

    prompt: str
    text: str
    log_probability: float


@dataclass(frozen=True)
class Translation:
    """One sentence, its translation and the score of the search (closer to 0 is more confident)."""

    source: str
    translation: str
    score: float


def classify(client: ModelClient, image: bytes) -> dict[str, float]:
    """Return the probabilities of the best classes of an encoded image, best first."""
    outputs = predict(client, IMAGES, {"image_bytes": string_tensor([image])})
    return {decode(label): float(score) for label, score in zip(outputs["label"][0], outputs["score"][0], strict=True)}


def continue_text(client: ModelClient, prompt: str, sampling: Sampling) -> Continuation:
    """Return the network's continuation of a prompt."""
    prompt = validate_text(prompt)
    if not prompt.strip():
        raise PageError("There is no prompt yet: type the beginning of a text, or click an example.")
    if not -(2**63) <= sampling.seed < 2**63:
        raise PageError("The seed is too large; it must be a whole number of at most 18 digits.")
    inputs = {
        "prompt": string_tensor([encode(prompt)]),
        "length": np.array([sampling.length], np.int32),
        "temperature": np.array([sampling.temperature], np.float32),
        "top_k": np.array([sampling.top_k], np.int32),
        "top_p": np.array([sampling.top_p], np.float32),
        "seed": np.array([sampling.seed], np.int64),
    }
    outputs = predict(client, TEXT, inputs, signature="generate")
    return Continuation(prompt, decode(outputs["text"][0]), float(outputs["log_probability"][0]))


def translate(client: ModelClient, text: str) -> list[Translation]:
    """Translate lines of text, one sentence each, in one batch."""
    lines = [line.strip() for line in validate_text(text).splitlines() if line.strip()]
    if not lines:
        raise PageError("There is nothing to translate yet: type a sentence, or click an example.")
    if len(lines) > MAX_SENTENCES:
        raise PageError(f"The text has {len(lines)} lines; at most {MAX_SENTENCES} are allowed.")
    outputs = predict(client, TRANSLATION, {"text": string_tensor([encode(line) for line in lines])})
    rows = zip(lines, outputs["translation"], outputs["score"], strict=True)
    return [Translation(line, decode(translation), float(score)) for line, translation, score in rows]


def validate_text(text: object) -> str:
    """Return a text of the page, with question marks for characters that UTF-8 cannot encode.

    Raises: PageError if the value is not a text or is too long.
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        raise PageError(f"The value is of type {type(text).__name__}; it must be text.")
    if len(text) > MAX_CHARACTERS:
        raise PageError(f"This text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are allowed.")
    return decode(encode(text))


def predict(
    client: ModelClient, model: str, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
) -> dict[str, np.ndarray]:
    """Call the server; convert its errors to ``PageError``."""
    try:
        return client.predict(model, inputs, signature=signature, timeout=TIMEOUT)
    except ServingError as error:
        raise PageError(describe_error(error, model)) from error


def describe_error(error: ServingError, model: str) -> str:
    """Explain a server's error to a user of the page."""
    if error.code == "UNAVAILABLE":
        return "The model server does not answer; the line at the top of this page says how to start it."
    if error.code == "NOT_FOUND":
        return f"The server does not serve {model}; the box above says how to train and export it."
    if error.code == "DEADLINE_EXCEEDED":
        return f"The server took longer than {TIMEOUT:.0f} seconds; send a smaller request, or try again."
    return f"The server rejected the request: {first_sentence(error.message)}"


def first_sentence(message: str) -> str:
    """Return the first line of a server's message, without TensorFlow's additions, ending with a full stop."""
    lines = re.sub(r"\[\[.*?\]\]", "", message).strip().splitlines()  # [[{{node NAME}}]]
    if lines and (asserted := re.search(r"assertion failed: \[(.*?)\]( \[|$)", lines[0].rstrip())):
        lines = [asserted[1].replace("\\'", "'")]  # the first argument of tf.debugging.Assert, which escapes it
    text = " ".join(lines[0].split()) if lines else "it gave no reason"
    return text if text.endswith((".", "!", "?")) else text + "."


def string_tensor(values: Sequence[bytes]) -> np.ndarray:
    """Return a string tensor of rank 1. Its dtype is object: NumPy's byte strings drop trailing zero bytes."""
    return np.array(values, dtype=object)


def encode(text: str) -> bytes:
    """Encode text as UTF-8; an unpaired surrogate, which UTF-8 cannot encode, becomes a question mark."""
    return text.encode("utf-8", errors="replace")


def decode(value: bytes | str) -> str:
    """Decode the server's bytes; an incomplete character, where a continuation was cut, becomes a placeholder."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
