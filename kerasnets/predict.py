"""`python -m kerasnets.predict RUN_DIR_OR_SAVED_MODEL [inputs]`: lines, prompts or pictures in, answers out."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kerasnets.checks import RequestError
from kerasnets.command import Options, run, start_tensorflow
from kerasnets.loading import open_model, read_config

DESCRIPTION = """Answers each input: with the classes of a picture (a path), the continuation of a text or the
translation of a sentence. Without inputs it reads lines from standard input."""


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.predict", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="what `kerasnets.train` or `kerasnets.export` left")
    options.add("inputs", nargs="*", help="paths of pictures, or texts")
    given = options.parse(arguments)
    inputs = given.inputs or (line.rstrip("\n") for line in sys.stdin)
    for answer in predict(Path(given.path), inputs):
        print(answer, flush=True)


def predict(path: Path, inputs: Iterable[str]) -> Iterator[str]:
    """-> an answer for each input.

    Raises: RequestError with the model's sentence for an input that it refuses; the answers before it are given.
    """
    read_config(path)
    start_tensorflow()
    opened = open_model(path)
    import tensorflow as tf

    for given in inputs:
        try:
            yield opened.task.answer(opened.signatures, given)
        except tf.errors.InvalidArgumentError as error:
            raise RequestError(f"{given!r} is refused: {reason(error.message)}") from None


def reason(message: str) -> str:
    """The sentence of an assertion in the graph, or else what the operation says, without TensorFlow's wrapping."""
    sentence = re.search(r"assertion failed: \[(.*)\]", message)
    return sentence[1] if sentence else message.removeprefix("Graph execution error:").strip().splitlines()[-1]


if __name__ == "__main__":
    run(main)
