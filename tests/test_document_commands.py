"""Run every command and code block of README and docs, page by page, in one directory.

Later pages use runs, exports and servers of earlier ones, so run the whole file. A command that several pages have runs
once. Some commands do not run as written:

* Trainings are shorter and networks smaller. Trainings on datasets that take minutes are dry runs, where these datasets
  exist; dry runs export nothing here.
* Exports are verified in this process; `python -m kerasnets.verify` runs in a process of its own.
* Other test files run `make demo` (tests/demos), the networks and exports of `ELSEWHERE` (tests/kerasnets/
  test_networks.py, tests/kerasnets/saved_model), `saved_model_cli` and Apache Beam (tests/test_pipelines.py), and the
  blocks of docs/extending.md (tests/test_extending.py).
* Docker and kubectl need an engine and a cluster; tests/serving/test_deployment_files.py checks their files.
"""

import functools
import importlib
import io
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest
from small_runs import ROOT, free_port, verify_here

# In the order of the commands that depend on one another; the last page replaces the server by one with TLS.
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/quick_start.md",
    "docs/training.md",
    "docs/data.md",
    "docs/export.md",
    "docs/formats.md",
    "docs/models_and_layers.md",
    "docs/serving.md",
    "docs/client.md",
    "docs/other_programs.md",
    "docs/benchmarks.md",
    "docs/scaling.md",
    "docs/production.md",
]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("8500", "8501", "7860")
SHORT = {
    "image_classification": ["--training.epochs=1"],
    "text_generation": ["--training.epochs=1", "--training.batch-size=128"],
    "translation": ["--training.epochs=1", "--vocabulary-size=600", "--max-length=40", "--model.width=48"],
}
ELSEWHERE = {"runs/patches", "runs/rows", "runs/spelled", "small_digits", "portable_digits", "runs/small"}
PROGRAM = re.compile(r"(?:echo (.+) \| )?python -m (kerasnets\.(?:train|evaluate|export|predict|describe)) ?(.*)")
NOT_RUN = ("source ", "docker ", "kubectl ", ".venv-beam/", "saved_model_cli ")


class Shell:
    """Runs commands; the programs of kerasnets in this process, which has imported TensorFlow already."""

    def __init__(self, data_dir):
        self.ports = {port: str(free_port()) for port in PORTS}
        self.data_dir, self.servers, self.finished = data_dir, {}, set()

    def with_free_ports(self, text):
        return functools.reduce(lambda text, port: text.replace(port, self.ports[port]), self.ports, text)

    def run(self, command):
        if command in self.finished or command.startswith(NOT_RUN):
            return
        if program := PROGRAM.fullmatch(command):
            standard_input = " ".join(shlex.split(program[1] or ""))
            self.run_program(program[2], shlex.split(program[3]), standard_input)
        elif re.match(r"python -m (serving|demos) ", command):
            self.start(shlex.split(self.with_free_ports(command))[2:])
            return  # a later page starts it again
        elif command.startswith("make "):
            subprocess.run(["make", "-n", command.split()[1]], cwd=ROOT, check=True, capture_output=True)
        else:
            command_line = self.with_free_ports(command.replace("python -m", f"{sys.executable} -m"))
            done = subprocess.run(
                ["bash", "-c", command_line], capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.finished.add(command)

    def run_program(self, module, arguments, standard_input):
        main = importlib.import_module(module).main
        if ELSEWHERE & set(arguments):
            with patch(f"{module}.{module.rpartition('.')[2]}") as work:
                main(arguments)
            work.assert_called_once()
            return
        if module.endswith("train") and "--help" not in arguments:
            if "quick" not in arguments and not re.search(r"--dataset (file|folder):", shlex.join(arguments)):
                if self.data_dir is None:
                    return
                arguments += ["--dry-run", "--data-dir", self.data_dir]
            arguments += SHORT[arguments[0]]
            if arguments[0] == "text_generation":
                arguments += ["--model.width=32" if "decoder_transformer" in arguments else "--model.units=32"]
            if arguments[0] == "translation":
                arguments += ["--model.units=48" if "seq2seq_lstm" in arguments else "--model.num-blocks=1"]
        printed = io.StringIO()
        export = patch("kerasnets.dry_run.export") if "--dry-run" in arguments else nullcontext()
        verify = patch("kerasnets.export.verify", verify_here)
        with export, verify, patch("sys.stdin", io.StringIO(f"{standard_input}\n")), redirect_stdout(printed):
            try:
                main(arguments)
            except SystemExit as end:  # --help
                if end.code:
                    raise
        assert printed.getvalue() or module == "kerasnets.train"

    def start(self, arguments):
        """Start a server, and wait until its ports are open; the one before it on the same ports ends."""
        program = arguments[0]
        self.stop(program)
        if program == "demos":
            arguments.append(f"--port={self.ports['7860']}")
        command = [sys.executable, "-m", *arguments]
        self.servers[program] = process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
        end = time.monotonic() + 300  # a busy machine loads and warms up four versions slowly
        for port in ("8500", "8501") if program == "serving" else ("7860",):
            while not self.is_open(port):
                assert process.poll() is None and time.monotonic() < end
                time.sleep(0.2)
        # Ports are open as soon as one version of each model is served.
        while program == "serving" and "--rest_api_enable_tls" not in arguments and not self.all_versions_served():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.2)

    def is_open(self, port):
        try:
            socket.create_connection(("127.0.0.1", int(self.ports[port])), timeout=5).close()
        except OSError:
            return False
        return True

    def all_versions_served(self):
        address = f"http://127.0.0.1:{self.ports['8501']}/v1/models/translation"
        with urllib.request.urlopen(address, timeout=60) as response:
            versions = json.load(response)["model_version_status"]
        return all(version["state"] == "AVAILABLE" for version in versions)

    def stop(self, program):
        if process := self.servers.pop(program, None):
            process.terminate()
            process.wait(60)


def write_users_data(directory):
    """Write the files that the pages call the reader's own."""
    import numpy as np
    import tensorflow as tf

    from kerasnets.data import cldr

    pairs = cldr.pairs()[::10]
    (directory / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs), "utf-8")
    text = "\n".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    (directory / "book.txt").write_text(text, "utf-8")
    pixels = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (directory / "photos" / name).mkdir(parents=True)
        for n in range(20):
            image = tf.io.encode_png(pixels.integers(0, 256, (48, 64, 3), "uint8"))
            tf.io.write_file(str(directory / "photos" / name / f"{n}.png"), image)


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    data_dir = os.environ.get("TFDS_DATA_DIR", str(ROOT.parent / "shared" / "datasets"))
    directory = tmp_path_factory.mktemp("pages")
    write_users_data(directory)
    shell = Shell(data_dir if os.path.isdir(data_dir) else None)
    with pytest.MonkeyPatch.context() as patcher:
        patcher.chdir(directory)
        patcher.setenv("PYTHONPATH", str(ROOT))
        patcher.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # as in the activated environment
        yield shell
        for program in tuple(shell.servers):
            shell.stop(program)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_commands_and_code_blocks(shell, page):
    for language, text in blocks(page):
        if language == "bash":
            for line in text.splitlines():
                if command := line.partition("  #")[0].strip():
                    shell.run(command)
        elif text not in shell.finished:
            exec(compile(shell.with_free_ports(text), page, "exec"), {})
            shell.finished.add(text)


def test_every_page_with_commands_is_run():
    pages = {path.relative_to(ROOT).as_posix() for pattern in ("*.md", "docs/**/*.md") for path in ROOT.glob(pattern)}
    assert {page for page in pages if blocks(page)} == {*PAGES, "docs/extending.md"}
