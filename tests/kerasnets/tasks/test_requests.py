"""The cost of requests: the largest that each signature accepts, and larger ones, which are rejected."""

import functools
import time

import numpy as np
import pytest
import tensorflow as tf
from peak_memory import peak_memory
from rejected_requests import assert_rejected
from small_runs import TASKS

from kerasnets.loading import open_model
from kerasnets.tasks import requests
from kerasnets.tasks.image_classification.task import example_message
from kerasnets.tasks.text_generation import signatures as text_signatures
from kerasnets.tasks.translation import translator

MAX_MEGABYTES = 500  # additional memory for a request to the models of the tests
MAX_REJECTED_MEGABYTES = 30  # and for a rejected request
# CPU seconds of the largest request of each signature, as the README states them, and of a rejected request.
SECONDS = {
    "image_classification": {"serving_default": 12, "explain": 12, "classify": 12, "pixels": 1},
    "text_generation": {"serving_default": 5, "generate": 7, "stream": 6, "sample": 7, "next_char": 2, "explain": 1},
    "translation": {"serving_default": 11, "beam_search": 10, "score": 3, "explain": 6},
}
REJECTED_SECONDS = 1
SLOWDOWN = 5  # allowed on a slower machine
ROWS, BYTES = requests.MAX_ROWS, requests.MAX_BYTES


class TestRequire:
    def test_row_limit(self):
        assert requests.row_limit(1) == requests.row_limit(1000) == ROWS
        assert requests.row_limit(2000) == 5000
        assert requests.row_limit(10**9) == requests.MIN_ROW_LIMIT

    def test_bytes(self):
        texts = tf.constant(["a" * 600] * 1000 + ["a" * 400_000])
        assert requests.require_bytes(texts, "text", 400_000).shape == (1001,)
        assert_rejected(
            requests.require_bytes,
            "text 1000 is 400000 bytes long, more than the limit of 399,999",
            texts,
            "text",
            399_999,
        )
        more = tf.concat([texts, ["a"]], axis=0)
        assert_rejected(
            requests.require_bytes,
            "text has 1000001 bytes in all its rows, more than .* 1,000,000",
            more,
            "text",
            BYTES,
        )

    def test_rows(self):
        assert_rejected(
            requests.require_rows, "pixels has 3 rows, more than the limit of 2", tf.zeros([3, 4]), "pixels", 2
        )

    def test_the_padded_size_does_not_overflow(self):
        many = tf.constant(2**31 - 1)
        assert_rejected(
            requests.require_padded_size, "text has 2147483647 rows of up to", many, many, "text", "words", 2**31 - 1
        )


class TestRequireUtf8:
    def test_valid_text_passes(self):
        texts = ["", "ä€😀\0\ufffd\ufeff"]
        assert [t.decode() for t in tf.function(requests.require_utf8)(tf.constant(texts)).numpy()] == texts
        assert requests.require_utf8(tf.constant([], tf.string)).shape == [0]

    def test_the_error_names_the_first_invalid_row(self):
        wrong = tf.constant([b"fine", b"\xff", b"\xc3"])
        assert_rejected(tf.function(requests.require_utf8), "text 1 is not valid UTF-8", wrong)


def options(rows, length, signature):
    """-> inputs of the signatures that generate text, without the prompt and the state; most have one row for all."""
    inputs = {"length": np.full(1, length, np.int32), "temperature": np.ones(1, np.float32)}
    inputs |= {"top_k": np.zeros(1, np.int32), "top_p": np.ones(1, np.float32), "seed": np.arange(rows)}
    return inputs | ({"repetition_penalty": np.ones(1, np.float32)} if signature == "sample" else {})


def image_requests(loaded):
    """-> for each signature, the largest requests, and pairs of a larger one and its error message."""
    rows, shape = loaded.task.max_rows, loaded.task.shape
    file = tf.io.encode_png(np.zeros((2, 2, 1), np.uint8)).numpy()
    # The slowest to decode: transparent pixels are blended onto white.
    largest = tf.io.encode_png(tf.fill([5000, 5000, 4], tf.constant(99, tf.uint8))).numpy()
    sentence = f"{{}} has {rows + 1} rows, more than the limit of {rows:,}"
    pixels = "image_bytes 10 brings the request to 275000000 pixels, more than the limit of 250000000"
    for signature, name, value in [
        ("serving_default", "image_bytes", lambda file: file),
        ("explain", "image_bytes", lambda file: file),
        ("classify", "inputs", example_message),
    ]:
        yield (
            signature,
            [{name: [value(file)] * rows}, {name: [value(largest)] * 10}],
            [({name: [value(file)] * (rows + 1)}, sentence.format(name)), ({name: [value(largest)] * 11}, pixels)],
        )
    value = np.zeros(shape, np.float32)
    yield "pixels", [{"pixels": [value] * rows}], [({"pixels": [value] * (rows + 1)}, sentence.format("pixels"))]


def text_requests(loaded):
    length, limit = loaded.task.config.max_length, text_signatures.MAX_CHARACTERS
    state = np.zeros((1, loaded.signatures["stream"].structured_input_signature[1]["state"].shape[1]), np.float32)
    default = min(200, length)
    too_long = "rows of up to .* characters to generate, together more than"
    rejected = [
        (["a"] * (ROWS + 1), "rows, more than"),
        (["a"] * 9 + ["a" * (text_signatures.MAX_PROMPT_BYTES + 1)], "prompt 9 is 100001 bytes long"),
        (["a" * text_signatures.MAX_PROMPT_BYTES] * 11, "prompt has 1100000 bytes"),
    ]
    long = [(["a" * 999] + ["b"] * 1999, "rows of up to 999 characters, together more than")]
    for signature in ("generate", "stream", "sample"):
        extra = {} if signature == "generate" else {"state": state}
        most = limit // length
        accepted = [{"prompt": ["a"] * most, **options(most, length, signature), **extra}]
        too_many = {"prompt": ["a"] * (most + 1), **options(most + 1, length, signature), **extra}
        yield (
            signature,
            accepted,
            [(too_many, too_long)]
            + [({"prompt": p, **options(len(p), 1, signature), **extra}, message) for p, message in rejected + long],
        )
    most = limit // default
    wrong = [*rejected, *long, (["a"] * (most + 1), too_long)]
    yield "serving_default", [{"prompt": ["a"] * most}], [({"prompt": p}, message) for p, message in wrong]
    accepted = [["a" * 1000] * 200, ["a"] * (ROWS - 1), ["a" * 100_000] * 10]
    yield "next_char", [{"prompt": p} for p in accepted], [({"prompt": p}, message) for p, message in rejected + long]
    wrong = [(["a"] * (ROWS + 1), "rows, more"), (["a"] * 20 + ["a" * 1000], "together"), (["a" * 4001], "bytes long")]
    yield "explain", [{"text": ["a" * 1000] * 20}], [({"text": t}, message) for t, message in wrong]


def translation_requests(loaded):
    limit, task = loaded.task.config.max_length, loaded.task
    longest = translator.max_bytes(task.vocabulary, limit)
    sentence = "\U0001f600" * ((limit - 1) // 4)  # a subword for each byte
    rows = translator.MAX_PADDED_SUBWORDS // (limit + 1)  # with the end token
    rejected = [
        (["a"] * (ROWS + 1), "text has 10001 rows, more than the limit of 10,000"),
        (["a", "a" * (longest + 1)], f"text 1 is {longest + 1} bytes long, more than the limit of"),
        (["a" * 101] * ROWS, "text has 1010000 bytes"),
    ]
    search = [
        *rejected,
        ([sentence] * (translator.MAX_SEARCH_SUBWORDS // (limit - 9)), "subwords in all its rows, more than"),
    ]
    padded = [*rejected, (["a"] * 6399 + [sentence], "together more than 6,400")]
    alpha = {"length_penalty": np.ones(1, np.float32)}
    yield "serving_default", [{"text": ["a"] * ROWS}], [({"text": t}, message) for t, message in search]
    yield "beam_search", [{"text": ["a"] * 2000 + [sentence]} | alpha], [({"text": t} | alpha, s) for t, s in search]
    wrong = [({"text": t, "translation": ["a"]}, message) for t, message in padded]
    wrong += [({"text": ["a"] * ROWS, "translation": ["a" * (longest + 1)]}, "translation 0 is")]
    wrong += [({"text": ["a"] * 3000, "translation": [sentence]}, "translation has 3000 rows of up to")]
    yield "score", [{"text": [sentence] * rows, "translation": [sentence]}], wrong
    yield "explain", [{"text": [sentence] * rows}], [({"text": t}, message) for t, message in padded]


REQUESTS = dict(zip(TASKS, [image_requests, text_requests, translation_requests], strict=True))


def call(signature, inputs):
    return signature(**{name: tf.constant(value) for name, value in inputs.items()})


def cost(function):
    """-> megabytes, and CPU seconds of this process on all cores."""
    start = time.process_time()
    megabytes = peak_memory(function)
    return megabytes, time.process_time() - start


@pytest.mark.parametrize("task", TASKS)
def test_the_cost_of_every_signature_is_bounded(task, models_dir):
    loaded = open_model(models_dir / task / "1")
    untested = set(loaded.signatures) - {"__saved_model_init_op"}
    for name, accepted, wrong in REQUESTS[task](loaded):
        signature = loaded.signatures[name]
        untested.remove(name)
        for inputs in accepted:
            megabytes, seconds = cost(functools.partial(call, signature, inputs))
            assert megabytes < MAX_MEGABYTES and seconds < SLOWDOWN * SECONDS[task][name], (name, megabytes, seconds)
        for inputs, message in wrong:
            megabytes, seconds = cost(functools.partial(assert_rejected, call, message, signature, inputs))
            assert megabytes < MAX_REJECTED_MEGABYTES and seconds < SLOWDOWN * REJECTED_SECONDS, (
                name,
                message,
                megabytes,
                seconds,
            )
    assert not untested
