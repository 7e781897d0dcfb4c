"""The model card, and the licences of data in it."""

import json
import shutil

import numpy as np
import pytest
from small_runs import TASKS

from kerasnets.data import licences
from kerasnets.export import EXTRA
from kerasnets.saved_model import model_card as card
from kerasnets.saved_model import recording

# What a card holds: {key: its type, a tuple of types, or the same again for a table}; None: may be null.
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
def test_the_card_tells_what_the_model_is(models_dir, runs, task):
    path = models_dir / task / "1"
    read = json.loads((path / EXTRA / card.FILE).read_text())
    check(read, SCHEMA)
    metrics = json.loads((runs[task] / "metrics.json").read_text())
    assert read["format"] == card.FORMAT and read["task"] == task and read["preset"] == "quick"
    assert read["network"]["parameters"] == metrics["parameters"]
    assert read["metrics"]["validation"] == metrics["best"]
    assert set(read["data"]["splits"]) >= {"train", "validation", "test"} and read["data"]["licence"] != "unknown"
    assert read["data"]["read"] == metrics["splits"]["read"] and read["data"]["left_out"] == {}
    assert read["calibration"]["temperature"] > 0
    assert read["weights"]["megabytes_before"] == pytest.approx(4e-6 * metrics["parameters"], rel=0.02)
    assert "{" not in read["intended_use"] + read["limits"]
    signatures = recording.signature_table(path)
    assert set(read["signatures"]) == set(signatures) == set(read["verification"]["latency"])
    for name, signature in read["signatures"].items():
        check(read["verification"]["latency"][name], LATENCY)
        assert {key: value for key, value in signature.items() if key != "example"} == signatures[name]
        if signature["example"] is not None:
            (row,) = signature["example"]["instances"]
            assert set(row) == set(signature["inputs"]) and signature["example"]["signature_name"] == name


def test_the_card_of_a_run_that_is_not_over_says_null(runs, tmp_path):
    from kerasnets.loading import open_model

    run = tmp_path / "run"
    shutil.copytree(runs["text_generation"], run)
    for file in (run / "metrics.json", run / "calibration.json", *run.glob("evaluation-*.json")):
        file.unlink()
    (run / "evaluation-test.json").write_text('{"split": "test", "loss": 1.5, "classes": ["a"], "scored": "all"}')
    task = open_model(run).task
    report = {"tensorflow": "2.20.0", "cpus": 2, "batches": [], "signatures": {}}
    weights = {"storage": "float32", "megabytes_before": 1.0, "megabytes_after": 1.0}
    made = card.make(task, 5, run, {}, {}, report, weights, {})
    check(json.loads(json.dumps(made)), SCHEMA)
    assert made["metrics"]["evaluations"] == [{"split": "test", "loss": 1.5, "scored": "all"}]
    assert made["calibration"] is None and made["data"]["splits"] is None and made["training"]["steps"] is None


def test_long_examples_are_left_out():
    assert card.example_body("pixels", {"pixels": np.zeros((1, 200, 200, 3), np.float32)}) is None
    inputs = {"image_bytes": np.array([b"\x89PNG", b"other"], object), "seed": np.array([7], np.int64)}
    assert card.example_body("f", inputs) == {
        "signature_name": "f",
        "instances": [{"image_bytes": {"b64": "iVBORw=="}, "seed": 7}],
    }


def test_licences_of_data(tmp_path):
    for name in ("digits", "pydocs", "cldr", "mnist", "cifar10", "multi30k", "tiny_shakespeare"):
        assert licences.find(name).source.startswith("https://"), name
    assert licences.find("file:book.txt") == licences.find("folder:photos") == licences.UNKNOWN
    assert licences.find("flowers", str(tmp_path)) == licences.UNKNOWN
    info = tmp_path / "flowers" / "2.0.0" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text('{"redistributionInfo": {"license": "CC0"}, "location": {"urls": ["https://flowers"]}}')
    assert licences.find("flowers", str(tmp_path)) == ("CC0", "https://flowers")
    assert licences.find("mnist:3.0.1") == licences.find("mnist")
