"""Models: they load without custom_objects, train with `fit`, and `start` and `step` compute the same as `call`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, normal, randomize

from kerasnets.models import (
    CharLSTM,
    ConvNet,
    DecoderTransformer,
    EncoderTransformer,
    Transformer,
    VisionTransformer,
)

RNG = np.random.default_rng(0)


def conv_net(**options):
    model = ConvNet(3, filters=(4, 6), **options)
    model.build((None, 8, 9, 1))
    randomize(model)
    return model


def residual_net(**options):
    return conv_net(residual_blocks=1, norm="pre", widen=2, head="max", **options)


def flat_net(**options):
    return conv_net(padding="valid", kernel_size=2, norm="none", head="flatten", hidden=(7, 5), **options)


def char_lstm(**options):
    model = CharLSTM(7, width=4, units=5, num_layers=2, **options)
    model.build((None, None))
    randomize(model, scale=0.5)
    return model


def transformer(norm="post", **options):
    model = Transformer(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, norm=norm, **options)
    model.build({"source": (None, None), "target": (None, None)})
    randomize(model)
    return model


def half(cls, **options):
    model = cls(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, activation="swiglu", **options)
    model.build((None, None))
    randomize(model)
    return model


def vision_transformer(**options):
    model = VisionTransformer(3, patch_size=2, width=8, num_heads=2, hidden_units=12, num_blocks=2, **options)
    model.build((None, 8, 8, 1))
    randomize(model)
    return model


def ids(*shape, vocabulary=7, seed=0):
    return np.random.default_rng(seed).integers(1, vocabulary, shape).astype(np.int32)


def pairs(rows=3, source=5, target=6):
    return {"source": ids(rows, source, vocabulary=11), "target": ids(rows, target, vocabulary=11, seed=1)}


MODELS = {
    "conv_net": (lambda: conv_net(kernel_size=2, dropout=0.3), lambda: normal(2, 8, 9, 1, scale=99.0)),
    "conv_net residual": (lambda: residual_net(dropout=0.3), lambda: normal(2, 8, 9, 1, scale=99.0)),
    "conv_net flat": (lambda: flat_net(dropout=0.3), lambda: normal(2, 8, 9, 1, scale=99.0)),
    "char_lstm": (lambda: char_lstm(dropout=0.3), lambda: ids(2, 6)),
    "transformer post": (lambda: transformer("post", dropout=0.3), pairs),
    "transformer pre": (lambda: transformer("pre", dropout=0.3), pairs),
    "transformer untied": (lambda: transformer(target_vocabulary_size=13, positions="rotary", dropout=0.3), pairs),
    "encoder": (lambda: half(EncoderTransformer, positions="learned", max_length=9, dropout=0.3), lambda: ids(2, 6)),
    "decoder": (lambda: half(DecoderTransformer, positions="rotary", dropout=0.3), lambda: ids(2, 6)),
    "vision_transformer": (lambda: vision_transformer(dropout=0.3), lambda: normal(2, 8, 8, 1, scale=99.0)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_load_without_custom_objects(name, tmp_path):
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.get_config() == model.get_config()
    assert loaded.count_params() == model.count_params()
    assert_close(loaded(inputs), model(inputs), 0)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_float32_under_half_policies(name):
    _, make_inputs = MODELS[name]
    with_policy = {
        "conv_net": lambda: conv_net(dtype="mixed_bfloat16"),
        "conv_net residual": lambda: residual_net(dtype="mixed_float16"),
        "conv_net flat": lambda: flat_net(dtype="mixed_bfloat16"),
        "char_lstm": lambda: char_lstm(dtype="mixed_bfloat16"),
        "transformer post": lambda: transformer("post", dtype="mixed_float16"),
        "transformer pre": lambda: transformer("pre", dtype="mixed_float16"),
        "transformer untied": lambda: transformer(target_vocabulary_size=13, dtype="mixed_float16"),
        "encoder": lambda: half(EncoderTransformer, positions="learned", max_length=9, dtype="mixed_float16"),
        "decoder": lambda: half(DecoderTransformer, positions="rotary", dtype="mixed_bfloat16"),
        "vision_transformer": lambda: vision_transformer(positions="sinusoidal", dtype="mixed_float16"),
    }[name]()
    logits = with_policy(make_inputs())
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_compute_output_shape_equals_the_output(name):
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    assert model(inputs).shape == model.compute_output_shape(keras.tree.map_structure(lambda x: x.shape, inputs))


@pytest.mark.parametrize("name", MODELS)
def test_models_drop_in_training_only(name):
    keras.utils.set_random_seed(0)  # small layers may draw the same masks twice
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    assert_close(model(inputs), model(inputs, training=False), 0)
    assert np.abs(model(inputs, training=True) - model(inputs, training=True)).max() > 1e-3


# Training with `fit`.


def examples(name):
    if name.startswith("conv_net"):
        labels = RNG.integers(0, 3, 48)
        return RNG.uniform(0, 80, (48, 8, 8, 1)) + 80 * labels[:, None, None, None], labels
    if name in ("char_lstm", "decoder"):
        text = np.tile([1, 3, 2, 5], 20)[: 16 * 5].reshape(8, 10).astype(np.int32)
        return text[:, :-1], text[:, 1:]
    source = ids(16, 4, vocabulary=11)
    if name == "encoder":
        return source, source
    return {"source": source, "target": np.pad(source[:, :-1], [(0, 0), (1, 0)], constant_values=1)}, source


@pytest.mark.parametrize(
    "name", ["conv_net", "conv_net residual", "conv_net flat", "char_lstm", "transformer pre", "encoder", "decoder"]
)
def test_fit_lowers_the_loss(name):
    keras.utils.set_random_seed(0)
    model = {
        "conv_net": lambda: ConvNet(3, filters=(8,)),
        "conv_net residual": lambda: ConvNet(3, filters=(4, 8), residual_blocks=1),
        "conv_net flat": lambda: ConvNet(3, filters=(8,), norm="none", head="flatten", hidden=(16,)),
        "char_lstm": lambda: CharLSTM(7, width=8, units=16, num_layers=1),
        "transformer pre": lambda: Transformer(11, 16, 2, 32, 1, dropout=0.1, norm="pre"),
        "encoder": lambda: EncoderTransformer(11, 16, 2, 32, 1, dropout=0.1, activation="gelu"),
        "decoder": lambda: DecoderTransformer(7, 16, 2, 32, 1, dropout=0.1, positions="rotary"),
    }[name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss, metrics=["accuracy"])
    history = model.fit(*examples(name), batch_size=8, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["accuracy"][-1] > history["accuracy"][0]


# CharLSTM.


def test_char_lstm_does_not_see_future_positions():
    model, tokens = char_lstm(), ids(2, 6)
    changed = tokens.copy()
    changed[:, 3:] = changed[:, 3:] % 6 + 1
    np.testing.assert_array_equal(model(changed)[:, :3], model(tokens)[:, :3])
    assert np.abs(model(changed)[:, 3:] - model(tokens)[:, 3:]).max() > 1e-3


def test_char_lstm_in_two_halves_equals_one_pass():
    model, tokens = char_lstm(), ids(2, 8)
    logits, last = model.run(tokens)
    first, states = model.run(tokens[:, :3])
    second, states = model.run(tokens[:, 3:], states)
    assert_close([first, second], [logits[:, :3], logits[:, 3:]], 1e-6)
    assert_close(states, last, 1e-6)
    assert_close(logits, model(tokens), 0)


def test_char_lstm_carries_its_states():
    model, tokens = char_lstm(), ids(2, 3)
    states = model.run(ids(2, 5, seed=4))[1]
    assert [[part.shape for part in state] for state in states] == [[(2, 5), (2, 5)]] * 2
    assert np.abs(model.run(tokens, states)[0] - model.run(tokens)[0]).max() > 1e-3
    assert_close(model.run(tokens, model.initial_states(2))[0], model.run(tokens)[0], 0)


def test_char_lstm_steps_equal_one_call():
    model, tokens = char_lstm(), ids(3, 7)
    expected = model(tokens)
    memory, cache = model.start(tokens[:, :2], 5)
    for t in range(2, 7):
        logits, cache = model.step(tokens[:, t], t, memory, cache)
        assert_close(logits, expected[:, t], 1e-6)


def test_char_lstm_ignores_prompt_padding():
    model, tokens = char_lstm(), ids(1, 4)
    padded = np.pad(tokens, [(0, 0), (0, 5)])
    assert_close(model.start(padded, 5)[1], model.start(tokens, 5)[1], 0)


def test_char_lstm_without_a_prompt_starts_from_zeros():
    model = char_lstm()
    assert_close(model.start(np.zeros((2, 3), np.int32), 5)[1], model.initial_states(2), 0)


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CharLSTM(0), "vocabulary_size is 0"),
        (lambda: CharLSTM(5, width=0), "width is 0"),
        (lambda: CharLSTM(5, num_layers=0), "num_layers is 0"),
        (lambda: CharLSTM(5, units=0).build((None, None)), "units is 0"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
