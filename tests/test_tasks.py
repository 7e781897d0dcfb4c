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


class TestImages:
    @pytest.fixture(scope="class")
    def image(self, opened):
        return opened["image_classification"].signatures

    @pytest.fixture(scope="class")
    def digits(self, runs):
        examples = load(runs["image_classification"] / "examples.json")
        return tf.constant([example["image_bytes"] for example in examples])

    def test_best_classes_come_first(self, image, digits):
        answer = image["serving_default"](image_bytes=digits)
        assert answer["label"].shape == answer["score"].shape == (10, 5)
        assert np.all(np.diff(answer["score"].numpy()) <= 0)
        assert (answer["label"].numpy()[:, 0] == [str(n).encode() for n in range(10)]).mean() >= 0.8

    def test_pixels_give_the_same_as_the_file(self, image, digits):
        pixels = tf.cast([tf.io.decode_png(data) for data in digits], tf.float32)
        probabilities = image["pixels"](pixels=pixels)["probabilities"].numpy()
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-5)
        top = np.sort(probabilities)[:, ::-1][:, :5]
        assert image["serving_default"](image_bytes=digits)["score"].numpy() == pytest.approx(top, abs=1e-6)

    def test_every_format_and_size_and_number_of_channels(self, image, opened):
        task = opened["image_classification"].task
        gray = np.zeros((16, 16, 1), np.uint8)
        gray[2:14, 6:10] = 255
        colour, alpha = np.repeat(gray, 3, axis=2), np.concatenate([np.repeat(gray, 3, 2), gray * 0 + 255], axis=2)
        bmp = b"BM" + np.array([54 + 768, 0, 54, 40, 16, 16], "<u4").tobytes()
        bmp += np.array([1, 24], "<u2").tobytes() + np.zeros(6, "<u4").tobytes() + colour[::-1].tobytes()
        files = [tf.io.encode_png(p).numpy() for p in (gray, colour, alpha)]
        files += [tf.io.encode_jpeg(p, quality=100).numpy() for p in (gray, colour)] + [bmp]
        decoded = task.decode(tf.constant(files)).numpy()
        assert decoded.shape == (6, 8, 8, 1) and decoded.max() <= 255 and decoded.min() >= 0
        for other in decoded[1:]:
            assert other == pytest.approx(decoded[0], abs=8)  # JPEG loses something
        assert image["serving_default"](image_bytes=tf.constant(files))["label"].shape == (6, 5)

    def test_a_picture_does_not_depend_on_its_neighbours(self, image, digits):
        alone = image["serving_default"](image_bytes=digits[4:5])["score"].numpy()[0]
        assert image["serving_default"](image_bytes=digits)["score"].numpy()[4] == pytest.approx(alone, abs=1e-6)

    def test_corrupt_pictures_are_refused(self, image, digits):
        good = digits[0].numpy()
        wrong = [(b"", "image_bytes 1 is no PNG"), (b"hello", "is no PNG, JPEG, GIF or BMP"), (good[:40], "PNG")]
        for bad, text in wrong:
            refused(image["serving_default"], text, image_bytes=tf.constant([good, bad]))
        assert image["serving_default"](image_bytes=tf.constant([good]))["label"].shape == (1, 5)

    def test_augmentation_shifts_and_mirrors_only(self, opened):
        task = opened["image_classification"].task
        pixels = np.zeros((200, 8, 8, 1), np.uint8)
        pixels[:, 3, 4] = 255
        shifted = task.augment(pixels, np.random.default_rng(0))
        places = {tuple(np.argwhere(p[:, :, 0])[0]) for p in shifted}
        assert places == {(y, x) for y in (2, 3, 4) for x in (3, 4, 5)}


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
