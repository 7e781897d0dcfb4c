"""Runs every command and every example of the README, in its order, in an empty directory.

Six kinds are not run as they stand. Trainings are shorter and networks smaller than the commands ask for. What trains
on real data for minutes is tried with --dry-run where those data are there. Dry runs do not export here: the README's
other commands do. Exports are verified in this process; `python -m kerasnets.verify`, which the README has too, is one
of its own. What needs a Docker engine or a cluster is left out, and so is what tests/test_pipelines.py runs: Apache
Beam, in an environment of its own, and `saved_model_cli`. `make demo` is `python -m demos.quickstart`, which
tests/demos runs. Of `ELSEWHERE` only the arguments are read: tests/kerasnets/test_networks.py trains these networks,
and tests/kerasnets/saved_model writes these exports.
"""

import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from small_runs import ROOT, free_port, verify_here

README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(bash|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SHORT = {
    "image_classification": ["--training.epochs=1"],
    "text_generation": ["--model.units=32", "--training.batch-size=128"],
    "translation": ["--vocabulary-size=600", "--max-length=40", "--model.width=48"],
}
ELSEWHERE = {"runs/rows", "runs/spelled", "small_digits", "portable_digits"}
PROGRAMS = r"(?:echo (.+) \| )?python -m (kerasnets\.(?:train|evaluate|export|predict|describe)) ?(.*)"


class Shell:
    """Runs the README's commands; those of kerasnets in this process, which has TensorFlow already."""

    def __init__(self, ports):
        self.ports, self.servers = ports, []

    def run(self, command, data_dir):
        for port, free in self.ports.items():
            command = command.replace(port, free)
        if program := re.fullmatch(PROGRAMS, command):
            given = " ".join(shlex.split(program[1] or ""))
            return self.program(program[2], shlex.split(program[3]), given, data_dir)
        if re.match(r"python -m (serving|demos) ", command):
            arguments = shlex.split(command)[1:]
            if "demos" in command:
                arguments.append(f"--port={self.ports['7860']}")
            return self.serve(arguments)
        if command.startswith("make "):
            return subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, check=True, capture_output=True)
        if command.startswith(("docker ", "kubectl ", ".venv-beam/", "saved_model_cli ")):
            return None
        command = command.replace("python -m", f"{sys.executable} -m")
        return subprocess.run(["bash", "-c", command], check=True, capture_output=True, timeout=600)

    def program(self, module, arguments, given, data_dir):
        real = any(name in arguments for name in ("mnist", "cifar10", "tiny_shakespeare", "multi30k"))
        if real and data_dir is None:
            return
        if real:
            arguments += ["--dry-run", "--data-dir", data_dir]
        if module.endswith("train") and "--help" not in arguments:
            arguments += SHORT[arguments[0]]
            if arguments[0] == "translation":
                arguments += ["--model.units=48" if "seq2seq_lstm" in arguments else "--model.num-blocks=1"]
        if ELSEWHERE & set(arguments):
            with patch(f"{module}.{module.rpartition('.')[2]}") as work:
                importlib.import_module(module).main(arguments)
            return work.assert_called_once()
        printed = io.StringIO()
        export = patch("kerasnets.export.export") if "--dry-run" in arguments else nullcontext()
        verify = patch("kerasnets.export.verify", verify_here)
        standard_input = patch("sys.stdin", io.StringIO(f"{given}\n"))
        # --help exits; a wrong request is another error.
        with export, verify, standard_input, redirect_stdout(printed), suppress(SystemExit):
            importlib.import_module(module).main(arguments)
        assert printed.getvalue() or module == "kerasnets.train"

    def serve(self, arguments):
        process = subprocess.Popen([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)})
        self.servers.append(process)
        page = "/v1/models/translation" if "serving" in arguments else "/"
        port = self.ports["8501" if "serving" in arguments else "7860"]
        end = time.monotonic() + 300  # a busy machine loads and warms up four versions slowly
        while True:
            assert process.poll() is None and time.monotonic() < end
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                time.sleep(0.2)


@pytest.fixture
def real_data():
    given = os.environ.get("TFDS_DATA_DIR", str(ROOT.parent / "shared" / "datasets"))
    return given if os.path.isdir(given) else None


@pytest.mark.slow
def test_every_command_of_the_readme(tmp_path, monkeypatch, real_data):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # as in the activated environment
    shell = Shell({port: str(free_port()) for port in ("8500", "8501", "7860")})
    try:
        for language, text in BLOCKS:
            if language == "bash":
                for command in filter(None, (line.partition("  #")[0].strip() for line in text.splitlines())):
                    shell.run(command, real_data)
            else:
                for port, free in shell.ports.items():
                    text = text.replace(port, free)
                exec(compile(text, "README.md", "exec"), {})
    finally:
        for process in shell.servers:
            process.terminate()
            process.wait(30)
    assert (tmp_path / "runs" / "digits" / "evaluation-test.json").exists()
    assert (tmp_path / "models" / "translation" / "1").is_dir()


def test_the_readme_names_files_and_presets_that_exist():
    assert shutil.which("make")
    for path in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:kerasnets|serving|demos)/[\w/.]+)`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_has_a_line_for_every_layer_and_model():
    from kerasnets import layers, models

    for name in [*layers.__all__, *models.__all__]:
        assert f"`{name}`" in README, name
