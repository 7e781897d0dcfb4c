"""Layers: what each promises, parity with stock Keras layers of the same weights, and their properties."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import assert_close, check_layer, normal, randomize, tensors, value_and_gradients

from kerasnets.layers import (
    DecoderBlock,
    EncoderBlock,
    FeedForward,
    MultiHeadAttention,
    PositionalEncoding,
    Residual,
)
from kerasnets.layers.attention import causal_mask
from kerasnets.layers.transformer import layer_normalization

BLOCK = {"num_heads": 2, "hidden_units": 12, "dropout": 0.1, "norm": "pre"}


def built(layer, *shapes):
    """-> the layer with random weights."""
    layer.build(*shapes)
    randomize(layer)
    return layer


# What every layer promises.


def test_positional_encoding_keeps_its_promises(tmp_path):
    check_layer(PositionalEncoding, {}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path, start=3)


def test_attention_keeps_its_promises(tmp_path):
    def inputs(b, t):
        mask = normal(b, t, t + 1, seed=2) > 0
        return {"query": normal(b, t, 6), "memory": normal(b, t + 1, 8, seed=1), "attention_mask": mask}

    check_layer(MultiHeadAttention, {"num_heads": 3, "dropout": 0.1}, inputs, tmp_path)


def test_self_attention_keeps_its_promises(tmp_path):
    def inputs(b, t):
        return {"query": normal(b, t, 6), "attention_mask": normal(1, t, t, seed=2) > 0}

    check_layer(MultiHeadAttention, {"num_heads": 3, "dropout": 0.1}, inputs, tmp_path)


def test_feed_forward_keeps_its_promises(tmp_path):
    check_layer(FeedForward, {"hidden_units": 12}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path)


def test_residual_keeps_its_promises(tmp_path):
    arguments = {"norm": "pre", "dropout": 0.1}
    check_layer(Residual, arguments, lambda b, t: {"x": normal(b, t, 6)}, tmp_path, sublayer=keras.activations.tanh)


def test_encoder_block_keeps_its_promises(tmp_path):
    def inputs(b, t):
        return {"x": normal(b, t, 6), "attention_mask": normal(b, 1, t, seed=1) > -1}

    check_layer(EncoderBlock, BLOCK, inputs, tmp_path)


def test_decoder_block_keeps_its_promises(tmp_path):
    def inputs(b, t):
        return {"x": normal(b, t, 6), "memory": normal(b, t + 1, 8), "cross_mask": normal(b, 1, t + 1) > -1}

    check_layer(DecoderBlock, BLOCK, inputs, tmp_path)


# Positions.


def formula(positions, width):
    """Vaswani et al. 2017, section 3.5, number by number in double precision."""
    table = np.zeros((len(positions), width))
    for row, p in enumerate(positions):
        for i in range(width // 2):
            angle = p / 10000 ** (2 * i / width)
            table[row, 2 * i], table[row, 2 * i + 1] = np.sin(angle), np.cos(angle)
    return table


def test_positional_encoding_is_the_papers_formula():
    x = normal(2, 50, 16)
    np.testing.assert_allclose(PositionalEncoding()(x) - x, [formula(range(50), 16)] * 2, atol=1e-5)


@pytest.mark.parametrize("start", [7, 3000, 20000])
def test_positional_encoding_starts_anywhere(start):
    layer, x = PositionalEncoding(), np.zeros((1, 9, 16), np.float32)
    expected = formula(range(start, start + 9), 16)
    # A float32 angle of 20,000 is itself only known to a thousandth.
    np.testing.assert_allclose(layer(x, start=start)[0], expected, atol=1e-5 + 2e-7 * start)
    np.testing.assert_array_equal(layer(x, start=tf.constant(start)), layer(x, start=start))


def test_positional_encoding_of_a_later_position_is_a_rotation():
    width, k = 8, 13
    encoded = np.asarray(PositionalEncoding.encoding(ops.arange(60, dtype="float32"), width), np.float64)
    for i in range(width // 2):
        angle = k / 10000 ** (2 * i / width)
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        pair = encoded[:, 2 * i : 2 * i + 2]
        np.testing.assert_allclose(pair[k:], pair[:-k] @ rotation.T, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_positions_are_exact_in_half_precision(policy):
    layer = PositionalEncoding(dtype=policy)
    encoded = np.asarray(layer(np.zeros((1, 3000, 8), np.float32)), np.float32)[0]
    np.testing.assert_allclose(encoded, formula(range(3000), 8), atol=5e-3)  # half of the last place of bfloat16
    assert not np.array_equal(encoded[2049], encoded[2050])


# Attention.


def attention_pair(num_heads=2, width=6, memory_width=6):
    ours = built(MultiHeadAttention(num_heads), (None, None, width), (None, None, memory_width))
    theirs = keras.layers.MultiHeadAttention(num_heads, width // num_heads, output_shape=width)
    theirs.build((None, None, width), (None, None, memory_width))
    theirs.set_weights([w.reshape(v.shape) for w, v in zip(ours.get_weights(), theirs.weights, strict=True)])
    return ours, theirs


MASKS = {
    "none": lambda b, t, s: None,
    "padding": lambda b, t, s: tf.sequence_mask(tf.range(b) + 2, s)[:, tf.newaxis],
    "causal": lambda b, t, s: tf.linalg.band_part(tf.ones((1, t, s), tf.bool), -1, 0),
    "any": lambda b, t, s: tf.constant(normal(b, t, s) > 0) | tf.eye(t, s, dtype=tf.bool),
}


@pytest.mark.parametrize("memory_width", [None, 6, 10], ids=["self", "cross", "cross of another width"])
@pytest.mark.parametrize("kind", MASKS)
def test_attention_equals_the_stock_layer(kind, memory_width):
    ours, theirs = attention_pair(memory_width=memory_width or 6)
    query, memory = tensors([normal(3, 5, 6), normal(3, 7, memory_width or 6, seed=1)])
    sources = [query, memory] if memory_width else [query]
    mask = MASKS[kind](3, 5, 7 if memory_width else 5)

    def stock():
        return theirs(query, memory if memory_width else query, attention_mask=mask)

    result, gradients = value_and_gradients(
        lambda: ours(*sources, attention_mask=mask), [*sources, *ours.trainable_variables]
    )
    reference, expected = value_and_gradients(stock, [*sources, *theirs.trainable_variables])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])


def test_attention_weights_are_shares_of_what_may_be_seen():
    attention, _ = attention_pair()
    x = tf.constant(normal(2, 4, 6))
    _, weights = attention.attend(x, *attention.project(x), causal_mask(4))
    assert weights.shape == (2, 2, 4, 4)
    np.testing.assert_allclose(ops.sum(weights, axis=-1), 1, atol=1e-6)
    assert np.all(np.asarray(weights)[..., ~np.tri(4, dtype=bool)] == 0)


def test_attention_with_nothing_to_see_is_finite():
    attention, _ = attention_pair()
    x = tf.constant(normal(2, 4, 6))
    outputs, gradients = value_and_gradients(lambda: attention(x, attention_mask=tf.zeros((2, 1, 4), tf.bool)), [x])
    assert np.isfinite(outputs).all()
    assert np.isfinite(gradients[0]).all()


def test_attention_knows_no_order():
    attention, _ = attention_pair()
    x, order = tf.constant(normal(2, 5, 6)), [3, 0, 4, 1, 2]
    assert_close(attention(tf.gather(x, order, axis=1)), tf.gather(attention(x), order, axis=1), 1e-6)


def test_attention_survives_large_scores_in_half_precision():
    attention = built(MultiHeadAttention(1, dtype="mixed_float16"), (None, None, 4))
    x = tf.constant(normal(1, 3, 4, scale=100.0))
    assert np.isfinite(attention(x)).all()


# Transformer blocks.


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_normalizes_where_it_says(norm):
    residual = built(Residual(norm), (None, None, 6))
    stock = keras.layers.LayerNormalization(epsilon=1e-6)
    x = tf.constant(normal(2, 4, 6))
    stock.build(x.shape)
    stock.set_weights(residual.normalization.get_weights())

    def written_out():
        return x + tf.sin(stock(x)) if norm == "pre" else stock(x + tf.sin(x))

    ours, gradients = value_and_gradients(lambda: residual(x, sublayer=tf.sin), [x, *residual.trainable_variables])
    theirs, expected = value_and_gradients(written_out, [x, *stock.trainable_variables])
    assert_close(ours, theirs)
    assert_close(gradients, expected)


def test_layer_normalization_is_its_formula():
    norm = built(layer_normalization("float32", "norm"), (None, None, 6))
    x = normal(2, 4, 6)
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    assert_close(norm(x), scaled * np.asarray(norm.gamma) + np.asarray(norm.beta))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_drops_what_the_sublayer_adds_in_training_only(norm):
    residual = Residual(norm, dropout=0.5)
    x = tf.constant(normal(2, 40, 6))
    residual.build(x.shape)
    nothing_added = residual(x, sublayer=tf.zeros_like, training=False)
    with_all = residual(x, sublayer=tf.ones_like, training=False)
    assert_close(residual(x, sublayer=tf.ones_like, training=False), with_all, 0)
    dropped = residual(x, sublayer=tf.ones_like, training=True)
    if norm == "pre":
        assert_close(nothing_added, x, 0)
        added = np.asarray(dropped - x).round(4)
        assert set(np.unique(added)) == {0.0, 2.0}
        assert 0.3 < (added == 0).mean() < 0.7
    else:
        assert np.abs(dropped - with_all).max() > 0.1


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_encoder_block_equals_stock_layers(norm):
    block = built(EncoderBlock(2, 12, norm=norm), (None, None, 6))
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

    def written_out():
        if norm == "pre":
            y = norms[0](x)
            y = x + attention(y, y, attention_mask=mask)
            return y + out(hidden(norms[1](y)))
        y = norms[0](x + attention(x, x, attention_mask=mask))
        return norms[1](y + out(hidden(y)))

    def weights(side):
        return list(itertools.chain.from_iterable(part[side].trainable_variables for part in parts))

    result, gradients = value_and_gradients(lambda: block(x, attention_mask=mask), [x, *weights(0)])
    reference, expected = value_and_gradients(written_out, [x, *weights(1)])
    assert_close(result, reference)
    assert_close(gradients, [tf.reshape(e, g.shape) for g, e in zip(gradients, expected, strict=True)])


def test_encoder_block_does_not_see_padding():
    block = built(EncoderBlock(2, 12), (None, None, 6))
    x = normal(2, 4, 6)
    padded = np.concatenate([x, normal(2, 3, 6, seed=5, scale=9)], axis=1)
    mask = tf.sequence_mask([4, 4], 7)[:, tf.newaxis]
    assert_close(block(padded, attention_mask=mask)[:, :4], block(x), 1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_decoder_block_does_not_see_the_future(norm):
    block = built(DecoderBlock(2, 12, norm=norm), (None, None, 6), (None, None, 8))
    x, memory = normal(2, 6, 6), normal(2, 3, 8)
    before = block(x, memory)
    for t in range(1, 6):
        changed = x.copy()
        changed[:, t:] = normal(2, 6 - t, 6, seed=t, scale=5)
        after = block(changed, memory)
        np.testing.assert_array_equal(after[:, :t], before[:, :t])
        assert np.all(np.abs(after[:, t:] - before[:, t:]).max(axis=-1) > 1e-3)


def test_decoder_block_does_not_see_padding_of_the_memory():
    block = built(DecoderBlock(2, 12), (None, None, 6), (None, None, 8))
    x, memory = normal(2, 4, 6), normal(2, 3, 8)
    padded = np.concatenate([memory, normal(2, 2, 8, seed=5, scale=9)], axis=1)
    mask = tf.sequence_mask([3, 3], 5)[:, tf.newaxis]
    assert_close(block(x, padded, cross_mask=mask), block(x, memory), 1e-5)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_decoder_block_step_by_step_equals_all_at_once(norm):
    block = built(DecoderBlock(2, 12, norm=norm), (None, None, 6), (None, None, 8))
    x, memory = tensors([normal(2, 5, 6), normal(2, 3, 8)])
    mask = tf.sequence_mask([3, 2], 3)[:, tf.newaxis]
    expected = block(x, memory, cross_mask=mask)
    projected, cache = block.project(memory), block.start(2, 7, "float32")
    for t in range(5):
        y, cache = block.step(x[:, t : t + 1], tf.constant(t), cache, projected, mask)
        assert_close(y[:, 0], expected[:, t], 1e-5)
    for filled, row in zip(cache, block.self_attention.project(x), strict=True):
        assert filled.shape == (2, 2, 7, 3)
        assert np.all(filled[:, :, 5:] == 0)  # nothing is written past the step
        if norm == "post":  # pre-norm projects the normalized input
            assert_close(filled[:, :, :5], row, 1e-6)


@pytest.mark.parametrize("cls", [EncoderBlock, DecoderBlock])
def test_blocks_drop_in_training_only(cls):
    block = cls(2, 12, dropout=0.5)
    x = tf.constant(normal(2, 5, 6))
    inputs = [x] if cls is EncoderBlock else [x, x]
    assert_close(block(*inputs), block(*inputs, training=False), 0)
    assert np.abs(block(*inputs, training=True) - block(*inputs, training=True)).max() > 0.1


# Wrong arguments.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PositionalEncoding().build((None, None, 5)), "width is 5"),
        (lambda: MultiHeadAttention(0), "num_heads is 0"),
        (
            lambda: MultiHeadAttention(4).build((None, None, 6)),
            "width 6 must be a multiple of num_heads, which is 4",
        ),
        (lambda: FeedForward(0), "hidden_units is 0"),
        (lambda: Residual("middle"), "norm is 'middle'"),
        (lambda: EncoderBlock(2, 8, norm="middle").build((None, None, 6)), "norm is 'middle'"),
        (lambda: DecoderBlock(4, 8).build((None, None, 6), (None, None, 6)), "num_heads, which is 4"),
    ],
)
def test_wrong_arguments_are_named_with_their_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
