"""`python -m serving.compare A B INPUTS`: compare the outputs of two versions of a model for the same inputs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from serving.client import Client, ServingError
from serving.compare.outputs import RESAMPLES
from serving.compare.report import as_text
from serving.compare.sides import Side, compare
from serving.errors import UsageError
from serving.protocol import DEFAULT_SIGNATURE

DESCRIPTION = f"""Send the same inputs to two versions of a model, or to two models. Print how often the outputs
agree, by how much scores differ, the latency of both, and the first outputs that differ.

  python -m serving.compare translation:1 translation:2 sentences.txt
  python -m serving.compare translation:stable translation:canary sentences.txt --json
  python -m serving.compare digits lenet photos/ --server http://localhost:8501

A and B are MODEL, MODEL:VERSION or MODEL:LABEL; MODEL alone means its newest version.
INPUTS are text files (one input per line), .jsonl files (one instance per line), .json files (the body of a REST
predict request), images, or directories of images.

Outputs agree if their texts are equal. If an output has several texts or numbers for an input, its first text or the
index of its largest number must be the same. For scores, the report has the mean of B - A with its 95 % interval
(percentile bootstrap, {RESAMPLES:,} resamples of the inputs, Efron & Tibshirani 1993, section 13.3). Calls to A and B
alternate; the first call to each is not timed.

Exit status: 0 compared, 1 the server failed or rejected an input, 2 invalid arguments or inputs."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help lists the options).")


def main(arguments: Sequence[str]) -> int:
    """Run the comparison and return the exit status."""
    try:
        options = parse(arguments)
        with Client(options.server) as client:
            report = compare(client, options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report, indent=1, ensure_ascii=False) if options.json else as_text(report))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        "python -m serving.compare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Side, metavar="A")
    parser.add_argument("b", type=Side, metavar="B")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUTS")
    parser.add_argument(
        "--server",
        default="localhost:8500",
        metavar="ADDRESS",
        help="HOST:PORT for gRPC, http://HOST:PORT for REST (default: %(default)s)",
    )
    parser.add_argument("--signature", default=DEFAULT_SIGNATURE, metavar="NAME", help="default: %(default)s")
    parser.add_argument("--batch-size", type=positive_int, default=1, metavar="N", help="inputs per call (default: 1)")
    parser.add_argument(
        "--examples", type=int, default=5, metavar="N", help="maximum number of different outputs to print (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser.parse_args(arguments)


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a batch size; it must be 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
