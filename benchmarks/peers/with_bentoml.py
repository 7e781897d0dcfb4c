"""A SavedModel behind BentoML, with its adaptive batching, which doubles its throughput.

SAVED_MODEL=DIRECTORY python -m bentoml serve with_bentoml:Model --working-dir=benchmarks/peers --port=PORT
"""

import os

import bentoml
import numpy as np
import tensorflow as tf


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Model:
    def __init__(self) -> None:
        self.run = tf.saved_model.load(os.environ["SAVED_MODEL"]).signatures["serving_default"]

    @bentoml.api(batchable=True)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.run(x=tf.constant(x, tf.float32))["y"].numpy()
