"""The decoding loop of a search: rows that have ended leave the batch, and caches are written in place.

B rows of a batch, A of them still active, K hypotheses of a row, V vocabulary
"""

from collections.abc import Callable
from typing import Any, Protocol

import tensorflow as tf

INITIAL_CAPACITY = 16  # positions of a new cache; a full cache doubles


class Decoder(Protocol):
    """The search interface of a model. `memory` is a pair: tensors shared by all rows; tensors of the rows [B, ...]."""

    def start(self, inputs: Any, length: int) -> tuple[Any, Any]:
        """-> memory, constant while decoding; cache, which steps update, with capacity for `length` positions."""

    def step(self, token: tf.Tensor, index: tf.Tensor, memory: Any, cache: Any) -> tuple[tf.Tensor, Any]:
        """token int [B] or [B, K] at position `index` -> logits [*, V] for the next one, cache."""

    def extend(self, cache: Any, positions: tf.Tensor, writer: Callable | None = None) -> Any:
        """-> the cache with capacity for more `positions`; `step` writes into it by `writer` unless it is None."""

    def reorder(self, cache: Any, parents: tf.Tensor) -> Any:
        """parents int [B, K] -> the cache of these hypotheses of each row."""


def decode(
    model: Decoder, memory: Any, cache: Any, state: dict[str, tf.Tensor], advance: Callable, results: tuple[str, ...]
) -> tuple[tf.Tensor, ...]:
    """Run `advance(state, index, step, cache) -> state, cache` until every row has ended.

    When a quarter of the active rows has ended, they are removed, and the others continue as a smaller batch. Keys and
    values are moved only then, and when the cache is full.

    Args:
        memory, cache: from `model.start`, for a length of 0.
        state: tensors [B, ...], the search's state of each row; "ended" bool [B] is one of them.
        advance: its `step(token, index, cache) -> logits, cache` is that of the model.
        results: names of the tensors of `state` to return.
    Returns: the results of all rows, in their order.
    """
    shared_memory, row_memory = memory

    def run_until_rows_end(rows, index, capacity, row_memory, cache, state, collected):
        added = tf.where(index < capacity, 0, tf.maximum(index, INITIAL_CAPACITY))
        capacity, batch = capacity + added, tf.size(rows)
        cache = tf.nest.map_structure(copy, model.extend(cache, added, write_cache_in_place))

        def step(token, index, cache):
            return model.step(token, index, (shared_memory, row_memory), cache)

        def should_continue(index, cache, state):
            return (index < capacity) & (4 * tf.reduce_sum(tf.cast(state["ended"], tf.int32)) < batch)

        def advance_all(index, cache, state):
            state, cache = advance(state, index, step, cache)
            return index + 1, cache, state

        index, cache, state = loop(should_continue, advance_all, (index, cache, state))
        indices = rows[:, tf.newaxis]
        collected = {name: tf.tensor_scatter_nd_update(collected[name], indices, state[name]) for name in results}
        active = tf.where(~state["ended"])[:, 0]
        rows, row_memory, cache, state = tf.nest.map_structure(
            lambda x: tf.gather(x, active), (rows, row_memory, cache, state)
        )
        return rows, index, capacity, row_memory, cache, state, collected

    rows, collected = tf.range(tf.size(state["ended"])), {name: tf.zeros_like(state[name]) for name in results}
    variables = (rows, tf.constant(0), tf.constant(0), row_memory, cache, state, collected)
    extended = model.extend(
        cache, tf.raw_ops.PlaceholderWithDefault(input=INITIAL_CAPACITY, shape=[])
    )  # a size that the graph does not know
    shapes = (*variables[:3], row_memory, extended, state, collected)
    collected = loop(lambda rows, *_: tf.size(rows) > 0, run_until_rows_end, variables, shapes)[-1]
    return tuple(collected[name] for name in results)


def loop(condition: Callable, body: Callable, variables: Any, like: Any = None) -> Any:
    """Run tf.while_loop; tensors may change size in the first axis, and in the axes of unknown size in `like`."""
    shapes = tf.nest.map_structure(
        lambda x: tf.TensorShape([None, *x.shape[1:]] if x.shape.rank else []), variables if like is None else like
    )

    def body_with_shapes(*variables):
        after = body(*variables)
        if not tf.executing_eagerly():
            for tensor, shape in zip(tf.nest.flatten(after), tf.nest.flatten(shapes), strict=True):
                tensor.set_shape(shape)  # lost by broadcasting with sizes that the graph does not know
        return after

    return tf.while_loop(condition, body_with_shapes, variables, shape_invariants=shapes, parallel_iterations=1)


def copy(x: tf.Tensor) -> tf.Tensor:
    """-> a copy that may be written in place: no other operation reads it, and it is not a constant of the graph."""
    return tf.raw_ops.DeepCopy(x=x)


def write_cache_in_place(cache: tf.Tensor, new: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """cache [B, G, E, H], new [B, G, K, H], slots int [B G K] -> the same memory, with `new` in its rows `slots`.

    No operation reads the old cache: this step's computations need the rows written here, and the next step needs
    this one.
    """
    rows, new = (tf.reshape(x, [-1, cache.shape[-1]]) for x in (cache, new))
    written = tf.reshape(tf.raw_ops.InplaceUpdate(x=rows, i=slots, v=new), tf.shape(cache))
    written.set_shape(cache.shape)
    return written
