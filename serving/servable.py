"""A loaded version of a model: its session and what runs its signatures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.errors import CODE_NAMES, StatusError, invalid_argument
from serving.tensors import dtype_name, from_proto, numpy_dtype

SESSION_ERRORS = tf.errors.OpError


def status_of(error: tf.errors.OpError) -> StatusError:
    """The runtime's own code and text."""
    return StatusError(CODE_NAMES[error.error_code], error.message)


@dataclass(frozen=True)
class Input:
    """One input of a signature: the tensor that is fed, its DataType and numpy's dtype of it."""

    tensor: str
    data_type: int
    dtype: np.dtype


class Signature:
    """A signature of a loaded graph: named arrays in, named arrays out."""

    def __init__(self, name: str, definition: meta_graph_pb2.SignatureDef, session: Any) -> None:
        self.name = name
        self.method_name = definition.method_name
        self.inputs = {
            alias: Input(info.name, info.dtype, numpy_dtype(info.dtype))
            for alias, info in sorted(definition.inputs.items())
        }
        self.outputs = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self.output_types = {alias: info.dtype for alias, info in definition.outputs.items()}
        self.defaults = {alias: from_proto(value, alias) for alias, value in sorted(definition.defaults.items())}
        self.all_outputs = tuple(self.outputs)
        # The runtime numbers its arguments by tensor name; messages about them count in this order.
        self._fed = sorted(self.inputs, key=lambda alias: self.inputs[alias].tensor)
        self._session = session
        self._runners: dict[tuple[str, ...], Callable[..., list[np.ndarray]]] = {}
        self._lock = threading.Lock()

    def run(self, arrays: dict[str, np.ndarray], outputs: tuple[str, ...]) -> list[np.ndarray]:
        """Arrays of `outputs` in their order. Dtypes are checked, shapes are the graph's business."""
        feeds = [self._checked(index, alias, arrays[alias]) for index, alias in enumerate(self._fed)]
        runner = self._runners.get(outputs) or self._add_runner(outputs)
        try:
            return [_as_array(output) for output in runner(*feeds)]
        except SESSION_ERRORS as error:
            raise status_of(error) from None

    def _checked(self, index: int, alias: str, array: np.ndarray) -> np.ndarray:
        wanted = self.inputs[alias]
        if array.dtype != wanted.dtype:
            given = tf.as_dtype(array.dtype).as_datatype_enum
            raise invalid_argument(
                f"Expects arg[{index}] to be {dtype_name(wanted.data_type)} but {dtype_name(given)} is provided"
            )
        return array

    def _add_runner(self, outputs: tuple[str, ...]) -> Callable[..., list[np.ndarray]]:
        """Compile what `outputs` need of the graph; a callable skips the shape check of Session.run."""
        with self._lock:
            if outputs not in self._runners:
                fetches = list(dict.fromkeys(self.outputs[alias] for alias in outputs))
                options = config_pb2.CallableOptions(
                    feed=[self.inputs[alias].tensor for alias in self._fed], fetch=fetches
                )
                places = [fetches.index(self.outputs[alias]) for alias in outputs]
                self._runners[outputs] = _runner(self._session, options, places)
            return self._runners[outputs]


def _as_array(output: np.ndarray | np.generic | bytes) -> np.ndarray:
    """A fetched tensor; the session gives a scalar string as plain bytes."""
    return np.array(output, dtype=object) if isinstance(output, bytes) else np.asarray(output)


def _runner(session: Any, options: Any, places: Sequence[int]) -> Callable[..., list[np.ndarray]]:
    try:
        run = session._make_callable_from_options(options)
    except SESSION_ERRORS as error:
        raise status_of(error) from None
    if list(places) == list(range(len(places))):
        return run

    def spread(*feeds: np.ndarray) -> list[np.ndarray]:  # several outputs are the same tensor
        fetched = run(*feeds)
        return [fetched[place] for place in places]

    return spread


class Servable:
    """One SavedModel in a session and graph of its own."""

    def __init__(self, path: str, tags: Sequence[str], config: config_pb2.ConfigProto) -> None:
        self.path = path
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            meta_graph = _load(self._session, path, tags)
            self.signature_defs = dict(meta_graph.signature_def)
            self.signatures = {
                name: Signature(name, definition, self._session)
                for name, definition in self.signature_defs.items()
                if name != "__saved_model_init_op"  # describes an operation, not a call
            }
        except BaseException:
            self._session.close()
            raise

    def close(self) -> None:
        self.signatures = {}  # their callables release their executors, which have to go before the session
        self._session.close()


def _load(session: Any, path: str, tags: Sequence[str]) -> Any:
    """Load graph and variables; the V1 loader takes every SavedModel, old ones too. Errors as in C++."""
    names = ("saved_model.pb", "saved_model.pbtxt")
    if not any(os.path.exists(os.path.join(path, name)) for name in names):
        raise StatusError(
            "NOT_FOUND", f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        )
    try:
        with session.graph.as_default():
            return tf.compat.v1.saved_model.load(session, list(tags), path)
    except SESSION_ERRORS as error:
        raise status_of(error) from None
    except (OSError, DecodeError) as error:
        raise StatusError("DATA_LOSS", f"Can't parse {path}/saved_model.pb as binary proto ({error})") from None
    except RuntimeError as error:
        if "MetaGraphDef" not in str(error):
            raise
        raise StatusError(
            "NOT_FOUND",
            f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To inspect "
            "available tag-sets in the SavedModel, please use the SavedModel CLI: `saved_model_cli`",
        ) from None
