"""Where training runs: one device, or all of this machine's with `tf.distribute`."""

import tensorflow as tf

from kerasnets.config import STRATEGIES
from kerasnets.config.checks import choose


def make_strategy(name: str) -> tf.distribute.Strategy:
    """ "one_device": the first GPU, else the CPU; "mirrored": all GPUs (else all logical CPUs), each with a copy of the
    weights and a share of the batch; "auto": mirrored where there are several GPUs."""
    choose("strategy", name, STRATEGIES)
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])
