"""The pieces of HTML on the page. Everything that comes from outside is escaped here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from demos import health
from demos.health import Health, ModelHealth
from demos.pictures import data_url
from demos.predictions import Continuation, Translation
from demos.tasks import TASKS, export_command, serve_command, train_command

SCORE = "Mean log probability of the pieces: nearer to 0 is surer"
TITLES = dict(zip(TASKS, ("Images", "Text", "Translation"), strict=True))


def banner(state: Health, address: str) -> str:
    """The status line: which server, and what it serves; or how to start one."""
    if state.trouble:
        return card("warning", f"The server at <code>{escape(address)}</code> {escape(state.trouble)}")
    if not state.reachable:
        return card(
            "warning",
            f"<b>No model server answers at <code>{escape(address)}</code>.</b> Start one, and "
            f"this page goes on by itself:{commands(serve_command(address))}",
        )
    chips = "".join(chip(task, state.models[task]) for task in TASKS)
    server = f"<span class='dot'></span>Model server <code>{escape(address)}</code>"
    return f"<div class='status' role='status'><span>{server}</span>{chips}</div>"


def chip(task: str, model: ModelHealth) -> str:
    """One model in the status line."""
    words = {
        health.READY: f"version {model.detail}",
        health.LOADING: "loading …",
        health.FAILED: "failed to load",
        health.ABSENT: "not served",
    }
    return f"<span class='chip {model.state}'>{TITLES[task]} <em>{escape(words[model.state])}</em></span>"


def tab_notice(state: Health, task: str) -> str:
    """What a tab says while its model does not answer; nothing when it does, or when no server does."""
    model = state.models.get(task)
    if model is None or model.state == health.READY:
        return ""
    if model.state == health.LOADING:
        return card("info", f"The server is loading <code>{task}</code>; this takes some seconds.")
    if model.state == health.FAILED:
        return card("warning", f"The server could not load <code>{task}</code>: {escape(model.detail)}")
    how = commands(train_command(task), export_command(task))
    return card("info", f"The server has no model <code>{task}</code> yet. Train and export one:{how}")


def card(kind: str, body: str) -> str:
    """A framed message; warnings are read out by screen readers at once."""
    role = "alert" if kind == "warning" else "status"
    return f"<div class='card {kind}' role='{role}'>{body}</div>"


def commands(*lines: str) -> str:
    """Command lines to copy."""
    return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"


def problem(text: str) -> str:
    """One sentence about what went wrong, below the input that caused it."""
    return card("warning", escape(text))


def hint(text: str) -> str:
    """What an answer's place says before there is one."""
    return f"<div class='answer hint'>{escape(text)}</div>"


def sent(image: bytes) -> str:
    """A drawing as the server got it."""
    words = "What is sent: your drawing, light on dark, cut out and centred, as in sets of handwritten digits."
    return f"<div class='sent'><img src='{data_url(image)}' alt=''><span>{words}</span></div>"


def continuation(answer: Continuation) -> str:
    """The prompt in grey, what the network wrote after it in colour, and how likely it found that."""
    body = f"<span class='prompt'>{escape(answer.prompt)}</span><mark>{escape(answer.text)}</mark>"
    length = max(len(answer.text), 1)
    bits = -answer.log_probability / length / math.log(2)
    facts = (
        f"<b>{len(answer.text)}</b> characters",
        f"log-probability <b>{number(answer.log_probability, 1)}</b>",
        f"<b>{number(bits, 2)}</b> bits per character",
    )
    return f"<div class='answer'><div class='text'>{body}</div><div class='facts'>{items(facts)}</div></div>"


def translations(answers: Sequence[Translation]) -> str:
    """A row for each sentence: source above, translation below, score beside it."""
    rows = "".join(
        f"<li><div class='source'>{escape(answer.source)}</div>"
        f"<div class='target'>{escape(answer.translation)}</div>"
        f"<div class='score' title='{SCORE}'>score {number(answer.score, 2)}</div></li>"
        for answer in answers
    )
    return f"<div class='answer'><ol class='pairs'>{rows}</ol></div>"


def items(facts: Sequence[str]) -> str:
    """Small facts in a line; each is HTML already."""
    return "".join(f"<span>{fact}</span>" for fact in facts)


def number(value: float, digits: int) -> str:
    """A number with a real minus sign; -0.0 is 0."""
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def looking(address: str) -> str:
    """The status line before the first answer."""
    words = f"Looking for the model server at <code>{escape(address)}</code> …"
    return f"<div class='status' role='status'><span>{words}</span></div>"
