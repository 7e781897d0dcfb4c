"""The signatures of text generation, in process: outputs, limits, and error messages for invalid requests."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_checks import assert_close
from rejected_requests import assert_rejected

from kerasnets.checks import RequestError
from kerasnets.data.sources import TextSplits
from kerasnets.evaluate import evaluate
from kerasnets.models import CharLSTM
from kerasnets.tasks.text_generation.facts import TextGeneration
from kerasnets.tasks.text_generation.signatures import DEFAULTS
from kerasnets.tasks.text_generation.step import UNKNOWN_LOGIT, fused_lstm_step
from kerasnets.tasks.text_generation.task import TextGenerationTask
from kerasnets.text.characters import CharacterVocabulary


@pytest.fixture(scope="module")
def loaded(load_run):
    return load_run("text_generation")


@pytest.fixture(scope="module")
def call(loaded):
    """-> call(signature, prompt, **options): each option is a number for all rows or a list with one number per row."""
    defaults = loaded.task.defaults(loaded.model)

    def run(name, prompt, **options):
        inputs = {"prompt": tf.constant(prompt, tf.string)}
        for key, default in defaults[name].items():
            value = np.asarray(options.get(key, default), default.dtype)
            inputs[key] = tf.constant(value if value.ndim else value[np.newaxis])
        assert set(options) <= set(inputs)
        return {key: value.numpy() for key, value in loaded.signatures[name](**inputs).items()}

    return run


@pytest.fixture(scope="module")
def generate(call):
    return lambda prompt, **options: call("generate", prompt, **{"length": 20} | options)


def text(outputs, row=0):
    return outputs["text"][row].decode()


# The fused step.


@pytest.mark.parametrize(("options", "policy"), [({}, None), ({"tied": True}, None), ({}, "mixed_float16")])
def test_the_fused_step_equals_the_step_of_the_model(options, policy):
    model = CharLSTM(11, width=6, units=6, num_layers=3, dropout=0.5, dtype=policy, **options)
    model.build((None, None))
    for variable in model.variables:
        variable.assign(tf.random.stateless_normal(variable.shape, (1, len(variable.shape)), stddev=0.7))
    fused, token = fused_lstm_step(model), tf.constant([3, 0, 10])
    states = [tuple(tf.random.stateless_normal((3, 6), (n, 5)) for _ in range(2)) for n in range(3)]
    expected, expected_cache = model.step(
        token, 0, ((), ()), [tuple(tf.cast(x, model.compute_dtype) for x in s) for s in states]
    )
    logits, cache = fused(token, 0, (), states)
    tolerance = 1e-5 if policy is None else 2e-2
    assert_close(logits[:, 1:], expected[:, 1:], tolerance)
    assert np.all(logits[:, 0] <= UNKNOWN_LOGIT / 2)
    for state, expected_state in zip(tf.nest.flatten(cache), tf.nest.flatten(expected_cache), strict=True):
        assert state.dtype == tf.float32
        assert_close(state, tf.cast(expected_state, tf.float32), tolerance)


# generate, serving_default.


def test_rows_have_their_own_lengths(generate):
    texts = generate(["The ", "A class", "x"], length=[5, 30, 1])["text"]
    assert [len(text.decode()) for text in texts] == [5, 30, 1]


def test_the_text_of_a_seed_does_not_depend_on_the_batch(generate):
    alone = generate(["The value"], length=40, seed=7)
    batch = generate(["Something much longer than that", "The value", "z"], length=[10, 40, 90], seed=[1, 7, 3])
    assert text(batch, 1) == text(alone)
    assert batch["log_probability"][1] == pytest.approx(alone["log_probability"][0], abs=1e-3)
    others = generate(["The value"] * 4, length=40, seed=[7, 8, 9, 10])["text"]
    assert len(set(others)) == 4 and others[0] == alone["text"][0]


def test_rows_of_a_large_batch_equal_single_rows(generate):
    """Sums over one row and over many are computed in different orders, which changes about one token in 10^5."""
    seeds = np.arange(64)
    options = {"length": 150, "temperature": np.linspace(0.2, 2, 64), "top_p": np.where(seeds % 3, 1, 0.9)}
    batch = generate(["The value"] * 64, seed=seeds, **options)
    for row in range(0, 64, 7):
        row_options = {name: np.broadcast_to(x, 64)[row] for name, x in options.items()}
        assert text(generate(["The value"], seed=row, **row_options)) == text(batch, row)


def test_temperature_0_and_top_k_1_are_greedy(generate):
    greedy = text(generate(["The "], temperature=0.0, seed=1))
    assert greedy == text(generate(["The "], temperature=0.0, seed=2))
    assert greedy == text(generate(["The "], temperature=1.0, top_k=1, seed=3))
    assert greedy == text(generate(["The "], temperature=1.0, top_p=1e-6, seed=3))
    assert greedy == text(generate(["The "], temperature=1e-38))


def test_a_text_equals_the_concatenation_of_its_halves(generate):
    whole = generate(["The "], length=24, temperature=0.0)
    first = generate(["The "], length=12, temperature=0.0)
    second = generate(["The " + text(first)], length=12, temperature=0.0)
    assert text(first) + text(second) == text(whole)
    parts = first["log_probability"] + second["log_probability"]
    assert parts[0] == pytest.approx(whole["log_probability"][0], abs=1e-3)


@pytest.mark.parametrize("prompt", ["The ", "\n"])
def test_log_probability_equals_that_of_the_model(generate, loaded, prompt):
    outputs = generate([prompt], length=15, temperature=1.3, top_k=5, seed=4)
    ids = loaded.task.vocabulary.encode_python(prompt + text(outputs))
    logits = loaded.model(ids[np.newaxis, :-1]).numpy()[0, len(prompt) - 1 :]
    logits[:, 0] = -1e9
    token_log_probabilities = tf.nn.log_softmax(logits).numpy()[np.arange(15), ids[len(prompt) :]]
    assert outputs["log_probability"][0] == pytest.approx(token_log_probabilities.sum(), abs=1e-3)


def test_characters_outside_the_vocabulary_are_ignored(generate):
    assert text(generate(["The \u4e2d\u6587value"])) == text(generate(["The value"]))


def test_only_the_last_thousand_characters_of_a_prompt_are_read(generate):
    assert text(generate(["y" * 5000 + "x" * 1000])) == text(generate(["x" * 1000]))


def test_serving_default_equals_generate_with_the_documented_defaults(generate, loaded):
    texts = loaded.signatures["serving_default"](prompt=tf.constant(["The ", "A "]))["text"].numpy()
    documented = {"length": 200, "temperature": 0.8, "top_k": 0, "top_p": 1.0, "seed": 0}
    assert texts.tolist() == generate(["The ", "A "], **documented)["text"].tolist()
    assert texts[0] == generate(["The "], **{name: DEFAULTS[name] for name in documented})["text"][0]


# sample: the repetition penalty.


def test_sample_without_a_penalty_equals_generate(generate, call):
    options = {"length": 40, "temperature": [0.8, 1.2], "top_k": [0, 9], "seed": [1, 2]}
    generated, sampled = generate(["The ", "A "], **options), call("sample", ["The ", "A "], **options)
    assert generated["text"].tolist() == sampled["text"].tolist()
    assert_close(generated["log_probability"], sampled["log_probability"], 1e-5)


def test_a_higher_penalty_repeats_fewer_characters(call):
    def distinct(penalty):
        return len(set("The " + text(call("sample", ["The "], length=60, temperature=0.0, repetition_penalty=penalty))))

    assert distinct(1.0) < distinct(1.3) < distinct(50.0)


# stream.


def stream(call, prompt, lengths, signature="stream", **options):
    """-> the concatenated texts of successive calls, of which only the first gets the prompt."""
    state, parts = np.zeros(call("stream", ["The "], length=1)["state"].shape, np.float32), []
    for length in lengths:
        outputs = call(signature, [prompt if not parts else ""], length=length, state=state, **options)
        state = outputs["state"]
        parts.append(text(outputs))
    return "".join(parts)


@pytest.mark.parametrize("options", [{}, {"top_k": 8, "top_p": 0.9}, {"temperature": 0.0}])
def test_successive_calls_give_the_text_of_one_call(call, generate, options):
    whole = text(generate(["The value"], length=60, seed=5, **options))
    for lengths in ([12] * 5, [1, 7, 20, 2, 30]):
        assert stream(call, "The value", lengths, seed=5, **options) == whole


def test_the_penalty_includes_characters_of_earlier_calls(call):
    options = {"repetition_penalty": 1.8, "seed": 2, "temperature": 0.5}
    whole = text(call("sample", ["The value"], length=60, **options))
    assert stream(call, "The value", [20, 20, 20], "sample", **options) == whole
    assert whole != text(call("sample", ["The value"], length=60, seed=2, temperature=0.5))


def test_new_and_continued_streams_share_a_batch(call, generate):
    first = call("stream", ["The ", "A class"], length=[10, 4], seed=[1, 2])
    zeros = np.zeros_like(first["state"][:1])
    both = call(
        "stream",
        ["ignored, \u4e2d", "x = ", b"\xff"],
        length=[10, 20, 16],
        seed=[1, 3, 2],
        state=np.concatenate([first["state"][:1], zeros, first["state"][1:]]),
    )
    assert text(first, 0) + text(both, 0) == text(generate(["The "], length=20, seed=1))
    assert text(both, 1) == text(generate(["x = "], length=20, seed=3))
    assert text(first, 1) + text(both, 2) == text(generate(["A class"], length=20, seed=2))


def test_positions_of_a_stream_are_exact_beyond_2_to_the_24(call, loaded):
    """Above 2^24, float32 cannot represent every integer."""
    layout = loaded.task._signatures(loaded.model).layout
    start = layout.unpack(tf.constant(call("stream", ["The "], length=5)["state"]))
    for position in (0, 2**20 - 1, 2**24 + 1, 2**33 + 12345):
        state = layout.pack(start.token, tf.constant([position], tf.int64), start.seen, start.cache)
        after = call("stream", [""], length=3, state=state)["state"]
        assert int(layout.unpack(tf.constant(after)).position[0]) == position + 3


def test_the_signature_contains_the_size_of_a_state(loaded, call):
    spec = loaded.signatures["stream"].structured_input_signature[1]["state"]
    assert spec.shape.as_list() == [None, call("stream", ["x"], length=1)["state"].shape[1]]
    assert loaded.task.requests([{"prompt": "x"}])["stream"]["state"].shape[1] == spec.shape[1]


def with_value(state, index, value):
    changed = state.copy()
    changed[-1, index] = value
    return changed


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 0.0), (0, 7e4), (1, 0.0), (1, 1.5), (1, 1e6), (2, -1.0), (3, np.inf), (4, 0.5), (-1, np.nan), (-70, 2.0)],
)
def test_errors_name_the_row_of_an_invalid_state(call, index, value):
    state = call("stream", ["The ", "A "], length=5)["state"]
    assert call("stream", ["", ""], length=5, state=state)["text"].shape == (2,)
    # Index -70 is an output h of the only LSTM; the last 64 numbers are its cell c.
    assert_rejected(
        call, "state 1 is not a state of this model", "stream", ["a", "b"], state=with_value(state, index, value)
    )


def test_a_state_of_another_model_is_rejected(loaded, call):
    model = CharLSTM(loaded.task.vocabulary.size, **vars(loaded.task.config.model))
    model.build((None, None))
    other = loaded.task.signatures(model)["stream"]
    state = call("stream", ["The "], length=5)["state"]
    inputs = {name: tf.constant(x) for name, x in loaded.task.defaults(model)["stream"].items()}
    assert_rejected(
        other, "state 0 is not a state of this model", prompt=tf.constant([""]), **inputs | {"state": state}
    )


# next_char, explain.


def test_next_char_returns_the_calibrated_distribution(loaded):
    task = TextGenerationTask(loaded.task.config, loaded.directory)
    task.temperature = 1.7
    prompts = ["The ", "A\u4e2d class", "\n"]
    outputs = task.signatures(loaded.model)["next_char"](prompt=tf.constant(prompts))
    assert outputs["probabilities"].shape == (3, task.vocabulary.size - 1)
    for row, prompt in enumerate(prompts):
        ids = task.vocabulary.encode_python(prompt.replace("\u4e2d", ""))
        expected = tf.nn.softmax(loaded.model(ids[np.newaxis])[0, -1, 1:] / 1.7).numpy()
        order = np.argsort(-expected, kind="stable")
        assert_close(outputs["probabilities"][row], expected[order], 1e-5)
        characters = b"".join(outputs["characters"][row].numpy()).decode()
        assert sorted(characters) == sorted(task.vocabulary.characters[1:])
        assert characters[0] == task.vocabulary.characters[1 + order[0]]


def test_explain_returns_probabilities_gates_and_cells(loaded):
    texts = ["The value", "x\u4e2d", "\n"]
    outputs = {name: x.numpy() for name, x in loaded.signatures["explain"](text=tf.constant(texts)).items()}
    temperature, model = loaded.task.temperature, loaded.model
    for row, content in enumerate(texts):
        size = len(content)
        assert [c.decode() for c in outputs["characters"][row, :size]] == list(content.replace("\u4e2d", "\ufffd"))
        ids = loaded.task.vocabulary.encode_python(content)
        logits = np.concatenate([model.logits(tf.zeros((1, model.units))), model(ids[np.newaxis])[0, :-1]])
        expected = tf.nn.softmax(logits / temperature).numpy()[np.arange(size), ids]
        assert_close(outputs["probability"][row, :size], expected, 1e-5)
        _, states = model.run(ids[np.newaxis], model.initial_states(1))
        h = outputs["output_gate"][row, size - 1] * np.tanh(outputs["cell"][row, size - 1])
        assert_close(h, np.stack([h[0] for h, _ in states]), 1e-5)
        assert_close(outputs["cell"][row, size - 1], np.stack([c[0] for _, c in states]), 1e-5)
        for name, x in outputs.items():
            assert np.all(x[row, size:] == (b"" if name == "characters" else 0))
    for name in ("input_gate", "forget_gate", "output_gate"):
        assert outputs[name].shape == (3, 9, model.num_layers, model.units)
        assert np.all((outputs[name][0] > 0) & (outputs[name][0] < 1))


def test_explain_bounds_the_size_of_its_outputs(loaded):
    explain = loaded.signatures["explain"]
    assert_rejected(
        explain, "text 1 is 1001 characters long, more than the limit of 1,000", text=tf.constant(["a", "x" * 1001])
    )
    assert_rejected(explain, "together more than 20,000", text=tf.constant(["x" * 1000] + ["a"] * 20))
    assert explain(text=tf.constant(["x" * 1000]))["cell"].shape[1] == 1000


# Invalid requests.


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"length": [5, 0]}, "length 1 is 0 but must be in 1 to 300"),
        ({"length": [301, 5]}, "length 0 is 301 but"),
        ({"length": -1}, "length 0 is -1"),
        ({"temperature": [0.5, -0.1]}, "temperature 1 is -0.1.* but must be a number from 0"),
        ({"temperature": np.nan}, "temperature 0 is -?nan"),
        ({"temperature": np.inf}, "temperature 0 is inf"),
        ({"top_k": -2}, "top_k 0 is -2"),
        ({"top_p": 0.0}, "top_p 0 is 0.* but must be above 0 and at most 1"),
        ({"top_p": [1.0, 1.5]}, "top_p 1 is 1.5"),
        ({"top_p": [0.5, np.nan]}, "top_p 1 is -?nan"),
        ({"repetition_penalty": [0.0, 1.0]}, "repetition_penalty 0 is 0.* but must be from 0.01 to 100"),
        ({"repetition_penalty": [1.0, np.nan]}, "repetition_penalty 1 is -?nan"),
        ({"repetition_penalty": -np.inf}, "repetition_penalty 0 is -inf"),
        ({"prompt": ["fine", ""]}, "prompt 1 is empty"),
        ({"prompt": ["\u4e2d\u6587", "fine"]}, "prompt 0 has no character that was in the training text"),
        ({"prompt": ["fine", b"\xff\xfe"]}, "text 1 is not valid UTF-8"),
        ({"prompt": []}, "prompt has no rows; give at least one"),
        ({"length": [5, 5, 5]}, "length has 3 rows, but prompt has 2; give 2 or 1"),
        ({"seed": []}, "seed has 0 rows, but prompt has 2"),
        ({"prompt": ["one"], "temperature": [0.5, 0.5]}, "temperature has 2 rows, but prompt has 1"),
    ],
)
def test_errors_name_the_row_and_the_allowed_values(call, inputs, message):
    arguments = {"prompt": ["The ", "A "]} | inputs
    assert_rejected(call, message, "sample", **arguments)


def test_every_signature_rejects_invalid_texts(loaded):
    for name in ("serving_default", "next_char", "explain"):
        key = "text" if name == "explain" else "prompt"
        for texts, message in [
            (["a", ""], f"{key} 1 is empty"),
            ([b"\xc0"], "text 0 is not valid UTF-8"),
            ([], "no rows"),
        ]:
            assert_rejected(loaded.signatures[name], message, **{key: tf.constant(texts, tf.string)})


@given(
    prompt=st.one_of(st.text(max_size=20), st.binary(max_size=8)),
    length=st.integers(-(2**31), 2**31 - 1) | st.integers(1, 9),
    temperature=st.floats(width=32) | st.floats(0, 2, width=32),
    top_k=st.integers(-(2**31), 2**31 - 1),
    top_p=st.floats(width=32) | st.floats(0, 1, width=32),
    repetition_penalty=st.floats(width=32) | st.floats(0.5, 2, width=32),
    seed=st.integers(-(2**63), 2**63 - 1),
    state=st.floats(width=32) | st.just(0.0),
)
@settings(max_examples=30, deadline=None)
def test_any_request_is_answered_or_rejected(call, prompt, state, **options):
    size = call("sample", ["a"], length=1)["state"].shape[1]
    prompt = prompt if isinstance(prompt, bytes) else prompt.encode("utf-8", "surrogatepass")
    message = ""
    try:
        outputs = call("sample", [prompt], state=np.full((1, size), state, np.float32), **options)
    except tf.errors.InvalidArgumentError as error:
        message = error.message
    if message:
        assert re.search(r" 0 (is|has) .*\(rows count from 0\)", message)
    else:
        assert len(text(outputs)) == options["length"]
        assert np.isfinite(outputs["log_probability"]).all() and np.isfinite(outputs["state"]).all()


# Scores.


def test_validation_logits_give_the_validation_loss(loaded):
    total, count = 0.0, 0
    for logits, labels in loaded.task.validation_logits(loaded.model):
        assert logits.shape == (len(labels), loaded.task.vocabulary.size - 1)
        total -= float(tf.reduce_sum(tf.gather(tf.nn.log_softmax(logits), labels, batch_dims=1)))
        count += len(labels)
    # The logits exclude id 0, whose probability is close to 0.
    assert total / count == pytest.approx(loaded.task.validate(loaded.model)["loss"], abs=2e-3)


def test_window_loss_equals_that_of_the_model(loaded):
    vocabulary, model = loaded.task.vocabulary, loaded.model
    split = loaded.task.data.validation[: 3 * 256 + 100]
    task = TextGenerationTask(loaded.task.config, loaded.directory)
    task.data = TextSplits(split, split, split, "a part")
    metrics = task.evaluate(loaded.signatures, "test", model)
    ids = vocabulary.encode_python(split)
    windows = np.stack([ids[n * 256 : n * 256 + 257] for n in range(3)])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        windows[:, 1:], model(windows[:, :-1]) / loaded.task.temperature
    )
    assert metrics["window_loss"] == pytest.approx(float(tf.reduce_mean(losses)), abs=1e-5)
    of_signatures = task.evaluate(loaded.signatures, "test")
    assert of_signatures == {
        name: value for name, value in metrics.items() if name not in ("loss", "bits_per_character")
    }
    task.data = dataclasses.replace(task.data, test=split[:256])
    with pytest.raises(RequestError, match="has 256 characters"):
        task.evaluate(loaded.signatures, "test")


BLANKS = " \n" * 200
WORDS = "Some words\nMore of them\n\n" + BLANKS
PROMPTS = {
    "lines": (WORDS, "One line\nTwo lines\n  Three lines", ["One line", "Two lines"]),
    "blanks alone": (WORDS, BLANKS, ["Some words", "More of them"]),  # of the training text
    "unknown characters": (WORDS, "\u4e2d\u6587" * 50, ["Some words", "More of them"]),
    "no words": (WORDS, "12 + 34 = 46", ["Some words", "More of them"]),
    "no capitals": ("some words\n" + BLANKS, BLANKS + "words without a capital", ["words without a capital"]),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_examples_are_readable_prompts(name):
    """An export needs them, for every text that can be trained on."""
    train, test, prompts = PROMPTS[name]
    task = TextGenerationTask(TextGeneration())
    task.data = TextSplits(train, train, test, "a text")
    task.vocabulary = CharacterVocabulary.build(train + "abcdefghijklmnopqrstuvwxyzTO")
    assert [example["prompt"] for example in task.examples()] == prompts


def test_a_text_without_a_prompt_is_rejected():
    task = TextGenerationTask(TextGeneration())
    task.data = TextSplits(BLANKS, BLANKS, BLANKS, "blanks")
    with pytest.raises(RequestError, match="has no characters that can serve as a prompt"):
        task.examples()


def test_a_validation_text_of_unknown_characters_is_rejected_before_training():
    task = TextGenerationTask(TextGeneration())
    task.data = TextSplits("words " * 100, "\u4e2d\u6587" * 50, "words", "two scripts")
    with pytest.raises(RequestError, match="has no character of the training text"):
        task.check()


def test_a_byte_order_mark_is_removed_from_a_prompt(loaded):
    signatures = loaded.signatures
    texts = signatures["serving_default"](prompt=tf.constant(["The ", "\ufeffThe "]))["text"].numpy()
    assert texts[0] == texts[1]
    for mark in ("\ufeff", ""):
        assert_rejected(signatures["serving_default"], "prompt 0 is empty", prompt=tf.constant([mark]))
    with_mark, without = (signatures["explain"](text=tf.constant([text])) for text in ("\ufeffThe", "The"))
    assert np.array_equal(with_mark["characters"], without["characters"])


def test_the_scores_of_an_export_equal_those_of_its_run(runs, models_dir):
    of_run = evaluate(runs["text_generation"], "validation")
    of_export = evaluate(models_dir / "text_generation" / "1", "validation")
    assert of_export["window_loss"] == pytest.approx(of_run["window_loss"], abs=1e-5)
    assert "loss" in of_run and "loss" not in of_export


# The SavedModel, on a server.


def test_omitted_inputs_have_default_values(served_models, generate, call):
    from serving.client import Client

    with Client(served_models.grpc) as client:
        prompts = np.array(["The ", "A "], object)
        short = client.predict("text_generation", {"prompt": prompts, "length": np.array([9, 9], np.int32)}, "generate")
        assert short["text"].tolist() == generate(["The ", "A "], length=9)["text"].tolist()
        outputs = client.predict("text_generation", {"prompt": prompts}, "sample")
        assert outputs["text"].tolist() == call("sample", ["The ", "A "])["text"].tolist()


def test_characters_beyond_the_basic_plane_are_single_characters():
    vocabulary = CharacterVocabulary.build("a\U0001f600\u00e9")
    config = dataclasses.replace(TextGeneration(), max_length=12)
    task = TextGenerationTask(config)
    task.vocabulary = vocabulary
    model = CharLSTM(vocabulary.size, 4, 4, 1)
    model.build((None, None))
    signatures = task.signatures(model)
    generated = signatures["serving_default"](prompt=tf.constant(["\U0001f600"]))["text"].numpy()[0].decode()
    assert len(generated) == 12 and set(generated) <= set("a\U0001f600\u00e9")
