"""Whatever a signature is sent, it answers every row or refuses: no crash, no hang, no answer that is not finite.

The inputs are made from what a SavedModel says of itself, its signatures and its golden requests, so that a new
signature is tried without a word here. The examples are the same in every run; FUZZ_EXAMPLES=300 makes more of them.
"""

import os
import re
import threading

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from small_runs import TASKS

from kerasnets.verify import golden_answers
from serving.client import Client, ServingError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))  # for each signature; some hundred take minutes
SECONDS = 60  # by when a call must have ended, on a busy machine too
MOST_ROWS = 4
TEXTS = [
    b"",
    b" \t\n",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xf4\x90\x80\x80",  # past the last code point
    b"caf\xc3",  # cut within a character
    "\ufeff\u202e\u0000e\u0301".encode(),  # a byte order mark, right to left, a combining accent
    "🏳️‍🌈".encode() * 20,
    b"a" * 3_000,
    b"word " * 2_000,
    b"\xc3\x9f" * 1_500,
]
FLOATS = [0.0, -0.0, 1.0, 0.5, 1e-30, -1.0, 1e30, -3e38, float("nan"), float("inf"), -float("inf")]


@st.composite
def mutated(draw, seeds):
    """A valid string with some bytes changed, left out, repeated or put in, or cut off."""
    value = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(value)))
        end = min(len(value), at + draw(st.integers(1, 8)))
        how = draw(st.sampled_from(["change", "leave out", "repeat", "put in", "cut off"]))
        if how == "change":
            value[at:end] = draw(st.binary(min_size=end - at, max_size=end - at))
        elif how == "leave out":
            del value[at:end]
        elif how == "repeat":
            value[at:at] = value[at:end] * draw(st.integers(1, 20))
        elif how == "put in":
            value[at:at] = draw(st.binary(max_size=8))
        else:
            del value[at:]
    return bytes(value)


def strings(seeds):
    return st.one_of(
        st.sampled_from(seeds),
        mutated(seeds),
        st.sampled_from(TEXTS),
        st.text(max_size=30).map(str.encode),
        st.binary(max_size=60),
    )


def numbers(dtype, seeds):
    valid = st.sampled_from(seeds)
    if dtype.kind == "f":
        return valid | st.sampled_from(FLOATS) | st.floats(width=8 * dtype.itemsize)
    limits = np.iinfo(dtype)
    return valid | st.integers(-3, 20) | st.sampled_from([limits.min, limits.max]) | st.integers(limits.min, limits.max)


def arrays(dtype, seeds):
    """Rows of more axes: a valid one, one with a wrong element, or one number everywhere."""

    def spoil(row, place, number):
        row = row.copy()
        row.flat[place % row.size] = number
        return row

    valid, number = st.sampled_from(seeds), numbers(dtype, [dtype.type(0)])
    wrong = st.builds(spoil, valid, st.integers(0, 10**6), number)
    return valid | wrong | st.builds(np.full_like, valid, number)


@st.composite
def requests(draw, inputs):
    """Inputs of a signature {name: array [B, ...]}, like those that are valid; often with a row count each."""
    rows = draw(st.integers(0, MOST_ROWS))
    uneven = draw(st.integers(0, 7)) == 0
    made = {}
    for name, valid in inputs.items():
        count = draw(st.integers(0, MOST_ROWS)) if uneven else rows
        if valid.dtype.kind == "O":
            values = strings(valid.tolist())
        else:
            values = numbers(valid.dtype, valid.tolist()) if valid.ndim == 1 else arrays(valid.dtype, list(valid))
        array = np.empty([count, *valid.shape[1:]], valid.dtype)
        for row in range(count):
            array[row] = draw(values)
        made[name] = array
    return made


def check(answers, inputs):
    """Of an answer: rows as many as the request's, finite numbers. An input may have one row for all."""
    counts = {len(value) for value in inputs.values()}
    rows = max(counts)
    assert counts <= {1, rows}, "inputs of unequal length must be refused"
    assert rows > 0, "no rows must be refused"
    for name, value in answers.items():
        assert value.shape[0] == rows, f"{name} has {value.shape[0]} rows"
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), f"{name} is not finite"


def refused(message):
    """A refusal is a sentence of ours, which says what is wrong with the request."""
    assert re.search(r"assertion failed: \[.+\]", message), message


def in_time(function, *arguments):
    """-> what the function returns or raises; the test fails if it does not end."""
    outcome = []

    def work():
        try:
            outcome.append((function(*arguments), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=work, daemon=True)  # of a call that hangs nothing can be ended but the process
    thread.start()
    thread.join(SECONDS)
    assert outcome, f"no answer within {SECONDS} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def same(answers, expected):
    assert set(answers) == set(expected)
    for name, value in expected.items():
        if value.dtype.kind == "O":
            assert answers[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(answers[name], value, atol=1e-4)


def fuzz(ask, golden, examples):
    """Sends requests to each signature; `ask(signature, inputs)` -> answers, or None if it refuses as it should."""
    failures = []
    for signature, inputs, expected in golden:
        try:
            fuzz_signature(lambda made, name=signature: ask(name, made), inputs, examples)
            same(ask(signature, inputs), expected)
        except Exception as error:
            error.add_note(f"signature {signature}")
            failures.append(error)
    if failures:
        raise ExceptionGroup("signatures that neither answered nor refused", failures)


def fuzz_signature(ask, inputs, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # what fails is not tried again in smaller forms: it may hang
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(inputs))
    def one(made):
        answers = in_time(ask, made)
        if answers is not None:
            check(answers, made)

    one()


@pytest.fixture(scope="module", params=TASKS)
def model(request, models_dir):
    """-> the task, the path of its SavedModel, its requests with their answers."""
    path = models_dir / request.param / "1"
    return request.param, path, golden_answers(path)


def fuzz_in_process(path, golden, examples):
    loaded = tf.saved_model.load(str(path))

    def ask(signature, inputs):
        try:
            answers = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            return refused(error.message)
        return {name: value.numpy() for name, value in answers.items()}

    assert set(loaded.signatures) - {"__saved_model_init_op"} == {signature for signature, _, _ in golden}
    fuzz(ask, golden, examples)


def fuzz_over_grpc(server, task, golden, examples):
    with Client(server.grpc) as client:

        def ask(signature, inputs):
            try:
                return client.predict(task, inputs, signature)
            except ServingError as error:
                if error.code != "INVALID_ARGUMENT":
                    raise
                return refused(error.message)

        fuzz(ask, golden, examples)


def test_every_signature_answers_or_refuses(model):
    _, path, golden = model
    fuzz_in_process(path, golden, EXAMPLES)


def test_a_server_answers_or_refuses_and_goes_on(model, served_models):
    task, _, golden = model
    fuzz_over_grpc(served_models, task, golden, EXAMPLES // 2)
