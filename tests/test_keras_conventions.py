"""What Keras asks of a layer or a network beside its own `call`: every public class of both rooms keeps to it."""

import inspect
import warnings
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest
from backends.cases import LAYERS, MODELS, PICTURES, Case, normal, sequence
from keras.src.utils import model_visualization

from kerasnets import layers, models

CASES = (
    LAYERS
    | MODELS
    | {
        "PixelRows": Case(models.PixelRows, {"pixels": PICTURES}),
        "Residual": Case(layers.Residual, sequence(), {"sublayer": keras.ops.tanh}),
        "LSTMCell": Case(lambda: layers.LSTMCell(3), {"x": normal(2, 4), "states": (normal(2, 3), normal(2, 3))}),
        "SimpleRNNCell": Case(lambda: layers.SimpleRNNCell(3), {"x": normal(2, 4), "states": (normal(2, 3),)}),
    }
)
PUBLIC = [
    value
    for room in (layers, models)
    for value in (getattr(room, name) for name in room.__all__)
    if inspect.isclass(value)
]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@keras.saving.register_keras_serializable("test_keras_conventions")
class UsersModel(keras.Model):
    """A user's model around one of the layers or networks."""

    def __init__(self, layer, options=None, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.options = layer, options or {}

    def call(self, inputs):
        return self.layer(**inputs, **self.options)

    def get_config(self):
        return super().get_config() | {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config):
        return cls(**(config | {"layer": keras.saving.deserialize_keras_object(config["layer"])}))


class UsersLayer(keras.layers.Layer):
    def __init__(self, layer, options):
        super().__init__()
        self.layer, self.options = layer, options

    def call(self, inputs):
        return self.layer(**inputs, **self.options)


def summary(model):
    lines = []
    model.summary(print_fn=lines.append, expand_nested=True, line_length=200)
    return "\n".join(lines)


def plot(model, monkeypatch):
    """What `plot_model` draws, but for the library that draws it."""
    monkeypatch.setattr(model_visualization, "pydot", MagicMock())
    flags = ("show_shapes", "show_dtype", "show_layer_activations", "show_trainable", "expand_nested")
    keras.utils.model_to_dot(model, **dict.fromkeys(flags, True))


def symbols(inputs):
    return keras.tree.map_structure(lambda x: keras.Input(x.shape[1:], dtype=str(x.dtype)), inputs)


def shapes(tensors):
    return [tuple(x.shape) for x in keras.tree.flatten(tensors)]


def flat_shapes(nested):
    found = []
    keras.tree.map_shape_structure(lambda shape: found.append(tuple(shape)), nested)
    return found


def loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def test_every_public_class_has_a_case():
    assert set(PUBLIC) <= {type(case.make()) for case in CASES.values()}


@pytest.mark.parametrize("cls", PUBLIC)
def test_shapes_have_the_names_of_build(cls):
    """Keras passes to `compute_output_shape` what `build` was given, by name."""
    build, shape = (inspect.signature(function).parameters for function in (cls.build, cls.compute_output_shape))
    assert set(build) <= set(shape)


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_known_before_computing(name):
    case = CASES[name]
    layer = case.make()
    outputs = layer(**case.inputs, **case.call)
    given = layer._build_shapes_dict
    assert flat_shapes(layer.compute_output_shape(**given)) == shapes(outputs)
    assert shapes(layer.compute_output_spec(**case.inputs, **case.call)) == shapes(outputs)
    # Of no known batch, and of lists, as they come from a file.
    of_any_batch = keras.tree.map_shape_structure(lambda shape: [None, *shape[1:]], dict(given))
    expected = [(None, *shape[1:]) for shape in shapes(outputs)]
    assert flat_shapes(layer.compute_output_shape(**of_any_batch)) == expected
    assert shapes(case.make()(**symbols(case.inputs), **case.call)) == expected


@pytest.mark.parametrize("name", CASES)
def test_inside_a_functional_model(name, tmp_path, monkeypatch):
    case = CASES[name]
    inputs = symbols(case.inputs)
    model = keras.Model(keras.tree.flatten(inputs), case.make()(**inputs, **case.call))
    given = keras.tree.flatten(case.inputs)
    expected = model(given)
    plot(model, monkeypatch)
    assert summary(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for same in [copy] if "sublayer" in case.call else [copy, loaded(model, tmp_path)]:
        assert summary(same)
        for a, b in zip(keras.tree.flatten(same(given)), keras.tree.flatten(expected), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CASES)
def test_inside_a_users_classes(name, tmp_path, monkeypatch):
    case = CASES[name]
    outputs = UsersLayer(case.make(), case.call)(case.inputs)
    model = UsersModel(case.make(), case.call)
    assert shapes(model(case.inputs)) == shapes(outputs)
    shown = summary(model)
    assert type(model.layer).__name__ in shown and "?" not in shown
    plot(model, monkeypatch)
    if not case.call:
        assert summary(loaded(model, tmp_path)) == shown
    if len(keras.tree.flatten(case.inputs)) == 1:  # in one after another, built without data
        (given,) = keras.tree.flatten(case.inputs)
        if isinstance(next(iter(case.inputs.values())), np.ndarray) and "sublayer" not in case.call:
            sequential = keras.Sequential([keras.Input(given.shape[1:], dtype=str(given.dtype)), case.make()])
            assert summary(sequential)
            assert shapes(sequential(given)) == shapes(outputs) or case.call


@pytest.mark.parametrize("name", MODELS)
def test_networks_are_shown_before_and_after_a_file(name, tmp_path, monkeypatch):
    case = MODELS[name]
    model = case.make()
    (given,) = case.inputs.values()
    model.build(keras.tree.map_structure(lambda x: (None, *x.shape[1:]), given))
    shown = summary(model)
    assert "?" not in shown and "unbuilt" not in shown
    plot(model, monkeypatch)
    again = loaded(model, tmp_path)
    assert summary(again) == shown
    again(given)
    assert summary(again) == shown
    plot(again, monkeypatch)
    assert keras.models.clone_model(model).get_config() == model.get_config()


@pytest.mark.parametrize("name", CASES)
def test_a_seed_gives_the_weights(name):
    case = CASES[name]

    def weights(seed):
        keras.utils.set_random_seed(seed)
        layer = case.make()
        layer(**case.inputs, **case.call)
        return [w for w, v in zip(layer.get_weights(), layer.weights, strict=True) if "seed" not in v.path]

    first, again, other = weights(1), weights(1), weights(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    random = [a for a in first if a.ndim > 1]
    assert not random or any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
