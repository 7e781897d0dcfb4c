"""Warm-up records: requests of all four methods are replayed, and any failure fails the load."""

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


class CountingServable(Servable):
    """Counts its runs."""

    runs = 0

    def run(self, feeds, fetches):
        self.runs += 1
        return super().run(feeds, fetches)


@pytest.fixture
def heads(tmp_path):
    """A model of many signatures, without records and not run yet."""
    build_heads(tmp_path / "7")
    servable = CountingServable(str(tmp_path / "7"), ["serve"], config_pb2.ConfigProto())
    yield servable
    servable.close()


def write_records(servable, *records):
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
    write_records(heads)
    assert (replay(heads), heads.runs) == (0, 0)


@pytest.mark.parametrize(("iterations", "runs"), [(0, 4), (1, 4), (3, 12)])
def test_records_of_all_methods_are_run(heads, iterations, runs):
    write_records(heads, predict_log(), classify_log(), regress_log(), multi_inference_log())
    assert (replay(heads, iterations), heads.runs) == (4, runs)


def test_empty_record_is_counted_but_not_run(heads):
    write_records(heads, b"", predict_log())
    assert (replay(heads), heads.runs) == (2, 1)


@pytest.mark.parametrize(("kind", "case"), [("session_run_log", 5), ("predict_streamed_log", 7)])
def test_unsupported_records_are_rejected(heads, kind, case):
    record = prediction_log_pb2.PredictionLog()
    getattr(record, kind).SetInParent()
    write_records(heads, record)
    assert failure(heads) == ("UNIMPLEMENTED", f"Unsupported log_type for warmup: {case}")


@pytest.mark.parametrize(
    ("signature", "text"),
    [
        ("nope", "No signature was found with the name: nope"),  # the request is wrong
        ("no_strings", "Expects arg[0] to be float but string is provided"),
        ("short", "Expected scores output batch size of 1. Got: 0"),  # so is the response
    ],
)
def test_first_failure_stops_the_replay(heads, signature, text):
    write_records(heads, predict_log(), classify_log(signature), predict_log())
    assert failure(heads) == ("INVALID_ARGUMENT", text)
    assert heads.runs == (2 if signature == "short" else 1)


def test_graph_errors_propagate(heads):
    record = classify_log()
    record.classify_log.request.input.example_list.examples[0].Clear()
    write_records(heads, record)
    code, text = failure(heads)
    assert (code, "is required but could not be found" in text) == ("INVALID_ARGUMENT", True)


def test_settings_apply_to_warm_up(heads):
    write_records(heads, classify_log("scores"))
    assert replay(heads, settings=Settings(check_method_name=True)) == 1
    write_records(heads, classify_log("value"))
    with pytest.raises(StatusError, match="Expected classification signature method_name"):
        replay(heads, settings=Settings(check_method_name=True))


def test_number_of_records_is_limited(heads):
    path = write_records(heads, *[b""] * MAX_RECORDS)
    assert replay(heads) == MAX_RECORDS
    write_records(heads, *[b""] * (MAX_RECORDS + 1))
    text = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}"
    assert failure(heads) == ("INVALID_ARGUMENT", text)


def test_unparsable_record_is_rejected(heads):
    path = write_records(heads, b"\xff\xff")
    assert failure(heads) == ("INVALID_ARGUMENT", f"Failed to parse warmup record: �� from {path}")


def test_damaged_files_are_rejected(heads):
    path = write_records(heads, predict_log(), predict_log())
    with open(path, "r+b") as file:
        file.truncate(file.seek(0, 2) - 3)
    code, text = failure(heads)
    assert code == "DATA_LOSS"
    assert text.startswith("truncated record")
    assert text.endswith(". Please verify your warmup data is in TFRecord format.")
    assert heads.runs == 1, "records before the damage are replayed"
    with open(path, "wb") as file:
        file.write(b"these are no records")
    code, text = failure(heads)
    assert (code, text.startswith("corrupted record at 0")) == ("DATA_LOSS", True)
