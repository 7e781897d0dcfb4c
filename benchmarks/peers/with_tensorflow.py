"""A call of a SavedModel's signature in this process: python with_tensorflow.py SAVED_MODEL REQUEST.json

REQUEST.json: {"x": nested lists}. The measured time is from a NumPy array to a NumPy array.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from worker import serve

CALLS = 5000


def main(path: str, request: str) -> None:
    signature = tf.saved_model.load(path).signatures["serving_default"]
    x = np.array(json.loads(Path(request).read_text("utf-8"))["x"], np.float32)

    def calls() -> list[float]:
        """-> milliseconds of each call."""
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            signature(x=tf.constant(x))["y"].numpy()
            times.append(1e3 * (time.perf_counter() - start))
        return times

    serve({"calls": calls})


if __name__ == "__main__":
    main(*sys.argv[1:])
