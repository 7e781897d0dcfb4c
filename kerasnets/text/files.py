"""Vocabularies as JSON files that say their format."""

import json
from pathlib import Path


def read(path: str | Path, form: str) -> dict:
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if document.get("format") != form:
        raise ValueError(f"{path} is no vocabulary of the form {form!r}: it says {document.get('format')!r}")
    return document
