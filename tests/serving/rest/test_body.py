"""Limits of REST bodies. No server, no TensorFlow."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.rest.body import TooLarge, check_values, inflate
from serving.rest.json_text import parse

NUMBERS = [[1, 2, 3], [4, [5]]]  # 9 values, lists included


def count(value):
    """Count the values inside a document; an empty list or object counts twice."""
    if isinstance(value, (list, dict)):
        items = list(value.values()) if isinstance(value, dict) else value
        return sum(1 + count(item) for item in items) or 1
    return 0


def has_more(body, max_values):
    try:
        check_values(body, max_values)
    except TooLarge:
        return True
    return False


def test_values_are_counted():
    body = json.dumps(NUMBERS).encode()
    assert count(NUMBERS) == 8
    assert [has_more(body, max_values) for max_values in (7, 8)] == [True, False]


strings = st.text(st.sampled_from('ab",[{\\\n'), max_size=8)
documents = st.recursive(
    strings | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
)


@settings(max_examples=300, deadline=None)
@given(document=documents, spaces=st.sampled_from([None, 2]))
def test_separators_in_strings_do_not_count(document, spaces):
    body = bytearray(json.dumps({"inputs": document}, indent=spaces).encode())
    values = count({"inputs": document})
    assert [has_more(body, max_values) for max_values in (values - 1, values, values + 1)] == [True, False, False]


@pytest.mark.parametrize("body", [b'""' * 100, b'"' * 201, b'["' + b"a" * 300, b"\\" * 300, b'"\\' * 200])
def test_counting_ends_for_invalid_json(body):
    assert has_more(body + b"," * 20, 10) in (True, False)


def test_the_error_names_the_limit():
    with pytest.raises(TooLarge, match="more than 3 values .* or raise the server's --rest_api_max_values"):
        parse(b'{"a": [1, 2, 3]}', 3)
    assert parse(b'{"a": [1, 2, 3]}', 4) == {"a": [1, 2, 3]}


def test_gzip_bodies():
    body = b'{"instances": [1]}'
    assert inflate(gzip.compress(body), len(body)) == body
    assert inflate(gzip.compress(body)[:-9], 100) == b""
    assert inflate(b"not gzip", 100) == b""
    with pytest.raises(TooLarge, match=r"larger than max \(18 vs. 17\)"):
        inflate(gzip.compress(body), len(body) - 1)
    with pytest.raises(TooLarge, match="more than 32 times as much"):
        inflate(gzip.compress(bytes(5_000_000)), 100_000_000)
