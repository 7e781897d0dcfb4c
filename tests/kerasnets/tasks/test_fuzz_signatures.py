"""Signatures answer or reject any request: no crash, no hang, no output that is not finite.

The inputs are generated from the signatures and the golden requests of a SavedModel, so that new signatures are tested
without a change here. The examples are the same in every run; FUZZ_EXAMPLES=300 generates more of them.
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

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))  # for each signature; several hundred take minutes
SECONDS = 60  # time limit of a call, on a busy machine too
MAX_ROWS = 4
TEXTS = [
    b"",
    b" \t\n",
    b"\x00",
    b"\xff\xfe\x00",
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xf4\x90\x80\x80",  # beyond the last code point
    b"caf\xc3",  # cut off within a character
    "\ufeff\u202e\u0000e\u0301".encode(),  # a byte order mark, right to left, a combining accent
    "🏳️‍🌈".encode() * 20,
    b"a" * 3_000,
    b"word " * 2_000,
    b"\xc3\x9f" * 1_500,
]
FLOATS = [0.0, -0.0, 1.0, 0.5, 1e-30, -1.0, 1e30, -3e38, float("nan"), float("inf"), -float("inf")]


@st.composite
def mutated(draw, seeds):
    """A valid string with some bytes changed, deleted, repeated or inserted, or cut off."""
    value = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(value)))
        end = min(len(value), start + draw(st.integers(1, 8)))
        mutation = draw(st.sampled_from(["change", "delete", "repeat", "insert", "cut off"]))
        if mutation == "change":
            value[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif mutation == "delete":
            del value[start:end]
        elif mutation == "repeat":
            value[start:start] = value[start:end] * draw(st.integers(1, 20))
        elif mutation == "insert":
            value[start:start] = draw(st.binary(max_size=8))
        else:
            del value[start:]
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
    """Rows of more axes: a valid row, a row with one changed element, or a row of equal numbers."""

    def with_element(row, index, number):
        row = row.copy()
        row.flat[index % row.size] = number
        return row

    valid, number = st.sampled_from(seeds), numbers(dtype, [dtype.type(0)])
    changed = st.builds(with_element, valid, st.integers(0, 10**6), number)
    return valid | changed | st.builds(np.full_like, valid, number)


@st.composite
def requests(draw, inputs):
    """Inputs of a signature {name: array [B, ...]}, similar to valid ones; sometimes with different numbers of rows."""
    rows = draw(st.integers(0, MAX_ROWS))
    uneven = draw(st.integers(0, 7)) == 0
    generated = {}
    for name, valid in inputs.items():
        count = draw(st.integers(0, MAX_ROWS)) if uneven else rows
        if valid.dtype.kind == "O":
            values = strings(valid.tolist())
        else:
            values = numbers(valid.dtype, valid.tolist()) if valid.ndim == 1 else arrays(valid.dtype, list(valid))
        array = np.empty([count, *valid.shape[1:]], valid.dtype)
        for row in range(count):
            array[row] = draw(values)
        generated[name] = array
    return generated


def check(outputs, inputs):
    """Check that the outputs have as many rows as the inputs, and finite numbers. An input may have one row for all."""
    counts = {len(value) for value in inputs.values()}
    rows = max(counts)
    assert counts <= {1, rows}, "inputs of unequal length must be rejected"
    assert rows > 0, "a request without rows must be rejected"
    for name, value in outputs.items():
        assert value.shape[0] == rows, f"{name} has {value.shape[0]} rows"
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), f"{name} is not finite"


def check_rejection(message):
    """Check that the message is that of an explicit check of the signature."""
    assert re.search(r"assertion failed: \[.+\]", message), message


def run_with_timeout(function, *arguments):
    """Return or raise the result of the function; fail if it does not end in time."""
    outcome = []

    def run():
        try:
            outcome.append((function(*arguments), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)  # a hanging call can be ended only with its process
    thread.start()
    thread.join(SECONDS)
    assert outcome, f"no answer within {SECONDS} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def assert_equal(outputs, expected):
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        if value.dtype.kind == "O":
            assert outputs[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(outputs[name], value, atol=1e-4)


def fuzz(predict, golden, examples):
    """Send requests to each signature; `predict(signature, inputs)` -> outputs, or None for a proper rejection."""
    failures = []
    for signature, inputs, expected in golden:
        try:
            fuzz_signature(lambda generated, name=signature: predict(name, generated), inputs, examples)
            assert_equal(predict(signature, inputs), expected)
        except Exception as error:
            error.add_note(f"signature {signature}")
            failures.append(error)
    if failures:
        raise ExceptionGroup("signatures that neither answered nor rejected a request", failures)


def fuzz_signature(call, golden_inputs, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # no shrinking: a failing example may hang
        suppress_health_check=list(HealthCheck),
    )
    @given(requests(golden_inputs))
    def test_one(inputs):
        outputs = run_with_timeout(call, inputs)
        if outputs is not None:
            check(outputs, inputs)

    test_one()


@pytest.fixture(scope="module", params=TASKS)
def model(request, models_dir):
    """-> the task name, the path of its SavedModel, its golden requests with their outputs."""
    path = models_dir / request.param / "1"
    return request.param, path, golden_answers(path)


def fuzz_in_process(path, golden, examples):
    loaded = tf.saved_model.load(str(path))

    def predict(signature, inputs):
        try:
            outputs = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        except tf.errors.InvalidArgumentError as error:
            return check_rejection(error.message)
        return {name: value.numpy() for name, value in outputs.items()}

    assert set(loaded.signatures) - {"__saved_model_init_op"} == {signature for signature, _, _ in golden}
    fuzz(predict, golden, examples)


def fuzz_over_grpc(server, task, golden, examples):
    with Client(server.grpc) as client:

        def predict(signature, inputs):
            try:
                return client.predict(task, inputs, signature)
            except ServingError as error:
                if error.code != "INVALID_ARGUMENT":
                    raise
                return check_rejection(error.message)

        fuzz(predict, golden, examples)


def test_every_signature_answers_or_rejects(model):
    _, path, golden = model
    fuzz_in_process(path, golden, EXAMPLES)


def test_a_server_answers_or_rejects_and_stays_up(model, served_models):
    task, _, golden = model
    fuzz_over_grpc(served_models, task, golden, EXAMPLES // 2)
