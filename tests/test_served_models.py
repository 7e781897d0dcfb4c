"""What the server answers is what the model answers, for every signature, over gRPC and REST, on the real examples."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from small_runs import TASKS

from kerasnets.examples import load
from kerasnets.loading import open_model
from serving.client import Client, ServingError


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(request, served_models):
    with Client(getattr(served_models, request.param)) as client:
        yield client


@pytest.mark.parametrize("task", TASKS)
def test_every_signature_answers_as_in_process(task, client, runs):
    opened = open_model(runs[task])
    requests = opened.task.requests(load(runs[task] / "examples.json"))
    assert set(requests) == set(opened.signatures)
    for name, inputs in requests.items():
        here = opened.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        there = client.predict(task, inputs, signature=name)
        assert set(there) == set(here)
        for key, value in here.items():
            value = value.numpy()
            assert there[key].shape == value.shape
            if value.dtype == object:
                assert there[key].tolist() == value.tolist()
            else:
                assert there[key].dtype == value.dtype
                assert there[key] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_metadata_has_the_names_and_types_of_the_contract(task, client):
    metadata = client.metadata(task)
    expected = {
        "image_classification": {
            "serving_default": ({"image_bytes": "string"}, {"label": "string", "score": "float32"}),
            "pixels": ({"pixels": "float32"}, {"probabilities": "float32"}),
        },
        "text_generation": {
            "serving_default": ({"prompt": "string"}, {"text": "string"}),
            "generate": (
                {"prompt": "string", "length": "int32", "temperature": "float32", "top_k": "int32", "top_p": "float32",
                 "seed": "int64"},
                {"text": "string", "log_probability": "float32"},
            ),
        },
        "translation": {"serving_default": ({"text": "string"}, {"translation": "string", "score": "float32"})},
    }  # fmt: skip
    found = {
        name: tuple({key: spec["dtype"] for key, spec in signature[side].items()} for side in ("inputs", "outputs"))
        for name, signature in metadata.items()
    }
    assert found == expected[task]
    for signature in metadata.values():
        assert all(spec["shape"][0] == -1 for spec in signature["inputs"].values())


def test_wrong_requests_are_invalid_argument_and_the_server_lives(client):
    wrong = {
        "image_classification": {"image_bytes": np.array([b"no picture"], object)},
        "text_generation": {"prompt": np.array([""], object)},
        "translation": {"text": np.array([" "], object)},
    }
    for model, inputs in wrong.items():
        with pytest.raises(ServingError) as caught:
            client.predict(model, inputs)
        assert caught.value.code == "INVALID_ARGUMENT"
        assert "(rows count from 0)" in caught.value.message
    assert client.predict("translation", {"text": np.array(["one"], object)})["translation"].shape == (1,)


@pytest.mark.parametrize("task", TASKS)
def test_the_examples_file_is_a_rest_request(task, served_models, runs):
    if shutil.which("curl") is None:
        pytest.skip("no curl on PATH")
    body = served_models.models_dir / task / "1" / "assets.extra" / "examples.json"
    url = f"{served_models.rest}/v1/models/{task}:predict"
    done = subprocess.run(["curl", "-sf", "-d", f"@{body}", url], capture_output=True, check=True, timeout=60)
    assert len(json.loads(done.stdout)["predictions"]) == len(load(runs[task] / "examples.json"))
