"""The status page: its contents, well-formed HTML, and escaping of all names."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markupsafe import Markup
from page_helpers import Manager, Reader, Servable, definition, visible_text

from serving.errors import StatusError
from serving.status import page as status_page
from serving.status.charts import duration, elapsed, latency_chart, recent_chart
from serving.status.model_card import MAX_BYTES, MAX_CHARACTERS, card_lines
from serving.status.page import SCRIPT, page
from serving.status.templates import render
from serving.telemetry.metrics import Metrics
from serving.telemetry.traffic import Latency

HOSTILE = "<script>alert('x')</script>\"&'><img src=x onerror=y>"


def test_versions_with_states_labels_and_errors():
    error = StatusError("DATA_LOSS", "Can't parse it")
    unloaded = [(number, "END", None) for number in (6, 5, 4, 3, 2, 1, 0)]
    manager = Manager(half=[(9, "END", error), (8, "LOADING", None), (7, "AVAILABLE", None), *unloaded], empty=[])
    manager.label["half"] = {"stable": 7, "canary": 8, "lost": 42}
    text = visible_text(page(manager, Metrics()))
    assert "models available 1 of 2" in text
    assert "half Available" in text and "empty Unavailable" in text
    assert "9 Failed DATA_LOSS: Can't parse it" in text
    assert "8 Loading canary" in text and "7 Available stable" in text
    assert "Unloaded: 6, 5, 4, 3, 2 and 2 more" in text
    assert "Labels of missing versions: lost" in text


def test_signatures_and_their_code():
    text = visible_text(page(Manager(half=[(7, "AVAILABLE", None)]), Metrics()))
    assert "Signatures of version 7 serving_default predict · 1 input, 1 output" in text
    assert "Input x float32 [?, 28]" in text and "Output y string any" in text
    assert "curl http://localhost:8501/v1/models/half:predict" in text
    assert 'client.predict("half", {"x": np.ones((1, 28), np.float32)})' in text


def test_the_default_signature_is_first_and_open_and_the_init_op_hidden():
    manager = Manager(m=[(1, "AVAILABLE", None)])
    names = ("a", "serving_default", "b", "__saved_model_init_op")
    manager.servables["m"] = Servable(**dict.fromkeys(names, definition()))
    reader = Reader(page(manager, Metrics()))
    details = [attributes for name, attributes in reader.elements if name == "details"]
    assert [("open" in attributes) for attributes in details] == [True, False, False]
    assert reader.text.index("serving_default") < reader.text.index(" a ") < reader.text.index(" b ")
    assert "__saved_model_init_op" not in reader.text


def test_load_and_latency():
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    for _ in range(30):
        metrics.record_request("half", "Predict", "REST", "OK", 2000)
    metrics.request_started("half")
    now[0] += 120
    for _ in range(90):
        metrics.record_request("half", "Predict", "GRPC", "OK", 50_000)
    now[0] += 1
    reader = Reader(page(Manager(half=[(1, "AVAILABLE", None)]), metrics))
    text = re.sub(r"\s+", " ", reader.text)
    assert "requests per second 1.5 in flight 1 median" in text, "90 requests in a minute"
    assert "answered 120" in text and "up 2 min 1 s" in text
    charts = reader.attributes("aria-label")
    assert "90 requests in the last 60 seconds, at most 90 in one" in charts
    assert any(label.startswith("Latency of 120 requests: half below ") for label in charts)


def test_a_server_without_models_or_requests():
    text = visible_text(page(Manager(), Metrics()))
    assert "models available 0 of 0" in text and "No model is configured." in text


@pytest.mark.parametrize("name", [HOSTILE, "half\x00\x1b", "\ud800", " ", "模型", "a" * 5000])
def test_names_are_escaped(tmp_path, name):
    (tmp_path / "assets.extra").mkdir()
    card = {"task": name, "data": {"dataset": name, "licence": name}, "metrics": {"validation": {name: 1.5}}}
    (tmp_path / "assets.extra" / "model_card.json").write_text(json.dumps(card))
    wire = name.encode("utf-8", "replace").decode()  # a protobuf string cannot hold lone surrogates
    manager = Manager(str(tmp_path), **{name: [(2, "END", StatusError("UNKNOWN", name)), (1, "AVAILABLE", None)]})
    manager.servables[name] = Servable(**{wire: definition(wire, wire)})
    manager.label[name] = {name: 1, name + "2": 5}
    metrics = Metrics()
    metrics.record_request(name, "Predict", "REST", "OK", 10)
    html = page(manager, metrics)
    html.encode()
    reader = Reader(html)
    assert reader.scripts == [SCRIPT], "only the script of the page"
    assert "img" not in {element for element, _ in reader.elements}
    for _, attributes in reader.elements:
        assert not [key for key in attributes if key.startswith("on")]
    if name == HOSTILE:
        assert reader.text.count(HOSTILE) >= 8


def test_the_page_loads_nothing_from_other_hosts():
    reader = Reader(page(Manager(a=[(1, "AVAILABLE", None)], b=[]), Metrics()))
    assert not reader.attributes("src")
    assert all(link == "data:," or link.startswith("#") for link in reader.attributes("href"))
    [policy] = [text for text in reader.attributes("content") if "default-src" in text]
    digest = base64.b64encode(hashlib.sha256(reader.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_links_lead_to_the_models():
    reader = Reader(page(Manager(**{"a b": [], "ä%&": [], HOSTILE: []}), Metrics()))
    ids = reader.attributes("id")
    assert len(ids) == len(set(ids))
    links = [link for link in reader.attributes("href") if link.startswith("#")]
    assert len(links) == 3 and {link[1:] for link in links} < set(ids)
    assert not any(" " in name for name in ids)


def test_files_of_a_version_are_read_once(tmp_path):
    (tmp_path / "assets.extra").mkdir()
    card = tmp_path / "assets.extra" / "model_card.json"
    card.write_text('{"task": "before"}')
    manager = Manager(str(tmp_path), m=[(1, "AVAILABLE", None)])
    assert "Task before" in visible_text(page(manager, Metrics()))
    card.write_text('{"task": "after"}')
    assert "Task before" in visible_text(page(manager, Metrics()))
    manager.servables["m"] = Servable(serving_default=definition())
    assert "Task after" in visible_text(page(manager, Metrics())), "another version at the same path"


def test_main_lines_of_a_model_card():
    card = {
        "task": "translation",
        "intended_use": "Translates.",
        "limits": "",
        "network": {"kind": "transformer", "parameters": 1234567},
        "data": {"dataset": "multi30k", "description": "Captions", "licence": "CC BY-NC-SA 4.0"},
        "metrics": {
            "validation": {"loss": 9.0},
            "evaluations": [{"split": "test", "bleu": 31.23456, "chrf": 55, "signature": "x"}],
        },
    }
    lines = {name: " | ".join(values) for name, values in card_lines(card)}
    assert lines == {
        "Task": "translation",
        "Intended use": "Translates.",
        "Data": "multi30k | Captions",
        "Licence": "CC BY-NC-SA 4.0",
        "Parameters": "1,234,567",
        "Metrics": "test: bleu 31.23, chrf 55",
    }
    card["metrics"]["evaluations"] = []
    assert dict(card_lines(card))["Metrics"] == ["validation: loss 9"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("task", "data", "metrics", "network", "intended_use", "limits", "created")


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, JSON_VALUES)) | JSON_VALUES)
def test_any_card_can_be_shown(card):
    Reader(str(render("card.html", lines=card_lines(card), error=None)))


LARGE = 10**400  # than any float
DEEP = "[" * 10_000 + "]" * 10_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "cannot be read as JSON (Expecting value"),
        (b"{", "cannot be read as JSON (Expecting property name"),
        (b'{"task": "\xff"}', "cannot be read as JSON (it is not UTF-8)"),
        (DEEP.encode(), "cannot be read as JSON (its values are nested too deeply)"),
        (b'{"task": %s}' % (b"9" * 5000), "cannot be read as JSON (Exceeds the limit (4300 digits)"),
        (b" " * (MAX_BYTES + 1), "has more than 1,048,576 bytes"),
        (f'{{"network": {{"parameters": {LARGE}}}}}'.encode(), "Parameters 10,000,000"),
        (f'{{"metrics": {{"evaluations": [{{"loss": {LARGE}, "bleu": NaN}}]}}}}'.encode(), "loss 1.000e+400, bleu nan"),
        (b'{"metrics": {"validation": {"loss": -Infinity, "right": false}}}', "validation: loss -inf"),
        (b'{"task": "\\ud800"}', "Task ?"),
        (b'{"limits": "%s"}' % (b"x" * 100_000), f"{'x' * MAX_CHARACTERS}…"),
        (b"[1]", "Signatures of version 1"),
    ],
)
def test_unusual_cards_do_not_affect_other_parts(tmp_path, content, expected):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "model_card.json").write_bytes(content)
    text = visible_text(two_models(tmp_path))
    assert expected in text
    assert text.count("Signatures of version 1") == 2, "everything else is shown"


def two_models(path) -> str:
    """Render a page with a model whose files are at `path`, and another."""
    manager = Manager(str(path), bad=[(1, "AVAILABLE", None)], good=[(1, "AVAILABLE", None)])
    html = page(manager, Metrics())
    html.encode()
    return html


@pytest.mark.parametrize("kind", ["directory", "fifo", "loop", "device", "socket"])
def test_special_files_are_not_read(tmp_path, kind):
    """Reading some of them would never end."""
    (tmp_path / "assets.extra").mkdir()
    files = [tmp_path / "assets.extra" / name for name in ("model_card.json", "tf_serving_warmup_requests")]
    for file in files:
        if kind == "directory":
            file.mkdir()
        elif kind == "fifo":
            os.mkfifo(file)
        elif kind == "socket":
            os.mknod(file, stat.S_IFSOCK | 0o600)
        else:
            file.symlink_to(file if kind == "loop" else "/dev/zero")
    text = visible_text(two_models(tmp_path))
    assert text.count("model_card.json cannot be read (") == 2
    assert text.count("Signatures of version 1") == 2


def test_an_unreadable_card_is_read_again(tmp_path):
    """It may have been incomplete during a copy."""
    (tmp_path / "assets.extra").mkdir()
    card = tmp_path / "assets.extra" / "model_card.json"
    manager = Manager(str(tmp_path), m=[(1, "AVAILABLE", None)])
    card.write_text('{"task": "who')
    assert "cannot be read as JSON" in visible_text(page(manager, Metrics()))
    card.write_text('{"task": "whole"}')
    assert "Task whole" in visible_text(page(manager, Metrics()))


@pytest.mark.parametrize("part", ["code_examples", "_versions", "_load"])
def test_an_error_in_one_part_does_not_affect_others(tmp_path, monkeypatch, caplog, part):
    original, calls = getattr(status_page, part), []

    def sometimes(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise ArithmeticError("an internal error")
        return original(*arguments)

    monkeypatch.setattr(status_page, part, sometimes)
    text = visible_text(two_models(tmp_path))
    assert text.count("cannot be shown: the server's log says why.") == 1
    assert "an internal error" in caplog.text
    assert "Signatures of version 1" in text and "good Available" in text


def test_bar_heights_are_proportional_to_counts():
    heights = [bar.height for bar in recent_chart([0, 1, 2, 4] * 15).bars]
    assert heights[:4] == [0, 25, 50, 100] and len(heights) == 60
    bounds = tuple(10.0 * 2**n for n in range(12))
    counts = [0] * 13
    counts[5], counts[6], counts[12] = 1, 2, 4
    titles = [bar.title for bar in latency_chart(Latency(bounds, tuple(counts))).bars]
    assert "160 µs to 320 µs: 1 request" in titles and "over 20.5 ms: 4 requests" in titles
    assert titles[0].endswith(": 0 requests"), "an empty bucket before the first"


def test_empty_charts_are_omitted():
    now = [100.0]
    metrics = Metrics(lambda: now[0])
    metrics.record_request("half", "Predict", "REST", "OK", 2000)
    now[0] += 120  # after the last minute
    manager = Manager(half=[(1, "AVAILABLE", None)], none=[(1, "AVAILABLE", None)])
    html = page(manager, metrics)
    assert Reader(html).text.count("Latency since the start") == 1
    assert "Requests in the last minute" not in html
    styles = Reader(html).attributes("style")
    assert "height:100.0%" in styles and "left:0.00%" in styles


DURATIONS = {
    None: "–",
    0: "0 µs",
    3.7: "3.7 µs",
    340.1: "340 µs",
    999.4: "999 µs",
    999.6: "1 ms",
    1100: "1.1 ms",
    20_822: "20.8 ms",
    999_700: "1 s",
    12_345_678: "12.3 s",
    1.47e9: "1,470 s",
}


@pytest.mark.parametrize(("microseconds", "text"), DURATIONS.items())
def test_durations(microseconds, text):
    assert duration(microseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")],
)
def test_elapsed_time(seconds, text):
    assert elapsed(seconds) == text


def test_templates_escape_all_but_markup():
    lines = [("<&>\x00\ud800", [Markup("<br>"), "<br>"])]
    html = render("card.html", lines=lines, error=None)
    assert "<dt>&lt;&amp;&gt;??</dt>" in html and "<dd><span><br></span><span>&lt;br&gt;</span></dd>" in html
    chart = recent_chart([1] * 60)
    html = render("load.html", numbers={}, charts={"a": replace(chart, label="\"'<")})
    assert 'aria-label="&#34;&#39;&lt;"' in html


def test_missing_values_of_a_template_raise():
    with pytest.raises(UndefinedError, match="'lines' is undefined"):
        render("card.html", error=None)
