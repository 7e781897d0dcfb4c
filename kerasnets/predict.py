"""`python -m kerasnets.predict RUN_DIR_OR_SAVED_MODEL [inputs]`: print a prediction for each line, prompt or image."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from kerasnets.checks import RequestError
from kerasnets.command import Options, run
from kerasnets.loading import open_model

DESCRIPTION = """Answers each input: with the classes of an image (a path), the continuation of a text or the
translation of a sentence. Without inputs it reads lines from standard input and writes a line for each, with \\n for
the ends of lines in an answer. An input that is refused gets an empty line and a sentence on standard error."""

SHOWN = 60  # characters of a refused input in its error message


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.predict", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="what `kerasnets.train` or `kerasnets.export` left")
    options.add("inputs", nargs="*", help="paths of images, or texts")
    given = options.parse(arguments)
    what, lines = ("input", given.inputs) if given.inputs else ("line", standard_input())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # paths that are not UTF-8
    count = refused = 0
    for answer in predict(Path(given.path), lines):
        count += 1
        if isinstance(answer, RequestError):
            refused += 1
            print(f"{what} {count} {answer}", file=sys.stderr, flush=True)
            print(flush=True)
        else:
            print(answer if given.inputs else answer.replace("\n", "\\n"), flush=True)
    if refused:
        raise RequestError(f"{refused} of {count} inputs had no answer.")


def standard_input() -> Iterator[str]:
    """-> the lines of standard input; bytes that are not UTF-8 become lone surrogates."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    return (line.removesuffix("\n") for line in sys.stdin)


def predict(path: Path, inputs: Iterable[str]) -> Iterator[str | RequestError]:
    """-> for each input its answer, or an error whose text completes a sentence about the refused input."""
    opened = open_model(path)
    import tensorflow as tf

    for given in inputs:
        text = given.removeprefix("\ufeff")  # a byte order mark
        try:
            yield opened.task.answer(opened.signatures, text)
        except tf.errors.InvalidArgumentError as error:
            yield RequestError(f"({shown(text)}) is refused: {reason(error.message)}")
        except UnicodeEncodeError:
            yield RequestError(f"({shown(text)}) is refused: it is not UTF-8; encode it as UTF-8")
        except RequestError as error:
            yield RequestError(f"is refused: {error}")


def shown(text: str) -> str:
    """-> a text in quotes, shortened if it is long."""
    return repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")


def reason(message: str) -> str:
    """-> the message of a failed assertion in the graph, without row numbers, or that of the operation, without
    TensorFlow's prefix."""
    sentence = re.search(r"assertion failed: \[(.*)\]", message)
    if not sentence:
        return message.removeprefix("Graph execution error:").strip().splitlines()[-1]
    without_row = re.sub(r" \((rows )?count(ed)? from 0\)", "", sentence[1])
    return re.sub(r"^\w+ 0 ", "it ", without_row)


if __name__ == "__main__":
    run(main)
