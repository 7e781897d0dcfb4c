"""REST classify and regress: convert JSON examples to serialized tf.Examples, and results to JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2

from serving.api.inference import (
    Classification,
    Regression,
    TensorValues,
    check_context,
    definition_of,
    examples_array,
    examples_call,
)
from serving.api.predict import Settings
from serving.engine.servable import Call, Input, Servable
from serving.errors import invalid_argument
from serving.protocol import DEFAULT_SIGNATURE
from serving.rest.json_text import INDENT, debug, decimals, quoted, type_name
from serving.rest.request import STRING, is_base64, to_array

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
KIND_NAMES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}  # in error texts
STRING_INPUT = Input("", STRING, np.dtype(object))  # for `to_array` of a string


def rest_classify(name: str, examples: np.ndarray, servable: Servable, settings: Settings) -> Call:
    """Return the Call of a classify request for signature `name`; its response is JSON text."""
    name = name or DEFAULT_SIGNATURE
    head = Classification(definition_of(servable, name), settings)

    def finish(fetched: TensorValues) -> str:
        return classifications_json(*head.read(fetched, len(examples)))

    return examples_call(servable, name, head.fetches, examples, finish)


def rest_regress(name: str, examples: np.ndarray, servable: Servable, settings: Settings) -> Call:
    """Return the Call of a regress request for signature `name`; its response is JSON text."""
    name = name or DEFAULT_SIGNATURE
    head = Regression(definition_of(servable, name), settings)
    return examples_call(
        servable, name, head.fetches, examples, lambda fetched: regressions_json(head.read(fetched, len(examples)))
    )


def read_examples(document: dict[str, Any]) -> np.ndarray:
    """Return the serialized tf.Examples [examples] of a request, each preceded by its `context` if it has one."""
    context = _example(document["context"]) if "context" in document else b""
    problem = None
    if "examples" not in document:
        problem = "When method is classify, key 'examples' is expected and was not found"
    elif not isinstance(document["examples"], list):
        problem = "Expecting 'examples' value to be an list/array"
    elif not document["examples"]:
        problem = "'examples' value is an empty array"
    if problem:
        raise invalid_argument(f"JSON Value: {debug(document)} {problem}")
    check_context(len(context), len(document["examples"]))
    return examples_array([context + _example(value) for value in document["examples"]])


def _example(value: Any) -> bytes:
    """Serialize a JSON object {feature: value or list of values}."""
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    example = example_pb2.Example()
    for name, content in value.items():
        feature = _feature(name, content if isinstance(content, list) else [content])
        try:
            example.features.feature[name].CopyFrom(feature)
        except UnicodeEncodeError:
            raise invalid_argument(f"Feature: {debug(name)} has a name that is not UTF-8 text.") from None
    return example.SerializeToString()


def _feature(name: str, values: list[Any]) -> feature_pb2.Feature:
    """Return the Feature of values, which must be of one kind; without values it has no kind."""
    feature = feature_pb2.Feature()
    kinds = set(map(type, values))
    if kinds == {float}:  # fast for many numbers
        feature.float_list.value.extend(values)
        return feature
    if kinds == {int} and min(values) >= INT64_MIN and max(values) <= INT64_MAX:
        feature.int64_list.value.extend(values)
        return feature
    expected = ""
    for value in values:
        kind, element = _value(name, value)
        if expected and kind != expected:
            raise invalid_argument(f"Unexpected element type in feature: {name} expecting type: {KIND_NAMES[expected]}")
        expected = kind
        getattr(feature, kind).value.append(element)
    return feature


def _value(name: str, value: Any) -> tuple[str, Any]:
    """Return the field of a Feature for a JSON value, and the value converted for that field."""
    if isinstance(value, float):
        return "float_list", value
    if isinstance(value, int):  # bool included
        if INT64_MIN <= value <= INT64_MAX:
            return "int64_list", int(value)
        raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    if isinstance(value, str) or is_base64(value):
        return "bytes_list", to_array(value, STRING_INPUT).item()
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def classifications_json(labels: np.ndarray | None, scores: np.ndarray | None) -> str:
    """Return {"results": [[["label", score], ...], ...]}.

    Labels (bytes) and scores (float32) [examples, classes]; if None, labels become "" or scores 0.
    """
    array = labels if labels is not None else scores
    assert array is not None, "a signature has classes or scores"
    examples, classes = array.shape
    texts = decimals(scores.ravel()) if scores is not None else ["0.0"] * array.size
    names = [quoted(label.decode("utf-8", "surrogateescape")) for label in labels.ravel()] if labels is not None else []
    pairs = [f"[{name}, {text}]" for name, text in zip(names or ['""'] * array.size, texts, strict=True)]
    rows = (f"[{', '.join(pairs[row * classes : (row + 1) * classes])}]" for row in range(examples))
    return f'{{\n{INDENT}"results": [{", ".join(rows)}\n{INDENT}]\n}}'


def regressions_json(values: np.ndarray) -> str:
    """Return {"results": [value, ...]} of values (float32) [examples], on one line."""
    return f'{{\n{INDENT}"results": [{", ".join(decimals(values))}]\n}}'
