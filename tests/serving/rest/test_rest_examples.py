"""REST classify and regress: JSON to tf.Examples, results to JSON, with TensorFlow Serving's texts and layout."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_helpers import run_call
from tensorflow.core.example import example_pb2

from serving.api.predict import Settings
from serving.errors import StatusError
from serving.rest.examples import (
    classifications_json,
    read_examples,
    regressions_json,
    rest_classify,
    rest_regress,
)
from serving.rest.json_text import parse
from serving.rest.request import signature_name


def examples_of(body):
    """Return the features of each example, {name: (kind, values)}; the body is JSON text or an object."""
    document = parse(body if isinstance(body, bytes) else json.dumps(body).encode())
    result = []
    for serialized in read_examples(document):
        features = example_pb2.Example.FromString(serialized).features.feature
        kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
        result.append(
            {name: (kind, list(getattr(features[name], kind).value) if kind else []) for name, kind in kinds.items()}
        )
    return result


def failure(function, *arguments):
    with pytest.raises(StatusError) as caught:
        function(*arguments)
    return caught.value.code, caught.value.message


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("1.5", ("float_list", [1.5])),
        ("1e2", ("float_list", [100.0])),
        ("1", ("int64_list", [1])),
        ("-9223372036854775808", ("int64_list", [-(2**63)])),
        ("9223372036854775807", ("int64_list", [2**63 - 1])),
        ("true", ("int64_list", [1])),
        ("[true, false, 7]", ("int64_list", [1, 0, 7])),
        ('"é"', ("bytes_list", ["é".encode()])),
        ('"\xff"', ("bytes_list", [b"\xff"])),  # bytes that are not UTF-8 are kept
        ('{"b64": "Yf8A"}', ("bytes_list", [b"a\xff\x00"])),
        ('["a", {"b64": "Yg=="}]', ("bytes_list", [b"a", b"b"])),
        ("[1.5, 2.0, 3e-1]", ("float_list", [1.5, 2.0, float(np.float32(0.3))])),
        ("[1.5, Infinity, -Inf]", ("float_list", [1.5, float("inf"), float("-inf")])),
        ("1e300", ("float_list", [float("inf")])),
        ("18446744073709551616", ("float_list", [2.0**64])),  # beyond 64 bits: a double
        ("-9223372036854775809", ("float_list", [-(2.0**63)])),
        ("[1.5, 18446744073709551616]", ("float_list", [1.5, 2.0**64])),
        ("[]", (None, [])),
    ],
)
def test_feature_kinds(text, feature):
    body = b'{"examples": [{"f": ' + (text.encode("latin-1") if "\xff" in text else text.encode()) + b"}]}"
    assert examples_of(body) == [{"f": feature}]


def test_a_context_is_part_of_every_example():
    body = {"context": {"a": 1, "b": "x"}, "examples": [{"a": 2}, {}]}
    assert examples_of(body) == [
        {"a": ("int64_list", [2]), "b": ("bytes_list", [b"x"])},
        {"a": ("int64_list", [1]), "b": ("bytes_list", [b"x"])},
    ]


values = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.text(), min_size=1),
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), min_size=1, max_size=4))
def test_all_features_are_read(examples):
    result = examples_of({"examples": examples})
    for features, expected in zip(result, examples, strict=True):
        assert {
            name: [value.decode() if kind == "bytes_list" else value for value in elements]
            for name, (kind, elements) in features.items()
        } == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"instances": []},
            'JSON Value: {\n    "instances": []\n} '
            "When method is classify, key 'examples' is expected and was not found",
        ),
        (
            {"examples": {}},
            "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array",
        ),
        ({"examples": []}, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}, [{}]]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [True]}, "Example must be JSON object but got JSON True"),
        ({"context": None, "examples": [{}]}, "Example must be JSON object but got JSON Null"),
        ({"context": {"f": None}}, "Feature: f has element with unexpected JSON type: Null"),  # before `examples`
        ({"examples": [{"f": [1, None]}]}, "Feature: f has element with unexpected JSON type: Null"),
        ({"examples": [{"f": [[1], 2]}]}, "Feature: f has element with unexpected JSON type: Array"),
        ({"examples": [{"f": {"x": 1}}]}, "Feature: f has element with unexpected JSON type: Object"),
        ({"examples": [{"f": {"b64": 1}}]}, "Feature: f has element with unexpected JSON type: Object"),
        ({"examples": [{"f": {"b64": "*"}}]}, "Unable to base64 decode"),
        ({"examples": [{"f": [1, 1.0]}]}, "Unexpected element type in feature: f expecting type: int64"),
        ({"examples": [{"f": [1.0, 1]}]}, "Unexpected element type in feature: f expecting type: float"),
        ({"examples": [{"f": ["a", True]}]}, "Unexpected element type in feature: f expecting type: bytes"),
        ({"examples": [{"f": 2**63}]}, "Feature: f has uint64 element. Only int64 is supported."),
        ({"examples": [{"f": 10**400}]}, "JSON Parse error: Number too big to be stored in double. at offset: 20"),
        ({"examples": [{"f": "\ud800"}]}, "JSON Parse error: The surrogate pair in string is invalid. at offset: 21"),
        (b'{"examples": [{"\xff": 1}]}', 'Feature: "\udcff" has a name that is not UTF-8 text.'),
    ],
    ids=lambda value: str(value)[:40].encode("ascii", "replace").decode(),
)
def test_malformed_examples(body, text):
    assert failure(examples_of, body) == ("INVALID_ARGUMENT", text)


def run_request(function, servable, body):
    call = function(signature_name(body), read_examples(body), servable, Settings())
    return run_call(servable, call)


BODY = {"examples": [{"x": 1.5}, {"x": -0.25}]}


def test_classify_returns_pairs(heads):
    text = run_request(rest_classify, heads, BODY)
    assert text == ('{\n    "results": [[["low", -1.5], ["high", 1.5]], [["low", 0.25], ["high", -0.25]]\n    ]\n}')


def test_regress_returns_values(heads):
    assert run_request(rest_regress, heads, {"signature_name": "value", **BODY}) == '{\n    "results": [1.5, -0.25]\n}'


@pytest.mark.parametrize(
    ("signature", "results"),
    [
        ("labels", [[["low", 0.0], ["high", 0.0]]]),
        ("scores", [[["", -1.5], ["", 1.5]]]),
    ],
)
def test_missing_labels_are_empty_and_missing_scores_zero(heads, signature, results):
    body = {"signature_name": signature, "examples": [{"x": 1.5}]}
    assert json.loads(run_request(rest_classify, heads, body)) == {"results": results}


def test_calls_count_their_examples(heads):
    assert rest_classify("", read_examples(BODY), heads, Settings()).examples == 2
    assert rest_regress("value", read_examples(BODY), heads, Settings()).examples == 2


@pytest.mark.parametrize(
    ("function", "body", "text"),
    [
        (rest_classify, {"signature_name": "nope", **BODY}, "No signature was found with the name: nope"),
        (rest_regress, {"signature_name": "nope", **BODY}, "No signature was found with the name: nope"),
        (rest_classify, {"signature_name": "two_inputs", **BODY}, "Expected one input Tensor."),
        (rest_regress, BODY, "Expected one output Tensor."),
        (
            rest_classify,
            {"signature_name": "flat", **BODY},
            "Expected Tensor shape: [batch_size num_classes] but got [2]",
        ),
        (
            rest_regress,
            {"signature_name": "short_value", **BODY},
            "Input batch size did not match output batch size: 2 vs. 1",
        ),
        (
            rest_classify,
            {"signature_name": 1, "examples": 1},
            'JSON Value: {\n    "signature_name": 1,\n    "examples": 1\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            rest_classify,
            {"signature_name": "nope", "examples": [1]},
            "Example must be JSON object but got JSON Number",
        ),
    ],
)
def test_errors(heads, function, body, text):
    assert failure(run_request, function, heads, body) == ("INVALID_ARGUMENT", text)


def test_a_flag_enables_the_check_of_method_names(heads):
    code, text = failure(rest_regress, "scores", read_examples(BODY), heads, Settings(check_method_name=True))
    assert (code, text) == (
        "INVALID_ARGUMENT",
        (
            "Expected regression signature method_name to be tensorflow/serving/regress. "
            "Was: tensorflow/serving/classify"
        ),
    )


def test_integers_are_refused_for_float_features(heads):
    code, text = failure(run_request, rest_classify, heads, {"examples": [{"x": 2}]})
    assert code == "INVALID_ARGUMENT"
    assert text.startswith("Name: <unknown>, Key: x, Index: 0.  Data types don't match. ")


def test_layout_of_empty_and_unusual_results():
    empty = np.empty((2, 0), object)
    assert classifications_json(empty, None) == '{\n    "results": [[], []\n    ]\n}'
    unusual = np.array([[b'say "x"\n', b"\xff"]], object)
    text = classifications_json(unusual, np.array([[np.nan, -np.inf]], np.float32))
    assert text.encode("utf-8", "surrogateescape") == (
        b'{\n    "results": [[["say \\"x\\"\\n", NaN], ["\xff", -Infinity]]\n    ]\n}'
    )
    values = np.array([np.inf, 1e20, 0.1, 16777216.0, 1e-7], np.float32)
    assert regressions_json(values) == '{\n    "results": [Infinity, 1e+20, 0.1, 16777216.0, 1e-07]\n}'


def test_repetition_of_the_context_is_limited():
    document = {"context": {"word": "a" * 500_000}, "examples": [{}] * 1_000}
    code, text = failure(examples_of, document)
    assert (code, "a request may repeat 16777216 bytes: send a smaller context" in text) == ("INVALID_ARGUMENT", True)
    assert len(examples_of({**document, "examples": [{}] * 30})) == 30
