"""A cache of the keys and values of earlier positions, so that a decoding step computes those of one position only.

B batch, K hypotheses of a row of the batch (one, unless a beam search runs), G key/value heads, H their width,
E entries: the capacity in positions, all hypotheses together
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from kerasnets.layers.kernels.attention import mask_bias


def write_cache(cache, new, slots):
    """-> cache [B, G, E, H], seen as rows [B G E, H], with new [B, G, K, H] in the rows `slots` int [B G K].

    This definition copies the cache; a search may use a function that writes in place.
    """
    rows = ops.reshape(cache, (-1, cache.shape[-1]))
    written = ops.scatter_update(rows, ops.expand_dims(slots, 1), ops.reshape(new, (-1, cache.shape[-1])))
    return ops.reshape(written, ops.shape(cache))


def slot_indices(entries, batch, groups, capacity):
    """entries int [K] of a cache [B, G, E, H], capacity E -> their rows in [B G E, H], int [B G K]."""
    first = capacity * ops.arange(batch * groups, dtype="int32")
    return ops.reshape(ops.expand_dims(first, 1) + ops.expand_dims(entries, 0), (-1,))


def take_hypotheses(x, parents):
    """x [B, K, ...], parents int [B, J], 0 to K - 1 -> [B, J, ...]: the chosen hypotheses of each row."""
    batch, hypotheses = ops.shape(x)[:2]
    rows = parents + ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * hypotheses
    return ops.take(ops.reshape(x, (batch * hypotheses, *ops.shape(x)[2:])), rows, axis=0)


class BlockCache(NamedTuple):
    """The part of a `KeyValueCache` that one block reads and writes in a step.

    keys, values [B, G, E, H]; bias [B, 1, K, E]: attention bias, 0 at the entries that are visible to a hypothesis;
    slots int [B G K]: see `write_cache`; writer: `write_cache` or an equivalent function.
    """

    keys: Any
    values: Any
    bias: Any
    slots: Any
    writer: Callable

    def write(self, keys, values):
        """-> the cache with the keys and values of this step, each [B, G, K, H]."""
        keys = self.writer(self.keys, keys, self.slots)
        return self._replace(keys=keys, values=self.writer(self.values, values, self.slots))


@dataclasses.dataclass(frozen=True)
class KeyValueCache:
    """The keys and values of a stack of decoder blocks, and which of them are visible to each hypothesis.

    All hypotheses of a row share its entries, so a search that reorders hypotheses changes `visible` and moves no keys
    or values. Every method returns a new cache; `tf.nest` treats a cache as a structure of its tensors.

    blocks: keys and values of each block, each [B, G, E, H]; visible bool [B, K, E]; writer: see `write_cache`.
    """

    blocks: list[tuple[Any, Any]]
    visible: Any
    writer: Callable = write_cache

    def extend(self, positions, writer=None):
        """-> a cache with capacity for more `positions` of every hypothesis; a `writer` replaces its writer."""
        batch, hypotheses = ops.shape(self.visible)[:2]
        entries = positions * hypotheses

        def grow(x):
            return ops.concatenate([x, ops.zeros((batch, x.shape[1], entries, x.shape[3]), x.dtype)], axis=2)

        visible = ops.concatenate([self.visible, ops.zeros((batch, hypotheses, entries), "bool")], axis=2)
        return KeyValueCache([tuple(map(grow, block)) for block in self.blocks], visible, writer or self.writer)

    def reorder(self, parents):
        """-> the cache of the hypotheses `parents` int [B, J] of each row."""
        return dataclasses.replace(self, visible=take_hypotheses(self.visible, parents))

    def bias(self):
        """-> the attention bias [B, 1, K, E], with which each hypothesis attends only to its visible entries."""
        return mask_bias(self.visible)

    def begin_step(self, first):
        """Begin a step, in which each hypothesis k writes the entry first + k: make that entry visible to it.

        Returns: the cache, and a `BlockCache` for each block; pass them to `end_step` after the step.
        """
        batch, hypotheses, capacity = ops.shape(self.visible)
        entries = first + ops.arange(hypotheses, dtype="int32")
        new = ops.expand_dims(entries, 1) == ops.expand_dims(ops.arange(capacity, dtype="int32"), 0)  # [K, E]
        cache = dataclasses.replace(self, visible=ops.logical_or(self.visible, new))
        bias, slots = cache.bias(), slot_indices(entries, batch, self.blocks[0][0].shape[1], capacity)
        return cache, [BlockCache(*block, bias, slots, self.writer) for block in self.blocks]

    def end_step(self, blocks):
        """-> the cache after a step, with the keys and values of its `BlockCache`s."""
        return dataclasses.replace(self, blocks=[(block.keys, block.values) for block in blocks])

    def __tf_flatten__(self):
        return (self.writer,), (self.blocks, self.visible)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components, *metadata)
