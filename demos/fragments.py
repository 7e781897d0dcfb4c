"""HTML fragments of the page. All text of users and servers is escaped here, and only here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from demos import health
from demos.health import Health, ModelHealth
from demos.images import data_url
from demos.predictions import Continuation, Translation
from demos.tasks import TASKS, export_command, serve_command, train_command

SCORE = "Mean log probability of the subwords; closer to 0 is more confident"
TITLES = dict(zip(TASKS, ("Images", "Text", "Translation"), strict=True))


def banner(state: Health, address: str) -> str:
    """Return the status line: the server and its models, or how to start one."""
    if state.error:
        return card("warning", f"The server at <code>{escape(address)}</code> {escape(state.error)}")
    if not state.reachable:
        return card(
            "warning",
            f"<b>No model server answers at <code>{escape(address)}</code>.</b> Start one, and "
            f"this page continues automatically:{commands(serve_command(address))}",
        )
    chips = "".join(chip(task, state.models[task]) for task in TASKS)
    server = f"<span class='dot'></span>Model server <code>{escape(address)}</code>"
    return f"<div class='status' role='status'><span>{server}</span>{chips}</div>"


def chip(task: str, model: ModelHealth) -> str:
    """Return the status of one model in the status line."""
    labels = {
        health.READY: f"version {model.detail}",
        health.LOADING: "loading …",
        health.FAILED: "failed to load",
        health.ABSENT: "not served",
    }
    return f"<span class='chip {model.state}'>{TITLES[task]} <em>{escape(labels[model.state])}</em></span>"


def tab_notice(state: Health, task: str) -> str:
    """Return the notice of a tab whose model is not ready; empty if it is ready or no server answers."""
    model = state.models.get(task)
    if model is None or model.state == health.READY:
        return ""
    if model.state == health.LOADING:
        return card("info", f"The server is loading <code>{task}</code>; this takes a few seconds.")
    if model.state == health.FAILED:
        return card("warning", f"The server could not load <code>{task}</code>: {escape(model.detail)}")
    how_to = commands(train_command(task), export_command(task))
    return card("info", f"The server has no model <code>{task}</code> yet. Train and export one:{how_to}")


def card(kind: str, body: str) -> str:
    """Return a framed message; screen readers announce warnings immediately."""
    role = "alert" if kind == "warning" else "status"
    return f"<div class='card {kind}' role='{role}'>{body}</div>"


def commands(*lines: str) -> str:
    """Return command lines to copy."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def error(text: str) -> str:
    """Return an error message, shown below the input that caused it."""
    return card("warning", escape(text))


def hint(text: str) -> str:
    """Return the placeholder of an output."""
    return f"<div class='answer hint'>{escape(text)}</div>"


def sent_drawing(image: bytes) -> str:
    """Return a drawing as the server received it."""
    text = "Image sent: your drawing, light on dark, cropped and centred, as in datasets of handwritten digits."
    return f"<div class='sent'><img src='{data_url(image)}' alt=''><span>{text}</span></div>"


def continuation(result: Continuation) -> str:
    """Return the prompt in grey, its continuation in colour, and the log-probability of the continuation."""
    body = f"<span class='prompt'>{escape(result.prompt)}</span><mark>{escape(result.text)}</mark>"
    length = max(len(result.text), 1)
    bits = -result.log_probability / length / math.log(2)
    facts = (
        f"<b>{len(result.text)}</b> characters",
        f"log-probability <b>{number(result.log_probability, 1)}</b>",
        f"<b>{number(bits, 2)}</b> bits per character",
    )
    return f"<div class='answer'><div class='text'>{body}</div><div class='facts'>{items(facts)}</div></div>"


def translations(results: Sequence[Translation]) -> str:
    """Return a row for each sentence: the source, the translation below it, the score beside it."""
    rows = "".join(
        f"<li><div class='source'>{escape(result.source)}</div>"
        f"<div class='target'>{escape(result.translation)}</div>"
        f"<div class='score' title='{SCORE}'>score {number(result.score, 2)}</div></li>"
        for result in results
    )
    return f"<div class='answer'><ol class='pairs'>{rows}</ol></div>"


def items(facts: Sequence[str]) -> str:
    """Return facts on one line; each is HTML already."""
    return "".join(f"<span>{fact}</span>" for fact in facts)


def number(value: float, digits: int) -> str:
    """Format a number with a typographic minus sign; -0.0 becomes 0."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def connecting(address: str) -> str:
    """Return the status line before the first health check."""
    text = f"Connecting to the model server at <code>{escape(address)}</code> …"
    return f"<div class='status' role='status'><span>{text}</span></div>"
