"""The exports in an environment with TensorFlow 2.20 and nothing of ours: as the newest TensorFlow Serving runs them.

`make test-saved-models` makes that environment and runs these tests; `make test` runs them as well once it is there.
"""

import json
import os
import subprocess

import pytest
from small_runs import ROOT, TASKS

ENVIRONMENT = ROOT / ".venv-tensorflow-2.20"
OURS = ("kerasnets", "serving", "tensorflow_serving", "tensorflow_text", "keras_hub")
VERIFY = ROOT / "kerasnets" / "verify.py"

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "installed").exists(),
    reason="there is no .venv-tensorflow-2.20 with TensorFlow 2.20 alone; `make test-saved-models` makes it",
)


def run_there(directory, *arguments):
    """Runs that environment's Python elsewhere, so that it finds nothing of ours by accident."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(ENVIRONMENT / "bin" / "python"), "-P", *map(str, arguments)]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_environment_has_tensorflow_2_20_alone(tmp_path):
    program = f"""
from importlib import metadata, util
print(metadata.version("tensorflow"), [name for name in {OURS} if util.find_spec(name)])"""
    done = run_there(tmp_path, "-c", program)
    version, found = done.stdout.split(maxsplit=1)
    assert version.startswith("2.20.") and found.strip() == "[]", done.stdout + done.stderr


@pytest.fixture(scope="module")
def reports(models_dir, tmp_path_factory):
    """What kerasnets/verify.py tells of each task's model; one process does it, without measuring latency for long."""
    program = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("verify", sys.argv[1])
verify = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify)
verify.SECONDS, verify.ROWS = 0.0, (1, 2)
sys.exit(max(verify.main([path, "--json"]) for path in sys.argv[2:]))"""
    done = run_there(
        tmp_path_factory.mktemp("elsewhere"), "-c", program, VERIFY, *(models_dir / task / "1" for task in TASKS)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(zip(TASKS, map(json.loads, done.stdout.splitlines()[-len(TASKS) :]), strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_the_trained_model(reports, models_dir, task):
    report = reports[task]
    assert report["tensorflow"].startswith("2.20.") and report["failures"] == []
    card = json.loads((models_dir / task / "1" / "assets.extra" / "model_card.json").read_text())
    assert set(report["signatures"]) == set(card["signatures"])
