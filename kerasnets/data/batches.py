"""Batches as a function of the step: the batch at step s depends only on (seed, s).

So training resumes exactly by starting at step s: no iterator state has to be saved. All functions are pure NumPy;
`to_dataset` turns any of them into a tf.data pipeline.

    B batch, T time, S source, N examples
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import numpy as np

from kerasnets.checks import RequestError
from kerasnets.data.token_lists import TokenLists

Batch = dict[str, np.ndarray]
failures: list[RequestError] = []  # of batch functions in datasets; tf.data raises an error of its own for each


def generator(*seed: int) -> np.random.Generator:
    """-> a random generator that depends on all the given numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))


@functools.lru_cache(maxsize=4)  # consecutive steps use the same order
def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """-> the order of `count` examples in an epoch (read-only)."""
    order = generator(seed, epoch).permutation(count)
    order.flags.writeable = False
    return order


def image_batch(images: Any, labels: np.ndarray, batch_size: int, seed: int, step: int) -> Batch:
    """-> pixels uint8 [B, Y, X, C], labels int32 [B]. images: an array or `ImageFiles`.

    The orders of the epochs are concatenated: the last batch of one is filled from the next, so all batches have the
    same shape and every example occurs equally often.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = np.divmod(positions, len(labels))
    indices = np.concatenate(
        [epoch_order(len(labels), seed, int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)]
    )
    return {"pixels": np.asarray(images[indices]), "labels": labels[indices]}


def check_text_length(ids: Sized, batch_size: int, length: int) -> None:
    """Raises: RequestError if a text is too short for one step of `text_batch`."""
    if len(ids) - length < batch_size * length:
        raise RequestError(
            f"a text of {len(ids):,} characters is too short for {batch_size} rows of {length}: it must have "
            f"{(batch_size + 1) * length:,}; use a smaller batch, a shorter sequence or a longer text"
        )


def text_steps(ids: Sized, batch_size: int, length: int) -> int:
    """-> the steps per epoch of `text_batch`."""
    check_text_length(ids, batch_size, length)
    return (len(ids) - length) // (batch_size * length)


def text_batch(ids: Any, batch_size: int, length: int, seed: int, step: int) -> Batch:
    """-> inputs, targets int32 [B, T], reset bool [B]: for back-propagation truncated after T characters.

    ids: int32 [N], an array or an `EncodedText`. The text is cut into B consecutive rows; each step reads the next T
    characters of each row, so that states can be carried; `targets` are the characters after `inputs`. At the first
    step of an epoch `reset` is true: the text is cut again, from another offset.
    """
    steps = text_steps(ids, batch_size, length)
    epoch, index = divmod(step, steps)
    row = steps * length
    offset = generator(seed, epoch).integers(len(ids) - batch_size * row)
    starts = offset + index * length + np.arange(batch_size)[:, np.newaxis] * row
    rows = ids[starts + np.arange(length + 1)].astype(np.int32, copy=False)
    return {
        "inputs": rows[:, :-1],
        "targets": rows[:, 1:],
        "reset": np.full(batch_size, index == 0),  # one per row, so that it is split over devices
    }


def varying_shapes(function: Callable) -> Callable:
    """Mark a batch function whose batches differ in shape."""
    vars(function)["varying_shapes"] = True
    return function


class LengthBuckets:
    """Pairs of id lists in batches of similar lengths, each of one of a few fixed shapes.

    Pairs are sorted into buckets by the length of their longer side, at quantiles of all lengths. A bucket has one
    shape, [B, S] and [B, T]: its longest source and target, and as many rows as the budget of ids allows on either
    side. Each epoch shuffles the pairs within buckets and the batches of all buckets. Every pair occurs exactly once
    per epoch; rows of padding, with weight 0, fill a bucket's last batch.
    """

    # Finer at the end, where lengths differ most.
    QUANTILES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.95, 0.99, 1.0)

    def __init__(
        self,
        sources: TokenLists,
        targets: TokenLists,
        budget: int,
        seed: int = 0,
        padding: int = 0,
    ):
        """Args: sources, targets: with start and end tokens if needed; budget: ids per batch, on the longer side,
        including padding."""
        if len(sources) != len(targets) or not len(sources):
            raise ValueError(f"one target for each source is needed; got {len(sources)} and {len(targets)}")
        self.seed, self.padding = seed, padding
        self._sources, self._targets = sources, targets
        lengths = np.stack([sources.lengths, targets.lengths], axis=1)
        longest = lengths.max(axis=1)
        bounds = np.unique(np.quantile(longest, self.QUANTILES, method="higher"))
        bucket = np.searchsorted(bounds, longest)
        self._members = [np.flatnonzero(bucket == b) for b in range(len(bounds))]
        self.shapes = [self._shape(lengths[members], budget) for members in self._members]
        batches = [-(-len(members) // rows) for members, (rows, _, _) in zip(self._members, self.shapes, strict=True)]
        self.steps_per_epoch = sum(batches)
        padded = sum(count * rows * (s + t) for count, (rows, s, t) in zip(batches, self.shapes, strict=True))
        self.padding_waste = 1 - float(lengths.sum()) / padded  # share of padding among all ids

    def __len__(self) -> int:
        return len(self._sources)

    @staticmethod
    def _shape(lengths: np.ndarray, budget: int) -> tuple[int, int, int]:
        """-> (rows, source, target). Rows are spread evenly over the bucket's batches, which reduces padding."""
        source, target = lengths.max(axis=0)
        max_rows = max(1, budget // max(source, target))
        batches = -(-len(lengths) // max_rows)
        return int(-(-len(lengths) // batches)), int(source), int(target)

    @functools.lru_cache(maxsize=2)  # noqa: B019 (an instance lives as long as its training)
    def _plan(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        """-> (bucket, indices of its pairs, -1 for a row of padding) for each step of an epoch."""
        plan = []
        for bucket, (members, (rows, _, _)) in enumerate(zip(self._members, self.shapes, strict=True)):
            order = members[generator(self.seed, epoch, bucket).permutation(len(members))]
            order = np.append(order, np.full(-len(order) % rows, -1))
            plan += [(bucket, indices) for indices in order.reshape(-1, rows)]
        return [plan[i] for i in generator(self.seed, epoch).permutation(len(plan))]

    @varying_shapes
    def batch(self, step: int) -> Batch:
        """-> source int32 [B, S], target int32 [B, T], in one of `shapes`."""
        epoch, index = divmod(step, self.steps_per_epoch)
        bucket, indices = self._plan(epoch)[index]
        _, source, target = self.shapes[bucket]
        return {
            "source": self._pad(self._sources, indices, source),
            "target": self._pad(self._targets, indices, target),
        }

    def _pad(self, lists: TokenLists, indices: np.ndarray, width: int) -> np.ndarray:
        padded = np.full((len(indices), width), self.padding, np.int32)
        rows = np.flatnonzero(indices >= 0)
        for row, ids in zip(rows, lists.read(indices[rows]), strict=True):
            padded[row, : len(ids)] = ids
        return padded


def evaluation_batches(columns: Mapping[str, np.ndarray], batch_size: int) -> tuple[Callable[[int], Batch], int]:
    """For evaluation: every example exactly once and in order -> (batch function, number of steps).

    columns: arrays [N, ...]. Batches also have `weight` float32 [B]: 1, and 0 for padding rows of the last batch.
    """
    count = len(next(iter(columns.values())))

    def batch(step: int) -> Batch:
        indices = np.arange(step * batch_size, (step + 1) * batch_size)
        batch_columns = {name: column[np.minimum(indices, count - 1)] for name, column in columns.items()}
        return batch_columns | {"weight": (indices < count).astype(np.float32)}

    return batch, -(-count // batch_size)


def to_dataset(batch_function: Callable[[int], Batch], start: int, stop: int) -> Any:
    """-> tf.data.Dataset of the batches of steps start..stop-1, with prefetching."""
    import tensorflow as tf

    varying = getattr(batch_function, "varying_shapes", False)
    signature = {
        name: tf.TensorSpec([None] * value.ndim if varying else value.shape, value.dtype, name=name)
        for name, value in batch_function(start).items()
    }

    def generate() -> Iterator[Batch]:
        for step in range(start, stop):
            try:
                batch = batch_function(step)
            except RequestError as error:
                failures.append(error)
                raise
            yield batch

    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    options = tf.data.Options()
    # Workers split each batch, since files cannot be sharded.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # There is nothing to tune; the autotune thread sleeps for up to a minute, and an iterator waits for its end.
    options.autotune.enabled = False
    return dataset.prefetch(4).with_options(options)
