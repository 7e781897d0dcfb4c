"""The report, as JSON and as text."""

from __future__ import annotations

from typing import Any

import numpy as np


def latency(seconds: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def to_json(value: Any) -> Any:
    """Convert a value to JSON types: bytes that are not UTF-8 become \\x escapes, non-finite numbers null."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, list):
        return [to_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def as_text(report: dict[str, Any]) -> str:
    lines = [
        f"A {report['a']}   B {report['b']}   signature {report['signature']}   {report['server']}",
        f"{report['inputs']:,} inputs in {report['calls']:,} calls to each",
        "",
    ]
    width = max(map(len, [*report["outputs"], "latency"])) + 2
    lines += [f"{name:{width}}{format_result(output, report['inputs'])}" for name, output in report["outputs"].items()]
    times = (f"{side.upper()} p50 {t['p50']:.1f} ms, p99 {t['p99']:.1f} ms" for side, t in report["latency_ms"].items())
    lines += [f"{'latency':{width}}{';  '.join(times)}"]
    if report["examples"]:
        lines += ["", f"{report['differing']:,} outputs differ; the first {len(report['examples'])}:"]
    for example in report["examples"]:
        lines.append(shorten(example["input"]))
        for side in ("a", "b"):
            lines.append(f"    {side.upper()}  {'   '.join(map(format_value, example[side].values()))}")
    return "\n".join(lines)


def format_result(output: dict[str, Any], rows: int) -> str:
    if output["compared"] == "no":
        return f"not compared: {output['reason']}"
    if output["compared"] == "score":
        mean, (low, high) = output["mean_difference"], output["interval_95"]
        interval = "" if low is None else f", 95 % interval {low:+.4g} to {high:+.4g}"
        return f"B - A on average {'not a number' if mean is None else format(mean, '+.4g')}{interval}"
    agreement = "the same" if output["compared"] == "text" else "the same index of the maximum"
    return f"{agreement} for {output['equal']:,} of {rows:,} ({output['agreement']:.1%})"


def format_value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(format_value(item) for item in value[:5]) + (", ...]" if len(value) > 5 else "]")
    return f"{value:.4g}" if isinstance(value, float) else shorten(str(value))


def shorten(text: str, max_length: int = 200) -> str:
    """Shorten a text to `max_length` characters on one line."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= max_length else f"{text[:max_length]}..."
