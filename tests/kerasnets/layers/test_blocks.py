"""The Transformer's blocks: parity with stock layers, masks, and parity of steps with one call."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, check_layer, normal, randomize, tensors, value_and_gradients

from kerasnets.layers import DecoderBlock, EncoderBlock
from kerasnets.layers.cache import KeyValueCache
from kerasnets.layers.kernels.attention import causal_mask, mask_bias, window_mask

BLOCK = {
    "num_heads": 4,
    "hidden_units": 12,
    "dropout": 0.1,
    "norm": "pre",
    "activation": "swiglu",
    "num_key_value_heads": 2,
    "rotary": True,
    "attention_dropout": 0.2,
    "feed_forward_dropout": 0.3,
}


def randomized(layer, *shapes):
    """-> the layer with random weights."""
    layer.build(*shapes)
    randomize(layer)
    return layer


def test_encoder_block_passes_layer_checks(tmp_path):
    def inputs(b, t):
        return {"x": normal(b, t, 8), "attention_mask": normal(b, 1, t, seed=1) > -1}

    check_layer(EncoderBlock, BLOCK, inputs, tmp_path)


def test_decoder_block_passes_layer_checks(tmp_path):
    def inputs(b, t):
        return {"x": normal(b, t, 8), "memory": normal(b, t + 1, 6), "cross_mask": normal(b, 1, t + 1) > -1}

    check_layer(DecoderBlock, BLOCK, inputs, tmp_path)


def test_decoder_block_without_memory_passes_layer_checks(tmp_path):
    check_layer(DecoderBlock, BLOCK, lambda b, t: {"x": normal(b, t, 8)}, tmp_path)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_encoder_block_equals_stock_layers(norm):
    block = randomized(EncoderBlock(2, 12, norm=norm), (None, None, 6))
    attention = keras.layers.MultiHeadAttention(2, 3)
    norms = [keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
    hidden, out = keras.layers.Dense(12, activation="relu"), keras.layers.Dense(6)
    x, mask = tf.constant(normal(2, 5, 6)), tf.sequence_mask([5, 3], 5)[:, tf.newaxis]
    parts = [
        (block.attention, attention, [x, x]),
        (block.attention_residual.normalization, norms[0], [x]),
        (block.feed_forward.hidden, hidden, [x]),
        (block.feed_forward.out, out, [tf.zeros((1, 1, 12))]),
        (block.feed_forward_residual.normalization, norms[1], [x]),
    ]
    for ours, theirs, inputs in parts:
        theirs(*inputs)
        theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])

    def plain_block():
        if norm == "pre":
            y = norms[0](x)
            y = x + attention(y, y, attention_mask=mask)
            return y + out(hidden(norms[1](y)))
        y = norms[0](x + attention(x, x, attention_mask=mask))
        return norms[1](y + out(hidden(y)))

    def weights(side):
        return list(itertools.chain.from_iterable(part[side].trainable_variables for part in parts))

    result, gradients = value_and_gradients(lambda: block(x, attention_mask=mask), [x, *weights(0)])
    reference, expected = value_and_gradients(plain_block, [x, *weights(1)])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])


def test_encoder_block_does_not_see_padding():
    block = randomized(EncoderBlock(2, 12), (None, None, 6))
    x = normal(2, 4, 6)
    padded = np.concatenate([x, normal(2, 3, 6, seed=5, scale=9)], axis=1)
    mask = tf.sequence_mask([4, 4], 7)[:, tf.newaxis]
    assert_close(block(padded, attention_mask=mask)[:, :4], block(x), 1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_decoder_block_does_not_see_future_positions(norm):
    block = randomized(DecoderBlock(2, 12, norm=norm), (None, None, 6), (None, None, 8))
    x, memory = normal(2, 6, 6), normal(2, 3, 8)
    before = block(x, memory)
    for t in range(1, 6):
        changed = x.copy()
        changed[:, t:] = normal(2, 6 - t, 6, seed=t, scale=5)
        after = block(changed, memory)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.all(np.abs(after[:, t:] - before[:, t:]).max(axis=-1) > 1e-3)


def test_decoder_block_does_not_see_padding_of_the_memory():
    block = randomized(DecoderBlock(2, 12), (None, None, 6), (None, None, 8))
    x, memory = normal(2, 4, 6), normal(2, 3, 8)
    padded = np.concatenate([memory, normal(2, 2, 8, seed=5, scale=9)], axis=1)
    mask = tf.sequence_mask([3, 3], 5)[:, tf.newaxis]
    assert_close(block(x, padded, cross_mask=mask), block(x, memory), 1e-5)


STEPS = {
    "post": {"norm": "post"},
    "pre": {"norm": "pre"},
    "rotary": {"rotary": True},
    "grouped": {"num_key_value_heads": 1},
}


@pytest.mark.parametrize("options", STEPS)
def test_decoder_block_steps_equal_one_call(options):
    block = randomized(DecoderBlock(2, 12, **STEPS[options]), (None, None, 8), (None, None, 6))
    x, memory = tensors([normal(2, 5, 8), normal(2, 3, 6)])
    mask = tf.sequence_mask([3, 2], 3)[:, tf.newaxis]
    expected = block(x, memory, cross_mask=mask)
    projected, cache = block.project(memory), empty_cache(block, batch=2).extend(7)
    for t in range(5):
        cache, (block_cache,) = cache.begin_step(t)
        y, block_cache = block.step(x[:, t], tf.constant([[t]]), block_cache, projected, mask_bias(mask))
        cache = cache.end_step([block_cache])
        assert_close(y, expected[:, t], 1e-5)
    for cached, expected_row in zip(cache.blocks[0], block.self_attention.project(x), strict=True):
        assert cached.shape == (2, 1 if options == "grouped" else 2, 7, 4)
        assert np.all(cached[:, :, 5:] == 0)  # no step writes past its entry
        if options != "pre":  # which projects the normalized input
            assert_close(cached[:, :, :5], expected_row, 1e-6)


def empty_cache(block, batch):
    return KeyValueCache([block.empty_cache(batch, "float32")], tf.zeros((batch, 1, 0), tf.bool))


@pytest.mark.parametrize("options", STEPS)
def test_decoder_block_reads_in_parts_as_in_one_call(options):
    block = randomized(DecoderBlock(2, 12, **STEPS[options]), (None, None, 8))
    x, earlier = normal(2, 9, 8), None
    for start, stop in [(0, 4), (4, 5), (5, 9)]:
        bias = mask_bias(causal_mask(stop - start, stop)) if start else None
        y, earlier = block.read(tf.constant(x[:, start:stop]), earlier, bias)
        assert_close(y, block(x)[:, start:stop], 1e-5)
        assert {keys.shape[2] for keys in earlier} == {stop}


def test_decoder_block_explains_its_self_attention_without_a_memory():
    block = randomized(DecoderBlock(2, 12, rotary=True), (None, None, 8))
    x, bias = normal(2, 6, 8), mask_bias(window_mask(6, 3))
    y, weights, cross_weights = block.explain(x, self_bias=bias)
    assert_close(y, block.read(x, bias=bias)[0], 1e-5)
    assert cross_weights is None
    np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), 1, atol=1e-5)
    assert np.all((weights.numpy() > 0) == window_mask(6, 3).numpy()[:, np.newaxis])


@pytest.mark.parametrize("options", STEPS)
def test_hypotheses_share_a_cache_and_see_only_their_entries(options):
    """Three sequences with a common first position in one row of a cache give the same as in three rows."""
    block = randomized(DecoderBlock(2, 12, **STEPS[options]), (None, None, 8))
    x = normal(3, 4, 8)
    x[:, 0] = x[0, 0]
    expected = block(x)
    cache = empty_cache(block, batch=1).reorder(tf.zeros((1, 3), tf.int32)).extend(4)
    for t in range(4):
        cache, (block_cache,) = cache.begin_step(3 * t)
        y, block_cache = block.step(tf.constant(x[:, t]), tf.constant([[t]]), block_cache)
        cache = cache.end_step([block_cache])
        assert_close(y, expected[:, t], 1e-5)
        if t == 0:  # all continue the second hypothesis: at first all are equal
            cache = cache.reorder(tf.constant([[1, 1, 1]]))


@pytest.mark.parametrize("rate", ["dropout", "attention_dropout", "feed_forward_dropout"])
@pytest.mark.parametrize("cls", [EncoderBlock, DecoderBlock])
def test_blocks_drop_in_training_only(cls, rate):
    block = cls(2, 12, **{rate: 0.5})
    x = tf.constant(normal(2, 5, 6))
    inputs = [x] if cls is EncoderBlock else [x, x]
    assert_close(block(*inputs), block(*inputs, training=False), 0)
    assert np.abs(block(*inputs, training=True) - block(*inputs, training=True)).max() > 0.1


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EncoderBlock(2, 8, norm="middle").build((None, None, 6)), "norm is 'middle'"),
        (lambda: EncoderBlock(2, 8, activation="tanh").build((None, None, 6)), "activation is 'tanh'"),
        (lambda: EncoderBlock(4, 8, num_key_value_heads=3).build((None, None, 8)), "num_key_value_heads is 3"),
        (lambda: DecoderBlock(4, 8).build((None, None, 6), (None, None, 6)), "num_heads, which is 4"),
        (lambda: DecoderBlock(2, 8, rotary=True).build((None, None, 6)), "width of a head is 3"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_decoder_block_rejects_memory_unlike_at_build():
    x = normal(1, 3, 6)
    with_memory, alone = DecoderBlock(2, 8), DecoderBlock(2, 8)
    with_memory.build(x.shape, x.shape)
    alone.build(x.shape)
    with pytest.raises(ValueError, match="built with a memory and is called with no memory"):
        with_memory(x)
    with pytest.raises(ValueError, match="built with no memory and is called with a memory"):
        alone(x, x)
