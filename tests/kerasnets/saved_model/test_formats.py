"""LiteRT and ONNX: the files give the network's outputs in their runtimes."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from kerasnets.checks import RequestError
from kerasnets.export import export
from kerasnets.models import (
    CharLSTM,
    ConvNet,
    DecoderTransformer,
    PixelRows,
    Seq2SeqLSTM,
    SequenceClassifier,
    SequenceGenerator,
    Transformer,
    VisionTransformer,
)
from kerasnets.saved_model import artifacts, formats
from kerasnets.tasks.image_classification.arrays import image_and_name_to_logits, image_to_logits
from kerasnets.tasks.text_generation.arrays import text_and_states_to_logits, text_to_logits
from kerasnets.tasks.translation.arrays import pair_to_logits
from kerasnets.verify import golden_answers

PIXELS, TOKENS = (None, 8, 8, 1), (None, None)
PAIR = {"source": TOKENS, "target": TOKENS}


def build(model, shape):
    model.build(shape)
    return model


def image_network(model):
    return image_to_logits(build(model, PIXELS), PIXELS[1:], recurrent=isinstance(model, SequenceClassifier))


def pair_network(model, max_length=None):
    return pair_to_logits(build(model, PAIR), isinstance(model, Seq2SeqLSTM), max_length)


def spelling_network():
    model = SequenceGenerator(9, ConvNet(5, (4,)), width=5, units=6)
    return image_and_name_to_logits(build(model, {"given": PIXELS, "target": TOKENS}), PIXELS[1:], recurrent=True)


NETWORKS = {
    "plain": lambda: image_network(ConvNet(3, (4, 6))),
    "residual": lambda: image_network(ConvNet(3, (4, 6), residual_blocks=1, norm="pre")),
    "rows": lambda: image_network(SequenceClassifier(3, PixelRows(), units=6, num_layers=2)),
    "spelling": spelling_network,
    "patches": lambda: image_network(VisionTransformer(3, 2, 8, 2, 12, 1)),
    "characters": lambda: text_and_states_to_logits(build(CharLSTM(11, 5, 6, num_layers=2), TOKENS)),
    "window": lambda: text_to_logits(build(DecoderTransformer(11, 8, 2, 12, 2, positions="rotary", context=4), TOKENS)),
    "rotary": lambda: pair_network(Transformer(11, 8, 2, 12, 1, activation="swiglu", positions="rotary")),
    "learned": lambda: pair_network(Transformer(11, 8, 2, 12, 1, positions="learned", max_length=9), max_length=9),
    "attention": lambda: pair_network(Seq2SeqLSTM(11, 5, 6)),
}
CASES = [  # each takes seconds
    *((name, "onnx") for name in ("plain", "rows", "spelling", "patches", "rotary", "attention", "window")),
    *((name, "litert") for name in ("residual", "patches", "characters", "learned", "window")),
]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_a_file_gives_the_networks_outputs(network, name, tmp_path):
    keras.utils.set_random_seed(1)
    array_network = NETWORKS[network]()
    model, result = array_network.model, formats.write(array_network, name, tmp_path)
    path = tmp_path / result["file"]
    assert result["difference"] <= 1e-5 and result["megabytes"] == path.stat().st_size / 1e6
    run = formats.RUNTIMES[name](path)
    random = np.random.default_rng(5)
    max_rows = 1 if name == "litert" and network == "characters" else 2
    for rows, steps in [(1, 3), (max_rows, 8)]:
        sizes = {"pixels": (rows, 8, 8, 1)} | dict.fromkeys(("source", "target", "tokens"), (rows, steps))
        inputs = {
            key: random.integers(1, 9, sizes[key], np.int32)
            if shape[1:] == [-1]
            else random.normal(size=sizes.get(key, (rows, shape[-1]))).astype(np.float32)
            for key, shape in result["inputs"].items()
        }
        outputs = run(inputs)
        assert list(outputs) == result["outputs"] or set(outputs) == set(result["outputs"])
        assert np.abs(outputs["logits"] - expected_logits(model, inputs)).max() < 1e-5


def expected_logits(model, inputs):
    arrays = list(inputs.values())
    if isinstance(model, CharLSTM):
        return np.asarray(model.run(arrays[0], list(zip(arrays[1::2], arrays[2::2], strict=True)))[0])
    if len(arrays) == 1:
        return np.asarray(model(arrays[0]))
    first = "given" if isinstance(model, SequenceGenerator) else "source"
    return np.asarray(model({first: arrays[0], "target": arrays[1]}))


def test_states_carry_over_between_calls(tmp_path):
    network = NETWORKS["characters"]()
    formats.write(network, "onnx", tmp_path)
    run = formats.RUNTIMES["onnx"](tmp_path / "model.onnx")
    tokens = np.random.default_rng(0).integers(1, 11, (2, 9), np.int32)
    states, logits = {f"{name}_{n}": np.zeros((2, 6), np.float32) for n in range(2) for name in "hc"}, []
    for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
        outputs = run({"tokens": part} | states)
        states = {name: outputs[f"next_{name}"] for name in states}
        logits.append(outputs["logits"])
    assert np.abs(np.concatenate(logits, axis=1) - np.asarray(network.model(tokens))).max() < 1e-5


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_equals_that_of_keras(reverse):
    def step(carry, x):
        a, b = carry
        return (a * 0.5 + x, b + a), (a * x, b)

    arguments = (step, (np.ones(3, np.float32), np.zeros(3, np.float32)), np.arange(12, dtype=np.float32).reshape(4, 3))
    ours, theirs = formats.scan(*arguments, reverse=reverse), keras.ops.scan(*arguments, reverse=reverse)
    for x, y in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(x, y)


@pytest.mark.parametrize("error", [np.float32(0.01), np.float32("nan")])
def test_a_file_with_other_outputs_is_removed(tmp_path, monkeypatch, error):
    def runtime(path):
        run = formats.onnx_runtime(path)
        return lambda inputs: {"logits": run(inputs)["logits"] + error}

    monkeypatch.setitem(formats.RUNTIMES, "onnx", runtime)
    with pytest.raises(formats.FormatError, match="as onnx, the outputs of this ConvNet differ by"):
        formats.write(NETWORKS["plain"](), "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("verify_in_process")
def test_a_failed_format_does_not_affect_the_others(runs, tmp_path, monkeypatch):
    def fail(path):
        raise ValueError("operation X is not supported")

    monkeypatch.setitem(formats.RUNTIMES, "litert", fail)
    run = runs["image_classification"]
    message = "this ConvNet cannot be written as litert: operation X is not supported."
    with pytest.raises(RuntimeError, match=f"complete except for its other formats: {message}"):
        export(run, tmp_path, storage="int8", formats=["onnx", "litert"])
    version = tmp_path / "image_classification" / "1"
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card["formats"]["litert"] == {"failed": message}
    assert (version / "assets.extra" / card["formats"]["onnx"]["file"]).exists()
    assert not (version / "assets.extra" / "model.tflite").exists()
    assert card["weights"]["storage"] == "int8" and card["weights"]["quality"]["before"]["accuracy"] > 0.5
    assert (tmp_path / "models.config").exists()

    # The ONNX file has the rounded weights, as the SavedModel does.
    _, inputs, outputs = next(golden for golden in golden_answers(version) if golden[0] == "pixels")
    logits = formats.onnx_runtime(version / "assets.extra" / "model.onnx")({"pixels": inputs["pixels"]})["logits"]
    temperature = card["calibration"]["temperature"]
    expected = keras.ops.softmax(logits / temperature)
    assert np.abs(expected - outputs["probabilities"]).max() < 1e-5


def test_formats_are_checked_first(runs, tmp_path, monkeypatch):
    assert artifacts.check_formats(["onnx", "litert", "onnx"]) == ["onnx", "litert"]
    with pytest.raises(RequestError, match="no format 'coreml'; choose one of litert, onnx"):
        export(runs["image_classification"], tmp_path, formats=["coreml"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name))
    with pytest.raises(RequestError, match=r"needs the packages tf2onnx and onnx and onnxruntime; .*'.\[formats\]'"):
        export(runs["image_classification"], tmp_path, formats=["litert", "onnx"])
    assert not list(tmp_path.iterdir())
