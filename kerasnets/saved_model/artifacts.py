"""The options of an export, checked before TensorFlow is imported: storage of weights, and other formats."""

import importlib.util
from collections.abc import Iterable

from kerasnets.checks import RequestError, choose

STORAGES = ("float32", "float16", "int8")
FORMATS = {"litert": "model.tflite", "onnx": "model.onnx"}
PACKAGES = {"litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnx", "onnxruntime")}


def check_formats(names: Iterable[str]) -> list[str]:
    """-> the formats without duplicates. Raises: RequestError if one is unknown or its packages are not installed."""
    formats = list(dict.fromkeys(choose("format", name, FORMATS) for name in names))
    for name in formats:
        missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
        if missing:
            raise RequestError(
                f"--format {name} needs the packages {' and '.join(missing)}; install them with "
                f"`pip install '.[formats]'`."
            )
    return formats
