"""JSON text as the original server reads and writes it: RapidJSON with TensorFlow's number format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from json.decoder import JSONDecodeError
from typing import Any

import numpy as np
import orjson

from serving.errors import invalid_argument

INDENT = "    "
DEBUG_CHARACTERS = 256  # longer values are cut in messages

# {Python's message: RapidJSON's}
PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}
MISSING_COMMA = {
    "{": "Missing a comma or } after an object member.",
    "[": "Missing a comma or ] after an array element.",
}
TOO_BIG = "JSON Parse error: Number too big to be stored in double."
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
STRING_OR_INF = re.compile(r'"(?:[^"\\]|\\.)*"|\bInf\b', re.DOTALL)
_decoder = json.JSONDecoder()


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The object at the start of `body`; what follows it is ignored, NaN, Inf and Infinity are numbers.

    Bytes that are not UTF-8 are kept as surrogate escapes: string tensors hold any bytes.
    """
    try:
        value = orjson.loads(body)  # takes a quarter of the time; what it refuses is read again, more tolerantly
    except orjson.JSONDecodeError:
        value = _parse_tolerantly(body)
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {debug(value)} Is not object")
    return value


def _parse_tolerantly(body: bytes | bytearray) -> Any:
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise invalid_argument(f"JSON Parse error: The document is empty. at offset: {start}")
    try:
        return _decode(text, start)
    except JSONDecodeError as error:
        raise invalid_argument(_parse_error(error)) from None
    except ValueError:  # an integer of thousands of digits
        raise invalid_argument(TOO_BIG) from None
    except RecursionError:
        raise invalid_argument("JSON Parse error: The document is nested too deeply.") from None


def _decode(text: str, start: int) -> Any:
    try:
        return _decoder.raw_decode(text, start)[0]
    except JSONDecodeError:
        if "Inf" not in text:
            raise
        spelled_out = STRING_OR_INF.sub(lambda m: "Infinity" if m[0] == "Inf" else m[0], text)
        return _decoder.raw_decode(spelled_out, start)[0]


def _parse_error(error: JSONDecodeError) -> str:
    before = error.doc[: error.pos]
    if error.msg == "Expecting ',' delimiter":
        open_brackets: list[str] = []
        for token in STRING_OR_BRACKET.findall(before):
            if token in "[{":
                open_brackets.append(token)
            elif token in "]}":
                open_brackets.pop()
        message = MISSING_COMMA[open_brackets[-1]]
    else:
        message = PARSE_ERRORS.get(error.msg, f"{error.msg}.")
    offset = len(before.encode("utf-8", "surrogateescape"))
    return f"JSON Parse error: {message} at offset: {offset}"


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def debug(value: Any) -> str:
    """A value for a message: arrays on one line, cut when long."""
    text = _pretty(value, 0)
    return text if len(text) <= DEBUG_CHARACTERS else text[:DEBUG_CHARACTERS] + "..."


def _pretty(value: Any, level: int) -> str:
    """`level` is the number of objects and arrays around the value."""
    if level > DEBUG_CHARACTERS:
        return ""  # each level takes a character at least: this one is cut off anyway
    if isinstance(value, dict) and value:
        inner = ",\n".join(
            f"{INDENT * (level + 1)}{quoted(key)}: {_pretty(item, level + 1)}" for key, item in value.items()
        )
        return f"{{\n{inner}\n{INDENT * level}}}"
    if isinstance(value, list):
        return "[" + ", ".join(_pretty(item, level + 1) for item in value) + "]"
    if isinstance(value, float):
        return decimals(np.array([value]))[0]
    return quoted(value)


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def error_json(message: str) -> str:
    return json.dumps({"error": message}, ensure_ascii=False, indent=INDENT)


def decimals(numbers: np.ndarray) -> list[str]:
    """Texts of float32 or float64 numbers [n]: 6 digits if they read back equal, else 9 or 17.

    Whole numbers end in `.0`, so that a reader can tell them from integers.
    """
    values = numbers.tolist()
    texts = [f"{value:g}" for value in values]
    precise = ".9g" if numbers.dtype == np.float32 else ".17g"
    read_back = np.array([float(text) for text in texts], dtype=numbers.dtype)
    for index in np.flatnonzero(read_back != numbers).tolist():  # NaN is among them
        texts[index] = format(values[index], precise)
    return list(_finished(texts))


def _finished(texts: Iterable[str]) -> Iterable[str]:
    names = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    for text in texts:
        if text in names:
            yield names[text]
        elif "." in text or "e" in text:
            yield text
        else:
            yield text + ".0"
