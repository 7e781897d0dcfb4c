"""Bar charts of the status page with text alternatives, and formatted numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.telemetry.traffic import Latency

MIN_BUCKETS = 8
MAX_LABELS = 4  # below a chart
LAST_LABEL_POSITION = 0.85  # as a fraction of the width; labels beyond it would not fit


@dataclass(frozen=True)
class Bar:
    title: str
    height: float  # per cent of the chart's height


@dataclass(frozen=True)
class Tick:
    """A label below the bars."""

    text: str
    left: float  # per cent of the chart's width


@dataclass(frozen=True)
class Chart:
    label: str  # text alternative for screen readers
    bars: list[Bar]
    ticks: list[Tick]


def latency_chart(latency: Latency) -> Chart:
    """Draw the latency histogram of at least one request; a bar is a bucket."""
    filled = [index for index, count in enumerate(latency.counts) if count]
    first, last = max(filled[0] - 1, 0), min(filled[-1] + 1, len(latency.bounds))
    while last - first + 1 < MIN_BUCKETS:
        first, last = max(first - 1, 0), min(last + 1, len(latency.bounds))
    counts = latency.counts[first : last + 1]
    limits = [0.0, *latency.bounds]
    titles = [
        f"{duration(limits[index])} to {duration(limits[index + 1])}: {plural(latency.counts[index], 'request')}"
        if index + 1 < len(limits)
        else f"over {duration(limits[index])}: {plural(latency.counts[index], 'request')}"
        for index in range(first, last + 1)
    ]
    step = -(-len(counts) // MAX_LABELS)
    labels = {
        place: duration(limits[first + place]) for place in range(0, int(LAST_LABEL_POSITION * len(counts)), step)
    }
    words = f"Latency of {plural(latency.count, 'request')}: half below {duration(latency.quantile(0.5))}, "
    words += f"99 % below {duration(latency.quantile(0.99))}"
    return _chart(counts, titles, labels, words)


def recent_chart(counts: Sequence[int]) -> Chart:
    """Draw how many requests ended in each of the last seconds, the oldest first."""
    seconds = len(counts)
    titles = [f"{seconds - place} s ago: {plural(count, 'request')}" for place, count in enumerate(counts)]
    labels = {place: f"−{seconds - place} s" for place in range(0, seconds, seconds // MAX_LABELS)}
    words = f"{plural(sum(counts), 'request')} in the last {seconds} seconds, at most {max(counts)} in one"
    return _chart(counts, titles, labels, words)


def _chart(counts: Sequence[int], titles: Sequence[str], labels: dict[int, str], words: str) -> Chart:
    highest = max(max(counts), 1)
    bars = [Bar(title, 100 * count / highest) for count, title in zip(counts, titles, strict=True)]
    return Chart(words, bars, [Tick(text, 100 * place / len(counts)) for place, text in labels.items()])


def duration(microseconds: float | None) -> str:
    """Format a duration with about three digits: 340 µs, 1.1 ms, 12 s."""
    if microseconds is None:
        return "–"
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= 0.9995 * size:
            return f"{_digits(microseconds / size)} {unit}"
    return f"{_digits(microseconds)} µs"


def rate(requests: int, seconds: float) -> str:
    """Format requests per second."""
    return _digits(requests / seconds)


def elapsed(seconds: float) -> str:
    """Format a duration in its two largest units."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _digits(value: float) -> str:
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"
