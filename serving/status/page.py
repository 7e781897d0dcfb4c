"""The status page for people: models, versions, load, and a request of each signature to copy.

It needs nothing from other hosts and no JavaScript; with it, the numbers keep themselves up to date.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from weakref import WeakKeyDictionary

from serving.errors import StatusError
from serving.protocol import INIT_OPERATION
from serving.status.charts import duration, elapsed, latency_chart, plural, rate, recent_chart
from serving.status.examples import LOCAL, Addresses, Shown, dtype_of, show_all
from serving.status.markup import Markup, join, tag
from serving.status.model_card import UnreadableCard, card_lines, read_card
from serving.telemetry.metrics import Metrics
from serving.telemetry.traffic import RECENT_SECONDS

log = logging.getLogger("serving")
MOST_UNLOADED = 5  # versions that are gone and still told of
STATES = {"START": "Found", "LOADING": "Loading", "AVAILABLE": "Available", "UNLOADING": "Unloading"}
COLOURS = {"AVAILABLE": "good", "Failed": "bad", "Unavailable": "bad", "LOADING": "busy", "START": "busy"}
STYLE = Markup(Path(__file__).with_name("page.css").read_text("utf-8"))
SCRIPT = Markup("""
setInterval(async () => {
  if (document.hidden) return;
  try {
    const reply = await fetch(location.href, {cache: "no-store"});
    if (!reply.ok) return;
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(old.id);
      if (now) old.replaceWith(now);
    }
  } catch {}
}, 5000);
""")
# Even a hole in the escaping would run nothing and tell nobody.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
    f"form-action 'none'; script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)


class Manager(Protocol):
    """What the page asks of the ModelManager."""

    def models(self) -> list[str]: ...

    def labels(self, name: str) -> dict[str, int]: ...

    def versions(self, name: str) -> list[tuple[int, str, StatusError | None]]: ...

    def use(self, name: str) -> AbstractContextManager[Any]: ...


def page(manager: Manager, metrics: Metrics, addresses: Addresses = LOCAL) -> str:
    """The whole page, as HTML. Reads files of models that it has not described yet."""
    names = manager.models()
    articles = [_model(manager, metrics, name, addresses) for name in names]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", "Model server"),
        tag("link", rel="icon", href="data:,"),
        tag("style", STYLE),
    )
    body = tag(
        "body",
        tag("header", tag("h1", "Model server"), _summary(manager, metrics, names)),
        _contents(names),
        tag("main", *articles or [tag("p", "No model is configured.", class_="nothing")]),
        tag("footer", f"TensorFlow {_version('tensorflow')} · kerasnets {_version('kerasnets')}"),
        tag("script", SCRIPT),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _summary(manager: Manager, metrics: Metrics, names: list[str]) -> Markup:
    available = sum(any(state == "AVAILABLE" for _, state, _ in manager.versions(name)) for name in names)
    recent = sum(sum(metrics.recent(name)) for name in names)
    figures = {
        "models available": f"{available} of {len(names)}",
        "requests per second": rate(recent, _window(metrics)),
        "in flight": f"{sum(map(metrics.in_flight, names)):,}",
        "up": elapsed(metrics.uptime()),
    }
    now = datetime.now(UTC)
    time = tag("time", f"{now:%H:%M:%S} UTC", datetime=now.isoformat(timespec="seconds"))
    return tag("div", _figures(figures), tag("p", "As of ", time, class_="time"), id="summary", data_live=True)


def _window(metrics: Metrics) -> float:
    """Seconds that `recent` covers."""
    return min(max(metrics.uptime(), 1.0), RECENT_SECONDS)


def _contents(names: list[str]) -> Markup | None:
    if len(names) < 2:
        return None
    return tag("nav", *(tag("a", name, href=f"#{_id(name)}") for name in names), aria_label="Models")


def _id(name: str) -> str:
    return "model-" + quote(name, safe="", errors="replace")


def _model(manager: Manager, metrics: Metrics, name: str, addresses: Addresses) -> Markup:
    versions, labels = manager.versions(name), manager.labels(name)
    states = [state for _, state, _ in versions]
    state = next((s for s in ("AVAILABLE", "LOADING", "START") if s in states), "Unavailable")
    return tag(
        "article",
        tag(
            "div",
            tag("div", tag("h2", name), _pill(state), class_="title"),
            _part(name, "load", lambda: _load(metrics, name)),
            _part(name, "versions", lambda: _versions(versions, labels)),
            id=_id(name),
            data_live=True,
        ),
        _part(name, "signatures", lambda: _described(manager, name, addresses)),
        aria_label=name,
    )


def _part(name: str, what: str, make: Callable[[], Markup | None]) -> Markup | None:
    """A part of a model's article. What goes wrong with it must not take the page from the other models."""
    try:
        return make()
    except Exception:
        log.exception("The status page cannot show the %s of %s", what, name)
        return tag("p", f"The {what} cannot be shown: the server's log says why.", class_="error")


def _pill(state: str) -> Markup:
    return tag("span", STATES.get(state, state), class_=f"pill {COLOURS.get(state, '')}")


def _load(metrics: Metrics, name: str) -> Markup:
    recent, latency = metrics.recent(name), metrics.latency(name)
    figures = {
        "requests per second": rate(sum(recent), _window(metrics)),
        "in flight": f"{metrics.in_flight(name):,}",
        "median": duration(latency.quantile(0.5)),
        "99th percentile": duration(latency.quantile(0.99)),
        "answered": f"{latency.count:,}",
    }
    charts = [
        tag("figure", tag("figcaption", "Requests in the last minute"), recent_chart(recent)) if sum(recent) else None,
        tag("figure", tag("figcaption", "Latency since the start"), latency_chart(latency)) if latency.count else None,
    ]
    return join(_figures(figures), tag("div", *charts, class_="charts"))


def _figures(figures: Mapping[str, str]) -> Markup:
    return tag(
        "dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in figures.items()), class_="figures"
    )


def _versions(versions: list[tuple[int, str, StatusError | None]], labels: Mapping[str, int]) -> Markup:
    rows, unloaded = [], []
    for number, state, error in versions:
        if state == "END" and error is None:
            unloaded.append(number)
            continue
        named = [tag("span", label, class_="label") for label, target in sorted(labels.items()) if target == number]
        told = tag("span", f"{error.code}: {error.message}", class_="error") if error else None
        rows.append(
            tag(
                "tr",
                tag("th", number, scope="row"),
                tag("td", _pill("Failed" if state == "END" else state)),
                tag("td", *named, told),
            )
        )
    dangling = sorted(label for label, target in labels.items() if target not in {number for number, _, _ in versions})
    gone = f"Unloaded: {', '.join(map(str, unloaded[:MOST_UNLOADED]))}" if unloaded else ""
    if len(unloaded) > MOST_UNLOADED:
        gone += f" and {len(unloaded) - MOST_UNLOADED:,} more"
    names = ("Version", "State", "Labels and errors")
    heads = tag("tr", *(tag("th", name, scope="col") for name in names))
    return join(
        tag("table", tag("caption", "Versions"), tag("thead", heads), tag("tbody", *rows)) if rows else None,
        tag("p", gone, class_="note") if gone else None,
        tag("p", f"Labels of versions that are not there: {', '.join(dangling)}", class_="note") if dangling else None,
    )


# What is read of a version's files does not change while it is loaded.
_known: WeakKeyDictionary[Any, tuple[Addresses, Markup]] = WeakKeyDictionary()


def _described(manager: Manager, name: str, addresses: Addresses) -> Markup | None:
    """Model card and signatures of the version that answers; nothing if none does."""
    try:
        with manager.use(name) as version:
            known = _known.get(version.servable)
            if known is None or known[0] != addresses:
                card, is_read = _card(version.path)
                signatures = _signatures(name, version.number, version.path, version.servable.signature_defs, addresses)
                known = addresses, join(card, signatures)
                if is_read:  # else it may be in the middle of being copied
                    _known[version.servable] = known
            return known[1]
    except StatusError:
        return None


def _card(path: str) -> tuple[Markup | None, bool]:
    """The model card, or what is wrong with it; and whether it could be read."""
    is_read = True
    try:
        lines = [join(tag("dt", line), tag("dd", *values)) for line, values in card_lines(read_card(path))]
        content = tag("dl", *lines, class_="card") if lines else None
    except UnreadableCard as error:
        is_read, content = False, tag("p", error, class_="error")
    return (tag("section", tag("h3", "Model card"), content) if content else None), is_read


def _signatures(name: str, number: int, path: str, definitions: Mapping[str, Any], addresses: Addresses) -> Markup:
    callable_ = {key: value for key, value in sorted(definitions.items()) if key != INIT_OPERATION}
    examples = show_all(name, callable_, path, addresses)
    order = sorted(callable_, key=lambda key: (key != "serving_default", key))
    signatures = [_signature(key, callable_[key], examples[key], key == order[0]) for key in order]
    return tag("section", tag("h3", f"Signatures of version {number}"), *signatures)


def _signature(name: str, definition: Any, shown: Shown, is_open: bool) -> Markup:
    rows = [
        *(
            _tensor("Input" if place == 0 else "", *entry)
            for place, entry in enumerate(sorted(definition.inputs.items()))
        ),
        *(
            _tensor("Output" if place == 0 else "", *entry)
            for place, entry in enumerate(sorted(definition.outputs.items()))
        ),
    ]
    heads = tag("tr", *(tag("th", head, scope="col") for head in ("", "Name", "Type", "Shape")))
    method = definition.method_name.rpartition("/")[2]
    sides = f"{plural(len(definition.inputs), 'input')}, {plural(len(definition.outputs), 'output')}"
    if not shown.python:
        examples = tag("p", "A client cannot send inputs of these types.", class_="note")
    else:
        no_rest = tag("p", "REST has no form for inputs of these types; gRPC has.", class_="note")
        examples = join(_code("curl", shown.curl) if shown.curl else no_rest, _code("Python", shown.python))
    return tag(
        "details",
        tag("summary", tag("code", name), tag("span", f"{method} · {sides}" if method else sides)),
        tag("table", tag("thead", heads), tag("tbody", *rows)),
        examples,
        open=is_open,
    )


def _tensor(side: str, name: str, info: Any) -> Markup:
    if info.tensor_shape.unknown_rank or info.HasField("composite_tensor"):
        shape = "any"
    else:
        shape = "[" + ", ".join("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim) + "]"
    cells = (tag("code", name), dtype_of(info), tag("code", shape))
    return tag("tr", tag("th", side, scope="row"), *(tag("td", cell) for cell in cells))


def _code(title: str, text: str) -> Markup:
    return tag("div", tag("h4", title), tag("pre", tag("code", text), tabindex=0, aria_label=f"{title} example"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from where its sources lie
        return "(not installed)"
