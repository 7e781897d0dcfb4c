"""The status page: models, versions, load, and a request of each signature to copy.

It loads nothing from other hosts. It works without JavaScript, which only keeps the numbers up to date.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote
from weakref import WeakKeyDictionary

from markupsafe import Markup

from serving.errors import StatusError
from serving.protocol import DEFAULT_SIGNATURE, INIT_OPERATION
from serving.status.charts import duration, elapsed, latency_chart, plural, rate, recent_chart
from serving.status.examples import LOCAL, Addresses, CodeExample, code_examples, dtype_of
from serving.status.model_card import UnreadableCard, card_lines, read_card
from serving.status.templates import render
from serving.telemetry.metrics import Metrics
from serving.telemetry.traffic import RECENT_SECONDS

log = logging.getLogger("serving")
MAX_UNLOADED = 5  # unloaded versions that are listed
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
# Even if escaping failed, no script would run and no data would leave the page.
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; "
    f"form-action 'none'; script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)


class Manager(Protocol):
    """The methods of ModelManager that the page uses."""

    def models(self) -> list[str]: ...

    def labels(self, name: str) -> dict[str, int]: ...

    def versions(self, name: str) -> list[tuple[int, str, StatusError | None]]: ...

    def use(self, name: str) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class Pill:
    """A state: a word with a colour."""

    text: str
    colour: str


@dataclass(frozen=True)
class Model:
    """A model on the page. `parts`: {name: HTML}, without the parts that failed."""

    name: str
    id: str
    state: Pill
    parts: Mapping[str, Markup]


@dataclass(frozen=True)
class Version:
    number: int
    state: Pill
    labels: list[str]
    error: StatusError | None


@dataclass(frozen=True)
class Tensor:
    """A row of a signature's table."""

    side: str  # "Input" or "Output" in the first row of a side, "" in the others
    name: str
    dtype: str
    shape: str


@dataclass(frozen=True)
class Signature:
    name: str
    summary: str
    tensors: list[Tensor]
    example: CodeExample


def page(manager: Manager, metrics: Metrics, addresses: Addresses = LOCAL) -> str:
    """Render the whole page as HTML. Reads the files of models that it has not described yet."""
    names = manager.models()
    html = render(
        "page.html",
        policy=POLICY,
        style=STYLE,
        script=SCRIPT,
        numbers=_summary(manager, metrics, names),
        now=datetime.now(UTC),
        models=[_model(manager, metrics, name, addresses) for name in names],
        packages={name: _version(name) for name in ("tensorflow", "kerasnets")},
    )
    return str(html)  # not Markup, which would escape strings joined to it


def _summary(manager: Manager, metrics: Metrics, names: list[str]) -> dict[str, str]:
    available = sum(any(state == "AVAILABLE" for _, state, _ in manager.versions(name)) for name in names)
    recent = sum(sum(metrics.recent_counts(name)) for name in names)
    return {
        "models available": f"{available} of {len(names)}",
        "requests per second": rate(recent, _window(metrics)),
        "in flight": f"{sum(map(metrics.in_flight, names)):,}",
        "up": elapsed(metrics.uptime()),
    }


def _window(metrics: Metrics) -> float:
    """Return the seconds that `recent` covers."""
    return min(max(metrics.uptime(), 1.0), RECENT_SECONDS)


def _model(manager: Manager, metrics: Metrics, name: str, addresses: Addresses) -> Model:
    versions, labels = manager.versions(name), manager.labels(name)
    states = [state for _, state, _ in versions]
    state = next((s for s in ("AVAILABLE", "LOADING", "START") if s in states), "Unavailable")
    renderers: dict[str, Callable[[], Markup]] = {
        "load": lambda: _load(metrics, name),
        "versions": lambda: _versions(versions, labels),
        "signatures": lambda: _description(manager, name, addresses),
    }
    parts = {}
    for part, render_part in renderers.items():
        try:
            parts[part] = render_part()
        except Exception:  # other models and parts must still be shown
            log.exception("The status page cannot show the %s of %s", part, name)
    return Model(name, "model-" + quote(name, safe="", errors="replace"), _pill(state), parts)


def _pill(state: str) -> Pill:
    return Pill(STATES.get(state, state), COLOURS.get(state, ""))


def _load(metrics: Metrics, name: str) -> Markup:
    recent, latency = metrics.recent_counts(name), metrics.latency(name)
    numbers = {
        "requests per second": rate(sum(recent), _window(metrics)),
        "in flight": f"{metrics.in_flight(name):,}",
        "median": duration(latency.quantile(0.5)),
        "99th percentile": duration(latency.quantile(0.99)),
        "answered": f"{latency.count:,}",
    }
    charts = {}
    if sum(recent):
        charts["Requests in the last minute"] = recent_chart(recent)
    if latency.count:
        charts["Latency since the start"] = latency_chart(latency)
    return render("load.html", numbers=numbers, charts=charts)


def _versions(versions: list[tuple[int, str, StatusError | None]], labels: Mapping[str, int]) -> Markup:
    rows, unloaded = [], []
    for number, state, error in versions:
        if state == "END" and error is None:
            unloaded.append(number)
            continue
        version_labels = sorted(label for label, target in labels.items() if target == number)
        rows.append(Version(number, _pill("Failed" if state == "END" else state), version_labels, error))
    dangling = sorted(label for label, target in labels.items() if target not in {number for number, _, _ in versions})
    return render("versions.html", versions=rows, unloaded=unloaded, max_unloaded=MAX_UNLOADED, dangling=dangling)


# {servable: (addresses, HTML)}. A version's files do not change while it is loaded.
_descriptions: WeakKeyDictionary[Any, tuple[Addresses, Markup]] = WeakKeyDictionary()


def _description(manager: Manager, name: str, addresses: Addresses) -> Markup:
    """Render model card and signatures of the current version; nothing if none is available."""
    try:
        with manager.use(name) as version:
            cached = _descriptions.get(version.servable)
            if cached is None or cached[0] != addresses:
                card, is_read = _card(version.path)
                signatures = _signatures(name, version.number, version.path, version.servable.signature_defs, addresses)
                cached = addresses, card + signatures
                if is_read:  # otherwise the file may still be being copied
                    _descriptions[version.servable] = cached
            return cached[1]
    except StatusError:
        return Markup()


def _card(path: str) -> tuple[Markup, bool]:
    """Render the model card or the error in it; also return whether it could be read."""
    try:
        return render("card.html", lines=card_lines(read_card(path)), error=None), True
    except UnreadableCard as error:
        return render("card.html", lines=[], error=error), False


def _signatures(name: str, number: int, path: str, definitions: Mapping[str, Any], addresses: Addresses) -> Markup:
    public = {key: value for key, value in sorted(definitions.items()) if key != INIT_OPERATION}
    examples = code_examples(name, public, path, addresses)
    order = sorted(public, key=lambda key: (key != DEFAULT_SIGNATURE, key))
    signatures = [_signature(key, public[key], examples[key]) for key in order]
    return render("signatures.html", number=number, signatures=signatures)


def _signature(name: str, definition: Any, example: CodeExample) -> Signature:
    tensors = [
        Tensor(side if place == 0 else "", key, dtype_of(info), _shape(info))
        for side, infos in (("Input", definition.inputs), ("Output", definition.outputs))
        for place, (key, info) in enumerate(sorted(infos.items()))
    ]
    method = definition.method_name.rpartition("/")[2]
    sides = f"{plural(len(definition.inputs), 'input')}, {plural(len(definition.outputs), 'output')}"
    return Signature(name, f"{method} · {sides}" if method else sides, tensors, example)


def _shape(info: Any) -> str:
    if info.tensor_shape.unknown_rank or info.HasField("composite_tensor"):
        return "any"
    return "[" + ", ".join("?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim) + "]"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # it runs from its source directory
        return "(not installed)"
