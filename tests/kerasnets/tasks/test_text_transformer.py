"""Text generation with the decoder-only Transformer: the signatures and scores that differ from those of the LSTM."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from layer_checks import assert_close, randomize
from rejected_requests import assert_rejected

from kerasnets.config.text_networks import CharLSTMOptions, DecoderTransformerOptions
from kerasnets.data.sources import TextSplits
from kerasnets.tasks.text_generation import signatures as signatures_module
from kerasnets.tasks.text_generation.facts import TextGeneration
from kerasnets.tasks.text_generation.state import state_size
from kerasnets.tasks.text_generation.step import UNKNOWN_LOGIT, plain_step
from kerasnets.tasks.text_generation.task import TextGenerationTask
from kerasnets.text.characters import CharacterVocabulary

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 20
CONTEXT = 6


@pytest.fixture(scope="module")
def task():
    model = DecoderTransformerOptions(width=8, num_heads=2, hidden_units=12, num_blocks=2, context=CONTEXT)
    config = TextGeneration(sequence_length=10, max_length=50, model=model)
    task = TextGenerationTask(config)
    task.data = TextSplits(TEXT, TEXT[:300], TEXT[:600], "a text")
    task.vocabulary = CharacterVocabulary.build(TEXT)
    task.temperature = 1.3
    return task


@pytest.fixture(scope="module")
def model(task):
    model = task.model()
    randomize(model, scale=0.6)
    return model


@pytest.fixture(scope="module")
def call(task, model):
    """-> call(signature, texts, **options); options that are missing have their defaults."""
    signatures, defaults = task.signatures(model), task.defaults(model)

    def run(name, texts, **options):
        inputs = {"text" if name == "explain" else "prompt": tf.constant(texts)}
        for key, default in defaults.get(name, {}).items():
            value = np.asarray(options.get(key, default), default.dtype)
            inputs[key] = tf.constant(value if value.ndim else value[np.newaxis])
        return {key: value.numpy() for key, value in signatures[name](**inputs).items()}

    return run


def text(outputs, row=0):
    return outputs["text"][row].decode()


def test_the_step_never_generates_the_unknown_character(model):
    token, states = tf.constant([3, 1]), model.initial_states(2)
    logits, _ = plain_step(model)(token, 0, (), states)
    assert_close(logits[:, 1:], model.step(token, 0, (), states)[0][:, 1:], 0)
    assert np.all(logits[:, 0] <= UNKNOWN_LOGIT / 2)


def test_successive_calls_give_the_text_of_one_call_past_the_window(call):
    whole, sizes = call("generate", ["the quick", "a"], length=30, seed=[5, 6]), []
    for lengths in ([10] * 3, [1, 3, 20, 6]):
        state, parts = np.zeros_like(call("stream", ["a"], length=1)["state"]), []
        for length in lengths:
            outputs = call("stream", ["the quick", "a"], length=length, seed=[5, 6], state=state)
            state = outputs["state"]
            sizes.append(state.shape)
            parts.append(outputs["text"])
        assert [b"".join(row) for row in zip(*parts, strict=True)] == whole["text"].tolist()
    assert len(set(sizes)) == 1


def test_log_probability_equals_that_of_the_model(call, task, model):
    prompt = "jumps over"
    outputs = call("generate", [prompt, "x"], length=[25, 4], temperature=1.3, seed=4)
    ids = task.vocabulary.encode_python(prompt + text(outputs))
    logits = model(ids[np.newaxis, :-1]).numpy()[0, len(prompt) - 1 :]
    logits[:, 0] = UNKNOWN_LOGIT
    expected = tf.nn.log_softmax(logits).numpy()[np.arange(25), ids[len(prompt) :]]
    assert outputs["log_probability"][0] == pytest.approx(expected.sum(), abs=1e-3)


def test_long_prompts_are_read_in_parts(task, model, monkeypatch):
    prompts = tf.constant([TEXT[:200], "dog", TEXT[7:30]])
    expected = task.signatures(model)["next_char"](prompt=prompts)
    ids = task.vocabulary.encode_python(TEXT[:200])
    logits = model(ids[np.newaxis])[0, -1, 1:] / task.temperature
    assert_close(expected["probabilities"][0], np.sort(tf.nn.softmax(logits))[::-1], 1e-5)
    monkeypatch.setattr(signatures_module, "READ_CHUNK", 12)  # 4 characters of each of 3 rows
    other = TextGenerationTask(task.config)
    other.vocabulary, other.temperature = task.vocabulary, task.temperature
    assert_close(other.signatures(model)["next_char"](prompt=prompts)["probabilities"], expected["probabilities"], 1e-5)


def test_explain_returns_probabilities_and_attention(call, task, model):
    texts = ["lazy dog, and", "x\u4e2d", "o"]
    outputs = call("explain", texts)
    assert set(outputs) == {"characters", "probability", "attention"}
    assert outputs["attention"].shape == (3, 13, 2, 2, CONTEXT)
    for row, content in enumerate(texts):
        size, ids = len(content), task.vocabulary.encode_python(content)
        logits = np.concatenate([np.zeros((1, model.vocabulary_size)), model(ids[np.newaxis])[0, :-1]])
        expected = tf.nn.softmax(logits / task.temperature).numpy()[np.arange(size), ids]
        assert_close(outputs["probability"][row, :size], expected, 1e-5)
        np.testing.assert_allclose(outputs["attention"][row, :size].sum(axis=-1), 1, atol=1e-5)
        for name, x in outputs.items():
            assert np.all(x[row, size:] == (b"" if name == "characters" else 0))


@pytest.mark.parametrize("value", [-1.0, 0.5, 2.0 * CONTEXT, np.nan])
def test_an_invalid_state_is_rejected(call, task, value):
    state = call("stream", ["the ", "a "], length=5)["state"]
    assert state.shape[1] == state_size(task.vocabulary.size, task.config.model)
    state[1, 4 + task.vocabulary.size] = value  # the position
    assert_rejected(call, "state 1 is not a state of this model", "stream", ["", ""], state=state)


# Training and scores.


def test_training_carries_no_states(task, model):
    assert task.initial_carry() == ()
    inputs = task.vocabulary.encode_python(TEXT[:40]).reshape(2, 20)
    batch = {"inputs": tf.constant(inputs[:, :-1]), "targets": tf.constant(inputs[:, 1:]), "reset": tf.zeros(2, bool)}
    loss, weight, carry = task.loss(model, batch, (), training=False)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["targets"], model(batch["inputs"]))
    assert carry == () and float(weight) == 38
    assert float(loss) == pytest.approx(float(tf.reduce_sum(expected)), rel=1e-5)


def test_the_loss_of_a_split_is_that_of_one_call(task, model):
    """Windows of 256 characters with carried states give the same as the whole text at once."""
    ids = task.vocabulary.encode_python(task.data.test)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(ids[np.newaxis, 1:], model(ids[np.newaxis, :-1]))
    metrics = task.evaluate(task.signatures(model), "test", model)
    assert metrics["loss"] == pytest.approx(float(tf.reduce_mean(losses)), abs=1e-5)
    assert metrics["window_loss"] > 0
    logits, labels = zip(*task.validation_logits(model), strict=True)
    assert sum(map(len, labels)) == sum(map(len, logits)) == 16 * (299 // 16)


def test_the_card_says_what_explain_returns(task):
    transformer = task.facts.intended_use.format_map(task.card_values)
    lstm = TextGenerationTask(dataclasses.replace(task.config, model=CharLSTMOptions()))
    lstm.vocabulary = task.vocabulary
    assert "`attention`" in transformer and "gates" in task.facts.intended_use.format_map(lstm.card_values)
