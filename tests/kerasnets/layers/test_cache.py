"""The cache of keys and values: entries, visibility, growth, and use in TensorFlow's loops."""

import numpy as np
import tensorflow as tf
from layer_checks import normal

from kerasnets.decoding.loop import write_cache_in_place
from kerasnets.layers.cache import KeyValueCache, slot_indices, take_hypotheses, write_cache
from kerasnets.layers.kernels.attention import MASKED


def empty_cache(batch=2, blocks=2, groups=3, width=4):
    no_entries = tf.zeros((batch, groups, 0, width))
    return KeyValueCache([(no_entries, no_entries)] * blocks, tf.zeros((batch, 1, 0), tf.bool))


def new_entries(hypotheses, seed, batch=2, groups=3, width=4):
    return tf.constant(normal(batch, groups, hypotheses, width, seed=seed))


def step(cache, first, seed, hypotheses=1):
    """-> the cache with new keys and values in both blocks."""
    cache, blocks = cache.begin_step(first)
    for n in range(2):
        keys, values = (new_entries(hypotheses, seed + 2 * n + side) for side in range(2))
        blocks[n] = blocks[n].write(keys, values)
    return cache.end_step(blocks)


def test_blocks_write_to_the_entries_of_the_step():
    cache = step(step(empty_cache().extend(3), 0, seed=10), 1, seed=20)
    for n, block in enumerate(cache.blocks):
        for side, array in enumerate(block):
            expected = tf.concat(
                [new_entries(1, 10 + 2 * n + side), new_entries(1, 20 + 2 * n + side), tf.zeros((2, 3, 1, 4))], axis=2
            )
            np.testing.assert_array_equal(array, expected)


def test_methods_do_not_change_the_cache():
    cache = step(empty_cache().extend(3), 0, seed=10)
    before = [np.array(x) for x in tf.nest.flatten(cache)]
    step(cache, 1, seed=20), cache.extend(2), cache.reorder(tf.zeros((2, 5), tf.int32))
    for x, y in zip(tf.nest.flatten(cache), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_hypotheses_see_only_their_entries():
    cache = empty_cache(batch=1).reorder(tf.zeros((1, 3), tf.int32)).extend(2)
    assert cache.bias().shape == (1, 1, 3, 6) and np.all(cache.bias() == MASKED)
    cache, _ = cache.begin_step(0)
    cache, blocks = cache.reorder(tf.constant([[2, 0, 0]])).begin_step(3)
    visible = np.array([[0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(cache.visible[0], visible)
    np.testing.assert_array_equal(blocks[1].bias[0, 0], np.where(visible, 0, np.float32(MASKED)))


def test_extend_keeps_entries():
    small = step(empty_cache().extend(1), 0, seed=10)
    large = small.extend(4)
    for x, y in zip(tf.nest.flatten(small.blocks), tf.nest.flatten(large.blocks), strict=True):
        np.testing.assert_array_equal(y[:, :, :1], x)
        assert y.shape == (2, 3, 5, 4) and np.all(y[:, :, 1:] == 0)
    np.testing.assert_array_equal(large.visible, [[[True, False, False, False, False]]] * 2)


def test_write_cache_in_place_equals_write_cache():
    cache, slots = normal(2, 3, 5, 4), slot_indices([1, 4], 2, 3, 5)
    expected = cache.copy()
    expected[:, :, [1, 4]] = new_entries(2, 1)
    np.testing.assert_array_equal(write_cache(tf.constant(cache), new_entries(2, 1), slots), expected)
    copy = tf.raw_ops.DeepCopy(x=cache)
    np.testing.assert_array_equal(write_cache_in_place(copy, new_entries(2, 1), slots), expected)
    np.testing.assert_array_equal(copy, expected)


def test_cache_keeps_its_writer_in_loops():
    writes = []

    def writer(cache, new, slots):
        writes.append(slots)
        return write_cache(cache, new, slots)

    @tf.function
    def run():
        cache = empty_cache().extend(4, writer)
        return tf.while_loop(lambda t, _: t < 3, lambda t, cache: (t + 1, step(cache, t, seed=10)), (0, cache))[1]

    cache, expected = run(), empty_cache().extend(4)
    for t in range(3):
        expected = step(expected, t, seed=10)
    for x, y in zip(tf.nest.flatten(cache), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(writes) == 4  # traced once: keys and values of two blocks


def test_take_hypotheses_selects_within_each_row():
    x = normal(2, 3, 4)
    taken = take_hypotheses(tf.constant(x), tf.constant([[2, 2, 0, 1], [0, 1, 1, 1]]))
    np.testing.assert_array_equal(taken, np.stack([x[0, [2, 2, 0, 1]], x[1, [0, 1, 1, 1]]]))
