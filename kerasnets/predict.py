"""`python -m kerasnets.predict RUN_DIR_OR_SAVED_MODEL [inputs]`: print a prediction for each line, prompt or image."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kerasnets.checks import RequestError
from kerasnets.command import Options, run
from kerasnets.loading import open_model

DESCRIPTION = """Prints a prediction for each input: the classes of an image (given by its path), the continuation of
a text, or the translation of a sentence. Without inputs it reads them from standard input, one per line,
and prints one line for each; \\n stands for a line break in a prediction. A rejected input gets an empty
line, and an error message on standard error."""

EXCERPT_LENGTH = 60  # characters of a rejected input in its error message


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.predict", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="output of `kerasnets.train` or `kerasnets.export`")
    options.add("inputs", nargs="*", help="paths of images, or texts")
    args = options.parse(arguments)
    unit, inputs = ("input", args.inputs) if args.inputs else ("line", standard_input())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # paths that are not UTF-8
    count = rejected = 0
    for prediction in predict(Path(args.path), inputs):
        count += 1
        if isinstance(prediction, RequestError):
            rejected += 1
            print(f"{unit} {count} {prediction}", file=sys.stderr, flush=True)
            print(flush=True)
        else:
            print(prediction if args.inputs else prediction.replace("\n", "\\n"), flush=True)
    if rejected:
        raise RequestError(f"{rejected} of {count} inputs were rejected.")


def standard_input() -> Iterator[str]:
    """-> the lines of standard input; bytes that are not UTF-8 become lone surrogates."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return (line.removesuffix("\n") for line in sys.stdin)


def predict(path: Path, inputs: Iterable[str]) -> Iterator[str | RequestError]:
    """-> for each input its prediction, or an error whose text continues "line 3" or "input 3"."""
    loaded = open_model(path)
    import tensorflow as tf

    for line in inputs:
        text = line.removeprefix("\ufeff")  # a byte order mark
        try:
            yield loaded.task.predict(loaded.signatures, text)
        except tf.errors.InvalidArgumentError as error:
            yield RequestError(f"({excerpt(text)}) is rejected: {reason(error.message)}")
        except UnicodeEncodeError:
            yield RequestError(f"({excerpt(text)}) is rejected: it is not UTF-8; encode it as UTF-8")
        except RequestError as error:
            yield RequestError(f"is rejected: {error}")


def excerpt(text: str) -> str:
    """-> a text in quotes, shortened if it is long."""
    return repr(text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "...")


def reason(message: str) -> str:
    """-> the message of a failed assertion in the graph, without row numbers, or that of the operation, without
    TensorFlow's prefix."""
    assertion = re.search(r"assertion failed: \[(.*)\]", message)
    if not assertion:
        return message.removeprefix("Graph execution error:").strip().splitlines()[-1]
    without_row = re.sub(r" \((rows )?count(ed)? from 0\)", "", assertion[1])
    return re.sub(r"^\w+ 0 ", "it ", without_row)


if __name__ == "__main__":
    run(main)
