"""Turn the parsed JSON of a request into a Call that returns JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from serving.api.predict import Settings
from serving.engine.servable import Call
from serving.errors import invalid_argument
from serving.models.manager import Version
from serving.protocol import DEFAULT_SIGNATURE
from serving.rest.examples import rest_classify, rest_regress
from serving.rest.request import read_request
from serving.rest.response import columnar_json, encode_json, row_json
from serving.telemetry.observers import Record


class PredictRequest:
    """A predict request. Its inputs are converted once the model is known: their types come from its signature."""

    __slots__ = ("_document", "_record")

    def __init__(self, document: dict[str, Any], record: Record) -> None:
        self._document, self._record = document, record

    def prepare(self, version: Version) -> Call:
        """Return the Call, and drop the JSON: arrays hold the same values in a fraction of its memory."""
        document, self._document = self._document, {}
        self._record.version = version.number
        return predict_call(version.servable, document, self._record.signature).then(encode_json)


def prepare_examples(verb: str, examples: np.ndarray, record: Record, settings: Settings) -> Callable[[Version], Call]:
    """Return the function that prepares the Call of a classify or regress request."""
    make_call = rest_classify if verb == "classify" else rest_regress

    def prepare(version: Version) -> Call:
        record.version = version.number
        return make_call(record.signature, examples, version.servable, settings).then(encode_json)

    return prepare


def predict_call(servable: Any, document: dict[str, Any], name: str) -> Call:
    """Return the Call of signature `name` ("": the default) on the inputs of a predict request."""
    name = name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    signature.check_inputs()
    fetches = signature.fetches(signature.all_outputs)
    request = read_request(document, signature)
    row_form = request.row_form

    def finish(fetched: list[Any]) -> str:
        if not fetched:
            raise invalid_argument("Cannot convert empty tensor map to JSON")
        outputs = {
            alias: (signature.output_types[alias], array)
            for alias, array in zip(signature.all_outputs, fetched, strict=True)
        }
        return row_json(outputs) if row_form else columnar_json(outputs)

    return Call(signature.feeds(request.arrays), fetches, finish)
