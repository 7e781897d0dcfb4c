"""Image classification: outputs of the signatures, explanations, and error messages for invalid images."""

import hashlib
import io
import json
import random
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from rejected_requests import assert_rejected

from kerasnets.checks import RequestError
from kerasnets.config.image_networks import (
    ConvNetOptions,
    SequenceClassifierOptions,
    SequenceGeneratorOptions,
    VisionTransformerOptions,
)
from kerasnets.config.run import Training
from kerasnets.images import decoder, gif, headers
from kerasnets.models import ConvNet
from kerasnets.run.examples import load
from kerasnets.tasks.image_classification.explanations import grad_cam
from kerasnets.tasks.image_classification.facts import ImageClassification
from kerasnets.tasks.image_classification.task import ImageClassificationTask, example_message, image_files


@pytest.fixture(scope="module")
def loaded(load_run):
    return load_run("image_classification")


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def digits(runs):
    return tf.constant([example["image_bytes"] for example in load(runs["image_classification"] / "examples.json")])


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))
PALETTE = NOISE.convert("P")
PNG, JPEG, BMP, WEBP = (encoded(NOISE, kind) for kind in ("PNG", "JPEG", "BMP", "WEBP"))
GIF = encoded(PALETTE, "GIF")
ANIMATION = encoded(PALETTE, "GIF", save_all=True, append_images=[NOISE.rotate(n).convert("P") for n in range(1, 20)])


# Outputs.


def test_classes_are_sorted_by_score(signatures, digits):
    outputs = signatures["serving_default"](image_bytes=digits)
    assert outputs["label"].shape == outputs["score"].shape == (10, 5)
    assert np.all(np.diff(outputs["score"].numpy()) <= 0)
    assert (outputs["label"].numpy()[:, 0] == [str(n).encode() for n in range(10)]).mean() >= 0.8


def test_pixels_and_files_give_equal_scores(signatures, digits):
    pixels = tf.cast([tf.io.decode_png(data) for data in digits], tf.float32)
    probabilities = signatures["pixels"](pixels=pixels)["probabilities"].numpy()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(10), abs=1e-5)
    top = np.sort(probabilities)[:, ::-1][:, :5]
    assert signatures["serving_default"](image_bytes=digits)["score"].numpy() == pytest.approx(top, abs=1e-6)


def test_classify_returns_all_classes_in_order(signatures, loaded, digits):
    pixels = loaded.task.decode(digits)
    outputs = signatures["classify"](inputs=tf.constant([example_message(file) for file in digits.numpy()]))
    assert outputs["classes"].numpy().tolist() == [[str(n).encode() for n in range(10)]] * 10
    assert outputs["scores"].numpy() == pytest.approx(
        signatures["pixels"](pixels=pixels)["probabilities"].numpy(), abs=1e-6
    )


def test_rows_of_a_batch_are_independent(signatures, loaded, digits):
    for name, inputs in loaded.task.requests([{"image_bytes": file} for file in digits.numpy()]).items():
        batch = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        alone = signatures[name](**{key: tf.constant(value[4:5]) for key, value in inputs.items()})
        for output, value in alone.items():
            if value.dtype == tf.string:
                assert value.numpy().tolist() == batch[output].numpy()[4:5].tolist(), name
            else:
                assert value.numpy() == pytest.approx(batch[output].numpy()[4:5], abs=1e-5), name


def image_task(directory, shape=(8, 8, 1), **options):
    """-> a task without data."""
    metadata = {"classes": ["cat", "bird", "ship"], "shape": shape}
    (directory / "classes.json").write_text(json.dumps(metadata), "utf-8")
    return ImageClassificationTask(ImageClassification(**options), directory)


# Augmentation.


def test_augmentation_shifts_only_by_default(tmp_path):
    pixels = np.zeros((200, 8, 8, 1), np.uint8)
    pixels[:, 3, 4] = 255
    batch = {"pixels": pixels, "labels": np.arange(200, dtype=np.int32)}
    shifted = image_task(tmp_path, augmentation=1).augment(batch, 0)
    assert list(shifted) == ["pixels", "labels"] and shifted["labels"] is batch["labels"]
    positions = {tuple(np.argwhere(p[:, :, 0])[0]) for p in shifted["pixels"]}
    assert positions == {(y, x) for y in (2, 3, 4) for x in (3, 4, 5)}


def test_batches_without_new_options_stay_bit_equal(tmp_path):
    """Trained runs resume with the same batches, hence the hash of those of an earlier version."""
    pixels = np.arange(16 * 8 * 8, dtype=np.int64).astype(np.uint8).reshape(16, 8, 8, 1)
    task = image_task(tmp_path, augmentation=2, flip=True, seed=5)
    sha = hashlib.sha256()
    for step in range(3):
        sha.update(np.ascontiguousarray(task.augment({"pixels": pixels}, step)["pixels"]).data)
    assert sha.hexdigest() == "2e3de76094565c24566290251ba4caa543b90550f81d5037ee34c5cec99afa97"


ALL_AUGMENTATIONS = {"augmentation": 2, "flip": True, "crop": 0.3, "cutout": 3, "mixup": 0.4}


def test_augmented_batches_depend_on_the_seed_and_the_step(tmp_path):
    batch = {"pixels": np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8), "labels": np.arange(9)}
    task, other = (image_task(tmp_path, **ALL_AUGMENTATIONS, seed=seed) for seed in (3, 4))
    backward = {step: task.augment(batch, step) for step in reversed(range(4))}
    for step, expected in backward.items():
        for name, column in image_task(tmp_path, **ALL_AUGMENTATIONS, seed=3).augment(batch, step).items():
            assert np.array_equal(column, expected[name]), name
    for different in (backward[1], other.augment(batch, 0)):
        assert not np.array_equal(different["pixels"], backward[0]["pixels"])
        assert not np.array_equal(different["label_weight"], backward[0]["label_weight"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixup_is_the_cross_entropy_with_the_mixed_targets(smoothing, tmp_path):
    training = Training(label_smoothing=smoothing)
    task = image_task(tmp_path, mixup=0.4, training=training, model=ConvNetOptions(filters=(4,)))
    random = np.random.default_rng(0)
    batch = {"pixels": random.integers(0, 256, (9, 8, 8, 1), np.uint8), "labels": np.arange(9, dtype=np.int32) % 3}
    batch, model = task.augment(batch, 0), task.model()
    tensors = {name: tf.constant(column) for name, column in batch.items()}
    loss, weight, _ = task.loss(model, tensors, (), training=False)
    one_hot, share = np.eye(3), batch["label_weight"][:, np.newaxis]
    targets = share * one_hot[batch["labels"]] + (1 - share) * one_hot[batch["other_labels"]]
    losses = keras.losses.categorical_crossentropy(
        targets, model(batch["pixels"]), from_logits=True, label_smoothing=smoothing
    )
    assert float(loss) == pytest.approx(float(np.sum(losses)), rel=1e-5) and float(weight) == 9
    # Halves of a batch, as on two devices, give the sums of the whole.
    halves = [{name: column[part] for name, column in tensors.items()} for part in (slice(0, 4), slice(4, 9))]
    sums = [task.loss(model, half, (), training=False)[:2] for half in halves]
    assert np.sum(sums, axis=0) == pytest.approx([float(loss), 9], rel=1e-5)


def test_invalid_augmentations(tmp_path):
    for options, message in (
        ({"crop": 0.0}, "crop is 0.0; it must be more than 0 and at most 1"),
        ({"cutout": -1}, "cutout is -1; it must be 0 or more"),
        ({"mixup": -0.1}, "mixup is -0.1; it must be 0 or more"),
        ({"mixup": 0.2, "model": SequenceGeneratorOptions()}, "mixup is 0.2; it must be 0 with .*sequence_generator"),
    ):
        with pytest.raises(RequestError, match=message):
            ImageClassification(**options)
    with pytest.raises(RequestError, match="cutout is 8; it must be less than 8, the side of the images"):
        image_task(tmp_path, cutout=8, model=ConvNetOptions(filters=(4,))).check()


# Explanations.


def test_explain_agrees_with_serving_default(signatures, digits):
    expected, explained = signatures["serving_default"](image_bytes=digits), signatures["explain"](image_bytes=digits)
    assert np.array_equal(expected["label"], explained["label"])
    assert explained["score"].numpy() == pytest.approx(expected["score"].numpy(), abs=1e-5)
    heat = explained["heatmap"].numpy()
    assert heat.shape == (10, 8, 8) and heat.min() >= 0 and heat.max(axis=(1, 2)) == pytest.approx(np.ones(10))


def random_network(shape, **options):
    """-> a ConvNet with random biases and normalizations instead of the initial ones."""
    keras.utils.set_random_seed(3)
    model = ConvNet(4, **options)
    model.build((None, *shape))
    draw = np.random.default_rng(3)
    for variable in model.variables:
        if variable.dtype == "float32" and len(variable.shape) == 1:
            variable.assign(draw.uniform(0.5, 1.5, variable.shape))
    return model


NETWORKS = {
    "average": {"filters": (4, 8)},
    "max": {"filters": (4, 8), "head": "max"},
    "flatten": {"filters": (4, 6), "head": "flatten", "hidden": (12, 7), "padding": "valid", "norm": "none"},
    "one block": {"filters": (5,), "hidden": (6,)},
    "residual": {"filters": (4, 8), "residual_blocks": 1},
    "pre": {"filters": (4, 8), "residual_blocks": 1, "norm": "pre", "widen": 2},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_grad_cam_equals_the_equations_of_the_paper(network):
    """Compared with finite differences, and equations 1 and 2 in NumPy.

    The change of the logit if all positions of a map grow equally is the sum of its derivatives by each of them.
    """
    model = random_network((12, 12, 3), **NETWORKS[network])
    pixels = tf.random.stateless_uniform((2, 12, 12, 3), (0, 1), 0, 255)
    logits, heat, first = tf.function(lambda pixels: grad_cam(model, tf.identity, pixels))(pixels)
    assert logits.numpy() == pytest.approx(model(pixels).numpy(), abs=1e-4)
    first_maps, maps = model.feature_maps(pixels)
    assert first.numpy() == pytest.approx(first_maps.numpy(), abs=1e-5)
    assert model.classify_maps(maps).numpy() == pytest.approx(logits.numpy(), abs=1e-4)
    step, count = 1e-2, maps.shape[-1]
    for row, best in enumerate(logits.numpy().argmax(axis=1)):
        row_maps = maps.numpy()[row]
        shifts = step * np.eye(count, dtype=np.float32)[:, np.newaxis, np.newaxis]  # [K, 1, 1, K]
        change = (model.classify_maps(row_maps + shifts).numpy() - model.classify_maps(row_maps - shifts).numpy())[
            :, best
        ] / (2 * step)
        weights = change / (row_maps.shape[0] * row_maps.shape[1])  # equation 1
        expected = np.maximum((row_maps * weights).sum(axis=-1), 0)  # equation 2
        expected = tf.image.resize(expected[..., np.newaxis], (12, 12)).numpy()[..., 0]
        expected /= max(expected.max(), 1e-12)
        assert heat.numpy()[row] == pytest.approx(expected, abs=5e-3)


def test_grad_cam_finds_the_bright_pixels_that_decide():
    """One convolution passes brightness on; a brighter image makes one class more probable."""
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
    assert np.all(heat[2].numpy() == 0)  # no evidence for any class, and no NaN


@pytest.mark.parametrize("preset", ["resnet20", "wide", "lenet", "transformer", "spelling", "rows"])
def test_explain_of_every_network(preset, tmp_path):
    """Small networks of the presets' kinds; their rows are independent."""
    models = {
        "resnet20": ConvNetOptions(filters=(4, 8), residual_blocks=2),
        "wide": ConvNetOptions(filters=(4, 8), residual_blocks=1, norm="pre", widen=2),
        "lenet": ConvNetOptions(
            filters=(4, 6), kernel_size=5, padding="valid", norm="none", head="flatten", hidden=(9,)
        ),
        "transformer": VisionTransformerOptions(width=8, num_heads=2, hidden_units=12, num_blocks=2),
        "spelling": SequenceGeneratorOptions(filters=(4, 8), width=6, units=8),
        "rows": SequenceClassifierOptions(units=8),
    }
    task = image_task(tmp_path, (28, 20, 3), model=models[preset])
    explain = task.signatures(task.model())["explain"]
    files = [PNG, JPEG, encoded(Image.new("RGB", (20, 28)), "PNG")]
    batch = explain(image_bytes=tf.constant(files))
    heat, first = batch["heatmap"].numpy(), batch["feature_maps"].numpy()
    assert heat.shape == (3, 28, 20) and np.all((heat >= 0) & (heat <= 1))
    assert set(heat.max(axis=(1, 2)).round(5)) <= {0.0, 1.0} and np.isfinite(first).all()
    shapes = {"lenet": (24, 16, 4), "transformer": (7, 5, 8), "rows": (28, 1, 8)}
    assert first.shape == (3, *shapes.get(preset, (28, 20, 4)))
    alone = explain(image_bytes=tf.constant(files[1:2]))
    assert alone["heatmap"].numpy() == pytest.approx(heat[1:2], abs=1e-3)
    if preset == "rows":
        assert np.all(heat[2] == 0)  # black


# Files.


def test_unreadable_images_are_recorded_as_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for n in range(4):
            (tmp_path / name / f"{n}.png").write_bytes(PNG)
    (tmp_path / "cat" / "4.png").write_bytes(PNG[:1000])
    options = {"dataset": f"folder:{tmp_path}", "model": ConvNetOptions(filters=(4,))}
    with pytest.raises(RequestError, match=r"1 of 9 images in .*: cat/4\.png is broken .* --skip-unreadable"):
        ImageClassificationTask(ImageClassification(**options)).check()
    sizes = ImageClassificationTask(ImageClassification(**options, skip_unreadable=True)).split_sizes()
    assert (sizes["train"], sizes["left_out"]) == (4, {"files unreadable": 1})


def test_formats_and_numbers_of_channels_give_equal_pixels(signatures, loaded):
    gray = np.zeros((16, 16, 1), np.uint8)
    gray[2:14, 6:10] = 255
    gray_image = Image.fromarray(gray[:, :, 0])
    files = [encoded(gray_image.convert(mode), "PNG") for mode in ("L", "RGB", "RGBA", "LA", "P", "1")]
    files += [encoded(gray_image.convert(mode), "JPEG", quality=100) for mode in ("L", "RGB")]
    files += [encoded(gray_image, "JPEG", quality=100, progressive=True), encoded(gray_image, "GIF")]
    files += [encoded(gray_image.convert(mode), "BMP") for mode in ("RGB", "RGBA")]
    decoded = loaded.task.decode(tf.constant(files)).numpy()
    assert decoded.shape == (len(files), 8, 8, 1) and decoded.max() <= 255 and decoded.min() >= 0
    for other in decoded[1:]:
        assert other == pytest.approx(decoded[0], abs=8)  # JPEG is lossy
    assert signatures["serving_default"](image_bytes=tf.constant(files))["label"].shape == (len(files), 5)


def test_images_are_resized_as_by_pillow():
    small = image_files.decode(tf.constant([PNG]), 8, 8, "image_bytes").numpy()[0]
    expected = np.asarray(NOISE.resize((8, 8), Image.Resampling.BILINEAR), np.float32)
    assert small == pytest.approx(expected, abs=2)


def test_header_sizes_equal_those_of_pillow():
    draw = np.random.default_rng(5)
    files, expected = [], []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "WEBP lossless", "WEBP exif"):
        kind, _, variant = kind.partition(" ")
        for width, height in draw.integers(1, 700, (5, 2)):
            image = Image.new("RGB", (int(width), int(height)))
            options = {"icc_profile": bytes(150_000), "exif": b"Exif\0\0" + bytes(40_000)} if kind == "JPEG" else {}
            options |= {"lossless": {"lossless": True}, "exif": {"exif": b"Exif\0\0" + bytes(9)}}.get(variant, {})
            files.append(encoded(image, kind, **options))
            expected.append((height, width))
    sizes = headers.sizes(gif.first_images(tf.constant(files))[0])
    assert np.stack(sizes, axis=1).tolist() == np.array(expected).tolist()


def with_bytes(file, offset, data):
    return file[:offset] + data + file[offset + len(data) :]


JPEG_SIZE = JPEG.index(b"\xff\xc0") + 5
INVALID = {
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
    "GIF without an image": (GIF[: 13 + 768] + b";", "has no pixels, or no header with its size"),
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


@pytest.mark.parametrize("name", INVALID)
def test_invalid_images_are_rejected(signatures, name):
    file, message = INVALID[name]
    assert_rejected(
        signatures["serving_default"], f"image_bytes 1 .*{message}", image_bytes=tf.constant([PNG, file, JPEG])
    )
    with pytest.raises(decoder.ImageError, match=message):  # as in training
        decoder.read(file)
    assert signatures["serving_default"](image_bytes=tf.constant([PNG]))["label"].shape == (1, 5)


def test_a_top_down_bmp_gives_the_same_image():
    rows = np.frombuffer(BMP[54:], np.uint8).reshape(37, -1)
    top_down = with_bytes(BMP[:54], 22, struct.pack("<i", -37)) + rows[::-1].tobytes()
    decoded = image_files.decode(tf.constant([BMP, top_down]), 8, 8, "image_bytes").numpy()
    assert np.array_equal(decoded[0], decoded[1])


def test_the_error_names_the_first_broken_row(signatures):
    assert_rejected(signatures["explain"], "image_bytes 0 is broken", image_bytes=tf.constant([PNG[:1000]]))
    assert_rejected(
        signatures["explain"], "image_bytes 2 is broken", image_bytes=tf.constant([PNG, PNG, PNG[:1000], JPEG[:900]])
    )


def test_errors_name_the_row_of_an_invalid_example(signatures):
    other = tf.train.Example(features=tf.train.Features(feature={"image": tf.train.Feature()})).SerializeToString()
    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    wrong_type = tf.train.Example(features=tf.train.Features(feature={"image_bytes": number})).SerializeToString()
    good = example_message(PNG)
    for bad in (b"", b"\xff\xff\xff", other, wrong_type):
        assert_rejected(
            signatures["classify"],
            "inputs 1 is not a serialized tf.Example .*image_bytes",
            inputs=tf.constant([good, bad]),
        )
    assert_rejected(
        signatures["classify"], "image_bytes 1 is not a PNG", inputs=tf.constant([good, example_message(b"text")])
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, 255.5, 1e30])
def test_errors_name_the_row_of_pixels_out_of_range(signatures, value):
    pixels = np.zeros((3, 8, 8, 1), np.float32)
    pixels[2, 7, 0] = value
    assert_rejected(
        signatures["pixels"], "pixels 2 has values that are not numbers from 0 to 255", pixels=tf.constant(pixels)
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_mutated_files_are_decoded_or_rejected_by_row(kind):
    """300 files with random errors in bytes, numbers and lengths, mostly in their headers, with a fixed seed."""
    draw = random.Random(kind)
    files = {"PNG": [PNG], "JPEG": [JPEG, encoded(NOISE, "JPEG", progressive=True)], "GIF": [GIF], "BMP": [BMP]}
    files |= {"WEBP": [WEBP, *(encoded(NOISE.convert("RGBA"), "WEBP", lossless=lossless) for lossless in (0, 1))]}
    files = files[kind]
    files = [*files, ANIMATION] if kind == "GIF" else [*files, encoded(NOISE.convert("L"), kind)]
    decode = tf.function(lambda files: image_files.decode(files, 4, 4, "image_bytes"))
    decoded, errors = 0, []
    for _ in range(300):
        file = mutated(bytearray(draw.choice(files)), draw)
        try:
            decoded += decode(tf.constant([PNG, file])).shape == (2, 4, 4, 3)
        except tf.errors.InvalidArgumentError as error:
            errors.append(error.message)
    assert all("image_bytes 1 " in message for message in errors)
    assert 10 < decoded < 290


def mutated(file, draw):
    for _ in range(draw.randint(1, 3)):
        offset = draw.randrange(min(len(file), draw.choice([64, len(file)])))
        match draw.randrange(4):
            case 0:
                file[offset] = draw.randrange(256)
            case 1:
                number = draw.choice([0, 1, -1, 16, -37, 1000, 2**16 - 1, 10**6, 2**31 - 1, -(2**31)])
                file[offset : offset + 4] = number.to_bytes(4, draw.choice(["little", "big"]), signed=True)
            case 2:
                del file[offset : offset + draw.randint(1, 8)]
            case 3:
                file = file[: max(8, draw.randrange(len(file)))] if draw.random() < 0.3 else file + file[offset:]
    return bytes(file)
