"""The small runs that tests train, and helpers for them."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
TASKS = ("image_classification", "text_generation", "translation")


def small_config(task: str) -> Any:
    """-> the quick preset with fewer units and epochs."""
    from kerasnets.tasks.presets import load_preset

    config = load_preset(task, "quick")
    replace = dataclasses.replace
    if task == "image_classification":
        return replace(config, training=replace(config.training, epochs=12))
    if task == "text_generation":
        model = replace(config.model, units=64)
        return replace(config, model=model, max_length=300, training=replace(config.training, epochs=3))
    model = replace(config.model, width=64, hidden_units=64, num_blocks=1)
    return replace(config, model=model, training=replace(config.training, epochs=1, warmup_steps=50))


def verify_here(path: Path) -> dict[str, Any]:
    """Verify an export in this process and measure latency only briefly, unlike `kerasnets.export.verify`. For tests of
    something else than the verification."""
    from kerasnets import verify

    with patch.multiple(verify, SECONDS=0.0, ROWS=(1, 2)):
        report = json.loads(json.dumps(verify.verify(path)))
    assert not report["failures"], report["failures"]
    return report


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
