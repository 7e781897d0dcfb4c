"""Predict: from a request to a response, with TensorFlow Serving's order of checks and its error messages."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.engine.servable import Call, Servable, Signature
from serving.engine.tensors import (
    MAX_REPEATED_BYTES,
    MAX_TENSOR_BYTES,
    TensorProto,
    from_proto,
    repeated_bytes,
    to_proto,
)
from serving.errors import StatusError, invalid_argument
from serving.models.manager import ModelManager, Use
from serving.protocol import DEFAULT_SIGNATURE

METHOD_NAMES = (
    "tensorflow/serving/predict",
    "tensorflow/serving/classify",
    "tensorflow/serving/regress",
)
MAX_NAMES = 100  # listed in an error message


@dataclass(frozen=True)
class Settings:
    """Settings from the server's flags for every request."""

    check_method_name: bool = False
    outputs_as_content: bool = False  # write outputs into tensor_content
    max_bytes: int = MAX_TENSOR_BYTES  # of an input


def predict(servable: Servable, number: int, request: predict_pb2.PredictRequest, settings: Settings) -> Call:
    """Return the call for a PredictRequest on version `number`; its response is a PredictResponse."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise StatusError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
    if settings.check_method_name:
        _check_method_name(signature)
    _check_count(request.inputs, signature)
    signature.check_inputs()
    _check_repeated(repeated_bytes(request.inputs.values()))
    arrays = _input_arrays(request.inputs, signature, settings.max_bytes)
    outputs = _select_outputs(request.output_filter, signature)
    fetches = signature.fetches(outputs)
    model = request.model_spec.name

    def finish(fetched: list[np.ndarray]) -> predict_pb2.PredictResponse:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = model
        response.model_spec.version.value = number
        response.model_spec.signature_name = name
        for alias, array in zip(outputs, fetched, strict=True):
            to_proto(array, signature.output_types[alias], response.outputs[alias], settings.outputs_as_content)
        return response

    return Call(signature.feeds(arrays), fetches, finish)


def required_model_spec(request: Any) -> model_pb2.ModelSpec:
    """Return the ModelSpec of a request; INVALID_ARGUMENT if it is missing."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


def use_version(manager: ModelManager, request: Any) -> Use:
    """Return the use of the version in the request's model_spec."""
    return manager.use(*version_choice(required_model_spec(request)))


def version_choice(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str | None]:
    """Return name, version and label of a ModelSpec; at most one of the latter two is set."""
    which = spec.WhichOneof("version_choice")
    return (
        spec.name,
        spec.version.value if which == "version" else None,
        spec.version_label if which == "version_label" else None,
    )


def _check_method_name(signature: Signature) -> None:
    if signature.method_name not in METHOD_NAMES:
        names = ", ".join(METHOD_NAMES)
        raise StatusError(
            "INTERNAL",
            f"Expected prediction signature method_name to be one of {{{names}}}. Was: {signature.method_name}",
        )


def _check_count(inputs: Mapping[str, object], signature: Signature) -> None:
    expected = signature.inputs
    if len(inputs) == len(expected) or (len(inputs) < len(expected) and signature.defaults):
        return
    raise invalid_argument(
        f"input size does not match signature: {len(inputs)}!={len(expected)} len({{{_join(inputs)}}}) != "
        f"len({{{_join(expected)}}}). Sent extra: {{{_join(set(inputs) - set(expected))}}}. "
        f"Missing but required: {{{_join(set(expected) - set(inputs))}}}."
    )


def _check_repeated(size: int) -> None:
    if size > MAX_REPEATED_BYTES:
        raise invalid_argument(
            f"The inputs have fewer values than their shapes require. Repeating the last values takes {size} bytes; a "
            f"request may repeat {MAX_REPEATED_BYTES} bytes: send all values or smaller shapes."
        )


def _join(names: Iterable[str]) -> str:
    """Join the names in order, at most the first MAX_NAMES, because clients may send very many."""
    smallest = heapq.nsmallest(MAX_NAMES + 1, names)
    return ",".join([*smallest[:MAX_NAMES], "..."] if len(smallest) > MAX_NAMES else smallest)


def _input_arrays(
    inputs: Mapping[str, TensorProto], signature: Signature, max_bytes: int = MAX_TENSOR_BYTES
) -> dict[str, np.ndarray]:
    """Return the arrays of all inputs of the signature, from the request or the signature's defaults."""
    arrays = {}
    used = 0
    for alias, tensor in signature.inputs.items():
        if alias in inputs:  # indexing with a missing key would add it to the message
            arrays[alias] = from_proto(inputs[alias], alias, max_bytes)
            used += 1
        elif alias in signature.defaults:
            arrays[alias] = signature.defaults[alias]
        else:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {tensor.tensor}) not found in request and no "
                f"default value provided. Inputs expected to be in the request {{{_join(inputs)}}}, "
                f"or default input alias set: {_join(signature.defaults)}"
            )
    if used != len(inputs):
        valid = [alias for alias in inputs if alias in signature.inputs]
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {_join(valid)}, request input: {_join(inputs)}"
        )
    return arrays


def _select_outputs(output_filter: Iterable[str], signature: Signature) -> tuple[str, ...]:
    """Return the aliases of the outputs to fetch: those in the filter, or all."""
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{_join(signature.outputs)}}}."
            )
        if alias in chosen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return tuple(chosen) or signature.all_outputs
