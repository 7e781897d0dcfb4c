"""Vocabularies as JSON files with a format field."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kerasnets.checks import RequestError

V = TypeVar("V")


def load(path: str | Path, form: str, make: Callable[[dict[str, Any]], V]) -> V:
    """-> the vocabulary that `make` builds from the JSON object of a file.

    Raises: RequestError if the file has another format or does not contain a vocabulary.
    """
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("format") != form:
        raise RequestError(f"{path} is no vocabulary of the form {form!r}: it says {document.get('format')!r}")
    try:
        return make(document)
    except (ValueError, KeyError) as error:
        raise RequestError(f"{path} is no vocabulary ({error}): put it back from a copy, or train again") from error
