"""Transformers: what they see, step by step as all at once, their options, and the paper's sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize

from kerasnets import decoding
from kerasnets.models import DecoderTransformer, EncoderTransformer, Transformer
from kerasnets.tasks.presets import load_preset

OPTIONS = {
    "post": {"norm": "post"},
    "pre": {"norm": "pre"},
    "learned": {"positions": "learned", "max_length": 9},
    "rotary": {"positions": "rotary"},
    "swiglu": {"activation": "swiglu"},
    "untied": {"target_vocabulary_size": 13},
}
HALVES = [name for name in OPTIONS if name != "untied"]
NORMS = ["post", "pre"]


def transformer(options="post"):
    model = Transformer(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, **OPTIONS[options])
    model.build({"source": (None, None), "target": (None, None)})
    randomize(model)
    return model


def half(cls, options="post"):
    model = cls(11, width=8, num_heads=2, hidden_units=12, num_blocks=2, **OPTIONS[options])
    model.build((None, None))
    randomize(model)
    return model


def ids(*shape, vocabulary=11, seed=0):
    return np.random.default_rng(seed).integers(1, vocabulary, shape).astype(np.int32)


def pairs(rows=3, source=5, target=6):
    return {"source": ids(rows, source), "target": ids(rows, target, seed=1)}


# Encoder and decoder.


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_does_not_see_the_future(options):
    model, given = transformer(options), pairs()
    expected = model(given)
    changed = given["target"].copy()
    changed[:, 3:] = changed[:, 3:] % 10 + 1
    logits = model({**given, "target": changed})
    np.testing.assert_array_equal(logits[:, :3], expected[:, :3])
    assert np.all(np.abs(logits[:, 3:] - expected[:, 3:]).max(axis=-1) > 1e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_does_not_see_padding(options):
    model, given = transformer(options), pairs()
    padded = {name: np.pad(tokens, [(0, 0), (0, 3)]) for name, tokens in given.items()}
    assert_close(model(padded)[:, :6], model(given), 1e-5)


@pytest.mark.parametrize("positions", ["post", "learned", "rotary"])
def test_transformer_sees_all_of_the_source_in_its_order(positions):
    model, given = transformer(positions), pairs()
    expected = model(given)
    swapped = {**given, "source": given["source"][:, ::-1]}
    assert np.abs(model(swapped) - expected).max() > 1e-3
    for place in range(5):
        changed = given["source"].copy()
        changed[:, place] = changed[:, place] % 10 + 1
        assert np.abs(model({**given, "source": changed}) - expected).max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_step_by_step_equals_all_at_once(options):
    model, given = transformer(options), pairs()
    given["source"][1, 3:] = 0
    expected = model(given)
    memory, cache = model.start(given["source"], 9)
    for t in range(6):
        logits, cache = model.step(given["target"][:, t], tf.constant(t), memory, cache)
        assert_close(logits, expected[:, t], 1e-5)


def test_transformer_has_one_matrix_for_source_target_and_logits():
    model = transformer()
    assert [v.path.rsplit("/", 1)[-1] for v in model.weights].count("embeddings") == 1
    assert not [v for v in model.weights if 11 in v.shape and "embedding" not in v.path]


@pytest.mark.parametrize("norm", NORMS)
def test_transformer_normalizes_what_pre_norm_leaves(norm):
    names = {v.path.split("/")[-2] for v in transformer(norm).weights}
    assert ({"encoder_norm", "decoder_norm"} <= names) == (norm == "pre")


@pytest.mark.parametrize("options", OPTIONS)
def test_transformer_explains_what_it_computes(options):
    model, given = transformer(options), pairs()
    given["source"][1, 3:] = 0
    logits, weights = model.explain(given)
    assert_close(logits, model(given), 1e-5)
    shapes = {"encoder": (3, 2, 2, 5, 5), "decoder": (3, 2, 2, 6, 6), "cross": (3, 2, 2, 6, 5)}
    assert {name: tuple(each.shape) for name, each in weights.items()} == shapes
    for each in weights.values():
        np.testing.assert_allclose(tf.reduce_sum(each, axis=-1), 1, atol=1e-5)
    for name in ("encoder", "cross"):
        assert np.all(weights[name][1, ..., 3:] == 0)  # nobody sees padding
    assert np.all(weights["decoder"].numpy()[..., ~np.tri(6, dtype=bool)] == 0)


def test_transformer_starts_unsure():
    """Embeddings start at a scale at which the first logits are small."""
    keras.utils.set_random_seed(1)
    model = Transformer(100, width=64, num_heads=4, hidden_units=128, num_blocks=2, dropout=0.0)
    tokens = ids(8, 10, vocabulary=100)
    logits = model({"source": tokens, "target": tokens})
    loss = keras.losses.sparse_categorical_crossentropy(ids(8, 10, vocabulary=100, seed=9), logits, from_logits=True)
    assert abs(np.mean(loss) - np.log(100)) < 1


@pytest.mark.parametrize("positions", ["post", "rotary"])
def test_transformer_has_no_longest_sequence(positions):
    model = transformer(positions)
    assert np.isfinite(model(pairs(1, 700, 600))).all()


def test_transformer_ends_where_the_learned_positions_end():
    model = transformer("learned")
    for given in (pairs(2, 10, 3), pairs(2, 3, 10)):
        with pytest.raises(ValueError, match="ends at position 10; the table of learned positions has 9"):
            model(given)
    with pytest.raises(ValueError, match="length is 10; it must be at most max_length, which is 9"):
        model.start(ids(2, 3), 10)


def test_languages_without_a_common_vocabulary_have_a_matrix_each():
    model = transformer("untied")
    shapes = {v.path.split("/")[-2]: tuple(v.shape) for v in model.weights if v.path.endswith("embeddings")}
    assert shapes == {"source_embedding": (11, 8), "embedding": (13, 8)}
    assert model({"source": ids(2, 4), "target": np.full((2, 3), 12)}).shape == (2, 3, 13)


# The decoder alone.


@pytest.mark.parametrize("options", HALVES)
def test_decoder_does_not_see_the_future(options):
    model, tokens = half(DecoderTransformer, options), ids(2, 6)
    changed = tokens.copy()
    changed[:, 3:] = changed[:, 3:] % 10 + 1
    np.testing.assert_array_equal(model(changed)[:, :3], model(tokens)[:, :3])
    assert np.all(np.abs(model(changed)[:, 3:] - model(tokens)[:, 3:]).max(axis=-1) > 1e-3)


@pytest.mark.parametrize("options", HALVES)
def test_decoder_step_by_step_equals_all_at_once(options):
    """Prompts of four tokens, of two and of none; each goes on after its own last token."""
    model, tokens, lengths = half(DecoderTransformer, options), ids(3, 9), np.array([4, 2, 0])
    expected = model(tokens)
    prompt = np.where(np.arange(4) < lengths[:, None], tokens[:, :4], 0)
    memory, cache = model.start(prompt, 5)
    for index in range(5):
        logits, cache = model.step(tokens[range(3), lengths + index], tf.constant(index), memory, cache)
        assert_close(logits, expected.numpy()[range(3), lengths + index], 1e-5)


def test_decoder_writes_what_one_would_write_by_hand():
    model, prompt = half(DecoderTransformer, "rotary"), ids(2, 3)
    text = prompt
    for _ in range(4):
        text = np.concatenate([text, np.argmax(model(text)[:, -1:], axis=-1)], axis=1)

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def write(prompt):
        limits = tf.fill([tf.shape(prompt)[0]], 4)
        return decoding.greedy(model, *model.start(prompt[:, :-1], 0), prompt[:, -1], -1, limits)[0]

    np.testing.assert_array_equal(write(prompt), text[:, 3:])


# The encoder alone.


@pytest.mark.parametrize("options", HALVES)
def test_encoder_sees_all_but_padding(options):
    model, tokens = half(EncoderTransformer, options), ids(2, 6)
    expected = model(tokens)
    assert_close(model(np.pad(tokens, [(0, 0), (0, 3)]))[:, :6], expected, 1e-5)
    changed = tokens.copy()
    changed[:, 4] = changed[:, 4] % 10 + 1
    assert np.all(np.abs(model(changed) - expected).max(axis=-1) > 1e-4)
    assert model.encode(tokens).shape == (2, 6, 8)


# The paper's sizes.


@pytest.mark.parametrize(("preset", "millions"), [("base", 65), ("big", 213)])
def test_presets_have_the_papers_size(preset, millions):
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


# Wrong arguments.


@pytest.mark.parametrize(
    ("make", "words"),
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
        (lambda: DecoderTransformer(5, 6, 2, positions="rotary").build({}), "width of a head is 3"),
        (lambda: EncoderTransformer(-5), "vocabulary_size is -5"),
    ],
)
def test_wrong_arguments_are_named_with_their_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()
