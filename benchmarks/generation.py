"""`python -m benchmarks.generation SAVED_MODEL`: how fast an exported text_generation writes, and what a call costs.

In this process: one call of 1,000 characters, and 64 rows of 200, drawn without limits and from the 10 most probable.
Over gRPC, from `python -m serving` on this machine: `stream`, 16 characters a call, each call with the state of the one
before. It is set against a Predict of a model that does nothing, and against the same signature in this process: what a
stream costs beside the sampling is the call.
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
PART = 16  # characters of a call of `stream`


def options(rows: int, length: int, top_k: int = 0) -> dict[str, np.ndarray]:
    return {
        "prompt": np.array([PROMPT] * rows, object),
        "length": np.full(rows, length, np.int32),
        "temperature": np.full(rows, 0.8, np.float32),
        "top_k": np.full(rows, top_k, np.int32),
        "top_p": np.ones(rows, np.float32),
        "seed": np.arange(rows, dtype=np.int64),
    }


def writing(generate: Callable, rows: int, length: int, top_k: int = 0) -> Callable[[], object]:
    inputs = {name: tf.constant(x) for name, x in options(rows, length, top_k).items()}
    return lambda: generate(**inputs)["text"].numpy()


def streaming(stream: Callable[[dict], dict], size: int) -> Callable[[], None]:
    """-> a call of `stream` that goes on where the one before ended."""
    inputs = options(1, PART) | {"state": np.zeros((1, size), np.float32)}

    def call():
        inputs["state"] = np.asarray(stream(inputs)["state"])

    return call


def medians(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """-> median seconds of each; they alternate."""
    for _ in range(3):
        for work in works:
            work()
    rounds = [[seconds(work) for work in works] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


@contextmanager
def served(model: Path) -> Iterator[Client]:
    """A client of a server with the model as `text` and with `nothing`, which gives back a number."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as probe:
        models = Path(directory)
        (models / "text").mkdir()
        (models / "text" / "1").symlink_to(model.resolve())
        nothing = tf.Module()
        nothing.same = tf.function(tf.identity, [tf.TensorSpec([None], tf.float32, "x")])
        tf.saved_model.save(nothing, str(models / "nothing" / "1"), signatures={"serving_default": nothing.same})
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
    end = time.monotonic() + 120
    while True:
        try:
            client.predict("text", {"prompt": np.array([PROMPT], object)}, signature="next_char")
            client.predict("nothing", {"x": np.zeros(1, np.float32)})
            return
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or not Path(arguments[0], "saved_model.pb").exists():
        sys.exit("give the directory of one SavedModel of text_generation, models/text_generation/1 for example.")
    path = Path(arguments[0])
    signatures = tf.saved_model.load(str(path)).signatures
    print("| work | characters a second |\n|---|---|")
    for rows, length, top_k in [(1, 1000, 0), (1, 1000, 10), (64, 200, 0), (64, 200, 10)]:
        (time_of_call,) = medians([writing(signatures["generate"], rows, length, top_k)], 9)
        limit = f", top_k {top_k}" if top_k else ""
        print(f"| {rows} × {length:,} characters{limit} | {rows * length / time_of_call:,.0f} |", flush=True)
    size = signatures["stream"].structured_input_signature[1]["state"].shape[1]

    def here(inputs):
        return signatures["stream"](**{name: tf.constant(x) for name, x in inputs.items()})

    with served(path) as client:

        def there(inputs):
            return client.predict("text", inputs, signature="stream")

        def nothing():
            client.predict("nothing", {"x": np.zeros(1, np.float32)})

        empty, sampling, call = medians([nothing, streaming(here, size), streaming(there, size)], 200)
    print(f"\nstream, {PART} characters a call over gRPC, p50: {1e3 * call:.2f} ms")
    print(f"an empty Predict: {1e3 * empty:.2f} ms; the same call of the signature in process: {1e3 * sampling:.2f} ms")
    print(f"beside the sampling a call of stream costs {(call - sampling) / empty:.2f} empty Predicts")


if __name__ == "__main__":
    main(sys.argv[1:])
