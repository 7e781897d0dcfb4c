"""Image classification: answers of the signatures, explanations, and sentences for pictures that cannot be used."""

import io
import random
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from rejected_requests import assert_rejected

from kerasnets.config.networks import ConvNetOptions, SequenceClassifierOptions, SequenceGeneratorOptions
from kerasnets.images import decoder, gif, headers
from kerasnets.models import ConvNet
from kerasnets.run.examples import load
from kerasnets.tasks.image_classification.explanations import grad_cam
from kerasnets.tasks.image_classification.facts import ImageClassification
from kerasnets.tasks.image_classification.task import ImageClassificationTask, example_message, pictures


@pytest.fixture(scope="module")
def opened(load_run):
    return load_run("image_classification")


@pytest.fixture(scope="module")
def image(opened):
    return opened.signatures


@pytest.fixture(scope="module")
def digits(runs):
    return tf.constant([example["image_bytes"] for example in load(runs["image_classification"] / "examples.json")])


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
PALETTE = NOISE.convert("P")
PNG, JPEG, BMP, WEBP = (encoded(NOISE, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP"))
GIF = encoded(PALETTE, "GIF")
ANIMATION = encoded(PALETTE, "GIF", save_all=True, append_images=[NOISE.rotate(n).convert("P") for n in range(1, 20)])


# Answers.


def test_best_classes_come_first(image, digits):
    answer = image["serving_default"](image_bytes=digits)
    assert answer["label"].shape == answer["score"].shape == (10, 5)
    assert np.all(np.diff(answer["score"].numpy()) <= 0)
    assert (answer["label"].numpy()[:, 0] == [str(n).encode() for n in range(10)]).mean() >= 0.8


def test_pixels_give_the_same_as_the_file(image, digits):
    pixels = tf.cast([tf.io.decode_png(data) for data in digits], tf.float32)
    probabilities = image["pixels"](pixels=pixels)["probabilities"].numpy()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-5)
    top = np.sort(probabilities)[:, ::-1][:, :5]
    assert image["serving_default"](image_bytes=digits)["score"].numpy() == pytest.approx(top, abs=1e-6)


def test_classify_gives_all_classes_in_their_order(image, opened, digits):
    pixels = opened.task.decode(digits)
    answer = image["classify"](inputs=tf.constant([example_message(file) for file in digits.numpy()]))
    assert answer["classes"].numpy().tolist() == [[str(n).encode() for n in range(10)]] * 10
    assert answer["scores"].numpy() == pytest.approx(image["pixels"](pixels=pixels)["probabilities"].numpy(), abs=1e-6)


def test_a_picture_does_not_depend_on_its_neighbours(image, opened, digits):
    for name, inputs in opened.task.requests([{"image_bytes": file} for file in digits.numpy()]).items():
        together = image[name](**{key: tf.constant(value) for key, value in inputs.items()})
        alone = image[name](**{key: tf.constant(value[4:5]) for key, value in inputs.items()})
        for output, value in alone.items():
            if value.dtype == tf.string:
                assert value.numpy().tolist() == together[output].numpy()[4:5].tolist(), name
            else:
                assert value.numpy() == pytest.approx(together[output].numpy()[4:5], abs=1e-5), name


def test_augmentation_shifts_and_mirrors_only(opened):
    pixels = np.zeros((200, 8, 8, 1), np.uint8)
    pixels[:, 3, 4] = 255
    shifted = opened.task.augment(pixels, np.random.default_rng(0))
    places = {tuple(np.argwhere(p[:, :, 0])[0]) for p in shifted}
    assert places == {(y, x) for y in (2, 3, 4) for x in (3, 4, 5)}


# Explanations.


def test_explain_agrees_with_serving_default(image, digits):
    plain, explained = image["serving_default"](image_bytes=digits), image["explain"](image_bytes=digits)
    assert np.array_equal(plain["label"], explained["label"])
    assert explained["score"].numpy() == pytest.approx(plain["score"].numpy(), abs=1e-5)
    heat = explained["heatmap"].numpy()
    assert heat.shape == (10, 8, 8) and heat.min() >= 0 and heat.max(axis=(1, 2)) == pytest.approx(np.ones(10))


def random_network(shape, **options):
    """A ConvNet whose biases and normalizations are not those of the start."""
    keras.utils.set_random_seed(3)
    model = ConvNet(4, **options)
    model.build((None, *shape))
    draw = np.random.default_rng(3)
    for variable in model.variables:
        if variable.dtype == "float32" and len(variable.shape) == 1:
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
    return model


FORMS = {
    "average": {"filters": (4, 8)},
    "max": {"filters": (4, 8), "head": "max"},
    "flatten": {"filters": (4, 6), "head": "flatten", "hidden": (12, 7), "padding": "valid", "norm": "none"},
    "one block": {"filters": (5,), "hidden": (6,)},
    "residual": {"filters": (4, 8), "residual_blocks": 1},
    "pre": {"filters": (4, 8), "residual_blocks": 1, "norm": "pre", "widen": 2},
}


@pytest.mark.parametrize("form", FORMS)
def test_grad_cam_is_the_papers(form):
    """Against finite differences, and equations 1 and 2 in NumPy.

    How the logit changes if all places of a map grow alike is the sum of its derivatives by each of them.
    """
    model = random_network((12, 12, 3), **FORMS[form])
    pixels = tf.random.stateless_uniform((2, 12, 12, 3), (0, 1), 0, 255)
    logits, heat, first = tf.function(lambda pixels: grad_cam(model, tf.identity, pixels))(pixels)
    assert logits.numpy() == pytest.approx(model(pixels).numpy(), abs=1e-4)
    first_maps, maps = model.feature_maps(pixels)
    assert first.numpy() == pytest.approx(first_maps.numpy(), abs=1e-5)
    assert model.classify_maps(maps).numpy() == pytest.approx(logits.numpy(), abs=1e-4)
    step, count = 1e-2, maps.shape[-1]
    for row, best in enumerate(logits.numpy().argmax(axis=1)):
        one = maps.numpy()[row]
        moves = step * np.eye(count, dtype=np.float32)[:, np.newaxis, np.newaxis]  # [K, 1, 1, K]
        change = (model.classify_maps(one + moves).numpy() - model.classify_maps(one - moves).numpy())[:, best] / (
            2 * step
        )
        weights = change / (one.shape[0] * one.shape[1])  # equation 1
        expected = np.maximum((one * weights).sum(axis=-1), 0)  # equation 2
        expected = tf.image.resize(expected[..., np.newaxis], (12, 12)).numpy()[..., 0]
        expected /= max(expected.max(), 1e-12)
        assert heat.numpy()[row] == pytest.approx(expected, abs=5e-3)


def test_grad_cam_finds_what_decides():
    """One convolution that passes brightness on, and a class that is more probable the brighter the picture is."""
    model = ConvNet(2, filters=(1,), norm="none")
    model.build((None, 16, 16, 1))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    model.blocks[0].conv.set_weights([kernel, np.zeros(1, np.float32)])
    model.out.set_weights([np.array([[0.0, 5.0]], np.float32), np.zeros(2, np.float32)])
    pixels = np.zeros((3, 16, 16, 1), np.float32)
    pixels[0, 3:6, 9:13] = 255
    pixels[1, 12, 2] = 255
    _, heat, _ = grad_cam(model, tf.identity, tf.constant(pixels))
    assert np.argwhere(heat[0].numpy() > 0.5).tolist() == [[y, x] for y in range(3, 6) for x in range(9, 13)]
    assert np.argwhere(heat[1].numpy() > 0.5).tolist() == [[12, 2]]
    assert np.all(heat[2].numpy() == 0)  # nothing speaks for a class, and there is no NaN


@pytest.mark.parametrize("preset", ["resnet20", "wide", "lenet", "spelling", "rows"])
def test_every_network_explains_itself(preset, tmp_path):
    """The forms of the presets, in small; with rows that do not depend on each other."""
    models = {
        "resnet20": ConvNetOptions(filters=(4, 8), residual_blocks=2),
        "wide": ConvNetOptions(filters=(4, 8), residual_blocks=1, norm="pre", widen=2),
        "lenet": ConvNetOptions(
            filters=(4, 6), kernel_size=5, padding="valid", norm="none", head="flatten", hidden=(9,)
        ),
        "spelling": SequenceGeneratorOptions(filters=(4, 8), width=6, units=8),
        "rows": SequenceClassifierOptions(units=8),
    }
    (tmp_path / "classes.json").write_text('{"classes": ["cat", "bird", "ship"], "shape": [28, 20, 3]}')
    task = ImageClassificationTask(ImageClassification(model=models[preset]), tmp_path)
    explain = task.signatures(task.model())["explain"]
    files = [PNG, JPEG, encoded(Image.new("RGB", (20, 28)), "PNG")]
    together = explain(image_bytes=tf.constant(files))
    heat, first = together["heatmap"].numpy(), together["feature_maps"].numpy()
    assert heat.shape == (3, 28, 20) and np.all((heat >= 0) & (heat <= 1))
    assert set(heat.max(axis=(1, 2)).round(5)) <= {0.0, 1.0} and np.isfinite(first).all()
    sides = {"lenet": (24, 16, 4), "rows": (28, 1, 8)}
    assert first.shape == (3, *sides.get(preset, (28, 20, 4)))
    alone = explain(image_bytes=tf.constant(files[1:2]))
    assert alone["heatmap"].numpy() == pytest.approx(heat[1:2], abs=1e-3)
    if preset == "rows":
        assert np.all(heat[2] == 0)  # black


# Files.


def test_every_format_and_size_and_number_of_channels(image, opened):
    gray = np.zeros((16, 16, 1), np.uint8)
    gray[2:14, 6:10] = 255
    plain = Image.fromarray(gray[:, :, 0])
    files = [encoded(plain.convert(mode), "PNG") for mode in ("L", "RGB", "RGBA", "LA", "P", "1")]
    files += [encoded(plain.convert(mode), "JPEG", quality=100) for mode in ("L", "RGB")]
    files += [encoded(plain, "JPEG", quality=100, progressive=True), encoded(plain, "GIF")]
    files += [encoded(plain.convert(mode), "BMP") for mode in ("RGB", "RGBA")]
    decoded = opened.task.decode(tf.constant(files)).numpy()
    assert decoded.shape == (len(files), 8, 8, 1) and decoded.max() <= 255 and decoded.min() >= 0
    for other in decoded[1:]:
        assert other == pytest.approx(decoded[0], abs=8)  # JPEG loses something
    assert image["serving_default"](image_bytes=tf.constant(files))["label"].shape == (len(files), 5)


def test_pictures_are_brought_to_the_size_as_pillow_does():
    small = pictures.decode(tf.constant([PNG]), 8, 8, "image_bytes").numpy()[0]
    expected = np.asarray(NOISE.resize((8, 8), Image.Resampling.BILINEAR), np.float32)
    assert small == pytest.approx(expected, abs=2)


def test_sizes_are_those_of_pillow():
    draw = np.random.default_rng(5)
    files, expected = [], []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "WEBP lossless", "WEBP exif"):
        kind, _, form = kind.partition(" ")
        for width, height in draw.integers(1, 700, (5, 2)):
            picture = Image.new("RGB", (int(width), int(height)))
            options = {"icc_profile": bytes(150_000), "exif": b"Exif\0\0" + bytes(40_000)} if kind == "JPEG" else {}
            options |= {"lossless": {"lossless": True}, "exif": {"exif": b"Exif\0\0" + bytes(9)}}.get(form, {})
            files.append(encoded(picture, kind, **options))
            expected.append((height, width))
    found = headers.sizes(gif.first_images(tf.constant(files))[0])
    assert np.stack(found, axis=1).tolist() == np.array(expected).tolist()


def with_bytes(file, place, data):
    return file[:place] + data + file[place + len(data) :]


JPEG_SIZE = JPEG.index(b"\xff\xc0") + 5
WRONG = {
    "nothing": (b"", "is not a PNG, JPEG, GIF, BMP or WebP file"),
    "text": (b"hello", "is not a PNG"),
    "PNG of 100 million pixels": (with_bytes(PNG, 16, struct.pack(">II", 10_000, 10_000)), "is 100000000 pixels large"),
    "PNG of 2^64 pixels": (with_bytes(PNG, 16, b"\xff" * 8), "has no pixels"),
    "JPEG of 100 million": (with_bytes(JPEG, JPEG_SIZE, struct.pack(">HH", 10_000, 10_000)), "more than the limit of"),
    "GIF of 100 million": (with_bytes(GIF, GIF.index(b"\x2c\0\0\0\0") + 5, struct.pack("<HH", 9999, 9999)), "99980001"),
    "BMP of 100 million": (with_bytes(BMP, 18, struct.pack("<ii", 10_000, 10_000)), "more than the limit of 25000000"),
    "PNG of 0": (with_bytes(PNG, 16, bytes(4)), "has no pixels"),
    "JPEG of 0": (with_bytes(JPEG, JPEG_SIZE, bytes(4)), "has no pixels"),
    "GIF of 0": (with_bytes(GIF, GIF.index(b"\x2c\0\0\0\0") + 5, bytes(4)), "has no pixels"),
    "BMP of 0": (with_bytes(BMP, 18, bytes(4)), "has no pixels"),
    "BMP of fewer than 0": (with_bytes(BMP, 18, struct.pack("<i", -53)), "has no pixels"),
    "BMP of the lowest number": (with_bytes(BMP, 22, struct.pack("<i", -(2**31))), "113816633344 pixels large"),
    "BMP with a palette": (encoded(PALETTE, "BMP"), "is an unsupported BMP"),
    "BMP of OS/2": (with_bytes(BMP, 14, struct.pack("<i", 12)), "is an unsupported BMP"),
    "JPEG without a size": (JPEG[:30], "has no pixels, or no header with its size"),
    "JPEG of segments": (JPEG[:2] + b"\xff\xe0\0\2" * 100_000, "has no pixels, or no header with its size"),
    "JPEG of scans": (JPEG[:-2] + b"\xff\xda\0\2" * 60, "is a JPEG of more than 50 scans"),
    "GIF without a picture": (GIF[: 13 + 768] + b";", "has no pixels, or no header with its size"),
    "GIF of extensions": (GIF[: 13 + 768] + b"\x21\xfe\0" * 100_000, "in too many small blocks"),
    "half a PNG": (PNG[:1000], "is broken or cut off and cannot be decoded"),
    "half a JPEG": (JPEG[:900], "is broken or cut off"),
    "half a GIF": (GIF[:-900], "is broken or cut off"),
    "half a BMP": (BMP[:-900], "is broken or cut off"),
    "half a WebP": (WEBP[:-900], "is broken or cut off"),
    "BMP with colours in another order": (
        with_bytes(encoded(NOISE.convert("RGBA"), "BMP"), 30, b"\3") + bytes(12),
        "is an unsupported BMP",
    ),
    "PNG of a long row": (encoded(Image.new("1", (40_000, 3)), "PNG"), "has a side of 40000 pixels"),
    "animated WebP": (
        encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)]),
        "is an animated WebP: save its first image as PNG",
    ),
    "WebP of 200 million": (
        with_bytes(encoded(NOISE, "WEBP", lossless=True), 21, struct.pack("<I", 14_999 + (14_999 << 14))),
        "is 225000000 pixels large",
    ),
    "other RIFF": (b"RIFF" + bytes(4) + b"WAVEfmt ", "is not a PNG, JPEG, GIF, BMP or WebP file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_pictures_that_cannot_be_used_are_refused(image, name):
    bad, sentence = WRONG[name]
    assert_rejected(image["serving_default"], f"image_bytes 1 .*{sentence}", image_bytes=tf.constant([PNG, bad, JPEG]))
    with pytest.raises(decoder.ImageError, match=sentence):  # as training
        decoder.read(bad)
    assert image["serving_default"](image_bytes=tf.constant([PNG]))["label"].shape == (1, 5)


def test_a_bmp_from_the_top_down_is_the_same_picture():
    rows = np.frombuffer(BMP[54:], np.uint8).reshape(37, -1)
    upside_down = with_bytes(BMP[:54], 22, struct.pack("<i", -37)) + rows[::-1].tobytes()
    decoded = pictures.decode(tf.constant([BMP, upside_down]), 8, 8, "image_bytes").numpy()
    assert np.array_equal(decoded[0], decoded[1])


def test_every_wrong_row_can_be_the_last_one_that_is_read(image):
    assert_rejected(image["explain"], "image_bytes 0 is broken", image_bytes=tf.constant([PNG[:1000]]))
    assert_rejected(
        image["explain"], "image_bytes 2 is broken", image_bytes=tf.constant([PNG, PNG, PNG[:1000], JPEG[:900]])
    )


def test_wrong_examples_name_the_row(image):
    other = tf.train.Example(features=tf.train.Features(feature={"image": tf.train.Feature()})).SerializeToString()
    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    wrong_type = tf.train.Example(features=tf.train.Features(feature={"image_bytes": number})).SerializeToString()
    good = example_message(PNG)
    for bad in (b"", b"\xff\xff\xff", other, wrong_type):
        assert_rejected(
            image["classify"], "inputs 1 is no serialized tf.Example .*image_bytes", inputs=tf.constant([good, bad])
        )
    assert_rejected(
        image["classify"], "image_bytes 1 is not a PNG", inputs=tf.constant([good, example_message(b"text")])
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 255.5, 1e30])
def test_pixels_out_of_range_name_the_row(image, value):
    pixels = np.zeros((3, 8, 8, 1), np.float32)
    pixels[2, 7, 0] = value
    assert_rejected(
        image["pixels"], "pixels 2 has values that are not numbers from 0 to 255", pixels=tf.constant(pixels)
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_mutated_files_are_answered_or_refused_by_name(kind):
    """300 files with wrong bytes, numbers and lengths, mostly in their headers, always the same ones."""
    draw = random.Random(kind)
    files = {"PNG": [PNG], "JPEG": [JPEG, encoded(NOISE, "JPEG", progressive=True)], "GIF": [GIF], "BMP": [BMP]}
    files |= {"WEBP": [WEBP, *(encoded(NOISE.convert("RGBA"), "WEBP", lossless=lossless) for lossless in (0, 1))]}
    files = files[kind]
    files = [*files, ANIMATION] if kind == "GIF" else [*files, encoded(NOISE.convert("L"), kind)]
    decode = tf.function(lambda files: pictures.decode(files, 4, 4, "image_bytes"))
    answered, refusals = 0, []
    for _ in range(300):
        file = mutated(bytearray(draw.choice(files)), draw)
        try:
            answered += decode(tf.constant([PNG, file])).shape == (2, 4, 4, 3)
        except tf.errors.InvalidArgumentError as error:
            refusals.append(error.message)
    assert all("image_bytes 1 " in message for message in refusals)
    assert 10 < answered < 290


def mutated(file, draw):
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(min(len(file), draw.choice([64, len(file)])))
        match draw.randrange(4):
            case 0:
                file[place] = draw.randrange(256)
            case 1:
                number = draw.choice([0, 1, -1, 16, -37, 1000, 2**16 - 1, 10**6, 2**31 - 1, -(2**31)])
                file[place : place + 4] = number.to_bytes(4, draw.choice(["little", "big"]), signed=True)
            case 2:
                del file[place : place + draw.randint(1, 8)]
            case 3:
                file = file[: max(8, draw.randrange(len(file)))] if draw.random() < 0.3 else file + file[place:]
    return bytes(file)
