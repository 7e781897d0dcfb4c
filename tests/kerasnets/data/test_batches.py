"""The batch of a step depends only on (seed, step); epochs cover everything; shapes are fixed."""

import collections

import numpy as np
import pytest

from kerasnets.data.batches import (
    LengthBuckets,
    epoch_order,
    evaluation_batches,
    image_batch,
    text_batch,
    text_steps,
    to_dataset,
)
from kerasnets.data.token_lists import TokenLists

COUNT, BATCH = 103, 16
IMAGES = np.arange(COUNT, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((1, 4, 3, 1), np.uint8)
LABELS = np.arange(COUNT, dtype=np.int32)


def images(step: int, seed: int = 0) -> dict[str, np.ndarray]:
    return image_batch(IMAGES, LABELS, BATCH, seed, step)


def buckets(count: int = 500, budget: int = 200, seed: int = 0) -> LengthBuckets:
    random = np.random.default_rng(1)
    lists = [[1 + i] * n for i, n in enumerate(random.geometric(0.1, count) % 40 + 2)]
    targets = [ids[:-1] + [7] * random.integers(1, 6) for ids in lists]
    return LengthBuckets(TokenLists.of(lists), TokenLists.of(targets), budget, seed)


def texts(step: int, seed: int = 0, count: int = 1000) -> dict[str, np.ndarray]:
    return text_batch(np.arange(count, dtype=np.int32), 4, 10, seed, step)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: lambda step: images(step, seed),
        lambda seed: lambda step: texts(step, seed),
        lambda seed: buckets(seed=seed).batch,
    ],
    ids=["images", "texts", "pairs"],
)
class TestEveryKind:
    def test_depends_only_on_seed_and_step(self, make):
        forward, backward = make(3), make(3)
        steps = range(60)
        backward_batches = {step: backward(step) for step in reversed(steps)}
        assert all(equal(forward(step), backward_batches[step]) for step in steps)
        assert not all(equal(make(4)(step), backward_batches[step]) for step in range(3))

    def test_resuming_gives_the_same_batches(self, make):
        whole = list(to_dataset(make(0), 0, 12).as_numpy_iterator())
        resumed = [
            *to_dataset(make(0), 0, 5).as_numpy_iterator(),
            *to_dataset(make(0), 5, 12).as_numpy_iterator(),
        ]
        assert len(whole) == len(resumed) == 12
        assert all(equal(one, other) for one, other in zip(whole, resumed, strict=True))


def test_each_epoch_has_its_own_permutation():
    orders = [epoch_order(50, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(np.array_equal(np.sort(order), np.arange(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9
    with pytest.raises(ValueError):
        orders[0][0] = 1


class TestImages:
    def test_shapes_and_pairing(self):
        for step in range(20):
            batch = images(step)
            assert batch["pixels"].shape == (BATCH, 4, 3, 1)
            assert batch["pixels"].dtype == np.uint8
            assert batch["labels"].dtype == np.int32
            assert np.array_equal(batch["pixels"][:, 0, 0, 0], batch["labels"])

    def test_epochs_follow_each_other(self):
        stream = np.concatenate([images(step)["labels"] for step in range(COUNT)])
        for epoch in range(BATCH):
            assert np.array_equal(np.sort(stream[epoch * COUNT : (epoch + 1) * COUNT]), LABELS)

    def test_batch_larger_than_the_dataset(self):
        labels = image_batch(IMAGES[:5], LABELS[:5], 12, 0, 1)["labels"]
        assert labels.shape == (12,)
        assert collections.Counter(labels).keys() == set(range(5))


class TestTexts:
    def test_targets_follow_inputs_and_rows_continue(self):
        steps = text_steps(np.arange(1000), 4, 10)
        assert steps == 24
        for step in range(3 * steps):
            batch = texts(step)
            assert batch["inputs"].shape == batch["targets"].shape == (4, 10)
            assert np.array_equal(batch["targets"], batch["inputs"] + 1)
            assert batch["reset"].tolist() == [step % steps == 0] * 4
            if step % steps:
                assert np.array_equal(batch["inputs"][:, 0], texts(step - 1)["targets"][:, -1])

    def test_characters_occur_once_per_epoch(self):
        seen = np.concatenate([texts(step)["inputs"].ravel() for step in range(24)])
        assert len(set(seen)) == len(seen) == 24 * 40

    def test_epochs_start_at_different_places(self):
        starts = {int(texts(24 * epoch)["inputs"][0, 0]) for epoch in range(12)}
        assert len(starts) > 5
        assert max(starts) < 40

    def test_first_and_last_characters_are_read(self):
        seen = {int(i) for epoch in range(150) for step in (0, 23) for i in texts(24 * epoch + step)["targets"].ravel()}
        assert {1, 999} <= seen

    def test_the_shortest_text(self):
        batch = texts(0, count=50)
        assert batch["targets"].max() == 49 or batch["inputs"].min() >= 0
        with pytest.raises(ValueError, match="it must have 50"):
            texts(0, count=49)


class TestLengthBuckets:
    def test_batches_have_fixed_shapes(self):
        length_buckets = buckets()
        seen = {
            (*b["source"].shape, b["target"].shape[1])
            for b in map(length_buckets.batch, range(3 * length_buckets.steps_per_epoch))
        }
        assert seen == set(length_buckets.shapes)
        assert len(length_buckets.shapes) <= len(LengthBuckets.QUANTILES)
        assert all(rows * max(source, target) <= 200 for rows, source, target in length_buckets.shapes)

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_pairs_occur_once_per_epoch(self, epoch):
        length_buckets = buckets()
        steps = range(epoch * length_buckets.steps_per_epoch, (epoch + 1) * length_buckets.steps_per_epoch)
        firsts = [row[0] for step in steps for row in length_buckets.batch(step)["source"] if row.any()]
        assert sorted(firsts) == list(range(1, 501))
        assert len(length_buckets) == 500

    def test_rows_are_the_pairs(self):
        sources, targets = [[5, 2], [6, 6, 6, 2], [7, 2]], [[1, 8, 2], [1, 9, 2], [1, 4, 4, 4, 2]]
        length_buckets = LengthBuckets(TokenLists.of(sources), TokenLists.of(targets), 10)
        found = [
            ([i for i in s if i], [i for i in t if i])
            for step in range(length_buckets.steps_per_epoch)
            for s, t in zip(
                length_buckets.batch(step)["source"].tolist(),
                length_buckets.batch(step)["target"].tolist(),
                strict=True,
            )
            if any(s)
        ]
        assert sorted(found) == sorted(zip(sources, targets, strict=True))

    def test_padding_waste(self):
        length_buckets = buckets()
        batches = [length_buckets.batch(step) for step in range(length_buckets.steps_per_epoch)]
        padding = sum(int((side == 0).sum()) for batch in batches for side in batch.values())
        assert length_buckets.padding_waste == pytest.approx(
            padding / sum(side.size for b in batches for side in b.values())
        )
        assert length_buckets.padding_waste < 0.25

    def test_pair_longer_than_the_budget_has_its_own_batch(self):
        assert LengthBuckets(TokenLists.of([[1] * 30]), TokenLists.of([[1]]), 10).shapes == [(1, 30, 1)]

    def test_invalid_lists(self):
        with pytest.raises(ValueError, match="got 0 and 0"):
            LengthBuckets(TokenLists.of([]), TokenLists.of([]), 10)
        with pytest.raises(ValueError, match="got 1 and 2"):
            LengthBuckets(TokenLists.of([[1]]), TokenLists.of([[1], [2]]), 10)


class TestDataset:
    def test_static_shapes_where_they_are_fixed(self):
        assert to_dataset(images, 0, 2).element_spec["pixels"].shape == [BATCH, 4, 3, 1]
        assert to_dataset(texts, 0, 2).element_spec["reset"].shape == [4]
        assert to_dataset(buckets().batch, 0, 2).element_spec["source"].shape.as_list() == [None, None]

    @pytest.mark.parametrize("count", [1, 15, 16, 17, 103])
    def test_evaluation_sees_everything_once(self, count):
        batch, steps = evaluation_batches({"pixels": IMAGES[:count], "labels": LABELS[:count]}, BATCH)
        seen = list(to_dataset(batch, 0, steps).as_numpy_iterator())
        assert all(b["labels"].shape == (BATCH,) for b in seen)
        weights = np.concatenate([b["weight"] for b in seen])
        labels = np.concatenate([b["labels"] for b in seen])
        assert labels[weights == 1].tolist() == list(range(count))
        assert weights.dtype == np.float32
        assert weights.sum() == count
