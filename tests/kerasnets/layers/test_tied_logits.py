"""Logits from the matrix of an embedding."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import normal

from kerasnets.layers.tied_logits import tied_logits, tied_logits_kernel


@pytest.mark.parametrize(("policy", "dtype"), [("float32", "float32"), ("mixed_float16", "float16")])
def test_tied_logits_are_float32_products_with_the_embeddings(policy, dtype):
    embedding = keras.layers.Embedding(7, 4, dtype=policy)
    embedding.build((None, None))
    matrix, x = np.asarray(embedding.embeddings), tf.cast(normal(2, 3, 4), dtype)
    logits, kernel = tied_logits(x, embedding), tied_logits_kernel(embedding)
    assert logits.dtype == tf.float32 and kernel.dtype == dtype
    np.testing.assert_allclose(logits, np.asarray(x, np.float32) @ matrix.T, atol=1e-6 if dtype == "float32" else 2e-3)
    np.testing.assert_allclose(kernel, matrix.T, atol=1e-6 if dtype == "float32" else 1e-3)
