"""What the presets and benchmarks/README.md say of their results is what was measured (benchmarks/results.json)."""

import json
import re

import pytest
from small_runs import ROOT

from kerasnets.config import DEFAULT_PRESETS, PRESETS, load_preset

RESULTS = json.loads((ROOT / "benchmarks" / "results.json").read_text("utf-8"))
LIMITS = {  # seconds of the whole command, and what it has to reach
    "image_classification": (180, lambda test, validation: test["accuracy"] >= 0.990),
    "text_generation": (600, lambda test, validation: validation["loss"] <= 1.70),
    "translation": (1200, lambda test, validation: test["bleu"] >= 22),
}


@pytest.mark.parametrize("task", DEFAULT_PRESETS)
def test_a_preset_states_what_was_measured_with_it(task):
    result = RESULTS[task]
    assert result["preset"] == DEFAULT_PRESETS[task]
    assert result["dataset"] == load_preset(task).dataset
    preset = (PRESETS / task / f"{result['preset']}.toml").read_text("utf-8")
    stated = re.search(r"^# Measured: (.+)$", preset, re.MULTILINE)[1]
    assert stated == statement(task, result)
    assert stated in (ROOT / "benchmarks" / "README.md").read_text("utf-8")


def statement(task: str, result: dict) -> str:
    minutes, test, validation = result["seconds"] / 60, result["test"], result["validation"]
    scores = {
        "image_classification": lambda: f"test accuracy {test['accuracy']:.4f}",
        "text_generation": lambda: f"validation loss {validation['loss']:.3f}, test loss {test['loss']:.3f} nats",
        "translation": lambda: f"test BLEU {test['bleu']:.1f}, chrF {test['chrf']:.1f}, greedy",
    }
    return f"{result['dataset']}, two cores, {minutes:.1f} min: {scores[task]()}"


@pytest.mark.parametrize("task", DEFAULT_PRESETS)
def test_the_result_keeps_what_the_defaults_promise(task):
    limit, reached = LIMITS[task]
    assert RESULTS[task]["seconds"] <= limit
    assert reached(RESULTS[task]["test"], RESULTS[task]["validation"])
