"""The position-wise feed-forward network: Vaswani et al. 2017, section 3.3.   B batch, T positions, D width."""

import keras
from keras import ops

from kerasnets.checks import check_counts, check_fractions
from kerasnets.layers.linear import Linear
from kerasnets.layers.masking import MaskedLayer

register = keras.saving.register_keras_serializable("kerasnets")

ACTIVATIONS = ("relu", "gelu", "swiglu")


@register
class FeedForward(MaskedLayer):
    """Two linear layers with an activation between them, the same at every position (section 3.3).

        relu:    max(0, x W₁ + b₁) W₂ + b₂                            eq. 2
        gelu:    h Φ(h) W₂ + b₂  with  h = x W₁ + b₁                  Hendrycks & Gimpel 2016; Φ: normal distribution
        swiglu:  (h σ(h) ⊙ (x V + c)) W₂ + b₂  with  h = x W₁ + b₁    Shazeer 2020, eq. 6, who leaves out b and c

    Args: hidden_units, the width between the two (swiglu has three matrices: two thirds of the width give it the same
        number of weights); activation, "relu", "gelu" or "swiglu"; dropout, on the hidden layer after the activation
        (tensor2tensor's `relu_dropout`, the implementation of Vaswani et al. 2017).
    Call: x [B, T, D].
    Returns: [B, T, D].
    """

    def __init__(self, hidden_units, activation="relu", dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_counts(hidden_units=hidden_units)
        check_fractions(dropout=dropout)
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; it must be one of {', '.join(ACTIVATIONS)}.")
        self.hidden_units, self.activation, self.dropout = hidden_units, activation, dropout

    def build(self, x_shape):
        self.hidden = self.build_linear("hidden", self.hidden_units, x_shape)
        if self.activation == "swiglu":
            self.gate = self.build_linear("gate", self.hidden_units, x_shape)
        self.out = self.build_linear("out", x_shape[-1], (*x_shape[:-1], self.hidden_units))
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop")

    def build_linear(self, name, units, x_shape):
        linear = Linear(units, dtype=self.dtype_policy, name=name)
        linear.build(x_shape)
        return linear

    def call(self, x, training=None):
        return self.out(self.drop(self.activate(self.hidden(x), x), training=training))

    def activate(self, hidden, x):
        """-> the hidden layer after the activation."""
        if self.activation == "relu":
            return ops.relu(hidden)
        if self.activation == "gelu":
            return ops.gelu(hidden, approximate=False)
        return ops.silu(hidden) * self.gate(x)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return super().get_config() | {
            "hidden_units": self.hidden_units,
            "activation": self.activation,
            "dropout": self.dropout,
        }
