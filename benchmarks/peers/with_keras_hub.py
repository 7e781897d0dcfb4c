"""KerasHub's samplers on a BART of the size of the preset `tiny`, with random weights, on the TensorFlow backend.

    python benchmarks/peers/with_keras_hub.py SOURCES.json

With random weights no sentence ends, so each gets LENGTH tokens, about as many as a real one has. Sources are padded to
one length, so that `generate` is compiled once.
"""

import json
import sys

import keras_hub
import numpy as np
from worker import serve

BATCH, LENGTH, VOCABULARY = 64, 18, 4000


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        sources = json.load(file)
    max_length = max(map(len, sources))
    backbone = keras_hub.models.BartBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=4,
        num_heads=4,
        hidden_dim=128,
        intermediate_dim=256,
        max_sequence_length=max(max_length, LENGTH) + 1,
    )
    model = keras_hub.models.BartSeq2SeqLM(backbone)

    def generate(sampler):
        model.compile(sampler=sampler)
        ids = np.zeros((len(sources), max_length), np.int32)
        for row, tokens in zip(ids, sources, strict=True):
            row[: len(tokens)] = tokens
        start = np.zeros((BATCH, LENGTH + 1), np.int32)
        start[:, 0] = 1
        mask = np.zeros((BATCH, LENGTH + 1), bool)
        mask[:, 0] = True

        def run():
            outputs = []
            for first in range(0, len(ids) - BATCH + 1, BATCH):
                batch = ids[first : first + BATCH]
                inputs = {
                    "encoder_token_ids": batch,
                    "encoder_padding_mask": batch != 0,
                    "decoder_token_ids": start,
                    "decoder_padding_mask": mask,
                }
                model.make_generate_function()(inputs, stop_token_ids=None)
                outputs += [LENGTH] * BATCH
            return outputs

        return run

    # One sampler per process: compiling with another sampler would discard the function of the first.
    serve({"beam 5": generate(keras_hub.samplers.BeamSampler(num_beams=5))})


if __name__ == "__main__":
    main(*sys.argv[1:])
