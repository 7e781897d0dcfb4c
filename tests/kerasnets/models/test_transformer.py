"""Transformers: masks, parity of steps with one call, options, and the sizes of the paper."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize

from kerasnets.models import EncoderTransformer, Transformer
from kerasnets.tasks.presets import load_preset

OPTIONS = {
    "post": {"norm": "post"},
    "pre": {"norm": "pre"},
    "learned": {"positions": "learned", "max_length": 9},
    "rotary": {"positions": "rotary"},
    "swiglu": {"activation": "swiglu"},
    "untied": {"target_vocabulary_size": 13},
}
ENCODER = [name for name in OPTIONS if name != "untied"]
NORMS = ["post", "pre"]


def transformer(options="post"):
    model = Transformer(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, **OPTIONS[options])
    model.build({"source": (None, None), "target": (None, None)})
    randomize(model)
    return model


def encoder(options="post"):
    model = EncoderTransformer(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, **OPTIONS[options])
    model.build((None, None))
    randomize(model)
    return model


def ids(*shape, vocabulary=11, seed=0):
    return np.random.default_rng(seed).integers(1, vocabulary, shape).astype(np.int32)


def pairs(rows=3, source=5, target=6):
    return {"source": ids(rows, source), "target": ids(rows, target, seed=1)}


# Encoder and decoder.


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_does_not_see_future_positions(options):
    model, inputs = transformer(options), pairs()
    expected = model(inputs)
    changed = inputs["target"].copy()
    changed[:, 3:] = changed[:, 3:] % 10 + 1
    logits = model({**inputs, "target": changed})
    np.testing.assert_array_equal(logits[:, :3], expected[:, :3])
    assert np.all(np.abs(logits[:, 3:] - expected[:, 3:]).max(axis=-1) > 1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_does_not_see_padding(options):
    model, inputs = transformer(options), pairs()
    padded = {name: np.pad(tokens, [(0, 0), (0, 3)]) for name, tokens in inputs.items()}
    assert_close(model(padded)[:, :6], model(inputs), 1e-5)


@pytest.mark.parametrize("positions", ["post", "learned", "rotary"])
def test_transformer_depends_on_every_source_token_and_their_order(positions):
    model, inputs = transformer(positions), pairs()
    expected = model(inputs)
    swapped = {**inputs, "source": inputs["source"][:, ::-1]}
    assert np.abs(model(swapped) - expected).max() > 1e-3
    for position in range(5):
        changed = inputs["source"].copy()
        changed[:, position] = changed[:, position] % 10 + 1
        assert np.abs(model({**inputs, "source": changed}) - expected).max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_steps_equal_one_call(options):
    model, inputs = transformer(options), pairs()
    inputs["source"][1, 3:] = 0
    expected = model(inputs)
    memory, cache = model.start(inputs["source"], 9)
    for t in range(6):
        logits, cache = model.step(inputs["target"][:, t], tf.constant(t), memory, cache)
        assert_close(logits, expected[:, t], 1e-5)


def test_transformer_has_one_matrix_for_source_target_and_logits():
    model = transformer()
    assert [v.path.rsplit("/", 1)[-1] for v in model.weights].count("embeddings") == 1
    assert not [v for v in model.weights if 11 in v.shape and "embedding" not in v.path]


@pytest.mark.parametrize("norm", NORMS)
def test_pre_norm_stacks_end_with_a_normalization(norm):
    names = {v.path.split("/")[-2] for v in transformer(norm).weights}
    assert ({"encoder_norm", "decoder_norm"} <= names) == (norm == "pre")


@pytest.mark.parametrize("options", OPTIONS)
def test_explain_equals_call_with_normalized_masked_weights(options):
    model, inputs = transformer(options), pairs()
    inputs["source"][1, 3:] = 0
    logits, weights = model.explain(inputs)
    assert_close(logits, model(inputs), 1e-5)
    shapes = {"encoder": (3, 2, 2, 5, 5), "decoder": (3, 2, 2, 6, 6), "cross": (3, 2, 2, 6, 5)}
    assert {name: tuple(array.shape) for name, array in weights.items()} == shapes
    for array in weights.values():
        np.testing.assert_allclose(tf.reduce_sum(array, axis=-1), 1, atol=1e-5)
    for name in ("encoder", "cross"):
        assert np.all(weights[name][1, ..., 3:] == 0)  # padding is masked
    assert np.all(weights["decoder"].numpy()[..., ~np.tri(6, dtype=bool)] == 0)


def test_initial_loss_is_near_uniform():
    """The initial scale of the embeddings gives small logits."""
    keras.utils.set_random_seed(1)
    model = Transformer(100, width=64, num_heads=4, hidden_units=128, num_blocks=2, dropout=0.0)
    tokens = ids(8, 10, vocabulary=100)
    logits = model({"source": tokens, "target": tokens})
    loss = keras.losses.sparse_categorical_crossentropy(ids(8, 10, vocabulary=100, seed=9), logits, from_logits=True)
    assert abs(np.mean(loss) - np.log(100)) < 1


@pytest.mark.parametrize("positions", ["post", "rotary"])
def test_transformer_has_no_maximum_length(positions):
    model = transformer(positions)
    assert np.isfinite(model(pairs(1, 700, 600))).all()


def test_learned_positions_limit_the_length():
    model = transformer("learned")
    for inputs in (pairs(2, 10, 3), pairs(2, 3, 10)):
        with pytest.raises(ValueError, match="ends at position 10; the table of learned positions has 9"):
            model(inputs)
    with pytest.raises(ValueError, match="length is 10; it must be at most max_length, which is 9"):
        model.start(ids(2, 3), 10)


def test_separate_vocabularies_have_separate_embeddings():
    model = transformer("untied")
    shapes = {v.path.split("/")[-2]: tuple(v.shape) for v in model.weights if v.path.endswith("embeddings")}
    assert shapes == {"source_embedding": (11, 8), "embedding": (13, 8)}
    assert model({"source": ids(2, 4), "target": np.full((2, 3), 12)}).shape == (2, 3, 13)


# The encoder only.


@pytest.mark.parametrize("options", ENCODER)
def test_encoder_sees_every_token_except_padding(options):
    model, tokens = encoder(options), ids(2, 6)
    expected = model(tokens)
    assert_close(model(np.pad(tokens, [(0, 0), (0, 3)]))[:, :6], expected, 1e-5)
    changed = tokens.copy()
    changed[:, 4] = changed[:, 4] % 10 + 1
    assert np.all(np.abs(model(changed) - expected).max(axis=-1) > 1e-4)
    assert model.encode(tokens).shape == (2, 6, 8)


# The paper's sizes.


@pytest.mark.parametrize(("preset", "millions"), [("base", 65), ("big", 213)])
def test_presets_have_the_parameter_counts_of_the_paper(preset, millions):
    """Table 3, with the 37,000 subwords of section 5.1."""
    settings = load_preset("translation", preset)
    assert settings.vocabulary_size == 37_000
    options = settings.model
    model = Transformer(
        settings.vocabulary_size, options.width, options.num_heads, options.hidden_units, options.num_blocks
    )
    with keras.device("cpu"):
        model.build({"source": (None, None), "target": (None, None)})
    assert abs(model.count_params() / (millions * 1e6) - 1) < 0.03


# Invalid arguments.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transformer(0), "vocabulary_size is 0"),
        (lambda: Transformer(5, width=-4), "width is -4"),
        (lambda: Transformer(5, num_blocks=0), "num_blocks is 0"),
        (lambda: Transformer(5, width=6, num_heads=4).build({}), "width 6 must be a multiple of num_heads, which is 4"),
        (lambda: Transformer(5, width=5, num_heads=1).build({}), "width is 5"),
        (lambda: Transformer(5, width=4, num_heads=2, norm="none").build({}), "norm is 'none'"),
        (
            lambda: Transformer(5, positions="none"),
            "positions is 'none'; it must be one of sinusoidal, learned, rotary",
        ),
        (lambda: Transformer(5, positions="learned"), "max_length is None"),
        (lambda: Transformer(5, positions="learned", max_length=0), "max_length is 0"),
        (lambda: Transformer(5, target_vocabulary_size=0), "target_vocabulary_size is 0"),
        (lambda: Transformer(5, 4, 2, activation="none").build({}), "activation is 'none'"),
        (lambda: EncoderTransformer(5, 6, 2, positions="rotary").build({}), "width of a head is 3"),
        (lambda: EncoderTransformer(-5), "vocabulary_size is -5"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
