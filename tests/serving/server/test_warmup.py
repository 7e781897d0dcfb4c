"""Warm-up records: all four methods are replayed, whatever fails fails the load."""

import pytest
import tensorflow as tf
from serving_helpers import build_heads, example_of
from tensorflow.core.protobuf import config_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.api.inference import CLASSIFY, REGRESS
from serving.api.predict import Settings
from serving.engine.servable import Servable
from serving.errors import StatusError
from serving.models.storage import WARMUP_FILE
from serving.server.warmup import MAX_RECORDS, warm_up


class Counted(Servable):
    """Counts its runs."""

    runs = 0

    def run(self, feeds, fetches):
        self.runs += 1
        return super().run(feeds, fetches)


@pytest.fixture
def heads(tmp_path):
    """A model of many signatures, not run yet and without records."""
    build_heads(tmp_path / "7")
    servable = Counted(str(tmp_path / "7"), ["serve"], config_pb2.ConfigProto())
    yield servable
    servable.close()


def store(servable, *records):
    path = servable.path + "/" + WARMUP_FILE
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())
    return path


def replay(servable, iterations=1, settings=None):
    return warm_up(servable, 7, settings or Settings(), iterations)


def failure(servable):
    with pytest.raises(StatusError) as caught:
        replay(servable)
    return caught.value.code, caught.value.message


def predict_log():
    record = prediction_log_pb2.PredictionLog()
    request = record.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "model", "number"
    request.inputs["number"].CopyFrom(tf.make_tensor_proto([1.0, 2.0]))
    return record


def classify_log(signature=""):
    record = prediction_log_pb2.PredictionLog()
    request = record.classify_log.request
    request.model_spec.name, request.model_spec.signature_name = "model", signature
    request.input.example_list.examples.append(example_of(x=1.0))
    return record


def regress_log():
    record = prediction_log_pb2.PredictionLog()
    request = record.regress_log.request
    request.model_spec.name, request.model_spec.signature_name = "model", "value"
    request.input.example_list.examples.append(example_of(x=1.0))
    return record


def multi_inference_log():
    record = prediction_log_pb2.PredictionLog()
    request = record.multi_inference_log.request
    for signature, method in (("value", REGRESS), ("scores", CLASSIFY)):
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "model", signature
    request.input.example_list.examples.append(example_of(x=1.0))
    return record


def test_nothing_to_replay(heads):
    assert (replay(heads), heads.runs) == (0, 0)
    store(heads)
    assert (replay(heads), heads.runs) == (0, 0)


@pytest.mark.parametrize(("iterations", "runs"), [(0, 4), (1, 4), (3, 12)])
def test_records_of_all_methods_are_run(heads, iterations, runs):
    store(heads, predict_log(), classify_log(), regress_log(), multi_inference_log())
    assert (replay(heads, iterations), heads.runs) == (4, runs)


def test_a_record_of_nothing_counts_and_runs_nothing(heads):
    store(heads, b"", predict_log())
    assert (replay(heads), heads.runs) == (2, 1)


@pytest.mark.parametrize(("kind", "case"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_records_that_cannot_be_replayed(heads, kind, case):
    record = prediction_log_pb2.PredictionLog()
    getattr(record, kind).SetInParent()
    store(heads, record)
    assert failure(heads) == ("UNIMPLEMENTED", f"Unsupported log_type for warmup: {case}")


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("nope", "No signature was found with the name: nope"),  # the request is wrong
        ("no_strings", "Expects arg[0] to be float but string is provided"),
        ("short", "Expected scores output batch size of 1. Got: 0"),  # so is the response
    ],
)
def test_the_first_failure_ends_it(heads, signature, text):
    store(heads, predict_log(), classify_log(signature), predict_log())
    assert failure(heads) == ("INVALID_ARGUMENT", text)
    assert heads.runs == (2 if signature == "short" else 1)


def test_failures_of_the_graph_are_passed_on(heads):
    record = classify_log()
    record.classify_log.request.input.example_list.examples[0].Clear()
    store(heads, record)
    code, text = failure(heads)
    assert (code, "is required but could not be found" in text) == ("INVALID_ARGUMENT", True)


def test_settings_hold_for_warm_up(heads):
    store(heads, classify_log("scores"))
    assert replay(heads, settings=Settings(check_method_name=True)) == 1
    store(heads, classify_log("value"))
    with pytest.raises(StatusError, match="Expected classification signature method_name"):
        replay(heads, settings=Settings(check_method_name=True))


def test_at_most_a_thousand_records(heads):
    path = store(heads, *[b""] * MAX_RECORDS)
    assert replay(heads) == MAX_RECORDS
    store(heads, *[b""] * (MAX_RECORDS + 1))
    text = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
    assert failure(heads) == ("INVALID_ARGUMENT", text)


def test_a_record_that_is_no_log(heads):
    path = store(heads, b"\xff\xff")
    assert failure(heads) == ("INVALID_ARGUMENT", f"Failed to parse warmup record: �� from {path}")


def test_files_that_are_damaged(heads):
    path = store(heads, predict_log(), predict_log())
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) - 3)
    code, text = failure(heads)
    assert code == "DATA_LOSS"
    assert text.startswith("truncated record")
    assert text.endswith(". Please verify your warmup data is in TFRecord format.")
    assert heads.runs == 1, "what came before the damage is replayed"
    with open(path, "wb") as file:
        file.write(b"these are no records")
    code, text = failure(heads)
    assert (code, text.startswith("corrupted record at 0")) == ("DATA_LOSS", True)
