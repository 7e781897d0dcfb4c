"""Weights in float16 and int8: what is stored, what is computed with, and that loops do not restore them again."""

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
from kerasnets.saved_model.compression import CompressedModel, StoredWeight, card, is_worth, quality, summary
from kerasnets.tasks import make_task


def variable(shape, name="kernel", scale=1.0, dtype="float32"):
    values = np.random.default_rng(0).normal(0, scale, shape)
    return keras.Variable(values.astype(dtype), name=name, dtype=dtype)


def test_float16_is_the_nearest_number_of_16_bits():
    kernel = variable((30, 20))
    restored = StoredWeight(kernel, "float16").restore()
    assert restored.dtype == tf.float32
    assert (restored.numpy() == kernel.numpy().astype(np.float16)).all()


@pytest.mark.parametrize(
    ("shape", "name", "axes"),
    [((30, 20), "kernel", 0), ((3, 3, 4, 20), "kernel", (0, 1, 2)), ((30, 20), "embeddings", 1), ((9, 20), "table", 1)],
)
def test_int8_is_off_by_half_a_step_of_its_output_at_most(shape, name, axes):
    weight = variable(shape, name)
    values = weight.numpy()
    values *= np.logspace(-3, 3, 20) if axes != 1 else np.logspace(-3, 3, shape[0])[:, np.newaxis]
    weight.assign(values)
    stored = StoredWeight(weight, "int8")
    number, scale = stored.parts
    assert number.dtype == tf.int8 and number.shape == shape
    step = np.max(np.abs(values), axis=axes, keepdims=True) / 127
    assert scale.shape == step.shape
    np.testing.assert_allclose(scale.numpy(), step, rtol=1e-6)
    off = np.abs(stored.restore().numpy() - values)
    assert (off <= step * 0.501).all() and (off.max(axis=axes) > step.squeeze() * 0.1).all()
    assert np.abs(number.numpy()).max() == 127  # -128 is of no use to a symmetric scale


def test_zeros_stay_zeros():
    assert (StoredWeight(keras.Variable(np.zeros((20, 3), "float32")), "int8").restore().numpy() == 0).all()


def test_what_is_not_worth_it_stays_as_it_is():
    assert is_worth(variable((30, 20)), "float16") and is_worth(variable((30, 20)), "int8")
    for storage in ("float16", "int8"):
        assert not is_worth(variable((30,)), storage)
        assert not is_worth(variable((30, 20), dtype="int32"), storage)
    assert not is_worth(variable((30, 20)), "float32")
    assert not is_worth(variable((3, 20)), "int8")  # three weights a scale
    assert not is_worth(variable((30, 20), scale=1e5), "float16")  # above what 16 bits can tell


def opened(runs, task_name):
    """-> the task and the model of a run, and its requests."""
    run = runs[task_name]
    _, _, config = config_file.load(run / "config.toml")
    task = make_task(task_name, config, run)
    return task, keras.models.load_model(run / "model.keras"), task.requests(examples.load(run / "examples.json"))


# One that calls others and one with a state or an explanation: each is traced for seconds.
SAVED = {
    "image_classification": ("pixels", "explain"),
    "text_generation": ("serving_default", "stream"),
    "translation": ("beam_search", "explain"),
}


class PartlySaved(CompressedModel):
    def signatures(self, task):
        every = super().signatures(task)
        return {name: every[name] for name in SAVED[task.name]}


@pytest.fixture(scope="module")
def saved(runs, tmp_path_factory):
    """SavedModels of `SAVED` with weights in int8, of each task, and one in float16."""
    directory, models = tmp_path_factory.mktemp("compressed"), {}
    for task_name, storage in [*((name, "int8") for name in TASKS), ("image_classification", "float16")]:
        task, model, requests = opened(runs, task_name)
        path = directory / f"{task_name}-{storage}"
        save(task, PartlySaved(model, storage), {name: requests[name] for name in SAVED[task_name]}, path)
        models[task_name, storage] = path
    return models


CASES = [("image_classification", "float16", 0.55), *((name, "int8", 0.32) for name in TASKS)]


@pytest.mark.parametrize(("task", "storage", "share"), CASES)
def test_the_saved_variables_are_smaller(saved, models_dir, task, storage, share):
    def size(path):
        return (path / "variables" / "variables.data-00000-of-00001").stat().st_size

    assert size(saved[task, storage]) < share * size(models_dir / task / "1")


@pytest.mark.parametrize(("task", "storage", "share"), CASES)
def test_a_loaded_model_answers_as_the_compressed_one_did(saved, models_dir, task, storage, share):
    path = saved[task, storage]
    loaded = tf.saved_model.load(str(path))
    for name, inputs, expected in verify.golden_answers(path):
        answers = loaded.signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        for key, value in expected.items():
            assert verify.difference(value, answers[key].numpy()) <= 1e-5, (name, key)


def test_answers_are_those_of_the_rounded_weights(saved, models_dir):
    """And close to those of the exact ones: digits, whose pixels are the same in both requests."""
    exact = {name: outputs for name, _, outputs in verify.golden_answers(models_dir / "image_classification" / "1")}
    for storage, least, most in [("float16", 1e-7, 2e-3), ("int8", 1e-5, 5e-2)]:
        path = saved["image_classification", storage]
        rounded = {name: outputs for name, _, outputs in verify.golden_answers(path)}
        for name, output in [("pixels", "probabilities"), ("explain", "heatmap")]:
            off = verify.difference(exact[name][output], rounded[name][output])
            assert least < off < (most if output == "probabilities" else 0.2), (storage, name)


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_restored_once_a_call_and_in_no_loop(saved, task):
    model = saved_model_pb2.SavedModel.FromString((saved[task, "int8"] / "saved_model.pb").read_bytes())
    functions = {f.signature.name: f.node_def for f in model.meta_graphs[0].graph_def.library.function}

    def called(node):
        return {a.func.name for a in node.attr.values() if a.func.name} | {
            f.name for a in node.attr.values() for f in a.list.func
        }

    loops = {name for nodes in functions.values() for node in nodes if "While" in node.op for name in called(node)}
    assert loops or task == "image_classification"
    within = set()
    while loops:
        within |= loops
        loops = {name for loop in loops for node in functions[loop] for name in called(node)} - within

    def restores(name):
        return [
            node
            for node in functions[name]
            if types_pb2.DT_INT8 in (node.attr["SrcT"].type, node.attr["dtype"].type) and node.op != "Placeholder"
        ]

    assert not [name for name in within if restores(name)]
    assert [name for name in functions if name not in within and restores(name)]


def test_the_model_itself_stays_as_it_was(runs):
    _, model, _ = opened(runs, "image_classification")
    before, compressed = model.get_weights(), CompressedModel(model, "int8")

    def fail():
        with compressed.rounded() as rounded:
            changed = [np.abs(x - y).max() for x, y in zip(before, rounded.get_weights(), strict=True)]
            assert rounded is model and 0 < max(changed) < 0.02
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for x, y in zip(before, model.get_weights(), strict=True):
        assert (x == y).all()


@pytest.mark.parametrize("task_name", ["image_classification", "text_generation"])
def test_quality_before_and_after(runs, task_name):
    task, model, _ = opened(runs, task_name)
    told = card(task, CompressedModel(model, "int8"))
    assert told["storage"] == "int8" and 0.2 < told["megabytes_after"] / told["megabytes_before"] < 0.32
    found = told["quality"]
    expected = task.evaluate(task.signatures(model), "validation", model)
    assert found["before"]["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert found["before"].keys() == found["after"].keys()
    assert 0 < abs(found["after"]["loss"] - found["before"]["loss"]) < 0.02
    assert 0 < found["largest_logit_difference"] < 0.5 and 0.97 < found["same_prediction"] <= 1
    assert found["predictions"] > 100
    assert f"loss {found['before']['loss']:.4g} -> {found['after']['loss']:.4g}" in summary(told)


def test_quality_without_the_data_says_so(runs, tmp_path):
    task, model, _ = opened(runs, "image_classification")
    task.config = dataclasses.replace(task.config, dataset=f"folder:{tmp_path / 'gone'}")
    compressed = CompressedModel(model, "int8")
    found = quality(task, compressed)
    assert list(found) == ["not_measured"] and "gone" in found["not_measured"]
    assert "not known" in summary({"storage": "int8", "megabytes_before": 1, "megabytes_after": 1, "quality": found})


def test_float32_is_not_measured(runs):
    task, model, _ = opened(runs, "image_classification")
    told = card(task, CompressedModel(model, "float32"))
    assert told["megabytes_before"] == told["megabytes_after"] > 0 and "quality" not in told


def test_other_storages_are_refused(runs, tmp_path):
    with pytest.raises(RequestError, match="no storage of weights 'int4'; choose one of float16, float32, int8"):
        export(runs["image_classification"], tmp_path, storage="int4")
    assert not list(tmp_path.iterdir())
