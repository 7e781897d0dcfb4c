"""The sync and async clients over both transports: outputs equal those of the same SavedModel in this process.

The server is that of this project, or the one at KERASNETS_MODEL_SERVER=HOST:GRPC_PORT[,HOST:REST_PORT], for example a
tensorflow_model_server. It must serve `example` (all versions, label `stable`) and `number`;
`python tests/serving/client_models.py DIRECTORY` writes them, and its docstring says how to start the server.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from client_helpers import BlockingClient, grpc_server, metadata_of, tensors_of
from serving_helpers import IDENTITIES, ROOT

from serving.client import Client, FailedPrecondition, InvalidArgument, NotFound, ServingError
from serving.client.wire import decode

SERVER = os.environ.get("KERASNETS_MODEL_SERVER", "")
MAX_MEMORY_MB = 60
IMPORT_PROGRAM = """
import sys, time
start = time.perf_counter()
import serving.client
serving.client.Client("localhost:1").close()
seconds = time.perf_counter() - start
memory = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
assert "httpcore" not in sys.modules, "each transport has its own library"
serving.client.Client("http://localhost:1").close()
serving.client.AsyncClient("http://localhost:1")
assert not {"tensorflow", "tensorflow_serving", "kerasnets", "keras"} & set(sys.modules)
print(f"{seconds:.2f} s, {memory:.0f} MB")
"""


def test_the_client_needs_no_tensorflow_and_little_memory():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-2]) <= MAX_MEMORY_MB


@pytest.fixture(scope="module")
def addresses(request):
    """Return {"grpc": address, "rest": address}; without "rest" if KERASNETS_MODEL_SERVER has no REST address."""
    if not SERVER:
        server = request.getfixturevalue("server")
        return {"grpc": server.grpc, "rest": server.rest}
    grpc, _, rest = SERVER.partition(",")
    return {"grpc": grpc} | ({"rest": f"http://{rest}"} if rest else {})


@pytest.fixture(scope="module", params=["grpc", "rest", "async-grpc", "async-rest"])
def client(addresses, request):
    protocol = request.param.removeprefix("async-")
    if protocol not in addresses:
        pytest.skip("KERASNETS_MODEL_SERVER has no REST address")
    with (Client if protocol == request.param else BlockingClient)(addresses[protocol]) as client:
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
def test_served_outputs_equal_in_process_outputs(client, in_process, signature, inputs):
    import tensorflow as tf

    expected = in_process[signature](**{name: tf.constant(array) for name, array in inputs.items()})
    answer = client.predict("example", inputs, signature=signature, version=1)
    assert answer.keys() == expected.keys()
    for name, tensor in expected.items():
        assert answer[name].dtype == tensor.numpy().dtype if tensor.shape else True
        assert answer[name].shape == tensor.shape
        np.testing.assert_array_equal(answer[name], tensor.numpy())


@pytest.mark.parametrize("dtype", [dtype for dtype in IDENTITIES if dtype != "float16"])
def test_dtypes_are_preserved(client, dtype):
    array = np.array([[0, 1], [100, 1]]).astype(dtype)
    answer = client.predict("example", {"x": array}, signature=f"identity_{dtype}", version=1)["y"]
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


def test_float16_needs_grpc(client):
    array = np.array([[0.1, 65504.0]], np.float16)

    def predict():
        return client.predict("example", {"x": array}, signature="identity_float16", version=1)

    if client.address.startswith("http"):
        with pytest.raises(ServingError) as caught:
            predict()
        assert caught.value.code == "UNIMPLEMENTED"
    else:
        np.testing.assert_array_equal(predict()["y"], array)


def test_python_numbers_get_the_dtype_of_the_signature(client):
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
        ("matrix", [[1.0], [1.0, 2.0]], "input 'x' is not an array"),
        ("upper", {"text": ["\ud800"]}, "UTF-8|not Unicode|surrogate"),
    ],
)
def test_values_that_do_not_fit_the_signature_are_rejected(client, signature, values, message):
    inputs = values if isinstance(values, dict) else {"x": values}
    with pytest.raises(ServingError, match=message) as caught:
        client.predict("example", inputs, signature=signature, version=1)
    assert caught.value.code == "INVALID_ARGUMENT"


def test_the_extreme_values_of_a_dtype_are_accepted(client):
    values = [[-(2**31), 2**31 - 1]]
    answer = client.predict("example", {"x": values}, signature="identity_int32", version=1)
    assert answer["y"].tolist() == values
    answer = client.predict("example", {"x": [[0, 2**64 - 1]]}, signature="identity_uint64", version=1)
    assert answer["y"].tolist() == [[0, 2**64 - 1]]
    answer = client.predict("example", {"x": [np.inf, np.nan]}, version=1)["y"]
    np.testing.assert_array_equal(answer, [np.inf, np.nan])


def test_cached_metadata_expires(monkeypatch):
    requests, now = [], [100.0]
    monkeypatch.setattr("serving.client.calls.time", SimpleNamespace(monotonic=lambda: now[0]))

    def answer(method, message, headers):
        if method == "GetModelMetadata":
            requests.append(now[0])
            return metadata_of({"x": (1, [-1])}, {"y": (1, [-1])}, "serving_default")
        return tensors_of({"y": decode(message.inputs["x"])})

    with grpc_server(answer) as address, Client(address) as client:
        for moment in (100.0, 104.0, 106.0):
            now[0] = moment
            assert client.predict("m", {"x": [1.5]})["y"].dtype == np.float32
    assert requests == [100.0, 106.0]


def test_unsupported_dtypes_are_rejected(client):
    with pytest.raises(InvalidArgument, match="complex128, which cannot be sent; use one of float32"):
        client.predict("example", {"x": np.array([1j])}, version=1)
    with pytest.raises(ServingError, match="an object array holds str or bytes"):
        client.predict("example", {"text": np.array([1], object)}, signature="upper", version=1)


def test_metadata(client):
    metadata = client.metadata("example", version=1)
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
    with pytest.raises(NotFound) as caught:
        client.status("nothing")
    assert (caught.value.code, caught.value.message) == (
        "NOT_FOUND",
        "Could not find any versions of model nothing",
    )


def test_versions_and_labels(client):
    def answer(**choice):
        return client.predict("example", {"x": np.ones(1, np.float32)}, **choice)["y"].tolist()

    assert answer() == [2.0]  # version 2 returns its number
    assert answer(version=2) == [2.0]
    assert answer(version=1) == [2.5]
    assert answer(label="stable") == [2.5]


def test_requests_run_concurrently(client):
    """Three requests wait inside the graph for the values of three later ones."""
    if isinstance(client, BlockingClient):
        pytest.skip("BlockingClient sends one request at a time")
    x = np.ones(1, np.float32)

    def call(signature):
        return client.predict("example", {"x": x}, signature=signature, version=1, timeout=60.0)["y"].tolist()

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(call, "take") for _ in range(3)]
        for _ in range(3):
            assert call("put") == [1.0]
        assert [future.result(60) for future in waiting] == [[2.0]] * 3


def test_classify(client):
    examples = [{"x": [0.1, 2], "word": "é"}, {"x": np.array([-1e30, 1 / 3], np.float32), "word": b"\x7f"}]
    answer = client.classify("example", examples, signature="classify", version=1)
    expected = [[("é", 0.1), ("other", 2.0)], [("\x7f", -1e30), ("other", 1 / 3)]]
    assert answer == [[(label, float(np.float32(score))) for label, score in row] for row in expected]
    assert answer[0][0].label == "é"


def test_regress(client):
    examples = [{"x": [0.1, 2.5], "n": 3}, {"x": [1.0, 2.0]}, {"x": (0.5, -0.5), "n": [2**40]}]
    answer = client.regress("example", examples, signature="regress", label="stable")
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer, np.array([np.float32(0.1) + np.float32(2.5) + 3, 3.0, 2**40], np.float32))


def test_context_is_shared_by_all_examples(client):
    answer = client.regress("example", [{"n": 1}, {"n": 2}], "regress", context={"x": [0.5, 0.25]}, version=1)
    assert answer.tolist() == [1.75, 2.75]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "Input is empty|is an empty array"),
        ([{"n": 1}], "Feature: x .* is required but could not be found"),
        ([{"x": ["a", "b"]}], "Key: x.* Data type: string but expected type: float"),
    ],
)
def test_invalid_examples_are_rejected(client, examples, message):
    with pytest.raises(InvalidArgument, match=message):
        client.regress("example", examples, "regress", version=1)


@pytest.mark.parametrize("value", [["a", 1], None, {"a": 1}, [[1], [2, 3]], 2**63, [1j]])
def test_invalid_features_are_rejected(client, value):
    with pytest.raises(InvalidArgument, match="feature 'x' holds"):
        client.classify("example", [{"x": value}], "classify", version=1)


def test_a_stream_continues_from_its_state(client):
    pieces = list(client.stream("example", {"word": ["w"], "step": [0.1]}, steps=4, version=1))
    assert [piece["text"].tolist() for piece in pieces] == [[b"w0"], [b"w1"], [b"w2"], [b"w3"]]
    totals = np.float32([0, 0.1, 0.2, np.float32(0.2) + np.float32(0.1)])
    np.testing.assert_array_equal([piece["total"][0] for piece in pieces], totals)
    rows = list(client.stream("example", {"word": ["v", "w"], "step": [1, 2]}, steps=2, label="stable"))
    assert [row["total"].tolist() for row in rows] == [[0, 0], [1, 2]]


def test_errors_have_classes(client):
    with pytest.raises(NotFound, match=r"Servable not found for request: Latest\(nothing\)"):
        client.predict("nothing", {"x": np.ones(1, np.float32)})
    with pytest.raises(InvalidArgument, match="Unrecognized servable version label: other"):
        client.predict("example", {"x": np.ones(1, np.float32)}, label="other")
    rest = client.address.startswith("http")  # one HTTP status stands for both codes
    with pytest.raises(InvalidArgument if rest else FailedPrecondition, match="not found"):
        client.predict("example", {"x": np.ones(1, np.float32)}, "other", version=1)
    with pytest.raises(InvalidArgument, match="empty text is not allowed"):
        client.predict("example", {"text": [""]}, "check", version=1)


def test_large_arrays_are_returned_unchanged(client):
    """Larger than gRPC's default limit of 4 MiB."""
    array = np.arange(1_200_000, dtype=np.float32).reshape(-1, 2)
    if client.address.startswith("http"):
        array = array[:60_000]  # JSON takes longer
    answer = client.predict("example", {"x": array.astype(np.float64)}, "identity_float64", version=1)["y"]
    np.testing.assert_array_equal(answer, array)
    answer[0] = 7  # the array is writable
