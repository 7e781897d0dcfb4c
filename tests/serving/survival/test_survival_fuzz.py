"""Random requests: each gets a code that fits its error, and the server stays healthy.

KERASNETS_FUZZ_EXAMPLES (default 100): number of examples of each test.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_helpers import IDENTITIES, Server, Store, example_of, wait_until
from survival_helpers import (
    ANSWER_SECONDS,
    assert_answers,
    assert_clean_log,
    connect,
    publish,
    read_answer,
    request_bytes,
    running,
)
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

EXAMPLES = int(os.environ.get("KERASNETS_FUZZ_EXAMPLES", "100"))
STATUSES = {200, 400, 404, 413, 421, 431, 501}  # 421: another host; 501: a dtype that JSON cannot represent
# RESOURCE_EXHAUSTED: a tensor would be too large.
CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"}
PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"

fuzzing = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module", params=[(), ("--enable_batching",)], ids=["plain", "batching"])
def server(request, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("fuzz")
    publish(store, models)
    with running(models, "--rest_api_extensions", "--max_request_bytes=1000000", *request.param) as server:
        wait_until(lambda: server.log.read_text().count("Successfully loaded") == 2)
        yield server


@pytest.fixture(autouse=True)
def check_server_afterwards(server: Server) -> Iterator[None]:
    yield
    assert server.process.poll() is None, server.log.read_text()[-5000:]
    assert_answers(server)
    assert_clean_log(server)


SIGNATURES = ["serving_default", "matrix", "text", "upper", "pair", "doubled", "total", "uneven", "empty", "check"]
SIGNATURES += ["classify", "regress", "stream", *(f"identity_{name}" for name in IDENTITIES), "", "nope"]
ALIASES = ["x", "text", "a", "b", "n", "inputs", "word", "step", "state", "y", ""]
NUMBERS = [0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, 1e39, -0.0, 1e-320, True, None]

leaves = st.one_of(
    st.sampled_from(NUMBERS),
    st.integers(-300, 300),
    st.floats(),
    st.text(max_size=5),
    st.fixed_dictionaries({"b64": st.one_of(st.text(max_size=8), st.sampled_from(["YQ==", "YQ", "*", 1]))}),
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(ALIASES), inner, max_size=3)
)
vectors = st.lists(st.integers(-3, 3), max_size=4) | st.lists(st.floats(width=32), max_size=4)
matrices = st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), max_size=3)
values = trees | vectors | matrices | st.dictionaries(st.sampled_from(ALIASES), vectors | matrices | trees, max_size=3)
documents = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.sampled_from(SIGNATURES) | trees,
        "instances": values | st.lists(values, max_size=3),
        "inputs": values,
        "examples": st.lists(values, max_size=3) | values,
        "context": values,
        "steps": st.sampled_from([1, 2, 0, -1, 10**5, 1.0, "1"]),
    },
)


def encode_json(document: Any) -> bytes:
    return json.dumps(document).encode()


bodies = st.one_of(
    documents.map(encode_json),
    trees.map(encode_json),
    st.binary(max_size=200),
    st.text(max_size=50).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.tuples(documents.map(encode_json), st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]),
    st.tuples(st.sampled_from([b"[", b'{"a":', b'{"instances":[', b'{"inputs":[[']), st.integers(1, 3000)).map(
        lambda nested: nested[0] * nested[1]
    ),
)
paths = st.builds(
    "/v1/models/{}{}{}".format,
    st.sampled_from(["example", "example", "number", "missing", "%65xample", "%ff", "%", "a%00", "EXAMPLE", ""]),
    st.sampled_from(["", "", "/versions/1", "/versions/9", f"/versions/{2**63}", "/versions/-1", "/labels/stable"]),
    st.sampled_from([":predict", ":predict", ":classify", ":regress", ":stream", ":PREDICT", ":", "/metadata", ""]),
)


@pytest.fixture
def rest(server: Server) -> Iterator[Callable[[bytes], tuple[int, bytes]]]:
    """rest(request bytes) -> status, body; on one connection as long as the server keeps it open."""
    connection = connect(server)

    def send(request: bytes) -> tuple[int, bytes]:
        nonlocal connection
        try:
            connection.sendall(request)
            status, headers, body = read_answer(connection, head=request.startswith(b"HEAD "))
        except ConnectionError:  # closed after the previous request
            connection.close()
            connection = connect(server)
            connection.sendall(request)
            status, headers, body = read_answer(connection, head=request.startswith(b"HEAD "))
        if headers.get("connection") == "close":
            connection.close()
            connection = connect(server)
        return status, body

    yield send
    connection.close()


def test_bodies(rest):
    @fuzzing
    @given(body=bodies, path=paths, method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "OPTIONS"]))
    def ask(body: bytes, path: str, method: str) -> None:
        status, answer = rest(request_bytes(method, path, body))
        assert status in STATUSES, (status, answer)
        if status != 200 and method != "OPTIONS":
            assert json.loads(answer).keys() == {"error"}

    ask()


def test_documents_of_each_signature(rest):
    """They resemble valid requests, so that most of them reach the graph."""

    @fuzzing
    @given(document=documents, signature=st.sampled_from(SIGNATURES), verb=st.sampled_from(["predict", "classify"]))
    def ask(document: dict[str, Any], signature: str, verb: str) -> None:
        body = encode_json({**document, "signature_name": signature})
        status, answer = rest(request_bytes("POST", f"/v1/models/example:{verb}", body))
        assert status in STATUSES, (status, answer)

    ask()


def test_urls(rest):
    letters = st.characters(min_codepoint=0x21, max_codepoint=0xFF, blacklist_characters="\x7f")

    @fuzzing
    @given(path=st.text(letters, max_size=60), start=st.sampled_from(["/", "/v1/", "/v1/models/", "", "http://a/"]))
    def ask(path: str, start: str) -> None:
        if not start + path:
            return
        status, _ = rest(request_bytes("GET", start + path))
        assert status in STATUSES - {501}

    ask()


def test_invalid_gzip(rest):
    @fuzzing
    @given(body=st.binary(max_size=100) | documents.map(encode_json), start=st.sampled_from([b"\x1f\x8b\x08", b""]))
    def ask(body: bytes, start: bytes) -> None:
        status, _ = rest(request_bytes("POST", "/v1/models/example:predict", start + body, "Content-Encoding: gzip"))
        assert status == 400

    ask()


def test_raw_bytes(server):
    """A port scanner sends them."""

    @fuzzing
    @given(data=st.binary(min_size=1, max_size=300), start=st.sampled_from([b"", b"GET /x HTTP/1.1\r\n", b"POST "]))
    def ask(data: bytes, start: bytes) -> None:
        if not (start + data).strip(b"\r\n"):
            return  # empty lines may precede a request: the server waits for it
        with connect(server) as connection:
            connection.sendall(start + data + b"\r\n\r\n")
            status, _, _ = read_answer(connection)
            assert status in {400, 404, 431}

    ask()


sizes = st.sampled_from([0, 1, 2, 2, 3, 5, -1, 2**31, 2**40, 2**62, 2**63 - 1])
names = st.sampled_from(["example", "number", "missing", ""])


@st.composite
def tensors(draw: Any) -> tensor_pb2.TensorProto:
    """Draw any dtype, any field of values, and a shape that may not match them."""
    tensor = tensor_pb2.TensorProto()
    tensor.dtype = draw(st.sampled_from([1, 1, 3, 7, 9, 10]) | st.integers(0, 140))
    for size in draw(st.lists(st.integers(0, 3), max_size=3) | st.lists(sizes, max_size=4)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 0
    kind = draw(st.sampled_from(["float_val", "int_val", "string_val", "int64_val", "bool_val", "half_val", "content"]))
    if kind == "content":
        tensor.tensor_content = draw(st.binary(max_size=32))
    elif kind == "float_val":
        tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=6)))
    elif kind == "string_val":
        tensor.string_val.extend(draw(st.lists(st.binary(max_size=5), max_size=6)))
    elif kind == "bool_val":
        tensor.bool_val.extend(draw(st.lists(st.booleans(), max_size=6)))
    else:
        bits = 63 if kind == "int64_val" else 31
        getattr(tensor, kind).extend(draw(st.lists(st.integers(-(2**bits), 2**bits - 1), max_size=6)))
    return tensor


def write_spec(draw: Any, spec: Any) -> None:
    spec.name, spec.signature_name = draw(names), draw(st.sampled_from(SIGNATURES))
    choice = draw(st.integers(0, 5))
    if choice == 0:
        spec.version.value = draw(st.sampled_from([1, 2, -1, 2**63 - 1]))
    elif choice == 1:
        spec.version_label = draw(st.sampled_from(["stable", "gone", ""]) | st.text(max_size=400))


def write_input(draw: Any, message: Any) -> None:
    features = [{"x": 1.0}, {"x": 1}, {"x": b"a"}, {"word": b"\xff"}, {}]
    examples = [example_of(**draw(st.sampled_from(features))) for _ in range(draw(st.integers(0, 3)))]
    for example in examples:
        if draw(st.booleans()):
            example.features.feature["x"].float_list.value.extend(draw(st.lists(st.floats(width=32), max_size=3)))
    if draw(st.booleans()):
        message.example_list.examples.extend(examples)
    else:
        message.example_list_with_context.examples.extend(examples)
        message.example_list_with_context.context.CopyFrom(example_of(**draw(st.sampled_from(features))))


@st.composite
def requests(draw: Any) -> tuple[str, bytes]:
    """Draw a method and a request of its class with random fields."""
    method = draw(st.sampled_from(list(REQUEST_CLASSES)))
    message = REQUEST_CLASSES[method]()
    if method == PREDICTION + "MultiInference":
        for _ in range(draw(st.integers(0, 3))):
            task = message.tasks.add()
            task.method_name = "tensorflow/serving/" + draw(st.sampled_from(["classify", "regress", "predict", ""]))
            write_spec(draw, task.model_spec)
    elif draw(st.integers(0, 9)):
        write_spec(draw, message.model_spec)
    if method == PREDICTION + "Predict":
        for alias in draw(st.lists(st.sampled_from(ALIASES), max_size=3)):
            message.inputs[alias].CopyFrom(draw(tensors()))
        message.output_filter.extend(draw(st.lists(st.sampled_from(["y", "sum", "", "upper"]), max_size=2)))
    elif hasattr(message, "input"):
        write_input(draw, message.input)
    elif hasattr(message, "metadata_field"):
        message.metadata_field.extend(draw(st.lists(st.sampled_from(["signature_def", "x"]), max_size=2)))
    return method, message.SerializeToString()


REQUEST_CLASSES = {
    PREDICTION + "Predict": predict_pb2.PredictRequest,
    PREDICTION + "Classify": classification_pb2.ClassificationRequest,
    PREDICTION + "Regress": regression_pb2.RegressionRequest,
    PREDICTION + "MultiInference": inference_pb2.MultiInferenceRequest,
    PREDICTION + "GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    MODEL + "GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
}
METHODS = [*REQUEST_CLASSES, MODEL + "HandleReloadConfigRequest", "/tensorflow.ProfilerService/Terminate"]


@pytest.fixture
def call(server: Server) -> Iterator[Callable[[str, bytes], str]]:
    """call(method, request bytes) -> the name of the status code."""
    with grpc.insecure_channel(server.grpc) as channel:

        def call(method: str, data: bytes) -> str:
            outcome = channel.unary_unary(method).future(data, timeout=ANSWER_SECONDS)
            assert outcome.code().name in CODES, (outcome.code(), outcome.details())
            assert len(outcome.details().encode()) <= 1024 + len("...TRUNCATED")
            return outcome.code().name

        yield call


def test_random_bytes_for_every_method(call):
    @fuzzing
    @given(method=st.sampled_from(METHODS), data=st.binary(max_size=100))
    def ask(method: str, data: bytes) -> None:
        call(method, data)

    ask()


def test_messages_with_random_fields(call):
    seen = set()

    @fuzzing
    @given(request=requests())
    def ask(request: tuple[str, bytes]) -> None:
        seen.add(call(*request))

    ask()
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= seen


def test_messages_with_changed_bytes(call):
    @fuzzing
    @given(request=requests(), seed=st.integers(0, 2**32))
    def ask(request: tuple[str, bytes], seed: int) -> None:
        method, data = request
        mutable, rng = bytearray(data), random.Random(seed)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(mutable) + 1)
            mutable[place : place + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 2))
        call(method, bytes(mutable))

    ask()


def tensor_request(signature: str, alias: str, data_type: int, shape: list[int], **fields: Any) -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "example", signature
    tensor = request.inputs[alias]
    tensor.dtype = data_type
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    for name, value in fields.items():
        getattr(tensor, name).extend(value)
    return request.SerializeToString()


LARGE = [[2**31], [2**40], [2**62], [2**63 - 1], [2**20, 2**20], [2**32, 2**32], [2, 2**62, 2], [10**10]]
EMPTY = [[0, 2**62], [2**62, 0], [0, 2**40, 2**40], [0, 2**63 - 1]]


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("fields", [{}, {"float_val": [1.0]}], ids=["zeros", "repeated"])
def test_small_messages_do_not_become_huge_tensors(call, shape, fields):
    assert call(
        PREDICTION + "Predict", tensor_request("serving_default", "x", types_pb2.DT_FLOAT, shape, **fields)
    ) in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@pytest.mark.parametrize("shape", EMPTY)
@pytest.mark.parametrize("signature", ["serving_default", "matrix", "total", "uneven", "identity_float16"])
def test_empty_tensors(call, shape, signature):
    data_type = types_pb2.DT_HALF if signature == "identity_float16" else types_pb2.DT_FLOAT
    call(PREDICTION + "Predict", tensor_request(signature, "x", data_type, shape))


@pytest.mark.parametrize("size", [0, 1, 2**62])
@pytest.mark.parametrize("rank", [32, 33, 64, 65, 254, 255, 20_000])
def test_many_dimensions(call, rank, size):
    code = "OK" if rank == 32 and size < 2 else "INVALID_ARGUMENT"
    shape = [size] * rank
    floats = tensor_request("serving_default", "x", types_pb2.DT_FLOAT, shape, float_val=[1.0])
    strings = tensor_request("upper", "text", types_pb2.DT_STRING, shape, string_val=[b"a"])
    assert [call(PREDICTION + "Predict", request) for request in (floats, strings)] == [code, code]


@pytest.mark.parametrize(("length", "count"), [(500_000, 1_500), (0, 2**22), (30, 2**20)])
def test_repeated_strings_are_bounded(call, length, count):
    request = tensor_request("upper", "text", types_pb2.DT_STRING, [count], string_val=[b"a" * length])
    assert call(PREDICTION + "Predict", request) == "INVALID_ARGUMENT"


def test_many_names_are_refused(call):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "example"
    for number in range(20_000):
        request.inputs[f"x{number}"].dtype = types_pb2.DT_FLOAT
    assert call(PREDICTION + "Predict", request.SerializeToString()) == "INVALID_ARGUMENT"
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"] * 101)
    request.model_spec.name = "example"
    assert call(PREDICTION + "GetModelMetadata", request.SerializeToString()) == "INVALID_ARGUMENT"


def test_long_names(call):
    """In any script, the status must not exceed the header size that clients accept."""
    for letter in ("a", "ä", "汉", "😀", "\n", "\x00"):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = letter * 5000
        assert call(MODEL + "GetModelStatus", request.SerializeToString()) == "NOT_FOUND"


@pytest.mark.parametrize(
    "config",
    [
        {"custom_model_config": {}},
        {"model_config_list": {"config": [{"name": "m", "base_path": "relative"}]}},
        {"model_config_list": {"config": [{"name": "m", "base_path": "/m", "model_platform": "caffe"}]}},
        {"model_config_list": {"config": [{"base_path": "/m", "model_platform": "tensorflow"}] * 2}},
        {"model_config_list": {"config": [{"name": "\x00", "base_path": "../.."}]}},
    ],
)
def test_invalid_configurations_are_refused(call, config):
    request = model_management_pb2.ReloadConfigRequest(config=config)
    code = call(MODEL + "HandleReloadConfigRequest", request.SerializeToString())
    assert code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION")
