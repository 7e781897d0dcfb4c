"""The SavedModel of a translation in TensorFlow.

    python benchmarks/peers/with_saved_model.py SAVED_MODEL SENTENCES.json

One thread per operation and two for parallel operations: the operations of a step are too small to be split.
"""

import json
import sys

import tensorflow as tf
from worker import serve

BATCH = 64


def main(path: str, sentences_path: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    signatures = tf.saved_model.load(path).signatures
    with open(sentences_path, encoding="utf-8") as file:
        sentences = json.load(file)
    batches = [tf.constant(sentences[n : n + BATCH]) for n in range(0, len(sentences), BATCH)]

    def greedy():
        return [t.decode() for b in batches for t in signatures["serving_default"](text=b)["translation"].numpy()]

    def beams():
        batch_outputs = (
            signatures["beam_search"](text=b, length_penalty=tf.ones(len(b)))["translations"] for b in batches
        )
        return [t.decode() for outputs in batch_outputs for t in outputs[:, 0].numpy()]

    serve({"greedy": greedy, "beam 5": beams})


if __name__ == "__main__":
    main(*sys.argv[1:])
