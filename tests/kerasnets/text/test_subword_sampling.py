"""Subword sampling: the distribution of segmentations, and what all of them keep."""

import collections
import math
import random

import numpy as np
import pytest

from kerasnets.data import cldr
from kerasnets.text.sampling import SubwordSampler
from kerasnets.text.training import train_pieces
from kerasnets.text.unigram import END, FIRST_BYTE, START, Unigram
from kerasnets.text.units import normalize, units

PIECES = [("▁", -3.0), ("a", -2.0), ("b", -2.5), ("c", -3.5), ("ab", -3.0), ("bc", -4.0), ("▁a", -2.8), ("▁abc", -5.0)]


@pytest.fixture(scope="module")
def model() -> Unigram:
    lines = [line for pair in cldr.pairs()[:1000] for line in pair]
    return Unigram(train_pieces([units(line) for line in lines], 600))


def segmentations(model: Unigram, text: str) -> list[list[str]]:
    """-> all ways to spell `text` with pieces."""
    if not text:
        return [[]]
    starts = [text[:n] for n in range(1, len(text) + 1) if text[:n] in model.scores]
    return [[first, *rest] for first in starts for rest in segmentations(model, text[len(first) :])]


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_segmentations_are_drawn_with_their_smoothed_probabilities(alpha):
    model, draw = Unigram(PIECES), random.Random(0)
    sampler, count = SubwordSampler(model, alpha), 20_000
    scores = dict(PIECES)
    weights = {tuple(s): math.exp(alpha * sum(map(scores.get, s))) for s in segmentations(model, "▁abc")}
    assert len(weights) == 6
    ids = model.tokenize("abc")
    drawn = collections.Counter(tuple(model.names[i] for i in sampler.sample(ids, 10, draw)) for _ in range(count))
    assert drawn.keys() <= weights.keys()
    expected = {s: count * weight / sum(weights.values()) for s, weight in weights.items()}
    chi_square = sum((drawn[s] - expected[s]) ** 2 / expected[s] for s in weights)
    assert chi_square < len(weights) + 5 * math.sqrt(2 * len(weights))


def test_a_large_alpha_gives_the_most_probable_segmentation(model):
    sampler, draw = SubwordSampler(model, 1e4), random.Random(0)
    for line, _ in cldr.pairs()[:200]:
        ids = [START, *model.tokenize(line), END]
        assert sampler.sample(ids, 100, draw) == ids


def test_all_segmentations_spell_the_text(model):
    sampler, draw = SubwordSampler(model, 0.1), random.Random(0)
    texts = [line for pair in cldr.pairs()[:100] for line in pair] + ["", "日本 😀 é.", "one" * 50, "x" * 200]
    changed = 0
    for text in texts:
        ids = model.tokenize(text)
        sampled = sampler.sample([*ids, END], 1000, draw)
        assert model.detokenize(sampled) == normalize(text) and sampled[-1] == END
        # Bytes only spell characters that no piece covers.
        assert sum(FIRST_BYTE <= i < FIRST_BYTE + 256 for i in sampled) == sum(
            FIRST_BYTE <= i < FIRST_BYTE + 256 for i in ids
        )
        changed += sampled[:-1] != ids
    assert changed > len(texts) / 2


def test_a_segmentation_longer_than_the_limit_is_replaced(model):
    sampler, draw = SubwordSampler(model, 0.01), random.Random(0)
    ids = [START, *model.tokenize("nineteen hundred and twenty-three"), END]
    limit = len(ids) - 2
    sampled = [sampler.sample(ids, limit, draw) for _ in range(20)]
    assert all(len(row) - 2 <= limit for row in sampled) and ids in sampled
    assert all(len(row) - 2 > limit for row in (sampler.sample(ids, 1000, draw) for _ in range(5)))


def test_rows_are_a_function_of_their_seed(model):
    rows = np.zeros((3, 40), np.int32)
    for row, text in zip(rows, ["twenty-three", "Monday"], strict=False):  # the last row is padding
        ids = [START, *model.tokenize(text), END]
        row[: len(ids)] = ids
    sampled = [SubwordSampler(model, 0.2).sample_rows(rows, 38, seed) for seed in ("1 2", "1 2", "1 3")]
    assert np.array_equal(sampled[0], sampled[1])
    assert not np.array_equal(sampled[0], sampled[2])
    assert sampled[0].dtype == np.int32 and sampled[0][:, -1].any() and not sampled[0][2].any()
    assert [model.detokenize(row) for row in sampled[0]] == ["twenty-three", "Monday", ""]
