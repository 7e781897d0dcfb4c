"""`python -m benchmarks.generation SAVED_MODEL`: speed of an exported text_generation, and the overhead of a call.

In this process: one call of 1,000 characters, and 64 rows of 200, sampled from all characters and from the 10 most
probable. Over gRPC, from `python -m serving` on this machine: `stream`, 16 characters per call, each call with the
state of the previous one. It is compared with a Predict of a model that does nothing, and with the same signature in
this process: the difference is the overhead of the call.
"""

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks.timing import seconds
from serving.client import Client

PROMPT = "The king said"
STREAM_LENGTH = 16  # characters per call of `stream`


def options(rows: int, length: int, top_k: int = 0) -> dict[str, np.ndarray]:
    return {
        "prompt": np.array([PROMPT] * rows, object),
        "length": np.full(rows, length, np.int32),
        "temperature": np.full(rows, 0.8, np.float32),
        "top_k": np.full(rows, top_k, np.int32),
        "top_p": np.ones(rows, np.float32),
        "seed": np.arange(rows, dtype=np.int64),
    }


def generation(generate: Callable, rows: int, length: int, top_k: int = 0) -> Callable[[], object]:
    inputs = {name: tf.constant(x) for name, x in options(rows, length, top_k).items()}
    return lambda: generate(**inputs)["text"].numpy()


def streaming(stream: Callable[[dict], dict], state_size: int) -> Callable[[], None]:
    """-> a function that calls `stream` with the state of its previous call."""
    inputs = options(1, STREAM_LENGTH) | {"state": np.zeros((1, state_size), np.float32)}

    def call():
        inputs["state"] = np.asarray(stream(inputs)["state"])

    return call


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Call the functions alternately; -> the median seconds of each."""
    for _ in range(3):
        for function in functions:
            function()
    rounds = [[seconds(function) for function in functions] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


@contextmanager
def running_server(model: Path) -> Iterator[Client]:
    """Run a server with the model as `text`, and with `nothing`, a model that returns its input; -> a client."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        models = Path(directory)
        (models / "text").mkdir()
        (models / "text" / "1").symlink_to(model.resolve())
        nothing = tf.Module()
        nothing.identity = tf.function(tf.identity, [tf.TensorSpec([None], tf.float32, "x")])
        tf.saved_model.save(nothing, str(models / "nothing" / "1"), signatures={"serving_default": nothing.identity})
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", f"--models_dir={models}", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with Client(f"127.0.0.1:{port}") as client:
                wait_for(client)
                yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def wait_for(client: Client) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            client.predict("text", {"prompt": np.array([PROMPT], object)}, signature="next_char")
            client.predict("nothing", {"x": np.zeros(1, np.float32)})
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or not Path(arguments[0], "saved_model.pb").exists():
        sys.exit("give the directory of a SavedModel of text_generation, for example models/text_generation/1.")
    path = Path(arguments[0])
    signatures = tf.saved_model.load(str(path)).signatures
    print("| work | characters per second |\n|---|---|")
    for rows, length, top_k in [(1, 1000, 0), (1, 1000, 10), (64, 200, 0), (64, 200, 10)]:
        (call_seconds,) = medians([generation(signatures["generate"], rows, length, top_k)], 9)
        limit = f", top_k {top_k}" if top_k else ""
        print(f"| {rows} × {length:,} characters{limit} | {rows * length / call_seconds:,.0f} |", flush=True)
    state_size = signatures["stream"].structured_input_signature[1]["state"].shape[1]

    def call_in_process(inputs):
        return signatures["stream"](**{name: tf.constant(x) for name, x in inputs.items()})

    with running_server(path) as client:

        def call_server(inputs):
            return client.predict("text", inputs, signature="stream")

        def call_nothing():
            client.predict("nothing", {"x": np.zeros(1, np.float32)})

        empty, sampling, call = medians(
            [call_nothing, streaming(call_in_process, state_size), streaming(call_server, state_size)], 200
        )
    print(f"\nstream, {STREAM_LENGTH} characters per call over gRPC, p50: {1e3 * call:.2f} ms")
    print(f"an empty Predict: {1e3 * empty:.2f} ms; the same signature called in process: {1e3 * sampling:.2f} ms")
    print(f"overhead of a call of stream: {(call - sampling) / empty:.2f} empty Predicts")


if __name__ == "__main__":
    main(sys.argv[1:])
