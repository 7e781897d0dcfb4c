"""Convolution and local connection: layer checks, parity with stock Keras layers or with the equation in NumPy, and
invalid arguments."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, check_layer, normal, randomize, value_and_gradients

from kerasnets.layers import ConvBlock, GlobalPooling, LocallyConnected2D, ResidualBlock


def randomized(layer, shape):
    """-> the layer with random weights and statistics."""
    layer.build(shape)
    randomize(layer)
    for n, weight in enumerate(layer.non_trainable_weights):
        weight.assign(1 + np.abs(normal(*weight.shape, seed=n)))
    return layer


# Layer checks.


def conv_block_without(name):
    """-> ConvBlock without the argument `name`: strides and dilation exclude each other."""
    signature = inspect.signature(ConvBlock)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != name]
    cls = type(f"ConvBlockWithout{name.title()}", (ConvBlock,), {"__signature__": signature.replace(parameters=kept)})
    return keras.saving.register_keras_serializable("tests")(cls)


CONV_BLOCK = {
    "filters": 4,
    "kernel_size": 2,
    "padding": "valid",
    "groups": 2,
    "normalization": None,
    "activation": "gelu",
    "pooling": "average",
    "pool_size": 2,
    "dropout": 0.3,
}


@pytest.mark.parametrize(("missing", "arguments"), [("dilation", {"strides": 2}), ("strides", {"dilation": 2})])
def test_conv_block_passes_layer_checks(missing, arguments, tmp_path):
    cls = conv_block_without(missing)
    check_layer(cls, CONV_BLOCK | arguments, lambda b, t: {"x": normal(b, t + 4, 2 * t, 6)}, tmp_path)


def test_residual_block_passes_layer_checks(tmp_path):
    arguments = {"filters": 4, "kernel_size": 5, "strides": 2, "norm": "pre", "dropout": 0.3}
    check_layer(ResidualBlock, arguments, lambda b, t: {"x": normal(b, t + 4, 2 * t, 3)}, tmp_path)


def test_locally_connected_passes_layer_checks(tmp_path):
    arguments = {"filters": 4, "kernel_size": 2, "strides": 2}
    check_layer(LocallyConnected2D, arguments, lambda b, t: {"x": normal(b, 7, 6, 3)}, tmp_path)


def test_global_pooling_passes_layer_checks(tmp_path):
    check_layer(GlobalPooling, {"kind": "max"}, lambda b, t: {"x": normal(b, t, t + 1, 3)}, tmp_path)


# ConvBlock.


def check_against_stock(block, x, training):
    """Compare outputs, gradients and statistics of a block with those of the same stock layers in sequence."""
    conv = keras.layers.Conv2D(
        block.filters,
        block.kernel_size,
        block.strides,
        padding=block.padding,
        dilation_rate=block.dilation,
        groups=block.groups,
        use_bias=block.normalization is None,
    )
    norm = keras.layers.BatchNormalization(momentum=0.9)
    pool = keras.layers.MaxPooling2D if block.pooling == "max" else keras.layers.AveragePooling2D
    others = [keras.layers.Activation(block.activation), pool(block.pool_size)]
    stages = [(block.conv, conv)] + ([(block.norm, norm)] if block.normalization else [])
    y = x
    for ours, theirs in stages:
        y = theirs(y)
        theirs.set_weights(ours.get_weights())

    def stock():
        y = conv(x)
        if block.normalization:
            y = norm(y, training=training)
        for layer in others:
            y = layer(y)
        return y

    our_weights, their_weights = ([w for pair in stages for w in pair[n].trainable_variables] for n in (0, 1))
    ours, gradients = value_and_gradients(lambda: block(x, training=training), [x, *our_weights])
    theirs, expected = value_and_gradients(stock, [x, *their_weights])
    assert_close(ours, theirs)
    assert_close(gradients, expected)
    assert_close([s for pair in stages for s in pair[0].weights], [s for pair in stages for s in pair[1].weights])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 2},
        {"kernel_size": 2, "strides": 2},
        {"kernel_size": 5, "pool_size": 3, "pooling": "average"},
        {"dilation": 2, "pooling": "average", "pool_size": 2, "activation": "tanh"},
        {"normalization": None, "pool_size": 2},
        {"groups": 2, "normalization": None, "activation": None},
        {"groups": 6, "filters": 6, "strides": 2},
        {"groups": 3, "filters": 6, "dilation": 2, "activation": "gelu"},
        {"kernel_size": 1, "activation": None},
    ],
    ids=lambda options: "-".join(f"{name}={value}" for name, value in options.items()),
)
def test_conv_block_equals_stock_layers(options, padding, training):
    x = tf.constant(normal(5, 11, 10, 6))
    block = randomized(ConvBlock(**({"filters": 4, "padding": padding} | options)), x.shape)
    check_against_stock(block, x, training)


def test_conv_block_drops_whole_maps_in_training_only():
    block = randomized(ConvBlock(32, dropout=0.5), (None, 4, 4, 3))
    x = tf.abs(tf.constant(normal(3, 4, 4, 3)))
    block.norm.beta.assign(np.full(32, 10.0))  # so that the ReLU returns no zeros
    dropped = np.asarray(block(x, training=True)) == 0
    assert (dropped.all(axis=(1, 2)) == dropped.any(axis=(1, 2))).all()
    assert 0.25 < dropped.mean() < 0.75
    assert (np.asarray(block(x, training=False)) != 0).all()


def test_conv_block_has_a_bias_only_without_normalization():
    assert [v.path.rsplit("/", 1)[-1] for v in randomized(ConvBlock(2), (None, 4, 4, 1)).trainable_weights] == [
        "kernel",
        "gamma",
        "beta",
    ]
    bare = randomized(ConvBlock(2, normalization=None), (None, 4, 4, 1))
    assert [v.path.rsplit("/", 1)[-1] for v in bare.weights] == ["kernel", "bias"]


def test_strided_pointwise_convolution_subsamples():
    x = tf.constant(normal(3, 24, 20, 4))
    strided, all_pixels = randomized(ConvBlock(6, 1, 2, activation=None), x.shape), ConvBlock(6, 1, activation=None)
    all_pixels.build(x.shape)
    all_pixels.set_weights(strided.get_weights())

    def skipped():
        return all_pixels(x)[:, ::2, ::2]

    ours, gradients = value_and_gradients(lambda: strided(x), [x, *strided.trainable_variables])
    theirs, expected = value_and_gradients(skipped, [x, *all_pixels.trainable_variables])
    assert ours.shape == strided.compute_output_shape(x.shape) == (3, 12, 10, 6)
    assert_close(ours, theirs)
    assert_close(gradients, expected)


def test_groups_see_only_their_channels():
    block = randomized(ConvBlock(6, groups=3, normalization=None, activation=None), (None, 5, 5, 6))
    x = normal(1, 5, 5, 6)
    changed = x.copy()
    changed[..., 2:4] += 1
    differs = np.abs(block(changed) - block(x)).max(axis=(0, 1, 2)) > 1e-3
    assert differs.tolist() == [False, False, True, True, False, False]
    assert block.conv.kernel.shape == (3, 3, 2, 6)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 3, "dilation": 3}, {"kernel_size": 2, "strides": 3, "pool_size": 2}, {"kernel_size": 5}],
)
def test_windows_match_the_receptive_field(options):
    block = randomized(
        ConvBlock(8, normalization=None, activation=None, pooling="average", **options), (None, 41, 41, 1)
    )
    middle = block.compute_output_shape((1, 41, 41, 1))[1] // 2
    x = tf.constant(normal(1, 41, 41, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(block(x)[:, middle, middle])
    seen = np.flatnonzero(np.abs(tape.gradient(y, x)).sum(axis=(0, 2, 3)) > 0)
    extent, step = 1, 1
    for span, stride in block.windows():
        extent, step = extent + (span - 1) * step, step * stride
    assert seen[-1] - seen[0] + 1 == extent


# ResidualBlock.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("filters", "strides"), [(3, 1), (5, 1), (3, 2), (6, 2)])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_block_equals_stock_layers(norm, filters, strides, training):
    x = tf.constant(normal(4, 8, 7, 3))
    block = randomized(ResidualBlock(filters, 3, strides, norm), x.shape)
    projects = strides > 1 or filters != 3
    assert (block.shortcut is not None) == projects
    stock = {}

    def add_stock_layer(name, ours, kind, **options):
        """Add a stock layer with the weights of the block's layer `ours`."""
        layer = kind(**options)
        layer.build(ours.get_build_config()["input_shape"])
        layer.set_weights(ours.get_weights())
        stock[name] = ours, layer
        return layer

    bias = {"use_bias": norm == "pre"}
    conv_1 = add_stock_layer(
        "conv_1",
        block.first.conv,
        keras.layers.Conv2D,
        filters=filters,
        kernel_size=3,
        strides=strides,
        padding="same",
        use_bias=False,
    )
    conv_2 = add_stock_layer(
        "conv_2", block.second.conv, keras.layers.Conv2D, filters=filters, kernel_size=3, padding="same", **bias
    )
    norms = {"norm_1": block.first.norm}
    norms |= {"norm_2": block.second.norm} if norm == "post" else {"norm_0": block.first_norm}
    if projects:
        # Strided stock 1×1 convolutions cannot be used: their gradient destroys memory (TensorFlow 2.21, CPU).
        kept = np.s_[:, ::strides, ::strides]
        shortcut = add_stock_layer(
            "shortcut", block.shortcut.conv, keras.layers.Conv2D, filters=filters, kernel_size=1, **bias
        )
        norms |= {"norm_s": block.shortcut.norm} if norm == "post" else {}
    for name, ours in norms.items():
        add_stock_layer(name, ours, keras.layers.BatchNormalization, momentum=0.9)

    def n(name, y):
        return stock[name][1](y, training=training)

    def plain_block():
        if norm == "post":
            change = n("norm_2", conv_2(tf.nn.relu(n("norm_1", conv_1(x)))))
            return tf.nn.relu(change + (n("norm_s", shortcut(x[kept])) if projects else x))
        h = tf.nn.relu(n("norm_0", x))
        return conv_2(tf.nn.relu(n("norm_1", conv_1(h)))) + (shortcut(h[kept]) if projects else x)

    our_weights, their_weights = ([w for pair in stock.values() for w in pair[k].trainable_variables] for k in (0, 1))
    ours, gradients = value_and_gradients(lambda: block(x, training=training), [x, *our_weights])
    theirs, expected = value_and_gradients(plain_block, [x, *their_weights])
    assert_close(ours, theirs)
    assert_close(gradients, expected)
    assert sum(len(pair[0].weights) for pair in stock.values()) == len(block.weights)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_residual_block_with_zero_weights_is_the_shortcut(norm):
    block = randomized(ResidualBlock(3, norm=norm), (None, 6, 6, 3))
    for weight in block.second.trainable_weights:
        weight.assign(np.zeros(weight.shape))
    x = normal(2, 6, 6, 3)
    assert_close(block(x), x if norm == "pre" else np.maximum(x, 0), 0)


# LocallyConnected2D.


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (2, 1), (3, 2), (2, 3), (6, 1)])
def test_locally_connected_equals_its_equation(kernel_size, strides):
    layer = randomized(LocallyConnected2D(4, kernel_size, strides), (None, 7, 6, 3))
    x = normal(2, 7, 6, 3)
    kernel, bias = np.asarray(layer.kernel), np.asarray(layer.bias)
    rows, columns = kernel.shape[:2]
    assert (rows, columns) == ((7 - kernel_size) // strides + 1, (6 - kernel_size) // strides + 1)
    expected = np.zeros((2, rows, columns, 4))
    for b, row, column in np.ndindex(2, rows, columns):
        top, left = row * strides, column * strides
        window = x[b, top : top + kernel_size, left : left + kernel_size].reshape(-1)
        expected[b, row, column] = window @ kernel[row, column] + bias[row, column]
    assert_close(layer(x), expected)


def test_locally_connected_with_equal_weights_equals_convolution():
    layer, conv = LocallyConnected2D(4, 3), keras.layers.Conv2D(4, 3)
    layer.build((None, 6, 7, 2))
    conv.build((None, 6, 7, 2))
    conv.bias.assign(normal(4))
    layer.kernel.assign(np.broadcast_to(np.reshape(conv.kernel, (18, 4)), (4, 5, 18, 4)))
    layer.bias.assign(np.broadcast_to(conv.bias, (4, 5, 4)))
    x = normal(3, 6, 7, 2)
    assert_close(layer(x), conv(x))


def test_locally_connected_has_he_initialization():
    layer = LocallyConnected2D(16, 3)
    layer.build((None, 20, 20, 4))
    assert abs(np.var(layer.kernel) * 36 / 2 - 1) < 0.05


# GlobalPooling.


def test_global_pooling_reduces_each_map_to_one_number():
    x = normal(2, 5, 4, 3)
    assert_close(GlobalPooling()(x), x.mean(axis=(1, 2)))
    assert_close(GlobalPooling("max")(x), x.max(axis=(1, 2)), 0)


def test_locally_connected_rejects_images_of_other_sizes():
    layer = LocallyConnected2D(2)
    layer.build((None, 6, 6, 1))
    with pytest.raises(ValueError, match="the image is 8×8; it must have the size that the layer was built for"):
        layer(normal(1, 8, 8, 1))


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvBlock(0), "filters is 0; it must be 1 or more"),
        (lambda: ConvBlock(4, kernel_size=0), "kernel_size is 0"),
        (lambda: ConvBlock(4, strides=-1), "strides is -1"),
        (lambda: ConvBlock(4, dilation=0), "dilation is 0"),
        (lambda: ConvBlock(4, groups=0), "groups is 0"),
        (lambda: ConvBlock(4, pool_size=0), "pool_size is 0"),
        (lambda: ConvBlock(4, dropout=1.0), r"dropout is 1\.0; it must be in \[0, 1\)"),
        (lambda: ConvBlock(4, padding="full"), 'padding is \'full\'; it must be "same" or "valid"'),
        (lambda: ConvBlock(4, normalization="layer"), "normalization is 'layer'; it must be \"batch\" or None"),
        (lambda: ConvBlock(4, activation="rellu"), "activation is 'rellu'; it must be the name of a function"),
        (lambda: ConvBlock(4, pooling="min"), 'pooling is \'min\'; it must be "max" or "average"'),
        (lambda: ConvBlock(4, groups=3), "groups is 3; it must divide filters, which is 4"),
        (lambda: ConvBlock(4, groups=2).build((None, 5, 5, 3)), "groups is 2; it must divide the channels .* 3"),
        (lambda: ConvBlock(4, strides=2, dilation=3), "dilation is 3 and strides is 2; one of them must be 1"),
        (
            lambda: ConvBlock(4, 5, padding="valid").build((None, 4, 9, 1)),
            '4×9; with padding "valid" it must be at least 5×5',
        ),
        (
            lambda: ConvBlock(4, 3, padding="valid", dilation=2).build((None, 9, 4, 1)),
            '9×4; with padding "valid" it must be at least 5×5',
        ),
        (lambda: ResidualBlock(0), "filters is 0"),
        (lambda: ResidualBlock(4, kernel_size=2), "kernel_size is 2; it must be odd"),
        (lambda: ResidualBlock(4, strides=0), "strides is 0"),
        (lambda: ResidualBlock(4, norm="none"), 'norm is \'none\'; it must be "post" or "pre"'),
        (lambda: ResidualBlock(4, dropout=-0.1), r"dropout is -0\.1"),
        (lambda: LocallyConnected2D(0), "filters is 0"),
        (lambda: LocallyConnected2D(4, kernel_size=-1), "kernel_size is -1"),
        (lambda: LocallyConnected2D(4, strides=0), "strides is 0"),
        (lambda: LocallyConnected2D(4).build((None, None, 5, 1)), "the image is None×5; both sides must be known"),
        (lambda: LocallyConnected2D(4, 6).build((None, 7, 5, 1)), "7×5; .* at least kernel_size, which is 6"),
        (lambda: GlobalPooling("min"), 'kind is \'min\'; it must be "average" or "max"'),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
