"""`python -m kerasnets.predict RUN_DIR_OR_SAVED_MODEL [inputs]`: print a prediction for each line, prompt or image."""

import contextlib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kerasnets.checks import RequestError
from kerasnets.command import Options, run
from kerasnets.loading import open_model
from kerasnets.run.files import write_figure

DESCRIPTION = """Prints a prediction for each input: the classes of an image (given by its path), the continuation of
a text, or the translation of a sentence. Without inputs it reads them from standard input, one per line,
and prints one line for each; \\n stands for a line break in a prediction. A rejected input gets an empty
line, and an error message on standard error.

With --explain, the only input is drawn too: the evidence for an image's class and the first feature maps, the
probability of each character of a text and the gates of the network, or the attention of a translation."""

EXCERPT_LENGTH = 60  # characters of a rejected input in its error message


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.predict", DESCRIPTION)
    options.add("path", metavar="RUN_DIR_OR_SAVED_MODEL", help="output of `kerasnets.train` or `kerasnets.export`")
    options.add("inputs", nargs="*", help="paths of images, or texts")
    options.add("--explain", metavar="FILE", help="draw the prediction: a PNG, SVG or PDF file, which is replaced")
    args = options.parse(arguments)
    if args.explain is not None:
        print(explain(Path(args.path), args.inputs, Path(args.explain)))
        return
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
    for line in inputs:
        answer: str | RequestError
        try:
            with rejections(text := without_mark(line)):
                answer = loaded.task.predict(loaded.signatures, text)
        except RequestError as error:
            answer = error
        yield answer


def explain(path: Path, inputs: Sequence[str], picture: Path) -> str:
    """Draw the explanation of the only input into the file `picture`; -> its prediction.

    Raises: RequestError if there is not one input, if it is rejected, or if the file cannot be drawn.
    """
    if len(inputs) != 1:
        raise RequestError(f"--explain draws one input, and {len(inputs)} are given; give one image, text or sentence.")
    check_picture(picture)
    loaded = open_model(path)
    try:
        with rejections(text := without_mark(inputs[0])):
            prediction = loaded.task.predict(loaded.signatures, text)
            write_figure(picture, loaded.task.draw_explanation(loaded.signatures, text))
    except RequestError as error:
        raise RequestError(f"the input {error}") from None
    return prediction


def without_mark(text: str) -> str:
    """-> a text without its byte order mark."""
    return text.removeprefix("\ufeff")


def check_picture(path: Path) -> None:
    """Raises: RequestError if Matplotlib has no format of this suffix, or if the directory is missing."""
    from matplotlib.figure import Figure

    formats = sorted(Figure().canvas.get_supported_filetypes())
    if path.suffix[1:].lower() not in formats:
        raise RequestError(f"--explain is {str(path)!r}; its suffix must be one of .{', .'.join(formats)}.")
    if not path.parent.is_dir():
        raise RequestError(f"--explain is {str(path)!r}, but there is no directory {path.parent}; create it first.")


@contextlib.contextmanager
def rejections(text: str) -> Iterator[None]:
    """Raise every rejection of an input as a RequestError whose message continues "line 3" or "input 3"."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise RequestError(f"({excerpt(text)}) is rejected: {reason(error.message)}") from None
    except UnicodeEncodeError:
        raise RequestError(f"({excerpt(text)}) is rejected: it is not UTF-8; encode it as UTF-8") from None
    except RequestError as error:
        raise RequestError(f"is rejected: {error}") from None


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
