"""Read inputs of a signature from files: lines of text, requests in TensorFlow Serving's row format, images."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import UsageError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".bmp"}
Row = dict[str, Any]  # {input: value}; strings as bytes or str


def read_rows(paths: list[Path], inputs: dict[str, dict[str, Any]]) -> list[tuple[str, Row]]:
    """Return all rows of the files, each with its label in a report.

    A directory stands for all images in its tree. A row is an image, one of the "instances" of a `.json` file (the body
    of a REST predict request), a line of a `.jsonl` file (an instance), or a line of any other file, if not empty.

    Args:
        inputs: {name: {"dtype", "shape"}} of the signature, from the model's metadata.
    Raises: UsageError for unreadable files, missing rows, and rows that do not fit the inputs.
    """
    rows = []
    for path in paths:
        try:
            rows += list(_read_file(path, inputs))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            raise UsageError(f"{path} cannot be read ({reason}); it must be a file of inputs.") from None
    if not rows:
        raise UsageError(f"{', '.join(map(str, paths))} contains no input; there must be at least one.")
    first = set(rows[0][1])
    for number, (_, row) in enumerate(rows):
        if set(row) != first:
            actual, expected = ", ".join(sorted(row)) or "no value", ", ".join(sorted(first))
            raise UsageError(
                f"input {number} (from 0) has {actual}, but the first has {expected}; all must have the same."
            )
    return rows


def _read_file(path: Path, inputs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Row]]:
    if path.is_dir():
        for image in sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES):
            yield str(image.relative_to(path)), {_only_string(path, inputs): image.read_bytes()}
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        yield path.name, {_only_string(path, inputs): path.read_bytes()}
    elif path.suffix in (".json", ".jsonl"):
        for place, instance in _instances(path):
            row = _row(place, instance, inputs)
            yield _label(row), row
    else:
        for line in path.read_bytes().split(b"\n"):
            line = line.removesuffix(b"\r")
            if line.strip():
                yield line.decode("utf-8", "backslashreplace"), {_only_string(path, inputs): line}


def _only_string(path: Path, inputs: dict[str, dict[str, Any]]) -> str:
    """Return the only string input, which receives lines or images; other inputs may have default values."""
    strings = [name for name, tensor in inputs.items() if tensor["dtype"] == "string"]
    if len(strings) != 1:
        expected = ", ".join(f"{name} ({tensor['dtype']})" for name, tensor in sorted(inputs.items()))
        raise UsageError(
            f"{path} has one string for each input, but the signature takes {expected}; "
            "use a .jsonl file with an object of these on each line."
        )
    return strings[0]


def _instances(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield each instance, with its position in the file for error messages."""
    text = path.read_text("utf-8")
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield f"{path}, line {number},", _parse_json(f"{path}, line {number},", line)
        return
    body = _parse_json(str(path), text)
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise UsageError(
            f'{path} is not the body of a predict request; it must be {{"instances": [...]}}, or use a .jsonl file.'
        )
    for number, instance in enumerate(body["instances"]):
        yield f"{path}, instance {number},", instance


def _parse_json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{place} is not JSON ({error}); it must be an object or a value for each input.") from None


def _row(place: str, instance: Any, inputs: dict[str, dict[str, Any]]) -> Row:
    """Return an instance as {input: value}; a value without a name belongs to the only input."""
    names = ", ".join(sorted(inputs))
    if not isinstance(instance, dict) or set(instance) == {"b64"}:
        if len(inputs) != 1:
            raise UsageError(f"{place} has a value without a name; the signature takes {names}.")
        instance = dict.fromkeys(inputs, instance)
    if unknown := set(instance) - set(inputs):
        raise UsageError(f"{place} has {', '.join(sorted(unknown))}; the signature takes {names}.")
    try:
        return {name: _decode_base64(value) for name, value in instance.items()}
    except binascii.Error:
        raise UsageError(f'{place} has a "b64" that is not base64; it must hold the bytes in base64.') from None


def _decode_base64(value: Any) -> Any:
    """Decode {"b64": ...}, which stands for bytes in JSON."""
    if isinstance(value, dict) and set(value) == {"b64"}:
        return base64.b64decode(value["b64"], validate=True)
    return [_decode_base64(item) for item in value] if isinstance(value, list) else value


def _label(row: Row) -> str:
    """Return the label of a row in a report: its values; for bytes only their number."""
    values = [f"{len(v):,} bytes" if isinstance(v, bytes) else str(v) for v in row.values()]
    return values[0] if len(values) == 1 else ", ".join(f"{k} {v}" for k, v in zip(row, values, strict=True))
