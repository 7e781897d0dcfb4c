"""The server returns the model's outputs, for every signature, over gRPC and REST, on the real examples."""

import json
import shutil
import subprocess
import urllib.request

import numpy as np
import pytest
from small_runs import TASKS

from kerasnets.run.examples import load
from kerasnets.saved_model import model_card as card
from kerasnets.verify import golden_answers
from serving.client import Client, ServingError


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(request, served_models):
    with Client(getattr(served_models, request.param)) as client:
        yield client


# The contract: {signature: (inputs, outputs)}, each {name: "dtype axes"}; B, the rows of a batch, is free.
IMAGE, BEST = {"image_bytes": "string B"}, {"label": "string B k", "score": "float32 B k"}
OPTIONS = {
    "prompt": "string B",
    "length": "int32 B",
    "temperature": "float32 B",
    "top_k": "int32 B",
    "top_p": "float32 B",
    "seed": "int64 B",
}
STATE, TEXT = {"state": "float32 B n"}, {"text": "string B"}
GATES = dict.fromkeys(("input_gate", "forget_gate", "output_gate", "cell"), "float32 B time layers units")
CONTRACT = {
    "image_classification": {
        "serving_default": (IMAGE, BEST),
        "pixels": ({"pixels": "float32 B height width channels"}, {"probabilities": "float32 B classes"}),
        "classify": ({"inputs": "string B"}, {"classes": "string B classes", "scores": "float32 B classes"}),
        "explain": (
            IMAGE,
            BEST | {"heatmap": "float32 B height width", "feature_maps": "float32 B h w n"},
        ),
    },
    "text_generation": {
        "serving_default": ({"prompt": "string B"}, TEXT),
        "generate": (OPTIONS, TEXT | {"log_probability": "float32 B"}),
        "next_char": (
            {"prompt": "string B"},
            {"characters": "string B vocabulary", "probabilities": "float32 B vocabulary"},
        ),
        "stream": (OPTIONS | STATE, TEXT | STATE),
        "sample": (
            OPTIONS | STATE | {"repetition_penalty": "float32 B"},
            TEXT | STATE | {"log_probability": "float32 B"},
        ),
        "explain": (TEXT, {"characters": "string B time", "probability": "float32 B time"} | GATES),
    },
    "translation": {
        "serving_default": (TEXT, {"translation": "string B", "score": "float32 B"}),
        "beam_search": (
            TEXT | {"length_penalty": "float32 B"},
            {"translations": "string B beams", "scores": "float32 B beams"},
        ),
        "score": (TEXT | {"translation": "string B"}, {"log_probability": "float32 B"}),
        "explain": (
            TEXT,
            {
                "translation": "string B",
                "source_tokens": "string B source",
                "target_tokens": "string B target",
                "token_probability": "float32 B target",
                "cross_attention": "float32 B layers heads target source",
                "encoder_attention": "float32 B layers heads source source",
            },
        ),
    },
}


@pytest.fixture(scope="module")
def requests(models_dir):
    """{task: {signature: (inputs, outputs of the trained model, as recorded by the export)}}"""
    return {
        task: {name: (inputs, outputs) for name, inputs, outputs in golden_answers(models_dir / task / "1")}
        for task in TASKS
    }


@pytest.mark.parametrize("task", TASKS)
def test_every_signature_returns_the_outputs_of_the_trained_model(task, client, requests):
    assert set(requests[task]) == set(CONTRACT[task])
    for name, (inputs, expected) in requests[task].items():
        outputs = client.predict(task, inputs, signature=name)
        assert set(outputs) == set(expected), name
        for key, value in expected.items():
            assert outputs[key].shape == value.shape, (name, key)
            if value.dtype == object:
                assert outputs[key].tolist() == value.tolist(), (name, key)
            else:
                assert outputs[key].dtype == value.dtype
                assert outputs[key] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, key)


def post(served, task, body):
    request = urllib.request.Request(f"{served.rest}/v1/models/{task}:predict", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def is_close(a, b):
    """Whether JSON values are equal, floats approximately."""
    if isinstance(a, list | dict):
        pairs = a.items() if isinstance(a, dict) else enumerate(a)
        return type(a) is type(b) and len(a) == len(b) and all(is_close(v, b[k]) for k, v in pairs)
    return a == pytest.approx(b, rel=1e-4, abs=1e-5) if isinstance(a, float) else a == b


@pytest.mark.parametrize("task", TASKS)
def test_row_and_column_requests_have_equal_responses(task, served_models, requests):
    """The two forms of REST requests, whose responses have different layouts."""
    for name, (inputs, _) in requests[task].items():
        columns = {key: [card.to_json(value) for value in values] for key, values in inputs.items()}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        by_row = post(served_models, task, {"signature_name": name, "instances": rows})["predictions"]
        by_column = post(served_models, task, {"signature_name": name, "inputs": columns})["outputs"]
        if isinstance(by_column, dict):
            by_column = [dict(zip(by_column, row, strict=True)) for row in zip(*by_column.values(), strict=True)]
        assert is_close(by_row, by_column), name


@pytest.mark.parametrize("task", TASKS)
def test_the_examples_of_the_card_are_valid_requests(task, served_models, requests):
    path = served_models.models_dir / task / "1" / "assets.extra" / card.FILE
    for name, signature in json.loads(path.read_text())["signatures"].items():
        (prediction,) = post(served_models, task, signature["example"])["predictions"]
        if name == "serving_default":
            ((key, value),) = ((key, v) for key, v in requests[task][name][1].items() if v.dtype == object)
            output = prediction[key] if isinstance(prediction, dict) else prediction
            assert np.array(output, object).tolist() == np.vectorize(bytes.decode)(value[0]).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_metadata_agrees_with_the_contract(task, client):
    metadata = client.metadata(task)
    expected = {
        name: tuple({key: (text.split()[0], len(text.split()) - 1) for key, text in side.items()} for side in sides)
        for name, sides in CONTRACT[task].items()
    }
    actual = {
        name: tuple({key: (spec["dtype"], len(spec["shape"])) for key, spec in sides[side].items()} for side in sides)
        for name, sides in metadata.items()
    }
    assert actual == expected
    for signature in metadata.values():
        for side in signature.values():
            assert all(spec["shape"][0] == -1 for spec in side.values())


def test_wrong_requests_are_invalid_argument_and_the_server_keeps_running(client):
    wrong = {
        "image_classification": {"image_bytes": np.array([b"not an image"], object)},
        "text_generation": {"prompt": np.array([""], object)},
        "translation": {"text": np.array([" "], object)},
    }
    for model, inputs in wrong.items():
        with pytest.raises(ServingError) as error:
            client.predict(model, inputs)
        assert error.value.code == "INVALID_ARGUMENT"
        assert "(rows count from 0)" in error.value.message
    assert client.predict("translation", {"text": np.array(["one"], object)})["translation"].shape == (1,)


@pytest.mark.parametrize("task", TASKS)
def test_the_examples_file_is_a_valid_rest_request(task, served_models, runs):
    if shutil.which("curl") is None:
        pytest.skip("no curl on PATH")
    body = served_models.models_dir / task / "1" / "assets.extra" / "examples.json"
    url = f"{served_models.rest}/v1/models/{task}:predict"
    process = subprocess.run(["curl", "-sf", "-d", f"@{body}", url], capture_output=True, check=True, timeout=60)
    assert len(json.loads(process.stdout)["predictions"]) == len(load(runs[task] / "examples.json"))
