"""What the tabs ask of the model server. Every function takes the client, so a test can pass its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from demos.tasks import IMAGES, TEXT, TRANSLATION
from serving.client import ServingError

TIMEOUT = 60.0  # seconds; a long text on a busy laptop takes a few
MAX_SENTENCES = 64  # of one request: more would keep the server busy for everybody else
MAX_CHARACTERS = 10_000  # of a text; the networks themselves read a part of that


class Problem(Exception):
    """What went wrong, as one sentence for the reader of the page."""


class ModelClient(Protocol):
    """The part of ``serving.client.Client`` that the demos use."""

    def predict(
        self, model: str, inputs: Mapping[str, np.ndarray], *, signature: str = ..., timeout: float = ...
    ) -> dict[str, np.ndarray]:
        """Run one signature of a model."""

    def status(self, model: str, *, timeout: float = ...) -> Sequence[Any]:
        """The model's versions, each with ``version``, ``state``, ``code`` and ``message``."""


@dataclass(frozen=True)
class Sampling:
    """How characters are drawn. Temperature 0 is greedy; ``top_k`` 0 and ``top_p`` 1 mean no limit."""

    length: int = 200
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Continuation:
    """A prompt and the text that the network put after it."""

    prompt: str
    text: str
    log_probability: float


@dataclass(frozen=True)
class Translation:
    """One sentence, its translation and the search's score (nearer to 0 is surer)."""

    source: str
    translation: str
    score: float


def classify(client: ModelClient, image: bytes) -> dict[str, float]:
    """An encoded picture -> the probability of each of the best classes, best first."""
    outputs = ask(client, IMAGES, {"image_bytes": strings([image])})
    return {decode(label): float(score) for label, score in zip(outputs["label"][0], outputs["score"][0], strict=True)}


def continue_text(client: ModelClient, prompt: str, sampling: Sampling) -> Continuation:
    """A prompt -> what the network writes after it."""
    prompt = checked_text(prompt)
    if not prompt.strip():
        raise Problem("There is no prompt yet: type the beginning of a text, or click an example.")
    if not -(2**63) <= sampling.seed < 2**63:
        raise Problem("The seed is too large: give a whole number of at most 18 digits.")
    inputs = {
        "prompt": strings([encode(prompt)]),
        "length": np.array([sampling.length], np.int32),
        "temperature": np.array([sampling.temperature], np.float32),
        "top_k": np.array([sampling.top_k], np.int32),
        "top_p": np.array([sampling.top_p], np.float32),
        "seed": np.array([sampling.seed], np.int64),
    }
    outputs = ask(client, TEXT, inputs, signature="generate")
    return Continuation(prompt, decode(outputs["text"][0]), float(outputs["log_probability"][0]))


def translate(client: ModelClient, text: str) -> list[Translation]:
    """Lines of text, one sentence each -> their translations, asked for in one batch."""
    lines = [line.strip() for line in checked_text(text).splitlines() if line.strip()]
    if not lines:
        raise Problem("There is nothing to translate yet: type a sentence, or click an example.")
    if len(lines) > MAX_SENTENCES:
        raise Problem(f"These are {len(lines)} lines; at most {MAX_SENTENCES} fit into one request.")
    outputs = ask(client, TRANSLATION, {"text": strings([encode(line) for line in lines])})
    answers = zip(lines, outputs["translation"], outputs["score"], strict=True)
    return [Translation(line, decode(answer), float(score)) for line, answer, score in answers]


def checked_text(text: object) -> str:
    """A text of the page, with question marks where it cannot be sent; ``Problem`` for what is none or too long."""
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Problem(f"A text is needed here, and this is {type(text).__name__}; type one.")
    if len(text) > MAX_CHARACTERS:
        raise Problem(f"This text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are sent.")
    return decode(encode(text))


def ask(
    client: ModelClient, model: str, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
) -> dict[str, np.ndarray]:
    """Predict, with a server's error turned into a sentence for the page."""
    try:
        return client.predict(model, inputs, signature=signature, timeout=TIMEOUT)
    except ServingError as error:
        raise Problem(sentence(error, model)) from error


def sentence(error: ServingError, model: str) -> str:
    """What a server's error means for somebody who sees only the page."""
    if error.code == "UNAVAILABLE":
        return "The model server does not answer; the line at the top of this page says how to start it."
    if error.code == "NOT_FOUND":
        return f"The server does not serve {model}; the box above says how to make it."
    if error.code == "DEADLINE_EXCEEDED":
        return f"The server took longer than {TIMEOUT:.0f} seconds; ask for less at once, or try again."
    return f"The server refused this: {first_sentence(error.message)}"


def first_sentence(message: str) -> str:
    """The first line of a server's message, without what a graph puts around it, ended by a full stop."""
    lines = re.sub(r"\[\[.*?\]\]", "", message).strip().splitlines()  # [[{{node NAME}}]]
    if lines and (asserted := re.search(r"assertion failed: \[(.*?)\]( \[|$)", lines[0].rstrip())):
        lines = [asserted[1].replace("\\'", "'")]  # what tf.debugging.Assert was given first, which it escapes
    text = " ".join(lines[0].split()) if lines else "it gave no reason"
    return text if text.endswith((".", "!", "?")) else text + "."


def strings(values: Sequence[bytes]) -> np.ndarray:
    """A one-dimensional string tensor. dtype object: NumPy's own byte strings drop trailing zero bytes."""
    return np.array(values, dtype=object)


def encode(text: str) -> bytes:
    """Text as the server takes it; half a surrogate pair, which has no UTF-8, becomes a question mark."""
    return text.encode("utf-8", errors="replace")


def decode(value: bytes | str) -> str:
    """The server's bytes as text; half a character, where a continuation was cut, becomes a placeholder."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
