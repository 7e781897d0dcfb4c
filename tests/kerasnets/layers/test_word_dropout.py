"""Word dropout: whole words of a sequence, in training only."""

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, check_layer, normal

from kerasnets.layers import WordDropout


def ids(*shape):
    return np.random.default_rng(0).integers(0, 12, shape).astype(np.int32)


def test_word_dropout_passes_layer_checks(tmp_path):
    check_layer(WordDropout, {"rate": 0.3}, lambda b, t: {"x": normal(b, t, 6), "tokens": ids(b, t)}, tmp_path)


def test_a_word_is_zeroed_wherever_it_occurs_in_its_sequence():
    layer, tokens = WordDropout(0.4), ids(200, 20)
    x = normal(200, 20, 3)
    dropped = np.asarray(layer(x, tokens, training=True))
    zero = (dropped == 0).all(axis=-1)
    assert_close(dropped, x / 0.6 * ~zero[..., np.newaxis])
    words = [{w: set(row[sequence == w]) for w in sequence} for row, sequence in zip(zero, tokens, strict=True)]
    assert all(len(kinds) == 1 for sequence in words for kinds in sequence.values())
    drawn = [next(iter(kinds)) for sequence in words for kinds in sequence.values()]
    assert np.mean(drawn) == pytest.approx(0.4, abs=0.05)
    assert len({sequence[tokens[0, 0]].pop() for sequence in words if tokens[0, 0] in sequence}) == 2


def test_nothing_is_zeroed_outside_training():
    x, tokens = tf.constant(normal(2, 5, 3)), ids(2, 5)
    assert_close(WordDropout(0.9)(x, tokens), x, 0)
    layer = WordDropout(0.0)
    assert_close(layer(x, tokens, training=True), x, 0)
    assert not layer.variables


def test_invalid_rate_raises_value_error():
    with pytest.raises(ValueError, match=r"rate is 1\.0"):
        WordDropout(1.0)
