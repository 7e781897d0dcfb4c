"""LiteRT and ONNX: the files run in the runtimes of others and compute what the networks do."""

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
    PixelRows,
    Seq2SeqLSTM,
    SequenceClassifier,
    SequenceGenerator,
    Transformer,
)
from kerasnets.saved_model import artifacts, formats
from kerasnets.tasks.image_classification.arrays import picture_and_name_to_logits, picture_to_logits
from kerasnets.tasks.text_generation.arrays import text_to_logits
from kerasnets.tasks.translation.arrays import pair_to_logits
from kerasnets.verify import golden_answers

PIXELS, TOKENS = (None, 8, 8, 1), (None, None)
PAIR = {"source": TOKENS, "target": TOKENS}


def built(model, shape):
    model.build(shape)
    return model


def pixels_in(model):
    return picture_to_logits(built(model, PIXELS), PIXELS[1:], recurrent=isinstance(model, SequenceClassifier))


def pairs_in(model, max_length=None):
    return pair_to_logits(built(model, PAIR), isinstance(model, Seq2SeqLSTM), max_length)


def spelling():
    model = SequenceGenerator(9, ConvNet(5, (4,)), width=5, units=6)
    return picture_and_name_to_logits(built(model, {"given": PIXELS, "target": TOKENS}), PIXELS[1:], recurrent=True)


NETWORKS = {
    "plain": lambda: pixels_in(ConvNet(3, (4, 6))),
    "residual": lambda: pixels_in(ConvNet(3, (4, 6), residual_blocks=1, norm="pre")),
    "rows": lambda: pixels_in(SequenceClassifier(3, PixelRows(), units=6, num_layers=2)),
    "spelling": spelling,
    "characters": lambda: text_to_logits(built(CharLSTM(11, 5, 6, num_layers=2), TOKENS)),
    "rotary": lambda: pairs_in(Transformer(11, 8, 2, 12, 1, activation="swiglu", positions="rotary")),
    "learned": lambda: pairs_in(Transformer(11, 8, 2, 12, 1, positions="learned", max_length=9), max_length=9),
    "attention": lambda: pairs_in(Seq2SeqLSTM(11, 5, 6)),
}
CASES = [  # seconds each
    *((name, "onnx") for name in ("plain", "rows", "spelling", "rotary", "attention")),
    *((name, "litert") for name in ("residual", "characters", "learned")),
]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_a_file_computes_what_the_network_does(network, name, tmp_path):
    keras.utils.set_random_seed(1)
    made = NETWORKS[network]()
    model, told = made.model, formats.write(made, name, tmp_path)
    path = tmp_path / told["file"]
    assert told["difference"] <= 1e-5 and told["megabytes"] == path.stat().st_size / 1e6
    run = formats.RUNTIMES[name](path)
    random = np.random.default_rng(5)
    one = name == "litert" and network == "characters"
    for rows, steps in [(1, 3), (1 if one else 2, 8)]:
        sizes = {"pixels": (rows, 8, 8, 1)} | dict.fromkeys(("source", "target", "tokens"), (rows, steps))
        inputs = {
            key: random.integers(1, 9, sizes[key], np.int32)
            if shape[1:] == [-1]
            else random.normal(size=sizes.get(key, (rows, shape[-1]))).astype(np.float32)
            for key, shape in told["inputs"].items()
        }
        answers = run(inputs)
        assert list(answers) == told["outputs"] or set(answers) == set(told["outputs"])
        assert np.abs(answers["logits"] - logits(model, inputs)).max() < 1e-5


def logits(model, inputs):
    arrays = list(inputs.values())
    if isinstance(model, CharLSTM):
        return np.asarray(model.run(arrays[0], list(zip(arrays[1::2], arrays[2::2], strict=True)))[0])
    if len(arrays) == 1:
        return np.asarray(model(arrays[0]))
    first = "given" if isinstance(model, SequenceGenerator) else "source"
    return np.asarray(model({first: arrays[0], "target": arrays[1]}))


def test_states_carry_a_text_on(tmp_path):
    network = NETWORKS["characters"]()
    formats.write(network, "onnx", tmp_path)
    run = formats.RUNTIMES["onnx"](tmp_path / "model.onnx")
    tokens = np.random.default_rng(0).integers(1, 11, (2, 9), np.int32)
    states, found = {f"{name}_{n}": np.zeros((2, 6), np.float32) for n in range(2) for name in "hc"}, []
    for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:]):
        answers = run({"tokens": part} | states)
        states = {name: answers[f"next_{name}"] for name in states}
        found.append(answers["logits"])
    assert np.abs(np.concatenate(found, axis=1) - np.asarray(network.model(tokens))).max() < 1e-5


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_is_that_of_keras(reverse):
    def step(carry, x):
        a, b = carry
        return (a * 0.5 + x, b + a), (a * x, b)

    arguments = (step, (np.ones(3, np.float32), np.zeros(3, np.float32)), np.arange(12, dtype=np.float32).reshape(4, 3))
    ours, theirs = formats.scan(*arguments, reverse=reverse), keras.ops.scan(*arguments, reverse=reverse)
    for x, y in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
        np.testing.assert_allclose(x, y)


@pytest.mark.parametrize("wrong", [np.float32(0.01), np.float32("nan")])
def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch, wrong):
    def runtime(path):
        run = formats.onnx_runtime(path)
        return lambda inputs: {"logits": run(inputs)["logits"] + wrong}

    monkeypatch.setitem(formats.RUNTIMES, "onnx", runtime)
    with pytest.raises(formats.FormatError, match="this ConvNet computes something else as onnx: it differs by"):
        formats.write(NETWORKS["plain"](), "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("verified_here")
def test_a_format_that_fails_costs_only_itself(runs, tmp_path, monkeypatch):
    def refuse(path):
        raise ValueError("operation X is not supported")

    monkeypatch.setitem(formats.RUNTIMES, "litert", refuse)
    run, sentence = (
        runs["image_classification"],
        "this ConvNet cannot be written as litert: operation X is not supported.",
    )
    with pytest.raises(RuntimeError, match=f"complete but for other formats: {sentence}"):
        export(run, tmp_path, storage="int8", formats=["onnx", "litert"])
    version = tmp_path / "image_classification" / "1"
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card["formats"]["litert"] == {"failed": sentence}
    assert (version / "assets.extra" / card["formats"]["onnx"]["file"]).exists()
    assert not (version / "assets.extra" / "model.tflite").exists()
    assert card["weights"]["storage"] == "int8" and card["weights"]["quality"]["before"]["accuracy"] > 0.5
    assert (tmp_path / "models.config").exists()

    # What is written computes with the rounded weights, as the SavedModel does.
    _, inputs, outputs = next(golden for golden in golden_answers(version) if golden[0] == "pixels")
    found = formats.onnx_runtime(version / "assets.extra" / "model.onnx")({"pixels": inputs["pixels"]})["logits"]
    temperature = card["calibration"]["temperature"]
    expected = keras.ops.softmax(found / temperature)
    assert np.abs(expected - outputs["probabilities"]).max() < 1e-5


def test_formats_are_checked_before_anything_is_done(runs, tmp_path, monkeypatch):
    assert artifacts.check_formats(["onnx", "litert", "onnx"]) == ["onnx", "litert"]
    with pytest.raises(RequestError, match="no format 'coreml'; choose one of litert, onnx"):
        export(runs["image_classification"], tmp_path, formats=["coreml"])
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else find(name))
    with pytest.raises(RequestError, match=r"needs the packages of tf2onnx and onnx and onnxruntime; .*'.\[formats\]'"):
        export(runs["image_classification"], tmp_path, formats=["litert", "onnx"])
    assert not list(tmp_path.iterdir())
