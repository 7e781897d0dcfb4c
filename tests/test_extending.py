"""The examples of docs/extending.md, put into a copy of the package as the page says, train and are exported."""

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

# In one process, since each has to import TensorFlow.
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
from kerasnets.saved_model.formats import draw
from kerasnets.saved_model.model_card import values_for_sentences

runs = Path(sys.argv[1])
scores = {}
for task, *options in (
    ["image_classification", "--preset=quick", "--model=perceptron", "--model.units=64", "--training.epochs=3"],
    ["language"],
):
    run = runs / task
    train.main([task, *options, f"--run-dir={run}"])
    scores[task] = evaluate(run, "test")["accuracy"]
    opened = open_model(run)
    requests = opened.task.requests(load(run / "examples.json"))
    save(opened.task, CompressedModel(opened.model, "float32"), requests, runs / f"{task}-saved")
    network = opened.task.arrays(opened.model)
    network.call(*draw(network, network.inputs, 2, 48).values())
    facts = opened.task.facts
    scores[f"{task} card"] = facts.limits.format_map(values_for_sentences(opened.task))
scores["answer"] = opened.task.answer(opened.signatures, "am dritten Mai")
describe.main(["language/quick"])
print(json.dumps(scores))
"""


def put_in(copy):
    """Applies the page: what stands in a `diff` replaces what it shows; other blocks are files, or ends of files."""
    path, applied = None, []
    for name, kind, block in PIECES.findall(PAGE):
        if name:
            path = copy / name
        elif kind == "diff":
            lines = block.splitlines(keepends=True)
            before, after = ("".join(line[1:] for line in lines if line[0] in kept) for kept in (" -", " +"))
            text = path.read_text("utf-8")
            assert text.count(before) == 1, f"{path} does not hold what the page says: {before}"
            path.write_text(text.replace(before, after), "utf-8")
            applied.append(path.name)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            begun = path.read_text("utf-8") + "\n\n" if path.exists() else ""
            path.write_text(begun + block, "utf-8")
            applied.append(path.name)
    return applied


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """-> a copy of the package with both examples."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "kerasnets", copy / "kerasnets", ignore=shutil.ignore_patterns("__pycache__"))
    applied = put_in(copy)
    assert applied == [
        *("perceptron.py", "networks.py", "facts.py", "facts.py"),
        *("facts.py", "task.py", "quick.toml", "__init__.py"),
    ]
    return copy


def python(copy, *arguments):
    environment = os.environ | {"PYTHONPATH": str(copy)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True, timeout=900, check=False)


def test_help_knows_the_network_and_the_task(extended):
    done = python(extended, "-m", "kerasnets.train", "--help")
    assert "conv_net, sequence_classifier, sequence_generator, perceptron" in done.stdout, done.stderr
    assert re.search(r"language +quick \(default: quick\)", done.stdout)
    done = python(extended, "-m", "kerasnets.train", "image_classification", "--model=perceptron", "--help")
    assert "Units of the hidden layer." in " ".join(done.stdout.split()), done.stderr
    done = python(extended, "-m", "kerasnets.train", "language", "--model.units=0")
    assert (done.returncode, done.stderr) == (2, "error: model.units is 0; it must be 1 or more.\n")


def test_both_train_and_are_exported(extended, tmp_path):
    done = python(extended, "-c", PROGRAM, str(tmp_path))
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["image_classification"] > 0.5 and scores["language"] > 0.9
    assert scores["language card"].endswith("A request has at most 10,000 sentences.")
    assert scores["answer"] == "de"
    assert (tmp_path / "language-saved" / "assets.extra" / "languages.json").exists()
    done = python(extended, "-m", "kerasnets.evaluate", str(tmp_path / "image_classification"))  # loads it anew
    assert (done.returncode, f"{scores['image_classification']:.4f}" in done.stdout) == (0, True), done.stderr


def test_the_examples_are_formatted_as_the_project_is(extended):
    for command in (["format", "--diff"], ["check"]):
        ruff = [sys.executable, "-m", "ruff", *command, f"--config={ROOT / 'pyproject.toml'}", "--no-cache"]
        done = subprocess.run([*ruff, "kerasnets"], cwd=extended, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
