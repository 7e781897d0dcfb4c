"""A version that is a TensorFlow Lite model: the interface of `Servable` over a pool of interpreters."""

from __future__ import annotations

import functools
import logging
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import meta_graph_pb2

from serving.engine.servable import SESSION_ERRORS, read_signatures, status_of
from serving.engine.tensors import check_dimensions
from serving.errors import StatusError, invalid_argument
from serving.models.storage import TFLITE_NAME
from serving.protocol import DEFAULT_SIGNATURE

log = logging.getLogger("serving")
SIGNATURES_KEY = b"signature_defs_metadata"  # the metadata entry that contains signatures, if any
PREDICT_METHOD = "tensorflow/serving/predict"
MAX_DIMENSIONS = 8  # some kernels store shapes in arrays of this length and write past their end

# Operations that accept inputs of fewer dimensions than the model declares. Others may read past the end of the shape:
# a convolution of a 3-D input runs, and its result depends on the memory behind the shape.
ELEMENTWISE_OPS = """
    ABS ADD ADD_N ATAN2 CAST CEIL COS DIV ELU EQUAL EXP FLOOR FLOOR_DIV FLOOR_MOD GELU GREATER GREATER_EQUAL HARD_SWISH
    LEAKY_RELU LESS LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAXIMUM MINIMUM MUL NEG NOT_EQUAL POW
    RELU RELU6 ROUND RSQRT SIGN SIN SQRT SQUARE SQUARED_DIFFERENCE SUB TANH ZEROS_LIKE
"""
ANY_RANK_OPS = frozenset(ELEMENTWISE_OPS.split()) | {"RESHAPE"}
# Operations that need at least one dimension.
NON_SCALAR_OPS = frozenset({"FULLY_CONNECTED", "L2_NORMALIZATION", "LOG_SOFTMAX", "SOFTMAX"})

# Raised for damaged buffers.
PARSE_ERRORS = (ValueError, TypeError, IndexError, AttributeError, struct.error, DecodeError)


@dataclass(frozen=True)
class Tensor:
    """An input or output tensor of the model."""

    index: int
    name: str
    info: meta_graph_pb2.TensorInfo


class TFLiteServable:
    """One TFLite model; at most `interpreters` requests run at once, and others wait."""

    scheduler = None  # calls are not batched

    def __init__(self, path: str, interpreters: int) -> None:
        self.path = path
        self._content = _read(os.path.join(path, TFLITE_NAME))
        self._permits = threading.Semaphore(interpreters)
        first = Interpreter(self._content)
        self._free = deque([first])  # others are created on demand
        self._inputs = first.tensors(first.lite.get_input_details(), "Input")
        self._outputs = first.tensors(first.lite.get_output_details(), "Output")
        self.signature_defs = self._signature_defs()
        self.signatures = read_signatures(self.signature_defs)

    def run(
        self, feeds: dict[str, np.ndarray], fetches: tuple[str, ...], seconds: float | None = None
    ) -> list[np.ndarray]:
        """Return the arrays of `fetches`, in order; several threads may call this at once.

        `seconds` has no effect: an interpreter cannot be interrupted. The inputs are resized to the shapes of the
        arrays. INVALID_ARGUMENT if the model cannot run them.
        """
        with self._interpreter() as interpreter:
            interpreter.run([(self._inputs[name], array) for name, array in feeds.items()])
            return [interpreter.fetch(self._outputs[name]) for name in fetches]

    def quick(self, feeds: dict[str, np.ndarray], fetches: tuple[str, ...]) -> bool:
        """Return False: a run may have to wait for an interpreter."""
        return False

    def close(self) -> None:
        self.signatures = {}
        self._free.clear()

    @contextmanager
    def _interpreter(self) -> Iterator[Interpreter]:
        with self._permits:
            try:
                interpreter = self._free.pop()
            except IndexError:
                interpreter = Interpreter(self._content)
            yield interpreter
            # A failed interpreter is not reused: its memory is not allocated, and it would fail again.
            self._free.append(interpreter)

    def _signature_defs(self) -> dict[str, meta_graph_pb2.SignatureDef]:
        """Return the model's own signatures, or else a default signature of all its inputs and outputs."""
        try:
            definitions = _stored_signature_defs(self._content)
        except PARSE_ERRORS as error:
            raise invalid_argument(f"Invalid SignatureDefs found in TfLite model: {error}") from None
        for definition in definitions.values():
            for kind, infos, tensors in (
                ("input", definition.inputs, self._inputs),
                ("output", definition.outputs, self._outputs),
            ):
                for alias, info in infos.items():
                    info.name = _model_tensor_name(info.name, tensors, f"Signature {kind} {alias}")
        if definitions:
            return definitions
        log.warning("%s has no signature; a default signature of all its inputs and outputs is used", self.path)
        default = meta_graph_pb2.SignatureDef(method_name=PREDICT_METHOD)
        for field, tensors in ((default.inputs, self._inputs), (default.outputs, self._outputs)):
            for name, tensor in sorted(tensors.items()):
                field[_strip_output_index(name)].CopyFrom(tensor.info)
        return {DEFAULT_SIGNATURE: default}


class Interpreter:
    """An interpreter of the runtime; runs one request at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        try:
            self.lite = _library()[0](model_content=content)
        except ValueError as error:
            raise invalid_argument(f"Cannot build FlatBufferModel from buffer. {error}") from None
        try:
            self.lite.allocate_tensors()
        except RuntimeError as error:
            raise StatusError("INTERNAL", f"Cannot build Interpreter from buffer. {error}") from None
        # {index: allocated shape} of the inputs
        self._shapes: dict[int, tuple[int, ...]] = {
            details["index"]: tuple(details["shape"].tolist()) for details in self.lite.get_input_details()
        }

    def tensors(self, details: list[dict[str, Any]], kind: str) -> dict[str, Tensor]:
        """Return {name: tensor} of the runtime's list of inputs or outputs."""
        tensors: dict[str, Tensor] = {}
        for entry in details:
            name = entry["name"]
            if name in tensors:
                raise StatusError("ALREADY_EXISTS", f"{kind} tensor name: {name} has multiple indices")
            info = meta_graph_pb2.TensorInfo(name=name, dtype=tf.as_dtype(entry["dtype"]).as_datatype_enum)
            for size in entry["shape"].tolist():
                info.tensor_shape.dim.add(size=size)
            tensors[name] = Tensor(entry["index"], name, info)
        return tensors

    def run(self, feeds: list[tuple[Tensor, np.ndarray]]) -> None:
        """Feed the inputs and run the model; call `fetch` afterwards."""
        self._resize(feeds)
        for tensor, array in feeds:
            self._attempt("Failed to set input tensor", self.lite.set_tensor, tensor.index, array)
        self._attempt("Failed to invoke TfLite interpreter", self.lite.invoke)

    def fetch(self, tensor: Tensor) -> np.ndarray:
        """Return an output of the last run. Check its rank, because the runtime does not."""
        ranks = {details["index"]: len(details["shape"]) for details in self.lite.get_output_details()}
        check_dimensions(ranks[tensor.index], tensor.name)
        value = self._attempt(f"Failed to get output tensor: {tensor.name}", self.lite.get_tensor, tensor.index)
        return np.array(value, dtype=object) if isinstance(value, bytes) else np.asarray(value)

    def _resize(self, feeds: list[tuple[Tensor, np.ndarray]]) -> None:
        """Allocate memory for the shapes of the arrays if they differ from those of the last run."""
        changed = [(tensor, array) for tensor, array in feeds if self._shapes[tensor.index] != array.shape]
        if not changed:
            return
        for tensor, array in changed:
            self._check_dimensions(tensor, array)
            failure = f"Failed to resize input tensor: {tensor.name} to {list(array.shape)}"
            self._attempt(failure, self.lite.resize_tensor_input, tensor.index, array.shape)
        self._attempt("Failed to allocate tensors", self.lite.allocate_tensors)
        self._shapes |= {tensor.index: array.shape for tensor, array in changed}

    def _check_dimensions(self, tensor: Tensor, array: np.ndarray) -> None:
        """Check the rank: most kernels assume the declared rank and access memory out of bounds with another one."""
        declared = len(tensor.info.tensor_shape.dim)
        if array.ndim == declared:
            return
        expected = f"expected {declared}"
        if not declared:  # models declare no dimensions for a scalar and for any rank
            if array.ndim <= MAX_DIMENSIONS:
                return
            expected = f"expected at most {MAX_DIMENSIONS}"
        elif array.ndim < declared:
            unsafe = _operations(self._content) - ANY_RANK_OPS - (NON_SCALAR_OPS if array.ndim else frozenset())
            if not unsafe:
                return
            expected += f" because of the model's operations {', '.join(sorted(unsafe))}"
        raise invalid_argument(f"Failed to resize input tensor: {tensor.name} to {array.ndim} dimensions, {expected}")

    @staticmethod
    def _attempt(failure: str, step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except (RuntimeError, ValueError, OverflowError) as error:
            raise invalid_argument(f"{failure}: {error}") from None


@functools.cache
def _library() -> tuple[Any, Any]:
    """Return the interpreter class and the schema module, of LiteRT if installed, else of TensorFlow."""
    try:
        from ai_edge_litert import interpreter, schema_py_generated
    except ImportError:
        from tensorflow.lite.python import interpreter, schema_py_generated
    return interpreter.Interpreter, schema_py_generated


def _read(path: str) -> bytes:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return file.read()
    except SESSION_ERRORS as error:
        raise status_of(error) from None


def _operations(content: bytes) -> frozenset[str]:
    """Return the names of the model's operations."""
    schema = _library()[1]
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    model = schema.Model.GetRootAs(content, 0)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    # Old files store the code in a one-byte field; newer ones in both fields or, if it is too large, in the new one.
    numbers = [max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) for code in codes]
    return frozenset(names.get(number, str(number)) for number in numbers)


def _stored_signature_defs(content: bytes) -> dict[str, meta_graph_pb2.SignatureDef]:
    """Return {name: signature} from the model's metadata, a map of serialized messages; empty without metadata."""
    model = _library()[1].Model.GetRootAs(content, 0)
    for index in range(model.MetadataLength()):
        entry = model.Metadata(index)
        if entry.Name() == SIGNATURES_KEY:
            signatures = flexbuffers.GetRoot(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()).AsMap
            return {
                key.AsKey: meta_graph_pb2.SignatureDef.FromString(value.AsStringBytes)
                for key, value in zip(signatures.Keys, signatures.Values, strict=True)
            }
    return {}


def _model_tensor_name(name: str, tensors: dict[str, Tensor], owner: str) -> str:
    """Return the name of a signature's tensor in the model, where early converters stripped the suffix `:0`."""
    for candidate in (name, _strip_output_index(name)):
        if candidate in tensors:
            return candidate
    raise StatusError("INTERNAL", f"Unknown tensor '{name}'.\n\t{owner} references an unknown tensor")


def _strip_output_index(name: str) -> str:
    return name.partition(":")[0]
