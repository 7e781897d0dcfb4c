"""The client over both transports against the answers of the same SavedModel in this process."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_helpers import IDENTITIES, ROOT, free_port

from serving.client import Client, ServingError

LIGHT = """
import sys, time
start = time.perf_counter()
import serving.client
print(f"import serving.client: {time.perf_counter() - start:.2f} s")
serving.client.Client("localhost:1").close()
serving.client.Client("http://localhost:1").close()
assert not {"tensorflow", "tensorflow_serving", "kerasnets", "keras"} & set(sys.modules)
"""


def test_needs_no_tensorflow():
    result = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(server, request):
    with Client(getattr(server, request.param)) as client:
        yield client


@pytest.fixture(scope="module")
def in_process(store):
    import tensorflow as tf

    return tf.saved_model.load(str(store.example)).signatures


CASES = [
    ("serving_default", {"x": np.array([1.0, 2.0, 5.0], np.float32)}),
    ("serving_default", {"x": np.array([], np.float32)}),
    ("matrix", {"x": np.array([[0.1, 1 / 3], [1e-30, -7.0]], np.float32)}),
    ("upper", {"text": np.array(["abc", "naïve", ""], object)}),
    ("upper", {"text": np.array([b"a\x00b\x00", b"\xfe\xff"], object)}),
    ("text", {"text": np.array(["abc", b"\x00\xff"], object)}),
    ("pair", {"a": np.array([1.5, 2.0], np.float32), "b": np.array([2, -3], np.int32)}),
    ("doubled", {"n": np.array([2**61, -5])}),
    ("total", {"x": np.array([1.5, 2.0], np.float32)}),
    ("uneven", {"x": np.array([1.5, np.inf, -np.inf, np.nan], np.float32)}),
    ("empty", {"x": np.array([1.5], np.float32)}),
    ("check", {"text": np.array(["abc"], object)}),
]


@pytest.mark.parametrize(("signature", "inputs"), CASES)
def test_served_answers_equal_those_in_process(client, in_process, signature, inputs):
    import tensorflow as tf

    expected = in_process[signature](**{name: tf.constant(array) for name, array in inputs.items()})
    answer = client.predict("example", inputs, signature=signature, version=1)
    assert answer.keys() == expected.keys()
    for name, tensor in expected.items():
        assert answer[name].dtype == tensor.numpy().dtype if tensor.shape else True
        assert answer[name].shape == tensor.shape
        np.testing.assert_array_equal(answer[name], tensor.numpy())


@pytest.mark.parametrize("dtype", [dtype for dtype in IDENTITIES if dtype != "float16"])
def test_dtypes_survive(client, dtype):
    array = np.array([[0, 1], [100, 1]]).astype(dtype)
    answer = client.predict("example", {"x": array}, signature=f"identity_{dtype}", version=1)["y"]
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


def test_half_precision_travels_over_grpc_only(server):
    array = np.array([[0.1, 65504.0]], np.float16)
    with Client(server.grpc) as client:
        answer = client.predict("example", {"x": array}, signature="identity_float16", version=1)
    np.testing.assert_array_equal(answer["y"], array)
    with Client(server.rest) as client, pytest.raises(ServingError) as caught:
        client.predict("example", {"x": array}, signature="identity_float16", version=1)
    assert caught.value.code == "UNIMPLEMENTED"


def test_python_values_get_the_dtype_of_the_signature(client):
    def predict(signature, **inputs):
        return client.predict("example", inputs, signature=signature, version=1)

    assert predict("serving_default", x=[1, 2])["y"].tolist() == [2.5, 3.0]
    assert predict("doubled", n=[3])["doubled"].tolist() == [6]
    assert predict("upper", text=["a", "b"])["upper"].tolist() == [b"A", b"B"]
    assert predict("pair", a=[1.5], b=[2])["sum"].tolist() == [3.5]
    assert predict("upper", text=np.array(["a"]))["upper"].tolist() == [b"A"]
    with pytest.raises(ServingError, match="fractions"):
        predict("doubled", n=[1.5])


@pytest.mark.parametrize(
    ("signature", "values", "message"),
    [
        (
            "identity_int32",
            [[2**40, 1]],
            "input 'x' holds numbers outside -2147483648 to 2147483647, the range of int32",
        ),
        ("identity_uint8", [[300, 1]], "input 'x' holds numbers outside 0 to 255, the range of uint8"),
        ("identity_int8", [[2**80, 1]], "input 'x' holds numbers outside -128 to 127, the range of int8"),
        ("identity_bool", [[2, 0]], "input 'x' holds numbers outside 0 to 1, the range of bool"),
        ("matrix", [[1e300, 1]], "the range of float32"),
        ("matrix", [[None, 1.0]], "an object array holds str or bytes"),
        ("matrix", [[1.0], [1.0, 2.0]], "input 'x' is no array"),
        ("upper", {"text": ["\ud800"]}, "UTF-8|not Unicode|surrogate"),
    ],
)
def test_values_that_the_signature_cannot_take_are_refused(client, signature, values, message):
    inputs = values if isinstance(values, dict) else {"x": values}
    with pytest.raises(ServingError, match=message) as caught:
        client.predict("example", inputs, signature=signature, version=1)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_the_limits_of_a_dtype_are_sent(client):
    values = [[-(2**31), 2**31 - 1]]
    answer = client.predict("example", {"x": values}, signature="identity_int32", version=1)
    assert answer["y"].tolist() == values
    answer = client.predict("example", {"x": [[0, 2**64 - 1]]}, signature="identity_uint64", version=1)
    assert answer["y"].tolist() == [[0, 2**64 - 1]]
    answer = client.predict("example", {"x": [np.inf, np.nan]}, version=1)["y"]
    np.testing.assert_array_equal(answer, [np.inf, np.nan])


class Transport:
    """Counts the looks at the metadata, whose dtype nobody knows."""

    def __init__(self):
        self.timeouts = []

    def metadata(self, spec, timeout):
        self.timeouts.append(timeout)
        return {"serving_default": {"inputs": {"x": {"dtype": "DT_BFLOAT16", "shape": [-1]}}, "outputs": {}}}

    def predict(self, spec, signature, inputs, timeout):
        return inputs

    def close(self):
        pass


def test_metadata_is_looked_at_again_after_some_seconds(monkeypatch):
    transport = Transport()
    monkeypatch.setattr("serving.client._connect", lambda address, metadata: transport)
    now = [100.0]
    monkeypatch.setattr("serving.client.time.monotonic", lambda: now[0])
    with Client("anywhere") as client:
        for moment in (100.0, 104.0, 106.0):
            now[0] = moment
            assert client.predict("m", {"x": [1.5]}, timeout=7.0)["x"].dtype == np.float64
    assert transport.timeouts == [7.0, 7.0]


def test_dtypes_that_cannot_travel_are_refused_with_a_sentence(client):
    with pytest.raises(ServingError, match="complex128, which cannot be sent; use one of float32"):
        client.predict("example", {"x": np.array([1j])}, version=1)
    with pytest.raises(ServingError, match="an object array holds str or bytes"):
        client.predict("example", {"text": np.array([1], object)}, signature="upper", version=1)


def test_metadata_is_the_same_over_both(server):
    with Client(server.grpc) as over_grpc, Client(server.rest) as over_rest:
        metadata = over_grpc.metadata("example", version=1)
        assert metadata == over_rest.metadata("example", version=1)
    assert metadata["pair"] == {
        "inputs": {"a": {"dtype": "float32", "shape": [-1]}, "b": {"dtype": "int32", "shape": [-1]}},
        "outputs": {
            "sum": {"dtype": "float32", "shape": [-1]},
            "product": {"dtype": "float32", "shape": [-1]},
        },
    }
    assert metadata["upper"]["inputs"] == {"text": {"dtype": "string", "shape": [-1]}}


def test_status(client):
    states = [(s.version, s.state, s.code, s.message) for s in client.status("example")]
    assert states == [(2, "AVAILABLE", "OK", ""), (1, "AVAILABLE", "OK", "")]
    with pytest.raises(ServingError) as caught:
        client.status("nothing")
    assert (caught.value.code, caught.value.message) == (
        "NOT_FOUND",
        "Could not find any versions of model nothing",
    )


def test_versions_and_labels(client):
    def answer(**choice):
        return client.predict("example", {"x": np.ones(1, np.float32)}, **choice)["y"].tolist()

    assert answer() == [2.0]  # version 2 answers its number
    assert answer(version=2) == [2.0]
    assert answer(version=1) == [2.5]
    assert answer(label="stable") == [2.5]


def test_requests_run_at_once(client):
    """Three requests wait inside the graph for what three later ones bring."""
    x = np.ones(1, np.float32)

    def call(signature):
        return client.predict("example", {"x": x}, signature=signature, version=1, timeout=60.0)["y"].tolist()

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(call, "take") for _ in range(3)]
        for _ in range(3):
            assert call("put") == [1.0]
        assert [future.result(60) for future in waiting] == [[2.0]] * 3


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_absent_server_is_a_sentence_that_says_what_to_do(scheme):
    address = f"{scheme}127.0.0.1:{free_port()}"
    with Client(address) as client, pytest.raises(ServingError) as caught:
        client.status("example", timeout=10.0)
    assert caught.value.code == "UNAVAILABLE"
    assert f"no model server answers at {address}" in caught.value.message
    assert "python -m serving" in caught.value.message
