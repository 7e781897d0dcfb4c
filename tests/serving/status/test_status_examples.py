"""Code examples of the status page: from warm-up requests or with synthetic values; they run as shown."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from serving.status.examples import LOCAL, MAX_CHARACTERS, Addresses, code_examples, read_requests

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(60))


def definition(method: str = "predict", **inputs: tuple[int, list[int] | None]) -> meta_graph_pb2.SignatureDef:
    signature = meta_graph_pb2.SignatureDef(method_name=f"tensorflow/serving/{method}")
    for name, (dtype, shape) in inputs.items():
        info = signature.inputs[name]
        info.name, info.dtype = f"{name}:0", dtype
        if shape is None:
            info.tensor_shape.unknown_rank = True
        else:
            for size in shape:
                info.tensor_shape.dim.add(size=size)
    return signature


def write_warmup(path, *logs: prediction_log_pb2.PredictionLog) -> None:
    import tensorflow as tf

    (path / "assets.extra").mkdir()
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "tf_serving_warmup_requests")) as file:
        for log in logs:
            file.write(log.SerializeToString())


def predict_log(signature: str, **inputs: Any) -> prediction_log_pb2.PredictionLog:
    import tensorflow as tf

    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    for name, value in inputs.items():
        log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return log


FAKE_CURL = """curl() { for part in "$@"; do printf '%s\\0' "$part"; done; case "$*" in *"-d @-") cat;; esac; }
"""


class Recorder:
    """Replaces serving.client.Client and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __call__(self, address: str) -> Recorder:
        self.address = address
        return self

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any, **options: Any) -> tuple:
            self.calls.append((method, arguments, options))
            return ()

        return call


def run_python(text: str, monkeypatch) -> tuple[str, str, tuple, dict]:
    """Return the address, method, arguments and options of the call that the program makes."""
    recorder = Recorder()
    monkeypatch.setattr("serving.client.Client", recorder)
    exec(compile(text, "example", "exec"), {})
    [(method, arguments, options)] = recorder.calls
    return recorder.address, method, arguments, options


def run_curl(text: str) -> tuple[str, dict]:
    """Return the URL and the body that the command would send from a shell."""
    command = FAKE_CURL + text
    output = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60).stdout.decode()
    *options, url, flag, body, stdin = output.split("\0")
    assert flag == "-d" and options == (["-N"] if url.endswith(":stream") else [])
    return url, json.loads(stdin if body == "@-" else body)


def test_synthetic_values_fit_dtype_and_shape(tmp_path, monkeypatch):
    definitions = {
        "serving_default": definition(
            a=(types_pb2.DT_FLOAT, [-1, 2]),
            b=(types_pb2.DT_INT64, [-1, -1]),
            c=(types_pb2.DT_STRING, [-1]),
            d=(types_pb2.DT_BOOL, []),
            e=(types_pb2.DT_UINT8, None),
        )
    }
    code = code_examples("m", definitions, str(tmp_path), LOCAL)["serving_default"]
    inputs = {"a": [[1.0, 1.0]], "b": [[1, 1]], "c": ["text"], "d": True, "e": [1]}
    url, body = run_curl(code.curl)
    assert url == "http://localhost:8501/v1/models/m:predict"
    assert body == {"inputs": inputs}
    assert run_python(code.python, monkeypatch) == ("http://localhost:8501", "predict", ("m", inputs), {})


def test_large_inputs_have_short_code(tmp_path, monkeypatch):
    definitions = {"pixels": definition(x=(types_pb2.DT_FLOAT, [-1, 224, 224, 3]))}
    code = code_examples("m", definitions, str(tmp_path), LOCAL)["pixels"]
    assert len(code.curl) < 300 and len(code.python) < 300
    _, body = run_curl(code.curl)
    assert body["signature_name"] == "pixels"
    assert np.shape(body["inputs"]["x"]) == (1, 224, 224, 3) and np.all(np.array(body["inputs"]["x"]) == 1.0)
    _, _, (_, inputs), options = run_python(code.python, monkeypatch)
    assert inputs["x"].dtype == np.float32 and inputs["x"].shape == (1, 224, 224, 3)
    assert options == {"signature": "pixels"}


def test_inputs_larger_than_the_memory_are_not_created(tmp_path):
    code = code_examples("m", {"s": definition(x=(types_pb2.DT_DOUBLE, [10**6, 10**6, 10**5]))}, str(tmp_path), LOCAL)[
        "s"
    ]
    assert "np.ones((1000000, 1000000, 100000), np.float64)" in code.python and len(code.curl) < 300


@pytest.mark.parametrize("dtype", [types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_UINT16])
def test_dtypes_that_json_cannot_represent_use_grpc(tmp_path, monkeypatch, dtype):
    addresses = Addresses("http://a:1", "a:2")
    code = code_examples("m", {"s": definition(x=(dtype, [-1]))}, str(tmp_path), addresses)["s"]
    assert code.curl == ""
    address, _, (_, inputs), _ = run_python(code.python, monkeypatch)
    assert address == "a:2" and inputs == {"x": [1]}


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (types_pb2.DT_COMPLEX64, [-1]),
        (types_pb2.DT_FLOAT_REF, [-1]),
        (999, [-1]),
        (types_pb2.DT_FLOAT, [1] * 254),
        (types_pb2.DT_FLOAT, [2**62, 2**62]),
    ],
)
def test_inputs_that_clients_cannot_send_have_no_example(tmp_path, dtype, shape):
    code = code_examples("m", {"s": definition(x=(dtype, shape))}, str(tmp_path), LOCAL)["s"]
    assert (code.curl, code.python) == ("", "")


def test_warm_up_requests_replace_synthetic_values(tmp_path, monkeypatch):
    write_warmup(
        tmp_path,
        predict_log("unknown", x=[1.0]),
        predict_log("", x=np.float32([[0.1, 2], [3, 4]]), s=np.array([IMAGE, b"other"], object)),
        predict_log("", x=np.float32([[9, 9]]), s=np.array([b"second"], object)),
    )
    definitions = {"serving_default": definition(x=(types_pb2.DT_FLOAT, [-1, 2]), s=(types_pb2.DT_STRING, [-1]))}
    code = code_examples("m", definitions, str(tmp_path), LOCAL)["serving_default"]
    _, body = run_curl(code.curl)
    assert body["inputs"]["x"] == [[0.1, 2.0]], "the first row of the first request, in few digits"
    assert list(body["inputs"]["s"][0]) == ["b64"]
    _, _, (_, inputs), _ = run_python(code.python, monkeypatch)
    assert inputs == {"x": [[0.1, 2.0]], "s": [IMAGE]}


@pytest.mark.parametrize("kind", ["predict", "classify"])
def test_serialized_examples_are_shown_as_features(tmp_path, monkeypatch, kind):
    example = Example()
    example.features.feature["image"].bytes_list.value.append(IMAGE)
    example.features.feature["word"].bytes_list.value.append("é".encode())
    example.features.feature["sizes"].int64_list.value.extend([2, 3])
    example.features.feature["weight"].float_list.value.append(0.1)
    if kind == "predict":
        log = predict_log("best", inputs=[example.SerializeToString()])
    else:
        log = prediction_log_pb2.PredictionLog()
        log.classify_log.request.model_spec.signature_name = "best"
        log.classify_log.request.input.example_list.examples.append(example)
    write_warmup(tmp_path, log)
    definitions = {"best": definition("classify", inputs=(types_pb2.DT_STRING, [-1]))}
    code = code_examples("m", definitions, str(tmp_path), LOCAL)["best"]
    url, body = run_curl(code.curl)
    assert url.endswith("/m:classify") and body["signature_name"] == "best"
    [features] = body["examples"]
    assert features["word"] == "é" and features["sizes"] == [2, 3] and features["weight"] == 0.1
    assert list(features["image"]) == ["b64"]
    _, method, (_, [features]), options = run_python(code.python, monkeypatch)
    assert method == "classify" and options == {"signature": "best"}
    assert features == {"image": IMAGE, "word": "é", "sizes": [2, 3], "weight": 0.1}


@pytest.mark.parametrize("name", ["stream", "other"])
def test_signatures_with_a_state_are_streamed(tmp_path, monkeypatch, name):
    signature = definition(prompt=(types_pb2.DT_STRING, [-1]), state=(types_pb2.DT_FLOAT, [-1, 8]))
    signature.outputs["state"].CopyFrom(signature.inputs["state"])
    code = code_examples("m", {name: signature}, str(tmp_path), LOCAL)[name]
    url, body = run_curl(code.curl)
    assert url.endswith("/m:stream")
    signature_name = {} if name == "stream" else {"signature_name": name}
    assert body == {**signature_name, "inputs": {"prompt": ["text"]}, "steps": 10}
    _, method, arguments, options = run_python(code.python, monkeypatch)
    assert method == "stream" and arguments == ("m", {"prompt": ["text"]})
    assert options == {"steps": 10} | ({} if name == "stream" else {"signature": name})


def test_long_warm_up_requests_are_not_shown(tmp_path):
    write_warmup(tmp_path, predict_log("", s=np.array([b"\xff" * MAX_CHARACTERS], object)))
    definitions = {"serving_default": definition(s=(types_pb2.DT_STRING, [-1]))}
    code = code_examples("m", definitions, str(tmp_path), LOCAL)["serving_default"]
    assert run_curl(code.curl)[1] == {"inputs": {"s": ["text"]}}


@pytest.mark.parametrize("content", [b"", b"\x00", b"x" * 200, b"\xff" * 8 + b"x" * 100, bytes(16)])
def test_invalid_warm_up_requests_are_skipped(tmp_path, content):
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    assert list(read_requests(str(tmp_path))) == []


@settings(max_examples=25, deadline=None)
@given(name=st.text(min_size=1, max_size=20), alias=st.text(min_size=1, max_size=20))
def test_names_cannot_escape_from_the_command(name, alias):
    """The author of a model chooses its names, and users paste the command into a shell."""
    definitions = {name: definition(**{alias: (types_pb2.DT_INT32, [1]), "large": (types_pb2.DT_INT32, [30])})}
    code = code_examples(name, definitions, "/missing", LOCAL)[name]
    _, body = run_curl(code.curl)
    assert set(body["inputs"]) == {alias, "large"}
    assert body.get("signature_name", "serving_default") == name
    tree = compile(code.python, "example", "exec")
    assert tree is not None


def signatures_of(path) -> dict[str, meta_graph_pb2.SignatureDef]:
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    return {k: v for k, v in model.meta_graphs[0].signature_def.items() if k != "__saved_model_init_op"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_code_runs(server, store):
    """Every request of the example model, run as if pasted."""
    definitions = signatures_of(store.example)
    examples = code_examples(
        "example", definitions, str(server.models / "example" / "1"), Addresses(server.rest, server.grpc)
    )
    assert len(examples) > 10
    for name in sorted(examples):  # "put" must come before "take", which waits for it
        if "inputs" in definitions[name].inputs:
            continue  # takes tf.Examples, whose features the signature does not name
        # The model is the older of two versions.
        text = examples[name].python.replace("print(answer)", "assert answer")
        for method in ("predict", "stream"):
            text = text.replace("client:\n", f"client:\n    client.{method} = partial(client.{method}, version=1)\n")
        exec(compile(text, name, "exec"), {"partial": partial})
        if examples[name].curl and ":stream" not in examples[name].curl:  # this server has no extensions
            curl = examples[name].curl.replace("curl ", "curl -s -S ").replace(":predict", "/versions/1:predict")
            process = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, timeout=60)
            assert process.returncode == 0, process.stderr
            assert "outputs" in json.loads(process.stdout), (curl, process.stdout)
