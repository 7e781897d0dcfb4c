"""`python -m kerasnets.export RUN_DIR`: writes a SavedModel for TensorFlow Serving, and verifies it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from kerasnets import config as configuration
from kerasnets import examples as example_file
from kerasnets.checks import RequestError
from kerasnets.command import Options, run, start_tensorflow

DESCRIPTION = """Writes the model of a training run as MODELS_DIR/NAME/VERSION, a SavedModel for TensorFlow Serving that
needs nothing but TensorFlow, and verifies it in a fresh process."""


def main(arguments: list[str]) -> None:
    options = Options("kerasnets.export", DESCRIPTION)
    options.add("run_dir", metavar="RUN_DIR", help="what `python -m kerasnets.train` left")
    options.add("--models-dir", default="models", metavar="DIR", help="where a server looks for models")
    options.add("--name", metavar="N", help="name of the model on the server (default: the task)")
    given = options.parse(arguments)
    export(Path(given.run_dir), Path(given.models_dir), given.name)


def export(run_dir: Path, models_dir: Path, name: str | None = None) -> Path:
    """Exports a run's best model under the next free version.

    It is written aside and renamed once it has been verified, so that a server that watches the directory never sees
    half a version or a bad one.

    Returns: the version's directory.
    Raises: RequestError if the run has no model yet; RuntimeError if the verification fails.
    """
    task_name, _, config = configuration.load(run_dir / "config.toml")
    if not (run_dir / "model.keras").exists():
        raise RequestError(f"{run_dir} has no model yet; train at least one epoch of it.")
    name = name or task_name
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RequestError(f"--name is {name!r}; use letters, digits, dots, dashes and underscores.")
    start_tensorflow()
    base = models_dir / name
    base.mkdir(parents=True, exist_ok=True)
    partial = base / f".partial-{os.getpid()}"  # no number: servers take it for no version
    try:
        write(task_name, config, run_dir, partial)
        report = verify(partial)
        version = next_version(base)
        os.rename(partial, version)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for signature, result in report["signatures"].items():
        worst = max((v for v in result["difference"].values() if isinstance(v, float)), default=0.0)
        count, time = result["examples"], result["milliseconds"]
        print(f"  {signature:16} {count} examples  differs by {worst:.1e}  {time} ms a call")
    print(f"exported and verified: {version}")
    return version


def next_version(base: Path) -> Path:
    versions = [int(path.name) for path in base.iterdir() if path.name.isdecimal()]
    return base / str(max(versions, default=0) + 1)


def write(task_name: str, config: Any, run_dir: Path, path: Path) -> None:
    """Writes the SavedModel with its extra assets: configuration, vocabulary, examples and recorded requests."""
    import keras

    from kerasnets.tasks import make_task

    task = make_task(task_name, config, run_dir)
    model = keras.models.load_model(run_dir / "model.keras")
    signatures = task.signatures(model)
    archive = keras.export.ExportArchive()
    archive.track(model)
    if hasattr(task, "vocabulary"):
        archive.track(task.vocabulary)
    for signature, function in signatures.items():
        archive.add_endpoint(signature, function)
    archive.write_out(str(path), verbose=False)
    extra = path / "assets.extra"
    extra.mkdir()
    task.save(extra)
    for file in ("config.toml", "examples.json"):
        shutil.copy(run_dir / file, extra)
    record(task_name, task, signatures, example_file.load(run_dir / "examples.json"), extra)


def record(name: str, task: Any, signatures: dict[str, Any], examples: list[dict[str, Any]], extra: Path) -> None:
    """Writes requests and the answers of the model in this process. TensorFlow Serving replays the requests when it
    loads the model (warm-up); `verify` compares the answers."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for signature, inputs in task.requests(examples).items():
            answers = signatures[signature](**{key: tf.constant(value) for key, value in inputs.items()})
            log = prediction_log_pb2.PredictionLog()
            for spec in (log.predict_log.request.model_spec, log.predict_log.response.model_spec):
                spec.name, spec.signature_name = name, signature
            for key, value in inputs.items():
                log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            for key, value in answers.items():
                log.predict_log.response.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            file.write(log.SerializeToString())


def verify(path: Path) -> dict[str, Any]:
    """-> the report of `verify.py`, run in a process of its own."""
    program = Path(__file__).with_name("verify.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", str(program), str(path)], capture_output=True, text=True, env=environment, check=False
    )
    try:
        report = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        raise RuntimeError(f"the exported model cannot be loaded and run by itself: {done.stderr[-2000:]}") from None
    if report["failures"]:
        raise RuntimeError(f"the exported model fails its verification: {'; '.join(report['failures'])}")
    return report


if __name__ == "__main__":
    run(main)
