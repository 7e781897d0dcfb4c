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


class TestText:
    @pytest.fixture(scope="class")
    def generate(self, opened):
        def call(prompt, length=20, temperature=0.8, top_k=0, top_p=1.0, seed=0):
            rows = len(prompt)

            def same(value, dtype):
                return tf.constant(np.broadcast_to(value, rows), dtype)

            return opened["text_generation"].signatures["generate"](
                prompt=tf.constant(prompt),
                length=same(length, tf.int32),
                temperature=same(temperature, tf.float32),
                top_k=same(top_k, tf.int32),
                top_p=same(top_p, tf.float32),
                seed=same(seed, tf.int64),
            )

        return call

    def test_rows_have_their_own_lengths(self, generate):
        texts = generate(["The ", "A class", "x"], length=[5, 30, 1])["text"].numpy()
        assert [len(text.decode()) for text in texts] == [5, 30, 1]

    def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch(self, generate):
        alone = generate(["The value"], length=40, seed=7)
        batch = generate(["Something much longer than that", "The value", "z"], length=[10, 40, 90], seed=[1, 7, 3])
        assert batch["text"][1] == alone["text"][0]
        assert float(batch["log_probability"][1]) == pytest.approx(float(alone["log_probability"][0]), abs=1e-3)
        others = generate(["The value"] * 4, length=40, seed=[7, 8, 9, 10])["text"].numpy()
        assert len(set(others)) > 1 and others[0] == alone["text"][0]

    def test_temperature_0_takes_the_most_probable_and_top_k_1_too(self, generate):
        greedy = generate(["The "], temperature=0.0, seed=1)
        assert greedy["text"] == generate(["The "], temperature=0.0, seed=2)["text"]
        assert greedy["text"] == generate(["The "], temperature=1.0, top_k=1, seed=3)["text"]
        assert greedy["text"] == generate(["The "], temperature=1.0, top_p=1e-6, seed=3)["text"]

    def test_a_tiny_temperature_is_as_good_as_none(self, generate):
        assert generate(["The "], temperature=1e-38)["text"] == generate(["The "], temperature=0.0)["text"]

    def test_a_text_is_the_concatenation_of_its_halves(self, generate):
        whole = generate(["The "], length=24, temperature=0.0)
        first = generate(["The "], length=12, temperature=0.0)
        text = "The " + first["text"][0].numpy().decode()
        second = generate([text], length=12, temperature=0.0)
        assert text[4:] + second["text"][0].numpy().decode() == whole["text"][0].numpy().decode()
        parts = float(first["log_probability"][0] + second["log_probability"][0])
        assert parts == pytest.approx(float(whole["log_probability"][0]), abs=1e-3)

    def test_log_probability_is_that_of_the_model(self, generate, opened):
        answer = generate(["The "], length=15, temperature=1.3, top_k=5, seed=4)
        model, vocabulary = opened["text_generation"].model, opened["text_generation"].task.vocabulary
        ids = vocabulary.encode_python("The " + answer["text"][0].numpy().decode())
        logits = model(ids[np.newaxis, :-1]).numpy()[0, 3:]
        logits[:, 0] = -1e9
        chosen = tf.nn.log_softmax(logits).numpy()[np.arange(15), ids[4:]]
        assert float(answer["log_probability"][0]) == pytest.approx(chosen.sum(), abs=1e-3)

    def test_characters_outside_the_vocabulary_are_left_out(self, generate):
        assert generate(["The \u4e2d\u6587value"])["text"] == generate(["The value"])["text"]

    def test_only_the_last_thousand_characters_count(self, generate):
        assert generate(["y" * 5000 + "x" * 1000])["text"] == generate(["x" * 1000])["text"]

    def test_serving_default_is_generate_with_the_documented_values(self, generate, opened):
        text = opened["text_generation"].signatures["serving_default"](prompt=tf.constant(["The "]))["text"]
        assert text == generate(["The "], length=200, temperature=0.8)["text"]

    @pytest.mark.parametrize(
        ("inputs", "text"),
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
            ({"prompt": ["fine", ""]}, "prompt 1 is empty"),
            ({"prompt": ["\u4e2d\u6587", "fine"]}, "prompt 0 has no character that was in the training text"),
            ({"prompt": ["fine", b"\xff\xfe"]}, "text 1 is not valid UTF-8"),
        ],
    )
    def test_wrong_requests_name_the_row_and_what_is_allowed(self, generate, inputs, text):
        arguments = {"prompt": ["The ", "A "]} | inputs
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            generate(**arguments)


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
