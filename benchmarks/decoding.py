"""Translation through the SavedModel against peers, and cached against uncached decoding.

    python -m benchmarks.decoding RUN_DIR --ctranslate2 PYTHON --transformers PYTHON --keras-hub PYTHON

RUN_DIR: a run of translation with the preset `tiny` on multi30k. PYTHON: the interpreter of an environment with the
peer (`pip install ctranslate2`; `transformers torch`; `keras-hub tensorflow`); a peer without one is left out.
Every side is a process of its own that works in turn, so that none works while another does; sentences come in calls of
64. CTranslate2 has the weights of the run, the others have random ones of the same size.
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
SOME = 192  # sentences for the slower peers


class Side:
    """A worker process (see peers/worker.py) and what it measured."""

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
        """-> seconds, outputs."""
        assert self.process.stdin is not None
        print(json.dumps(setting), file=self.process.stdin, flush=True)
        answer = self.receive()
        return answer["seconds"], answer["outputs"]

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    for peer in ("ctranslate2", "transformers", "keras-hub"):
        parser.add_argument(f"--{peer}", metavar="PYTHON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        measure(given, Path(directory))


def measure(given: argparse.Namespace, directory: Path) -> None:
    from kerasnets.export import export
    from kerasnets.loading import open_model

    opened = open_model(given.run_dir)
    sentences = opened.task.data.test[0]
    sources = [[*ids, opened.task.vocabulary.END] for ids in opened.task._tokenize(sentences)]
    (directory / "sentences.json").write_text(json.dumps(sentences), "utf-8")
    (directory / "sources.json").write_text(json.dumps(sources), "utf-8")
    (directory / "some_sources.json").write_text(json.dumps(sources[:SOME]), "utf-8")
    export(given.run_dir, directory / "models")
    model = str(directory / "models" / "translation" / "1")
    ours = Side(sys.executable, "with_saved_model.py", model, str(directory / "sentences.json"))
    tokens = {s: sum(map(len, opened.task._tokenize(ours.run(s)[1]))) + len(sentences) for s in ours.settings}
    if given.ctranslate2:
        weights(opened.model, opened.task.temperature, directory / "weights.npz")
        files = str(directory / "weights.npz"), str(directory / "sources.json")
        theirs = Side(given.ctranslate2, "with_ctranslate2.py", *files)
        for setting, beams in (("greedy", 1), ("beam 5", 5)):
            alternatives = [name for name in theirs.settings if name.startswith(f"beams {beams},")]
            best = min(alternatives, key=lambda name: min(theirs.run(name)[0] for _ in range(2)))
            _, found = theirs.run(best)
            same = [
                opened.task.vocabulary.detokenize_python(ids) == text
                for (ids, _), text in zip(found, ours.run(setting)[1], strict=True)
            ]
            print(f"{setting}: {sum(same)} of {len(same)} translations are CTranslate2's ({best})")
            report(setting, ours, theirs, best, tokens[setting], sum(len(ids) + 1 for ids, _ in found))
        theirs.end()
    lengths = [len(ids) + 1 for ids in opened.task._tokenize(ours.run("greedy")[1][:SOME])]
    (directory / "lengths.json").write_text(json.dumps(lengths))
    some = str(directory / "some_sources.json")
    for python, program, *files in (
        (given.transformers, "with_transformers.py", some, str(directory / "lengths.json")),
        (given.keras_hub, "with_keras_hub.py", some),
    ):
        if python:
            theirs = Side(python, program, *files)
            for setting in theirs.settings:
                _, found = theirs.run(setting)
                report(setting, ours, theirs, setting, tokens[setting], sum(found))
            theirs.end()
    ours.end()
    uncached(opened.model, sources[:16])


def report(setting: str, ours: Side, theirs: Side, their_setting: str, tokens: int, their_tokens: int) -> None:
    """Alternates both sides and prints a row: subwords a second, end tokens counted, and the median of the ratios."""
    theirs.run(their_setting), ours.run(setting)
    pairs = [(ours.run(setting)[0], theirs.run(their_setting)[0]) for _ in range(ROUNDS)]
    rates = [(tokens / mine, their_tokens / other) for mine, other in pairs]
    mine, other = (statistics.median(side) for side in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    peer = Path(str(theirs.process.args[1])).stem.removeprefix("with_")  # type: ignore[index]
    print(f"| {setting} | {peer} | {mine:,.0f} | {other:,.0f} | {ratio:.2f} |", flush=True)


def weights(model: Any, temperature: float, path: Path) -> None:
    """Writes the weights by their paths. The logits' temperature goes into the last normalization, as it is linear."""
    import numpy as np

    arrays = {v.path.partition("/")[2]: v.numpy() for v in model.variables if "seed" not in v.path}
    for name in ("gamma", "beta"):
        arrays[f"decoder_norm/{name}"] = arrays[f"decoder_norm/{name}"] / temperature
    arrays |= {"embedding": model.embedding.embeddings.numpy(), "num_blocks": model.num_blocks}
    np.savez(path, num_heads=model.num_heads, **arrays)


def uncached(model: Any, sources: list[list[int]], length: int = 100) -> None:
    """A hundred words of each sentence by a search with a cache, and by the whole network for every word."""
    import tensorflow as tf

    from benchmarks.timing import compare
    from kerasnets import decoding

    source = tf.ragged.constant(sources, tf.int32).to_tensor()
    limits = tf.fill([len(sources)], length)

    @tf.function
    def cached():
        return decoding.greedy(model, *model.start(source, 0), 1, -1, limits)[0]

    @tf.function
    def plain():
        def longer(tokens):
            logits = model({"source": source, "target": tokens}, training=False)[:, -1:]
            return (tf.concat([tokens, tf.argmax(logits, axis=-1, output_type=tf.int32)], axis=1),)

        start = tf.ones((len(sources), 1), tf.int32)
        shape = tf.TensorShape([len(sources), None])
        return tf.while_loop(lambda t: tf.shape(t)[1] <= length, longer, (start,), shape_invariants=(shape,))[0][:, 1:]

    same = float(tf.reduce_mean(tf.cast(cached() == plain(), tf.float32)))
    mine, other, ratio = compare(cached, plain, repeats=5)
    print(
        f"cached {mine:,.0f} ms, uncached {other:,.0f} ms for {length} words of {len(sources)} sentences: {ratio:.1f}"
    )
    print(f"{same:.1%} of the words are the same")


if __name__ == "__main__":
    main(sys.argv[1:])
