"""Augmentation of image batches: each function's property, and the batches of a step with all of them."""

import numpy as np
import pytest
from PIL import Image

from kerasnets.data.augmentation import ASPECTS, GRAY, cutout, interpolation, mixup, random_crops, shift_and_flip

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (64, 10, 12, 3), np.uint8)
LABELS = RNG.integers(0, 5, 64).astype(np.int32)


def generator(seed=0):
    return np.random.default_rng((3, seed))


AUGMENTATIONS = {
    "shift and flip": lambda random: shift_and_flip(PIXELS, 2, True, random),
    "crop": lambda random: random_crops(PIXELS, 0.3, random),
    "cutout": lambda random: cutout(PIXELS, 4, random),
    "mixup": lambda random: mixup({"pixels": PIXELS, "labels": LABELS}, 0.5, random)["pixels"],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_changes_depend_on_the_generator_alone(name):
    before = PIXELS.copy()
    one, same, other = (AUGMENTATIONS[name](generator(seed)) for seed in (0, 0, 1))
    assert one.shape == PIXELS.shape and one.dtype == np.uint8
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert not np.array_equal(one, PIXELS) and np.array_equal(PIXELS, before)


def test_images_without_shift_and_flip_stay_unchanged():
    assert np.array_equal(shift_and_flip(PIXELS, 0, False, generator()), PIXELS)


def test_flips_are_horizontal_and_half_of_all():
    pixels = np.tile(PIXELS[:1], (400, 1, 1, 1))
    flipped = shift_and_flip(pixels, 0, True, generator())
    is_flipped = (flipped == pixels[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(is_flipped | (flipped == pixels).all(axis=(1, 2, 3)))
    assert 0.4 < is_flipped.mean() < 0.6


# Crops.


def test_the_whole_image_is_its_own_crop():
    assert np.array_equal(interpolation(5, np.ones(2), np.array([0.0, 0.7])), np.tile(np.eye(5), (2, 1, 1)))


def test_crops_are_resized_as_by_pillow():
    rows, columns = 10, 12
    height, width, top, left = (RNG.uniform(0.1, 1, 20) for _ in range(4))
    images = RNG.uniform(0, 255, (20, rows, columns)).astype(np.float32)
    ours = interpolation(rows, height, top) @ images @ interpolation(columns, width, left).swapaxes(1, 2)
    for n, image in enumerate(images):
        y, x = top[n] * (1 - height[n]) * rows, left[n] * (1 - width[n]) * columns
        box = (x, y, x + width[n] * columns, y + height[n] * rows)
        expected = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR, box=box)
        assert ours[n] == pytest.approx(np.asarray(expected), abs=1e-2)


def test_crops_have_the_shares_of_the_paper():
    """On ramps, the first and the last pixel show where a crop starts and ends."""
    count, size = 1000, 64
    ramp = np.arange(size, dtype=np.uint8)
    pixels = np.empty((count, size, size, 2), np.uint8)
    pixels[..., 0], pixels[..., 1] = ramp[:, np.newaxis], ramp
    crops = random_crops(pixels, 0.2, generator()).astype(float)
    height = (crops[:, -1, 0, 0] - crops[:, 0, 0, 0]) / (size - 1)
    width = (crops[:, 0, -1, 1] - crops[:, 0, 0, 1]) / (size - 1)
    area, inside = height * width, (height < 0.98) & (width < 0.98)
    assert 0.18 < area.min() < 0.23 and area.max() > 0.9
    aspect = (width / height)[inside]
    assert ASPECTS[0] - 0.03 < aspect.min() < 0.78 and 1.3 < aspect.max() < ASPECTS[1] + 0.03
    assert crops[:, 0, 0, 0].min() == 0 and crops[:, -1, 0, 0].max() >= size - 2  # as far as the borders
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)


# Cutout.


def test_cutout_covers_a_square_around_any_pixel():
    side, pixels = 4, np.zeros((3000, 10, 12, 3), np.uint8)
    covered = cutout(pixels, side, generator()) == GRAY
    assert np.array_equal(covered.any(axis=3), covered.all(axis=3))
    rows, columns = covered.any(axis=(2, 3)).sum(axis=1), covered.any(axis=(1, 3)).sum(axis=1)
    assert np.array_equal(covered[..., 0].sum(axis=(1, 2)), rows * columns)  # a rectangle
    assert set(rows) == set(columns) == {2, 3, 4}  # cut off at the borders
    # Each pixel of the middle is covered by 4 · 4 of the 10 · 12 centers.
    assert covered[:, 4:6, 4:8].mean() == pytest.approx(16 / 120, abs=0.02)


def test_cutout_leaves_other_pixels_unchanged():
    changed = cutout(PIXELS, 4, generator())
    assert np.array_equal(changed[changed != GRAY], PIXELS[changed != GRAY])


# Mixup.


def test_mixup_mixes_images_and_labels_with_the_same_weight():
    batch = mixup({"pixels": PIXELS, "labels": LABELS}, 0.7, generator())
    assert {name: (value.dtype.name, value.shape) for name, value in batch.items()} == {
        "pixels": ("uint8", PIXELS.shape),
        "labels": ("int32", (64,)),
        "other_labels": ("int32", (64,)),
        "label_weight": ("float32", (64,)),
    }
    assert np.array_equal(batch["labels"], LABELS)
    assert sorted(batch["other_labels"]) == sorted(LABELS)  # each image is the partner of one
    for mixed, image, weight, other in zip(
        batch["pixels"], PIXELS, batch["label_weight"], batch["other_labels"], strict=True
    ):
        expected = weight * image + (1 - weight) * PIXELS[other == LABELS]
        assert np.abs(expected - mixed).max(axis=(1, 2, 3)).min() <= 0.501  # rounded


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_mixup_draws_weights_of_a_beta_distribution(alpha):
    pixels, labels = np.zeros((20_000, 1, 1, 1), np.uint8), np.zeros(20_000, np.int32)
    weights = mixup({"pixels": pixels, "labels": labels}, alpha, generator())["label_weight"]
    assert weights.mean() == pytest.approx(0.5, abs=0.01)
    assert weights.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
