"""The table of a network: its counts against manual counts, and the program that prints it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import normal

from kerasnets import describe as program
from kerasnets.checks import RequestError
from kerasnets.layers import ConvBlock, LocallyConnected2D
from kerasnets.models import (
    CharLSTM,
    ConvNet,
    PixelRows,
    Seq2SeqLSTM,
    SequenceClassifier,
    SequenceGenerator,
    SequenceTagger,
    Transformer,
    describe,
    to_fully_convolutional,
)
from kerasnets.models.description import Walk
from kerasnets.tasks import TASKS
from kerasnets.tasks.presets import load_preset, presets


def conv_net(shape=(32, 32, 3), classes=10, **options):
    model = ConvNet(classes, **options)
    model.build((None, *shape))
    return model


def preset(name, shape=(32, 32, 3)):
    return conv_net(shape, **vars(load_preset("image_classification", name).model))


def rows(model, **options):
    return {row.layer: row for row in describe(model, **options).rows}


# Counts.


def test_lenet_has_the_counts_of_the_paper():
    layers = rows(preset("lenet", (32, 32, 1)))
    assert {name: (row.output_shape[1:], row.parameters, row.multiply_adds) for name, row in layers.items()} == {
        "block_0": ((14, 14, 6), 156, 28 * 28 * 25 * 6),  # pooling included
        "block_1": ((5, 5, 16), 2_416, 10 * 10 * 25 * 6 * 16),
        "pool": ((400,), 0, 0),
        "hidden_0": ((120,), 48_120, 48_000),
        "hidden_1": ((84,), 10_164, 10_080),
        "out": ((10,), 850, 840),
    }


def test_resnet20_has_41_million_multiply_adds():
    stage_0 = 3 * 2 * 32 * 32 * 9 * 16 * 16
    stage_1 = 16 * 16 * (9 * 16 * 32 + 5 * 9 * 32 * 32 + 16 * 32)
    stage_2 = 8 * 8 * (9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 64)
    description = describe(preset("resnet20"))
    assert description.multiply_adds == 32 * 32 * 9 * 3 * 16 + stage_0 + stage_1 + stage_2 + 64 * 10
    assert round(description.multiply_adds / 1e6) == 41
    assert description.parameters == preset("resnet20").count_params()


def test_receptive_fields_grow_with_every_window():
    layers = rows(preset("lenet", (32, 32, 1)))
    assert [row.receptive_field for row in layers.values()] == ["6×6", "16×16", "all", "all", "all", "all"]
    # A 3×3 kernel adds 2 × the distance of its pixels: 1 for the first, 6 of stage 0 and 1 of stage 1; 2 for 5 and
    # 1 of stage 2; 4 for 5.
    assert 81 == 1 + 2 * (8 * 1 + 6 * 2 + 5 * 4)
    last = list(rows(preset("resnet20")).values())[-3]
    assert last.receptive_field == "81×81"


def test_receptive_field_agrees_with_the_gradient():
    model = conv_net((64, 64, 1), filters=(2, 2), kernel_size=3)
    x = tf.constant(normal(1, 64, 64, 1, scale=99))
    with tf.GradientTape() as tape:
        tape.watch(x)
        middle = tf.reduce_sum(model.blocks[1].conv(model.blocks[0].conv(x)[:, ::2, ::2])[:, 16, 16])
    pixels = np.flatnonzero(np.abs(tape.gradient(middle, x)).sum(axis=(0, 2, 3)))
    # The pooling of block 0 adds 1 pixel, that of block 1 another 2.
    assert (pixels[-1] - pixels[0] + 1) + 1 + 2 == 10
    assert rows(model)["block_1"].receptive_field == "10×10"


def test_char_lstm_counts_its_matrices_per_character():
    model = CharLSTM(66, width=64, units=256, num_layers=2)
    model.build((None, None))
    description = describe(model)
    assert description.multiply_adds == (64 + 256) * 4 * 256 + (256 + 256) * 4 * 256 + 256 * 66
    assert description.parameters == model.count_params() == 875_202
    assert describe(model, length=100).multiply_adds == 100 * description.multiply_adds
    assert [row.receptive_field for row in description.rows] == ["1", "all", "all"]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_transformer_counts_its_matrices_and_attention(norm):
    model = Transformer(50, width=16, num_heads=2, hidden_units=24, num_blocks=3, norm=norm)
    model.build({"source": (None, None), "target": (None, None)})
    description, length = describe(model, length=7), 7
    attention, feed_forward = 4 * 16 * 16 + 2 * length * 16, 2 * 16 * 24
    assert description.multiply_adds == length * (3 * (3 * attention + 2 * feed_forward) + 50 * 16)
    assert description.parameters == model.count_params()
    assert rows(model)["encoder_0"].receptive_field == "all"


def test_recurrent_models_of_every_kind():
    length, rows, width, units = 7, 28, 16, 32
    lstm = 4 * (width + units) * units
    classifier = SequenceClassifier(10, PixelRows(), units)
    classifier.build((None, rows, width, 1))
    tagger = SequenceTagger(5, keras.layers.Embedding(50, width), units)
    tagger.build((None, None))
    encoder = conv_net((28, 28, 1), classes=24, filters=(8,))
    generator = SequenceGenerator(20, encoder, width, units)
    generator.build({"given": (None, 28, 28, 1), "target": (None, None)})
    translator = Seq2SeqLSTM(50, width, units)
    translator.build({"source": (None, None), "target": (None, None)})
    half = 4 * (width + units // 2) * units // 2
    attention, combine = units * units + 2 * length * units, 2 * units * width
    expected = [
        (classifier, rows * lstm + units * 10),
        (tagger, length * (2 * lstm + 2 * units * 5)),
        (generator, describe(encoder).multiply_adds + 24 * 2 * units + length * (lstm + units * 20)),
        (translator, length * (2 * half + lstm + attention + combine + 50 * width)),
    ]
    for model, multiply_adds in expected:
        assert describe(model, length).multiply_adds == multiply_adds, model.name
        assert describe(model, length).parameters == model.count_params(), model.name


@pytest.mark.parametrize("name", ["small", "lenet", "resnet20", "wide"])
def test_a_fully_convolutional_network_has_the_same_counts_at_the_training_size(name):
    model = preset(name)
    expected, description = describe(model), describe(to_fully_convolutional(model))
    assert description.multiply_adds == expected.multiply_adds
    assert description.parameters == expected.parameters


def test_groups_and_dilation_are_counted():
    block = ConvBlock(6, groups=3, dilation=2)
    block.build((None, 9, 9, 6))
    walk = Walk(1)
    row = walk.row(block)
    assert row.multiply_adds == 9 * 9 * 9 * 2 * 6
    assert row.receptive_field == "5×5"


# Shared, locally connected, fully connected.


def test_weights_of_a_convolution_and_of_layers_without_weight_sharing():
    """1000×1000 pixels and as many units: 10¹² weights fully connected, 10⁸ with 10×10 fields, 100 when shared."""
    conv = keras.layers.Conv2D(1, 10, padding="same", use_bias=False, name="conv")
    conv.build((None, 1000, 1000, 1))
    walk = Walk(1)
    walk.collect_convolutions(conv, "conv")
    assert [(c.shared, c.local, c.full) for c in walk.convolutions] == [(100, 10**8, 10**12)]


def test_the_comparison_agrees_with_real_layers():
    convolutions = describe(preset("lenet", (32, 32, 1))).convolutions
    assert [c.layer for c in convolutions] == ["block_0/conv", "block_1/conv"]
    local, full = LocallyConnected2D(16, 5), keras.layers.Dense(10 * 10 * 16, use_bias=False)
    local.build((None, 14, 14, 6))
    full.build((None, 14 * 14 * 6))
    assert convolutions[1].local == np.size(local.kernel)
    assert convolutions[1].full == np.size(full.kernel)
    assert convolutions[1].shared == 5 * 5 * 6 * 16


# The program.


@pytest.mark.parametrize(("task", "name"), [(task, name) for task in TASKS for name in presets(task)], ids=str)
def test_every_preset_is_described(task, name, capsys):
    program.main([f"{task}/{name}"])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["layer", "output", "shape", "parameters", "multiply-adds", "receptive", "field"]
    assert any(line.startswith("total ") for line in printed)


def test_a_preset_is_found_by_its_name_alone(capsys):
    program.main(["resnet20"])
    printed = capsys.readouterr().out
    assert "40,813,184" in printed
    assert "stage_2_block_2/second/conv" in printed


def test_sizes_are_options(capsys):
    program.main(["resnet20", "--image-size", "64"])
    assert "64 × 64 × 16" in capsys.readouterr().out
    program.main(["translation/tiny", "--length", "20"])
    assert "20 × 128" in capsys.readouterr().out


def test_every_run_is_described(runs, capsys):
    for task, run in runs.items():
        program.main([str(run)])
        total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("total"))
        assert f"{keras.models.load_model(run / 'model.keras').count_params():,}" in total, task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "no run directory and no preset resnet21; the presets are image_classification/"),
        (["translation/resnet20"], "no preset translation/resnet20"),
        (["quick"], "quick is a preset of 3 tasks; choose image_classification/quick or text_generation/quick or"),
        (["resnet20", "--length", "0"], "length is 0; it must be 1 or more"),
        (["resnet20", "--image-size", "-1"], "image_size is -1; it must be 1 or more"),
        (["translation/tiny", "--image-size", "9"], "image_size is 9; it is for images"),
    ],
)
def test_wrong_requests_are_rejected(arguments, message):
    with pytest.raises(RequestError, match=message):
        program.main(arguments)


def test_a_directory_without_a_run_is_rejected(tmp_path):
    with pytest.raises(RequestError, match=r"has no config\.toml"):
        program.main([str(tmp_path)])


def test_too_small_images_are_rejected():
    with pytest.raises(RequestError, match="3×3 are too small for 2 stages"):
        program.main(["image_classification/quick", "--image-size", "3"])


# Wrong arguments.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: describe(ConvNet(3)), "model is not built"),
        (lambda: describe(conv_net((None, None, 3))), "built for images of any size"),
        (lambda: describe(conv_net(), length=0), "length is 0"),
    ],
)
def test_wrong_arguments_are_reported_with_their_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
