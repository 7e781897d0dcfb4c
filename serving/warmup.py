"""Warm-up: requests stored beside a SavedModel are replayed before it serves; no client waits for it."""

from __future__ import annotations

import logging
import os

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import StatusError, invalid_argument
from serving.predict import Predictor
from serving.servable import Servable

log = logging.getLogger("serving")
WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000  # as the original server; more would rather be a load test


def warm_up(servable: Servable, number: int, predictor: Predictor, iterations: int) -> int:
    """Replay every Predict record of the version `iterations` times; returns how many there are.

    A record that fails makes the load fail: what cannot be answered now would fail in front of clients.
    Records of other requests are skipped: no client can send these.
    """
    path = os.path.join(servable.path, WARMUP_FILE)
    if not os.path.exists(path):
        return 0
    replayed = 0
    for index, record in enumerate(_read(path)):
        kind = record.WhichOneof("log_type")
        if kind != "predict_log":
            log.warning("Skipped warm-up record %d of %s: %s cannot be replayed", index, servable.path, kind)
            continue
        for _ in range(max(iterations, 1)):
            predictor.predict_with(servable, number, record.predict_log.request)
        replayed += 1
    return replayed


def _read(path: str) -> list[prediction_log_pb2.PredictionLog]:
    try:
        records = [
            prediction_log_pb2.PredictionLog.FromString(record) for record in tf.compat.v1.io.tf_record_iterator(path)
        ]
    except tf.errors.OpError as error:
        raise StatusError("DATA_LOSS", f"Failed to read warmup records from {path}: {error.message}") from None
    if len(records) > MAX_RECORDS:
        raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
    return records
