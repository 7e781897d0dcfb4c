"""One matrix for both ends of a language model.   V vocabulary, D width."""

import keras
from keras import ops

from kerasnets.layers.kernels.affine import laid_out_transpose

register = keras.saving.register_keras_serializable("kerasnets")


@register
class TiedEmbedding(keras.layers.Embedding):
    """An embedding E [V, D] that also turns the network's output into logits: x Eᵀ (Press & Wolf 2017).

    Weights and arguments are those of `keras.layers.Embedding`.
    """

    def logits(self, x):
        """x [..., D] -> [..., V] in float32: how well it fits each token's embedding."""
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(self.embeddings, x.dtype))), "float32")

    def logits_kernel(self):
        """-> Eᵀ [D, V] in the compute dtype, laid out once for every step of a search: reading a transpose takes
        longer."""
        return laid_out_transpose(ops.cast(self.embeddings, self.compute_dtype))
