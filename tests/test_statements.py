"""What the presets and docs/benchmarks.md say of their results is what was measured (benchmarks/results.json)."""

import json
import re

import pytest
from small_runs import ROOT

from benchmarks.presets import RESULTS, statement
from kerasnets.tasks import TASKS
from kerasnets.tasks.presets import PRESETS, load_preset

MEASURED = json.loads(RESULTS.read_text("utf-8"))
LIMITS = {  # seconds of the whole command, and what it has to reach
    "image_classification": (180, lambda test, validation: test["accuracy"] >= 0.990),
    "text_generation": (600, lambda test, validation: validation["loss"] <= 1.70),
    "translation": (1200, lambda test, validation: test["bleu"] >= 22),
}
STATED = {
    f"{path.parent.name}/{path.stem}": stated[1]
    for path in sorted(PRESETS.glob("*/*.toml"))
    if (stated := re.search(r"^# Measured: (.+)$", path.read_text("utf-8"), re.MULTILINE))
}


def test_presets_state_what_is_measured_and_nothing_else():
    assert set(STATED) == set(MEASURED)
    assert {f"{task}/{facts.default_preset}" for task, facts in TASKS.items()} <= set(STATED)


@pytest.mark.parametrize("name", STATED)
def test_a_preset_states_what_was_measured_with_it(name):
    result = MEASURED[name]
    assert result["dataset"] == load_preset(*name.split("/")).dataset
    assert STATED[name] == statement(name, result)
    assert STATED[name] in (ROOT / "docs" / "benchmarks.md").read_text("utf-8")


@pytest.mark.parametrize("task", TASKS)
def test_the_result_keeps_what_the_defaults_promise(task):
    limit, reached = LIMITS[task]
    result = MEASURED[f"{task}/{TASKS[task].default_preset}"]
    assert result["seconds"] <= limit
    assert reached(result["test"], result["validation"])
