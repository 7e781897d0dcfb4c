"""URLs of TensorFlow Serving's REST API, and the ModelSpec of each."""

from __future__ import annotations

import re
from urllib.parse import unquote

from tensorflow_serving.apis import model_pb2

from serving.errors import invalid_argument
from serving.models.storage import INT64_MAX

# Matched against path and query, so URLs with a query are refused: the API has none.
VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
VERB_URL = re.compile(
    rf"/v1/models/(?P<model>[^/:]+){VERSION_OR_LABEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE
)
MODEL_URL = re.compile(rf"/v1/models(?:/(?P<model>[^/:]+))?{VERSION_OR_LABEL}(?:/(?P<part>metadata))?", re.IGNORECASE)
STREAM_URL = re.compile(rf"/v1/models/(?P<model>[^/:]+){VERSION_OR_LABEL}:stream")
VERBS = ("predict", "classify", "regress")  # lower case only, although the case of the URL is ignored
HEALTH_TARGETS = ("/healthz", "/readyz")


def read_spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    """Return the ModelSpec of a URL."""
    spec = model_pb2.ModelSpec(name=unquote(match["model"]))
    if match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > len(str(INT64_MAX)) or int(digits) > INT64_MAX:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)
    elif match["label"]:
        spec.version_label = unquote(match["label"])
    return spec
