"""The exports with TensorFlow 2.20 and without this project, as the newest TensorFlow Serving runs them.

`make test-saved-models` creates an environment for them and runs these tests; then `make test` runs them too.
"""

import json
import os
import subprocess

import pytest
from small_runs import ROOT, TASKS

ENVIRONMENT = ROOT / ".venv-tensorflow-2.20"
ABSENT_PACKAGES = ("kerasnets", "serving", "tensorflow_serving", "tensorflow_text", "keras_hub")
VERIFY = ROOT / "kerasnets" / "verify.py"

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "installed").exists(),
    reason="there is no .venv-tensorflow-2.20 with TensorFlow 2.20 alone; `make test-saved-models` creates it",
)


def run_python(directory, *arguments):
    """Run that environment's Python in another directory, so that it cannot import this project."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(ENVIRONMENT / "bin" / "python"), "-P", *map(str, arguments)]
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_environment_has_tensorflow_2_20_alone(tmp_path):
    program = f"""
from importlib import metadata, util
print(metadata.version("tensorflow"), [name for name in {ABSENT_PACKAGES} if util.find_spec(name)])"""
    process = run_python(tmp_path, "-c", program)
    version, present = process.stdout.split(maxsplit=1)
    assert version.startswith("2.20.") and present.strip() == "[]", process.stdout + process.stderr


@pytest.fixture(scope="module")
def reports(models_dir, tmp_path_factory):
    """The reports of kerasnets/verify.py on each task's model, from one process, with short latency measurements."""
    program = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("verify", sys.argv[1])
verify = importlib.util.module_from_spec(spec)
spec.loader.exec_module(verify)
verify.SECONDS, verify.ROWS = 0.0, (1, 2)
sys.exit(max(verify.main([path, "--json"]) for path in sys.argv[2:]))"""
    process = run_python(
        tmp_path_factory.mktemp("elsewhere"), "-c", program, VERIFY, *(models_dir / task / "1" for task in TASKS)
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return dict(zip(TASKS, map(json.loads, process.stdout.splitlines()[-len(TASKS) :]), strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_outputs_equal_those_of_the_trained_model(reports, models_dir, task):
    report = reports[task]
    assert report["tensorflow"].startswith("2.20.") and report["failures"] == []
    card = json.loads((models_dir / task / "1" / "assets.extra" / "model_card.json").read_text())
    assert set(report["signatures"]) == set(card["signatures"])
