"""Vocabularies as JSON files with a format field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kerasnets.checks import RequestError

V = TypeVar("V")


def load(path: str | Path, file_format: str, build: Callable[[dict[str, Any]], V]) -> V:
    """-> the vocabulary that `build` makes from the JSON object of a file.

    Raises: RequestError if the file has another format or does not contain a vocabulary.
    """
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("format") != file_format:
        raise RequestError(f"{path} has the format {document.get('format')!r}; it must be {file_format!r}.")
    try:
        return build(document)
    except (ValueError, KeyError) as error:
        raise RequestError(f"{path} is not a vocabulary ({error}); restore it from a copy, or train again.") from error
