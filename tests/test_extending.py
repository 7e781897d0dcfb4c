"""The examples of docs/extending.md, added to a copy of the package, train and are exported."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from small_runs import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
PIECES = re.compile(r"`(kerasnets/[\w/]+\.\w+)`|^```(python|diff|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# One process for both, since each process has to import TensorFlow.
PROGRAM = """
import json, sys
from pathlib import Path

import numpy as np

from kerasnets import describe, train
from kerasnets.evaluate import evaluate
from kerasnets.export import save
from kerasnets.loading import open_model
from kerasnets.run.examples import load
from kerasnets.saved_model.compression import CompressedModel
from kerasnets.saved_model.formats import random_inputs
from kerasnets.saved_model.model_card import sentence_values

runs = Path(sys.argv[1])
scores = {}
for task, *options in (
    ["image_classification", "--preset=quick", "--model=perceptron", "--model.units=64", "--training.epochs=3"],
    ["language"],
):
    run = runs / task
    train.main([task, *options, f"--run-dir={run}"])
    scores[task] = evaluate(run, "test")["accuracy"]
    loaded = open_model(run)
    requests = loaded.task.requests(load(run / "examples.json"))
    save(loaded.task, CompressedModel(loaded.model, "float32"), requests, runs / f"{task}-saved")
    network = loaded.task.array_network(loaded.model)
    network.call(*random_inputs(network, network.inputs, 2, 48).values())
    facts = loaded.task.facts
    scores[f"{task} card"] = facts.limits.format_map(sentence_values(loaded.task))
scores["prediction"] = loaded.task.predict(loaded.signatures, "am dritten Mai")
describe.main(["language/quick"])
print(json.dumps(scores))
"""


def apply_examples(copy):
    """Apply the code blocks of the page to a copy of the package: `diff` blocks change files, other blocks create files
    or are appended to them. -> the names of the files"""
    path, applied = None, []
    for name, kind, block in PIECES.findall(PAGE):
        if name:
            path = copy / name
        elif kind == "diff":
            lines = block.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
            text = path.read_text("utf-8")
            assert text.count(before) == 1, f"{path} does not contain these lines of the page: {before}"
            path.write_text(text.replace(before, after), "utf-8")
            applied.append(path.name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            former = path.read_text("utf-8") + "\n\n" if path.exists() else ""
            path.write_text(former + block, "utf-8")
            applied.append(path.name)
    return applied


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """-> a copy of the package with both examples."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "kerasnets", copy / "kerasnets", ignore=shutil.ignore_patterns("__pycache__"))
    applied = apply_examples(copy)
    assert applied == [
        *("perceptron.py", "image_networks.py", "facts.py", "facts.py"),
        *("facts.py", "task.py", "quick.toml", "__init__.py"),
    ]
    return copy


def python(copy, *arguments):
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True, timeout=900, check=False)


def test_help_lists_the_new_network_and_task(extended):
    process = python(extended, "-m", "kerasnets.train", "--help")
    assert "conv_net, sequence_classifier, sequence_generator, vision_transformer, perceptron" in process.stdout, (
        process.stderr
    )
    assert re.search(r"language +quick \(default: quick\)", process.stdout)
    process = python(extended, "-m", "kerasnets.train", "image_classification", "--model=perceptron", "--help")
    assert "Units of the hidden layer." in " ".join(process.stdout.split()), process.stderr
    process = python(extended, "-m", "kerasnets.train", "language", "--model.units=0")
    assert (process.returncode, process.stderr) == (2, "error: model.units is 0; it must be 1 or more.\n")


def test_the_new_network_and_task_train_and_are_exported(extended, tmp_path):
    process = python(extended, "-c", PROGRAM, str(tmp_path))
    assert process.returncode == 0, process.stderr
    scores = json.loads(process.stdout.splitlines()[-1])
    assert scores["image_classification"] > 0.5 and scores["language"] > 0.9
    assert scores["language card"].endswith("A request has at most 10,000 sentences.")
    assert scores["prediction"] == "de"
    assert (tmp_path / "language-saved" / "assets.extra" / "languages.json").exists()
    process = python(
        extended, "-m", "kerasnets.evaluate", str(tmp_path / "image_classification")
    )  # loads the model in a new process
    assert (process.returncode, f"{scores['image_classification']:.4f}" in process.stdout) == (0, True), process.stderr


def test_the_examples_pass_ruff(extended):
    for command in (["format", "--diff"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--config={ROOT / 'pyproject.toml'}", "--no-cache"]
        process = subprocess.run([*ruff, "kerasnets"], cwd=extended, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
