"""The results in presets and docs/benchmarks.md agree with the measurements (benchmarks/results.json)."""

import json
import re

import pytest
from small_runs import ROOT

from benchmarks.presets import RESULTS, statement
from kerasnets.tasks import TASKS
from kerasnets.tasks.presets import PRESETS, load_preset

MEASURED = json.loads(RESULTS.read_text("utf-8"))
LIMITS = {  # maximum seconds of the whole command, and a condition on its scores
    "image_classification": (180, lambda test, validation: test["accuracy"] >= 0.990),
    "text_generation": (600, lambda test, validation: validation["loss"] <= 1.70),
    "translation": (1200, lambda test, validation: test["bleu"] >= 22),
}
STATED = {
    f"{path.parent.name}/{path.stem}": match[1]
    for path in sorted(PRESETS.glob("*/*.toml"))
    if (match := re.search(r"^# Measured: (.+)$", path.read_text("utf-8"), re.MULTILINE))
}


def test_exactly_the_measured_presets_state_results():
    assert set(STATED) == set(MEASURED)
    assert {f"{task}/{facts.default_preset}" for task, facts in TASKS.items()} <= set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_a_preset_states_its_measured_results(name):
    result = MEASURED[name]
    assert result["dataset"] == load_preset(*name.split("/")).dataset
    assert STATED[name] == statement(name, result)
    assert STATED[name] in (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_results_of_the_default_presets_keep_the_limits(task):
    max_seconds, is_good = LIMITS[task]
    result = MEASURED[f"{task}/{TASKS[task].default_preset}"]
    assert result["seconds"] <= max_seconds
    assert is_good(result["test"], result["validation"])
