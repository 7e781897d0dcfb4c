"""The signatures of translation, in process: their agreement with each other and with reference searches; limits."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from rejected_requests import assert_rejected
from search_reference import log_softmax, reference_beam_search, reference_greedy

from kerasnets.checks import RequestError
from kerasnets.config.text_networks import Seq2SeqLSTMOptions
from kerasnets.data.splits import PairSplits
from kerasnets.run.examples import load
from kerasnets.tasks import make_task
from kerasnets.tasks.translation.facts import Translation
from kerasnets.tasks.translation.task import TranslationTask
from kerasnets.tasks.translation.translator import BEAMS, Translator

SENTENCES = ["twenty-three", "Monday, January 3, 2022", "ten past six", "nine hundred and four", "one"]
START, END = 1, 2


@pytest.fixture(scope="module")
def loaded(load_run):
    return load_run("translation")


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


def call(signature, **inputs):
    return {name: value.numpy() for name, value in signature(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def reference_logits(loaded, sentence):
    """-> a function, prefix -> calibrated logits of the next token, without a cache; the number of source tokens."""
    source = np.array([[*loaded.task.vocabulary.tokenize_python(sentence), END]], np.int32)
    model, temperature = loaded.model, loaded.task.temperature

    def logits(tokens):
        return model({"source": source, "target": np.array([tokens], np.int32)})[0, -1] / temperature

    return logits, source.shape[1]


def test_rows_of_a_batch_are_independent(signatures, runs):
    texts = [example["text"] for example in load(runs["translation"] / "examples.json")] + SENTENCES
    # 70 sentences: several buckets, of which two run at a time.
    many = [text for n in range(7) for text in texts[n:] + texts[:n]]
    for name, outputs in [("serving_default", ("translation", "score")), ("beam_search", ("translations", "scores"))]:
        alpha = {"length_penalty": np.ones(1, np.float32)} if name == "beam_search" else {}
        batch = call(signatures[name], text=many, **alpha)
        for n, text in enumerate(texts):
            alone = call(signatures[name], text=[text], **alpha)
            for index in (k for k, other in enumerate(many) if other == text):
                assert np.all(alone[outputs[0]][0] == batch[outputs[0]][index]), (name, n)
                assert alone[outputs[1]][0] == pytest.approx(batch[outputs[1]][index], abs=1e-4)


def test_a_byte_order_mark_is_removed_from_a_sentence(signatures):
    translations = call(signatures["serving_default"], text=["twenty-three", "\ufefftwenty-three"])["translation"]
    assert translations[0] == translations[1]
    assert_rejected(
        signatures["score"], "text 0 is empty", text=tf.constant(["\ufeff"]), translation=tf.constant(["a"])
    )


def test_unused_pairs_are_counted(loaded):
    config = dataclasses.replace(loaded.task.config, max_length=8)
    task = TranslationTask(config, loaded.directory)
    long = "twenty-three thousand nine hundred and four, " * 3
    pairs = ["one", "two", long, " ", "three", "four"], ["eins", "zwei", "drei", "vier", long, ""]
    task.data = PairSplits(pairs, (["one", long], ["eins", "eins"]), pairs, "six pairs")
    assert str(task.data_summary) == (
        "14 pairs of sentences; 5 pairs left out: 2 of 6 in train longer than 8 subwords, 2 of 6 in train empty, "
        "1 of 2 in validation longer than 8 subwords"
    )
    assert task.split_sizes() == {
        "train": 2,
        "validation": 1,
        "test": 6,
        "description": "six pairs",
        "read": "14 pairs of sentences",
        "left_out": {
            "pairs in train longer than 8 subwords": 2,
            "pairs in train empty": 2,
            "pairs in validation longer than 8 subwords": 1,
        },
    }
    task = TranslationTask(config, loaded.directory)
    task.data = PairSplits(([long], ["drei"]), pairs, pairs, "a long one")
    with pytest.raises(RequestError, match="no train pair has 1 to 8 subwords a side"):
        task.split_sizes()


def test_white_space_at_the_ends_is_ignored(signatures):
    translations = call(signatures["serving_default"], text=["twenty-three", "  twenty-three\n"])["translation"]
    assert translations[0] == translations[1]


def test_unknown_characters_are_accepted(signatures):
    assert call(signatures["serving_default"], text=["\u4e2d\u6587 \U0001f600"])["translation"].shape == (1,)


def test_searches_equal_the_reference_searches(loaded, signatures):
    greedy = call(signatures["serving_default"], text=SENTENCES[:2])
    beams = call(signatures["beam_search"], text=SENTENCES[:2], length_penalty=np.array([1.0, 0.0], np.float32))
    for row, (sentence, alpha) in enumerate(zip(SENTENCES[:2], [1.0, 0.0], strict=True)):
        logits, length = reference_logits(loaded, sentence)
        tokens, log_probability = reference_greedy(logits, 3 * length + 20)
        assert greedy["translation"][row].decode() == loaded.task.vocabulary.detokenize_python(tokens)
        assert greedy["score"][row] == pytest.approx(log_probability / len(tokens), abs=1e-4)
        expected = reference_beam_search(logits, 2 * length + 10, alpha, BEAMS)
        words = [loaded.task.vocabulary.detokenize_python(tokens) for tokens, _ in expected]
        assert [text.decode() for text in beams["translations"][row]] == words
        assert beams["scores"][row] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_the_best_beam_is_at_least_as_good_as_greedy(signatures):
    greedy = call(signatures["serving_default"], text=SENTENCES)["score"]
    beams = call(signatures["beam_search"], text=SENTENCES, length_penalty=np.ones(5, np.float32))["scores"]
    assert np.all(np.diff(beams) <= 0)
    assert np.all(beams[:, 0] >= greedy - 0.3)  # the prefix of the greedy hypothesis may leave the beam


def test_score_agrees_with_beam_search(signatures):
    """`score` returns the log probability of a translation, as beam search does without a length penalty."""
    found = call(signatures["beam_search"], text=SENTENCES, length_penalty=np.zeros(5, np.float32))
    for beam in range(BEAMS):
        translations = found["translations"][:, beam]
        filled = [n for n in range(5) if translations[n].strip()]
        scores = call(signatures["score"], text=np.array(SENTENCES)[filled], translation=translations[filled])
        # The search may have found other subwords of the same text than the vocabulary's.
        close = np.isclose(scores["log_probability"], found["scores"][filled, beam], atol=1e-3)
        assert close.mean() >= 0.5


def test_explain_agrees_with_serving_default(loaded, signatures):
    greedy = call(signatures["serving_default"], text=SENTENCES)
    found = call(signatures["explain"], text=SENTENCES)
    assert found["translation"].tolist() == greedy["translation"].tolist()
    target, source = found["target_tokens"] != b"", found["source_tokens"] != b""
    means = np.log(np.where(target, found["token_probability"], 1)).sum(1) / target.sum(1)
    assert means == pytest.approx(greedy["score"], abs=1e-4)
    model = loaded.task.config.model
    shape = (5, model.num_blocks, model.num_heads)
    assert found["cross_attention"].shape == (*shape, target.shape[1], source.shape[1])
    assert found["encoder_attention"].shape == (*shape, source.shape[1], source.shape[1])
    for name, rows in (("cross_attention", target), ("encoder_attention", source)):
        sums = found[name].sum(axis=-1)
        assert sums == pytest.approx(np.broadcast_to(rows[:, None, None], sums.shape).astype(float), abs=1e-4)
        assert np.all(found[name].transpose(0, 4, 1, 2, 3)[~source] < 1e-6)
    for row, sentence in enumerate(SENTENCES):
        words = b"".join(found["source_tokens"][row]).decode().removesuffix("<end>")
        assert words.replace("\u2581", " ").strip() == sentence
        alone = call(signatures["explain"], text=[sentence])
        columns, steps = source[row].sum(), target[row].sum()
        assert alone["cross_attention"][0] == pytest.approx(
            found["cross_attention"][row, :, :, :steps, :columns], abs=1e-4
        )


@pytest.mark.parametrize("attention", ["multiplicative", "none"])
def test_the_lstm_has_the_same_signatures(loaded, attention):
    task = loaded.task
    options = Seq2SeqLSTMOptions(width=16, units=16, attention=attention)
    config = Translation(**(vars(task.config) | {"model": options}))
    lstm = make_task("translation", config, task.directory)
    lstm_signatures = Translator(lstm.model(), task.vocabulary, 60, 1.0).signatures()
    assert set(lstm_signatures) == set(loaded.signatures)
    found = call(lstm_signatures["explain"], text=SENTENCES)
    target, source = found["target_tokens"].shape[1], found["source_tokens"].shape[1]
    assert found["cross_attention"].shape == (5, int(attention != "none"), 1, target, source)
    assert found["encoder_attention"].shape == (5, 0, 1, source, source)
    beams = call(lstm_signatures["beam_search"], text=SENTENCES, length_penalty=np.ones(5, np.float32))
    assert beams["translations"].shape == (5, BEAMS) and np.isfinite(beams["scores"]).all()


def test_errors_name_the_row(signatures):
    long = ["one " * 90, "a"]
    for name, signature in signatures.items():
        more = {"length_penalty": np.ones(1, np.float32)} if name == "beam_search" else {}
        more |= {"translation": ["a"]} if name == "score" else {}
        assert_rejected(call, "text 1 is empty", signature, text=["one", "  "], **more)
        assert_rejected(call, "text 0 is not valid UTF-8", signature, text=[b"\xff"], **more)
        assert_rejected(call, "text 0 is [0-9]+ subwords long, more than the limit of 60", signature, text=long, **more)
    beams, score = signatures["beam_search"], signatures["score"]
    many = ["one two three four five six seven eight nine ten"] * 800
    assert_rejected(
        call, "text has 800 rows of up to .* more than 6,400; give fewer rows", score, text=many, translation=["a"]
    )
    assert_rejected(call, "text has 800 rows of up to", signatures["explain"], text=many)
    for wrong in (np.nan, np.inf, 5.1):
        penalties = np.array([1, wrong], np.float32)
        assert_rejected(
            call,
            "length_penalty 1 is .* must be a number from -5 to 5",
            beams,
            text=["a", "b"],
            length_penalty=penalties,
        )
    assert_rejected(
        call, "length_penalty has 3 rows, but text has 2", beams, text=["a", "b"], length_penalty=np.ones(3, np.float32)
    )
    assert_rejected(call, "translation 1 is empty", score, text=["a", "b"], translation=["a", ""])
    assert_rejected(call, "translation 0 is [0-9]+ subwords long", score, text=["a"], translation=["eins " * 90])
    assert_rejected(call, "translation has 2 rows, but text has 3", score, text=["a", "b", "c"], translation=["a", "b"])


def test_training_pairs_have_start_and_end_tokens(loaded):
    batch = loaded.task._validation.batch(0)
    valid = batch["target"] != 0
    last = np.take_along_axis(batch["target"], valid.sum(1, keepdims=True) - 1, axis=1)
    filled = valid.any(axis=1)
    assert np.all(batch["target"][filled, 0] == START) and np.all(last[filled] == END)


def test_the_reference_search_is_correct():
    """The probabilities of all continuations sum to 1."""
    table = np.log(np.random.default_rng(0).dirichlet(np.ones(4), size=4))
    found = reference_beam_search(lambda tokens: table[tokens[-1]], 1, 0.0, 4, end=-1)
    assert np.exp([score for _, score in found]).sum() == pytest.approx(1)
    assert log_softmax(table) == pytest.approx(table)
