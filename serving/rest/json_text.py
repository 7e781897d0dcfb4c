"""Read and write JSON like TensorFlow Serving: RapidJSON with TensorFlow's number format."""

from __future__ import annotations

import gc
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from json.decoder import JSONDecodeError
from typing import Any

import numpy as np
import orjson

from serving.errors import invalid_argument
from serving.rest.body import check_values

INDENT = "    "
DEBUG_CHARACTERS = 256  # of a value in a message

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
NUMBER_TOO_BIG = "Number too big to be stored in double"
LONE_SURROGATE = "The surrogate pair in string is invalid"
# An unterminated string extends to the end of the text: searching for its end again from every later quotation mark
# would take quadratic time.
STRING = r'"(?:[^"\\]++|\\.)*+"?'
STRING_OR_BRACKET = re.compile(rf"{STRING}|[\[\]{{}}]", re.DOTALL)
STRING_OR_INF = re.compile(rf"{STRING}|\bInf\b", re.DOTALL)
STRING_OR_NUMBER = re.compile(STRING + r"|(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)", re.DOTALL)
# An escape sequence; the group matches a lone surrogate.
ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u([dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
MAX_INTEGER_CHARACTERS = 20  # of a 64-bit integer, with its sign


def parse(body: bytes | bytearray, max_values: int = sys.maxsize) -> dict[str, Any]:
    """Parse the object at the start of `body`. Text after it is ignored; NaN, Inf and Infinity are numbers.

    Bytes that are not UTF-8 are kept as surrogate escapes: string tensors hold any bytes.
    Raises: INVALID_ARGUMENT if it is not JSON; TooLarge for more than `max_values`.
    """
    check_values(body, max_values)
    try:
        with _no_garbage_collection():
            value = orjson.loads(body)  # takes a quarter of the time; what it refuses is parsed again
    except orjson.JSONDecodeError:
        value = _parse_tolerantly(body)
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {debug(value)} Is not object")
    return value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """None of the millions of new lists is garbage, and other threads would wait while the collector visits them."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


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
    except RecursionError:
        raise invalid_argument("JSON Parse error: The document is nested too deeply.") from None


def _decode(text: str, start: int) -> Any:
    try:
        return _decode_once(text, start)
    except JSONDecodeError as error:
        if error.msg != "Expecting value" or "Inf" not in text:
            raise
    return _decode_with_inf(text, start)


def _decode_with_inf(text: str, start: int) -> Any:
    """Decode with Infinity in place of each Inf; the position of an error is that in `text`."""
    try:
        return _decode_once(STRING_OR_INF.sub(lambda m: "Infinity" if m[0] == "Inf" else m[0], text), start)
    except JSONDecodeError as error:
        offset = error.pos
        for match in STRING_OR_INF.finditer(text, start):
            if match[0] == "Inf" and match.start() < offset:
                offset -= len("Infinity") - len("Inf")
        raise JSONDecodeError(error.msg, text, offset) from None


def _decode_once(text: str, start: int) -> Any:
    """Return the value at `start`; raise JSONDecodeError for the first error."""
    value, message = None, ""  # exceptions are not stored: their tracebacks would keep the text
    try:
        with _no_garbage_collection():
            value, end = _decoder.raw_decode(text, start)
    except JSONDecodeError as error:
        message, end = error.msg, error.pos
    except OverflowError:
        message, end = NUMBER_TOO_BIG, _find_overflow(text, start)
    lone = next((m.start() for m in ESCAPE.finditer(text, start, end) if m[1]), None) if "\\u" in text else None
    if lone is not None:
        raise JSONDecodeError(LONE_SURROGATE, text, lone)
    if message:
        raise JSONDecodeError(message, text, end)
    return value


def _find_overflow(text: str, start: int) -> int:
    numbers = STRING_OR_NUMBER.finditer(text, start)
    return next((number.start() for number in numbers if number[1] and math.isinf(float(number[1]))), start)


def _integer(text: str) -> int | float:
    """Parse an integer like orjson and RapidJSON: beyond 64 bits it becomes a double."""
    if len(text) <= MAX_INTEGER_CHARACTERS and -(2**63) <= (number := int(text)) < 2**64:
        return number
    return _double(text)


def _double(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError
    return number


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_double)


def _parse_error(error: JSONDecodeError) -> str:
    before = error.doc[: error.pos]
    if error.msg == "Expecting ',' delimiter":
        open_brackets: list[str] = []
        for match in STRING_OR_BRACKET.finditer(before):
            token = match[0]
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
    """Return RapidJSON's name of a value's type."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def debug(value: Any) -> str:
    """Format a value for a message: arrays on one line, cut if long."""
    text = ""
    for piece in _pieces(value, 0):
        text += piece
        if len(text) > DEBUG_CHARACTERS:
            return text[:DEBUG_CHARACTERS] + "..."
    return text


def _pieces(value: Any, level: int) -> Iterator[str]:
    """Yield the text of a value in pieces: `debug` needs only the start of a large one. `level`: its nesting depth."""
    if isinstance(value, dict) and value:
        start = "{"
        for key, item in value.items():
            yield f"{start}\n{INDENT * (level + 1)}{_quoted_start(key)}: "
            yield from _pieces(item, level + 1)
            start = ","
        yield f"\n{INDENT * level}}}"
    elif isinstance(value, list):
        yield "["
        for index, item in enumerate(value):
            if index:
                yield ", "
            yield from _pieces(item, level + 1)
        yield "]"
    elif isinstance(value, float):
        yield decimals(np.array([value]))[0]
    else:
        yield _quoted_start(value) if isinstance(value, str) else quoted(value)


def _quoted_start(text: str) -> str:
    return quoted(text[: DEBUG_CHARACTERS + 1])


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def error_json(message: str) -> str:
    return json.dumps({"error": message}, ensure_ascii=False, indent=INDENT)


def decimals(numbers: np.ndarray) -> list[str]:
    """Format float32 or float64 numbers [n]: 6 digits if they read back equal, else 9 or 17.

    Whole numbers end in `.0`, so that readers can tell them from integers.
    """
    values = numbers.tolist()
    texts = [f"{value:g}" for value in values]
    precise = ".9g" if numbers.dtype == np.float32 else ".17g"
    read_back = np.array([float(text) for text in texts], dtype=numbers.dtype)
    for index in np.flatnonzero(read_back != numbers).tolist():  # NaN included
        texts[index] = format(values[index], precise)
    return list(_number_texts(texts))


def _number_texts(texts: Iterable[str]) -> Iterable[str]:
    names = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    for text in texts:
        if text in names:
            yield names[text]
        elif "." in text or "e" in text:
            yield text
        else:
            yield text + ".0"
