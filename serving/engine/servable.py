"""A loaded version of a model: its session, signatures and executors."""

from __future__ import annotations

import copy
import ctypes
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from serving.engine.batching import Scheduler
from serving.engine.encodings import unsendable_reason
from serving.engine.executors import CallableExecutor, Executor, GraphAnalysis, SessionExecutor, add_rank_check
from serving.engine.tensors import check_dimensions, dtype_name, from_proto, numpy_dtype
from serving.errors import StatusError, invalid_argument
from serving.models.storage import SAVED_MODEL_NAMES
from serving.protocol import CODE_NAMES, INIT_OPERATION

SESSION_ERRORS = tf.errors.OpError
FUNCTION_PREFIX = re.compile(r"^(?:\{\{function_node [^}]*\}\} )+")
NDARRAY_FAILURE = "Could not allocate ndarray"  # the runtime's text, with the code INTERNAL
MAX_EXECUTORS = 64  # executors compiled for selections of outputs


def status_of(error: tf.errors.OpError) -> StatusError:
    """Convert an error of the runtime: keep its code and its text, but remove the names of the calling functions."""
    message = FUNCTION_PREFIX.sub("", error.message)
    if message == NDARRAY_FAILURE:
        return invalid_argument("An output has more dimensions than a NumPy array may have, or is too large for one.")
    return StatusError(CODE_NAMES[error.error_code], message)


@dataclass(frozen=True)
class Call:
    """One run of a graph, and the function that turns its results into the response."""

    feeds: dict[str, np.ndarray]  # {tensor name: array}
    fetches: tuple[str, ...]  # tensor names, may repeat
    finish: Callable[[list[np.ndarray]], Any]  # fetched arrays in that order -> the response
    examples: int | None = None  # number of examples, if the protocol counts them

    def then(self, function: Callable[[Any], Any]) -> Call:
        """Return this call with `function` applied to its response."""
        return replace(self, finish=lambda arrays: function(self.finish(arrays)))


@dataclass(frozen=True)
class Input:
    """One input of a signature: the tensor to feed, its DataType, its numpy dtype, and its declared shape."""

    tensor: str
    data_type: int
    dtype: np.dtype
    shape: list[int] | None = None  # None: any rank; -1: any size


class Signature:
    """A signature of a model: its inputs and outputs by alias."""

    def __init__(self, name: str, definition: meta_graph_pb2.SignatureDef) -> None:
        self.name = name
        self.method_name = definition.method_name
        self.inputs = {
            alias: Input(info.name, info.dtype, _dtype(info), _shape(info.tensor_shape))
            for alias, info in sorted(definition.inputs.items())
        }
        self.outputs = {alias: info.name for alias, info in sorted(definition.outputs.items())}
        self.output_types = {alias: info.dtype for alias, info in definition.outputs.items()}
        self.defaults = {alias: from_proto(value, alias) for alias, value in sorted(definition.defaults.items())}
        self.all_outputs = tuple(self.outputs)
        # {alias: why no TensorProto can represent it}
        self.unsendable_inputs, self.unsendable_outputs = (
            {alias: reason for alias, info in sorted(infos.items()) if (reason := unsendable_reason(info))}
            for infos in (definition.inputs, definition.outputs)
        )
        # The runtime numbers its arguments in the order of their tensor names; error messages use these numbers.
        self._feed_order = sorted(self.inputs.items(), key=lambda item: item[1].tensor)
        self.feed_names = tuple(info.tensor for _, info in self._feed_order)

    def check_inputs(self) -> None:
        """Raise INVALID_ARGUMENT if a request cannot represent an input of the signature."""
        for alias, reason in self.unsendable_inputs.items():
            raise invalid_argument(
                f'Input "{alias}" of signature "{self.name}" is {reason}, which requests cannot represent: '
                "export the model with a signature whose inputs are tensors of numbers or strings."
            )

    def fetches(self, aliases: Iterable[str]) -> tuple[str, ...]:
        """Return the tensor names of outputs, in order; INVALID_ARGUMENT for one that a response cannot represent."""
        names = []
        for alias in aliases:
            if reason := self.unsendable_outputs.get(alias):
                raise invalid_argument(
                    f'Output "{alias}" of signature "{self.name}" is {reason}, which responses cannot represent: '
                    "select other outputs (gRPC: output_filter) or export the model with tensors of numbers or strings."
                )
            names.append(self.outputs[alias])
        return tuple(names)

    def feeds(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Convert {alias: array} of all inputs to {tensor name: array}.

        Check dtypes and ranks, because some wrong ones crash the runtime; the graph itself checks sizes.
        """
        feeds = {}
        for index, (alias, declared) in enumerate(self._feed_order):
            array = arrays[alias]
            check_dimensions(array.ndim, alias)
            if array.dtype != declared.dtype:
                provided = dtype_name(tf.as_dtype(array.dtype).as_datatype_enum)
                raise invalid_argument(
                    f"Expects arg[{index}] to be {dtype_name(declared.data_type)} but {provided} is provided"
                )
            feeds[declared.tensor] = array
        return feeds


def _dtype(info: Any) -> np.dtype:
    """Return the numpy dtype of an input; object if a request cannot represent it."""
    return np.dtype(object) if unsendable_reason(info) else numpy_dtype(info.dtype)


def _shape(shape: Any) -> list[int] | None:
    return None if shape.unknown_rank else [dim.size for dim in shape.dim]


def read_signatures(definitions: dict[str, meta_graph_pb2.SignatureDef]) -> dict[str, Signature]:
    """Return the signatures that can be called."""
    return {name: Signature(name, definition) for name, definition in definitions.items() if name != INIT_OPERATION}


class Servable:
    """One SavedModel, in its own session and graph."""

    def __init__(
        self,
        path: str,
        tags: Sequence[str],
        config: config_pb2.ConfigProto,
        scheduler: Scheduler | None = None,
        observe: Callable[[float], None] = lambda microseconds: None,
    ) -> None:
        """`scheduler` batches the calls; `observe` receives the microseconds of each run."""
        self.path, self.scheduler, self._observe = path, scheduler, observe
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        self._lock = threading.Lock()
        self._executors: dict[tuple[tuple[str, ...], tuple[str, ...]], Executor] = {}
        try:
            meta_graph = _load(self._session, path, tags)
            # Copies, because a part of a message keeps the whole message in memory.
            self.signature_defs = {
                name: copy.deepcopy(definition) for name, definition in meta_graph.signature_def.items()
            }
            self.signatures = read_signatures(self.signature_defs)
            analysis = GraphAnalysis(meta_graph.graph_def)
            outputs = {name for signature in self.signatures.values() for name in signature.outputs.values()}
            predictable = {name for name in outputs if analysis.is_predictable(name)}
            self._checked = {name: add_rank_check(self._session.graph, name) for name in outputs}
            self._session._extend_graph()  # adds the rank checks
            self._predictable = {self._checked[name] for name in predictable}
        except BaseException:
            self._session.close()
            raise

    def run(
        self, feeds: dict[str, np.ndarray], fetches: tuple[str, ...], seconds: float | None = None
    ) -> list[np.ndarray]:
        """Return the arrays of `fetches`, in order; several threads may call this at once.

        A graph that waits or loops ends after `seconds` with DEADLINE_EXCEEDED.
        """
        start = time.perf_counter()
        fetches = self._with_rank_checks(fetches)
        try:
            executor = self._executor(tuple(feeds), fetches)
            values = dict(zip(executor.fetches, executor.run(feeds.values(), seconds), strict=True))
            return [_as_array(values[name]) for name in fetches]
        except SESSION_ERRORS as error:
            raise status_of(error) from None
        except UnicodeDecodeError as error:  # the runtime's error quotes a string of the request; its code is lost
            raise invalid_argument(error.object.decode("utf-8", "replace")) from None
        finally:
            self._observe(1e6 * (time.perf_counter() - start))

    def quick(self, feeds: dict[str, np.ndarray], fetches: tuple[str, ...]) -> bool:
        """Return whether the run is short enough for the event loop."""
        executor = self._executors.get((tuple(feeds), tuple(sorted(set(self._with_rank_checks(fetches))))))
        return executor is not None and executor.quick(feeds.values())

    def close(self) -> None:
        self.signatures = {}
        self._executors = {}  # the executors must be released before the session
        self._session.close()
        trim_memory()

    def _with_rank_checks(self, fetches: tuple[str, ...]) -> tuple[str, ...]:
        """Replace fetches by tensors that check ranks; too many dimensions would crash the process."""
        return tuple(self._checked.get(name, name) for name in fetches)

    def _executor(self, feeds: tuple[str, ...], fetches: tuple[str, ...]) -> Executor:
        """Return the executor compiled for these feeds and at least these fetches.

        Clients select outputs; to save memory, selections after the first MAX_EXECUTORS share one for all outputs.
        """
        names = tuple(sorted(set(fetches)))
        executor = self._executors.get((feeds, names))
        if executor is not None:
            return executor
        with self._lock:
            if len(self._executors) >= MAX_EXECUTORS:
                names = tuple(sorted({*names, *self._outputs_of(feeds)}))
            if (feeds, names) not in self._executors:
                if len(self._executors) >= 2 * MAX_EXECUTORS:  # MultiInference may request many sets of inputs
                    self._executors.pop(next(iter(self._executors)))
                executor_class = CallableExecutor if self._predictable.issuperset(names) else SessionExecutor
                try:
                    self._executors[feeds, names] = executor_class(self._session, feeds, names)
                except (KeyError, ValueError) as error:  # a signature may name tensors that the graph does not have
                    raise invalid_argument(str(error.args[0])) from None
            return self._executors[feeds, names]

    def _outputs_of(self, feeds: tuple[str, ...]) -> set[str]:
        """Return all outputs of the signatures that have these inputs."""
        signatures = [signature for signature in self.signatures.values() if set(signature.feed_names) == set(feeds)]
        return {
            self._checked[name]
            for signature in signatures
            for alias, name in signature.outputs.items()
            if alias not in signature.unsendable_outputs
        }


def _as_array(output: np.ndarray | np.generic | bytes) -> np.ndarray:
    """Return a fetched tensor as an array; the session returns a scalar string as plain bytes."""
    return np.array(output, dtype=object) if isinstance(output, bytes) else np.asarray(output)


def _load(session: Any, path: str, tags: Sequence[str]) -> Any:
    """Load graph and variables with the V1 loader, which loads old and new SavedModels. Errors are those of C++."""
    if not any(os.path.exists(os.path.join(path, name)) for name in SAVED_MODEL_NAMES):
        raise StatusError(
            "NOT_FOUND", f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
        )
    try:
        with session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(session, list(tags), path)
            session.graph._functions.clear()  # frees copies that only code which extends the graph needs
            return meta_graph
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


def trim_memory() -> None:
    """Return free memory to the system: loading a graph takes several times the memory that it keeps, and glibc retains
    the rest. Do nothing with other C libraries."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
