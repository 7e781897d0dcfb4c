"""The recurrent models of the four shapes, N → N, N → 1, 1 → N and N → M, and the attention of their decoders."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, check_layer, normal, randomize

from kerasnets.layers import AdditiveAttention, MultiplicativeAttention
from kerasnets.models import (
    CharLSTM,
    ConvNet,
    PixelRows,
    Seq2SeqLSTM,
    SequenceClassifier,
    SequenceGenerator,
    SequenceTagger,
)

ATTENTIONS = ["additive", "multiplicative", "none"]


def ids(*shape, vocabulary=7, seed=0):
    return np.random.default_rng(seed).integers(1, vocabulary, shape).astype(np.int32)


def randomized(model, shape):
    model.build(shape)
    randomize(model)
    return model


def tagger(**options):
    model = SequenceTagger(3, keras.layers.Embedding(7, 4), units=5, num_layers=2, **options)
    return randomized(model, (None, None))


def token_classifier(**options):
    model = SequenceClassifier(3, keras.layers.Embedding(7, 4), units=5, num_layers=2, **options)
    return randomized(model, (None, None))


def row_classifier(**options):
    return randomized(SequenceClassifier(3, PixelRows(), units=5, **options), (None, 6, 8, 1))


def image_generator(**options):
    model = SequenceGenerator(7, ConvNet(6, filters=(4,)), width=4, units=5, num_layers=2, **options)
    return randomized(model, {"given": (None, 6, 8, 1), "target": (None, None)})


def class_generator(**options):
    model = SequenceGenerator(7, keras.layers.Embedding(3, 6), width=4, units=5, **options)
    return randomized(model, {"given": (None,), "target": (None, None)})


def seq2seq(attention="multiplicative", **options):
    model = Seq2SeqLSTM(11, width=6, units=8, num_layers=2, attention=attention, **options)
    return randomized(model, {"source": (None, None), "target": (None, None)})


def pairs():
    return {"source": ids(3, 5, vocabulary=11), "target": ids(3, 6, vocabulary=11, seed=1)}


def images(rows=2):
    return normal(rows, 6, 8, 1, scale=99.0)


MODELS = {
    "tagger": (tagger, lambda: ids(2, 6)),
    "token classifier": (token_classifier, lambda: ids(2, 6)),
    "row classifier": (row_classifier, images),
    "image generator": (image_generator, lambda: {"given": images(), "target": ids(2, 4)}),
    "class generator": (class_generator, lambda: {"given": np.array([0, 2]), "target": ids(2, 4)}),
    "tied char_lstm": (
        lambda **options: randomized(CharLSTM(7, 5, 5, tied=True, **options), (None, None)),
        lambda: ids(2, 6),
    ),
    **{f"seq2seq {kind}": (lambda kind=kind, **options: seq2seq(kind, **options), pairs) for kind in ATTENTIONS},
}


@pytest.mark.parametrize("name", MODELS)
def test_models_load_without_custom_objects(name, tmp_path):
    make, make_inputs = MODELS[name]
    model, inputs = make(dropout=0.3), make_inputs()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(model)
    assert loaded.count_params() == model.count_params()
    assert_close(loaded(inputs), model(inputs), 0)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_float32_of_the_computed_shape(name):
    make, make_inputs = MODELS[name]
    inputs = make_inputs()
    logits = make(dtype="mixed_bfloat16")(inputs)
    assert logits.dtype == tf.float32 and np.isfinite(logits).all()
    assert logits.shape == make().compute_output_shape(keras.tree.map_structure(lambda x: x.shape, inputs))


@pytest.mark.parametrize("name", MODELS)
def test_models_drop_in_training_only(name):
    keras.utils.set_random_seed(0)  # small layers may draw the same masks twice
    make, make_inputs = MODELS[name]
    model, inputs = make(dropout=0.5), make_inputs()
    assert_close(model(inputs), model(inputs, training=False), 0)
    assert np.abs(model(inputs, training=True) - model(inputs, training=True)).max() > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_every_weight_has_a_gradient(name):
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    with tf.GradientTape() as tape:
        logits = model(inputs, training=True)
        total = tf.reduce_sum(logits * normal(*logits.shape))
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(total, [v.value for v in model.trainable_variables]), strict=True
    ):
        assert gradient is not None and np.abs(tf.convert_to_tensor(gradient)).max() > 1e-6, variable.path


# Training with `fit` on small problems.


def fit(model, inputs, targets, epochs=20):
    keras.utils.set_random_seed(0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=loss, metrics=["accuracy"])
    history = model.fit(inputs, targets, batch_size=16, epochs=epochs, verbose=0).history
    return history["accuracy"][-1]


def test_tagger_learns_from_both_sides():
    """The tag of a step encodes the tokens on both sides of it."""
    tokens = ids(96, 8, vocabulary=3)
    around = np.pad(tokens, [(0, 0), (1, 1)])
    model, tags = SequenceTagger(9, keras.layers.Embedding(3, 8), units=16), 3 * around[:, :-2] + around[:, 2:]
    assert fit(model, tokens, tags) > 0.95


def test_tagger_restores_capitals_of_real_text():
    from kerasnets.data.sources import load_text

    text = load_text("pydocs").train[:40_000]
    letters = np.array([min(ord(c), 255) for c in text.lower()[: 40_000 // 50 * 50]], np.int32).reshape(-1, 50)
    capital = np.array([c.isupper() for c in text[: letters.size]], np.int32).reshape(-1, 50)
    model = SequenceTagger(2, keras.layers.Embedding(256, 16), units=24)
    fit(model, letters, capital, epochs=4)
    found = np.argmax(model.predict(letters, verbose=0), axis=-1)
    recall = (found & capital).sum() / capital.sum()
    precision = (found & capital).sum() / max(found.sum(), 1)
    # 4 in 100 letters are capitals, so that always predicting the other class has a recall of 0.
    assert recall > 0.2 and precision > 0.6, (recall, precision)


def test_classifier_remembers_the_first_token():
    tokens = ids(96, 10, vocabulary=4)
    model = SequenceClassifier(4, keras.layers.Embedding(4, 8), units=16)
    assert fit(model, tokens, tokens[:, 0]) > 0.95


def test_generator_writes_the_sequence_of_a_class():
    classes = np.tile([0, 1, 2], 16)
    words = np.array([[1, 3, 3, 4, 2], [1, 4, 5, 3, 2], [1, 5, 5, 5, 2]], np.int32)[classes]
    model = SequenceGenerator(6, keras.layers.Embedding(3, 8), width=8, units=16)
    assert fit(model, {"given": classes, "target": words[:, :-1]}, words[:, 1:]) > 0.95


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_seq2seq_learns_to_reverse(attention):
    source = ids(160, 4, vocabulary=7)
    target = np.pad(source[:, ::-1], [(0, 0), (1, 0)], constant_values=7)
    model = Seq2SeqLSTM(8, width=16, units=32, attention=attention)
    assert fit(model, {"source": source, "target": target[:, :-1]}, target[:, 1:], epochs=30) > 0.8


# Masks.


def test_tagger_ignores_padding_and_sees_both_sides():
    model, tokens = tagger(), ids(2, 5)
    expected = model(tokens)
    padded, valid = np.pad(tokens, [(0, 0), (0, 3)], constant_values=2), np.arange(8) < [[5], [5]]
    assert_close(model(padded, valid=valid)[:, :5], expected, 1e-6)
    assert_close(model(np.pad(tokens, [(0, 0), (0, 3)]))[:, :5], expected, 1e-6)  # token 0 is padding
    for position in (0, 4):
        changed = tokens.copy()
        changed[:, position] = changed[:, position] % 6 + 1
        assert np.all(np.abs(model(changed) - expected).max(axis=(0, 2)) > 1e-5)


def test_classifier_ignores_padding():
    model, tokens = token_classifier(), ids(2, 5)
    padded, valid = np.pad(tokens, [(0, 0), (0, 3)], constant_values=2), np.arange(8) < [[5], [5]]
    assert_close(model(padded, valid=valid), model(tokens), 1e-6)
    assert_close(model(np.pad(tokens, [(0, 0), (0, 3)])), model(tokens), 1e-6)  # token 0 is padding


def test_pixel_rows_are_in_order():
    pixels = np.arange(2 * 3 * 4 * 2).reshape(2, 3, 4, 2)
    rows = PixelRows()(pixels)
    assert rows.shape == (2, 3, 8)
    np.testing.assert_allclose(rows[1, 2], pixels[1, 2].ravel() / 127.5 - 1, atol=1e-6)


def test_pixel_rows_pass_layer_checks(tmp_path):
    check_layer(PixelRows, {}, lambda b, t: {"pixels": normal(b, t, 4, 2)}, tmp_path)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_seq2seq_ignores_padding_and_future_positions(kind):
    model, inputs = seq2seq(kind), pairs()
    expected = model(inputs)
    padded = {**inputs, "source": np.pad(inputs["source"], [(0, 0), (0, 3)])}
    assert_close(model(padded), expected, 1e-5)
    changed = inputs["target"].copy()
    changed[:, 3:] = changed[:, 3:] % 10 + 1
    logits = model({**inputs, "target": changed})
    assert_close(logits[:, :3], expected[:, :3], 0)
    assert np.abs(logits[:, 3:] - expected[:, 3:]).max() > 1e-3


@pytest.mark.parametrize("name", ["image generator", "class generator", *(f"seq2seq {kind}" for kind in ATTENTIONS)])
def test_steps_equal_one_call(name):
    make, make_inputs = MODELS[name]
    model, inputs = make(), make_inputs()
    expected = model(inputs)
    first = inputs["given" if "given" in inputs else "source"]
    memory, cache = model.start(first, 9)
    for t in range(inputs["target"].shape[1]):
        logits, cache = model.step(inputs["target"][:, t], tf.constant(t), memory, cache)
        assert_close(logits, expected[:, t], 1e-5)


def test_tied_char_lstm_has_no_output_matrix():
    tied, untied = CharLSTM(7, 5, 5, tied=True), CharLSTM(7, 5, 5)
    tied.build((None, None))
    untied.build((None, None))
    assert untied.count_params() - tied.count_params() == 5 * 7 + 7


# Attention over a memory.


@pytest.mark.parametrize(
    ("cls", "arguments"), [(AdditiveAttention, {"units": 5}), (MultiplicativeAttention, {})], ids=["add", "multiply"]
)
def test_attentions_pass_layer_checks(cls, arguments, tmp_path):
    def inputs(b, t):
        mask = normal(b, 1, t + 1, seed=2) > -1
        return {"query": normal(b, t, 6), "memory": normal(b, t + 1, 4, seed=1), "attention_mask": mask}

    check_layer(cls, arguments, inputs, tmp_path)


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def test_attentions_equal_their_equations():
    query, memory = normal(2, 3, 6), normal(2, 4, 5, seed=1)
    mask = np.array([[[True, True, True, False]], [[True, False, True, True]]])
    add, multiply = AdditiveAttention(7), MultiplicativeAttention()
    for layer in (add, multiply):
        layer.build(query.shape, memory.shape)
        randomize(layer)
    hidden = np.tanh(
        (query @ np.asarray(add.query.kernel))[:, :, np.newaxis]
        + (memory @ np.asarray(add.key.kernel) + np.asarray(add.key.bias))[:, np.newaxis]
    )
    scores = {add: hidden @ np.asarray(add.score)}
    scores[multiply] = query @ (memory @ np.asarray(multiply.key.kernel)).transpose(0, 2, 1)
    for layer, score in scores.items():
        context, weights = layer.attend(query, layer.project(memory), memory, mask)
        expected = softmax(np.where(mask, score, -1e9))
        assert_close(weights, expected)
        assert_close(context, expected @ memory)
        assert_close(layer(query, memory, attention_mask=mask), context, 0)


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SequenceTagger(0, keras.layers.Embedding(3, 2)), "tags is 0"),
        (lambda: SequenceClassifier(1, PixelRows()), "classes is 1"),
        (
            lambda: SequenceClassifier(3, PixelRows()).build((None, 4, None, 1)),
            "its columns and channels must be known",
        ),
        (lambda: SequenceClassifier(3, PixelRows(), num_layers=0), "num_layers is 0"),
        (lambda: SequenceGenerator(5, keras.layers.Embedding(3, 2), width=-1), "width is -1"),
        (lambda: Seq2SeqLSTM(0), "vocabulary_size is 0"),
        (lambda: Seq2SeqLSTM(5, units=7), "units is 7; it must be even"),
        (lambda: Seq2SeqLSTM(5, attention="hard"), "attention is 'hard'; it must be one of additive"),
        (lambda: CharLSTM(5, width=4, units=8, tied=True), "width is 4; it must be the same as units, which is 8"),
        (lambda: AdditiveAttention(0), "units is 0"),
        (
            lambda: MultiplicativeAttention()(normal(1, 2, 3), normal(1, 4, 3), attention_mask=np.ones((1, 4), bool)),
            r"attention_mask has the shape \(1, 4\); it must be",
        ),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
