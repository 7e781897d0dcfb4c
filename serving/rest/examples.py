"""REST classify and regress: from JSON examples to serialized tf.Examples, and from results to JSON."""

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
KIND_NAMES = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}  # as messages call them
TEXT = Input("", STRING, np.dtype(object))  # how a string is read


def rest_classify(name: str, examples: np.ndarray, servable: Servable, settings: Settings) -> Call:
    """The run that answers a classify request for signature `name`; its response is JSON text."""
    name = name or DEFAULT_SIGNATURE
    head = Classification(definition_of(servable, name), settings)

    def finish(fetched: TensorValues) -> str:
        return classifications_json(*head.read(fetched, len(examples)))

    return examples_call(servable, name, head.fetches, examples, finish)


def rest_regress(name: str, examples: np.ndarray, servable: Servable, settings: Settings) -> Call:
    """The run that answers a regress request for signature `name`; its response is JSON text."""
    name = name or DEFAULT_SIGNATURE
    head = Regression(definition_of(servable, name), settings)
    return examples_call(
        servable, name, head.fetches, examples, lambda fetched: regressions_json(head.read(fetched, len(examples)))
    )


def read_examples(document: dict[str, Any]) -> np.ndarray:
    """Serialized tf.Examples [examples] of `examples`, each preceded by `context` where there is one."""
    context = _example(document["context"]) if "context" in document else b""
    complaint = None
    if "examples" not in document:
        complaint = "When method is classify, key 'examples' is expected and was not found"
    elif not isinstance(document["examples"], list):
        complaint = "Expecting 'examples' value to be an list/array"
    elif not document["examples"]:
        complaint = "'examples' value is an empty array"
    if complaint:
        raise invalid_argument(f"JSON Value: {debug(document)} {complaint}")
    check_context(len(context), len(document["examples"]))
    return examples_array([context + _example(value) for value in document["examples"]])


def _example(value: Any) -> bytes:
    """A JSON object {feature: value or list of values}, serialized."""
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
    """A feature of values that are all of one kind; without values it has no kind."""
    feature = feature_pb2.Feature()
    kinds = set(map(type, values))
    if kinds == {float}:  # many numbers are worth a short way
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
    """The field of a Feature that a JSON value belongs to, and the value as that field takes it."""
    if isinstance(value, float):
        return "float_list", value
    if isinstance(value, int):  # true and false are among them
        if INT64_MIN <= value <= INT64_MAX:
            return "int64_list", int(value)
        raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    if isinstance(value, str) or is_base64(value):
        return "bytes_list", to_array(value, TEXT).item()
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")


def classifications_json(labels: np.ndarray | None, scores: np.ndarray | None) -> str:
    """{"results": [[["label", score], ...], ...]}; labels (bytes) and scores (float32) [examples, classes] or None.

    The missing ones are empty texts or zeros.
    """
    known = labels if labels is not None else scores
    assert known is not None, "a signature has classes or scores"
    examples, classes = known.shape
    texts = decimals(scores.ravel()) if scores is not None else ["0.0"] * known.size
    names = [quoted(label.decode("utf-8", "surrogateescape")) for label in labels.ravel()] if labels is not None else []
    pairs = [f"[{name}, {text}]" for name, text in zip(names or ['""'] * known.size, texts, strict=True)]
    rows = (f"[{', '.join(pairs[row * classes : (row + 1) * classes])}]" for row in range(examples))
    return f'{{\n{INDENT}"results": [{", ".join(rows)}\n{INDENT}]\n}}'


def regressions_json(values: np.ndarray) -> str:
    """{"results": [value, ...]} of values (float32) [examples], on one line."""
    return f'{{\n{INDENT}"results": [{", ".join(decimals(values))}]\n}}'
