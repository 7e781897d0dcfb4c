"""The status line and the notices of the tabs when a server or a model is missing."""

from __future__ import annotations

import pytest
from demo_fakes import FakeClient, Version

from demos import fragments, health
from demos.predictions import Continuation, Translation
from serving.client import ServingError


def test_all_models_are_ready(client: FakeClient) -> None:
    client.models["translation"] = [Version(3), Version(12), Version(13, "LOADING")]
    state = health.check(client)
    banner = fragments.banner(state, "localhost:8500")
    assert "localhost:8500" in banner
    assert "version 12" in banner
    assert all(fragments.tab_notice(state, task) == "" for task in client.models)


def test_no_server(client: FakeClient) -> None:
    client.error = ServingError("UNAVAILABLE", "no")
    state = health.check(client)
    banner = fragments.banner(state, "gpu-box:9000")
    assert "No model server answers at <code>gpu-box:9000</code>" in banner
    assert "python -m serving --models_dir=models --port=9000 --rest_api_port=8501" in banner
    assert fragments.tab_notice(state, "translation") == ""  # the banner already says it


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("DEADLINE_EXCEEDED", "is busy; this page checks again automatically."),
        ("UNIMPLEMENTED", "is not a model server: no &lt;method&gt;."),
    ],
)
def test_a_server_with_an_error(client: FakeClient, code: str, words: str) -> None:
    client.error = ServingError(code, "no <method>")
    state = health.check(client)
    assert not state.reachable
    assert fragments.banner(state, "gpu-box:9000").count(f"<code>gpu-box:9000</code> {words}") == 1


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        (None, "python -m kerasnets.train translation --preset quick --run-dir runs/quick/translation"),
        (None, "python -m kerasnets.export runs/quick/translation --models-dir models"),
        ([Version(1, "LOADING")], "is loading"),
        ([Version(1, "END", "NOT_FOUND", "no <saved_model.pb>\nmore")], "no &lt;saved_model.pb&gt;."),
        ([Version(1, "END")], "has no model"),
    ],
)
def test_one_model_is_not_ready(client: FakeClient, versions: list[Version] | None, words: str) -> None:
    if versions is None:
        del client.models["translation"]
    else:
        client.models["translation"] = versions
    state = health.check(client)
    assert words in fragments.tab_notice(state, "translation")
    assert fragments.tab_notice(state, "text_generation") == ""


def test_external_text_is_escaped() -> None:
    attack = "<script>alert(1)</script>"
    for html in (
        fragments.error(attack),
        fragments.continuation(Continuation(attack, attack, -1.0)),
        fragments.translations([Translation(attack, attack, -1.0)]),
        fragments.banner(health.Health(reachable=False), attack),
    ):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_bits_per_character() -> None:
    html = fragments.continuation(Continuation("a", "bcde", -4 * 2 * 0.6931472))
    assert "<b>4</b> characters" in html
    assert "<b>2.00</b> bits per character" in html
    assert "<b>0.00</b> bits" in fragments.continuation(Continuation("a", "", 0.0))
