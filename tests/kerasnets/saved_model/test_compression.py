"""Weights in float16 and int8: stored and restored values, quality, and that loops do not restore them again."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import TASKS
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from kerasnets import verify
from kerasnets.checks import RequestError
from kerasnets.export import export, save
from kerasnets.run import config_file, examples
from kerasnets.saved_model.compression import CompressedModel, StoredWeight, card, is_compressible, quality, summary
from kerasnets.tasks import make_task


def variable(shape, name="kernel", scale=1.0, dtype="float32"):
    values = np.random.default_rng(0).normal(0, scale, shape)
    return keras.Variable(values.astype(dtype), name=name, dtype=dtype)


def test_float16_rounds_to_the_nearest_16_bit_number():
    kernel = variable((30, 20))
    restored = StoredWeight(kernel, "float16").restore()
    assert restored.dtype == tf.float32
    assert (restored.numpy() == kernel.numpy().astype(np.float16)).all()


@pytest.mark.parametrize(
    ("shape", "name", "axes"),
    [((30, 20), "kernel", 0), ((3, 3, 4, 20), "kernel", (0, 1, 2)), ((30, 20), "embeddings", 1), ((9, 20), "table", 1)],
)
def test_int8_errors_are_at_most_half_a_quantization_step(shape, name, axes):
    weight = variable(shape, name)
    values = weight.numpy()
    values *= np.logspace(-3, 3, 20) if axes != 1 else np.logspace(-3, 3, shape[0])[:, np.newaxis]
    weight.assign(values)
    stored = StoredWeight(weight, "int8")
    integers, scale = stored.parts
    assert integers.dtype == tf.int8 and integers.shape == shape
    step = np.max(np.abs(values), axis=axes, keepdims=True) / 127
    assert scale.shape == step.shape
    np.testing.assert_allclose(scale.numpy(), step, rtol=1e-6)
    error = np.abs(stored.restore().numpy() - values)
    assert (error <= step * 0.501).all() and (error.max(axis=axes) > step.squeeze() * 0.1).all()
    assert np.abs(integers.numpy()).max() == 127  # a symmetric scale does not use -128


def test_zeros_stay_zeros():
    assert (StoredWeight(keras.Variable(np.zeros((20, 3), "float32")), "int8").restore().numpy() == 0).all()


def test_only_float32_matrices_are_compressed():
    assert is_compressible(variable((30, 20)), "float16") and is_compressible(variable((30, 20)), "int8")
    for storage in ("float16", "int8"):
        assert not is_compressible(variable((30,)), storage)
        assert not is_compressible(variable((30, 20), dtype="int32"), storage)
    assert not is_compressible(variable((30, 20)), "float32")
    assert not is_compressible(variable((3, 20)), "int8")  # three weights per scale
    assert not is_compressible(variable((30, 20), scale=1e5), "float16")  # above the largest float16


def load_run(runs, task_name):
    """-> the task and the model of a run, and its requests."""
    run = runs[task_name]
    _, _, config = config_file.load(run / "config.toml")
    task = make_task(task_name, config, run)
    return task, keras.models.load_model(run / "model.keras"), task.requests(examples.load(run / "examples.json"))


# A signature that calls others, and one with a state or an explanation: tracing each takes seconds.
SIGNATURES = {
    "image_classification": ("pixels", "explain"),
    "text_generation": ("serving_default", "stream"),
    "translation": ("beam_search", "explain"),
}


class WithSomeSignatures(CompressedModel):
    def signatures(self, task):
        signatures = super().signatures(task)
        return {name: signatures[name] for name in SIGNATURES[task.name]}


@pytest.fixture(scope="module")
def saved(runs, tmp_path_factory):
    """SavedModels with `SIGNATURES`: of each task with weights in int8, and one with float16."""
    directory, models = tmp_path_factory.mktemp("compressed"), {}
    for task_name, storage in [*((name, "int8") for name in TASKS), ("image_classification", "float16")]:
        task, model, requests = load_run(runs, task_name)
        path = directory / f"{task_name}-{storage}"
        save(task, WithSomeSignatures(model, storage), {name: requests[name] for name in SIGNATURES[task_name]}, path)
        models[task_name, storage] = path
    return models


CASES = [("image_classification", "float16", 0.55), *((name, "int8", 0.32) for name in TASKS)]


@pytest.mark.parametrize(("task", "storage", "fraction"), CASES)
def test_the_saved_variables_are_smaller(saved, models_dir, task, storage, fraction):
    def size(path):
        return (path / "variables" / "variables.data-00000-of-00001").stat().st_size

    assert size(saved[task, storage]) < fraction * size(models_dir / task / "1")


@pytest.mark.parametrize(("task", "storage", "fraction"), CASES)
def test_a_loaded_model_has_the_outputs_of_the_compressed_one(saved, models_dir, task, storage, fraction):
    path = saved[task, storage]
    loaded = tf.saved_model.load(str(path))
    for name, inputs, expected in verify.golden_answers(path):
        outputs = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        for key, value in expected.items():
            assert verify.difference(value, outputs[key].numpy()) <= 1e-5, (name, key)


def test_outputs_differ_slightly_from_those_of_the_exact_weights(saved, models_dir):
    """For digits, whose pixels are the same in both requests."""
    exact = {name: outputs for name, _, outputs in verify.golden_answers(models_dir / "image_classification" / "1")}
    for storage, minimum, maximum in [("float16", 1e-7, 2e-3), ("int8", 1e-5, 5e-2)]:
        path = saved["image_classification", storage]
        rounded = {name: outputs for name, _, outputs in verify.golden_answers(path)}
        for name, output in [("pixels", "probabilities"), ("explain", "heatmap")]:
            error = verify.difference(exact[name][output], rounded[name][output])
            assert minimum < error < (maximum if output == "probabilities" else 0.2), (storage, name)


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_restored_once_per_call_and_not_in_loops(saved, task):
    model = saved_model_pb2.SavedModel.FromString((saved[task, "int8"] / "saved_model.pb").read_bytes())
    functions = {f.signature.name: f.node_def for f in model.meta_graphs[0].graph_def.library.function}

    def callees(node):
        return {a.func.name for a in node.attr.values() if a.func.name} | {
            f.name for a in node.attr.values() for f in a.list.func
        }

    loops = {name for nodes in functions.values() for node in nodes if "While" in node.op for name in callees(node)}
    assert loops or task == "image_classification"
    within = set()
    while loops:
        within |= loops
        loops = {name for loop in loops for node in functions[loop] for name in callees(node)} - within

    def restores(name):
        return [
            node
            for node in functions[name]
            if types_pb2.DT_INT8 in (node.attr["SrcT"].type, node.attr["dtype"].type) and node.op != "Placeholder"
        ]

    assert not [name for name in within if restores(name)]
    assert [name for name in functions if name not in within and restores(name)]


def test_rounded_weights_are_temporary(runs):
    _, model, _ = load_run(runs, "image_classification")
    before, compressed = model.get_weights(), CompressedModel(model, "int8")

    def fail():
        with compressed.rounded_weights() as rounded:
            changes = [np.abs(x - y).max() for x, y in zip(before, rounded.get_weights(), strict=True)]
            assert rounded is model and 0 < max(changes) < 0.02
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for x, y in zip(before, model.get_weights(), strict=True):
        assert (x == y).all()


@pytest.mark.parametrize("task_name", ["image_classification", "text_generation"])
def test_quality_before_and_after(runs, task_name):
    task, model, _ = load_run(runs, task_name)
    section = card(task, CompressedModel(model, "int8"))
    assert section["storage"] == "int8" and 0.2 < section["megabytes_after"] / section["megabytes_before"] < 0.32
    measured = section["quality"]
    expected = task.evaluate(task.signatures(model), "validation", model)
    assert measured["before"]["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert measured["before"].keys() == measured["after"].keys()
    assert 0 < abs(measured["after"]["loss"] - measured["before"]["loss"]) < 0.02
    assert 0 < measured["largest_logit_difference"] < 0.5 and 0.97 < measured["same_prediction"] <= 1
    assert measured["predictions"] > 100
    assert f"loss {measured['before']['loss']:.4g} -> {measured['after']['loss']:.4g}" in summary(section)


def test_quality_is_not_measured_without_the_data(runs, tmp_path):
    task, model, _ = load_run(runs, "image_classification")
    task.config = dataclasses.replace(task.config, dataset=f"folder:{tmp_path / 'gone'}")
    compressed = CompressedModel(model, "int8")
    measured = quality(task, compressed)
    assert list(measured) == ["not_measured"] and "gone" in measured["not_measured"]
    assert "not measured" in summary(
        {"storage": "int8", "megabytes_before": 1, "megabytes_after": 1, "quality": measured}
    )


def test_quality_is_not_measured_for_float32(runs):
    task, model, _ = load_run(runs, "image_classification")
    section = card(task, CompressedModel(model, "float32"))
    assert section["megabytes_before"] == section["megabytes_after"] > 0 and "quality" not in section


def test_unknown_storages_are_rejected(runs, tmp_path):
    with pytest.raises(RequestError, match="no storage of weights 'int4'; choose one of float16, float32, int8"):
        export(runs["image_classification"], tmp_path, storage="int4")
    assert not list(tmp_path.iterdir())
