"""N → 1: a class for a sequence, from the state after its last step."""

import keras
from keras import ops

from kerasnets.checks import check_counts
from kerasnets.layers import LSTM, StackedRNN
from kerasnets.layers.masking import merge_masks, valid_steps
from kerasnets.models.layer_arguments import build_if_needed, deserialize_layer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class PixelRows(keras.layers.Layer):
    """An image as a sequence of its rows, from top to bottom (Le et al. 2015, section 4.2, read single pixels).

    Call: pixels [B, Y, X, C], 0..255.
    Returns: [B, Y, X · C], -1..1.
    """

    def call(self, pixels):
        _, rows, columns, channels = pixels.shape
        if columns is None or channels is None:
            raise ValueError(f"pixels has the shape {tuple(pixels.shape)}; its columns and channels must be known.")
        x = ops.cast(pixels, self.compute_dtype) / 127.5 - 1.0
        return ops.reshape(x, (-1, rows if rows is not None else ops.shape(pixels)[1], columns * channels))

    def compute_output_shape(self, input_shape):
        batch, rows, columns, channels = input_shape
        if columns is None or channels is None:
            raise ValueError(f"pixels has the shape {tuple(input_shape)}; its columns and channels must be known.")
        return batch, rows, columns * channels


@register
class SequenceClassifier(keras.Model):
    """P(class | sequence), from the last output of the top LSTM of a stack.

    Args:
        classes: number of classes.
        embedding: the layer that turns the input into vectors [B, T, D]: `PixelRows` for images,
            `keras.layers.Embedding` for tokens.
        units U of each LSTM; num_layers.
        dropout: share of each LSTM's output that training sets to zero.
    Call: sequence, the input of `embedding`; valid bool [B, T], False = padding; when None, all steps are valid but
        tokens 0. Keras's masks, of `embedding` or as mask or sequence_mask, apply too.
    Returns: logits [B, classes] in float32.
    """

    def __init__(self, classes, embedding, units=128, num_layers=1, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if classes < 2:
            raise ValueError(f"classes is {classes}; it must be 2 or more.")
        check_counts(num_layers=num_layers)
        self.classes, self.embedding, self.units = classes, embedding, units
        self.num_layers, self.dropout = num_layers, dropout
        rnns = [LSTM(units, dtype=self.dtype_policy, name=f"lstm_{n}") for n in range(num_layers)]
        self.rnns = StackedRNN(rnns, dropout, dtype=self.dtype_policy, name="rnns")
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")
        self.out = keras.layers.Dense(classes, dtype="float32", name="out")

    def build(self, input_shape):
        build_if_needed(self.embedding, input_shape)
        self.rnns.build(self.embedding.compute_output_shape(input_shape))
        self.out.build((input_shape[0], self.units))

    def call(self, sequence, valid=None, training=None, mask=None, sequence_mask=None):
        return self.run(sequence, merge_masks(valid, mask, sequence_mask), training)[0]

    def run(self, sequence, valid=None, training=None):
        """As `call` -> logits, and the top LSTM's outputs [B, T, U]."""
        outputs, states = self.rnns(self.embedding(sequence), valid=valid_steps(sequence, valid), training=training)
        h, _ = states[-1]
        return self.out(self.drop(h, training=training)), outputs

    def compute_mask(self, inputs, previous_mask):
        """Return None: the class of a whole sequence has no steps to mask."""

    def compute_output_shape(self, input_shape):
        return input_shape[0], self.classes

    def get_config(self):
        return super().get_config() | {
            "classes": self.classes,
            "embedding": keras.saving.serialize_keras_object(self.embedding),
            "units": self.units,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_layer(config, "embedding"))
