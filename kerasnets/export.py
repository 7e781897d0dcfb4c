"""`python -m kerasnets.export RUN_DIR`: write a SavedModel for TensorFlow Serving, and verify it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerasnets.calibration.temperature import FILE as CALIBRATION
from kerasnets.checks import RequestError, choose
from kerasnets.command import Options, run, start_tensorflow
from kerasnets.config.run import Config
from kerasnets.run import config_file, fingerprint
from kerasnets.run import examples as example_file
from kerasnets.run.files import CONFIG, EXAMPLES, MODEL, RESULTS, check_json, check_model, load_model
from kerasnets.saved_model import artifacts, deployment
from kerasnets.saved_model import model_card as card
from kerasnets.tasks import Task, get_facts, make_task
from kerasnets.verify import table

if TYPE_CHECKING:
    from kerasnets.saved_model.compression import CompressedModel

DESCRIPTION = """Writes the model of a training run as MODELS_DIR/NAME/VERSION, a SavedModel for TensorFlow Serving that
needs nothing but TensorFlow, and verifies it in a fresh process. Also writes a model card, a batching
configuration derived from measured latencies, and MODELS_DIR/models.config for servers."""
EXTRA = "assets.extra"


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.export", DESCRIPTION)
    options.add("run_dir", metavar="RUN_DIR", help="output of `kerasnets.train`")
    options.add(
        "--models-dir", default="models", metavar="DIR", help="directory of the server's models (default: models)"
    )
    options.add("--name", metavar="N", help="name of the model on the server (default: the task)")
    options.add(
        "--label",
        metavar="L",
        help="stable or canary: version label by which clients request this version; the other label does not move",
    )
    options.add(
        "--weights",
        default="float32",
        metavar="STORAGE",
        help="storage of the weights: float32 (default), float16 (half the size) or int8 (a quarter); computation is "
        "in float32. The model card states the effect on the validation split",
    )
    options.add(
        "--format",
        default="",
        metavar="F,F",
        help="further formats: litert, onnx; writes the network, from pixels or tokens to logits, as "
        "assets.extra/model.tflite or assets.extra/model.onnx",
    )
    args = options.parse(arguments)
    formats = [name for name in args.format.split(",") if name]
    export(Path(args.run_dir), Path(args.models_dir), args.name, args.label, args.weights, formats)


def export(
    run_dir: Path,
    models_dir: Path,
    name: str | None = None,
    label: str | None = None,
    storage: str = "float32",
    formats: Iterable[str] = (),
) -> Path:
    """Export a run's best model under the next free version.

    The version is written to a temporary directory, verified and then renamed, so that a server that watches the
    models never sees an incomplete or faulty version.

    Args: storage, formats: see `artifacts`.
    Returns: the version's directory.
    Raises: RequestError if the run has no model yet; RuntimeError if the verification fails, or, with the SavedModel in
        place, if one of the other formats could not be written.
    """
    task_name, _, config = config_file.load(run_dir / CONFIG)
    if not (run_dir / MODEL).exists():
        raise RequestError(f"{run_dir} has no model yet; train at least one epoch of it.")
    check_json(run_dir, (get_facts(task_name).vocabulary_file, EXAMPLES), RESULTS)
    check_model(run_dir / MODEL)
    name = name or task_name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(f"--name is {name!r}; it must consist of letters, digits, dots, dashes and underscores.")
    if label is not None:
        choose("label", label, deployment.LABELS)
    choose("storage of weights", storage, artifacts.STORAGES)
    formats = artifacts.check_formats(formats)
    start_tensorflow()
    base = models_dir / name
    base.mkdir(parents=True, exist_ok=True)
    partial = base / f".partial-{os.getpid()}"  # not a number, so servers ignore it
    try:
        report = write(task_name, config, run_dir, partial, storage, formats)
        version = next_version(base)
        os.rename(partial, version)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    deployment.update_config(models_dir, name, int(version.name), label)
    print(table(report))
    if storage != "float32":
        from kerasnets.saved_model.compression import summary

        print(summary(report["weights"]))
    print(f"exported and verified: {version}")
    if failures := [result["failed"] for result in report["formats"].values() if "failed" in result]:
        raise RuntimeError(f"{version} is complete except for its other formats: {' '.join(failures)}")
    return version


def next_version(base: Path) -> Path:
    versions = [int(path.name) for path in base.iterdir() if path.name.isdecimal()]
    return base / str(max(versions, default=0) + 1)


def write(
    task_name: str, config: Config, run_dir: Path, path: Path, storage: str = "float32", formats: Iterable[str] = ()
) -> dict[str, Any]:
    """Write the SavedModel, verify it, and write its model card and batching configuration.

    Returns: the report of `verify.py`, with those of `compression` and `formats`.
    """
    from kerasnets.saved_model import compression, recording

    task = make_task(task_name, config, run_dir)
    report_changes(task, run_dir, storage != "float32")
    model = load_model(run_dir / MODEL)
    requests = task.requests(example_file.load(run_dir / "examples.json"))
    compressed = compression.CompressedModel(model, storage)
    save(task, compressed, requests, path)
    for file in (CONFIG, EXAMPLES, CALIBRATION):
        if (run_dir / file).exists():
            shutil.copy(run_dir / file, path / EXTRA)
    fingerprint.copy_without_names(run_dir, path / EXTRA)
    report = verify(path)
    weights = compression.card(task, compressed)
    format_results: dict[str, Any] = {}
    if formats:
        from kerasnets.saved_model.formats import write_all

        with compressed.rounded_weights() as rounded_model:
            format_results = write_all(task.array_network(rounded_model), formats, path / EXTRA)
    signatures = recording.signature_table(path)
    contents = card.make(task, model.count_params(), run_dir, signatures, requests, report, weights, format_results)
    card.write(path / EXTRA, contents)
    (path / deployment.BATCHING).write_text(deployment.batching(report["batches"], report["cpus"]), "utf-8")
    return report | {"weights": weights, "formats": format_results}


def report_changes(task: Task, run_dir: Path, measure: bool) -> None:
    """Print how the data, if present, have changed since the training.

    An export contains weights and no data, so it works with changed data, except for numbers that are measured on the
    validation split.

    Raises: RequestError if the data have changed and `measure` is set: the export measures such numbers.
    """
    changes = fingerprint.check_exported(run_dir, task, measure)
    if changes and measure:
        raise RequestError(
            f"{task.config.dataset} has changed since the training: {changes}; restore the data, on which the effect "
            "of --weights is measured, or export with --weights float32."
        )
    if changes:
        print(
            f"{task.config.dataset} has changed since the training: {changes}; the model was trained on the old data.",
            file=sys.stderr,
        )


def save(task: Task, compressed: "CompressedModel", requests: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the SavedModel with the vocabulary or the classes, and the requests with this process's outputs.

    It is for inference: it holds the weights that the signatures use, but neither layer objects nor custom gradients,
    which would take most of the file and of the time.
    """
    import tensorflow as tf

    from kerasnets.saved_model import recording
    from kerasnets.saved_model.simplification import simplify

    signatures = compressed.signatures(task)
    # Keras's ExportArchive also stores the functions themselves, which TensorFlow then traces a second time.
    graphs = {name: function.get_concrete_function() for name, function in signatures.items()}
    module = tf.Module()
    module.weights = list({id(v): v for function in graphs.values() for v in function.graph.variables}.values())
    module.tables = task.tables()
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(path), graphs, options)
    simplify(path)
    recording.complete_signatures(path, task.defaults(compressed.model))
    extra = path / EXTRA
    extra.mkdir()
    task.save(extra)
    recording.record(signatures, requests, extra)


def verify(path: Path) -> dict[str, Any]:
    """-> the report of `verify.py`, run in a separate process."""
    program = Path(__file__).with_name("verify.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-P", str(program), str(path), "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    try:
        report = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise RuntimeError(f"the exported model cannot be loaded and run by itself: {process.stderr[-2000:]}") from None
    if report["failures"]:
        raise RuntimeError(f"the exported model fails its verification: {'; '.join(report['failures'])}")
    return report


if __name__ == "__main__":
    run(main)
