"""N → N: a tag for every step of a sequence, from both sides of it (Graves & Schmidhuber 2005)."""

import keras

from kerasnets.checks import check_counts
from kerasnets.layers import LSTM, Bidirectional, StackedRNN
from kerasnets.layers.masking import merge_masks, valid_steps
from kerasnets.models.layer_arguments import build_if_needed, deserialize_layer

register = keras.saving.register_keras_serializable("kerasnets")


@register
class SequenceTagger(keras.Model):
    """P(tag of step t | the whole sequence), from bidirectional LSTMs.

    Args:
        tags: number of tags.
        embedding: the layer that turns the input into vectors [B, T, D], for example `keras.layers.Embedding`.
        units U of each LSTM, in each direction; num_layers.
        dropout: share of each layer's output that training sets to zero.
    Call: sequence, the input of `embedding`; valid bool [B, T], False = padding; when None, all steps are valid but
        tokens 0. Keras's masks, of `embedding` or as mask or sequence_mask, apply too.
    Returns: logits [B, T, tags] in float32.
    """

    def __init__(self, tags, embedding, units=128, num_layers=1, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        check_counts(tags=tags, num_layers=num_layers)
        self.tags, self.embedding, self.units = tags, embedding, units
        self.num_layers, self.dropout = num_layers, dropout
        rnns = [
            Bidirectional(LSTM(units, dtype=self.dtype_policy), dtype=self.dtype_policy, name=f"lstm_{n}")
            for n in range(num_layers)
        ]
        self.rnns = StackedRNN(rnns, dropout, dtype=self.dtype_policy, name="rnns")
        self.out = keras.layers.Dense(tags, dtype="float32", name="out")

    def build(self, input_shape):
        build_if_needed(self.embedding, input_shape)
        shape = self.embedding.compute_output_shape(input_shape)
        self.rnns.build(shape)
        self.out.build(self.rnns.compute_output_shape(shape)[0])

    def call(self, sequence, valid=None, training=None, mask=None, sequence_mask=None):
        valid = merge_masks(valid, mask, sequence_mask)
        x, _ = self.rnns(self.embedding(sequence), valid=valid_steps(sequence, valid), training=training)
        return self.out(x)

    def compute_mask(self, inputs, previous_mask):
        return previous_mask

    def compute_output_shape(self, input_shape):
        return (*self.embedding.compute_output_shape(input_shape)[:2], self.tags)

    def get_config(self):
        return super().get_config() | {
            "tags": self.tags,
            "embedding": keras.saving.serialize_keras_object(self.embedding),
            "units": self.units,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_layer(config, "embedding"))
