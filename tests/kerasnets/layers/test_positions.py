"""Positions: sinusoidal, learned and rotary."""

import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import assert_close, check_layer, normal

from kerasnets.layers import LearnedPositions, PositionalEncoding
from kerasnets.layers.positions import rotate


def test_positional_encoding_passes_layer_checks(tmp_path):
    check_layer(PositionalEncoding, {}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path, start=3)


def test_learned_positions_pass_layer_checks(tmp_path):
    check_layer(LearnedPositions, {"length": 12}, lambda b, t: {"x": normal(b, t, 6)}, tmp_path, start=3)


# Sinusoidal.


def formula(positions, width):
    """-> the encoding of Vaswani et al. 2017, section 3.5, in double precision."""
    table = np.zeros((len(positions), width))
    for row, p in enumerate(positions):
        for i in range(width // 2):
            angle = p / 10000 ** (2 * i / width)
            table[row, 2 * i], table[row, 2 * i + 1] = np.sin(angle), np.cos(angle)
    return table


def test_positional_encoding_equals_the_equation():
    x = normal(2, 50, 16)
    np.testing.assert_allclose(PositionalEncoding()(x) - x, [formula(range(50), 16)] * 2, atol=1e-5)


@pytest.mark.parametrize("start", [7, 3000, 20000])
def test_positional_encoding_starts_anywhere(start):
    layer, x = PositionalEncoding(), np.zeros((1, 9, 16), np.float32)
    expected = formula(range(start, start + 9), 16)
    # A float32 angle of 20,000 has an error of a thousandth itself.
    np.testing.assert_allclose(layer(x, start=start)[0], expected, atol=1e-5 + 2e-7 * start)
    np.testing.assert_array_equal(layer(x, start=tf.constant(start)), layer(x, start=start))
    rows = layer(np.zeros((2, 9, 16), np.float32), start=tf.constant([start, 0]))
    np.testing.assert_array_equal(rows, [layer(x, start=start)[0], layer(x)[0]])


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


# Learned.


def learned_positions(length=6, width=4, **options):
    layer = LearnedPositions(length, **options)
    layer.build((None, None, width))
    return layer


def test_learned_positions_are_rows_of_the_table():
    layer, x = learned_positions(), normal(2, 3, 4)
    assert_close(layer(x, start=2), x + np.asarray(layer.table)[2:5], 1e-6)
    rows = layer(x, start=tf.constant([0, 3]))
    assert_close(rows[1], x[1] + np.asarray(layer.table)[3:6], 1e-6)


def test_sequence_past_the_table_raises_value_error():
    layer = learned_positions()
    assert np.isfinite(layer(normal(2, 6, 4))).all()
    for length, start in [(7, 0), (3, 4)]:
        with pytest.raises(ValueError, match="ends at position 7; the table of learned positions has 6"):
            layer(normal(2, length, 4), start=start)


def test_sequence_of_unknown_length_past_the_table_is_nan():
    layer = learned_positions()

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4)), tf.TensorSpec((), tf.int32)])
    def graph(x, start):
        return layer(x, start=start)

    finite = np.isfinite(graph(normal(1, 4, 4), 4))
    np.testing.assert_array_equal(finite.all(axis=-1)[0], [True, True, False, False])
    assert not finite[0, 2:].any()


# Rotary.


def test_rotation_equals_the_equation():
    """Su et al. 2021, eq. 34, as a product of complex numbers in double precision."""
    x = normal(2, 3, 5, 8)
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = np.arange(7, 12)[:, None] * 10000 ** (-np.arange(0, 8, 2) / 8)
    rotated = pairs * np.exp(1j * angles)
    assert_close(rotate(x, start=7), np.concatenate([rotated.real, rotated.imag], axis=-1), 1e-5)


def test_rotated_products_depend_only_on_the_distance():
    query, key = normal(1, 1, 1, 8), normal(1, 1, 1, 8, seed=1)

    def score(at, other):
        return float(ops.sum(rotate(query, start=at) * rotate(key, start=other)))

    assert abs(score(3, 1) - score(103, 101)) < 1e-4
    assert abs(score(3, 1) - score(3, 2)) > 1e-2
    assert abs(score(0, 0) - float((query * key).sum())) < 1e-5


def test_rotation_starts_anywhere_and_per_row():
    x = normal(2, 3, 5, 8)
    whole = rotate(x)
    assert_close(rotate(x[:, :, 2:], start=2), whole[:, :, 2:], 1e-6)
    assert_close(rotate(x[:, :, 2:3], start=tf.constant([2, 2])), whole[:, :, 2:3], 1e-6)
    per_row = rotate(x, start=tf.constant([4, 0]))
    assert_close([per_row[0], per_row[1]], [rotate(x, start=4)[0], whole[1]], 1e-6)


def test_rotation_preserves_norms_and_dtype():
    x = normal(1, 2, 3000, 8)
    assert_close(ops.norm(rotate(x), axis=-1), ops.norm(x, axis=-1), 1e-5)
    half = rotate(ops.cast(x, "bfloat16"))
    assert half.dtype == tf.bfloat16
    assert np.abs(ops.cast(half, "float32") - rotate(x)).max() < 0.1


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PositionalEncoding().build((None, None, 5)), "width is 5"),
        (lambda: LearnedPositions(0), "length is 0"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
