"""The model card, and the licences of its data."""

import json
import shutil

import numpy as np
import pytest
from small_runs import TASKS

from kerasnets.data import licences
from kerasnets.export import EXTRA
from kerasnets.saved_model import model_card as card
from kerasnets.saved_model import recording

# {key: the type of its value, a tuple of types, or a table of this form}; None: the value may be null.
TEXT, NUMBER = str, (int, float)
LATENCY = {"calls": int, "p50": NUMBER, "p99": NUMBER}
SCHEMA = {
    "format": int,
    "task": TEXT,
    "preset": TEXT,
    "created": TEXT,
    "intended_use": TEXT,
    "limits": TEXT,
    "network": {"kind": TEXT, "parameters": int, "options": dict},
    "data": {
        "dataset": TEXT,
        "description": (TEXT, None),
        "splits": (dict, None),
        "read": (TEXT, None),
        "left_out": (dict, None),
        "licence": TEXT,
        "licence_source": (TEXT, None),
    },
    "metrics": {"validation": (dict, None), "conditions": dict, "evaluations": list},
    "training": {
        "configuration": dict,
        "steps": (int, None),
        "seconds": (int, float, None),
        "finished": (TEXT, None),
    },
    "calibration": (dict, None),
    "weights": {"storage": TEXT, "megabytes_before": NUMBER, "megabytes_after": NUMBER},
    "formats": dict,
    "signatures": dict,
    "verification": {"tensorflow": TEXT, "cpus": int, "latency": dict, "batches": list},
    "packages": dict.fromkeys(card.PACKAGES, TEXT),
}


def check(value, schema, where="card"):
    if isinstance(schema, dict):
        assert set(schema) <= set(value), where
        if where in ("card", "card.data", "card.network", "card.training"):
            assert set(value) == set(schema), where
        for key, inner in schema.items():
            check(value[key], inner, f"{where}.{key}")
    else:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        assert any(value is None if kind is None else type(value) is kind for kind in kinds), f"{where}: {value!r}"


@pytest.mark.parametrize("task", TASKS)
def test_the_card_describes_the_model(models_dir, runs, task):
    path = models_dir / task / "1"
    contents = json.loads((path / EXTRA / card.FILE).read_text())
    check(contents, SCHEMA)
    metrics = json.loads((runs[task] / "metrics.json").read_text())
    assert contents["format"] == card.FORMAT and contents["task"] == task and contents["preset"] == "quick"
    assert contents["network"]["parameters"] == metrics["parameters"]
    assert contents["metrics"]["validation"] == metrics["best"]
    assert (
        set(contents["data"]["splits"]) >= {"train", "validation", "test"} and contents["data"]["licence"] != "unknown"
    )
    assert contents["data"]["read"] == metrics["splits"]["read"] and contents["data"]["left_out"] == {}
    assert contents["calibration"]["temperature"] > 0
    assert contents["weights"]["megabytes_before"] == pytest.approx(4e-6 * metrics["parameters"], rel=0.02)
    assert "{" not in contents["intended_use"] + contents["limits"]
    signatures = recording.signature_table(path)
    assert set(contents["signatures"]) == set(signatures) == set(contents["verification"]["latency"])
    for name, signature in contents["signatures"].items():
        check(contents["verification"]["latency"][name], LATENCY)
        assert {key: value for key, value in signature.items() if key != "example"} == signatures[name]
        if signature["example"] is not None:
            (row,) = signature["example"]["instances"]
            assert set(row) == set(signature["inputs"]) and signature["example"]["signature_name"] == name


def test_the_card_of_an_unfinished_run_has_nulls(runs, tmp_path):
    from kerasnets.loading import open_model

    run = tmp_path / "run"
    shutil.copytree(runs["text_generation"], run)
    for file in (run / "metrics.json", run / "calibration.json", *run.glob("evaluation-*.json")):
        file.unlink()
    (run / "evaluation-test.json").write_text('{"split": "test", "loss": 1.5, "classes": ["a"], "scored": "all"}')
    task = open_model(run).task
    report = {"tensorflow": "2.20.0", "cpus": 2, "batches": [], "signatures": {}}
    weights = {"storage": "float32", "megabytes_before": 1.0, "megabytes_after": 1.0}
    contents = card.make(task, 5, run, {}, {}, report, weights, {})
    check(json.loads(json.dumps(contents)), SCHEMA)
    assert contents["metrics"]["evaluations"] == [{"split": "test", "loss": 1.5, "scored": "all"}]
    assert (
        contents["calibration"] is None and contents["data"]["splits"] is None and contents["training"]["steps"] is None
    )


def test_long_examples_are_left_out():
    assert card.example_body("pixels", {"pixels": np.zeros((1, 200, 200, 3), np.float32)}) is None
    inputs = {"image_bytes": np.array([b"\x89PNG", b"other"], object), "seed": np.array([7], np.int64)}
    assert card.example_body("f", inputs) == {
        "signature_name": "f",
        "instances": [{"image_bytes": {"b64": "iVBORw=="}, "seed": 7}],
    }


def test_licences_of_datasets(tmp_path):
    for name in ("digits", "pydocs", "cldr", "mnist", "cifar10", "multi30k", "tiny_shakespeare"):
        assert licences.find(name).source.startswith("https://"), name
    assert licences.find("file:book.txt") == licences.find("folder:photos") == licences.UNKNOWN
    assert licences.find("flowers", str(tmp_path)) == licences.UNKNOWN
    info = tmp_path / "flowers" / "2.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"redistributionInfo": {"license": "CC0"}, "location": {"urls": ["https://flowers"]}}')
    assert licences.find("flowers", str(tmp_path)) == ("CC0", "https://flowers")
    assert licences.find("mnist:3.0.1") == licences.find("mnist")
