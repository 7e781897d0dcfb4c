"""Executors of a graph: compiled once per selection of feeds and fetches, with or without TensorFlow's threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client.pywrap_tf_session import TF_DeleteBuffer, TF_NewBufferFromString

from serving.engine.tensors import MAX_DIMENSIONS

# Operations that neither wait nor loop, and whose run time depends only on the shapes of their inputs. This excludes
# operations that turn values into sizes (Fill, Range, Tile, Pad), decode, read files, or call functions in other ways.
OP_NAMES = """
Abs Add AddN AddV2 All Any ArgMax ArgMin AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd Cast Ceil ClipByValue
ConcatV2 Const Conv2D Cos DepthwiseConv2dNative Div DivNoNan Elu Equal Erf Exp ExpandDims Expm1 Floor FloorDiv
FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Gather GatherV2 Greater GreaterEqual Identity IdentityN
L2Loss LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool Maximum
Mean Min Minimum Mul MulNoNan Neg NoOp NotEqual OnesLike Pack PartitionedCall Placeholder Pow Prod Rank ReadVariableOp
RealDiv Reciprocal Relu Relu6 Reshape Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Sin Size Slice Softmax
Softplus Softsign Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StopGradient StridedSlice
Sub Sum Tanh TopKV2 Transpose Unpack VarHandleOp VariableV2 Xdivy ZerosLike
"""
PREDICTABLE_OPS = frozenset(OP_NAMES.split())

SHORT_SECONDS = 0.001  # shorter runs gain nothing from running operations in parallel threads
QUICK_SECONDS = 0.00015  # shorter runs block the event loop for less time than a thread switch takes
TRIALS = 5  # runs before a decision
MAX_SHAPES = 64  # number of shapes whose run times are stored


class GraphAnalysis:
    """Finds the tensors of a graph whose run time is predictable: they depend only on PREDICTABLE_OPS."""

    def __init__(self, graph: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._results: dict[str, bool] = {}  # {function: whether it contains only PREDICTABLE_OPS}

    def is_predictable(self, tensor: str) -> bool:
        """Return whether a tensor such as "y:0" depends only on PREDICTABLE_OPS."""
        seen: set[str] = set()
        pending = [_node_name(tensor)]
        while pending:
            node = self._nodes.get(pending.pop())
            if node is None or not self._is_predictable_node(node):
                return False
            new = {_node_name(name) for name in node.input} - seen
            seen |= new
            pending += new
        return True

    def _is_predictable_node(self, node: Any) -> bool:
        if node.op not in PREDICTABLE_OPS and node.op not in self._functions:
            return False
        called = [value.func.name for value in node.attr.values() if value.WhichOneof("value") == "func"]
        return all(
            self._is_predictable_function(name) for name in ([node.op] if node.op in self._functions else called)
        )

    def _is_predictable_function(self, name: str) -> bool:
        if name not in self._results:
            self._results[name] = False  # a recursive function may never end
            function = self._functions.get(name)
            self._results[name] = function is not None and all(map(self._is_predictable_node, function.node_def))
        return self._results[name]


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def add_rank_check(graph: tf.Graph, tensor: str) -> str:
    """Add a check to the graph that a string tensor has at most MAX_DIMENSIONS; return the name of the checked tensor.

    A run with more dimensions fails with INVALID_ARGUMENT. The check uses the rank at run time, because inputs are not
    checked against the declared rank. Other dtypes need no check: the runtime checks them.
    """
    try:
        strings = graph.get_tensor_by_name(tensor)
    except (KeyError, ValueError):  # a signature may name a missing tensor; running it fails
        return tensor
    if strings.dtype != tf.string:
        return tensor
    with graph.as_default(), graph.control_dependencies(None):
        rank = tf.raw_ops.Rank(input=strings)
        message = f"The output {tensor} has too many dimensions; it may have at most {MAX_DIMENSIONS}: "
        check = tf.raw_ops.Assert(condition=tf.raw_ops.LessEqual(x=rank, y=MAX_DIMENSIONS), data=[message, rank])
        with graph.control_dependencies([check]):
            return tf.identity(strings).name


class Executor(Protocol):
    """Runs the part of a graph from its feeds to distinct fetches. Unlike Session.run, it does not check shapes."""

    fetches: tuple[str, ...]

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """Return the fetched values, in order."""

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        """Return whether a run is known to take less time than a thread switch."""


class SessionExecutor:
    """Executor for graphs that may wait or loop. A deadline can end a run; this costs about 70 microseconds per run."""

    def __init__(self, session: Any, feeds: Sequence[str], fetches: tuple[str, ...]) -> None:
        self._session, self.fetches = session, fetches
        self._feeds, self._fetches = (
            [_to_tf_output(session.graph, name) for name in names] for names in (feeds, fetches)
        )

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """Return the fetched values, in order; DeadlineExceededError after `seconds`."""
        feeds = dict(zip(self._feeds, arrays, strict=True))
        options = config_pb2.RunOptions(timeout_in_ms=0 if seconds is None else max(1, int(1000 * seconds)))
        buffer = TF_NewBufferFromString(options.SerializeToString())
        try:
            return self._session._call_tf_sessionrun(buffer, feeds, self._fetches, [], None)
        finally:
            TF_DeleteBuffer(buffer)

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        return False


def _to_tf_output(graph: tf.Graph, name: str) -> Any:
    return graph.get_tensor_by_name(name)._as_tf_output()


class CallableExecutor:
    """Executor for graphs of PREDICTABLE_OPS: a callable, which costs less than Session.run and cannot be interrupted.

    If its runs are short, it stops using TensorFlow's threads, because starting them takes longer than the run.
    From then on it measures run times per shapes of the feeds, which determine them.
    """

    def __init__(self, session: Any, feeds: Sequence[str], fetches: tuple[str, ...]) -> None:
        self._session, self._feeds, self.fetches = session, feeds, fetches
        self._run = self._compile(inter_op_thread_pool=0)
        self._trials, self._fastest = 0, float("inf")
        self._short: bool | None = None  # None: undecided
        self._times: dict[tuple[tuple[int, ...], ...], tuple[int, float]] = {}  # {shapes: (runs, decaying maximum)}

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """Return the fetched values, in order."""
        arrays = tuple(arrays)
        start = time.perf_counter()
        fetched = self._run(*arrays)
        elapsed = time.perf_counter() - start
        if self._short:
            self._record_time(arrays, elapsed)
        elif self._short is None:
            self._choose_threads(elapsed)
        return fetched

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        shapes = []
        for array in arrays:
            if array.dtype.kind == "O":  # the shape does not determine the lengths of strings
                return False
            shapes.append(array.shape)
        runs, slowest = self._times.get(tuple(shapes), (0, 0.0))
        return runs > TRIALS and slowest < QUICK_SECONDS

    def _choose_threads(self, seconds: float) -> None:
        self._trials += 1
        self._fastest = min(self._fastest, seconds)
        if self._trials >= TRIALS and self._short is None:  # several threads may run this at once
            if self._fastest < SHORT_SECONDS:
                self._run = self._compile(inter_op_thread_pool=-1)
            self._short = self._fastest < SHORT_SECONDS

    def _record_time(self, arrays: tuple[np.ndarray, ...], seconds: float) -> None:
        shapes = tuple(array.shape for array in arrays)
        runs, slowest = self._times.get(shapes, (0, 0.0))
        if runs or len(self._times) < MAX_SHAPES:
            # The first runs are warm-up. The maximum decays by 3 % per run: about a hundred runs forget a slow one.
            self._times[shapes] = (runs + 1, max(seconds, 0.97 * slowest) if runs >= TRIALS else 0.0)

    def _compile(self, inter_op_thread_pool: int) -> Callable[..., list[Any]]:
        options = config_pb2.CallableOptions(feed=self._feeds, fetch=self.fetches)
        options.run_options.inter_op_thread_pool = inter_op_thread_pool
        return self._session._make_callable_from_options(options)
