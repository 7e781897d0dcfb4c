"""Export: versions, recorded requests and answers, verification, model card, what servers are told."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from small_runs import TASKS
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.config import model_server_config_pb2

from kerasnets import card, deployment, recording, verify
from kerasnets.checks import RequestError
from kerasnets.data import licences
from kerasnets.export import export

EXTRA = "assets.extra"


def test_versions_count_up(runs, tmp_path):
    base = tmp_path / "digits"
    (base / "7").mkdir(parents=True)
    assert export(runs["image_classification"], tmp_path, "digits", "canary") == base / "8"
    (entry,) = read_config(tmp_path).values()
    assert entry.name == "digits" and dict(entry.version_labels) == {"canary": 8}
    assert not list(base.glob(".partial*"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(("a/b", None), "--name is 'a/b'"), ((None, "latest"), "no label 'latest'; choose one of canary, stable")],
)
def test_other_names_and_labels_are_refused(runs, tmp_path, options, sentence):
    with pytest.raises(RequestError, match=sentence):
        export(runs["image_classification"], tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_an_export_that_fails_its_verification_leaves_no_version(runs, tmp_path, monkeypatch):
    record = recording.record

    def record_something_else(signatures, requests, extra):
        def changed(**inputs):
            return {"probabilities": signatures["pixels"](**inputs)["probabilities"] + 0.01}

        record({**signatures, "pixels": changed}, requests, extra)

    monkeypatch.setattr(recording, "record", record_something_else)
    with pytest.raises(RuntimeError, match="pixels: probabilities differs from the answer at the export by 0.01"):
        export(runs["image_classification"], tmp_path)
    assert list((tmp_path / "image_classification").iterdir()) == []
    assert not (tmp_path / deployment.CONFIG).exists()


@pytest.mark.parametrize("task", TASKS)
def test_every_signature_has_a_request_for_warm_up_and_its_answer(models_dir, task):
    path = models_dir / task / "1"
    signatures = recording.signature_table(path)
    golden = {name: (inputs, outputs) for name, inputs, outputs in verify.golden_answers(path)}
    assert set(golden) == set(signatures)
    records = tf.data.TFRecordDataset(str(path / EXTRA / recording.WARMUP)).as_numpy_iterator()
    replayed = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
    assert sorted(request.model_spec.signature_name for request in replayed) == sorted(signatures)
    for request in replayed:
        inputs, outputs = golden[request.model_spec.signature_name]
        assert {k: tf.make_ndarray(v).tolist() for k, v in request.inputs.items()} == {
            k: v.tolist() for k, v in inputs.items()
        }
        described = signatures[request.model_spec.signature_name]
        assert set(inputs) == set(described["inputs"]) and set(outputs) == set(described["outputs"])
        assert all(len(value) <= 10 for value in inputs.values())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A SavedModel with a signature for the Classify RPC and an input that may be left out."""
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


def test_verification_tells_what_differs_is_missing_or_slow(classifier):
    path, _, functions = classifier
    extra = path / EXTRA
    extra.mkdir(exist_ok=True)
    numbers = {name: np.arange(3, dtype=np.float32) for name in "xy"}
    recording.record(functions, {"serving_default": numbers}, extra)
    report = verify.verify(path)
    assert report["failures"] == ["signature classify has no recorded request"]
    assert [batch["rows"] for batch in report["batches"]] == list(verify.ROWS)
    for latency in (report["signatures"]["serving_default"]["latency"], *report["batches"]):
        assert 0 < latency["p50"] <= latency["p99"] and latency["calls"] >= verify.FEWEST_CALLS
    texts = {"inputs": np.array(["a", "b"], object)}
    wrong = functions | {"serving_default": lambda x, y: {"sum": x + y + 1e-3, "more": x}}
    recording.record(wrong, {"serving_default": numbers, "classify": texts}, extra)
    report = verify.verify(path)
    (missing, differs) = report["failures"]
    assert missing.startswith("serving_default: more differs from the answer at the export by being there or not")
    assert differs.startswith("serving_default: sum differs from the answer at the export by 0.00")
    table = verify.table(report)
    assert differs in table and "classify" in table and "64:" in table


def test_slow_signatures_are_called_seldom(monkeypatch):
    calls = []
    monkeypatch.setattr(verify, "call", lambda signature, inputs: calls.append(len(inputs["x"])))
    clock = iter(np.arange(0, 1000, 0.3))
    monkeypatch.setattr(verify.time, "perf_counter", lambda: next(clock))
    measured = verify.batches(None, {"x": np.arange(3)})
    assert [batch["rows"] for batch in measured] == [1, 2, 4, 8, 16, 32, 64]  # 0.3 s a call
    assert set(calls) == {1, 2, 4, 8, 16, 32, 64} and len(calls) == 7 * (1 + verify.FEWEST_CALLS)
    clock = iter(np.arange(0, 1000, 0.6))
    assert [batch["rows"] for batch in verify.batches(None, {"x": np.arange(3)})] == [1]


def test_verification_takes_no_nan_and_no_missing_output():
    here, nan = {"y": np.zeros(2)}, {"y": np.array([0, np.nan])}
    for recorded, answer in [(here, nan), (nan, nan), (here, {}), ({}, here), (here, {"y": np.zeros(3)})]:
        report = {
            "unknown_operations": [],
            "signatures": {"f": {"difference": verify.differences(recorded, answer)}},
        }
        assert len(verify.failures(report, {"f"})) == 1
    report = {"unknown_operations": [], "signatures": {"f": {"difference": verify.differences(here, here)}}}
    assert verify.failures(report, {"f"}) == []


def test_differences_are_relative_where_numbers_are_large():
    assert verify.difference(np.array([0.5, -1000.0]), np.array([0.5, -1000.05])) == pytest.approx(5e-5)
    assert verify.difference(np.array([0.5]), np.array([0.6])) == pytest.approx(0.1)
    assert verify.difference(np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)) == 1


def test_verification_knows_the_operations_of_tensorflow_2_20(models_dir, monkeypatch, tmp_path):
    known = tmp_path / "operations.txt"
    known.write_text(verify.OPERATIONS.read_text().replace("\nDecodeImage\n", "\n"))
    path = models_dir / "image_classification" / "1"
    assert verify.unknown_operations(path) == []
    monkeypatch.setattr(verify, "OPERATIONS", known)
    assert verify.unknown_operations(path) == ["DecodeImage"]


# What a card holds: {key: its type, a tuple of types, or the same again for a table}; None: may be null.
TEXT, NUMBER = str, (int, float)
LATENCY = {"calls": int, "p50": NUMBER, "p99": NUMBER}
SCHEMA = {
    "format": int,
    "task": TEXT,
    "preset": TEXT,
    "created": TEXT,
    "intended_use": TEXT,
    "limits": TEXT,
    "network": {"kind": TEXT, "parameters": int, "options": dict},
    "data": {
        "dataset": TEXT,
        "description": (TEXT, None),
        "splits": (dict, None),
        "licence": TEXT,
        "licence_source": (TEXT, None),
    },
    "metrics": {"validation": (dict, None), "conditions": dict, "evaluations": list},
    "training": {
        "configuration": dict,
        "steps": (int, None),
        "seconds": (int, float, None),
        "finished": (TEXT, None),
    },
    "calibration": (dict, None),
    "weights": {"storage": TEXT, "megabytes_before": NUMBER, "megabytes_after": NUMBER},
    "signatures": dict,
    "verification": {"tensorflow": TEXT, "cpus": int, "latency": dict, "batches": list},
    "packages": dict.fromkeys(card.PACKAGES, TEXT),
}


def check(value, schema, where="card"):
    if isinstance(schema, dict):
        assert set(schema) <= set(value), where
        if where in ("card", "card.data", "card.network", "card.training"):
            assert set(value) == set(schema), where
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    else:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        assert any(value is None if kind is None else type(value) is kind for kind in kinds), f"{where}: {value!r}"


@pytest.mark.parametrize("task", TASKS)
def test_the_card_tells_what_the_model_is(models_dir, runs, task):
    path = models_dir / task / "1"
    read = json.loads((path / EXTRA / card.FILE).read_text())
    check(read, SCHEMA)
    metrics = json.loads((runs[task] / "metrics.json").read_text())
    assert read["format"] == card.FORMAT and read["task"] == task and read["preset"] == "quick"
    assert read["network"]["parameters"] == metrics["parameters"]
    assert read["metrics"]["validation"] == metrics["best"]
    assert set(read["data"]["splits"]) >= {"train", "validation", "test"} and read["data"]["licence"] != "unknown"
    assert read["calibration"]["temperature"] > 0
    assert read["weights"]["megabytes_before"] == pytest.approx(4e-6 * metrics["parameters"], rel=0.02)
    assert "{" not in read["intended_use"] + read["limits"]
    signatures = recording.signature_table(path)
    assert set(read["signatures"]) == set(signatures) == set(read["verification"]["latency"])
    for name, signature in read["signatures"].items():
        check(read["verification"]["latency"][name], LATENCY)
        assert {key: value for key, value in signature.items() if key != "example"} == signatures[name]
        if signature["example"] is not None:
            (row,) = signature["example"]["instances"]
            assert set(row) == set(signature["inputs"]) and signature["example"]["signature_name"] == name


def test_the_card_of_a_run_that_is_not_over_says_null(runs, tmp_path):
    from kerasnets.loading import open_model

    run = tmp_path / "run"
    shutil.copytree(runs["text_generation"], run)
    for file in ("metrics.json", "calibration.json"):
        (run / file).unlink()
    (run / "evaluation-test.json").write_text('{"split": "test", "loss": 1.5, "classes": ["a"], "scored": "all"}')
    task = open_model(run).task
    report = {"tensorflow": "2.20.0", "cpus": 2, "batches": [], "signatures": {}}
    weights = {"storage": "float32", "megabytes_before": 1.0, "megabytes_after": 1.0}
    made = card.make(task, 5, run, {}, {}, report, weights)
    check(json.loads(json.dumps(made)), SCHEMA)
    assert made["metrics"]["evaluations"] == [{"split": "test", "loss": 1.5, "scored": "all"}]
    assert made["calibration"] is None and made["data"]["splits"] is None and made["training"]["steps"] is None


def test_long_examples_are_left_out():
    assert card.example_body("pixels", {"pixels": np.zeros((1, 200, 200, 3), np.float32)}) is None
    inputs = {"image_bytes": np.array([b"\x89PNG", b"other"], object), "seed": np.array([7], np.int64)}
    assert card.example_body("f", inputs) == {
        "signature_name": "f",
        "instances": [{"image_bytes": {"b64": "iVBORw=="}, "seed": 7}],
    }


def test_licences_of_data(tmp_path):
    for name in ("digits", "pydocs", "cldr", "mnist", "cifar10", "multi30k", "tiny_shakespeare"):
        assert licences.find(name).source.startswith("https://"), name
    assert licences.find("file:book.txt") == licences.find("folder:photos") == licences.UNKNOWN
    assert licences.find("flowers", str(tmp_path)) == licences.UNKNOWN
    info = tmp_path / "flowers" / "2.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"redistributionInfo": {"license": "CC0"}, "location": {"urls": ["https://flowers"]}}')
    assert licences.find("flowers", str(tmp_path)) == ("CC0", "https://flowers")
    assert licences.find("mnist:3.0.1") == licences.find("mnist")


def add_version(models, name, *numbers):
    for number in numbers:
        (models / name / str(number)).mkdir(parents=True)
        (models / name / str(number) / "saved_model.pb").touch()


def read_config(models):
    config = model_server_config_pb2.ModelServerConfig()
    text_format.Parse((models / deployment.CONFIG).read_text(), config)
    return {entry.name: entry for entry in config.model_config_list.config}


def test_every_model_has_an_entry(tmp_path):
    add_version(tmp_path, "a", 1)
    add_version(tmp_path, "b", 1, 2)
    (tmp_path / "notes" / "1").mkdir(parents=True)
    deployment.update_config(tmp_path, "b", 2)
    entries = read_config(tmp_path)
    assert set(entries) == {"a", "b"} and entries["a"].base_path == str(tmp_path / "a")
    assert entries["a"].model_platform == "tensorflow"
    assert not any(entry.HasField("model_version_policy") or entry.version_labels for entry in entries.values())
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [deployment.CONFIG]


def test_labels_stay_and_move(tmp_path):
    def labels(number, label):
        add_version(tmp_path, "a", number)
        deployment.update_config(tmp_path, "a", number, label)
        entry = read_config(tmp_path)["a"]
        return dict(entry.version_labels), list(entry.model_version_policy.specific.versions)

    assert labels(1, "stable") == ({"stable": 1}, [1])
    assert labels(2, "canary") == ({"stable": 1, "canary": 2}, [1, 2])
    assert labels(3, None) == ({"stable": 1, "canary": 2}, [1, 2, 3])
    assert labels(4, "stable") == ({"stable": 4, "canary": 2}, [2, 4])
    shutil.rmtree(tmp_path / "a" / "2")
    assert labels(5, "stable") == ({"stable": 5}, [5])
    shutil.rmtree(tmp_path / "a" / "5")
    assert labels(6, None) == ({}, [])
    assert not read_config(tmp_path)["a"].HasField("model_version_policy")


def test_what_else_is_set_is_kept(tmp_path):
    add_version(tmp_path, "a", 1)
    add_version(tmp_path, "b", 1)
    deployment.update_config(tmp_path, "a", 1)
    path = tmp_path / deployment.CONFIG
    other = 'config { name: "c" base_path: "/elsewhere/c" model_platform: "tensorflow" }'
    text = path.read_text().replace('platform: "tensorflow"', 'platform: "tensorflow" model_version_policy { all {} }')
    path.write_text(text.rstrip().removesuffix("}") + other + "}")
    shutil.rmtree(tmp_path / "b")
    deployment.update_config(tmp_path, "a", 1, "stable")
    entries = read_config(tmp_path)
    assert set(entries) == {"a", "c"}
    assert entries["a"].model_version_policy.HasField("all") and entries["a"].version_labels["stable"] == 1


@pytest.mark.parametrize("text", ["# mine\nmodel_config_list {}", f"{deployment.GENERATED}\nmodel_config_list {{"])
def test_a_file_of_ones_own_is_left_alone(tmp_path, capsys, text):
    add_version(tmp_path, "a", 1)
    path = tmp_path / deployment.CONFIG
    path.write_text(text)
    deployment.update_config(tmp_path, "a", 1, "canary")
    assert path.read_text() == text
    printed = capsys.readouterr().err
    assert "is left as it is" in printed and 'version_labels { key: "canary" value: 1 } to a' in printed


@pytest.fixture(scope="module")
def batching_parameters():
    """TensorFlow Serving's message, whose Python class no package ships."""
    file = descriptor_pb2.FileDescriptorProto(
        name="batching.proto", package="b", dependency=[wrappers_pb2.DESCRIPTOR.name]
    )
    message = file.message_type.add(name="BatchingParameters")
    numbers = ("max_batch_size", "batch_timeout_micros", "num_batch_threads", "max_execution_batch_size")
    for number, name in enumerate((*numbers, "enable_large_batch_splitting"), start=1):
        wrapper = "Int64Value" if name in numbers else "BoolValue"
        message.field.add(name=name, number=number, type=11, label=1, type_name=f".google.protobuf.{wrapper}")
    message.field.add(name="allowed_batch_sizes", number=9, type=3, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("b.BatchingParameters"))


@pytest.mark.parametrize(
    ("latencies", "size", "wait"),
    [
        ([1, 1.1, 1.2, 1.3, 1.6, 2.7, 5.3], 32, 500),  # 10, 11.9 and 12.1 rows a millisecond at 16, 32 and 64
        ([2, 4, 8], 1, 0),  # a batch gains nothing
        ([3.0], 1, 0),
    ],
)
def test_batches_are_as_small_as_is_fast(batching_parameters, latencies, size, wait):
    batches = [{"rows": 2**n, "p50": latency} for n, latency in enumerate(latencies)]
    text = deployment.batching(batches, cpus=4)
    parameters = text_format.Parse(text, batching_parameters())
    assert parameters.max_execution_batch_size.value == size
    assert list(parameters.allowed_batch_sizes) == [2**n for n in range(size.bit_length())]
    assert parameters.batch_timeout_micros.value == wait and parameters.num_batch_threads.value == 4
    assert parameters.max_batch_size.value >= size and parameters.enable_large_batch_splitting.value


@pytest.mark.parametrize("task", TASKS)
def test_exports_have_batching_parameters(models_dir, batching_parameters, task):
    parameters = text_format.Parse((models_dir / task / "1" / deployment.BATCHING).read_text(), batching_parameters())
    assert parameters.allowed_batch_sizes[-1] == parameters.max_execution_batch_size.value
