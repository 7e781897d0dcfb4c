"""The card of an exported model (Mitchell et al. 2019), `assets.extra/model_card.json`.

    format               1; a reader refuses unknown formats
    task, preset         arguments of `kerasnets.train`
    created              ISO 8601, UTC
    intended_use, limits a sentence or two
    network              {"kind", "parameters", "options": its table of config.toml}
    data                 {"dataset", "description", "splits": {split: used examples}, "read": description of the data
                         read, "left_out": {kind and reason: count}, "licence", "licence_source"}
    metrics              {"validation": {...}, "conditions": {metric: a sentence}, "evaluations": [{"split", ...}]}
    training             {"configuration": config.toml, "steps", "seconds", "finished"}
    calibration          calibration.json: the temperature that divides the logits, and errors before and after
    weights              {"storage", "megabytes_before", "megabytes_after"}, and "quality" unless they are float32: see
                         `compression.quality`
    formats              {"onnx": {"file", "megabytes", "inputs", "outputs", "difference"}} for requested formats;
                         {"failed": a sentence} for one that could not be written
    signatures           {name: {"method", "inputs": {name: {"dtype", "shape"}}, "outputs", "example"}}; -1 is a free
                         size; the example is the body of a REST request
    verification         {"tensorflow", "cpus", "latency": {signature: {"calls", "p50", "p99"}}, "batches"}: `verify`
    packages             {name: version} at the export

Every key is always present. Unknown values are null: description, splits, read, left_out, validation metrics, steps,
seconds and finished of a run whose training has not ended; calibration of a run without one; an example that would be
longer than MAX_EXAMPLE_CHARACTERS. Metrics that are lists (a confusion matrix) are only in evaluation-SPLIT.json.
"""

import base64
import json
import time
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from kerasnets.data import licences
from kerasnets.run.files import CONFIG, METRICS
from kerasnets.tasks import Task

FILE, FORMAT = "model_card.json", 1
PACKAGES = ("kerasnets", "tensorflow", "keras", "numpy")
MAX_EXAMPLE_CHARACTERS = 20_000


def make(
    task: Task,
    parameters: int,
    run_dir: Path,
    signatures: Mapping[str, Any],
    requests: Mapping[str, Mapping[str, np.ndarray]],
    report: Mapping[str, Any],
    weights: Mapping[str, Any],
    formats: Mapping[str, Any],
) -> dict[str, Any]:
    """-> the card.

    Args:
        task: with its configuration.
        parameters: number of the model's parameters.
        run_dir: its metrics.json, evaluation-SPLIT.json and calibration.json are read if they exist.
        signatures: from `recording.signature_table`.
        requests: {signature: inputs}, batches of examples.
        report: of `verify`.
        weights: the section `weights`, from `compression.card`.
        formats: the section `formats`, from `formats.write_all`.
    """
    configuration = tomllib.loads((run_dir / CONFIG).read_text("utf-8"))
    configuration.pop("data_dir", None)  # a path on one machine
    metrics = read(run_dir / METRICS) or {}
    splits = dict(metrics.get("splits") or {})
    licence = licences.find(task.config.dataset, task.config.data_dir)
    values = sentence_values(task)
    return {
        "format": FORMAT,
        "task": task.name,
        "preset": configuration["preset"],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "intended_use": task.facts.intended_use.format_map(values),
        "limits": task.facts.limits.format_map(values),
        "network": {
            "kind": task.config.model.kind,
            "parameters": parameters,
            "options": {name: value for name, value in configuration["model"].items() if name != "kind"},
        },
        "data": {
            "dataset": task.config.dataset,
            "description": splits.pop("description", None),
            "read": splits.pop("read", None),
            "left_out": splits.pop("left_out", None),
            "splits": splits or None,
            "licence": licence.terms,
            "licence_source": licence.source,
        },
        "metrics": {
            "validation": metrics.get("best"),
            "conditions": dict(task.facts.conditions),
            "evaluations": [scalars(read(file)) for file in sorted(run_dir.glob("evaluation-*.json"))],
        },
        "training": {"configuration": configuration}
        | {name: metrics.get(name) for name in ("steps", "seconds", "finished")},
        "calibration": read(run_dir / "calibration.json"),
        "weights": dict(weights),
        "formats": dict(formats),
        "signatures": {
            name: {**signature, "example": example_body(name, requests[name])} for name, signature in signatures.items()
        },
        "verification": {name: report[name] for name in ("tensorflow", "cpus", "batches")}
        | {"latency": {name: result["latency"] for name, result in report["signatures"].items()}},
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def scalars(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in evaluation.items() if not isinstance(value, list | dict)}


def sentence_values(task: Task) -> dict[str, Any]:
    """-> the values for the names in braces in the facts `intended_use` and `limits`."""
    options = {name: value for name, value in vars(task.config).items() if isinstance(value, str | int)}
    return options | task.card_values


def example_body(signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The first row of a request -> the body of a REST predict request (TensorFlow Serving's row form), or None if
    it is too long."""
    row = {name: to_json(value[0]) for name, value in inputs.items()}
    body = {"signature_name": signature, "instances": [row]}
    return body if len(json.dumps(body)) <= MAX_EXAMPLE_CHARACTERS else None


def to_json(value: Any) -> Any:
    """-> a value of a row as JSON: UTF-8 bytes as text, other bytes as {"b64": ...}."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    return value.tolist() if hasattr(value, "tolist") else value


def write(path: Path, card: Mapping[str, Any]) -> None:
    (path / FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", "utf-8")
