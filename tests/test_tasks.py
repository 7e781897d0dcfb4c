"""The signatures of the three tasks, in process: answers, limits, and sentences for wrong requests."""

import numpy as np
import pytest
import tensorflow as tf

from kerasnets.examples import load
from kerasnets.loading import open_model


@pytest.fixture(scope="module")
def opened(runs):
    return {task: open_model(run) for task, run in runs.items()}


def refused(function, sentence, **inputs):
    with pytest.raises(tf.errors.InvalidArgumentError, match=sentence):
        function(**inputs)


class TestTranslation:
    @pytest.fixture(scope="class")
    def translate(self, opened):
        return opened["translation"].signatures["serving_default"]

    def test_a_sentence_does_not_depend_on_its_neighbours(self, translate, runs):
        texts = [example["text"] for example in load(runs["translation"] / "examples.json")]
        together = translate(text=tf.constant(texts))
        for n, text in enumerate(texts):
            alone = translate(text=tf.constant([text]))
            assert alone["translation"][0] == together["translation"][n]
            assert float(alone["score"][0]) == pytest.approx(float(together["score"][n]), abs=1e-4)

    def test_white_space_at_the_ends_does_not_matter(self, translate):
        answers = translate(text=tf.constant(["twenty-three", "  twenty-three\n"]))["translation"]
        assert answers[0] == answers[1]

    def test_characters_never_seen_are_no_error(self, translate):
        assert translate(text=tf.constant(["\u4e2d\u6587 \U0001f600"]))["translation"].shape == (1,)

    def test_wrong_requests_name_the_row(self, translate):
        long = tf.constant(["one " * 90, "a"])
        refused(translate, "text 1 is empty", text=tf.constant(["one", "  "]))
        refused(translate, "text 0 is not valid UTF-8", text=tf.constant([b"\xff"]))
        refused(translate, "text 0 is [0-9]+ subwords long, more than the limit of 60", text=long)

    def test_training_pairs_begin_and_end(self, opened):
        task = opened["translation"].task
        batch = task._validation.batch(0)
        there = batch["target"] != 0
        last = np.take_along_axis(batch["target"], there.sum(1, keepdims=True) - 1, axis=1)
        filled = there.any(axis=1)
        assert np.all(batch["target"][filled, 0] == 1) and np.all(last[filled] == 2)


def test_a_request_without_rows_is_refused(opened):
    for task in opened.values():
        for name, inputs in task.task.requests(load(task.directory / "examples.json")).items():
            none = {key: tf.zeros_like(tf.constant(value))[:0] for key, value in inputs.items()}
            refused(task.signatures[name], "has no rows; give at least one", **none)
