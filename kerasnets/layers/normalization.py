"""Layer normalization: Ba et al. 2016.   D width."""

import keras

from kerasnets.layers.kernels.layer_norm import layer_norm
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class LayerNormalization(MaskedLayer):
    """γ ⊙ (x - μ) / √(σ² + ε) + β, with mean μ and variance σ² of each position's D numbers (eq. 3 and 4).

    ε = 1e-6, the value of the Transformer's own code. The weights are those of `keras.layers.LayerNormalization`.

    Call: x [..., D].
    Returns: [..., D].
    """

    def build(self, x_shape):
        self.gamma = self.add_weight((x_shape[-1],), "ones", name="gamma", autocast=False)
        self.beta = self.add_weight((x_shape[-1],), "zeros", name="beta", autocast=False)

    def call(self, x):
        return layer_norm(x, self.gamma, self.beta)

    def compute_output_shape(self, x_shape):
        return x_shape
