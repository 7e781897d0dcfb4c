"""Random changes of whole batches of training images, in NumPy.

Each function draws all its numbers from the given generator, so that a batch stays a function of its seed and step.

    B images of Y × X pixels with C channels, uint8 [B, Y, X, C]
"""

import math

import numpy as np

from kerasnets.data.batches import Batch

GRAY = 128  # about 0 for the networks, which map 0..255 to -1..1
ASPECTS = (3 / 4, 4 / 3)  # width / height of `random_crops`


def shift_and_flip(pixels: np.ndarray, shift: int, flip: bool, random: np.random.Generator) -> np.ndarray:
    """-> images shifted by up to `shift` pixels, with black borders, and, if `flip`, flipped horizontally with
    probability 1/2."""
    count, rows, columns, _ = pixels.shape
    padded = np.pad(pixels, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    down, right = random.integers(0, 2 * shift + 1, (2, count, 1))
    y = (down + np.arange(rows))[:, :, np.newaxis]
    x = (right + np.arange(columns))[:, np.newaxis, :]
    if flip:
        x = np.where(random.random((count, 1, 1)) < 0.5, x[:, :, ::-1], x)
    return padded[np.arange(count)[:, np.newaxis, np.newaxis], y, x]


def random_crops(pixels: np.ndarray, smallest: float, random: np.random.Generator) -> np.ndarray:
    """-> a random rectangle of each image, resized to Y × X (Szegedy et al. 2015, section 6).

    Its area is a share of the image's from `smallest` to 1, and its width / height is multiplied by 3/4 to 4/3. It is
    cut off at the size of the image.
    """
    count, rows, columns, channels = pixels.shape
    area = random.uniform(smallest, 1.0, count)
    aspect = np.exp(random.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1]), count))
    height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
    down = interpolation(rows, np.minimum(height, 1.0), random.random((count,)))
    right = interpolation(columns, np.minimum(width, 1.0), random.random((count,)))
    crops = down @ pixels.reshape(count, rows, -1).astype(np.float32)
    crops = crops.reshape(count, rows, columns, channels).swapaxes(1, 2)  # so that one product has all rows
    crops = right @ crops.reshape(count, columns, -1)
    return np.rint(crops).astype(np.uint8).reshape(count, columns, rows, channels).swapaxes(1, 2)


def interpolation(size: int, share: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """-> float32 [B, size, size]: row i has the weights of linear interpolation at the center of the i-th of `size`
    equal parts of a segment. Share [B]: its length, 1 = the whole; offset [B], 0..1: from the first place to the last.
    """
    start = offset * (1 - share)
    centers = (start[:, np.newaxis] + share[:, np.newaxis] * (np.arange(size) + 0.5) / size) * size - 0.5
    centers = np.clip(centers, 0, size - 1).astype(np.float32)  # as far as the centers of the outermost pixels
    distances = np.abs(centers[:, :, np.newaxis] - np.arange(size, dtype=np.float32))
    return np.maximum(1 - distances, 0)


def cutout(pixels: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    """-> images with a gray square of `side` pixels at a random place (DeVries & Taylor 2017, section 3).

    Its center is any pixel, so that a part of it may lie outside the image.
    """
    count, rows, columns, _ = pixels.shape

    def covers(length: int) -> np.ndarray:
        start = random.integers(0, length, (count, 1)) - side // 2
        return (np.arange(length) >= start) & (np.arange(length) < start + side)

    covered = covers(rows)[:, :, np.newaxis] & covers(columns)[:, np.newaxis, :]
    return np.where(covered[..., np.newaxis], np.uint8(GRAY), pixels)


def mixup(batch: Batch, alpha: float, random: np.random.Generator) -> Batch:
    """pixels uint8 [B, Y, X, C], labels [B] -> each image mixed with another one (Zhang et al. 2018, section 1):

        pixels = λ x + (1 - λ) x'        target = λ y + (1 - λ) y'        λ ~ Beta(α, α) for each image

    The target is in three columns: `labels` y, `other_labels` y', `label_weight` λ float32 [B].
    """
    pixels, labels = batch["pixels"], batch["labels"]
    partner = random.permutation(len(labels))
    weight = random.beta(alpha, alpha, len(labels)).astype(np.float32)
    share = weight[:, np.newaxis, np.newaxis, np.newaxis]
    mixed = share * pixels + (1 - share) * pixels[partner]
    return {
        "pixels": np.rint(mixed).astype(np.uint8),
        "labels": labels,
        "other_labels": labels[partner],
        "label_weight": weight,
    }
