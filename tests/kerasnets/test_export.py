"""Export: versions, recorded requests and outputs, verification."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from small_runs import TASKS
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from kerasnets import verify
from kerasnets.checks import RequestError
from kerasnets.export import EXTRA, export
from kerasnets.saved_model import deployment, recording


@pytest.mark.usefixtures("verify_in_process")
def test_an_export_gets_the_next_version(runs, tmp_path):
    base = tmp_path / "digits"
    (base / "7").mkdir(parents=True)
    assert export(runs["image_classification"], tmp_path, "digits", "canary") == base / "8"
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((tmp_path / deployment.CONFIG).read_text(), config)
    (entry,) = config.model_config_list.config
    assert entry.name == "digits" and dict(entry.version_labels) == {"canary": 8}
    assert not list(base.glob(".partial*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(("a/b", None), "--name is 'a/b'"), ((None, "latest"), "no label 'latest'; choose one of canary, stable")],
)
def test_wrong_names_and_labels_are_rejected(runs, tmp_path, options, message):
    with pytest.raises(RequestError, match=message):
        export(runs["image_classification"], tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_its_verification_leaves_no_version(runs, tmp_path, monkeypatch):
    record = recording.record

    def record_wrong_outputs(signatures, requests, extra):
        def wrong_pixels(**inputs):
            return {"probabilities": signatures["pixels"](**inputs)["probabilities"] + 0.01}

        record({**signatures, "pixels": wrong_pixels}, requests, extra)

    monkeypatch.setattr(recording, "record", record_wrong_outputs)
    with pytest.raises(RuntimeError, match="pixels: probabilities differs from the recorded output: 0.01"):
        export(runs["image_classification"], tmp_path)
    assert list((tmp_path / "image_classification").iterdir()) == []
    assert not (tmp_path / deployment.CONFIG).exists()


@pytest.mark.parametrize("task", TASKS)
def test_every_signature_has_a_warm_up_request_and_golden_answers(models_dir, task):
    path = models_dir / task / "1"
    signatures = recording.signature_table(path)
    golden = {name: (inputs, outputs) for name, inputs, outputs in verify.golden_answers(path)}
    assert set(golden) == set(signatures)
    records = tf.data.TFRecordDataset(str(path / EXTRA / recording.WARMUP)).as_numpy_iterator()
    warm_up = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
    assert sorted(request.model_spec.signature_name for request in warm_up) == sorted(signatures)
    for request in warm_up:
        inputs, outputs = golden[request.model_spec.signature_name]
        assert {k: tf.make_ndarray(v).tolist() for k, v in request.inputs.items()} == {
            k: v.tolist() for k, v in inputs.items()
        }
        signature = signatures[request.model_spec.signature_name]
        assert set(inputs) == set(signature["inputs"]) and set(outputs) == set(signature["outputs"])
        assert all(len(value) <= 10 for value in inputs.values())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A SavedModel with a signature for the Classify RPC and an optional input; its old fingerprint; its functions."""
    path = tmp_path_factory.mktemp("classifier") / "1"
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
    def classify(inputs):
        return {"classes": inputs[:, tf.newaxis], "scores": tf.ones((tf.size(inputs), 1))}

    @tf.function(input_signature=[tf.TensorSpec((None,), name="x"), tf.TensorSpec((None,), name="y")])
    def add(x, y):
        return {"sum": x + y}

    tf.saved_model.save(module, str(path), {"classify": classify, "serving_default": add})
    before = tf.saved_model.experimental.read_fingerprint(str(path))
    recording.complete_signatures(path, {"serving_default": {"y": np.array([2], np.float32)}})
    return path, before, {"classify": classify, "serving_default": add}


def test_method_names_and_defaults_are_completed(classifier):
    path, before, _ = classifier
    definitions = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
    signatures = definitions.signature_def
    assert signatures["classify"].method_name == "tensorflow/serving/classify"
    assert signatures["serving_default"].method_name == "tensorflow/serving/predict"
    assert tf.make_ndarray(signatures["serving_default"].defaults["y"]) == [2]
    after = tf.saved_model.experimental.read_fingerprint(str(path))
    assert after.signature_def_hash != before.signature_def_hash
    assert after.graph_def_program_hash == before.graph_def_program_hash
    assert tf.saved_model.load(str(path)).signatures["classify"](tf.constant(["a"]))["classes"].numpy() == [[b"a"]]


def test_verification_reports_differences_missing_requests_and_latencies(classifier):
    path, _, functions = classifier
    extra = path / EXTRA
    extra.mkdir(exist_ok=True)
    numbers = {name: np.arange(3, dtype=np.float32) for name in "xy"}
    recording.record(functions, {"serving_default": numbers}, extra)
    report = verify.verify(path)
    assert report["failures"] == ["signature classify has no recorded request"]
    assert [batch["rows"] for batch in report["batches"]] == list(verify.ROWS)
    for latency in (report["signatures"]["serving_default"]["latency"], *report["batches"]):
        assert 0 < latency["p50"] <= latency["p99"] and latency["calls"] >= verify.MIN_CALLS
    texts = {"inputs": np.array(["a", "b"], object)}
    wrong = functions | {"serving_default": lambda x, y: {"sum": x + y + 1e-3, "more": x}}
    recording.record(wrong, {"serving_default": numbers, "classify": texts}, extra)
    report = verify.verify(path)
    (unexpected, different) = report["failures"]
    assert unexpected.startswith("serving_default: more differs from the recorded output: missing or unexpected")
    assert different.startswith("serving_default: sum differs from the recorded output: 0.00")
    table = verify.table(report)
    assert different in table and "classify" in table and "64:" in table


def test_slow_signatures_are_called_few_times(monkeypatch):
    calls = []
    monkeypatch.setattr(verify, "call", lambda signature, inputs: calls.append(len(inputs["x"])))
    clock = iter(np.arange(0, 1000, 0.3))
    monkeypatch.setattr(verify.time, "perf_counter", lambda: next(clock))
    batches = verify.batches(None, {"x": np.arange(3)})
    assert [batch["rows"] for batch in batches] == [1, 2, 4, 8, 16, 32, 64]  # 0.3 s per call
    assert set(calls) == {1, 2, 4, 8, 16, 32, 64} and len(calls) == 7 * (1 + verify.MIN_CALLS)
    clock = iter(np.arange(0, 1000, 0.6))
    assert [batch["rows"] for batch in verify.batches(None, {"x": np.arange(3)})] == [1]


def test_verification_rejects_nan_and_missing_outputs():
    zeros, nan = {"y": np.zeros(2)}, {"y": np.array([0, np.nan])}
    for recorded, outputs in [(zeros, nan), (nan, nan), (zeros, {}), ({}, zeros), (zeros, {"y": np.zeros(3)})]:
        report = {
            "unknown_operations": [],
            "signatures": {"f": {"difference": verify.differences(recorded, outputs)}},
        }
        assert len(verify.failures(report, {"f"})) == 1
    report = {"unknown_operations": [], "signatures": {"f": {"difference": verify.differences(zeros, zeros)}}}
    assert verify.failures(report, {"f"}) == []


def test_differences_of_large_numbers_are_relative():
    assert verify.difference(np.array([0.5, -1000.0]), np.array([0.5, -1000.05])) == pytest.approx(5e-5)
    assert verify.difference(np.array([0.5]), np.array([0.6])) == pytest.approx(0.1)
    assert verify.difference(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)) == 1


def test_verification_knows_the_operations_of_tensorflow_2_20(models_dir, monkeypatch, tmp_path):
    operations = tmp_path / "operations.txt"
    operations.write_text(verify.OPERATIONS.read_text().replace("\nDecodeImage\n", "\n"))
    path = models_dir / "image_classification" / "1"
    assert verify.unknown_operations(path) == []
    monkeypatch.setattr(verify, "OPERATIONS", operations)
    assert verify.unknown_operations(path) == ["DecodeImage"]
