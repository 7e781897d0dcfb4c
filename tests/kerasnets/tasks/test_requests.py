"""What a request may cost: the largest that every signature takes, and those that are too large for it."""

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

MOST = 500  # megabytes above rest that the models of the tests take for a request
REFUSED = 30  # and for a request that is refused
# CPU seconds that the largest request of each signature takes of them, as the README has it, and one that is refused.
SECONDS = {
    "image_classification": {"serving_default": 12, "explain": 12, "classify": 12, "pixels": 1},
    "text_generation": {"serving_default": 5, "generate": 7, "stream": 6, "sample": 7, "next_char": 2, "explain": 1},
    "translation": {"serving_default": 11, "beam_search": 10, "score": 3, "explain": 6},
}
REFUSED_SECONDS = 1
SLOWER = 5  # may another machine be
ROWS, BYTES = requests.MOST_ROWS, requests.MOST_BYTES


class TestRequire:
    def test_rows_of(self):
        assert requests.rows_of(1) == requests.rows_of(1000) == ROWS
        assert requests.rows_of(2000) == 5000
        assert requests.rows_of(10**9) == requests.FEWEST_ROWS

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

    def test_together_does_not_overflow(self):
        many = tf.constant(2**31 - 1)
        assert_rejected(
            requests.require_together, "text has 2147483647 rows of up to", many, many, "text", "words", 2**31 - 1
        )


class TestRequireUtf8:
    def test_valid_text_passes(self):
        texts = ["", "ä€😀\0\ufffd\ufeff"]
        assert [t.decode() for t in tf.function(requests.require_utf8)(tf.constant(texts)).numpy()] == texts
        assert requests.require_utf8(tf.constant([], tf.string)).shape == [0]

    def test_first_bad_row_is_named(self):
        wrong = tf.constant([b"fine", b"\xff", b"\xc3"])
        assert_rejected(tf.function(requests.require_utf8), "text 1 is not valid UTF-8", wrong)


def options(rows, length, signature):
    """-> inputs of the signatures that write, but for the prompt and the state, which have one row for all."""
    inputs = {"length": np.full(1, length, np.int32), "temperature": np.ones(1, np.float32)}
    inputs |= {"top_k": np.zeros(1, np.int32), "top_p": np.ones(1, np.float32), "seed": np.arange(rows)}
    return inputs | ({"repetition_penalty": np.ones(1, np.float32)} if signature == "sample" else {})


def image_requests(opened):
    """-> of each signature the largest requests, and those that are too large with what is said of them."""
    rows, shape = opened.task.rows, opened.task.shape
    file = tf.io.encode_png(np.zeros((2, 2, 1), np.uint8)).numpy()
    # The slowest to decode: what is transparent is put on white.
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


def text_requests(opened):
    length, together = opened.task.config.max_length, text_signatures.TOGETHER
    state = np.zeros((1, opened.signatures["stream"].structured_input_signature[1]["state"].shape[1]), np.float32)
    default = min(200, length)
    written = "rows of up to .* characters to write, together more than"
    refusals = [
        (["a"] * (ROWS + 1), "rows, more than"),
        (["a"] * 9 + ["a" * (text_signatures.PROMPT_BYTES + 1)], "prompt 9 is 100001 bytes long"),
        (["a" * text_signatures.PROMPT_BYTES] * 11, "prompt has 1100000 bytes"),
    ]
    long = [(["a" * 999] + ["b"] * 1999, "rows of up to 999 characters, together more than")]
    for signature in ("generate", "stream", "sample"):
        extra = {} if signature == "generate" else {"state": state}
        many = together // length
        accepted = [{"prompt": ["a"] * many, **options(many, length, signature), **extra}]
        too_many = {"prompt": ["a"] * (many + 1), **options(many + 1, length, signature), **extra}
        yield (
            signature,
            accepted,
            [(too_many, written)]
            + [({"prompt": p, **options(len(p), 1, signature), **extra}, said) for p, said in refusals + long],
        )
    many = together // default
    wrong = [*refusals, *long, (["a"] * (many + 1), written)]
    yield "serving_default", [{"prompt": ["a"] * many}], [({"prompt": p}, said) for p, said in wrong]
    accepted = [["a" * 1000] * 200, ["a"] * (ROWS - 1), ["a" * 100_000] * 10]
    yield "next_char", [{"prompt": p} for p in accepted], [({"prompt": p}, said) for p, said in refusals + long]
    wrong = [(["a"] * (ROWS + 1), "rows, more"), (["a"] * 20 + ["a" * 1000], "together"), (["a" * 4001], "bytes long")]
    yield "explain", [{"text": ["a" * 1000] * 20}], [({"text": t}, said) for t, said in wrong]


def translation_requests(opened):
    limit, task = opened.task.config.max_length, opened.task
    longest = translator.most_bytes(task.vocabulary, limit)
    sentence = "\U0001f600" * ((limit - 1) // 4)  # a subword for each byte
    together = translator.TOGETHER // (limit + 1)  # with its end
    refusals = [
        (["a"] * (ROWS + 1), "text has 10001 rows, more than the limit of 10,000"),
        (["a", "a" * (longest + 1)], f"text 1 is {longest + 1} bytes long, more than the limit of"),
        (["a" * 101] * ROWS, "text has 1010000 bytes"),
    ]
    searched = [*refusals, ([sentence] * (translator.SEARCHED // (limit - 9)), "subwords in all its rows, more than")]
    computed = [*refusals, (["a"] * 6399 + [sentence], "together more than 6,400")]
    alpha = {"length_penalty": np.ones(1, np.float32)}
    yield "serving_default", [{"text": ["a"] * ROWS}], [({"text": t}, said) for t, said in searched]
    yield "beam_search", [{"text": ["a"] * 2000 + [sentence]} | alpha], [({"text": t} | alpha, s) for t, s in searched]
    wrong = [({"text": t, "translation": ["a"]}, said) for t, said in computed]
    wrong += [({"text": ["a"] * ROWS, "translation": ["a" * (longest + 1)]}, "translation 0 is")]
    wrong += [({"text": ["a"] * 3000, "translation": [sentence]}, "translation has 3000 rows of up to")]
    yield "score", [{"text": [sentence] * together, "translation": [sentence]}], wrong
    yield "explain", [{"text": [sentence] * together}], [({"text": t}, said) for t, said in computed]


REQUESTS = dict(zip(TASKS, [image_requests, text_requests, translation_requests], strict=True))


def call(signature, inputs):
    return signature(**{name: tf.constant(value) for name, value in inputs.items()})


def cost(function):
    """-> megabytes, and seconds of all cores together, whatever else they do."""
    start = time.process_time()
    megabytes = peak_memory(function)
    return megabytes, time.process_time() - start


@pytest.mark.parametrize("task", TASKS)
def test_every_signature_keeps_to_the_budget(task, models_dir):
    opened = open_model(models_dir / task / "1")
    left = set(opened.signatures) - {"__saved_model_init_op"}
    for name, accepted, wrong in REQUESTS[task](opened):
        signature = opened.signatures[name]
        left.remove(name)
        for inputs in accepted:
            megabytes, seconds = cost(functools.partial(call, signature, inputs))
            assert megabytes < MOST and seconds < SLOWER * SECONDS[task][name], (name, megabytes, seconds)
        for inputs, sentence in wrong:
            megabytes, seconds = cost(functools.partial(assert_rejected, call, sentence, signature, inputs))
            assert megabytes < REFUSED and seconds < SLOWER * REFUSED_SECONDS, (name, sentence, megabytes, seconds)
    assert not left
