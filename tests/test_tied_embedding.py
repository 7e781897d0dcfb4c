"""The embedding that gives logits too."""

import numpy as np
import tensorflow as tf
from layer_checks import normal, randomize

from kerasnets.layers import TiedEmbedding


def test_it_embeds_as_the_stock_layer_and_gives_logits_by_the_same_matrix():
    embedding = TiedEmbedding(7, 4)
    embedding.build((None, None))
    randomize(embedding)
    matrix, x = np.asarray(embedding.embeddings), tf.constant(normal(2, 3, 4))
    np.testing.assert_array_equal(embedding(np.array([[1, 6]])), matrix[[[1, 6]]])
    np.testing.assert_allclose(embedding.logits(x), x @ matrix.T, atol=1e-6)
    np.testing.assert_array_equal(embedding.logits_kernel(), matrix.T)


def test_logits_are_in_single_precision_whatever_the_policy():
    embedding = TiedEmbedding(7, 4, dtype="mixed_float16")
    embedding.build((None, None))
    assert embedding.logits(tf.cast(normal(2, 4), tf.float16)).dtype == tf.float32
    assert embedding.logits_kernel().dtype == tf.float16
