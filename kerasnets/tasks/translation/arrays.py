"""The networks of translation as functions of arrays (`kerasnets.tasks.arrays`)."""

import keras

from kerasnets.tasks.arrays import ArrayNetwork, tokens


def pair_to_logits(model: keras.Model, recurrent: bool, max_length: int | None) -> ArrayNetwork:
    """source [B, S], target [B, T], prefix of a translation -> logits [B, T, V]"""

    def call(source, target):
        return {"logits": model({"source": source, "target": target})}

    inputs = [tokens("source"), tokens("target")]
    return ArrayNetwork(model, call, inputs, recurrent, model.vocabulary_size, max_length, padded=("source",))
