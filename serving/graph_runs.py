"""How a graph is run: compiled once for a set of feeds and fetches, and in which threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client.pywrap_tf_session import TF_DeleteBuffer, TF_NewBufferFromString
from tensorflow.python.framework import op_def_registry

# Stateful operations that wait for nothing: they read what was loaded, or complain.
READERS = frozenset(
    {"Assert", "HashTableV2", "LookupTableFindV2", "LookupTableSizeV2", "Placeholder", "ReadVariableOp", "VarHandleOp",
     "VariableV2", "PartitionedCall", "StatefulPartitionedCall"}
)  # fmt: skip
# Operations without a state of which nobody knows in advance how often they calculate.
LOOPS = frozenset({"StatelessWhile", "StatelessIf", "StatelessCase", "MapDefun", "Enter", "RefEnter", "Switch", "Recv"})

SHORT_SECONDS = 0.001  # what takes less gains nothing from threads that run its operations side by side
QUICK_SECONDS = 0.00015  # what takes less holds the event loop up for a shorter time than a change of threads costs
TRIALS = 5  # runs until something is decided


class Plain:
    """Which tensors of a graph depend on operations alone that neither wait nor loop."""

    def __init__(self, graph: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function for function in graph.library.function}
        self._known: dict[str, bool] = {}  # of functions

    def tensor(self, name: str) -> bool:
        """Of a tensor such as "y:0"."""
        seen: set[str] = set()
        waiting = [_node_of(name)]
        while waiting:
            node = self._nodes.get(waiting.pop())
            if node is None or not self._operation(node):
                return False
            new = {_node_of(each) for each in node.input} - seen
            seen |= new
            waiting += new
        return True

    def _operation(self, node: Any) -> bool:
        if node.op in self._functions:
            return self._function(node.op)
        definition = op_def_registry.get(node.op)
        if definition is None or node.op in LOOPS or (definition.is_stateful and node.op not in READERS):
            return False
        called = [value.func.name for value in node.attr.values() if value.WhichOneof("value") == "func"]
        return all(self._function(name) for name in called)

    def _function(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = False  # one that calls itself never ends
            function = self._functions.get(name)
            self._known[name] = function is not None and all(map(self._operation, function.node_def))
        return self._known[name]


def _node_of(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


class Path(Protocol):
    """What some fetches need of a graph, for some feeds; runs without the shape check of Session.run."""

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """What is fetched, in order."""

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        """Whether a run is known to take less than a change of threads."""


class LongPath:
    """A path that may wait or loop. It can be ended at a deadline, which costs some 70 microseconds a run."""

    def __init__(self, session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> None:
        self._session = session
        self._feeds, self._fetches = ([_output_of(session.graph, name) for name in names] for names in (feeds, fetches))

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """What is fetched, in order; DeadlineExceededError if it takes longer."""
        feeds = dict(zip(self._feeds, arrays, strict=True))
        options = config_pb2.RunOptions(timeout_in_ms=0 if seconds is None else max(1, int(1000 * seconds)))
        buffer = TF_NewBufferFromString(options.SerializeToString())
        try:
            return self._session._call_tf_sessionrun(buffer, feeds, self._fetches, [], None)
        finally:
            TF_DeleteBuffer(buffer)

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        return False


def _output_of(graph: tf.Graph, name: str) -> Any:
    return graph.get_tensor_by_name(name)._as_tf_output()


class PlainPath:
    """A path that neither waits nor loops: a callable, which costs less than Session.run.

    Its runs are timed: short ones go without TensorFlow's threads, whose start takes longer than they do.
    """

    def __init__(self, session: Any, feeds: Sequence[str], fetches: Sequence[str]) -> None:
        self._session, self._feeds = session, feeds
        self._distinct = list(dict.fromkeys(fetches))
        self._places = [self._distinct.index(name) for name in fetches]
        self._run = self._compiled(inter_op_thread_pool=0)
        self._decided = False
        self._trials = 0
        self._fastest = float("inf")
        self._slowest = 0.0  # of the runs since it goes without threads, fading
        self._most_bytes = 0  # of feeds that were timed then
        self._threadless = False

    def run(self, arrays: Iterable[np.ndarray], seconds: float | None) -> list[Any]:
        """What is fetched, in order. It runs to its end: all that it could do is calculate."""
        if self._decided and not self._threadless:
            return self._spread(self._run(*arrays))
        arrays = tuple(arrays)
        start = time.perf_counter()
        fetched = self._run(*arrays)
        self._learn(time.perf_counter() - start, arrays)
        return self._spread(fetched)

    def quick(self, arrays: Iterable[np.ndarray]) -> bool:
        return (
            self._threadless
            and 0 < self._slowest < QUICK_SECONDS
            and sum(array.nbytes for array in arrays) <= self._most_bytes
        )

    def _learn(self, seconds: float, arrays: tuple[np.ndarray, ...]) -> None:
        self._trials += 1
        if self._threadless:
            if self._trials > TRIALS:  # the first ones warm up
                self._slowest = max(seconds, 0.99 * self._slowest)
                self._most_bytes = max(self._most_bytes, sum(array.nbytes for array in arrays))
            return
        self._fastest = min(self._fastest, seconds)
        if self._trials == TRIALS:
            self._decided = True
            if self._fastest < SHORT_SECONDS:
                self._run = self._compiled(inter_op_thread_pool=-1)
                self._threadless, self._trials = True, 0

    def _compiled(self, inter_op_thread_pool: int) -> Callable[..., list[Any]]:
        options = config_pb2.CallableOptions(feed=self._feeds, fetch=self._distinct)
        options.run_options.inter_op_thread_pool = inter_op_thread_pool
        return self._session._make_callable_from_options(options)

    def _spread(self, fetched: list[Any]) -> list[Any]:
        """Several outputs may be the same tensor."""
        return fetched if len(self._places) == len(self._distinct) else [fetched[place] for place in self._places]
