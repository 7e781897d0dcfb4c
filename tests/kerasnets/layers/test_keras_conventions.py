"""Keras's conventions beyond `call`: every public layer and network follows them."""

import inspect
import sys
import warnings
from unittest.mock import MagicMock

import keras
import numpy as np
import pytest
from backends.cases import IMAGES, LAYERS, MODELS, Case, build_with_fixed_weights, normal, outputs, sequence
from keras.src.utils import model_visualization

from kerasnets import layers, models
from kerasnets.checks import RequestError
from kerasnets.command import start_tensorflow

CASES = (
    LAYERS
    | MODELS
    | {
        "PixelRows": Case(models.PixelRows, {"pixels": IMAGES}),
        "Residual": Case(layers.Residual, sequence(), {"sublayer": keras.ops.tanh}),
        "LSTMCell": Case(lambda: layers.LSTMCell(3), {"x": normal(2, 4), "states": (normal(2, 3), normal(2, 3))}),
        "SimpleRNNCell": Case(lambda: layers.SimpleRNNCell(3), {"x": normal(2, 4), "states": (normal(2, 3),)}),
    }
)
PUBLIC = [
    value
    for package in (layers, models)
    for value in (getattr(package, name) for name in package.__all__)
    if inspect.isclass(value)
]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@keras.saving.register_keras_serializable("test_keras_conventions")
class UserModel(keras.Model):
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


class UserLayer(keras.layers.Layer):
    def __init__(self, layer, options):
        super().__init__()
        self.layer, self.options = layer, options

    def call(self, inputs):
        return self.layer(**inputs, **self.options)


def summary(model):
    lines = []
    model.summary(print_fn=lines.append, expand_nested=True, line_length=200)
    return "\n".join(lines)


def shapes_are_shown(text):
    """Keras shows no shape for a layer that is built before it is called, such as its own dropout."""
    return not [line for line in text.splitlines() if "?" in line and "Dropout" not in line]


def plot(model, monkeypatch):
    """Run `plot_model` without the drawing library."""
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


def shapes_of_any_batch(inputs):
    return keras.tree.map_structure(lambda x: (None, *x.shape[1:]), inputs)


def save_and_load(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def test_every_public_class_has_a_case():
    assert set(PUBLIC) <= {type(case.make()) for case in CASES.values()}


@pytest.mark.parametrize("cls", PUBLIC)
def test_compute_output_shape_has_the_arguments_of_build(cls):
    """Keras passes the arguments of `build` to `compute_output_shape` by name; for a loaded model, as input_shape."""
    build, shape = (inspect.signature(function).parameters for function in (cls.build, cls.compute_output_shape))
    assert set(build) <= set(shape)
    if issubclass(cls, keras.Model):
        assert list(shape) == ["self", "input_shape"]


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_known_before_computing(name):
    case = CASES[name]
    layer = case.make()
    expected = shapes(layer(**case.inputs, **case.call))
    build_shapes = layer._build_shapes_dict
    assert flat_shapes(layer.compute_output_shape(**build_shapes)) == expected
    tensors = keras.tree.map_structure(keras.ops.convert_to_tensor, case.inputs)
    assert shapes(layer.compute_output_spec(**tensors, **case.call)) == expected
    # With an unknown batch, and as lists, as they are loaded from a file.
    of_any_batch = keras.tree.map_shape_structure(lambda shape: [None, *shape[1:]], dict(build_shapes))
    expected = [(None, *shape[1:]) for shape in expected]
    assert flat_shapes(layer.compute_output_shape(**of_any_batch)) == expected
    assert shapes(case.make()(**symbols(case.inputs), **case.call)) == expected


@pytest.mark.parametrize("name", CASES)
def test_inside_a_functional_model(name, tmp_path, monkeypatch):
    case = CASES[name]
    symbolic = symbols(case.inputs)
    model = keras.Model(keras.tree.flatten(symbolic), case.make()(**symbolic, **case.call))
    inputs = keras.tree.flatten(case.inputs)
    plot(model, monkeypatch)
    text = summary(model)
    assert shapes(keras.models.clone_model(model).outputs) == shapes(model.outputs)
    if "sublayer" not in case.call:  # a function, which cannot be saved
        restored = save_and_load(model, tmp_path)
        assert summary(restored) == text
        for a, b in zip(keras.tree.flatten(restored(inputs)), keras.tree.flatten(model(inputs)), strict=True):
            np.testing.assert_array_equal(a, b)


INSIDE_OTHERS = [name for name in CASES if name not in MODELS]
INSIDE_OTHERS += ["ConvNet", "CharLSTM", "SequenceGenerator", "Transformer rotary"]


@pytest.mark.parametrize("name", INSIDE_OTHERS)
def test_inside_user_classes(name, tmp_path, monkeypatch):
    case = CASES[name]
    inputs = symbols(case.inputs)
    expected = shapes(UserLayer(case.make(), case.call)(inputs))
    model = UserModel(case.make(), case.call)
    assert shapes(model(inputs)) == expected
    text = summary(model)
    assert type(model.layer).__name__ in text and shapes_are_shown(text)
    plot(model, monkeypatch)
    if not case.call:
        assert summary(save_and_load(model, tmp_path)) == text


ONE_TENSOR = [
    name
    for name, case in CASES.items()
    if len(case.inputs) == 1
    and isinstance(next(iter(case.inputs.values())), np.ndarray)
    and "sublayer" not in case.call
]


@pytest.mark.parametrize("name", ONE_TENSOR)
def test_in_a_sequential_model(name, tmp_path):
    (inputs,) = CASES[name].inputs.values()
    model = keras.Sequential([CASES[name].make()])
    expected = shapes(model(inputs))
    assert expected == shapes(CASES[name].make()(inputs))
    assert summary(save_and_load(model, tmp_path)) == summary(model)


@pytest.mark.parametrize("name", MODELS)
def test_summaries_are_complete_before_and_after_loading(name, tmp_path, monkeypatch):
    case = MODELS[name]
    model = case.make()
    (inputs,) = case.inputs.values()
    model.build(shapes_of_any_batch(inputs))
    text = summary(model)
    assert shapes_are_shown(text) and "unbuilt" not in text
    plot(model, monkeypatch)
    restored = save_and_load(model, tmp_path)
    assert summary(restored) == text
    plot(restored, monkeypatch)
    assert keras.models.clone_model(model).get_config() == model.get_config()


@pytest.mark.parametrize("name", MODELS)
def test_seed_determines_the_weights(name):
    (inputs,) = MODELS[name].inputs.values()

    def weights():
        keras.utils.set_random_seed(1)
        model = MODELS[name].make()
        model.build(shapes_of_any_batch(inputs))
        return model.get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(weights(), weights(), strict=True))


# A user's own defaults.


@pytest.fixture
def keras_defaults():
    """-> a function that sets defaults of `keras.config`; they are restored after the test."""
    names = ("floatx", "dtype_policy", "image_data_format")
    before = {name: getattr(keras.config, name)() for name in names}

    def set_defaults(**defaults):
        for name, value in defaults.items():
            getattr(keras.config, f"set_{name}")(value)

    yield set_defaults
    set_defaults(**before)


def is_of_images(case):
    return any(x.ndim == 4 for x in keras.tree.flatten(case.inputs))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if is_of_images(case)])
def test_images_are_channels_last_under_every_default(name, keras_defaults):
    case = CASES[name]
    expected = outputs(case)
    keras_defaults(image_data_format="channels_first")
    for a, b in zip(outputs(case), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("head", ["average", "max", "flatten"])
def test_fully_convolutional_networks_are_channels_last_under_every_default(head, keras_defaults):
    model = models.ConvNet(3, (4, 6), head=head, hidden=(5,), dropout=0.5)
    expected = model(IMAGES)
    keras_defaults(image_data_format="channels_first")
    sliding = models.to_fully_convolutional(model)
    np.testing.assert_allclose(sliding(IMAGES)[:, 0, 0], expected, atol=1e-5)
    assert model(IMAGES, training=True).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "floatx"), [(name, "float64") for name in LAYERS] + [(name, "float16") for name in MODELS]
)
def test_any_default_precision(name, floatx, keras_defaults):
    case = CASES[name]
    keras_defaults(floatx=floatx, dtype_policy=floatx)
    layer = case.make()
    for x in keras.tree.flatten(layer(**case.inputs, **case.call)):
        assert keras.backend.standardize_dtype(x.dtype) == ("float32" if name in MODELS else floatx)
        assert np.isfinite(x).all()


def test_fully_masked_positions_are_finite_under_float16_default(keras_defaults):
    keras_defaults(floatx="float16")
    for dtype in ("float16", "float32"):
        attention = layers.MultiHeadAttention(2, dtype=dtype)
        assert np.isfinite(attention(normal(2, 5, 6), attention_mask=np.zeros((2, 1, 5), bool))).all()


def test_global_pooling_rejects_other_ranks():
    with pytest.raises(ValueError, match="expected ndim=4"):
        layers.GlobalPooling()(normal(2, 5, 6))


@keras.saving.register_keras_serializable("test_keras_conventions")
class UserEmbedding(keras.layers.Layer):
    """One-hot vectors."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, inputs):
        return keras.ops.one_hot(inputs, self.size, dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.size)

    def get_config(self):
        return super().get_config() | {"size": self.size}


@pytest.mark.parametrize("cls", [models.SequenceTagger, models.SequenceClassifier])
def test_user_embedding_is_loaded_from_a_file(cls, tmp_path):
    model, tokens = cls(3, UserEmbedding(9), 4), np.array([[1, 2, 3]], np.int32)
    expected = model(tokens)
    restored = save_and_load(model, tmp_path)
    assert restored.embedding.size == 9
    np.testing.assert_array_equal(restored(tokens), expected)
    assert "UserEmbedding" in summary(restored)


@pytest.mark.parametrize("name", ["EncoderTransformer", "ConvNet", "Seq2SeqLSTM none"])
def test_keras_exports_networks(name, tmp_path):
    import tensorflow as tf

    model, (inputs,) = build_with_fixed_weights(CASES[name]), CASES[name].inputs.values()
    model.export(tmp_path / "exported", verbose=False)
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(inputs), model(inputs), atol=1e-5)


# A user's keras.json.


def test_invalid_keras_json_raises_request_error_with_its_path(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ValueError('Expected a float. Received: epsilon=1')")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match=r"keras.json: Expected a float. Received: epsilon=1; correct the file"):
        start_tensorflow()


def test_keras_with_another_backend_raises_request_error(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RequestError, match=r"backend is jax; it must be tensorflow: set KERAS_BACKEND=tensorflow"):
        start_tensorflow()
