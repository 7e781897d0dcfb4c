"""Mixed precision: layers compute in float16 or bfloat16, and the weights and the optimizer stay float32.

Micikevicius et al. 2018. bfloat16 has float32's range. float16 does not: small gradients become 0 and large ones
infinite, so the loss is multiplied by a scale (section 3.2).
"""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from kerasnets.checks import RequestError


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Layers that are made in the block compute in this precision: "float32", "float16" or "bfloat16"."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name if name == "float32" else f"mixed_{name}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_precision(name: str, strategy: tf.distribute.Strategy) -> None:
    """Raises: RequestError for float16 without a GPU."""
    if name == "float16" and not any("GPU" in device for device in strategy.extended.worker_devices):
        raise RequestError(
            "training.precision is float16, which needs a GPU, and there is none; use bfloat16 or float32 on a CPU."
        )


class LossScale:
    """The scale of the loss: halved when a gradient overflows, and doubled after 2,000 steps without an overflow."""

    STEPS_TO_DOUBLE = 2000

    def __init__(self) -> None:
        self.scale, self.steps = 2.0**15, 0

    def update(self, finite: bool) -> None:
        """Args: finite: whether the gradients of this step are finite; otherwise the step is left out."""
        self.steps = self.steps + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.steps == self.STEPS_TO_DOUBLE:
            self.scale, self.steps = self.scale * 2, 0

    def state(self) -> np.ndarray:
        """-> float64 [2], for `restore`."""
        return np.array([self.scale, self.steps], np.float64)

    def restore(self, state: np.ndarray) -> None:
        self.scale, self.steps = float(state[0]), int(state[1])
