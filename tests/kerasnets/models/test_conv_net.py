"""ConvNet: its architectures, and its fully convolutional architecture for larger images."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, normal, randomize

from kerasnets.models import CharLSTM, ConvNet, to_fully_convolutional
from kerasnets.tasks.presets import PRESETS, load_preset

ARCHITECTURES = {
    "small": {"filters": (4, 6)},
    "maximum": {"filters": (4, 6), "head": "max", "hidden": (5,)},
    "lenet": {
        "filters": (4, 6),
        "kernel_size": 5,
        "padding": "valid",
        "norm": "none",
        "head": "flatten",
        "hidden": (9, 7),
    },
    "flat": {"filters": (4,), "head": "flatten"},
    "residual": {"filters": (4, 6), "residual_blocks": 2},
    "wide": {"filters": (3, 4), "residual_blocks": 1, "widen": 2, "norm": "pre"},
}
PIXELS = np.random.default_rng(0).uniform(0, 255, (3, 24, 20, 2)).astype(np.float32)


def make(architecture, shape=(None, 24, 20, 2), **options):
    model = ConvNet(3, **ARCHITECTURES[architecture], **options)
    model.build(shape)
    randomize(model, scale=0.1)
    for n, weight in enumerate(model.non_trainable_weights):
        weight.assign(1 + np.abs(normal(*weight.shape, seed=n)))
    return model


def preset(name, shape):
    model = ConvNet(10, **vars(load_preset("image_classification", name).model))
    model.build((None, *shape))
    return model


# Images and sizes.


def test_integers_equal_floats():
    model, pixels = make("small"), PIXELS.astype(np.uint8)
    assert_close(model(pixels), model(pixels.astype(np.float32)), 0)


def test_images_of_any_size_are_accepted():
    model = make("small", (None, None, None, 1))
    assert model(normal(2, 8, 8, 1)).shape == (2, 3)
    assert model(normal(1, 13, 6, 1)).shape == (1, 3)


def test_parameter_count_equals_the_formula():
    norms = 4 * 4 + 4 * 6  # scale, shift, mean and variance of each channel
    assert make("small").count_params() == 9 * 2 * 4 + 9 * 4 * 6 + norms + 6 * 3 + 3


def test_small_preset_has_the_published_parameter_count():
    assert preset("small", (28, 28, 1)).count_params() == 94_634  # including moving averages


@pytest.mark.parametrize(
    ("name", "shape", "paper"),
    [
        ("lenet", (28, 28, 1), 44_426),
        ("lenet", (32, 32, 1), 61_706),
        ("resnet20", (32, 32, 3), 0.27e6),
        ("resnet32", (32, 32, 3), 0.46e6),
        ("resnet56", (32, 32, 3), 0.85e6),
        ("wide", (32, 32, 3), 2.75e6),
    ],
)
def test_preset_parameter_counts_match_paper_and_comment(name, shape, paper):
    trained = sum(int(np.prod(v.shape)) for v in preset(name, shape).trainable_weights)
    assert abs(trained / paper - 1) < 0.03
    assert f"{trained:,}" in (PRESETS / "image_classification" / f"{name}.toml").read_text("utf-8")


def test_residual_stages_after_the_first_halve_the_image():
    model = preset("resnet20", (32, 32, 3))
    shape, shapes = (None, 32, 32, 3), []
    for block in model.blocks:
        shape = block.compute_output_shape(shape)
        shapes.append(shape[1:])
    assert shapes == [(32, 32, 16)] * 4 + [(16, 16, 32)] * 3 + [(8, 8, 64)] * 3
    assert [block.shortcut is not None for block in model.blocks[1:]] == [n in (3, 6) for n in range(9)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_the_input_of_the_head(architecture):
    model = make(architecture)
    features = model.features(PIXELS)
    x = {"average": np.mean, "max": np.max}.get(model.head, lambda x, axis: np.reshape(x, (3, -1)))(
        np.asarray(features), axis=(1, 2)
    )
    for layer in model.fully_connected:
        x = np.maximum(x @ np.asarray(layer.kernel) + np.asarray(layer.bias), 0)
    assert_close(model(PIXELS), x @ np.asarray(model.out.kernel) + np.asarray(model.out.bias))


def test_every_weight_has_a_gradient():
    for architecture in ARCHITECTURES:
        model = make(architecture)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(PIXELS, training=True) * normal(3, 3))
        for variable, gradient in zip(
            model.trainable_variables,
            tape.gradient(loss, [v.value for v in model.trainable_variables]),
            strict=True,
        ):
            assert gradient is not None and np.abs(gradient).max() > 0, variable.path


# Fully convolutional.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fully_convolutional_equals_the_classifier_at_the_training_size(architecture):
    model = make(architecture)
    sliding = to_fully_convolutional(model)
    assert sliding.compute_output_shape(PIXELS.shape) == (3, 1, 1, 3)
    assert_close(sliding(PIXELS)[:, 0, 0], model(PIXELS), 1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fully_convolutional_accepts_larger_images(architecture):
    sliding = to_fully_convolutional(make(architecture))
    larger = normal(2, 37, 44, 2, scale=99)
    shape = sliding(larger).shape
    assert shape == sliding.compute_output_shape(larger.shape)
    assert shape[1] > 1 and shape[2] > 1


def test_fully_convolutional_equals_the_classifier_on_every_crop():
    """Without padding, each position of the class map has the logits of the crop there."""
    model = make("lenet")
    larger = np.random.default_rng(1).uniform(0, 255, (2, 36, 28, 2)).astype(np.float32)
    class_map = to_fully_convolutional(model)(larger)
    assert class_map.shape == (2, 4, 3, 3)
    for row, column in np.ndindex(4, 3):
        crop = larger[:, 4 * row : 4 * row + 24, 4 * column : 4 * column + 20]
        assert_close(class_map[:, row, column], model(crop), 1e-5)


@pytest.mark.parametrize("architecture", ["small", "lenet", "wide"])
def test_fully_convolutional_is_saved_and_exported(architecture, tmp_path):
    sliding = to_fully_convolutional(make(architecture))
    larger = normal(2, 30, 28, 2, scale=99)
    sliding.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_config() == sliding.get_config()
    assert_close(loaded(larger), sliding(larger), 0)
    archive = keras.export.ExportArchive()
    archive.track(loaded)
    archive.add_endpoint("class_map", loaded.call, [tf.TensorSpec((None, None, None, 2), name="pixels")])
    archive.write_out(tmp_path / "saved", verbose=False)
    loaded_archive = tf.saved_model.load(tmp_path / "saved")
    for pixels in (PIXELS, larger):
        assert_close(loaded_archive.class_map(tf.constant(pixels)), sliding(pixels), 1e-5)


def test_loaded_model_becomes_fully_convolutional(tmp_path):
    model = make("flat")
    model.save(tmp_path / "model.keras")
    sliding = to_fully_convolutional(keras.models.load_model(tmp_path / "model.keras"))
    assert_close(sliding(PIXELS)[:, 0, 0], model(PIXELS), 1e-5)


def test_conversion_copies_the_weights():
    model = make("small")
    before = model.get_weights()
    to_fully_convolutional(model).out.bias.assign([1, 2, 3])
    assert_close(model.get_weights(), before, 0)


# Invalid arguments.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvNet(1), "classes is 1"),
        (lambda: ConvNet(3, filters=()), "filters is empty"),
        (lambda: ConvNet(3, filters=(4, 4, 4)).build((None, 4, 6, 1)), "4×6 are too small for 3 stages"),
        (lambda: ConvNet(3, filters=(4, -4)).build((None, 9, 9, 1)), "filters is -4"),
        (lambda: ConvNet(3, padding="full"), "padding is 'full'"),
        (lambda: ConvNet(3, norm="batch"), 'norm is \'batch\'; it must be "post", "pre" or "none"'),
        (lambda: ConvNet(3, norm="pre"), "norm is 'pre'; without residual blocks"),
        (lambda: ConvNet(3, norm="none", residual_blocks=1), "norm is 'none'; with residual blocks"),
        (lambda: ConvNet(3, padding="valid", residual_blocks=1), "padding is 'valid'; with residual blocks"),
        (lambda: ConvNet(3, residual_blocks=-1), "residual_blocks is -1"),
        (lambda: ConvNet(3, residual_blocks=1, kernel_size=2).build((None, 9, 9, 1)), "kernel_size is 2"),
        (lambda: ConvNet(3, widen=0), "widen is 0"),
        (lambda: ConvNet(3, widen=2), "widen is 2; without residual blocks"),
        (lambda: ConvNet(3, head="mean"), 'head is \'mean\'; it must be "average", "max" or "flatten"'),
        (lambda: ConvNet(3, hidden=(5, 0)), r"hidden\[1\] is 0"),
        (lambda: ConvNet(3, dropout=1.5), r"dropout is 1\.5"),
        (lambda: ConvNet(3, (4, 4), 5, "valid").build((None, 8, 8, 1)), "8×8 are too small for 2 stages"),
        (lambda: ConvNet(3, (4,), 5, "valid").build((None, 9, 4, 1)), "9×4 are too small for 1 stages"),
        (
            lambda: ConvNet(3, head="flatten").build((None, None, 9, 1)),
            'image size is None×9; with the head "flatten" it must be known',
        ),
        (lambda: to_fully_convolutional(CharLSTM(5)), "model is a CharLSTM; it must be a ConvNet"),
        (lambda: to_fully_convolutional(to_fully_convolutional(make("small"))), "model is a FullyConvNet"),
        (lambda: to_fully_convolutional(ConvNet(3)), "training size of model is unknown"),
        (lambda: to_fully_convolutional(make("small", (None, None, None, 1))), "training size of model is unknown"),
        (
            lambda: to_fully_convolutional(make("small"))(PIXELS[:, :23]),
            "images are 23×20; they must be at least 24×20, the training size",
        ),
    ],
)
def test_invalid_arguments_raise_value_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
