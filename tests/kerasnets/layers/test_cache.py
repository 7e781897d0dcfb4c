"""The cache of keys and values: what is written where, who sees it, and how it passes through TensorFlow's loops."""

import numpy as np
import tensorflow as tf
from layer_checks import normal

from kerasnets.decoding.loop import write_cache_in_place
from kerasnets.layers.cache import KeyValueCache, slot_indices, take_hypotheses, write_cache
from kerasnets.layers.kernels.attention import MASKED


def empty(batch=2, blocks=2, groups=3, width=4):
    nothing = tf.zeros((batch, groups, 0, width))
    return KeyValueCache([(nothing, nothing)] * blocks, tf.zeros((batch, 1, 0), tf.bool))


def new(hypotheses, seed, batch=2, groups=3, width=4):
    return tf.constant(normal(batch, groups, hypotheses, width, seed=seed))


def step(cache, first, seed, hypotheses=1):
    """-> the cache with new keys and values in both blocks."""
    cache, blocks = cache.open(first)
    for n in range(2):
        keys, values = (new(hypotheses, seed + 2 * n + side) for side in range(2))
        blocks[n] = blocks[n].write(keys, values)
    return cache.close(blocks)


def test_each_block_keeps_its_keys_and_values_in_the_entries_of_the_step():
    cache = step(step(empty().extend(3), 0, seed=10), 1, seed=20)
    for n, block in enumerate(cache.blocks):
        for side, array in enumerate(block):
            expected = tf.concat([new(1, 10 + 2 * n + side), new(1, 20 + 2 * n + side), tf.zeros((2, 3, 1, 4))], axis=2)
            np.testing.assert_array_equal(array, expected)


def test_no_method_changes_the_cache_that_it_is_called_on():
    cache = step(empty().extend(3), 0, seed=10)
    before = [np.array(x) for x in tf.nest.flatten(cache)]
    step(cache, 1, seed=20), cache.extend(2), cache.reorder(tf.zeros((2, 5), tf.int32))
    for x, y in zip(tf.nest.flatten(cache), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_each_hypothesis_sees_its_own_entries_alone():
    cache = empty(batch=1).reorder(tf.zeros((1, 3), tf.int32)).extend(2)
    assert cache.bias().shape == (1, 1, 3, 6) and np.all(cache.bias() == MASKED)
    cache, _ = cache.open(0)
    cache, blocks = cache.reorder(tf.constant([[2, 0, 0]])).open(3)
    seen = np.array([[0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 1]], bool)
    np.testing.assert_array_equal(cache.visible[0], seen)
    np.testing.assert_array_equal(blocks[1].bias[0, 0], np.where(seen, 0, np.float32(MASKED)))


def test_what_was_written_stays_where_a_cache_grows():
    small = step(empty().extend(1), 0, seed=10)
    large = small.extend(4)
    for x, y in zip(tf.nest.flatten(small.blocks), tf.nest.flatten(large.blocks), strict=True):
        np.testing.assert_array_equal(y[:, :, :1], x)
        assert y.shape == (2, 3, 5, 4) and np.all(y[:, :, 1:] == 0)
    np.testing.assert_array_equal(large.visible, [[[True, False, False, False, False]]] * 2)


def test_the_search_writes_in_place_what_the_definition_writes():
    cache, slots = normal(2, 3, 5, 4), slot_indices([1, 4], 2, 3, 5)
    expected = cache.copy()
    expected[:, :, [1, 4]] = new(2, 1)
    np.testing.assert_array_equal(write_cache(tf.constant(cache), new(2, 1), slots), expected)
    own = tf.raw_ops.DeepCopy(x=cache)
    np.testing.assert_array_equal(write_cache_in_place(own, new(2, 1), slots), expected)
    np.testing.assert_array_equal(own, expected)


def test_a_cache_passes_through_a_loop_with_its_writer():
    written = []

    def writer(cache, given, slots):
        written.append(slots)
        return write_cache(cache, given, slots)

    @tf.function
    def run():
        cache = empty().extend(4, writer)
        return tf.while_loop(lambda t, _: t < 3, lambda t, cache: (t + 1, step(cache, t, seed=10)), (0, cache))[1]

    cache, expected = run(), empty().extend(4)
    for t in range(3):
        expected = step(expected, t, seed=10)
    for x, y in zip(tf.nest.flatten(cache), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(written) == 4  # traced once: keys and values of two blocks


def test_hypotheses_are_taken_within_their_row():
    x = normal(2, 3, 4)
    taken = take_hypotheses(tf.constant(x), tf.constant([[2, 2, 0, 1], [0, 1, 1, 1]]))
    np.testing.assert_array_equal(taken, np.stack([x[0, [2, 2, 0, 1]], x[1, [0, 1, 1, 1]]]))
