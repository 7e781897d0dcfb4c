"""Keys and values of all positions that a decoder has read, so that a step computes those of one position alone.

B batch, K hypotheses of a row of the batch (one, unless a beam search runs), G heads of keys and values, H their width,
E entries: the capacity for positions of all hypotheses
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from kerasnets.layers.kernels.attention import mask_bias


def write_cache(cache, new, slots):
    """-> cache [B, G, E, H] with new [B, G, K, H] in its rows `slots` int [B G K], if one counts them through.

    This is the definition, which copies the cache; a search may have a function that writes in place.
    """
    rows = ops.reshape(cache, (-1, cache.shape[-1]))
    written = ops.scatter_update(rows, ops.expand_dims(slots, 1), ops.reshape(new, (-1, cache.shape[-1])))
    return ops.reshape(written, ops.shape(cache))


def slot_indices(entries, batch, groups, capacity):
    """entries int [K] of a cache [B, G, E, H] -> their rows for each row of the batch and head, int [B G K]."""
    first = capacity * ops.arange(batch * groups, dtype="int32")
    return ops.reshape(ops.expand_dims(first, 1) + ops.expand_dims(entries, 0), (-1,))


def take_hypotheses(x, parents):
    """x [B, K, ...], parents int [B, J], from 0 to K - 1 -> [B, J, ...]: the chosen hypotheses of each row."""
    batch, hypotheses = ops.shape(x)[:2]
    rows = parents + ops.expand_dims(ops.arange(batch, dtype="int32"), 1) * hypotheses
    return ops.take(ops.reshape(x, (batch * hypotheses, *ops.shape(x)[2:])), rows, axis=0)


class BlockCache(NamedTuple):
    """The part of a `KeyValueCache` that one block reads and writes in a step.

    keys, values [B, G, E, H]; bias [B, 1, K, E], for the scores: 0 at the entries that a hypothesis sees; slots int
    [B G K]: see `write_cache`, which is `writer` or a function like it.
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
    """The keys and values of a stack of decoder blocks, and which of them each hypothesis sees.

    All hypotheses of a row share its entries. So a search that goes on from other hypotheses changes `visible`, and
    moves no keys or values. Every method returns a new cache; `tf.nest` takes one for a structure of its tensors.

    blocks: keys and values of each block, each [B, G, E, H]; visible bool [B, K, E]; writer: see `write_cache`.
    """

    blocks: list[tuple[Any, Any]]
    visible: Any
    writer: Callable = write_cache

    def extend(self, positions, writer=None):
        """-> a cache with room for so many more positions of all hypotheses, written by `writer` if there is one."""
        batch, hypotheses = ops.shape(self.visible)[:2]
        entries = positions * hypotheses

        def more(x):
            return ops.concatenate([x, ops.zeros((batch, x.shape[1], entries, x.shape[3]), x.dtype)], axis=2)

        visible = ops.concatenate([self.visible, ops.zeros((batch, hypotheses, entries), "bool")], axis=2)
        return KeyValueCache([tuple(map(more, block)) for block in self.blocks], visible, writer or self.writer)

    def reorder(self, parents):
        """-> the cache of the hypotheses `parents` int [B, J] of each row."""
        return dataclasses.replace(self, visible=take_hypotheses(self.visible, parents))

    def bias(self):
        """-> what is added to the scores [B, 1, K, E], so that each hypothesis attends to its own entries alone."""
        return mask_bias(self.visible)

    def open(self, first):
        """A step begins: hypothesis k writes the entry first + k, and sees it from now on.

        Returns: the cache, and for each block its `BlockCache`; `close` takes them back.
        """
        batch, hypotheses, capacity = ops.shape(self.visible)
        entries = first + ops.arange(hypotheses, dtype="int32")
        own = ops.expand_dims(entries, 1) == ops.expand_dims(ops.arange(capacity, dtype="int32"), 0)  # [K, E]
        cache = dataclasses.replace(self, visible=ops.logical_or(self.visible, own))
        bias, slots = cache.bias(), slot_indices(entries, batch, self.blocks[0][0].shape[1], capacity)
        return cache, [BlockCache(*block, bias, slots, self.writer) for block in self.blocks]

    def close(self, blocks):
        """-> the cache after a step, with what its `BlockCache`s hold."""
        return dataclasses.replace(self, blocks=[(block.keys, block.values) for block in blocks])

    def __tf_flatten__(self):
        return (self.writer,), (self.blocks, self.visible)

    @classmethod
    def __tf_unflatten__(cls, metadata, components):
        return cls(*components, *metadata)
