"""The decoder-only Transformer: one definition for a whole text, for parts of it and for steps, past its window."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize

from kerasnets.config.text_networks import DecoderTransformerOptions
from kerasnets.models import DecoderTransformer
from kerasnets.models.transformer import apply_norm

OPTIONS = {
    "sinusoidal": {"norm": "post", "positions": "sinusoidal"},
    "learned": {"norm": "pre", "positions": "learned"},
    "rotary": {"norm": "pre", "positions": "rotary", "activation": "swiglu"},
}
CONTEXT = 4


def decoder(options="rotary", context=CONTEXT, **kwargs):
    model = DecoderTransformer(
        11, width=8, num_heads=2, hidden_units=12, num_blocks=2, context=context, **OPTIONS[options], **kwargs
    )
    model.build((None, None))
    randomize(model)
    return model


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, 11, shape).astype(np.int32)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_text_within_the_context_equals_causal_blocks(options):
    model, tokens = decoder(options, context=9), ids(2, 9)
    x = model.embed(tokens)
    for block in model.decoder:
        x = block(x)
    assert_close(model(tokens), model.logits(apply_norm(x, model.decoder_norm)), 1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_prediction_depends_on_the_window_of_every_block_alone(options):
    """With two blocks of a context of 4, on the last 2 · 3 + 1 tokens."""
    model, tokens = decoder(options), ids(2, 12)
    expected = model(tokens).numpy()
    for position in range(12):
        changed = tokens.copy()
        changed[:, position] = changed[:, position] % 10 + 1
        difference = np.abs(model(changed) - expected).max(axis=(0, 2))
        window = range(position, min(position + 7, 12))
        assert np.all(difference[window] > 1e-5)
        assert np.all(np.delete(difference, window) == 0)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_equal_one_call_past_the_window(options):
    model, tokens = decoder(options), ids(3, 19)
    expected, states = model(tokens), model.initial_states(3)
    sizes = [state.shape for state in states]
    for t in range(19):
        logits, states = model.step(tokens[:, t], t, (), states)
        assert_close(logits, expected[:, t], 1e-5)
        assert [state.shape for state in states] == sizes
        assert np.all(model.valid_states(states))


@pytest.mark.parametrize("options", OPTIONS)
def test_parts_equal_one_call(options):
    model, tokens, states, parts = decoder(options), ids(2, 15), None, []
    for start, stop in [(0, 2), (2, 3), (3, 12), (12, 15)]:
        logits, states = model.run(tokens[:, start:stop], states)
        parts.append(logits)
    assert_close(tf.concat(parts, axis=1), model(tokens), 1e-5)


@pytest.mark.parametrize("options", OPTIONS)
def test_prompts_of_different_lengths_continue_after_their_last_tokens(options):
    model, tokens, lengths = decoder(options), ids(3, 14), np.array([9, 2, 0])
    expected = model(tokens).numpy()
    prompt = np.where(np.arange(9) < lengths[:, None], tokens[:, :9], 0)
    memory, cache = model.start(prompt, 5)
    for index in range(5):
        logits, cache = model.step(tokens[range(3), lengths + index], index, memory, cache)
        assert_close(logits, expected[range(3), lengths + index], 1e-5)


def test_states_after_padding_are_those_of_the_text_alone():
    model, tokens = decoder(), ids(1, 6)
    padded = np.pad(tokens, [(0, 0), (0, 3)])
    _, states = model.run(padded, valid=padded != 0)
    _, expected = model.run(tokens)
    for state, expected_state in zip(states, expected, strict=True):
        assert_close(state, expected_state, 1e-5)


def test_the_number_of_positions_stays_small():
    model = decoder()
    _, states = model.run(ids(1, 1))
    counts = [int(states[0][0, 0])]
    for _ in range(12):
        _, states = model.run(ids(1, 1), states)
        counts.append(int(states[0][0, 0]))
    assert counts == [1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5]
    for wrong in (-1.0, 0.5, 2 * CONTEXT):
        assert not model.valid_states([tf.constant([[wrong]]), *states[1:]])[0]


@pytest.mark.parametrize("options", OPTIONS)
def test_explain_returns_weights_by_distance(options):
    model, tokens = decoder(options), ids(2, 9)
    logits, explanation = model.explain(tokens)
    attention = explanation["attention"].numpy()
    assert attention.shape == (2, 9, 2, 2, CONTEXT)
    assert_close(logits[:, 1:], model(tokens)[:, :-1], 1e-5)
    assert np.all(np.asarray(logits[:, 0]) == 0)  # no context: all tokens are equally probable
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    exists = np.arange(9)[:, None] >= np.arange(CONTEXT)
    assert np.all((attention > 0) == exists[:, None, None])
    _, weights, _ = model.decoder[0].explain(model.embed_in_window(tokens)[0], self_bias=model.bias(9))
    assert_close(attention[:, 7, 0, :, 2], weights[:, :, 7, 5], 1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_states_keep_their_type_in_half_precision(policy):
    model, tokens = decoder(dtype=policy), ids(2, 3)
    _, states = model.run(tokens)
    assert {keras.backend.standardize_dtype(x.dtype) for x in states[1:]} == {model.compute_dtype}
    states = [tf.cast(state, tf.float32) for state in states]
    logits, after = model.step(tokens[:, 0], 0, (), states)
    assert logits.dtype == tf.float32 and {x.dtype for x in after} == {tf.float32}
    assert np.isfinite(logits).all()


def test_options_build_the_model_and_know_the_size_of_its_states():
    options = DecoderTransformerOptions(width=8, num_heads=2, hidden_units=12, num_blocks=3, context=5)
    model = options.build(vocabulary_size=7)
    assert {name: getattr(model, name) for name in vars(options)} == vars(options)
    assert options.state_size == sum(state.shape[1] for state in model.initial_states(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecoderTransformer(5, context=1), "context is 1; it must be 2 or more"),
        (lambda: DecoderTransformer(5, positions="none"), "positions is 'none'"),
        (lambda: DecoderTransformer(5, 6, 2, positions="rotary").build({}), "width of a head is 3"),
        (lambda: DecoderTransformerOptions(context=0), "model.context is 0; it must be 2 or more"),
        (lambda: DecoderTransformerOptions(width=10), "model.width is 10; it must be a multiple of model.num_heads"),
        (lambda: DecoderTransformerOptions(width=12), "it must be an even multiple of model.num_heads"),
    ],
)
def test_invalid_arguments_raise_value_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
