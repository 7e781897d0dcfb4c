"""`python -m serving.compare A B INPUTS`: the answers of two versions of a model to the same inputs."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from serving.client import Client, ModelSpec, ServingError
from serving.compare_inputs import Row, read_rows
from serving.errors import UsageError
from serving.protocol import DEFAULT_SIGNATURE

RESAMPLES, SEED = 10_000, 0
Answers = dict[str, list]  # {output: value of each row}: bytes, a number, or an array
DESCRIPTION = f"""Sends the same inputs to two versions of a model, or to two models, and shows how often the answers
agree, by how much scores differ, how long calls take, and the first answers that differ.

  python -m serving.compare translation:1 translation:2 sentences.txt
  python -m serving.compare translation:stable translation:canary sentences.txt --json
  python -m serving.compare digits lenet photos/ --server http://localhost:8501

A and B are MODEL, MODEL:VERSION or MODEL:LABEL; a model alone is its newest version.
INPUTS are text files (an input a line), .jsonl (an instance a line), .json (the body of a REST predict request),
pictures, or directories of pictures.

Text agrees where it is equal; of several texts or numbers in a row, the first text or the place of the largest number
has to be the same. Of scores, the mean of B - A is shown with its 95 % interval (percentile bootstrap,
{RESAMPLES:,} resamples of the inputs, Efron & Tibshirani 1993, section 13.3). Calls go to A and B in turn, and each has
had a call before time is taken.

Exit status: 0 compared, 1 a server failed or refused an input, 2 the request was wrong."""


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help tells more).")


def main(arguments: Sequence[str]) -> int:
    """-> the exit status."""
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
    parser.add_argument("--batch-size", type=count, default=1, metavar="N", help="inputs a call (default: 1)")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="answers to show that differ (default: 5)")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser.parse_args(arguments)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of inputs; give 1 or more")
    return int(text)


@dataclass
class Side:
    """One of the two, what it has answered so far, and the seconds of each call."""

    name: str
    answers: Answers = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        model, _, which = self.name.partition(":")
        if not model or (":" in self.name and not which):
            raise UsageError(f"{self.name!r} names no model; give MODEL, MODEL:VERSION or MODEL:LABEL.")
        if which.isdecimal():
            return ModelSpec(model, version=int(which))
        return ModelSpec(model, label=which or None)

    def ask(self, client: Client, signature: str, batch: Sequence[tuple[str, Row]]) -> None:
        """Sends the rows, each with what to call it in an error."""
        called, rows = zip(*batch, strict=True)
        inputs = {name: [row[name] for row in rows] for name in rows[0]}
        spec, began = self.spec, time.perf_counter()
        try:
            outputs = client.predict(spec.name, inputs, signature, spec.version, spec.label)
        except ServingError as error:
            if error.code == "UNAVAILABLE":
                raise
            verb = "refuses" if error.code == "INVALID_ARGUMENT" else "fails at"
            what = (
                f"'{short(called[0])}'" if len(called) == 1 else f"the {len(called)} inputs from '{short(called[0])}'"
            )
            raise ServingError(error.code, f"{self.name} {verb} {what}: {first_sentence(error.message)}") from None
        self.seconds.append(time.perf_counter() - began)
        for name, array in outputs.items():
            if array.ndim and len(array) == len(rows):  # others have no answer for each input
                self.answers.setdefault(name, []).extend(array)

    def forget(self) -> None:
        self.answers.clear()
        self.seconds.clear()


def first_sentence(message: str) -> str:
    """A server's text without TensorFlow's list of nodes."""
    return re.sub(r"^assertion failed: \[(.*?)\]$", r"\1", message.partition("\n")[0].strip())


def compare(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    """Asks both and -> the report, as --json prints it."""
    a, b, signature = options.a, options.b, options.signature
    inputs = known_inputs(client, a, signature)
    if (others := known_inputs(client, b, signature)) != inputs:
        raise UsageError(
            f"signature '{signature}' takes {described(inputs)} in {a.name}, but {described(others)} in {b.name}; "
            "compare signatures with the same inputs."
        )
    rows = read_rows(options.inputs, inputs)
    batches = [rows[n : n + options.batch_size] for n in range(0, len(rows), options.batch_size)]
    for side in (a, b):  # the first call of a connection or a batch size takes longer
        side.ask(client, signature, batches[0])
        side.forget()
    for number, batch in enumerate(batches):
        for side in (a, b) if number % 2 == 0 else (b, a):
            side.ask(client, signature, batch)
    outputs, differs = judge(a.answers, b.answers, len(rows))
    compared = [name for name, output in outputs.items() if output["compared"] != "no"]
    return {
        "server": client.address,
        "signature": signature,
        "a": a.name,
        "b": b.name,
        "inputs": len(rows),
        "calls": len(batches),
        "outputs": outputs,
        "latency_ms": {"a": latency(a.seconds), "b": latency(b.seconds)},
        "differing": int(differs.sum()),
        "examples": [
            {
                "input": rows[n][0],
                "a": {name: plain(a.answers[name][n]) for name in compared},
                "b": {name: plain(b.answers[name][n]) for name in compared},
            }
            for n in np.flatnonzero(differs)[: max(options.examples, 0)]
        ],
    }


def known_inputs(client: Client, side: Side, signature: str) -> dict[str, Any]:
    """The inputs of a signature, by the server's metadata."""
    spec = side.spec
    try:
        metadata = client.metadata(spec.name, spec.version, spec.label)
    except ServingError as error:
        if error.code in ("NOT_FOUND", "INVALID_ARGUMENT"):
            message = first_sentence(error.message).rstrip(".")
            raise UsageError(
                f"{client.address} does not serve {side.name}: {message}; name one that it serves."
            ) from None
        raise
    if signature not in metadata:
        raise UsageError(f"{side.name} has no signature '{signature}'; it has {', '.join(sorted(metadata))}.")
    return metadata[signature]["inputs"]


def described(inputs: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({tensor['dtype']} {tensor['shape']})" for name, tensor in sorted(inputs.items()))


def judge(a: Answers, b: Answers, rows: int) -> tuple[dict[str, dict[str, Any]], np.ndarray]:
    """-> {output: how it was compared and with what result}, and which rows differ, bool [rows].

    Rows differ by their texts and places; where an answer has scores alone, by these.
    """
    outputs: dict[str, dict[str, Any]] = {}
    by_choice, by_score = np.zeros(rows, bool), np.zeros(rows, bool)
    for name in sorted(a.keys() | b.keys()):
        if name not in a or name not in b:
            outputs[name] = {"compared": "no", "reason": f"only {'A' if name in a else 'B'} has it"}
            continue
        if len(a[name]) != rows or len(b[name]) != rows:
            outputs[name] = {"compared": "no", "reason": "it has not one value for each input"}
            continue
        (how, of_a), (how_b, of_b) = comparable(name, a), comparable(name, b)
        if how == "no" or how != how_b:
            outputs[name] = {"compared": "no", "reason": "it has more axes, or others, than can be compared"}
        elif how == "score":
            difference = np.array(of_b, np.float64) - np.array(of_a, np.float64)
            low, high = bootstrap_interval(difference)
            outputs[name] = {"compared": how, "mean_difference": plain(difference.mean()), "interval_95": [low, high]}
            by_score |= ~np.isclose(of_a, of_b, rtol=1e-5, atol=1e-6, equal_nan=True)
        else:
            different = np.array([x != y for x, y in zip(of_a, of_b, strict=True)])
            equal = rows - int(different.sum())
            outputs[name] = {"compared": how, "equal": equal, "agreement": equal / rows}
            by_choice |= different
    chosen = any("agreement" in output for output in outputs.values())
    return outputs, by_choice if chosen else by_score


def comparable(name: str, answers: Answers) -> tuple[str, list]:
    """-> how an output is compared, and the value of each row that is.

    "text": a string, or the first of several. "score": a number, or the first of several that belong to as many
    strings. "largest": the place of the largest of several numbers. "no": anything else.
    """
    values = answers[name]
    axes = max(np.ndim(value) for value in values)
    if axes > 1:
        return "no", values
    if is_text(values[0]):
        return "text", values if axes == 0 else [value[0] if len(value) else None for value in values]
    if axes == 0:
        return "score", values
    sizes = [len(value) for value in values]
    if min(sizes) == 0:
        return "no", values
    beside = (other for other in answers.values() if is_text(other[0]) and np.ndim(other[0]) == 1)
    if any([len(value) for value in other] == sizes for other in beside):
        return "score", [value[0] for value in values]
    return "largest", [int(np.argmax(value)) for value in values]


def is_text(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype == object)


def bootstrap_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """The 95 % percentile interval of the mean (Efron & Tibshirani 1993, section 13.3); of one value there is none."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None, None
    generator = np.random.default_rng(SEED)
    at_once = max(1, 1_000_000 // len(values))  # some megabytes
    sizes = [min(at_once, RESAMPLES - done) for done in range(0, RESAMPLES, at_once)]
    means = [values[generator.integers(0, len(values), (size, len(values)))].mean(axis=1) for size in sizes]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def latency(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def plain(value: Any) -> Any:
    """As JSON can hold it: text that is not UTF-8 with \\x escapes, numbers that are not finite as null."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"A {report['a']}   B {report['b']}   signature {report['signature']}   {report['server']}",
        f"{report['inputs']:,} inputs in {report['calls']:,} calls to each",
        "",
    ]
    width = max(map(len, [*report["outputs"], "latency"])) + 2
    lines += [
        f"{name:{width}}{result_in_words(output, report['inputs'])}" for name, output in report["outputs"].items()
    ]
    times = (f"{side.upper()} p50 {t['p50']:.1f} ms, p99 {t['p99']:.1f} ms" for side, t in report["latency_ms"].items())
    lines += [f"{'latency':{width}}{';  '.join(times)}"]
    if report["examples"]:
        lines += ["", f"{report['differing']:,} answers differ; the first {len(report['examples'])}:"]
    for example in report["examples"]:
        lines.append(short(example["input"]))
        for side in ("a", "b"):
            lines.append(f"    {side.upper()}  {'   '.join(map(in_words, example[side].values()))}")
    return "\n".join(lines)


def result_in_words(output: dict[str, Any], rows: int) -> str:
    if output["compared"] == "no":
        return f"not compared: {output['reason']}"
    if output["compared"] == "score":
        mean, (low, high) = output["mean_difference"], output["interval_95"]
        interval = "" if low is None else f", 95 % interval {low:+.4g} to {high:+.4g}"
        return f"B - A on average {'not a number' if mean is None else format(mean, '+.4g')}{interval}"
    what = "the same" if output["compared"] == "text" else "largest at the same place"
    return f"{what} for {output['equal']:,} of {rows:,} ({output['agreement']:.1%})"


def in_words(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(in_words(item) for item in value[:5]) + (", ...]" if len(value) > 5 else "]")
    return f"{value:.4g}" if isinstance(value, float) else short(str(value))


def short(text: str, most: int = 200) -> str:
    """On one line of the screen."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= most else f"{text[:most]}..."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
