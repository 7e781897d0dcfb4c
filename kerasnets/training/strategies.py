"""The devices and machines of a training: TensorFlow's distribution strategies, and sums over the workers."""

import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
from tensorflow.python.eager import context

from kerasnets.checks import RequestError
from kerasnets.training.cluster import VARIABLE, Cluster, Worker, cluster_for, read_cluster

SECONDS_TO_CONNECT = 600  # a cluster may have to start machines
SECONDS_BETWEEN_CALLS, SECONDS_TO_ANSWER = 1, 2
# What a collective operation raises when another process has ended or stopped to answer.
LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError)


def make_strategy(name: str) -> tf.distribute.Strategy:
    """-> the strategy of that name.

    "one_device": the first GPU, else the CPU.
    "mirrored": all GPUs of this machine (else all logical CPUs), each with all weights and a part of the batch.
    "multi_worker": the same on all machines that TF_CONFIG names. To be called before TensorFlow computes anything.
    "auto": "multi_worker" if TF_CONFIG names several workers, else "mirrored" with several GPUs, else "one_device".

    Raises: RequestError if TF_CONFIG does not fit, or if a worker does not answer.
    """
    cluster = cluster_for(name)
    if cluster is not None:
        return connect(cluster)
    gpus = tf.config.list_logical_devices("GPU")
    devices = [device.name for device in gpus or tf.config.list_logical_devices("CPU")]
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.OneDeviceStrategy(devices[0])


class WorkerGroup:
    """The processes of a training: one on each machine, each with all weights; the first one is the chief.

    All of them take the same steps. So each of them must call the methods at the same point of its program.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self.strategy, self.index, self.count = strategy, 0, 1
        cluster = read_cluster() if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) else None
        if cluster is not None:
            self.index, self.count = cluster.index, len(cluster.workers)

    @property
    def is_chief(self) -> bool:
        return self.index == 0

    def sum(self, array: np.ndarray) -> np.ndarray:
        """-> the sum of the arrays of all workers, which have the same shape and type."""
        array = np.asarray(array)
        if self.count == 1:
            return array
        wide = array.astype(np.int64) if array.dtype.kind in "biu" else array  # the types that can be summed
        total = self.strategy.reduce(tf.distribute.ReduceOp.SUM, tf.identity(wide), axis=None)
        return total.numpy().astype(array.dtype)

    def from_chief(self, array: np.ndarray) -> np.ndarray:
        """-> the chief's array; those of the others have the same shape and type."""
        return self.sum(array if self.is_chief else np.zeros_like(array))

    def collect(self, array: np.ndarray) -> np.ndarray:
        """Arrays of equal shape [N, ...] -> [workers · N, ...], in the order of the workers."""
        parts = np.zeros((self.count, *np.shape(array)), np.asarray(array).dtype)
        parts[self.index] = array
        return self.sum(parts).reshape(-1, *np.shape(array)[1:])


def connect(cluster: Cluster) -> tf.distribute.Strategy:
    """Wait for all workers -> the strategy. Raises: RequestError if one does not come, or if a port is taken."""
    if others(cluster):
        print(f"{cluster.this}: waiting for {' and '.join(map(str, others(cluster)))}", file=sys.stderr)
    if cluster.index == 0:
        wait_for_workers(cluster)  # the others open their ports before they look for the chief
    else:
        limit_wait(cluster)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:  # "Could not start gRPC server"
        raise RequestError(
            f"{cluster.this} cannot listen on its port ({error.message}); give it a free one in {VARIABLE}."
        ) from None
    except tf.errors.DeadlineExceededError:
        refuse_to_wait([cluster.workers[0]])
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # TensorFlow has put its own in its place
    return strategy


def others(cluster: Cluster) -> list[Worker]:
    return [worker for worker in cluster.workers if worker is not cluster.this]


def wait_for_workers(cluster: Cluster) -> None:
    """Wait until the ports of all other workers are open: TensorFlow's chief would wait for an hour, in a call that
    nothing can interrupt. Raises: RequestError after `SECONDS_TO_CONNECT`."""
    end = time.monotonic() + SECONDS_TO_CONNECT
    while silent := [worker for worker in others(cluster) if not answers(worker.address)]:
        if time.monotonic() > end:
            refuse_to_wait(silent)
        time.sleep(SECONDS_BETWEEN_CALLS)


def limit_wait(cluster: Cluster) -> None:
    """Limit the time that TensorFlow waits for the chief, to `SECONDS_TO_CONNECT` instead of an hour. It has no public
    function for this; apart from the time these are the values that `MultiWorkerMirroredStrategy` sets itself."""
    kinds = Counter(worker.kind for worker in cluster.workers)
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.workers[0].kind}/replica:0/task:0",
        coordinated_jobs=[CoordinatedJob(name=kind, num_tasks=count) for kind, count in kinds.items()],
        cluster_register_timeout_in_ms=1000 * SECONDS_TO_CONNECT,
    )


def refuse_to_wait(silent: list[Worker]) -> NoReturn:
    raise RequestError(
        f"{' and '.join(map(str, silent))} did not answer within {SECONDS_TO_CONNECT} s; start a worker at each "
        f"address of {VARIABLE}, or correct it."
    )


def answers(address: str) -> bool:
    """Whether a program listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
    except OSError:
        return False
    return True


@contextmanager
def lost_worker_named(cluster: Cluster) -> Iterator[None]:
    """Name the worker that is lost when TensorFlow fails in the block for this reason. Raises: ConnectionError."""
    try:
        yield
    except LOST as error:
        named = re.findall(r"/job:(\w+)(?:/replica:0)?/task:(\d+)", error.message)
        lost = [str(worker) for worker in others(cluster) if (worker.kind, str(worker.number)) in named]
        raise ConnectionError(
            f"{' and '.join(lost) or 'another worker'} was lost, so training stops; start all workers again with the "
            "same command, and it resumes from the last checkpoint."
        ) from error
