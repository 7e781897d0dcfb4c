"""Classify, Regress and MultiInference, with TensorFlow Serving's order of checks and its error messages.

All three feed serialized tf.Examples to the one input of a signature; they differ in the outputs that they expect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from google.protobuf import text_format
from tensorflow import as_dtype
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from serving.api.predict import Settings
from serving.engine.servable import Call, Servable
from serving.engine.tensors import MAX_REPEATED_BYTES
from serving.errors import StatusError, invalid_argument
from serving.protocol import DEFAULT_SIGNATURE

SignatureDef: TypeAlias = meta_graph_pb2.SignatureDef
TensorValues: TypeAlias = dict[str, np.ndarray]  # {tensor name: array}

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"  # aliases of the methods


class Classification:
    """A signature as a classifier: string examples [batch] -> labels and scores [batch, classes]."""

    def __init__(self, definition: SignatureDef, settings: Settings) -> None:
        _check_method_name(definition, settings, "classification", CLASSIFY)
        _check_one_input(definition)
        if len(definition.outputs) not in (1, 2):
            raise invalid_argument(f"Expected one or two output Tensors, found {len(definition.outputs)}")
        _check_alias(definition.inputs, INPUTS, "classification inputs", definition)
        tensors = {alias: info.name for alias, info in definition.outputs.items() if alias in (CLASSES, SCORES)}
        if not tensors:
            raise invalid_argument(
                f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
                f"Signature was: {text_format.MessageToString(definition)}"
            )
        self._tensors = dict(sorted(tensors.items()))
        self.fetches = tuple(self._tensors.values())

    def read(self, values: TensorValues, examples: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Return labels (bytes) and scores (float32), both [examples, classes]; None for a missing output."""
        arrays = {alias: values[tensor] for alias, tensor in self._tensors.items()}
        for alias, dtype in ((CLASSES, "DT_STRING"), (SCORES, "DT_FLOAT")):
            if alias in arrays:
                _check_classes(alias, arrays[alias], dtype, examples)
        labels, scores = arrays.get(CLASSES), arrays.get(SCORES)
        if labels is not None and scores is not None and labels.shape[1] != scores.shape[1]:
            raise invalid_argument(
                f"Tensors class and score should match in dim_size(1). Got {labels.shape[1]} vs. {scores.shape[1]}"
            )
        return labels, scores

    def fill(self, result: classification_pb2.ClassificationResult, values: TensorValues, examples: int) -> None:
        """Write one Classifications per example; U+FFFD replaces bytes of a label that are not UTF-8."""
        labels, scores = self.read(values, examples)
        for example in range(examples):
            classes = result.classifications.add().classes
            if labels is not None:
                classes.extend(
                    classification_pb2.Class(label=label.decode("utf-8", "replace")) for label in labels[example]
                )
            if scores is None:
                continue
            for index, score in enumerate(scores[example].tolist()):
                (classes[index] if labels is not None else classes.add()).score = score


class Regression:
    """A signature as a regressor: string examples [batch] -> values [batch] or [batch, 1]."""

    def __init__(self, definition: SignatureDef, settings: Settings) -> None:
        _check_method_name(definition, settings, "regression", REGRESS)
        _check_one_input(definition)
        if len(definition.outputs) != 1:
            raise invalid_argument("Expected one output Tensor.")
        _check_alias(definition.inputs, INPUTS, "regression inputs", definition)
        _check_alias(definition.outputs, OUTPUTS, "regression outputs", definition)
        self._tensor = definition.outputs[OUTPUTS].name
        self.fetches = (self._tensor,)

    def read(self, values: TensorValues, examples: int) -> np.ndarray:
        """Return the values, float32 [examples]."""
        array = values[self._tensor]
        if array.ndim != 1 and (array.ndim != 2 or array.shape[1] != 1):
            raise invalid_argument(
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
                f"{_shape_text(array.shape)}"
            )
        if array.shape[0] != examples:
            raise invalid_argument(f"Input batch size did not match output batch size: {examples} vs. {array.shape[0]}")
        if array.dtype != np.float32:
            raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_type_name(array)}")
        return array.ravel()

    def fill(self, result: regression_pb2.RegressionResult, values: TensorValues, examples: int) -> None:
        """Write one Regression per example."""
        result.regressions.extend(
            regression_pb2.Regression(value=value) for value in self.read(values, examples).tolist()
        )


def classify(
    servable: Servable, number: int, request: classification_pb2.ClassificationRequest, settings: Settings
) -> Call:
    """Return the call for a ClassificationRequest on version `number`."""
    return _inference_call(
        Classification, classification_pb2.ClassificationResponse, servable, number, request, settings
    )


def regress(servable: Servable, number: int, request: regression_pb2.RegressionRequest, settings: Settings) -> Call:
    """Return the call for a RegressionRequest on version `number`."""
    return _inference_call(Regression, regression_pb2.RegressionResponse, servable, number, request, settings)


def _inference_call(
    head_class: Any, response_class: Any, servable: Servable, number: int, request: Any, settings: Settings
) -> Call:
    """Return the call for the request's signature, interpreted by a head of class `head_class`."""
    name = signature_name(request.model_spec)
    head = head_class(definition_of(servable, name), settings)
    examples = serialized_examples(request.input)
    spec = _response_spec(request.model_spec, number)

    def finish(values: TensorValues) -> Any:
        response = response_class(model_spec=spec)
        head.fill(response.result, values, len(examples))
        return response

    return examples_call(servable, name, head.fetches, examples, finish)


def first_spec(request: inference_pb2.MultiInferenceRequest) -> model_pb2.ModelSpec:
    """Return the ModelSpec that selects the version for all tasks: that of the first task, or an empty one."""
    return request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()


def multi_inference(
    servable: Servable, number: int, request: inference_pb2.MultiInferenceRequest, settings: Settings
) -> Call:
    """Return the one call for all tasks of a MultiInferenceRequest, one signature each, on version `number`."""
    heads: dict[str, Classification | Regression] = {}  # in the order of the tasks
    for task in request.tasks:
        name = _task_signature(task, request.tasks[0], heads)
        heads[name] = _head(task, _requested_definition(servable, name), settings)
    examples = serialized_examples(request.input)
    feeds: TensorValues = {}
    for name in sorted(heads):  # sorted, because each order of the feeds is compiled separately
        _check_representable(servable, name)
        feeds |= servable.signatures[name].feeds({INPUTS: examples})
    fetches = tuple(sorted({tensor for head in heads.values() for tensor in head.fetches}))
    specs = [_response_spec(task.model_spec, number) for task in request.tasks]

    def finish(arrays: list[np.ndarray]) -> inference_pb2.MultiInferenceResponse:
        values = dict(zip(fetches, arrays, strict=True))
        response = inference_pb2.MultiInferenceResponse()
        for spec, head in zip(specs, heads.values(), strict=True):
            result = response.results.add(model_spec=spec)
            if isinstance(head, Classification):
                head.fill(result.classification_result, values, len(examples))
            else:
                head.fill(result.regression_result, values, len(examples))
        return response

    return Call(feeds, fetches, finish, len(examples))


def signature_name(spec: model_pb2.ModelSpec) -> str:
    return spec.signature_name or DEFAULT_SIGNATURE


def definition_of(servable: Servable, name: str) -> SignatureDef:
    """Return the signature of a Classify or Regress request."""
    definition = servable.signature_defs.get(name)
    if definition is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return definition


def serialized_examples(request_input: input_pb2.Input) -> np.ndarray:
    """Return the serialized tf.Examples [examples] of a request, each prefixed with the common context.

    Concatenating serialized messages merges them: a feature of the example replaces that of the context.
    """
    if request_input.HasField("example_list_with_context"):
        example_list = request_input.example_list_with_context
        context = example_list.context.SerializeToString()
        check_context(len(context), len(example_list.examples))
        return examples_array([context + example.SerializeToString() for example in example_list.examples])
    return examples_array([example.SerializeToString() for example in request_input.example_list.examples])


def check_context(size: int, examples: int) -> None:
    """Raise INVALID_ARGUMENT if a context of `size` bytes is too large to be repeated for all `examples`."""
    if size * max(0, examples - 1) > MAX_REPEATED_BYTES:
        raise invalid_argument(
            f"A context of {size} bytes is repeated for each of {examples} examples; a request may repeat "
            f"{MAX_REPEATED_BYTES} bytes: send a smaller context or fewer examples."
        )


def repeated_context_bytes(request: Any) -> int:
    """Return the total bytes of a request's context, repeated for each example."""
    example_list = request.input.example_list_with_context
    return len(example_list.examples) * example_list.context.ByteSize()


def examples_array(serialized: list[bytes]) -> np.ndarray:
    """Return an array [examples] for the runtime; INVALID_ARGUMENT if it is empty."""
    if not serialized:
        raise invalid_argument("Input is empty.")
    array = np.empty(len(serialized), object)
    array[:] = serialized
    return array


def examples_call(
    servable: Servable, name: str, fetches: tuple[str, ...], examples: np.ndarray, finish: Callable[[TensorValues], Any]
) -> Call:
    """Return a call of signature `name` on examples; `finish` receives {tensor name: array}."""
    _check_representable(servable, name)
    return Call(
        servable.signatures[name].feeds({INPUTS: examples}),
        fetches,
        lambda arrays: finish(dict(zip(fetches, arrays, strict=True))),
        len(examples),
    )


def _check_representable(servable: Servable, name: str) -> None:
    """Raise INVALID_ARGUMENT if an input or output of the signature has no TensorProto, such as a ragged tensor."""
    signature = servable.signatures[name]
    signature.check_inputs()
    signature.fetches(alias for alias in signature.outputs if alias in (CLASSES, SCORES, OUTPUTS))


def _task_signature(
    task: inference_pb2.InferenceTask, first: inference_pb2.InferenceTask, earlier: dict[str, Any]
) -> str:
    """Return the name of a task's signature, which must differ from those of the `earlier` tasks."""
    if not task.model_spec.name:
        raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != first.model_spec.name:
        raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    name = signature_name(task.model_spec)
    if name in earlier:
        raise invalid_argument(f"Duplicate evaluation of signature: {name}")
    return name


def _requested_definition(servable: Servable, name: str) -> SignatureDef:
    definition = servable.signature_defs.get(name)
    if definition is None:
        raise invalid_argument(f"Requested signature not found in model graph: {name}")
    return definition


def _head(
    task: inference_pb2.InferenceTask, definition: SignatureDef, settings: Settings
) -> Classification | Regression:
    if task.method_name == CLASSIFY:
        return Classification(definition, settings)
    if task.method_name == REGRESS:
        return Regression(definition, settings)
    raise StatusError("UNIMPLEMENTED", f"Unsupported signature method_name: {task.method_name}")


def _response_spec(requested: model_pb2.ModelSpec, number: int) -> model_pb2.ModelSpec:
    """Return the ModelSpec of a response: the requested model, the actual version, the signature; never a label."""
    spec = model_pb2.ModelSpec(name=requested.name, signature_name=signature_name(requested))
    spec.version.value = number
    return spec


def _check_method_name(definition: SignatureDef, settings: Settings, kind: str, expected: str) -> None:
    if settings.check_method_name and definition.method_name != expected:
        raise invalid_argument(f"Expected {kind} signature method_name to be {expected}. Was: {definition.method_name}")


def _check_one_input(definition: SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def _check_alias(infos: Any, alias: str, kind: str, definition: SignatureDef) -> None:
    if alias not in infos:
        raise invalid_argument(f"No {kind} found in SignatureDef: {text_format.MessageToString(definition)}")


def _check_classes(alias: str, array: np.ndarray, dtype: str, examples: int) -> None:
    """Check the array of output `classes` or `scores`."""
    if array.ndim != 2:
        raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape_text(array.shape)}")
    if _type_name(array) != dtype:
        raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {_type_name(array)}")
    if array.shape[0] != examples:
        raise invalid_argument(f"Expected {alias} output batch size of {examples}. Got: {array.shape[0]}")


def _type_name(array: np.ndarray) -> str:
    return types_pb2.DataType.Name(as_dtype(array.dtype).as_datatype_enum)


def _shape_text(shape: tuple[int, ...]) -> str:
    return "[" + ",".join(map(str, shape)) + "]"
