"""The Vision Transformer: against NumPy, and the properties of patches and positions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, normal, randomize

from kerasnets.checks import RequestError
from kerasnets.config.image_networks import VisionTransformerOptions
from kerasnets.layers import PositionalEncoding
from kerasnets.models import VisionTransformer, describe
from kerasnets.tasks.image_classification.explanations import grad_cam
from kerasnets.tasks.presets import PRESETS, load_preset

PIXELS = np.abs(normal(3, 6, 8, 3, scale=90.0))  # 3 × 4 patches of 2 × 2


def make(**options):
    options = {"patch_size": 2, "width": 8, "num_heads": 2, "hidden_units": 12, "num_blocks": 2} | options
    model = VisionTransformer(5, **options)
    model.build((None, 6, 8, 3))
    randomize(model, scale=0.5)
    return model


def cut(pixels, side=2):
    """[B, Y, X, C] -> patches [B, T, side · side · C], row by row."""
    rows = [np.split(row, pixels.shape[2] // side, axis=2) for row in np.split(pixels, pixels.shape[1] // side, axis=1)]
    return np.stack([patch.reshape(len(pixels), -1) for row in rows for patch in row], axis=1)


def shuffled(pixels, order):
    """The image with its patches in another order."""
    patches = cut(pixels)[:, order].reshape(len(pixels), 3, 4, 2, 2, 3)
    return patches.swapaxes(2, 3).reshape(pixels.shape)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_logits_equal_the_equations(norm, positions):
    model = make(norm=norm, positions=positions)
    kernel, bias = (np.asarray(weight) for weight in model.patches.weights)
    x = cut(PIXELS / 127.5 - 1) @ kernel.reshape(-1, 8) + bias
    table = np.asarray(PositionalEncoding.encoding(np.arange(12), 8))
    x = x + (np.asarray(model.position.table) if positions == "learned" else table)
    assert_close(model.embed(PIXELS), x, 1e-5)
    for block in model.blocks:
        x = block(x)
    if norm == "pre":
        x = model.last_norm(x)
    expected = np.mean(x, axis=1) @ np.asarray(model.out.kernel) + np.asarray(model.out.bias)
    assert_close(model(PIXELS), expected, 1e-4)


def test_only_positions_know_the_order_of_the_patches():
    model, order = make(), np.random.default_rng(0).permutation(12)
    changed = shuffled(PIXELS, order)
    assert np.array_equal(cut(changed), cut(PIXELS)[:, order])
    assert np.abs(np.asarray(model(changed)) - np.asarray(model(PIXELS))).max() > 1e-2
    model.position.table.assign(np.zeros((12, 8)))
    assert_close(model(changed), model(PIXELS), 1e-5)


def test_feature_maps_are_the_tokens_on_their_grid():
    model = make()
    first, last = model.feature_maps(PIXELS)
    tokens = model.blocks[0](model.embed(PIXELS))
    assert first.shape == last.shape == (3, 3, 4, 8)
    assert_close(first[:, 1, 2], tokens[:, 6], 1e-6)
    assert_close(model.classify_maps(last), model(PIXELS), 1e-5)


def test_grad_cam_is_each_patchs_share_of_the_logit():
    model = make()
    logits, heat, _ = grad_cam(model, tf.identity, tf.constant(PIXELS))
    kernel, maps = np.asarray(model.out.kernel), np.asarray(model.feature_maps(PIXELS)[1])
    best = np.argmax(logits, axis=1)
    shares = np.einsum("byxd,db->byx", maps, kernel[:, best]) / 12
    assert_close(shares.sum(axis=(1, 2)), np.max(logits, axis=1) - np.asarray(model.out.bias)[best], 1e-4)
    expected = tf.image.resize(np.maximum(shares, 0)[..., np.newaxis], (6, 8)).numpy()[..., 0]
    assert_close(heat, expected / expected.max(axis=(1, 2), keepdims=True), 1e-4)


def test_every_weight_has_a_gradient():
    model = make()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(PIXELS, training=True) ** 2)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
    ):
        assert gradient is not None, variable.path
        assert "key/bias" in variable.path or np.abs(gradient).max() > 0, variable.path  # softmax removes a common term


def test_the_preset_states_its_parameters():
    config = load_preset("image_classification", "transformer")
    model = config.model.build(shape=(32, 32, 3), classes=10, characters=0)
    assert f"{model.count_params():,} parameters" in (PRESETS / "image_classification" / "transformer.toml").read_text(
        "utf-8"
    )


def test_describe_counts_matrices_and_attention():
    model = VisionTransformer(10, patch_size=4, width=16, num_heads=2, hidden_units=24, num_blocks=3)
    model.build((None, 32, 24, 3))
    description, patches = describe(model), 8 * 6
    attention, feed_forward = 4 * 16 * 16 + 2 * patches * 16, 2 * 16 * 24
    assert description.parameters == model.count_params()
    assert description.multiply_adds == patches * (48 * 16 + 3 * (attention + feed_forward)) + 160
    fields = {row.layer: row.receptive_field for row in description.rows}
    assert (fields["patches"], fields["block_0"]) == ("4×4", "all")


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"patch_size": 5}, (30, 32, 3), r"images are 30×32; rows and columns must be multiples of patch_size.* 5\."),
        ({}, (None, 32, 3), "images are None×32"),
        ({"width": 10}, (32, 32, 3), "width 10 must be a multiple of num_heads"),
        ({"positions": "rotary"}, (32, 32, 3), 'positions is \'rotary\'; it must be "learned" or "sinusoidal"'),
        ({"num_blocks": 0}, (32, 32, 3), "num_blocks is 0"),
        ({"dropout": 1.0}, (32, 32, 3), "dropout is 1.0"),
    ],
)
def test_invalid_arguments(options, shape, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(3, **options).build((None, *shape))


def test_invalid_options():
    with pytest.raises(RequestError, match=r"model\.width is 130; it must be a multiple of model\.num_heads.* 4"):
        VisionTransformerOptions(width=130)
    with pytest.raises(RequestError, match=r"model\.width is 9; it must be an even multiple"):
        VisionTransformerOptions(width=9, num_heads=3, positions="sinusoidal")
    with pytest.raises(RequestError, match="images are 30×30; rows and columns must be multiples of patch_size"):
        VisionTransformerOptions().build(shape=(30, 30, 3), classes=2, characters=0)


def test_half_precision_is_close():
    exact = make()
    model = make(dtype="mixed_bfloat16")
    model.set_weights(exact.get_weights())
    probabilities, expected = keras.ops.softmax(model(PIXELS)), keras.ops.softmax(exact(PIXELS))
    assert model(PIXELS).dtype == tf.float32
    assert np.abs(np.asarray(probabilities) - np.asarray(expected)).max() < 0.1
