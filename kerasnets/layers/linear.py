"""The linear layer of attention and feed-forward.   D width, U units."""

import keras

from kerasnets.checks import check_counts
from kerasnets.layers.kernels.affine import affine
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class Linear(MaskedLayer):
    """x W + b, the same at every position; weights and their initial values are those of `keras.layers.Dense`.

    Args: units U.
    Call: x [..., D].
    Returns: [..., U].
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        check_counts(units=units)
        self.units = units

    def build(self, x_shape):
        self.kernel = self.add_weight((x_shape[-1], self.units), "glorot_uniform", name="kernel")
        self.bias = self.add_weight((self.units,), "zeros", name="bias")

    def call(self, x):
        return affine(x, self.kernel, self.bias)

    def compute_output_shape(self, x_shape):
        return (*x_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}
