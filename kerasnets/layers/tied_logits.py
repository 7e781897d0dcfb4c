"""Logits from the embedding matrix of the tokens: x Eᵀ (Press & Wolf 2017).   V vocabulary, D width."""

from keras import ops

from kerasnets.layers.kernels.affine import transpose_copy


def tied_logits(x, embedding):
    """x [..., D]; embedding: a `keras.layers.Embedding` of E [V, D] -> logits [..., V] in float32."""
    return ops.cast(ops.matmul(x, ops.transpose(ops.cast(embedding.embeddings, x.dtype))), "float32")


def tied_logits_kernel(embedding):
    """-> Eᵀ [D, V] in the compute dtype, copied once for all steps of a search: reading a transpose takes longer."""
    return transpose_copy(ops.cast(embedding.embeddings, embedding.compute_dtype))
