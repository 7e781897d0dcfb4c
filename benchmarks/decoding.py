"""Compare translation with the SavedModel and with other libraries, and cached with uncached decoding.

    python -m benchmarks.decoding RUN_DIR --ctranslate2 PYTHON --transformers PYTHON --keras-hub PYTHON

RUN_DIR: a run of translation with the preset `tiny` on multi30k. PYTHON: the interpreter of an environment with the
library (`pip install ctranslate2`; `transformers torch`; `keras-hub tensorflow`); libraries without one are skipped.
Each library runs in its own process; the processes take turns, so that only one works at a time. A batch has 64
sentences. CTranslate2 has the weights of the run, the others have random weights of the same size.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers")
ROUNDS = 5
SUBSET = 192  # sentences for the slower libraries


class Worker:
    """A worker process (see peers/worker.py)."""

    def __init__(self, python: str, program: str, *arguments: str):
        command = [python, str(PEERS / program), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.settings = self.receive()["settings"]

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while not (line := self.process.stdout.readline()).startswith("{"):
            if not line:
                raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self, setting: str) -> tuple[float, list]:
        """Run a setting; -> seconds, outputs."""
        assert self.process.stdin is not None
        print(json.dumps(setting), file=self.process.stdin, flush=True)
        result = self.receive()
        return result["seconds"], result["outputs"]

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    for peer in ("ctranslate2", "transformers", "keras-hub"):
        parser.add_argument(f"--{peer}", metavar="PYTHON")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        measure(args, Path(directory))


def measure(args: argparse.Namespace, directory: Path) -> None:
    from kerasnets.export import export
    from kerasnets.loading import open_model

    loaded = open_model(args.run_dir)
    task = loaded.task
    sentences = task.data.test[0]
    sources = [[*ids, task.vocabulary.END] for ids in task._tokenize(sentences)]
    (directory / "sentences.json").write_text(json.dumps(sentences), "utf-8")
    (directory / "sources.json").write_text(json.dumps(sources), "utf-8")
    (directory / "subset_sources.json").write_text(json.dumps(sources[:SUBSET]), "utf-8")
    export(args.run_dir, directory / "models")
    model = str(directory / "models" / "translation" / "1")
    ours = Worker(sys.executable, "with_saved_model.py", model, str(directory / "sentences.json"))
    tokens = {s: sum(map(len, task._tokenize(ours.run(s)[1]))) + len(sentences) for s in ours.settings}
    if args.ctranslate2:
        save_weights(loaded.model, task.temperature, directory / "weights.npz")
        files = str(directory / "weights.npz"), str(directory / "sources.json")
        theirs = Worker(args.ctranslate2, "with_ctranslate2.py", *files)
        for setting, beams in (("greedy", 1), ("beam 5", 5)):
            alternatives = [name for name in theirs.settings if name.startswith(f"beams {beams},")]
            best = min(alternatives, key=lambda name: min(theirs.run(name)[0] for _ in range(2)))
            _, outputs = theirs.run(best)
            same = [
                task.vocabulary.detokenize_python(ids) == text
                for (ids, _), text in zip(outputs, ours.run(setting)[1], strict=True)
            ]
            print(f"{setting}: {sum(same)} of {len(same)} translations equal CTranslate2's ({best})")
            report(setting, ours, theirs, best, tokens[setting], sum(len(ids) + 1 for ids, _ in outputs))
        theirs.stop()
    lengths = [len(ids) + 1 for ids in task._tokenize(ours.run("greedy")[1][:SUBSET])]
    (directory / "lengths.json").write_text(json.dumps(lengths))
    subset = str(directory / "subset_sources.json")
    for python, program, *files in (
        (args.transformers, "with_transformers.py", subset, str(directory / "lengths.json")),
        (args.keras_hub, "with_keras_hub.py", subset),
    ):
        if python:
            theirs = Worker(python, program, *files)
            for setting in theirs.settings:
                _, outputs = theirs.run(setting)
                report(setting, ours, theirs, setting, tokens[setting], sum(outputs))
            theirs.stop()
    ours.stop()
    compare_uncached(loaded.model, sources[:16])


def report(setting: str, ours: Worker, theirs: Worker, their_setting: str, tokens: int, their_tokens: int) -> None:
    """Alternate both sides and print a row: subwords per second, end tokens included, and the median of the ratios."""
    theirs.run(their_setting), ours.run(setting)
    pairs = [(ours.run(setting)[0], theirs.run(their_setting)[0]) for _ in range(ROUNDS)]
    rates = [(tokens / our_seconds, their_tokens / their_seconds) for our_seconds, their_seconds in pairs]
    our_rate, their_rate = (statistics.median(side) for side in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    peer = Path(str(theirs.process.args[1])).stem.removeprefix("with_")  # type: ignore[index]
    print(f"| {setting} | {peer} | {our_rate:,.0f} | {their_rate:,.0f} | {ratio:.2f} |", flush=True)


def save_weights(model: Any, temperature: float, path: Path) -> None:
    """Write the weights by path; the last normalization is divided by the temperature, instead of the logits."""
    import numpy as np

    arrays = {v.path.partition("/")[2]: v.numpy() for v in model.variables if "seed" not in v.path}
    for name in ("gamma", "beta"):
        arrays[f"decoder_norm/{name}"] = arrays[f"decoder_norm/{name}"] / temperature
    arrays |= {"embedding": model.embedding.embeddings.numpy(), "num_blocks": model.num_blocks}
    np.savez(path, num_heads=model.num_heads, **arrays)


def compare_uncached(model: Any, sources: list[list[int]], length: int = 100) -> None:
    """Compare greedy search with a cache and without one, which runs the whole network for every token."""
    import tensorflow as tf

    from benchmarks.timing import compare
    from kerasnets import decoding

    source = tf.ragged.constant(sources, tf.int32).to_tensor()
    limits = tf.fill([len(sources)], length)

    @tf.function
    def cached():
        return decoding.greedy(model, *model.start(source, 0), 1, -1, limits)[0]

    @tf.function
    def uncached():
        def append_token(tokens):
            logits = model({"source": source, "target": tokens}, training=False)[:, -1:]
            return (tf.concat([tokens, tf.argmax(logits, axis=-1, output_type=tf.int32)], axis=1),)

        start = tf.ones((len(sources), 1), tf.int32)
        shape = tf.TensorShape([len(sources), None])

        def is_short(tokens):
            return tf.shape(tokens)[1] <= length

        return tf.while_loop(is_short, append_token, (start,), shape_invariants=(shape,))[0][:, 1:]

    same = float(tf.reduce_mean(tf.cast(cached() == uncached(), tf.float32)))
    cached_time, uncached_time, ratio = compare(cached, uncached, repeats=5)
    print(
        f"cached {cached_time:,.0f} ms, uncached {uncached_time:,.0f} ms for {length} tokens of {len(sources)} "
        f"sentences: {ratio:.1f}"
    )
    print(f"{same:.1%} of the tokens are equal")


if __name__ == "__main__":
    main(sys.argv[1:])
