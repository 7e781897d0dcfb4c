"""REST predict: TensorFlow Serving's URLs, forms, texts and layout."""

import gzip
import json

import pytest
import urllib3

POOL = urllib3.PoolManager(retries=False)


@pytest.fixture(scope="module")
def send(server):
    """send(method, path, body) -> (HTTP status, text)."""

    def send(method, path, body=None, headers=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = POOL.request(method, server.rest + path, body=data, headers=headers, timeout=60)
        return answer.status, answer.data.decode("utf-8", "surrogateescape")

    return send


@pytest.fixture(scope="module")
def predict(send):
    """predict(signature, **body) -> (HTTP status, JSON) from version 1 of the example."""

    def predict(signature, **body):
        body = {"signature_name": signature, **body}
        status, text = send("POST", "/v1/models/example/versions/1:predict", body)
        return status, json.loads(text)

    return predict


def test_layout_of_rows(send):
    body = {"instances": [1.0, 2.0, 5.0]}
    status, text = send("POST", "/v1/models/example/labels/stable:predict", body)
    assert (status, text) == (200, '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}')


def test_layout_of_rows_of_objects(send):
    body = {"signature_name": "pair", "instances": [{"a": 1.5, "b": 2}, {"a": 1, "b": 3}]}
    status, text = send("POST", "/v1/models/example/versions/1:predict", body)
    assert status == 200
    assert text == (
        '{\n    "predictions": [\n        {\n            "product": 3.0,\n            "sum": 3.5\n        },\n'
        '        {\n            "product": 3.0,\n            "sum": 4.0\n        }\n    ]\n}'
    )


def test_layout_of_columns(send):
    status, text = send("POST", "/v1/models/example/versions/1:predict", {"inputs": [1.0, 2.0]})
    assert (status, text) == (200, '{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}')


def test_layout_of_bytes(send):
    body = {"signature_name": "text", "instances": [{"b64": "YQ=="}]}
    status, text = send("POST", "/v1/models/example/versions/1:predict", body)
    assert status == 200
    assert text == (
        '{\n    "predictions": [\n        {\n            "raw_bytes": {\n                "b64": "Yf8A"\n'
        '            },\n            "upper": "A"\n        }\n    ]\n}'
    )


@pytest.mark.parametrize(
    ("signature", "body", "answer"),
    [
        ("matrix", {"instances": [[1, 2]]}, {"predictions": [[6.1, 1.00000024, 24691354.0]]}),
        ("pair", {"inputs": {"a": [1], "b": [2]}}, {"outputs": {"sum": [3.0], "product": [2.0]}}),
        ("pair", {"inputs": {"a": [1], "b": [2], "extra": 1}}, {"outputs": {"sum": [3.0], "product": [2.0]}}),
        ("upper", {"instances": ["a", {"b64": "Yg=="}]}, {"predictions": ["A", "B"]}),
        ("upper", {"inputs": {"text": ["ab"]}}, {"outputs": ["AB"]}),
        ("upper", {"inputs": {"b64": "YWI="}}, {"outputs": "AB"}),
        ("total", {"inputs": [1, 2]}, {"outputs": 3.0}),
        ("doubled", {"instances": [2**62 - 1]}, {"predictions": [2**63 - 2]}),
        ("identity_bool", {"instances": [[True, False]]}, {"predictions": [[True, False]]}),
        ("identity_uint8", {"instances": [[300, 1]]}, {"predictions": [[44, 1]]}),
        ("serving_default", {"instances": [{"x": 1}], "unknown": 1}, {"predictions": [2.5]}),
        ("empty", {"inputs": [1]}, {"outputs": []}),
        ("empty", {"instances": [1]}, {"predictions": []}),
        ("empty", {"instances": [1, 2]}, {"predictions": [[0.0, 0.0, 0.0]]}),
    ],
)
def test_outputs(predict, signature, body, answer):
    assert predict(signature, **body) == (200, answer)


ELEMENT = "Failed to process element: "
INSTANCES = " of 'instances' list. Error: INVALID_ARGUMENT: "
ERRORS = [
    ("nope", {"instances": [1]}, 400, 'Serving signature name: "nope" not found in signature def'),
    ("matrix", {}, 400, "Missing 'inputs' or 'instances' key"),
    (
        "serving_default",
        {"instances": [1, "2"]},
        400,
        f'{ELEMENT}1{INSTANCES}JSON Value: "2" Type: String is not of expected type: float',
    ),
    (
        "matrix",
        {"instances": [[1, 2], [1]]},
        400,
        f"{ELEMENT}1{INSTANCES}Expecting tensor size: 2 but got: 1",
    ),
    (
        "serving_default",
        {"instances": [[1], [[1]]]},
        400,
        f"{ELEMENT}1{INSTANCES}Expecting shape [1] but got: [1,1]",
    ),
    (
        "matrix",
        {"instances": [[[1, 2], [1]]]},
        400,
        f"{ELEMENT}0{INSTANCES}Encountered list at unexpected size: 1 at level: 1 expected size: 2",
    ),
    (
        "pair",
        {"instances": [{"a": 1, "b": 2, "z": 3}]},
        400,
        f"{ELEMENT}0 key: z{INSTANCES}JSON object: does not have named input: z",
    ),
    ("upper", {"instances": [{"b64": "*"}]}, 400, f"{ELEMENT}0{INSTANCES}Unable to base64 decode"),
    (
        "pair",
        {"instances": [{"a": 1}]},
        400,
        f"{ELEMENT}0 of 'instances' list. JSON object: {{\n    \"a\": 1\n}} keys must be equal to: a,b",
    ),
    (
        "pair",
        {"instances": [{"a": 1, "b": 2}, [1]]},
        400,
        "Expecting object but got list at item 1 of input list",
    ),
    (
        "serving_default",
        {"instances": [1, {"x": 1}]},
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    (
        "pair",
        {"instances": [1]},
        400,
        (
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        ),
    ),
    ("pair", {"inputs": {"a": [1]}}, 400, "Missing named input: b in 'inputs' object."),
    (
        "identity_int32",
        {"inputs": [[1.0, 2]]},
        400,
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
    ),
    (
        "identity_bool",
        {"inputs": [[1, 0]]},
        400,
        "JSON Value: 1 Type: Number is not of expected type: bool",
    ),
    ("upper", {"inputs": [1]}, 400, "JSON Value: 1 Type: Number is not of expected type: string"),
    ("identity_float16", {"inputs": [[1, 2]]}, 501, "Conversion of JSON Value: 1 to type: half"),
    (
        "identity_float16",
        {"instances": [[1, 2]]},
        400,
        f"{ELEMENT}0 of 'instances' list. Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half",
    ),
    ("total", {"instances": [1]}, 400, "Tensor name: total has no shape information "),
    ("uneven", {"instances": [1, 2]}, 400, "Tensor name: q has inconsistent batch size: 1 expecting: 2"),
]


@pytest.mark.parametrize(("signature", "body", "status", "text"), ERRORS, ids=lambda value: str(value)[:50])
def test_errors(predict, signature, body, status, text):
    assert predict(signature, **body) == (status, {"error": text})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"{,}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b"[1, 2]", "JSON Value: [1, 2] Is not object"),
        (
            {"signature_name": 1},
            (
                'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
                "'signature_name' key must be a string value."
            ),
        ),
        (
            {"instances": 1},
            "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array",
        ),
        ({"instances": []}, "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        (
            {"instances": [1], "inputs": [1]},
            (
                'JSON Value: {\n    "instances": [1],\n    "inputs": [1]\n} Not formatted correctly expecting only '
                "one of 'inputs' or 'instances' keys to exist "
            ),
        ),
    ],
)
def test_malformed_bodies(send, body, text):
    status, answer = send("POST", "/v1/models/example:predict", body)
    assert (status, json.loads(answer)) == (400, {"error": text})


BODY = {"instances": [1.0]}
URLS = [
    ("POST", "/v1/models/nothing:predict", 404, "Servable not found for request: Latest(nothing)"),
    (
        "POST",
        "/v1/models/example/versions/7:predict",
        404,
        "Servable not found for request: Specific(example, 7)",
    ),
    ("POST", "/v1/models/example/labels/x:predict", 400, "Unrecognized servable version label: x"),
    ("POST", "/v1/models/example:PREDICT", 400, "Malformed request: POST /v1/models/example:PREDICT"),
    ("POST", "/v1/models/example:predict?x=1", 400, "Malformed request: POST /v1/models/example:predict?x=1"),
    ("GET", "/v1/models/example:predict", 400, "Malformed request: GET /v1/models/example:predict"),
    ("GET", "/v1/nothing", 400, "Malformed request: GET /v1/nothing"),
    ("GET", "/v1/models/m?x", 404, "Could not find any versions of model m?x"),
    ("GET", "/v1/models", 400, "Missing model name in request."),
    (
        "GET",
        "/v1/models/example/versions/99999999999999999999",
        400,
        "Failed to convert version: 99999999999999999999 to numeric.",
    ),
]


@pytest.mark.parametrize(("method", "path", "status", "text"), URLS)
def test_urls(send, method, path, status, text):
    answer = send(method, path, BODY if method == "POST" else None)
    assert answer == (status, f'{{\n    "error": "{text}"\n}}')


@pytest.mark.parametrize(
    ("signature", "body", "text"),
    [
        ("upper", '{"instances": "\\ud800"}', "surrogate pair in string is invalid"),
        ("upper", '{"inputs": ["\\ud800"]}', "surrogate pair in string is invalid"),
        ("serving_default", f'{{"inputs": [{"1" * 5000}]}}', "Number too big"),
        ("serving_default", f'{{"inputs": [{"1" * 400}]}}', "Number too big"),
        ("serving_default", f'{{"instances": [{"1" * 400}]}}', "Number too big"),
        ("serving_default", f'{{"inputs": {"[" * 70}1{"]" * 70}}}', "70 dimensions, expected at most 32"),
        ("serving_default", f'{{"instances": {"[" * 70}1{"]" * 70}}}', "70 dimensions, expected at most 32"),
        ("upper", f'{{"inputs": {"[" * 33}"a"{"]" * 33}}}', "33 dimensions, expected at most 32"),
        ("upper", f'{{"instances": {"[" * 33}"a"{"]" * 33}}}', "33 dimensions, expected at most 32"),
        ("serving_default", f'{{"inputs": {{"b64": {"[" * 900}1{"]" * 900}}}}}', "Missing named input: x"),
        ("serving_default", f'{{"instances": {{"b64": {"[" * 900}1{"]" * 900}}}}}', "Expecting 'instances'"),
    ],
    ids=range(11),
)
def test_extreme_bodies_are_client_errors(send, signature, body, text):
    document = f'{{"signature_name": "{signature}", {body[1:]}'
    status, answer = send("POST", "/v1/models/example/versions/1:predict", document.encode())
    assert (status, text in json.loads(answer)["error"]) == (400, True), answer


def test_versions_of_thousands_of_digits(send):
    status, answer = send("GET", f"/v1/models/example/versions/{'9' * 5000}")
    assert (status, "Failed to convert version" in json.loads(answer)["error"]) == (400, True)
    assert send("GET", f"/v1/models/example/versions/{'0' * 5000}1")[0] == 200


def test_urls_ignore_case_and_are_percent_decoded(send):
    assert send("POST", "/V1/Models/ex%61mple/VERSIONS/1:predict", BODY)[0] == 200


def test_urls_outside_the_api(send):
    status, text = send("GET", "/")
    assert (status, "404 Not Found" in text) == (404, True)


def test_graph_errors_are_returned(predict):
    status, answer = predict("check", instances=["a", ""])
    assert status == 400
    assert answer["error"].startswith("assertion failed: [empty text is not allowed]\n")


def test_bodies_may_be_gzipped(send):
    path, headers = "/v1/models/example/versions/1:predict", {"Content-Encoding": "gzip"}
    assert send("POST", path, gzip.compress(json.dumps(BODY).encode()), headers)[0] == 200
    status, text = send("POST", path, b"not gzip", headers)
    assert (status, json.loads(text)) == (400, {"error": "JSON Parse error: The document is empty"})


def test_headers(server):
    answer = POOL.request("GET", server.rest + "/v1/models/nothing", timeout=60)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    allowed = POOL.request("OPTIONS", server.rest + "/v1/models/m", headers={"Origin": "http://page"}, timeout=60)
    assert (allowed.status, allowed.data) == (200, b"")
    assert POOL.request("OPTIONS", server.rest + "/v1/models/m", timeout=60).status == 400


def test_a_gzip_bomb_of_empty_lists_is_refused(send):
    """A list takes 64 bytes of memory, three in JSON, and almost none compressed."""
    bomb = gzip.compress(b'{"instances": [' + b"[]," * 2_000_000 + b"[]]}", 9)
    status, text = send("POST", "/v1/models/example:predict", bomb, {"Content-Encoding": "gzip"})
    assert (status, "more than 32 times as much" in text) == (413, True)
