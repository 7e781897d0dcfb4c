"""The networks of text generation as functions of arrays (`kerasnets.tasks.arrays`)."""

import keras
import tensorflow as tf

from kerasnets.tasks.arrays import ArrayNetwork, tokens


def text_to_logits(model: keras.Model) -> ArrayNetwork:
    """tokens [B, T] of a `DecoderTransformer`, without earlier text -> logits [B, T, V]"""

    def call(tokens):
        return {"logits": model(tokens)}

    return ArrayNetwork(model, call, [tokens("tokens")], False, model.vocabulary_size)


def text_and_states_to_logits(model: keras.Model) -> ArrayNetwork:
    """tokens [B, T], h_N and c_N [B, U] of layer N of a `CharLSTM` -> logits [B, T, V], next_h_N, next_c_N"""

    def call(tokens, *states):
        logits, states = model.run(tokens, list(zip(states[::2], states[1::2], strict=True)))
        return {"logits": logits} | {
            f"next_{name}_{n}": state for n, pair in enumerate(states) for name, state in zip("hc", pair, strict=True)
        }

    names = [f"{name}_{n}" for n in range(model.num_layers) for name in "hc"]
    states = [tf.TensorSpec((None, model.units), tf.float32, name) for name in names]
    return ArrayNetwork(model, call, [tokens("tokens"), *states], True, model.vocabulary_size)
