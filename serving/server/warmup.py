"""Warm-up: replay the requests stored in a SavedModel before serving it, so that no client waits for first runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from serving.api.inference import classify, multi_inference, regress
from serving.api.predict import Settings, predict
from serving.engine.servable import Call, Servable, status_of
from serving.engine.tflite import TFLiteServable
from serving.errors import StatusError, invalid_argument
from serving.models.storage import WARMUP_FILE

MAX_QUOTED_BYTES = 1024  # of a damaged record
MAX_RECORDS = 1000  # the limit of TensorFlow Serving

# {field of a PredictionLog: function that prepares its request}
METHODS: dict[str, Callable[..., Call]] = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


def warm_up(servable: Servable | TFLiteServable, number: int, settings: Settings, iterations: int) -> int:
    """Replay each record of version `number` `iterations` times, at least once; return the number of records.

    A record that fails makes the load fail, because the same request of a client would fail too.
    """
    path = os.path.join(servable.path, WARMUP_FILE)
    if not os.path.exists(path):
        return 0
    count = 0
    for record in _read(path):
        for _ in range(max(iterations, 1)):
            _replay(record, servable, number, settings)
        count += 1
        if count > MAX_RECORDS:
            raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    return count


def _replay(
    record: prediction_log_pb2.PredictionLog, servable: Servable | TFLiteServable, number: int, settings: Settings
) -> None:
    kind = record.WhichOneof("log_type")
    if kind is None:  # an empty record
        return
    if kind not in METHODS:
        case = record.DESCRIPTOR.fields_by_name[kind].number
        raise StatusError("UNIMPLEMENTED", f"Unsupported log_type for warmup: {case}")
    call = METHODS[kind](servable, number, getattr(record, kind).request, settings)
    call.finish(servable.run(call.feeds, call.fetches))


def _read(path: str) -> Iterator[prediction_log_pb2.PredictionLog]:
    """Yield the records one by one, so that the records before a damaged one are replayed."""
    try:
        for serialized in tf.compat.v1.io.tf_record_iterator(path):
            try:
                record = prediction_log_pb2.PredictionLog.FromString(serialized)
            except DecodeError:
                text = serialized[:MAX_QUOTED_BYTES].decode("utf-8", "replace")
                raise invalid_argument(f"Failed to parse warmup record: {text} from {path}") from None
            yield record
    except tf.errors.DataLossError as error:
        message = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise StatusError("DATA_LOSS", message) from None
    except tf.errors.OpError as error:
        raise status_of(error) from None
