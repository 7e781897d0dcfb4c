"""JSON text: numbers, parse errors, values in messages. No server."""

import gc
import json
from contextlib import suppress

import numpy as np
import pytest

from serving.errors import StatusError
from serving.rest.json_text import debug, decimals, error_json, parse, type_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.2, "0.2"),  # as a double it would read 0.20000000298023224
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (2.5, "2.5"),
        (9000000, "9e+06"),
        (0.00003, "3e-05"),
        (1234567, "1234567.0"),
        (1 / 3, "0.333333343"),
        (16777216, "16777216.0"),
        (3.4028235e38, "3.40282347e+38"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_float32_text(value, text):
    assert decimals(np.array([value], np.float32)) == [text]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1, "0.1"), (1 / 3, "0.33333333333333331"), (1e300, "1e+300"), (7.0, "7.0")]
)
def test_float64_text(value, text):
    assert decimals(np.array([value])) == [text]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_float_reads_back_equal(dtype):
    bits = np.random.default_rng(0).integers(0, 2**63, 2000).astype(np.uint64)
    numbers = bits.view(np.float64) if dtype == np.float64 else bits.astype(np.uint32).view(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    read_back = np.array([json.loads(text) for text in decimals(numbers)], dtype)
    np.testing.assert_array_equal(read_back, numbers)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  ", "JSON Parse error: The document is empty. at offset: 2"),
        (b"hello", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"a": x}', "JSON Parse error: Invalid value. at offset: 6"),
        (b"{a: 1}", "JSON Parse error: Missing a name for object member. at offset: 1"),
        (b'{"a" 1}', "JSON Parse error: Missing a colon after a name of object member. at offset: 5"),
        (b'{"a": 1 "b": 2}', "JSON Parse error: Missing a comma or } after an object member. at offset: 8"),
        (b'{"a": [1 2]}', "JSON Parse error: Missing a comma or ] after an array element. at offset: 9"),
        ('{"ä": x}'.encode(), "JSON Parse error: Invalid value. at offset: 7"),  # offsets count bytes
        (b'{"a": 1E400}', "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (
            b'{"a": [Inf, -1' + b"0" * 400 + b"]}",
            "JSON Parse error: Number too big to be stored in double. at offset: 12",
        ),
        (b'{"a": 1' + b"0" * 5000 + b"}", "JSON Parse error: Number too big to be stored in double. at offset: 6"),
        (b'{"1e400": 1, "\xff": 2e999}', "JSON Parse error: Number too big to be stored in double. at offset: 18"),
        (rb'{"a": "\ud800"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (rb'{"a": "\uDCC3\uDCA9"}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 7"),
        (rb'{"\ude00": 1}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 2"),
        (rb'{"a": "\\\ud83dx", b}', "JSON Parse error: The surrogate pair in string is invalid. at offset: 9"),
        (rb'{"a": b, "\ud83d": 1}', "JSON Parse error: Invalid value. at offset: 6"),  # the first error counts
        (b'{"a": [Inf, Inf, x, Inf]}', "JSON Parse error: Invalid value. at offset: 17"),
        (b"[1, 2]", "JSON Value: [1, 2] Is not object"),
        (b"3", "JSON Value: 3 Is not object"),
    ],
)
def test_invalid_json(body, message):
    with pytest.raises(StatusError) as caught:
        parse(body)
    assert (caught.value.code, caught.value.message) == ("INVALID_ARGUMENT", message)


def test_deep_nesting_is_refused():
    with pytest.raises(StatusError, match="nested too deeply"):
        parse(b'{"a": ' + b"[" * 100_000)


def test_leniency():
    assert parse(b' {"a": 1} trailing text') == {"a": 1}
    assert parse(b'{"a": [Infinity, -Infinity, Inf, -Inf], "b": "Inf"}') == {
        "a": [np.inf, -np.inf, np.inf, -np.inf],
        "b": "Inf",
    }
    assert np.isnan(parse(b'{"a": NaN}')["a"])
    assert parse(b'{"a": 1, "a": 2}') == parse(b'{"a": 1, "a": 2} text') == {"a": 2}
    assert parse(b'{"a": "\xff"}')["a"].encode("utf-8", "surrogateescape") == b"\xff"


def test_surrogate_pairs_and_escaped_backslashes():
    body = b'{"a": NaN, "pair": "\\ud83d\\ude00", "no escape": "\\\\ud83d"} \\ud800'  # NaN: orjson refuses it
    document = parse(body)
    assert (document["pair"], document["no escape"]) == ("\U0001f600", r"\ud83d")


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30, 2**64 - 1, -(2**63), 7])
def test_integers_beyond_64_bits_are_doubles_in_both_parsers(number):
    quickly, tolerantly = parse(b'{"a": %d}' % number)["a"], parse(b'{"b": NaN, "a": %d}' % number)["a"]
    assert quickly == tolerantly == (number if -(2**63) <= number < 2**64 else float(number))
    assert type(quickly) is type(tolerantly)


class Endless(list):
    """A list of which only the first elements may be read."""

    def __iter__(self):
        yield from range(1000)
        raise AssertionError("this takes a minute for large requests")


def test_only_the_start_of_a_large_value_is_printed():
    start = str(list(range(100)))[:256] + "..."
    assert debug(Endless()) == start
    assert debug([Endless()]) == "[" + start[:255] + "..."
    assert debug({"a": Endless()}).startswith('{\n    "a": [0, 1, 2')
    assert debug("x" * 1000) == '"' + "x" * 255 + "..."
    assert debug({"x" * 1000: 1}) == '{\n    "' + "x" * 249 + "..."
    deep = None
    for _ in range(900):
        deep = [deep]
    assert debug(deep) == "[" * 256 + "..."


def test_values_in_messages():
    assert debug({"a": {}, "b": {"c": [], "d": None}}) == (
        '{\n    "a": {},\n    "b": {\n        "c": [],\n        "d": null\n    }\n}'
    )
    assert debug({"a": [1, 2.5, "x"]}) == '{\n    "a": [1, 2.5, "x"]\n}'
    assert debug([True, None]) == "[true, null]"
    assert len(debug(list(range(1000)))) < 300
    assert [type_name(v) for v in (None, True, False, 1, 1.5, "s", [], {})] == [
        "Null",
        "True",
        "False",
        "Number",
        "Number",
        "String",
        "Array",
        "Object",
    ]


def test_errors_are_pretty_printed():
    assert error_json('a "b"\n\tc') == '{\n    "error": "a \\"b\\"\\n\\tc"\n}'


@pytest.mark.parametrize("body", [b'{"a": []}', b'{"a": NaN}', b'{"a": [}', b"1" * 400])
def test_garbage_collection_is_enabled_after_parsing(body):
    with suppress(StatusError):
        parse(body)
    assert gc.isenabled()


@pytest.mark.parametrize("body", [b'{"a": [}', b'{"a": NaN, "b"}', b'{"a": 1e999}', b'{"a": "\\ud800"}'])
def test_refused_text_is_freed(body):
    """The traceback of an exception could keep it in a reference cycle until garbage collection."""
    with suppress(StatusError):
        parse(body)
    gc.collect()
    with suppress(StatusError):
        parse(body)
    assert gc.collect() == 0
