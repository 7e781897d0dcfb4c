"""Send the same inputs to both sides."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.client import Client, ModelSpec, ServingError
from serving.compare.inputs import Row, read_rows
from serving.compare.outputs import Outputs, compare_outputs
from serving.compare.report import latency, shorten, to_json
from serving.errors import UsageError


@dataclass
class Side:
    """A model to compare, its outputs so far, and the seconds of each call."""

    name: str
    outputs: Outputs = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        model, _, version_or_label = self.name.partition(":")
        if not model or (":" in self.name and not version_or_label):
            raise UsageError(f"{self.name!r} is not a model; it must be MODEL, MODEL:VERSION or MODEL:LABEL.")
        if version_or_label.isdecimal():
            return ModelSpec(model, version=int(version_or_label))
        return ModelSpec(model, label=version_or_label or None)

    def predict(self, client: Client, signature: str, batch: Sequence[tuple[str, Row]]) -> None:
        """Send a batch of rows, each with its label for error messages."""
        labels, rows = zip(*batch, strict=True)
        inputs = {name: [row[name] for row in rows] for name in rows[0]}
        spec, start = self.spec, time.perf_counter()
        try:
            outputs = client.predict(spec.name, inputs, signature, spec.version, spec.label)
        except ServingError as error:
            if error.code == "UNAVAILABLE":
                raise
            verb = "rejects" if error.code == "INVALID_ARGUMENT" else "fails at"
            label = (
                f"'{shorten(labels[0])}'"
                if len(labels) == 1
                else f"the {len(labels)} inputs from '{shorten(labels[0])}'"
            )
            raise ServingError(error.code, f"{self.name} {verb} {label}: {first_sentence(error.message)}") from None
        self.seconds.append(time.perf_counter() - start)
        for name, array in outputs.items():
            if array.ndim and len(array) == len(rows):  # other outputs have no value for each input
                self.outputs.setdefault(name, []).extend(array)

    def clear(self) -> None:
        self.outputs.clear()
        self.seconds.clear()


def first_sentence(message: str) -> str:
    """Return a server's message without TensorFlow's list of nodes."""
    return re.sub(r"^assertion failed: \[(.*?)\]$", r"\1", message.partition("\n")[0].strip())


def compare(client: Client, options: argparse.Namespace) -> dict[str, Any]:
    """Send the inputs to both sides and return the report, as --json prints it."""
    a, b, signature = options.a, options.b, options.signature
    inputs = signature_inputs(client, a, signature)
    if (others := signature_inputs(client, b, signature)) != inputs:
        raise UsageError(
            f"signature '{signature}' takes {describe_inputs(inputs)} in {a.name}, but {describe_inputs(others)} in "
            f"{b.name}; compare signatures with the same inputs."
        )
    rows = read_rows(options.inputs, inputs)
    batches = [rows[n : n + options.batch_size] for n in range(0, len(rows), options.batch_size)]
    for side in (a, b):  # the first call of a connection or a batch size takes longer
        side.predict(client, signature, batches[0])
        side.clear()
    for number, batch in enumerate(batches):
        for side in (a, b) if number % 2 == 0 else (b, a):
            side.predict(client, signature, batch)
    outputs, differs = compare_outputs(a.outputs, b.outputs, len(rows))
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
                "a": {name: to_json(a.outputs[name][n]) for name in compared},
                "b": {name: to_json(b.outputs[name][n]) for name in compared},
            }
            for n in np.flatnonzero(differs)[: max(options.examples, 0)]
        ],
    }


def signature_inputs(client: Client, side: Side, signature: str) -> dict[str, Any]:
    """Return the inputs of a signature, from the server's metadata."""
    spec = side.spec
    try:
        metadata = client.metadata(spec.name, spec.version, spec.label)
    except ServingError as error:
        if error.code in ("NOT_FOUND", "INVALID_ARGUMENT"):
            message = first_sentence(error.message).rstrip(".")
            raise UsageError(
                f"{client.address} does not serve {side.name}: {message}; use a model that it serves."
            ) from None
        raise
    if signature not in metadata:
        raise UsageError(f"{side.name} has no signature '{signature}'; it has {', '.join(sorted(metadata))}.")
    return metadata[signature]["inputs"]


def describe_inputs(inputs: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({tensor['dtype']} {tensor['shape']})" for name, tensor in sorted(inputs.items()))
